//! The pages that the oracles remember: one entry per block seen, the idle ones compressed.
//!
//! Two generations of plain entries; when the younger is full, the older is compressed and the younger becomes the older.
//! So blocks in use stay plain, and memory is bounded by 2 x `PLAIN_MAX` plain entries plus compressed ones.

use crate::pg::page::PageBytes;
use crate::types::{Key, PAGE_SIZE};
use std::collections::BTreeMap;

/// Plain entries of one generation; an entry is up to 16 KiB.
const PLAIN_MAX: usize = 3000;

/// What is known of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The page as the last record's image showed it, before that record's LSN was set.
    pub image: Option<Box<PageBytes>>,
    /// Our own replay so far.
    pub chain: Option<Box<PageBytes>>,
    /// The LSN that our redo gave the page with its last record, and that record's (rmgr, opcode).
    pub moved: Option<(u64, (u8, u8))>,
}

/// A packed entry: which pages it has, and both compressed as one (they are nearly equal).
struct Packed {
    image: bool,
    chain: bool,
    moved: Option<(u64, (u8, u8))>,
    bytes: Box<[u8]>,
}

impl Packed {
    fn pack(entry: &Entry) -> Packed {
        let mut plain = Vec::with_capacity(2 * PAGE_SIZE);
        for page in [&entry.image, &entry.chain].into_iter().flatten() {
            plain.extend_from_slice(&page[..]);
        }
        let bytes = lz4_flex::block::compress(&plain).into_boxed_slice();
        Packed { image: entry.image.is_some(), chain: entry.chain.is_some(), moved: entry.moved, bytes }
    }

    fn unpack(&self) -> Entry {
        let mut plain = [0; 2 * PAGE_SIZE];
        let len = lz4_flex::block::decompress_into(&self.bytes, &mut plain).expect("our own packing");
        let mut pages = plain[..len].chunks_exact(PAGE_SIZE);
        let mut page = |present: bool| {
            present.then(|| {
                let mut page = Box::new([0; PAGE_SIZE]);
                page.copy_from_slice(pages.next().expect("our own packing"));
                page
            })
        };
        Entry { image: page(self.image), chain: page(self.chain), moved: self.moved }
    }
}

#[derive(Default)]
pub(super) struct Cache {
    young: BTreeMap<Key, Entry>,
    old: BTreeMap<Key, Entry>,
    packed: BTreeMap<Key, Packed>,
}

impl Cache {
    /// Takes an entry out, empty if there is none; [`Cache::put`] brings it back.
    pub fn take(&mut self, key: Key) -> Entry {
        let plain = self.young.remove(&key).or_else(|| self.old.remove(&key));
        plain.or_else(|| self.packed.remove(&key).map(|packed| packed.unpack())).unwrap_or_default()
    }

    pub fn put(&mut self, key: Key, entry: Entry) {
        if self.young.len() >= PLAIN_MAX {
            let idle = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.packed.extend(idle.iter().map(|(key, entry)| (*key, Packed::pack(entry))));
        }
        self.young.insert(key, entry);
    }

    /// Forgets the keys from `first` to `last`, both included.
    pub fn forget(&mut self, first: Key, last: Key) {
        if first > last {
            return;
        }
        remove_range(&mut self.young, first, last);
        remove_range(&mut self.old, first, last);
        remove_range(&mut self.packed, first, last);
    }
}

fn remove_range<T>(map: &mut BTreeMap<Key, T>, first: Key, last: Key) {
    let keys: Vec<Key> = map.range(first..=last).map(|(key, _)| *key).collect();
    for key in keys {
        map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_packing() {
        let mut cache = Cache::default();
        let key = |i: u32| Key { field6: i, ..Key::MIN };
        let entry = |i: u32| Entry {
            image: (!i.is_multiple_of(3)).then(|| Box::new([i as u8; PAGE_SIZE])),
            chain: i.is_multiple_of(2).then(|| Box::new([i as u8 ^ 1; PAGE_SIZE])),
            moved: Some((u64::from(i), (1, 2))),
        };
        let count = 3 * PLAIN_MAX as u32;
        (0..count).for_each(|i| cache.put(key(i), entry(i)));
        assert!(!cache.packed.is_empty());
        cache.forget(key(10), key(19));
        for i in 0..count {
            let want = if (10..20).contains(&i) { Entry::default() } else { entry(i) };
            assert!(cache.take(key(i)) == want, "{i}");
        }
    }
}
