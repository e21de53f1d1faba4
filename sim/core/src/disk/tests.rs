//! What a crash leaves of names, and what handles of a dead process can do. File contents: see `inode`.

use super::*;
use crate::testing::StillClock;
use crate::trace::Trace;
use palimpsest::io_abstraction::disk::{read_file, write_file_durably};

struct Machine {
    disk: SimDisk,
    trace: Trace,
}

impl Machine {
    fn new(seed: u128) -> Machine {
        let trace = Trace::new(Arc::new(StillClock), 0..0);
        Machine { disk: SimDisk::new(RngSource::new(seed), 64 << 20), trace }
    }

    fn mount(&self) -> Arc<dyn Disk> {
        self.disk.mount(self.trace.host("node", self.disk.incarnation()), Ledger::default())
    }

    fn crash(&self, kind: CrashKind) -> Arc<dyn Disk> {
        self.disk.crash(kind, &self.trace.host("node", 0));
        self.mount()
    }
}

fn names(disk: &dyn Disk, path: &str) -> Vec<String> {
    disk.list(Path::new(path)).map(|entries| entries.into_iter().map(|e| e.name).collect()).unwrap_or_default()
}

#[test]
fn a_durably_written_file_survives_every_crash() {
    for seed in 0..100 {
        let machine = Machine::new(seed);
        let disk = machine.mount();
        disk.create_dir_all(Path::new("/d")).expect("creates");
        disk.sync_dir(Path::new("/")).expect("syncs");
        write_file_durably(&*disk, Path::new("/d/f"), b"old").expect("writes");
        // Replaced, but the process dies before the directory is synced.
        let file = disk.open(Path::new("/d/f.new"), OpenMode::CreateNew).expect("creates");
        file.write_at(0, b"new").expect("writes");
        file.sync_data().expect("syncs");
        disk.rename(Path::new("/d/f.new"), Path::new("/d/f")).expect("renames");
        let disk = machine.crash(CrashKind::PowerLoss);
        let bytes = read_file(&*disk, Path::new("/d/f")).expect("the name is there");
        assert!(bytes == b"old" || bytes == b"new", "{bytes:?}");
    }
}

#[test]
fn unsynced_names_are_lost_or_kept_on_their_own() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let machine = Machine::new(seed);
        let disk = machine.mount();
        disk.create_dir_all(Path::new("/d")).expect("creates");
        disk.sync_dir(Path::new("/")).expect("syncs");
        for name in ["a", "b"] {
            disk.open(&Path::new("/d").join(name), OpenMode::CreateNew).expect("creates");
        }
        outcomes.insert(names(&*machine.crash(CrashKind::PowerLoss), "/d").join(""));
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), ["", "a", "ab", "b"]);
}

