//! Makes valid WAL of a small cluster, and the model of every page beside it.
//!
//! One call of [`Generator::step`] writes one record or a short run of records that belong together. Everything is drawn
//! from one stream, so the same seed gives the same WAL whatever the rest of the run does.

use super::heap;
use crate::oracle::pages::{PageModel, XactStatus};
use crate::oracle::times::CommitTimes;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, RngSource};
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::stream::RecordSpan;
use palimpsest::pg::xlog::synthesize::{BlockSpec, ImageSpec, RecordBuilder, WalIdentity, WalWriter};
use palimpsest::redo::{ApplyContext, PageBuf, apply_record, rmid};
use palimpsest::types::rel::{DEFAULT_TABLESPACE, Fork};
use palimpsest::types::timestamp::{POSTGRES_EPOCH_UNIX_SECONDS, PgTimestamp};
use palimpsest::types::{Key, Lsn, PAGE_SIZE, RelTag};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Database of all generated relations (`postgres` in a cluster of 15).
pub const DATABASE: u32 = 5;
pub const VERSION: PgVersion = PgVersion::V15;
/// First transaction after the import.
pub const FIRST_XID: u32 = 740;
/// First OID that users get.
pub const FIRST_OID: u32 = 16384;
const STANDBY: u8 = 8;
const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
/// Seconds since 1970 when the cluster was shut down for the import.
pub const START_SECONDS: i64 = 1_767_225_600;
const XACT_HAS_INFO: u8 = 0x80;
const XINFO_HAS_RELATIONS: u32 = 4;

/// What the WAL is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadKnobs {
    /// Relations live at the same time.
    pub relations_max: u32,
    /// Longest tuple in bytes.
    pub tuple_bytes_max: u32,
    /// Records of one transaction.
    pub transaction_records_max: u32,
    /// Steps between two checkpoints.
    pub checkpoint_steps: u32,
    pub full_page_writes: bool,
    /// Weights of the kinds of steps.
    pub weights: Weights,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    pub insert: u32,
    pub update: u32,
    pub delete: u32,
    pub lock: u32,
    pub page_image: u32,
    pub hint_image: u32,
    pub create: u32,
    pub drop: u32,
    pub truncate: u32,
    pub next_oid: u32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { insert: 40, update: 30, delete: 6, lock: 4, page_image: 4, hint_image: 4, create: 2, drop: 1, truncate: 1, next_oid: 1 }
    }
}

impl Weights {
    fn kinds(&self) -> [(Kind, u32); 10] {
        [
            (Kind::Insert, self.insert),
            (Kind::Update, self.update),
            (Kind::Delete, self.delete),
            (Kind::Lock, self.lock),
            (Kind::PageImage, self.page_image),
            (Kind::HintImage, self.hint_image),
            (Kind::Create, self.create),
            (Kind::Drop, self.drop),
            (Kind::Truncate, self.truncate),
            (Kind::NextOid, self.next_oid),
        ]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
    Lock,
    PageImage,
    HintImage,
    Create,
    Drop,
    Truncate,
    NextOid,
}

/// The running primary's storage side.
pub struct Generator {
    pub writer: WalWriter,
    pub model: PageModel,
    pub commits: CommitTimes,
    knobs: WorkloadKnobs,
    rng: DetRng,
    /// Tables; the relation behind each in number holds opaque pages, like an index.
    tables: Vec<RelTag>,
    next_oid: u32,
    xid: u32,
    /// Records left in the present transaction, and relations that it drops.
    left: u32,
    /// Pages changed since the last checkpoint.
    imaged: BTreeSet<(RelTag, u32)>,
    steps: u32,
    /// End of every record.
    record_ends: Vec<Lsn>,
    /// Redo position of the last checkpoint.
    pub redo: Lsn,
    /// The shutdown checkpoint of the imported cluster.
    pub checkpoint: RecordSpan,
    /// Seconds since 1970, for stamps inside records.
    now_seconds: i64,
}

pub fn table(number: u32) -> RelTag {
    RelTag { spc: DEFAULT_TABLESPACE, db: DATABASE, rel: number, fork: Fork::Main }
}

/// The opaque relation that goes with a table.
fn index_of(table: RelTag) -> RelTag {
    RelTag { rel: table.rel + 1, ..table }
}

impl Generator {
    /// A cluster whose WAL begins at `start` with the shutdown checkpoint that the imported data directory ends in.
    pub fn new(identity: WalIdentity, start: Lsn, knobs: WorkloadKnobs, source: &RngSource) -> Generator {
        let mut writer = WalWriter::new(identity, start, Lsn::INVALID);
        let redo = writer.end().record_start(identity.segment_size);
        let body = checkpoint_body(redo, FIRST_XID, FIRST_OID, START_SECONDS, 0);
        let checkpoint = writer.append(&RecordBuilder::new(rmid::XLOG, CHECKPOINT_SHUTDOWN).main(body));
        Generator {
            writer,
            model: PageModel::new(ApplyContext::new(VERSION), checkpoint.end),
            commits: CommitTimes::default(),
            checkpoint,
            knobs,
            rng: source.stream("wal"),
            tables: Vec::new(),
            next_oid: FIRST_OID,
            xid: FIRST_XID,
            left: 0,
            imaged: BTreeSet::new(),
            steps: 0,
            record_ends: vec![checkpoint.end],
            redo,
            now_seconds: START_SECONDS,
        }
    }

