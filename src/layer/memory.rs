//! The in-memory layer: values arrive in LSN order, each batch one chunk of bytes; per key a chain from new to old.
//!
//! Cost per value is one index entry and one hash lookup; the bytes of a record that touches several keys are kept once.
//! A chain carries its images apart, so that an old version of a hot page is found without walking all newer records.

use super::{Reconstruct, ValueKind};
use crate::pg::xlog::record::strip_record;
use crate::types::{HashMap, Key, Lsn};
use parking_lot::RwLock;
use std::collections::hash_map::Entry as MapEntry;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const NONE: u32 = u32::MAX;
/// What the index costs per value and per key, an estimate in bytes.
const ENTRY_BYTES: usize = size_of::<Entry>();
const CHAIN_BYTES: usize = 2 * (size_of::<Chain>() + size_of::<Key>());

/// One version of one key.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lsn: Lsn,
    chunk: u32,
    offset: u32,
    /// Length, and the kind in the top two bits.
    len_kind: u32,
    /// The next older entry of the key.
    older: u32,
}

/// The newest base of a chain (image or record that needs none), and the one before it.
#[derive(Debug, Clone, Copy)]
struct Base {
    entry: u32,
    older: u32,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    /// Chains are numbered in the order in which their first entries came.
    number: u32,
    newest: u32,
    newest_lsn: Lsn,
    newest_base: u32,
    /// Records above the newest base, or in the whole chain if there is none.
    records: u32,
}

/// Set in the count of records of a chain that cannot be applied.
const HOPELESS: u32 = 1 << 31;
/// Values added under one lock.
const VALUES_PER_LOCK: usize = 1024;

/// Size of a chunk that several small batches share.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
struct Inner {
    chunks: Vec<Vec<u8>>,
    chunk_bytes: usize,
    entries: Vec<Entry>,
    bases: Vec<Base>,
    chains: HashMap<Key, Chain>,
    chain_count: u32,
}

/// Values to be added together, in LSN order; `bytes` becomes a chunk as it is.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    values: Vec<BatchValue>,
}

#[derive(Debug, Clone, Copy)]
struct BatchValue {
    key: Key,
    lsn: Lsn,
    offset: u32,
    len_kind: u32,
}

/// Where a value's bytes lie in its batch: lets one record serve several keys.
#[derive(Debug, Clone, Copy)]
pub struct BatchBytes {
    offset: u32,
    len: u32,
}

const LEN_MASK: u32 = (1 << 30) - 1;

impl Batch {
    pub fn with_capacity(bytes: usize) -> Batch {
        Batch { bytes: Vec::with_capacity(bytes), values: Vec::with_capacity(bytes / 64) }
    }

    pub fn store(&mut self, bytes: &[u8]) -> BatchBytes {
        let offset = u32::try_from(self.bytes.len()).expect("batches stay far below 4 GiB");
        let len = bytes.len() as u32;
        assert!(len <= LEN_MASK, "a value of {len} bytes");
        self.bytes.extend_from_slice(bytes);
        BatchBytes { offset, len }
    }

    /// Stores a WAL record, stripped: its CRC was checked, and layers have checksums of their own.
    pub fn store_record(&mut self, record: &[u8]) -> BatchBytes {
        let stored = self.store(record);
        strip_record(&mut self.bytes[stored.offset as usize..]);
        stored
    }

    pub fn push(&mut self, key: Key, lsn: Lsn, kind: ValueKind, bytes: BatchBytes) {
        self.values.push(BatchValue { key, lsn, offset: bytes.offset, len_kind: bytes.len | (kind as u32) << 30 });
    }

    pub fn push_image(&mut self, key: Key, lsn: Lsn, image: &[u8]) {
        let bytes = self.store(image);
        self.push(key, lsn, ValueKind::Image, bytes);
    }

    /// As [`Batch::push_image`], but takes the place of an image of the same version.
    pub fn replace_or_push_image(&mut self, key: Key, lsn: Lsn, image: &[u8]) {
        let same = |v: &BatchValue| v.key == key && v.lsn == lsn;
        // Versions of one record are at the end.
        let from = self.values.iter().rposition(|v| v.lsn != lsn).map_or(0, |p| p + 1);
        if let Some(at) = self.values[from..].iter().position(same) {
            self.values.remove(from + at);
        }
        self.push_image(key, lsn, image);
    }

    /// How far the batch is filled, for [`Batch::truncate`].
    pub fn mark(&self) -> (usize, usize) {
        (self.bytes.len(), self.values.len())
    }