#[test]
fn a_directory_that_was_not_synced_takes_its_files_along() {
    let mut lost = 0;
    for seed in 0..40 {
        let machine = Machine::new(seed);
        let disk = machine.mount();
        disk.create_dir_all(Path::new("/d")).expect("creates");
        write_file_durably(&*disk, Path::new("/d/f"), b"x").expect("writes");
        let disk = machine.crash(CrashKind::PowerLoss);
        match names(&*disk, "/").as_slice() {
            [] => lost += 1,
            [d] => assert_eq!((d.as_str(), names(&*disk, "/d")), ("d", vec!["f".to_string()])),
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 5, "{lost}");
}

#[test]
fn a_process_crash_keeps_the_page_cache_and_a_wipe_keeps_nothing() {
    let machine = Machine::new(1);
    let disk = machine.mount();
    disk.open(Path::new("/f"), OpenMode::CreateNew).and_then(|f| f.write_at(0, b"x")).expect("writes");
    let disk = machine.crash(CrashKind::ProcessCrash);
    assert_eq!(read_file(&*disk, Path::new("/f")).expect("reads"), b"x");
    let disk = machine.crash(CrashKind::Wipe);
    assert!(names(&*disk, "/").is_empty());
}

#[test]
fn handles_of_a_dead_process_change_nothing() {
    let machine = Machine::new(1);
    let old = machine.mount();
    let file = old.open(Path::new("/f"), OpenMode::CreateNew).expect("creates");
    let disk = machine.crash(CrashKind::ProcessCrash);
    assert!(file.write_at(0, b"ghost").is_err() && file.set_len(9).is_err() && file.sync_data().is_err() && file.len().is_err());
    assert!(file.read_at(0, &mut [0]).is_err() && old.unlink(Path::new("/f")).is_err() && old.list(Path::new("/")).is_err());
    assert_eq!(read_file(&*disk, Path::new("/f")).expect("reads"), b"");
}

#[test]
fn injected_errors_respect_path_and_budget() {
    let machine = Machine::new(1);
    let disk = machine.mount();
    let faults =
        DiskFaults { write_error_ppm: 1_000_000, budget: 2, only: vec!["/".to_string(), "wal".to_string()], ..DiskFaults::default() };
    machine.disk.set_faults(faults);
    let other = disk.open(Path::new("/layer"), OpenMode::CreateNew).expect("creates");
    other.write_at(0, b"x").expect("other files do not fail");
    let file = disk.open(Path::new("/wal"), OpenMode::CreateNew).expect("creates");
    let results: Vec<bool> = (0..4).map(|_| file.write_at(0, b"x").is_ok()).collect();
    assert_eq!(results, [false, false, true, true]);
}

#[test]
fn a_full_disk_refuses_growth_and_takes_rewrites() {
    let machine = Machine::new(1);
    machine.disk.set_capacity(1 << 20);
    let disk = machine.mount();
    let file = disk.open(Path::new("/f"), OpenMode::CreateNew).expect("creates");
    file.write_at(0, &[0; 1 << 20]).expect("fits exactly");
    let error = file.write_at(1 << 20, b"x").expect_err("full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_at(0, b"y").expect("a rewrite needs no space");
    disk.unlink(Path::new("/f")).expect("removes");
    assert_eq!(disk.space(Path::new("/")).expect("tells").available, 1 << 20);
}

#[test]
fn the_contract_holds() {
    let disk = Machine::new(1).mount();
    disk.create_dir_all(Path::new("/contract")).expect("creates");
    crate::contract::disk::run(&*Machine::new(1).mount(), Path::new("/"));
    crate::contract::disk::run(&*disk, Path::new("/contract"));
}

#[test]
fn a_device_that_is_not_honest_misses_by_sectors_and_forgets_what_it_synced() {
    let machine = Machine::new(1);
    let disk = machine.mount();
    let file = disk.open(Path::new("/f"), OpenMode::CreateNew).expect("creates");
    let content: Vec<u8> = (0..64u8).flat_map(|sector| [sector; SECTOR as usize]).collect();
    file.write_at(0, &content).expect("writes");
    file.sync_data().expect("syncs");
    let faults = |misdirected_read_ppm, misdirected_write_ppm, lying_sync_ppm| {
        let budget = 1;
        machine.disk.set_faults(DiskFaults {
            misdirected_read_ppm,
            misdirected_write_ppm,
            lying_sync_ppm,
            budget,
            ..DiskFaults::default()
        });
    };
    let read = |at: u64| {
        let mut bytes = vec![0; 600];
        assert_eq!(file.read_at(at, &mut bytes).expect("reads"), 600);
        bytes
    };
    let there = |at: usize| content[at..at + 600].to_vec();
    faults(1_000_000, 0, 0);
    let odd = read(1_000);
    assert!(odd != there(1_000) && (1_000 % 512..content.len() - 600).step_by(512).any(|at| odd == there(at)), "another place");
    assert_eq!(read(1_000), there(1_000), "the budget is used up");
    faults(0, 1_000_000, 0);
    file.write_at(2_048, &[99; 512]).expect("writes");
    let after: Vec<u8> = (0..64).map(|sector| read_byte(&file, sector * SECTOR)).collect();
    assert_eq!(after.iter().filter(|b| **b == 99).count(), 1);
    assert_eq!((after[4], after.len()), (4, 64), "the place itself is as it was");
    faults(0, 0, 1_000_000);
    file.write_at(0, &[100; 32 * SECTOR as usize]).expect("writes");
    file.sync_data().expect("says that it synced");
    let disk = machine.crash(CrashKind::PowerLoss);
    let file = disk.open(Path::new("/f"), OpenMode::Read).expect("opens");
    assert!((0..32).any(|sector| read_byte(&file, sector * SECTOR) != 100), "some of it is gone");
    let told: Vec<_> = machine.disk.dishonest().into_iter().collect();
    assert_eq!(told, [("misdirected-read", 1), ("misdirected-write", 1), ("sync-lied", 1)]);
}

fn read_byte(file: &DiskFile, at: u64) -> u8 {
    let mut byte = [0];
    file.read_at(at, &mut byte).expect("reads");
    byte[0]
}