    /// A table of the imported cluster, with its pages.
    pub fn import_table(&mut self, pages: &[Box<[u8; PAGE_SIZE]>]) -> RelTag {
        let rel = self.take_number();
        self.model.set_size(rel, self.model.base(), Some(0));
        for (block, page) in pages.iter().enumerate() {
            self.model.load(rel, block as u32, page);
        }
        self.tables.push(rel);
        rel
    }

    /// End of what was written.
    pub fn end(&self) -> Lsn {
        self.writer.end()
    }

    /// End of the last record that lies wholly below `lsn`.
    pub fn last_record_end(&self, lsn: Lsn) -> Lsn {
        let index = self.record_ends.partition_point(|end| *end <= lsn);
        index.checked_sub(1).map_or(Lsn::INVALID, |i| self.record_ends[i])
    }

    fn take_number(&mut self) -> RelTag {
        let rel = table(self.next_oid);
        self.next_oid += 2;
        rel
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.rng, bound)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        // Half of it is repetitive, so that compression has something to do.
        let mut out = vec![b'p'; len];
        self.rng.fill_bytes(&mut out[..len / 2]);
        out
    }

    /// Writes the next records. Gives the end of WAL.
    pub fn step(&mut self) -> Lsn {
        self.steps += 1;
        if self.steps.is_multiple_of(self.knobs.checkpoint_steps.max(1)) {
            self.checkpoint();
            return self.end();
        }
        let kinds = self.knobs.weights.kinds();
        let total: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.below(u64::from(total.max(1))) as u32;
        let kind = kinds.into_iter().find(|(_, weight)| {
            let here = draw < *weight;
            draw = draw.saturating_sub(*weight);
            here
        });
        self.perform(kind.map_or(Kind::Insert, |(kind, _)| kind));
        if self.left > 0 {
            self.left -= 1;
            if self.left == 0 {
                self.end_transaction(&[]);
            }
        }
        self.end()
    }

    fn perform(&mut self, kind: Kind) {
        let Some(table) = self.pick_table() else { return self.create() };
        match kind {
            Kind::Insert => self.insert(table),
            Kind::Update => self.update(table),
            Kind::Delete => self.change_xmax(table, heap::DELETE, heap::KEYS_UPDATED),
            Kind::Lock => self.change_xmax(table, heap::LOCK, heap::LOCK_ONLY_EXCLUSIVE),
            Kind::PageImage => self.page_image(index_of(table)),
            Kind::HintImage => self.hint_image(table),
            Kind::Create => self.create(),
            Kind::Drop if self.tables.len() > 1 => self.drop_table(table),
            Kind::Truncate => self.truncate(table),
            Kind::Drop | Kind::NextOid => self.next_oid_record(),
        }
    }

    fn pick_table(&mut self) -> Option<RelTag> {
        if self.tables.is_empty() {
            return None;
        }
        let chosen = self.below(self.tables.len() as u64) as usize;
        self.tables.get(chosen).copied()
    }