    /// Takes back what was added after `mark`, if it is still here.
    pub fn truncate(&mut self, mark: (usize, usize)) {
        self.bytes.truncate(mark.0);
        self.values.truncate(mark.1);
    }

    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The newest image of `key` in this batch, if its newest value is one.
    pub fn newest_image(&self, key: Key) -> Option<&[u8]> {
        let value = self.values.iter().rev().find(|v| v.key == key)?;
        let range = value.offset as usize..(value.offset + (value.len_kind & LEN_MASK)) as usize;
        (value.len_kind >> 30 == ValueKind::Image as u32).then(|| &self.bytes[range])
    }
}

/// An open or frozen in-memory layer.
#[derive(Debug)]
pub struct MemoryLayer {
    /// Versions are at or above this.
    start: Lsn,
    /// Exclusive end, set when the layer is frozen.
    end: AtomicU64,
    inner: RwLock<Inner>,
    memory: AtomicUsize,
}

impl MemoryLayer {
    pub fn new(start: Lsn) -> MemoryLayer {
        MemoryLayer { start, end: AtomicU64::new(u64::MAX), inner: RwLock::default(), memory: AtomicUsize::new(0) }
    }

    /// The LSNs of the versions that may be in it.
    pub fn lsns(&self) -> Range<Lsn> {
        self.start..Lsn(self.end.load(Ordering::Acquire))
    }

    /// Closes the layer: no version at or above `end` was or will be put.
    pub fn freeze(&self, end: Lsn) {
        assert!(end > self.start, "a layer from {} cannot end at {end}", self.start);
        self.end.store(end.0, Ordering::Release);
    }

    /// Memory in bytes, index included (an estimate).
    pub fn memory_bytes(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.inner.read().entries.is_empty()
    }

    /// Adds a whole batch, in order. Gives the versions with which a chain grew by another `hot` records without a base: the
    /// caller may put images in their place.
    ///
    /// Panics: a version at or below the key's newest one that is not an image of that very version.
    pub fn put(&self, mut batch: Batch, hot: u32) -> Vec<(Key, Lsn)> {
        let place = {
            let mut inner = self.inner.write();
            let before = inner.chunk_bytes;
            let place = inner.take_bytes(std::mem::take(&mut batch.bytes));
            inner.entries.reserve(batch.values.len());
            self.memory.fetch_add(inner.chunk_bytes - before, Ordering::Relaxed);
            place
        };
        let mut grown = Vec::new();
        // Readers come in between.
        for values in batch.values.chunks(VALUES_PER_LOCK) {
            let mut guard = self.inner.write();
            let inner = &mut *guard;
            let (chains_before, entries_before) = (inner.chains.len(), inner.entries.len());
            for value in values {
                let records = inner.put_value(value, place);
                if records > 0 && records < HOPELESS && records.is_multiple_of(hot) {
                    grown.push((value.key, value.lsn));
                }
            }
            let added = (inner.entries.len() - entries_before) * ENTRY_BYTES + (inner.chains.len() - chains_before) * CHAIN_BYTES;
            self.memory.fetch_add(added, Ordering::Relaxed);
        }
        grown
    }

    /// Puts an image in the place of the record of that very version. Nothing happens if there is none.
    pub fn replace_by_image(&self, key: Key, lsn: Lsn, image: &[u8]) {
        let mut inner = self.inner.write();
        let before = inner.chunk_bytes;
        inner.replace_by_image(key, lsn, image);
        self.memory.fetch_add(inner.chunk_bytes - before, Ordering::Relaxed);
    }

    /// The key's records cannot be applied: [`MemoryLayer::put`] does not name it again before it has a new base.
    pub fn give_up(&self, key: Key) {
        if let Some(chain) = self.inner.write().chains.get_mut(&key) {
            chain.records |= HOPELESS;
        }
    }

    /// Collects the versions of `key` within `lsns`, newest first, until a base.
    pub fn collect(&self, key: Key, lsns: &Range<Lsn>, into: &mut Reconstruct) {
        let inner = self.inner.read();
        let Some(chain) = inner.chains.get(&key).copied() else { return };
        let mut at = inner.first_below(chain, lsns.end);
        while let Some(entry) = inner.entries.get(at as usize) {
            if entry.lsn < lsns.start {
                return;
            }
            let (kind, bytes) = inner.value(entry);
            if entry.lsn < lsns.end && into.push(entry.lsn, kind, bytes) {
                return;
            }
            at = entry.older;
        }
    }

