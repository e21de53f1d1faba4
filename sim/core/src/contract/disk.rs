//! Assertions about `Disk` and `FileOps`.

use palimpsest::io_abstraction::disk::{FileOps as _, read_file, write_file_durably};
use palimpsest::io_abstraction::{Disk, OpenMode};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Runs all of them in `dir`, an empty directory of the disk.
pub fn run(disk: &dyn Disk, dir: &Path) {
    reads_and_writes(disk, dir);
    lengths(disk, dir);
    opening(disk, dir);
    read_only_handles(disk, dir);
    renaming(disk, dir);
    removing(disk, dir);
    directories(disk, dir);
    listing(disk, dir);
    open_files_outlive_their_names(disk, dir);
    durable_replacement(disk, dir);
    assert!(disk.space(dir).expect("tells its size").available > 0);
    assert!(disk.list(dir).expect("lists").is_empty(), "every check cleans up");
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.kind(),
    }
}

fn reads_and_writes(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("data");
    let file = disk.open(&path, OpenMode::CreateNew).expect("creates");
    assert!(file.is_empty().expect("has a length"));
    file.write_at(0, b"hello").expect("writes");
    let mut buf = [0xEE; 8];
    assert_eq!(file.read_at(0, &mut buf).expect("reads"), 5, "a read ends with the file");
    assert_eq!(&buf, b"hello\xEE\xEE\xEE", "the rest of the buffer is untouched");
    assert_eq!(file.read_at(5, &mut buf).expect("reads at the end"), 0);
    assert_eq!(file.read_at(1 << 40, &mut buf).expect("reads far past the end"), 0);
    assert_eq!(file.read_at(1, &mut buf[..3]).expect("reads"), 3);
    assert_eq!(&buf[..3], b"ell");
    assert_eq!(kind(file.read_exact_at(3, &mut [0; 3])), ErrorKind::UnexpectedEof);
    file.write_at(10_000, b"far").expect("writes behind the end");
    let mut gap = [1; 100];
    assert_eq!(file.read_at(5000, &mut gap).expect("reads the gap"), 100);
    assert_eq!(gap, [0; 100], "a gap reads as zeros");
    assert_eq!(file.len().expect("has a length"), 10_003);
    file.write_at(20_000, b"").expect("writes nothing");
    assert_eq!(file.len().expect("has a length"), 10_003, "writing nothing does not extend");
    file.write_at(4094, b"across").expect("writes across a page");
    let other = disk.open(&path, OpenMode::Read).expect("opens again");
    assert_eq!(other.read_at(4094, &mut buf[..6]).expect("reads"), 6);
    assert_eq!(&buf[..6], b"across", "reads see every write that returned, through any handle");
    file.sync_data().expect("syncs");
    disk.unlink(&path).expect("removes");
}

fn lengths(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("length");
    let file = disk.open(&path, OpenMode::CreateNew).expect("creates");
    file.write_at(0, &[7; 6000]).expect("writes");
    file.set_len(100).expect("cuts");
    file.set_len(9000).expect("grows");
    let mut bytes = vec![1; 9000];
    assert_eq!(file.read_at(0, &mut bytes).expect("reads"), 9000);
    assert!(bytes[..100].iter().all(|b| *b == 7));
    assert!(bytes[100..].iter().all(|b| *b == 0), "growth reads zeros, also where bytes were cut off before");
    file.set_len(16 << 20).expect("grows a lot");
    assert_eq!(file.len().expect("has a length"), 16 << 20);
    file.set_len(0).expect("empties");
    assert!(file.is_empty().expect("has a length"));
    disk.unlink(&path).expect("removes");
}

fn opening(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("open");
    assert_eq!(kind(disk.open(&path, OpenMode::Read)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(&path, OpenMode::ReadWrite)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(&dir.join("absent/file"), OpenMode::CreateNew)), ErrorKind::NotFound);
    let file = disk.open(&path, OpenMode::CreateNew).expect("creates");
    file.write_at(0, b"content").expect("writes");
    assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(&path.join("below"), OpenMode::CreateNew)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.open(dir, OpenMode::ReadWrite)), ErrorKind::IsADirectory);
    let again = disk.open(&path, OpenMode::ReadWrite).expect("opens");
    assert_eq!(again.len().expect("has a length"), 7, "opening for writing keeps the content");
    let emptied = disk.open(&path, OpenMode::CreateTruncate).expect("empties");
    assert_eq!(emptied.len().expect("has a length"), 0);
    assert_eq!(file.len().expect("has a length"), 0, "it is the same file");
    disk.unlink(&path).expect("removes");
}

fn read_only_handles(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("ro");
    disk.open(&path, OpenMode::CreateNew).expect("creates").write_at(0, b"x").expect("writes");
    let file = disk.open(&path, OpenMode::Read).expect("opens");
    assert!(file.write_at(0, b"y").is_err());
    assert!(file.set_len(0).is_err());
    assert_eq!(read_file(disk, &path).expect("reads"), b"x");
    disk.unlink(&path).expect("removes");
}