    /// The present transaction, begun if there is none.
    fn transaction(&mut self) -> u32 {
        if self.left == 0 {
            self.xid += 1;
            self.left = 1 + self.below(u64::from(self.knobs.transaction_records_max.max(1))) as u32;
        }
        self.xid
    }

    /// Writes a record and tells the model of the blocks it changes.
    fn emit(&mut self, record: &RecordBuilder, touched: &[(RelTag, u32)]) -> RecordSpan {
        let bytes = record.encode(self.writer.prev(), VERSION);
        let span = self.writer.append(record);
        self.record_ends.push(span.end);
        for (rel, block) in touched {
            self.model.apply(*rel, *block, span.end, &bytes);
        }
        span
    }

    /// Writes a record that changes pages; where a page is touched for the first time since the checkpoint, its image after
    /// the change goes along instead of the change.
    fn emit_change(&mut self, build: impl Fn(Vec<BlockSpec>) -> RecordBuilder, blocks: Vec<BlockSpec>) {
        let touched: Vec<(RelTag, u32)> = blocks.iter().map(|b| (b.rel, b.block)).collect();
        let plain = build(blocks.clone()).encode(self.writer.prev(), VERSION);
        let mut with_images = Vec::new();
        for mut block in blocks {
            let first = self.imaged.insert((block.rel, block.block));
            if first && !block.will_init && self.knobs.full_page_writes {
                block.image = Some(self.image_after(&block, &plain));
                block.data = None;
            }
            with_images.push(block);
        }
        self.emit(&build(with_images), &touched);
    }

    /// The page as it is after the change, before it gets its LSN.
    fn image_after(&self, block: &BlockSpec, record: &[u8]) -> ImageSpec {
        let key = Key::rel_block(block.rel, block.block);
        let mut page = PageBuf::new();
        let current = self.model.current(block.rel, block.block).map(|p| &p[..]);
        page.load(key, current).expect("a page has the length of a page");
        if let Err(error) = apply_record(&ApplyContext::new(VERSION), key, &mut page, self.redo, record) {
            panic!("the generator made a record that redo refuses: {error}");
        }
        ImageSpec::of_page(page.page(), true)
    }

    fn insert(&mut self, table: RelTag) {
        let size = self.model.size_now(table).unwrap_or(0);
        let len = 1 + self.below(u64::from(self.knobs.tuple_bytes_max.max(1))) as usize;
        let columns = self.bytes(len);
        let xid = self.transaction();
        let chosen = if size == 0 { 0 } else { self.below(u64::from(size)) as u32 };
        let fits = |generator: &Generator, block| generator.model.current(table, block).filter(|p| heap::has_room(p, len)).map(heap::items);
        let block = [chosen, size.saturating_sub(1)].into_iter().find_map(|b| fits(self, b).map(|items| (b, items + 1)));
        let (block, number, init) = block.map_or((size, 1, true), |(b, n)| (b, n, false));
        let spec = BlockSpec::new(0, table, block).data(heap::tuple(&columns));
        let spec = if init { spec.will_init() } else { spec };
        let info = heap::INSERT | if init { heap::INIT_PAGE } else { 0 };
        let build = |blocks| with_blocks(RecordBuilder::new(rmid::HEAP, info).xid(xid).main(heap::insert_main(number)), blocks);
        self.emit_change(build, vec![spec]);
    }

    /// A live tuple of the table, if a few tries find one.
    fn pick_tuple(&mut self, table: RelTag) -> Option<(u32, u16)> {
        let size = self.model.size_now(table).filter(|size| *size > 0)?;
        for _ in 0..4 {
            let block = self.below(u64::from(size)) as u32;
            let live = self.model.current(table, block).map(heap::live_tuples).unwrap_or_default();
            if !live.is_empty() {
                let number = live[self.below(live.len() as u64) as usize];
                return Some((block, number));
            }
        }
        None
    }

