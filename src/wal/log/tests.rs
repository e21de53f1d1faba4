//! The log on real files: what it takes, refuses and finds again.

use super::*;
use crate::io_abstraction::real;
use crate::pg::version::PgVersion;
use crate::pg::xlog::synthesize::{RecordBuilder, WalIdentity, WalWriter};
use std::sync::Arc;

const SEGMENT: u64 = 1 << 20;
const START: Lsn = Lsn(3 * SEGMENT + 8192 + 1000);

fn env() -> Env {
    real::env(Arc::new(object_store::memory::InMemory::new())).unwrap()
}

fn open(env: &Env, directory: &Path, from: Lsn) -> Arc<WalLog> {
    let pg_timeline = PgTimeline { tli: 1, history: Vec::new() };
    WalLog::open(
        env,
        LogStart {
            root: directory.to_path_buf(),
            directory: directory.join("wal"),
            segment_size: SEGMENT,
            reserve: 0,
            cap: u64::MAX,
            from,
            pg_timeline,
        },
    )
    .unwrap()
}

/// WAL from `START`'s page on: (first byte's LSN, bytes, record ends).
fn wal(records: usize) -> (Lsn, Vec<u8>, Vec<Lsn>) {
    let identity = WalIdentity { version: PgVersion::V15, system_id: 7, tli: 1, segment_size: SEGMENT };
    let mut writer = WalWriter::new(identity, START, Lsn(0));
    let ends = (0..records).map(|n| writer.append(&RecordBuilder::new(21, 0).main(vec![n as u8; 100 + n * 37 % 3000])).end).collect();
    let from = START.page_start();
    (from, writer.bytes(from..writer.end()).expect("nothing was discarded").to_vec(), ends)
}

#[tokio::test]
async fn what_was_synced_is_found_again_up_to_the_last_whole_record() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, ends) = wal(800);
    assert!(bytes.len() as u64 > SEGMENT, "the WAL spans segments");
    let log = open(&env, dir.path(), START);
    assert_eq!(log.durable_lsn(), from);
    for chunk in [&bytes[..5000], &bytes[4000..500_000], &bytes[500_000..bytes.len() - 10]] {
        let at = Lsn(from.0 + (chunk.as_ptr() as u64 - bytes.as_ptr() as u64));
        log.append(at, chunk).unwrap();
    }
    assert_eq!(log.durable_lsn(), from, "nothing is durable before a sync");
    let end = log.sync().unwrap();
    assert_eq!(end, Lsn(from.0 + bytes.len() as u64 - 10));
    let mut read = Vec::new();
    let mut buffer = vec![0; 70_000];
    while read.len() < bytes.len() - 10 {
        let n = log.read(Lsn(from.0 + read.len() as u64), &mut buffer).unwrap();
        read.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(read, bytes[..bytes.len() - 10]);
    drop(log);
    let again = open(&env, dir.path(), START);
    assert_eq!(again.durable_lsn(), ends[ends.len() - 2], "the last record is not whole");
    let later = open(&env, dir.path(), ends[10]);
    assert_eq!(later.durable_lsn(), ends[ends.len() - 2]);
}

#[tokio::test]
async fn gaps_and_other_histories_are_refused() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, _) = wal(50);
    let log = open(&env, dir.path(), START);
    assert!(matches!(log.append(Lsn(from.0 + 8), &bytes[8..100]), Err(LogError::Gap { .. })));
    log.append(from, &bytes[..9000]).unwrap();
    log.append(from, &bytes[..9500]).unwrap();
    let mut other = bytes[8000..9000].to_vec();
    other[500] ^= 1;
    let at = Lsn(from.0 + 8000);
    assert!(matches!(log.append(at, &other), Err(LogError::Differs { at: different, .. }) if different == Lsn(at.0 + 500)));
    assert_eq!(log.written_lsn(), Lsn(from.0 + 9500));
}

#[tokio::test]
async fn old_segments_go_and_their_bytes_are_refused() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, _) = wal(800);
    let log = open(&env, dir.path(), START);
    log.append(from, &bytes).unwrap();
    log.sync().unwrap();
    assert_eq!(log.trim(Lsn(4 * SEGMENT + 5)).unwrap(), 1);
    assert!(matches!(log.read(from, &mut [0; 10]), Err(LogError::Trimmed { .. })));
    assert_eq!(log.read(Lsn(4 * SEGMENT), &mut [0; 10]).unwrap(), 10);
    let full = WalLog::open(
        &env,
        LogStart {
            root: dir.path().to_path_buf(),
            directory: dir.path().join("full"),
            segment_size: SEGMENT,
            reserve: u64::MAX / 2,
            cap: u64::MAX,
            from: START,
            pg_timeline: PgTimeline { tli: 1, history: Vec::new() },
        },
    );
    assert!(matches!(full.unwrap().append(from, &bytes), Err(LogError::NearlyFull { .. })));
}