    /// The order in which a flush writes the versions: two passes over the entries and a sort of the keys.
    pub fn sorted(&self) -> SortedVersions {
        let inner = self.inner.read();
        let mut keys: Vec<(Key, u32)> = inner.chains.iter().map(|(key, chain)| (*key, chain.number)).collect();
        keys.sort_unstable();
        let mut chain_of: Vec<u32> = Vec::with_capacity(inner.entries.len());
        let mut lengths: Vec<u32> = Vec::with_capacity(keys.len());
        for entry in &inner.entries {
            let chain = chain_of.get(entry.older as usize).copied().unwrap_or(lengths.len() as u32);
            match lengths.get_mut(chain as usize) {
                Some(length) => *length += 1,
                None => lengths.push(1),
            }
            chain_of.push(chain);
        }
        assert_eq!(lengths.len(), keys.len(), "every chain begins with an entry that has no older one");
        let (mut starts, mut start) = (vec![0; keys.len()], 0);
        let keys = keys.into_iter().map(|(key, number)| {
            starts[number as usize] = start;
            let positions = start..start + lengths[number as usize];
            start = positions.end;
            (key, positions)
        });
        let keys = keys.collect();
        let mut positions = vec![0; inner.entries.len()];
        for (position, chain) in chain_of.into_iter().enumerate() {
            let slot = &mut starts[chain as usize];
            positions[*slot as usize] = position as u32;
            *slot += 1;
        }
        SortedVersions { keys, positions }
    }

    /// Whether the oldest version of the key at `place` needs no value below it.
    pub fn begins_with_base(&self, sorted: &SortedVersions, place: usize) -> bool {
        let inner = self.inner.read();
        let mut entries = sorted.positions_of(place).iter().map(|at| &inner.entries[*at as usize]);
        let oldest = entries.next();
        // An image of the same LSN takes its place.
        let oldest = entries.next().filter(|second| oldest.is_some_and(|first| first.lsn == second.lsn)).or(oldest);
        oldest.is_some_and(|entry| inner.value(entry).0.is_base())
    }

    /// Versions of the key at `place`, oldest first. Of a record and an image of the same LSN only the image is given.
    pub fn versions(&self, sorted: &SortedVersions, place: usize, mut visit: impl FnMut(Lsn, ValueKind, &[u8])) {
        let inner = self.inner.read();
        let mut entries = sorted.positions_of(place).iter().map(|at| &inner.entries[*at as usize]).peekable();
        while let Some(entry) = entries.next() {
            if entries.peek().is_none_or(|newer| newer.lsn != entry.lsn) {
                let (kind, bytes) = inner.value(entry);
                visit(entry.lsn, kind, bytes);
            }
        }
    }
}

/// All versions of a layer that takes no more, by key and age.
#[derive(Debug)]
pub struct SortedVersions {
    /// Each key with the range of its entries in `positions`.
    keys: Vec<(Key, Range<u32>)>,
    positions: Vec<u32>,
}

impl SortedVersions {
    /// Keys in order; a key's place is its index.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = Key> {
        self.keys.iter().map(|(key, _)| *key)
    }

    /// At most how many versions the key at `place` has.
    pub fn count(&self, place: usize) -> u32 {
        self.positions_of(place).len() as u32
    }

    fn positions_of(&self, place: usize) -> &[u32] {
        let range = &self.keys[place].1;
        &self.positions[range.start as usize..range.end as usize]
    }
}

impl Inner {
    /// Adds one version; gives the number of records above the newest base of its chain.
    fn put_value(&mut self, value: &BatchValue, (chunk, shift): (u32, u32)) -> u32 {
        let index = self.entries.len() as u32;
        let kind = value.len_kind >> 30;
        let chain = match self.chains.entry(value.key) {
            MapEntry::Occupied(slot) => slot.into_mut(),
            MapEntry::Vacant(slot) => {
                let number = self.chain_count;
                self.chain_count += 1;
                slot.insert(Chain { number, newest: NONE, newest_lsn: Lsn::INVALID, newest_base: NONE, records: 0 })
            }
        };
        let in_order = chain.newest_lsn < value.lsn || (chain.newest_lsn == value.lsn && kind == ValueKind::Image as u32);
        assert!(in_order, "{:?}: version {} after {}", value.key, value.lsn, chain.newest_lsn);
        let offset = value.offset + shift;
        self.entries.push(Entry { lsn: value.lsn, chunk, offset, len_kind: value.len_kind, older: chain.newest });
        chain.newest_lsn = value.lsn;
        chain.newest = index;
        if kind == ValueKind::Record as u32 {
            chain.records += 1;
            return chain.records;
        }
        self.bases.push(Base { entry: index, older: chain.newest_base });
        chain.newest_base = self.bases.len() as u32 - 1;
        chain.records = u32::from(kind == ValueKind::InitRecord as u32);
        0
    }

