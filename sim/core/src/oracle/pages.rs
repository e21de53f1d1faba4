//! The reference for reads: every version of every page, relation size and commit status, by LSN.
//!
//! A page version is kept as a digest of its 8192 bytes; the newest one also as bytes, because the generator builds the
//! next record from it. The expected page is made by applying records one after the other with the product's pure redo
//! functions: this oracle judges storage, `pal wal verify` judges redo.

use palimpsest::redo::{ApplyContext, PageBuf, apply_record};
use palimpsest::types::{Key, Lsn, PAGE_SIZE, RelTag};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Digest of a page.
pub type Digest = u64;

pub fn digest(page: &[u8]) -> Digest {
    xxh3_64(page)
}

/// Digest of the page that was never written, or lies behind the end of its relation.
pub fn zero_digest() -> Digest {
    digest(&[0; PAGE_SIZE])
}

/// Commit status of a transaction as pg_xact holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XactStatus {
    Committed = 1,
    Aborted = 2,
}

/// All values something had, oldest first, each with the LSN from which on it had it.
#[derive(Debug, Clone)]
struct History<T>(Vec<(Lsn, T)>);

impl<T: Copy + PartialEq> History<T> {
    fn at(&self, lsn: Lsn) -> Option<T> {
        let index = self.0.partition_point(|(from, _)| *from <= lsn);
        index.checked_sub(1).map(|i| self.0[i].1)
    }

    fn put(&mut self, lsn: Lsn, value: T) {
        match self.0.last_mut() {
            Some((last, old)) if *last == lsn => *old = value,
            Some((last, _)) => {
                assert!(*last < lsn, "history goes back from {last} to {lsn}");
                self.0.push((lsn, value));
            }
            None => self.0.push((lsn, value)),
        }
    }
}

struct Page {
    history: History<Digest>,
    current: PageBuf,
}

/// The model.
pub struct PageModel {
    ctx: ApplyContext,
    /// First LSN that can be read.
    base: Lsn,
    pages: BTreeMap<(RelTag, u32), Page>,
    /// `None` is a relation that does not exist.
    sizes: BTreeMap<RelTag, History<Option<u32>>>,
    xacts: Vec<(Lsn, u32, XactStatus)>,
    /// Every change of a page in the order of the WAL: for choosing what to read.
    log: Vec<VersionAt>,
    /// First page of pg_xact in the imported cluster.
    clog_base: Box<[u8; PAGE_SIZE]>,
}

/// A version of a page that the model knows: for choosing what to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionAt {
    pub rel: RelTag,
    pub block: u32,
    pub lsn: Lsn,
}

impl PageModel {
    pub fn new(ctx: ApplyContext, base: Lsn) -> PageModel {
        PageModel {
            ctx,
            base,
            pages: BTreeMap::new(),
            sizes: BTreeMap::new(),
            xacts: Vec::new(),
            log: Vec::new(),
            clog_base: Box::new([0; PAGE_SIZE]),
        }
    }

    pub fn base(&self) -> Lsn {
        self.base
    }

    /// A page of the imported cluster.
    pub fn load(&mut self, rel: RelTag, block: u32, bytes: &[u8; PAGE_SIZE]) {
        let mut current = PageBuf::new();
        current.load(Key::rel_block(rel, block), Some(bytes)).expect("a page has the length of a page");
        let history = History(vec![(self.base, digest(bytes))]);
        self.pages.insert((rel, block), Page { history, current });
        self.log.push(VersionAt { rel, block, lsn: self.base });
        let size = self.size_now(rel).unwrap_or(0).max(block + 1);
        self.set_size(rel, self.base, Some(size));
    }

    /// A record changed a page.
    ///
    /// Panics: the record cannot be applied, so the generator is wrong.
    pub fn apply(&mut self, rel: RelTag, block: u32, lsn: Lsn, record: &[u8]) {
        let key = Key::rel_block(rel, block);
        let page = self.pages.entry((rel, block)).or_insert_with(|| Page { history: History(Vec::new()), current: PageBuf::new() });
        if let Err(error) = apply_record(&self.ctx, key, &mut page.current, lsn, record) {
            panic!("the generator made a record that redo refuses: {error}");
        }
        page.history.put(lsn, digest(&page.current.page()[..]));
        self.log.push(VersionAt { rel, block, lsn });
        if self.size_now(rel).unwrap_or(0) <= block {
            self.set_size(rel, lsn, Some(block + 1));
        }
    }

