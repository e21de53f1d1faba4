//! Ingest over synthesised WAL: what a reader sees afterwards.

use super::*;
use crate::pg::rmgr::storage;
use crate::pg::xlog::synthesize::{BlockSpec, RecordBuilder, WalIdentity, WalWriter};
use crate::timeline::commit_time::TimeKind;
use crate::timeline::testing::{self, START, SYSTEM};
use crate::types::timestamp::PgTimestamp;

const REL: RelTag = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
/// Heap blocks that one page of the visibility map covers.
const MAP_PAGE: u32 = (8192 - 24) * 4;

struct World {
    timeline: Arc<Timeline>,
    writer: TimelineWriter,
    ingest: Ingest,
    wal: WalWriter,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let timeline = testing::root(&testing::memory_env(), directory.path());
        let identity = WalIdentity { version: PgVersion::V15, system_id: SYSTEM, tli: 1, segment_size: 1 << 24 };
        World {
            writer: TimelineWriter::new(timeline.clone()),
            ingest: Ingest::load(&timeline).await.unwrap(),
            wal: WalWriter::new(identity, START, Lsn(0)),
            timeline,
            _directory: directory,
        }
    }

    /// Ingests a record without publishing it.
    async fn record(&mut self, record: RecordBuilder) -> Lsn {
        let bytes = record.encode(self.wal.prev(), PgVersion::V15);
        let span = self.wal.append(&record);
        self.ingest.record(&mut self.writer, span, &bytes).await.unwrap();
        span.end
    }

    /// Ingests a record and publishes it.
    async fn commit(&mut self, record: RecordBuilder) -> Lsn {
        let end = self.record(record).await;
        self.ingest.commit(&mut self.writer).await;
        end
    }

    async fn rel_size(&self, rel: RelTag) -> Option<u32> {
        self.timeline.rel_size(rel, self.timeline.last_record.lsn()).await.unwrap()
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn create(rel: RelTag) -> RecordBuilder {
    RecordBuilder::new(id::SMGR, storage::CREATE).main(words(&[rel.spc, rel.db, rel.rel, rel.fork as u32]))
}

fn truncate(rel: RelTag, blocks: u32) -> RecordBuilder {
    RecordBuilder::new(id::SMGR, storage::TRUNCATE).main(words(&[blocks, rel.spc, rel.db, rel.rel, 7]))
}

/// heap2 VISIBLE: both bits of a heap block.
fn visible(block: u32) -> RecordBuilder {
    let map = BlockSpec::new(0, REL.with_fork(Fork::Vm), block / MAP_PAGE);
    RecordBuilder::new(id::HEAP2, 0x40).block(map).block(BlockSpec::new(1, REL, block)).main([&words(&[0])[..], &[3]].concat())
}

fn bits(page: &[u8], block: u32) -> u8 {
    let within = block % MAP_PAGE;
    page[24 + (within / 4) as usize] >> (within % 4 * 2) & 3
}

#[tokio::test]
async fn a_map_page_that_comes_again_after_a_truncation_starts_empty() {
    let mut world = World::new().await;
    let (map, second) = (REL.with_fork(Fork::Vm), MAP_PAGE + 5);
    world.record(create(REL)).await;
    world.commit(visible(second)).await;
    assert_eq!(world.rel_size(map).await, Some(2));
    world.commit(truncate(REL, 10)).await;
    assert_eq!(world.rel_size(map).await, Some(1));
    let lsn = world.commit(visible(second + 1)).await;
    let page = world.timeline.rel_block(map, 1, lsn).await.unwrap();
    assert_eq!((bits(&page, second), bits(&page, second + 1)), (0, 3), "what the truncation removed is visible again");
}

#[tokio::test]
async fn a_record_may_add_several_blocks_in_any_order() {
    let mut world = World::new().await;
    world.record(create(REL)).await;
    let record = RecordBuilder::new(16, 0x50);
    let record = [5, 3, 4].iter().zip(0..).fold(record, |record, (block, id)| record.block(BlockSpec::new(id, REL, *block).will_init()));
    let lsn = world.commit(record).await;
    assert_eq!(world.rel_size(REL).await, Some(6));
    assert!(world.timeline.rel_block(REL, 2, lsn).await.unwrap().iter().all(|b| *b == 0));
}

#[tokio::test]
async fn a_record_that_names_a_block_twice_is_no_reason_to_die() {
    let mut world = World::new().await;
    world.record(create(REL)).await;
    let record = RecordBuilder::new(id::HEAP, 0x80).block(BlockSpec::new(0, REL, 0).will_init()).block(BlockSpec::new(1, REL, 0));
    world.commit(record.main([0; 8])).await;
    assert_eq!(world.rel_size(REL).await, Some(1));
}

#[tokio::test]
async fn a_size_that_was_read_before_a_database_came_does_not_stay() {
    let mut world = World::new().await;
    world.commit(create(REL)).await;
    let heap = |block: u32| RecordBuilder::new(id::HEAP, 0x80).block(BlockSpec::new(0, REL, block).will_init()).main([0; 3]);
    world.commit(heap(0)).await;
    let before = world.timeline.last_record.lsn();
    world.record(heap(1)).await;
    // Entries of the cache of sizes go while the extension is pending, and a reader comes by.
    let lsn = world.record(RecordBuilder::new(id::DBASE, 0x10).main(words(&[20, 1663]))).await;
    assert!(world.timeline.rel_block(REL, 1, before).await.unwrap().iter().all(|b| *b == 0), "block 1 is not there yet");
    world.ingest.commit(&mut world.writer).await;
    let read = world.timeline.rel_block(REL, 1, lsn).await;
    assert!(read.is_err(), "block 1 is there, and the record that made it is no real one: {read:?}");
}

#[tokio::test]
async fn records_before_a_bad_one_become_readable_and_nothing_of_the_bad_one() {
    let mut world = World::new().await;
    let good = world.record(create(REL)).await;
    // Touches a block, then turns out to be no transaction record.
    let bad = RecordBuilder::new(id::XACT, 0).block(BlockSpec::new(0, REL, 0).will_init());
    let bytes = bad.encode(world.wal.prev(), PgVersion::V15);
    let span = world.wal.append(&bad);
    assert!(world.ingest.record(&mut world.writer, span, &bytes).await.is_err());
    world.ingest.commit(&mut world.writer).await;
    assert_eq!(world.timeline.last_record.lsn(), good);
    assert_eq!(world.rel_size(REL).await, Some(0));
}

fn parameter_change(track_commit_timestamp: bool) -> RecordBuilder {
    let main = [&words(&[100, 8, 10, 0, 64, 1])[..], &[0, u8::from(track_commit_timestamp), 0, 0]].concat();
    RecordBuilder::new(id::XLOG, xlog::PARAMETER_CHANGE).main(main)
}

fn commit_xid(xid: u32, time: u64) -> RecordBuilder {
    RecordBuilder::new(id::XACT, 0).xid(xid).main(time.to_le_bytes())
}

#[tokio::test]
async fn commit_timestamps_begin_and_end_with_their_parameter() {
    let mut world = World::new().await;
    let (xid, kind) = (2000, SlruKind::CommitTs);
    world.commit(commit_xid(xid - 1, 6)).await;
    world.commit(parameter_change(true)).await;
    let lsn = world.commit(commit_xid(xid, 7)).await;
    let (segment, page, at) = (0, xid / 819, (xid % 819 * 10) as usize);
    assert!(world.timeline.slru_segments(kind, lsn).await.unwrap().0.contains(&segment));
    let stamps = world.timeline.get(Key::slru_page(kind, page), lsn).await.unwrap();
    assert_eq!(stamps[at..at + 8], 7u64.to_le_bytes());
    assert_eq!(stamps[at - 10..at], [0; 10], "the one before was not tracked");
    let checkpoint = CheckPoint::decode(&world.timeline.get(Key::CHECKPOINT, lsn).await.unwrap(), PgVersion::V15).unwrap();
    assert_eq!(checkpoint.oldest_commit_ts_xid, xid);
    assert!((xid..checkpoint.next_xid.xid()).contains(&checkpoint.newest_commit_ts_xid), "{checkpoint:?}");
    let lsn = world.commit(parameter_change(false)).await;
    assert!(world.timeline.slru_segments(kind, lsn).await.unwrap().0.is_empty());
    let checkpoint = CheckPoint::decode(&world.timeline.get(Key::CHECKPOINT, lsn).await.unwrap(), PgVersion::V15).unwrap();
    assert_eq!((checkpoint.oldest_commit_ts_xid, checkpoint.newest_commit_ts_xid), (0, 0));
}

#[tokio::test]
async fn a_database_larger_than_a_batch_is_copied_at_one_lsn() {
    let mut world = World::new().await;
    world.commit(create(REL)).await;
    let mut page = [7; PAGE_SIZE];
    page[12..16].copy_from_slice(&[0; 4]);
    let image = crate::pg::xlog::synthesize::ImageSpec::of_page(&page, true);
    for block in 0..300 {
        let fpi = BlockSpec::new(0, REL, block).image(image.clone());
        world.record(RecordBuilder::new(id::XLOG, xlog::FPI).block(fpi)).await;
    }
    world.ingest.commit(&mut world.writer).await;
    let before = world.timeline.last_record.lsn();
    // 14 logs a copy of files as the opcode 0; so do later ones with STRATEGY = FILE_COPY.
    let lsn = world.record(RecordBuilder::new(id::DBASE, 0).main(words(&[20, 1663, 5, 1663]))).await;
    assert_eq!(world.timeline.last_record.lsn(), lsn, "the copy is published whole");
    let copy = RelTag { db: 20, ..REL };
    assert_eq!(world.timeline.rel_size(copy, before).await.unwrap(), None);
    assert_eq!(world.rel_size(copy).await, Some(300));
    for block in [0, 150, 299] {
        assert_eq!(world.timeline.rel_block(copy, block, lsn).await.unwrap()[100], 7);
    }
    // One whose source was never seen is an empty one.
    world.commit(RecordBuilder::new(id::DBASE, 0).main(words(&[21, 1663, 6, 9999]))).await;
    assert!(world.timeline.db_dir(world.timeline.last_record.lsn()).await.unwrap().0.contains_key(&(1663, 21)));
}

#[tokio::test]
async fn an_image_that_redo_would_change_further_is_not_taken_for_the_page() {
    let mut world = World::new().await;
    world.record(create(REL)).await;
    let image = crate::pg::xlog::synthesize::ImageSpec::of_page(&[9; PAGE_SIZE], true);
    // GiST PAGE_UPDATE: the child's follow-right flag goes and its NSN comes after the image was taken.
    let record =
        RecordBuilder::new(14, 0).block(BlockSpec::new(0, REL, 0).image(image.clone())).block(BlockSpec::new(1, REL, 1).image(image));
    let lsn = world.commit(record.main([0; 4])).await;
    assert!(world.timeline.rel_block(REL, 0, lsn).await.is_ok());
    let error = world.timeline.rel_block(REL, 1, lsn).await.unwrap_err().to_string();
    assert!(error.contains("rmgr 14"), "{error}");
}

#[tokio::test]
async fn times_and_lsns_of_commits() {
    let mut world = World::new().await;
    let at = |time: i64| PgTimestamp(time);
    assert_eq!(world.timeline.newest_commit(START).await.unwrap(), None);
    assert_eq!(world.timeline.lsn_of_time(at(5)).await.unwrap(), (TimeKind::NoData, START));
    // Transaction numbers go beyond the first page, and the clock goes back once.
    let mut commits = Vec::new();
    for (i, time) in [100, 110, 110, 130, 125, 140, 150, 160].into_iter().enumerate() {
        let xid = 32_760 + 3 * i as u32;
        if xid / 32_768 == 1 && (xid - 3) / 32_768 == 0 {
            world.commit(RecordBuilder::new(id::CLOG, 0).main(1u64.to_le_bytes())).await;
        }
        world.commit(create(RelTag { rel: 20_000 + xid, ..REL })).await;
        commits.push((world.commit(commit_xid(xid, time)).await, time as i64));
    }
    world.commit(create(REL)).await;
    for (lsn, _) in &commits {
        let newest = commits.iter().filter(|(l, _)| l <= lsn).map(|(_, time)| *time).max();
        assert_eq!(world.timeline.newest_commit(*lsn).await.unwrap(), newest.map(at), "at {lsn}");
    }
    let last = world.timeline.last_record.lsn();
    for time in 95..170 {
        let (kind, lsn) = world.timeline.lsn_of_time(at(time)).await.unwrap();
        match commits.iter().find(|(_, t)| *t >= time) {
            None => assert_eq!((kind, lsn), (TimeKind::Future, last), "{time}"),
            Some((_, 100)) => assert_eq!((kind, lsn), (TimeKind::Past, START), "{time}"),
            Some((first, _)) => assert_eq!((kind, lsn), (TimeKind::Present, Lsn(first.0 - 8)), "{time}"),
        }
    }
}
