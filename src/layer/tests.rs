//! Writer and reader of layer files together, on real files.

use super::*;
use crate::io_abstraction::disk::{FileOps as _, OpenMode};
use crate::io_abstraction::probe::NoProbe;
use crate::io_abstraction::real;
use crate::types::Key;
use std::sync::Arc;

fn key(n: u32) -> Key {
    Key { field1: 0, field2: 1663, field3: 5, field4: 16384, field5: 0, field6: n }
}

fn value(k: u32, lsn: u64) -> Vec<u8> {
    format!("{k}@{lsn}").repeat((k % 7 + 1) as usize * 40).into_bytes()
}

/// Keys 0..400, key k with versions 8, 16, … ; every 5th version an image.
fn versions(k: u32) -> impl Iterator<Item = (Lsn, ValueKind)> {
    (1..=u64::from(k % 60) + 1).map(move |n| (Lsn(n * 8), if n % 5 == 0 { ValueKind::Image } else { ValueKind::Record }))
}

fn write(directory: &std::path::Path) -> LayerName {
    let disk = real::file_system();
    let mut writer = LayerWriter::create(&*disk, directory, LayerKind::Delta, 1).unwrap();
    for k in 0..400 {
        for (lsn, kind) in versions(k) {
            writer.put(key(k), lsn, kind, &value(k, lsn.0), k).unwrap();
        }
    }
    let name = LayerName::delta(Key::MIN..Key::MAX, Lsn(8)..Lsn(1000));
    writer.finish(&*disk, name.clone()).unwrap().name
}

#[test]
fn what_was_written_is_read_at_every_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let name = write(dir.path());
    let cache = BlockCache::new(1 << 20, Arc::new(NoProbe));
    let file = LayerFile::open(&*real::file_system(), dir.path(), &name, &cache).unwrap();
    for k in (0..400).step_by(7) {
        assert_eq!(file.depth(&cache, key(k)).unwrap(), Some(k));
        for end in [0, 8, 9, 40, 41, 100, 481, 1000] {
            let mut want: Vec<_> = versions(k).filter(|v| v.0 < Lsn(end)).collect();
            let base = want.iter().rposition(|v| v.1 == ValueKind::Image);
            want.drain(..base.unwrap_or(0));
            let mut found = Reconstruct::default();
            file.collect(&cache, key(k), &(Lsn(0)..Lsn(end)), &mut found).unwrap();
            assert_eq!(found.is_complete(), base.is_some());
            assert_eq!(found.base().map(<[u8]>::to_vec), base.map(|_| value(k, want[0].0.0)));
            let records: Vec<_> = found.records().map(|(lsn, r)| (lsn, r.to_vec())).collect();
            let want: Vec<_> = want.iter().filter(|v| v.1 != ValueKind::Image).map(|v| (v.0, value(k, v.0.0))).collect();
            assert_eq!(records, want, "key {k} below {end}");
        }
    }
    let mut count = 0;
    file.scan(|k, lsn, _, v| {
        assert_eq!(v, value(k.field6, lsn.0));
        count += 1;
    })
    .unwrap();
    assert_eq!(count, file.value_count);
    assert_eq!(file.depth(&cache, key(400)).unwrap(), None);
}

#[test]
fn equal_input_gives_equal_bytes_and_damage_is_noticed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = write(a.path());
    write(b.path());
    let disk = real::file_system();
    let read = |d: &std::path::Path| crate::io_abstraction::disk::read_file(&*disk, &d.join(name.to_string())).unwrap();
    let bytes = read(a.path());
    assert_eq!(bytes, read(b.path()));
    for at in (0..bytes.len()).step_by(997) {
        let file = disk.open(&a.path().join(name.to_string()), OpenMode::ReadWrite).unwrap();
        file.write_at(at as u64, &[bytes[at] ^ 0x40]).unwrap();
        let cache = BlockCache::new(1 << 20, Arc::new(NoProbe));
        let result = LayerFile::open(&*disk, a.path(), &name, &cache).and_then(|f| f.scan(|_, _, _, _| {}));
        assert!(result.is_err_and(|e| e.is_damage()), "byte {at}");
        file.write_at(at as u64, &[bytes[at]]).unwrap();
    }
}

#[test]
fn a_scan_gives_every_value_in_order_and_notices_damage() {
    let dir = tempfile::tempdir().unwrap();
    let name = write(dir.path());
    let disk = real::file_system();
    let cache = BlockCache::new(1 << 20, Arc::new(NoProbe));
    let file = Arc::new(LayerFile::open(&*disk, dir.path(), &name, &cache).unwrap());
    let mut want = Vec::new();
    file.scan(|k, lsn, kind, v| want.push((k, lsn, kind, v.to_vec()))).unwrap();
    let (mut scan, mut found) = (Scan::start(file, &cache).unwrap(), Vec::new());
    assert!(scan.key_bytes(&cache).unwrap() > 0);
    while let Some(version) = scan.current() {
        found.push((version.key, version.lsn, version.kind, version.value.to_vec()));
        scan.advance(&cache).unwrap();
    }
    assert_eq!(found, want);
    let path = dir.path().join(name.to_string());
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(100, &mut byte).unwrap();
    file.write_at(100, &[byte[0] ^ 1]).unwrap();
    let damaged = LayerFile::open(&*disk, dir.path(), &name, &cache).map(Arc::new).and_then(|f| Scan::start(f, &cache).map(|_| ()));
    assert!(damaged.is_err_and(|e| e.is_damage()));
}

#[test]
fn a_layer_that_cannot_be_finished_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = real::file_system();
    let name = LayerName::delta(Key::MIN..Key::MAX, Lsn(8)..Lsn(1000));
    disk.create_dir_all(&dir.path().join(name.to_string())).unwrap();
    let mut writer = LayerWriter::create(&*disk, dir.path(), LayerKind::Delta, 1).unwrap();
    writer.put(key(0), Lsn(8), ValueKind::Image, b"x", 0).unwrap();
    assert!(writer.finish(&*disk, name.clone()).is_err());
    let left: Vec<String> = disk.list(dir.path()).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, [name.to_string()]);
}