#[tokio::test]
async fn a_record_that_never_became_whole_gives_way_to_another_history() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, ends) = wal(50);
    let log = open(&env, dir.path(), START);
    let whole = ends[ends.len() - 2];
    log.append(from, &bytes[..bytes.len() - 10]).unwrap();
    log.sync().unwrap();
    assert_eq!(log.last_whole_record(START).unwrap(), whole);
    assert_eq!(log.last_whole_record(ends[3]).unwrap(), whole);
    let cuts = log.cuts();
    log.give_up_tail(whole);
    log.wait_beyond(Lsn::MAX, cuts).await;
    assert_eq!((log.written_lsn(), log.durable_lsn()), (whole, whole));
    log.switch_tli(2, whole).unwrap();
    log.append(whole, &[7; 100]).unwrap();
    assert_eq!(log.sync().unwrap(), Lsn(whole.0 + 100));
    let mut read = [0; 100];
    assert_eq!(log.read(whole, &mut read).unwrap(), 100);
    assert_eq!(read, [7; 100]);
}

#[tokio::test]
async fn a_damaged_history_is_damage_and_an_error_of_the_disk_is_none() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let open_again = || {
        let pg_timeline = PgTimeline { tli: 1, history: Vec::new() };
        let (root, directory) = (dir.path().to_path_buf(), dir.path().join("wal"));
        WalLog::open(&env, LogStart { root, directory, segment_size: SEGMENT, reserve: 0, cap: u64::MAX, from: START, pg_timeline })
    };
    let log = open_again().unwrap();
    log.switch_tli(2, START).unwrap();
    let (history, size) = (log.directory().join(TIMELINES), 5);
    env.disk.open(&history, OpenMode::ReadWrite).unwrap().set_len(size).unwrap();
    let error = open_again().err().unwrap();
    assert!(error.is_damage() && error.to_string().contains("the file timelines is damaged"), "{error}");
    let failed = LogError::Io { path: history, error: io::Error::from_raw_os_error(5) };
    assert!(!failed.is_damage());
}

#[tokio::test]
async fn a_log_at_its_cap_takes_more_only_when_it_is_trimmed() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, _) = wal(4000);
    let start = LogStart {
        root: dir.path().to_path_buf(),
        directory: dir.path().join("wal"),
        segment_size: SEGMENT,
        reserve: 0,
        cap: 2 * SEGMENT,
        from: START,
        pg_timeline: PgTimeline { tli: 1, history: Vec::new() },
    };
    let log = WalLog::open(&env, start).unwrap();
    assert!(matches!(log.append(from, &bytes), Err(LogError::Full { cap, .. }) if cap == 2 * SEGMENT));
    let end = log.sync().unwrap();
    assert!(log.is_full() && end < Lsn(from.0 + bytes.len() as u64));
    assert_eq!(log.held_bytes(), end.distance_from(from));
    log.trim(end).unwrap();
    let rest = &bytes[end.distance_from(from) as usize..];
    log.append(end, &rest[..rest.len().min(SEGMENT as usize)]).unwrap();
    assert!(!log.is_full());
}

#[tokio::test]
async fn the_end_of_a_segment_is_synced_though_the_next_one_was_begun() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, _) = wal(4000);
    let log = open(&env, dir.path(), START);
    log.append(from, &bytes[..1000]).unwrap();
    log.sync().unwrap();
    let room = SEGMENT - from.segment_offset(SEGMENT);
    log.append(Lsn(from.0 + 1000), &bytes[1000..room as usize + 1000]).unwrap();
    let first = from.segment_number(SEGMENT);
    assert_eq!(log.unsynced_segments(), [first, first + 1]);
    log.switch_tli(2, log.written_lsn()).unwrap();
    assert_eq!(log.unsynced_segments(), [first, first + 1]);
    log.sync().unwrap();
    assert!(log.unsynced_segments().is_empty());
}