    fn replace_by_image(&mut self, key: Key, lsn: Lsn, image: &[u8]) {
        let Some(mut chain) = self.chains.get(&key).copied() else { return };
        let (mut at, mut records_above) = (chain.newest, 0);
        while let Some(entry) = self.entries.get(at as usize).filter(|entry| entry.lsn > lsn) {
            records_above += 1;
            at = entry.older;
        }
        if self.entries.get(at as usize).is_none_or(|entry| entry.lsn != lsn || entry.len_kind >> 30 != ValueKind::Record as u32) {
            return;
        }
        let (chunk, offset) = self.take_bytes(image.to_vec());
        let entry = &mut self.entries[at as usize];
        (entry.chunk, entry.offset, entry.len_kind) = (chunk, offset, image.len() as u32 | (ValueKind::Image as u32) << 30);
        // Bases of the same batch may be newer.
        let (mut newer, mut older) = (NONE, chain.newest_base);
        while let Some(base) = self.bases.get(older as usize).filter(|base| base.entry > at) {
            (newer, older) = (older, base.older);
        }
        self.bases.push(Base { entry: at, older });
        let base = self.bases.len() as u32 - 1;
        match self.bases.get_mut(newer as usize) {
            Some(newer) => newer.older = base,
            None => {
                chain.newest_base = base;
                chain.records = records_above;
                self.chains.insert(key, chain);
            }
        }
    }

    /// Keeps the bytes of a batch: small ones behind the last chunk's, large ones as they are. Gives chunk and offset.
    fn take_bytes(&mut self, mut bytes: Vec<u8>) -> (u32, u32) {
        if bytes.len() < CHUNK_BYTES / 4 {
            let fits = self.chunks.last().is_some_and(|last| last.capacity() - last.len() >= bytes.len());
            if !fits {
                self.chunks.push(Vec::with_capacity(CHUNK_BYTES));
                self.chunk_bytes += CHUNK_BYTES;
            }
            let last = self.chunks.len() - 1;
            let shift = self.chunks[last].len() as u32;
            self.chunks[last].append(&mut bytes);
            return (last as u32, shift);
        }
        bytes.shrink_to_fit();
        self.chunk_bytes += bytes.len();
        self.chunks.push(bytes);
        (self.chunks.len() as u32 - 1, 0)
    }

    fn value(&self, entry: &Entry) -> (ValueKind, &[u8]) {
        let kind = ValueKind::from_number((entry.len_kind >> 30) as u8).expect("only known kinds are put");
        let start = entry.offset as usize;
        (kind, &self.chunks[entry.chunk as usize][start..start + (entry.len_kind & LEN_MASK) as usize])
    }