    fn update(&mut self, table: RelTag) {
        let Some((block, old)) = self.pick_tuple(table) else { return self.insert(table) };
        let len = 1 + self.below(u64::from(self.knobs.tuple_bytes_max.max(1))) as usize;
        let columns = self.bytes(len);
        let xid = self.transaction();
        let room = |generator: &Generator, b| generator.model.current(table, b).filter(|p| heap::has_room(p, len)).map(heap::items);
        if let Some(items) = room(self, block) {
            let spec = BlockSpec::new(0, table, block).data(heap::tuple(&columns));
            let main = heap::update_main(xid, old, items + 1);
            let build = |blocks| with_blocks(RecordBuilder::new(rmid::HEAP, heap::HOT_UPDATE).xid(xid).main(main.clone()), blocks);
            return self.emit_change(build, vec![spec]);
        }
        let size = self.model.size_now(table).unwrap_or(0);
        let last = size.saturating_sub(1);
        let (target, number, init) = match room(self, last) {
            Some(items) if last != block => (last, items + 1, false),
            _ => (size, 1, true),
        };
        let new = BlockSpec::new(0, table, target).data(heap::tuple(&columns));
        let new = if init { new.will_init() } else { new };
        let info = heap::UPDATE | if init { heap::INIT_PAGE } else { 0 };
        let main = heap::update_main(xid, old, number);
        let build = |blocks| with_blocks(RecordBuilder::new(rmid::HEAP, info).xid(xid).main(main.clone()), blocks);
        self.emit_change(build, vec![new, BlockSpec::new(1, table, block)]);
    }

    fn change_xmax(&mut self, table: RelTag, opcode: u8, infobits: u8) {
        let Some((block, number)) = self.pick_tuple(table) else { return self.insert(table) };
        let xid = self.transaction();
        let main = heap::xmax_main(xid, number, infobits);
        let build = |blocks| with_blocks(RecordBuilder::new(rmid::HEAP, opcode).xid(xid).main(main.clone()), blocks);
        self.emit_change(build, vec![BlockSpec::new(0, table, block)]);
    }

    /// Whole pages of an opaque relation, several in one record as when an index is built.
    fn page_image(&mut self, rel: RelTag) {
        let size = self.model.size_now(rel).unwrap_or(0);
        let count = 1 + self.below(3) as u32;
        let first = self.below(u64::from(size) + 1) as u32;
        let mut record = RecordBuilder::new(rmid::XLOG, 0xB0).xid(self.transaction());
        let mut touched = Vec::new();
        for n in 0..count {
            let mut page = heap::empty_page(16);
            let len = 24 + self.below(200) as usize;
            heap::put_tuple(&mut page, 0, first + n, &self.bytes(len));
            record = record.block(BlockSpec::new(n as u8, rel, first + n).image(ImageSpec::of_page(&page, true)));
            touched.push((rel, first + n));
        }
        self.emit(&record, &touched);
    }

    fn hint_image(&mut self, table: RelTag) {
        let size = self.model.size_now(table).unwrap_or(0);
        if size == 0 {
            return self.insert(table);
        }
        let block = self.below(u64::from(size)) as u32;
        let Some(page) = self.model.current(table, block) else { return self.insert(table) };
        let image = ImageSpec::of_page(page, true);
        self.imaged.insert((table, block));
        self.emit(&RecordBuilder::new(rmid::XLOG, 0xA0).block(BlockSpec::new(0, table, block).image(image)), &[(table, block)]);
    }

    fn create(&mut self) {
        if self.tables.len() >= self.knobs.relations_max.max(1) as usize {
            return self.next_oid_record();
        }
        let xid = self.transaction();
        let rel = self.take_number();
        for created in [rel, index_of(rel)] {
            let mut main = Vec::new();
            for word in [created.spc, created.db, created.rel, 0] {
                main.extend_from_slice(&word.to_le_bytes());
            }
            let span = self.emit(&RecordBuilder::new(rmid::SMGR, 0x10).xid(xid).main(main), &[]);
            self.model.set_size(created, span.end, Some(0));
        }
        self.tables.push(rel);
    }

    fn drop_table(&mut self, table: RelTag) {
        self.tables.retain(|t| *t != table);
        self.transaction();
        self.left = 0;
        self.end_transaction(&[table, index_of(table)]);
    }