/// WAL of TLI 1 up to a record's end, then of TLI 2: (first byte's LSN, bytes of the first, of the second, switch point).
fn wal_with_a_switch() -> (Lsn, Vec<u8>, Vec<u8>, Lsn) {
    let identity = WalIdentity { version: PgVersion::V15, system_id: 7, tli: 1, segment_size: SEGMENT };
    let mut writer = WalWriter::new(identity, START, Lsn(0));
    let add = |writer: &mut WalWriter, n: u8| writer.append(&RecordBuilder::new(21, 0).main(vec![n; 500])).end;
    let switch = (0..200).map(|n| add(&mut writer, n)).last().unwrap();
    writer.set_tli(2);
    let end = (0..200).map(|n| add(&mut writer, 100 + n % 100)).last().unwrap();
    let from = START.page_start();
    (from, writer.bytes(from..switch).unwrap().to_vec(), writer.bytes(switch..end).unwrap().to_vec(), switch)
}

#[tokio::test]
async fn a_switch_of_the_tli_inside_a_segment_is_read_compared_and_found_again() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, old, new, switch) = wal_with_a_switch();
    let end = Lsn(switch.0 + new.len() as u64);
    assert_eq!(from.segment_number(SEGMENT), end.segment_number(SEGMENT), "one segment number, two files");
    let log = open(&env, dir.path(), START);
    log.append(from, &old).unwrap();
    log.sync().unwrap();
    log.switch_tli(2, switch).unwrap();
    log.append(switch, &new).unwrap();
    log.sync().unwrap();
    let both = [old, new].concat();
    let check = |log: &WalLog| {
        let (mut read, mut buffer) = (Vec::new(), vec![0; 100_000]);
        while read.len() < both.len() {
            let n = log.read(Lsn(from.0 + read.len() as u64), &mut buffer).unwrap();
            read.extend_from_slice(&buffer[..n]);
        }
        assert!(read == both, "the log gives back what it took");
        log.append(from, &both).expect("what comes again is what came before");
    };
    check(&log);
    drop(log);
    // The index in remote storage still tells of TLI 1 alone.
    let again = open(&env, dir.path(), START);
    assert_eq!(again.durable_lsn(), end);
    assert_eq!(again.pg_timeline(), PgTimeline { tli: 2, history: vec![TliSwitch { tli: 1, end: switch }] });
    check(&again);
}

#[tokio::test]
async fn the_stream_begins_again_where_there_is_something_to_compare() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, _) = wal(800);
    let log = open(&env, dir.path(), START);
    assert_eq!(log.resume_lsn(), from);
    let mut sent = 0;
    for (len, want) in [(100, from), (8192, from), (8200, Lsn(from.0 + 8192)), (3 * 8192, Lsn(from.0 + 2 * 8192))] {
        log.append(Lsn(from.0 + sent), &bytes[sent as usize..len]).unwrap();
        sent = len as u64;
        assert_eq!(log.resume_lsn(), want, "{len} bytes written");
    }
    let segment = Lsn(4 * SEGMENT);
    log.append(Lsn(from.0 + sent), &bytes[sent as usize..(segment.0 - from.0) as usize]).unwrap();
    assert_eq!(log.resume_lsn(), segment, "the server may not have the segment before any more");
}

/// The machine's disk, but files cannot be made long while `full`; counts syncs of directories.
struct FullDisk {
    inner: Arc<dyn crate::io_abstraction::Disk>,
    full: Arc<std::sync::atomic::AtomicBool>,
    dir_syncs: Arc<std::sync::atomic::AtomicU32>,
}

#[derive(Debug)]
struct FullFile(DiskFile, Arc<std::sync::atomic::AtomicBool>);

impl crate::io_abstraction::disk::FileOps for FullFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { self.0.set_len(len) }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