    /// The entry to start from when looking below `lsn_end`: skips newer records base by base.
    fn first_below(&self, chain: Chain, lsn_end: Lsn) -> u32 {
        let mut start = chain.newest;
        let mut base = chain.newest_base;
        while let Some(candidate) = self.bases.get(base as usize) {
            if self.entries[candidate.entry as usize].lsn < lsn_end {
                break;
            }
            start = self.entries[candidate.entry as usize].older;
            base = candidate.older;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn key(n: u32) -> Key {
        Key { field6: n, ..Key::MIN }
    }

    /// Puts `r10 i20 R30` style versions (record, image, init record) of one key.
    fn layer(versions: &str) -> MemoryLayer {
        let layer = MemoryLayer::new(Lsn(1));
        for (n, text) in versions.split_whitespace().enumerate() {
            let mut batch = Batch::default();
            let bytes = batch.store(text.as_bytes());
            let kind = match &text[..1] {
                "i" => ValueKind::Image,
                "R" => ValueKind::InitRecord,
                _ => ValueKind::Record,
            };
            batch.push(key(1), Lsn(text[1..].parse().unwrap()), kind, bytes);
            batch.push(key(100 + n as u32), Lsn(1), ValueKind::Record, bytes);
            layer.put(batch, u32::MAX);
        }
        layer
    }

    fn collect(layer: &MemoryLayer, range: Range<u64>) -> String {
        let mut found = Reconstruct::default();
        layer.collect(key(1), &(Lsn(range.start)..Lsn(range.end)), &mut found);
        let base = found.base().map(|b| String::from_utf8_lossy(b).into_owned());
        let texts = base.into_iter().chain(found.records().map(|(_, r)| String::from_utf8_lossy(r).into_owned()));
        format!("{}{}", texts.collect::<Vec<_>>().join(" "), if found.is_complete() { "" } else { " ..." })
    }

    #[test]
    fn versions_at_an_lsn() {
        for (versions, range, want) in [
            ("r10 r20 r30", 0..31, "r10 r20 r30 ..."),
            ("r10 r20 r30", 0..30, "r10 r20 ..."),
            ("r10 r20 r30", 15..31, "r20 r30 ..."),
            ("r10 r20 r30", 0..10, " ..."),
            ("r10 i20 r30 i40 r50", 0..99, "i40 r50"),
            ("r10 i20 r30 i40 r50", 0..40, "i20 r30"),
            ("r10 i20 r30 i40 r50", 0..20, "r10 ..."),
            ("r10 R20 r30", 0..99, "R20 r30"),
            ("r10 r20 i20 r30", 0..99, "i20 r30"),
            ("r10 r20 i20 r30", 0..20, "r10 ..."),
        ] {
            assert_eq!(collect(&layer(versions), range.clone()), want, "{versions} in {range:?}");
        }
    }

    #[test]
    fn images_take_the_place_of_the_versions_with_which_a_chain_got_hot() {
        let layer = MemoryLayer::new(Lsn(1));
        let mut batch = Batch::default();
        let bytes = batch.store(b"x");
        (1..=5).for_each(|lsn| batch.push(key(1), Lsn(lsn), ValueKind::Record, bytes));
        batch.push(key(2), Lsn(1), ValueKind::Record, bytes);
        batch.push(key(2), Lsn(2), ValueKind::Record, bytes);
        batch.push(key(2), Lsn(3), ValueKind::InitRecord, bytes);
        batch.push(key(2), Lsn(4), ValueKind::Record, bytes);
        let grown = layer.put(batch, 2);
        assert_eq!(grown, [(key(1), Lsn(2)), (key(1), Lsn(4)), (key(2), Lsn(2)), (key(2), Lsn(4))]);
        grown.iter().take(3).for_each(|(key, lsn)| layer.replace_by_image(*key, *lsn, b"image"));
        layer.replace_by_image(key(1), Lsn(9), b"of no version");
        let mut seen = Vec::new();
        let sorted = layer.sorted();
        layer.versions(&sorted, 0, |lsn, kind, _| seen.push((lsn.0, kind as u8)));
        assert_eq!(seen, [(1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]);
        assert_eq!((collect(&layer, 0..4), collect(&layer, 0..2)), ("image x".to_string(), "x ...".to_string()));
        assert_eq!(collect(&layer, 0..99), "image x");
        let of_second = |end| {
            let mut found = Reconstruct::default();
            layer.collect(key(2), &(Lsn(0)..Lsn(end)), &mut found);
            (found.base().is_some(), found.record_count())
        };
        assert_eq!([of_second(9), of_second(4), of_second(3), of_second(2)], [(false, 2), (false, 1), (true, 0), (false, 1)]);
        let mut next = Batch::default();
        let bytes = next.store(b"y");
        next.push(key(1), Lsn(6), ValueKind::Record, bytes);
        next.push(key(2), Lsn(6), ValueKind::Record, bytes);
        assert_eq!(layer.put(next, 2), [(key(1), Lsn(6))], "counted from the newest base");
        layer.give_up(key(1));
        let mut more = Batch::default();
        let bytes = more.store(b"z");
        (7..20).for_each(|lsn| more.push(key(1), Lsn(lsn), ValueKind::Record, bytes));
        assert!(layer.put(more, 2).is_empty());
    }

    #[test]
    fn sorted_versions_are_those_of_each_key_oldest_first() {
        let layer = MemoryLayer::new(Lsn(1));
        let mut want: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
        for lsn in 1..200 {
            let mut batch = Batch::default();
            let bytes = batch.store(b"x");
            let key = key((lsn * 7919 % 31) as u32);
            batch.push(key, Lsn(lsn), ValueKind::Record, bytes);
            layer.put(batch, u32::MAX);
            want.entry(key).or_default().push(lsn);
        }
        let sorted = layer.sorted();
        assert!(sorted.keys().eq(want.keys().copied()));
        for (place, lsns) in want.values().enumerate() {
            let mut seen = Vec::new();
            layer.versions(&sorted, place, |lsn, _, _| seen.push(lsn.0));
            assert_eq!(seen, *lsns);
        }
    }

    #[test]
    #[should_panic(expected = "version 0/5 after 0/9")]
    fn versions_out_of_order_are_refused() {
        layer("r9 r5");
    }
}