    fn truncate(&mut self, table: RelTag) {
        let size = self.model.size_now(table).unwrap_or(0);
        if size < 2 {
            return self.insert(table);
        }
        let to = self.below(u64::from(size)) as u32;
        let mut main = Vec::new();
        // Flag 1: only the main fork.
        for word in [to, table.spc, table.db, table.rel, 1] {
            main.extend_from_slice(&word.to_le_bytes());
        }
        let xid = self.transaction();
        let span = self.emit(&RecordBuilder::new(rmid::SMGR, 0x20).xid(xid).main(main), &[]);
        self.model.set_size(table, span.end, Some(to));
        self.imaged.retain(|(rel, block)| *rel != table || *block < to);
    }

    fn next_oid_record(&mut self) {
        let next = self.next_oid + 8192;
        self.emit(&RecordBuilder::new(rmid::XLOG, 0x30).main(next.to_le_bytes()), &[]);
    }

    /// Commit or abort. Aborts drop nothing.
    fn end_transaction(&mut self, dropped: &[RelTag]) {
        let commits = !dropped.is_empty() || self.below(5) > 0;
        let time = (self.now_seconds - POSTGRES_EPOCH_UNIX_SECONDS) * 1_000_000;
        let mut main = time.to_le_bytes().to_vec();
        self.now_seconds += 1;
        let mut info = if commits { 0x00 } else { 0x20 };
        if !dropped.is_empty() {
            info |= XACT_HAS_INFO;
            main.extend_from_slice(&XINFO_HAS_RELATIONS.to_le_bytes());
            main.extend_from_slice(&(dropped.len() as u32).to_le_bytes());
            for word in dropped.iter().flat_map(|rel| [rel.spc, rel.db, rel.rel]) {
                main.extend_from_slice(&word.to_le_bytes());
            }
        }
        let xid = self.xid;
        let span = self.emit(&RecordBuilder::new(rmid::XACT, info).xid(xid).main(main), &[]);
        self.model.set_xact(span.end, xid, if commits { XactStatus::Committed } else { XactStatus::Aborted });
        if commits {
            self.commits.add(span.end, PgTimestamp(time));
        }
        for rel in dropped {
            self.model.set_size(*rel, span.end, None);
        }
    }

    fn checkpoint(&mut self) {
        self.redo = self.end().record_start(self.writer.identity().segment_size);
        self.imaged.clear();
        let mut main = Vec::new();
        // xcnt, subxcnt, subxid_overflow + padding, nextXid, oldestRunningXid, latestCompletedXid
        for word in [0, 0, 0, self.xid + 1, self.xid + 1, self.xid] {
            main.extend_from_slice(&word.to_le_bytes());
        }
        self.emit(&RecordBuilder::new(STANDBY, 0x10).main(main), &[]);
        let body = checkpoint_body(self.redo, self.xid + 1, self.next_oid, self.now_seconds, self.xid + 1);
        self.emit(&RecordBuilder::new(rmid::XLOG, CHECKPOINT_ONLINE).main(body), &[]);
    }
}

fn with_blocks(record: RecordBuilder, blocks: Vec<BlockSpec>) -> RecordBuilder {
    blocks.into_iter().fold(record, RecordBuilder::block)
}

/// The struct `CheckPoint`, 88 bytes. Source: PostgreSQL 15 `catalog/pg_control.h`.
pub fn checkpoint_body(redo: Lsn, next_xid: u32, next_oid: u32, time: i64, oldest_active_xid: u32) -> Vec<u8> {
    let mut out = redo.0.to_le_bytes().to_vec();
    for word in [1u32, 1] {
        out.extend_from_slice(&word.to_le_bytes()); // this and previous timeline
    }
    out.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // full_page_writes
    out.extend_from_slice(&u64::from(next_xid).to_le_bytes());
    // nextOid, nextMulti, nextMultiOffset, oldestXid, oldestXidDB, oldestMulti, oldestMultiDB, padding
    for word in [next_oid, 1, 0, 717, 1, 1, 1, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&time.to_le_bytes());
    // oldestCommitTsXid, newestCommitTsXid, oldestActiveXid, padding
    for word in [0, 0, oldest_active_xid, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}