impl crate::io_abstraction::Disk for FullDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<DiskFile> {
        Ok(DiskFile::Simulated(Arc::new(FullFile(self.inner.open(path, mode)?, self.full.clone()))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.inner.unlink(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<crate::io_abstraction::DirEntry>> {
        self.inner.list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.dir_syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<crate::io_abstraction::disk::DiskSpace> {
        self.inner.space(path)
    }
}

#[tokio::test]
async fn the_name_of_a_segment_that_was_created_on_a_full_disk_is_synced_later() {
    use std::sync::atomic::Ordering::Relaxed;
    let (dir, mut env) = (tempfile::tempdir().unwrap(), env());
    let (full, dir_syncs) = (Arc::new(true.into()), Arc::new(0.into()));
    env.disk = Arc::new(FullDisk { inner: env.disk.clone(), full: Arc::clone(&full), dir_syncs: Arc::clone(&dir_syncs) });
    let (from, bytes, _) = wal(50);
    let log = open(&env, dir.path(), START);
    assert!(matches!(log.append(from, &bytes), Err(LogError::Io { .. })));
    full.store(false, Relaxed);
    log.append(from, &bytes).unwrap();
    let before = dir_syncs.load(Relaxed);
    log.sync().unwrap();
    assert!(dir_syncs.load(Relaxed) > before, "or a crash loses the file, acknowledged bytes and all");
}

/// Damage that was received and synced is given up like the end of a log at a restart; what comes in its place is taken.
#[tokio::test]
async fn what_is_damaged_is_received_again() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, ends) = wal(400);
    let log = open(&env, dir.path(), START);
    let mut bad = bytes.clone();
    let (good, broken) = (ends[299], ends[300]);
    bad[(broken.0 - from.0 - 9) as usize] ^= 1;
    log.append(from, &bad).unwrap();
    log.sync().unwrap();
    {
        let told = log.distrusted();
        tokio::pin!(told);
        assert!(futures::FutureExt::now_or_never(told.as_mut()).is_none());
        log.distrust(good);
        told.await;
    }
    assert_eq!((log.written_lsn(), log.durable_lsn()), (good, good));
    // A stream that goes on where it was has a gap now.
    let end = Lsn(from.0 + bytes.len() as u64);
    assert!(matches!(log.append(end, b"more"), Err(LogError::Gap { .. })));
    let page = good.page_start();
    log.append(page, &bytes[(page.0 - from.0) as usize..]).unwrap();
    assert_eq!(log.sync().unwrap(), end);
    log.distrust(end);
    assert_eq!(log.durable_lsn(), end, "nothing is given up that is whole");
    drop(log);
    assert_eq!(open(&env, dir.path(), START).durable_lsn(), *ends.last().unwrap());
}

/// A power loss takes sectors of what was not synced, here one below the first record that a restart reads, and leaves others: no
/// checksum shows it. The stream then differs there, which is no other history.
#[tokio::test]
async fn what_a_power_loss_took_below_the_first_record_is_taken_from_the_stream() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, ends) = wal(400);
    let log = open(&env, dir.path(), START);
    log.append(from, &bytes).unwrap();
    log.sync().unwrap();
    drop(log);
    let (at, lost) = ends.iter().find_map(|end| (end.page_offset() > 4000).then(|| (*end, Lsn(end.page_start().0 + 1024)))).unwrap();
    let path = dir.path().join("wal").join(segment_file_name(1, lost.segment_number(SEGMENT), SEGMENT));
    let file = env.disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_at(lost.segment_offset(SEGMENT), &[0; 512]).unwrap();
    let log = open(&env, dir.path(), at);
    let end = *ends.last().unwrap();
    assert_eq!(log.durable_lsn(), end);
    log.append(at.page_start(), &bytes[(at.page_start().0 - from.0) as usize..]).unwrap();
    log.sync().unwrap();
    let mut page = vec![0; 8192];
    assert_eq!(log.read(at.page_start(), &mut page).unwrap(), page.len());
    assert_eq!(page, bytes[(at.page_start().0 - from.0) as usize..][..8192]);
}

/// Whole records below the first one that a restart reads are compared as all others: they may be where another history began.
#[tokio::test]
async fn another_history_is_seen_below_the_first_record_too() {
    let (dir, env) = (tempfile::tempdir().unwrap(), env());
    let (from, bytes, ends) = wal(400);
    let log = open(&env, dir.path(), START);
    log.append(from, &bytes).unwrap();
    log.sync().unwrap();
    drop(log);
    let two = ends.windows(2).find(|two| two[0].page_start() == two[1].page_start() && two[0].page_offset() > 4000).unwrap();
    let (begins, at) = (two[0], two[1]);
    let log = open(&env, dir.path(), at);
    let mut other = bytes[(at.page_start().0 - from.0) as usize..].to_vec();
    other[begins.page_offset() + 30] ^= 1;
    let error = log.append(at.page_start(), &other).unwrap_err();
    assert!(matches!(error, LogError::Differs { at, .. } if at == Lsn(begins.0 + 30)), "{error}");
}