    /// The relation is created (empty), truncated, or with `None` dropped.
    pub fn set_size(&mut self, rel: RelTag, lsn: Lsn, size: Option<u32>) {
        self.sizes.entry(rel).or_insert_with(|| History(Vec::new())).put(lsn, size);
        // What was cut off is gone: if the relation grows again, such a page starts from nothing.
        let kept = size.unwrap_or(0);
        for (_, page) in self.pages.range_mut((rel, kept)..=(rel, u32::MAX)) {
            page.current = PageBuf::new();
            page.history.put(lsn, zero_digest());
        }
    }

    pub fn set_xact(&mut self, lsn: Lsn, xid: u32, status: XactStatus) {
        self.xacts.push((lsn, xid, status));
    }

    pub fn size_now(&self, rel: RelTag) -> Option<u32> {
        self.size(rel, Lsn::MAX)
    }

    /// Blocks of a relation at an LSN; `None` if it does not exist then.
    pub fn size(&self, rel: RelTag, lsn: Lsn) -> Option<u32> {
        self.sizes.get(&rel).and_then(|h| h.at(lsn)).flatten()
    }

    /// Bytes of the newest version of a page that exists.
    pub fn current(&self, rel: RelTag, block: u32) -> Option<&[u8; PAGE_SIZE]> {
        self.pages.get(&(rel, block)).filter(|p| p.current.is_present()).map(|p| p.current.page())
    }

    /// The page as of an LSN.
    pub fn page(&self, rel: RelTag, block: u32, lsn: Lsn) -> Digest {
        self.pages.get(&(rel, block)).and_then(|p| p.history.at(lsn)).unwrap_or_else(zero_digest)
    }

    /// Whether the page had this content at some LSN of the range.
    pub fn page_between(&self, rel: RelTag, block: u32, from: Lsn, to: Lsn, found: Digest) -> bool {
        let Some(page) = self.pages.get(&(rel, block)) else { return found == zero_digest() };
        let later = page.history.0.iter().filter(|(lsn, _)| *lsn > from && *lsn <= to).any(|(_, d)| *d == found);
        later || self.page(rel, block, from) == found
    }

    /// LSN of the newest change of a page at or before `lsn`.
    pub fn last_change(&self, rel: RelTag, block: u32, lsn: Lsn) -> Option<Lsn> {
        let history = &self.pages.get(&(rel, block))?.history.0;
        history.partition_point(|(from, _)| *from <= lsn).checked_sub(1).map(|i| history[i].0)
    }

    /// LSNs at which a page changed, for a report.
    pub fn versions(&self, rel: RelTag, block: u32) -> Vec<(Lsn, Digest)> {
        self.pages.get(&(rel, block)).map_or_else(Vec::new, |p| p.history.0.clone())
    }

    /// One of all versions; any number chooses one.
    pub fn version_number(&self, pick: u64) -> Option<VersionAt> {
        let index = pick.checked_rem(self.log.len() as u64)?;
        self.log.get(index as usize).copied()
    }

    /// The last change at or before `lsn`.
    pub fn newest_version(&self, lsn: Lsn) -> Option<VersionAt> {
        let index = self.log.partition_point(|v| v.lsn <= lsn).checked_sub(1)?;
        self.log.get(index).copied()
    }

    /// How many versions there are.
    pub fn versions_len(&self) -> usize {
        self.log.len()
    }

    pub fn relations(&self) -> impl Iterator<Item = RelTag> {
        self.sizes.keys().copied()
    }

    /// The imported first page of pg_xact.
    pub fn load_clog(&mut self, bytes: &[u8; PAGE_SIZE]) {
        self.clog_base.copy_from_slice(bytes);
    }

    /// The first page of pg_xact as of an LSN. Source: PostgreSQL 15 `clog.c`: 2 bits per transaction.
    pub fn clog_page(&self, lsn: Lsn) -> Box<[u8; PAGE_SIZE]> {
        let mut bytes = self.clog_base.clone();
        for (_, xid, status) in self.xacts.iter().take_while(|(at, ..)| *at <= lsn) {
            let byte = bytes.get_mut(*xid as usize / 4).expect("a run has fewer transactions than a page of pg_xact holds");
            *byte |= (*status as u8) << (xid % 4 * 2);
        }
        bytes
    }
}