fn renaming(disk: &dyn Disk, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    for (path, content) in [(&a, b"a"), (&b, b"b")] {
        disk.open(path, OpenMode::CreateNew).expect("creates").write_at(0, content).expect("writes");
    }
    let old = disk.open(&b, OpenMode::Read).expect("opens");
    disk.rename(&a, &b).expect("renames over a file");
    assert_eq!(read_file(disk, &b).expect("reads"), b"a");
    assert_eq!(kind(disk.open(&a, OpenMode::Read)), ErrorKind::NotFound);
    let mut byte = [0];
    assert_eq!((old.read_at(0, &mut byte).expect("reads"), &byte), (1, b"b"), "the old file lives on for who has it open");
    assert_eq!(kind(disk.rename(&a, &b)), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(&b, &dir.join("absent/b"))), ErrorKind::NotFound);
    disk.rename(&b, &b).expect("renaming to itself does nothing");
    let (from, to) = (dir.join("from"), dir.join("to"));
    disk.create_dir_all(&from.join("deep")).expect("creates");
    disk.rename(&b, &from.join("deep/file")).expect("moves into a directory");
    disk.rename(&from, &to).expect("renames a directory");
    assert_eq!(read_file(disk, &to.join("deep/file")).expect("reads"), b"a");
    disk.create_dir_all(&from).expect("creates");
    assert_eq!(kind(disk.rename(&from, &to)), ErrorKind::DirectoryNotEmpty);
    disk.remove_dir_all(&from).expect("removes");
    disk.remove_dir_all(&to).expect("removes");
}

fn removing(disk: &dyn Disk, dir: &Path) {
    assert_eq!(kind(disk.unlink(&dir.join("absent"))), ErrorKind::NotFound);
    let sub = dir.join("sub");
    disk.remove_dir_all(&sub).expect("an absent directory is fine");
    disk.create_dir_all(&sub.join("x/y")).expect("creates");
    assert!(disk.unlink(&sub).is_err(), "unlink is for files");
    disk.open(&sub.join("x/file"), OpenMode::CreateNew).expect("creates");
    disk.remove_dir_all(&sub).expect("removes with everything inside");
    assert_eq!(kind(disk.list(&sub)), ErrorKind::NotFound);
}

fn directories(disk: &dyn Disk, dir: &Path) {
    let deep = dir.join("p/q/r");
    disk.create_dir_all(&deep).expect("creates with parents");
    disk.create_dir_all(&deep).expect("fine if it is there");
    disk.sync_dir(&deep).expect("syncs");
    assert_eq!(kind(disk.sync_dir(&dir.join("absent"))), ErrorKind::NotFound);
    let file = dir.join("p/file");
    disk.open(&file, OpenMode::CreateNew).expect("creates");
    assert!(disk.create_dir_all(&file).is_err(), "the name is taken by a file");
    assert!(disk.create_dir_all(&file.join("below")).is_err());
    assert_eq!(kind(disk.list(&file)), ErrorKind::NotADirectory);
    disk.remove_dir_all(&dir.join("p")).expect("removes");
}

fn listing(disk: &dyn Disk, dir: &Path) {
    for name in ["b", "a", "B", "a.1", "_"] {
        disk.open(&dir.join(name), OpenMode::CreateNew).expect("creates").write_at(0, name.as_bytes()).expect("writes");
    }
    disk.create_dir_all(&dir.join("ab/inner")).expect("creates");
    let entries = disk.list(dir).expect("lists");
    let seen: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.is_dir, e.len)).collect();
    let expected = [("B", false, 1), ("_", false, 1), ("a", false, 1), ("a.1", false, 3), ("ab", true, 0), ("b", false, 1)];
    assert_eq!(seen, expected, "sorted by name, direct children only");
    for name in ["b", "a", "B", "a.1", "_"] {
        disk.unlink(&dir.join(name)).expect("removes");
    }
    disk.remove_dir_all(&dir.join("ab")).expect("removes");
}

fn open_files_outlive_their_names(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("ghost");
    let file = disk.open(&path, OpenMode::CreateNew).expect("creates");
    disk.unlink(&path).expect("removes");
    file.write_at(0, b"still here").expect("writes");
    file.sync_data().expect("syncs");
    let mut buf = [0; 10];
    assert_eq!(file.read_at(0, &mut buf).expect("reads"), 10);
    assert_eq!(&buf, b"still here");
    assert_eq!(kind(disk.open(&path, OpenMode::Read)), ErrorKind::NotFound);
}

fn durable_replacement(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("replaced");
    write_file_durably(disk, &path, b"a long first version").expect("writes");
    write_file_durably(disk, &path, b"second").expect("replaces");
    assert_eq!(read_file(disk, &path).expect("reads"), b"second");
    assert_eq!(disk.list(dir).expect("lists").len(), 1, "the temporary file is gone");
    disk.unlink(&path).expect("removes");
}
