//! Import: everything that was in the files is in the timeline; what is not a stopped cluster is refused.

use super::cluster::{Cluster, TENANT, TIMELINE};
use palimpsest::pg::control::{ClusterState, ControlFile};
use palimpsest::timeline::Timeline;
use palimpsest::timeline::import::{self, ImportOptions};
use palimpsest::types::rel::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE};
use palimpsest::types::{Fork, Key, RelTag, SlruKind};
use std::path::{Path, PathBuf};

fn files(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut all: Vec<(String, PathBuf)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), path))
        .collect();
    all.sort();
    all
}

/// (relation, fork) of a file of a small relation.
fn relation(name: &str) -> Option<(u32, Fork)> {
    let (rel, suffix) = name.split_at(name.find('_').unwrap_or(name.len()));
    let fork = Fork::ALL.into_iter().find(|fork| fork.suffix() == suffix)?;
    Some((rel.parse().ok()?, fork))
}

/// Compares one directory of relations with the timeline; gives the number of relations.
async fn compare_database(timeline: &Timeline, (spc, db): (u32, u32), directory: &Path) -> usize {
    let lsn = timeline.last_record.lsn();
    let all = files(directory);
    let unlogged: Vec<u32> = all.iter().filter_map(|(name, _)| relation(name)).filter(|r| r.1 == Fork::Init).map(|r| r.0).collect();
    let mut expected = std::collections::BTreeSet::new();
    for (name, path) in &all {
        let Some((rel, fork)) = relation(name) else { continue };
        let tag = RelTag { spc, db, rel, fork };
        if unlogged.contains(&rel) && fork != Fork::Init {
            assert!(!timeline.rel_exists(tag, lsn).await.unwrap(), "{tag} is unlogged");
            continue;
        }
        expected.insert((rel, fork));
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(timeline.rel_size(tag, lsn).await.unwrap(), Some((bytes.len() / 8192) as u32), "{tag}");
        for (block, page) in (0..).zip(bytes.chunks(8192)) {
            assert_eq!(timeline.rel_block(tag, block, lsn).await.unwrap(), page, "{tag} block {block}");
        }
    }
    assert_eq!(timeline.relations(spc, db, lsn).await.unwrap(), expected, "relations of {spc}/{db}");
    let map = directory.join("pg_filenode.map");
    let has_map = map.exists();
    assert_eq!(timeline.db_dir(lsn).await.unwrap().0.get(&(spc, db)), Some(&has_map), "{spc}/{db}");
    if has_map {
        assert_eq!(timeline.get(Key::rel_map(spc, db), lsn).await.unwrap(), std::fs::read(map).unwrap());
    }
    expected.len()
}

fn subdirectories(directory: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path))).collect()
}

#[tokio::test]
async fn everything_in_the_files_is_in_the_timeline() {
    let cluster = Cluster::new().await;
    cluster.load_and_stop().await;
    let (imported, timeline) = cluster.import_into(1 << 20, None);
    let (root, lsn) = (&cluster.data_dir, timeline.last_record.lsn());
    assert!(imported.layers.len() > 3, "{} layers", imported.layers.len());
    assert_eq!(imported.layers[0].name.keys.start, Key::MIN);
    assert_eq!(imported.layers.last().unwrap().name.keys.end, Key::MAX);
    assert!(imported.layers.windows(2).all(|w| w[0].name.keys.end == w[1].name.keys.start));

    let raw = std::fs::read(root.join("global/pg_control")).unwrap();
    let control = ControlFile::decode(&raw).unwrap();
    assert_eq!(timeline.get(Key::CONTROL_FILE, lsn).await.unwrap(), raw);
    assert_eq!(timeline.get(Key::CHECKPOINT, lsn).await.unwrap(), control.checkpoint_copy.encode().as_slice());
    assert_eq!((imported.prev_record_lsn, imported.system_identifier), (control.checkpoint, control.system_id));
    // The record has 24 bytes of header, 2 of data header and 88 of data.
    assert_eq!(imported.lsn.0, (control.checkpoint.0 + 114).next_multiple_of(8));
    assert!(imported.hint_bits_logged);

    let mut count = compare_database(&timeline, (GLOBAL_TABLESPACE, 0), &root.join("global")).await;
    let mut databases = vec![(GLOBAL_TABLESPACE, 0)];
    for (db, directory) in subdirectories(&root.join("base")) {
        count += compare_database(&timeline, (DEFAULT_TABLESPACE, db), &directory).await;
        databases.push((DEFAULT_TABLESPACE, db));
    }
    let spaces = subdirectories(&root.join("pg_tblspc"));
    assert_eq!(spaces.len(), 1);
    let known = timeline.tablespace_dir(lsn).await.unwrap().0;
    assert_eq!(known.into_iter().collect::<Vec<_>>(), vec![(spaces[0].0, cluster.tablespace.display().to_string())]);
    for (db, directory) in subdirectories(&spaces[0].1.join("PG_15_202209061")) {
        count += compare_database(&timeline, (spaces[0].0, db), &directory).await;
        databases.push((spaces[0].0, db));
    }
    databases.sort();
    assert_eq!(timeline.db_dir(lsn).await.unwrap().0.into_keys().collect::<Vec<_>>(), databases);
    assert!(count > 1000 && databases.len() == 7, "{count} relations, {databases:?}");

    for kind in SlruKind::ALL {
        let all = files(&root.join(kind.directory()));
        let numbers: Vec<u32> = all.iter().map(|(name, _)| u32::from_str_radix(name, 16).unwrap()).collect();
        assert!(!numbers.is_empty(), "{kind:?}");
        assert_eq!(timeline.slru_segments(kind, lsn).await.unwrap().0.into_iter().collect::<Vec<_>>(), numbers, "{kind:?}");
        for ((_, path), segment) in all.iter().zip(numbers) {
            assert_eq!(timeline.slru_segment(kind, segment, lsn).await.unwrap(), std::fs::read(path).unwrap(), "{kind:?} {segment}");
        }
    }
    let prepared = files(&root.join("pg_twophase"));
    assert_eq!(prepared.len(), 1);
    let xid = u64::from_str_radix(&prepared[0].0, 16).unwrap();
    assert_eq!(timeline.two_phase_dir(lsn).await.unwrap().0.into_iter().collect::<Vec<_>>(), vec![xid]);
    let stored = timeline.get(Key::two_phase_file(xid), lsn).await.unwrap();
    let file = std::fs::read(&prepared[0].1).unwrap();
    assert_eq!(stored, file[..file.len() - 4]);

    let (again, timeline) = cluster.import_into(1 << 20, Some(77));
    assert_eq!(again.layers.len(), imported.layers.len());
    let control = ControlFile::decode(&timeline.get(Key::CONTROL_FILE, lsn).await.unwrap()).unwrap();
    assert_eq!((control.system_id, again.system_identifier), (77, 77));
    assert_eq!(control.mock_authentication_nonce, import::authentication_nonce(77));
}

#[tokio::test]
async fn what_is_no_stopped_cluster_is_refused() {
    let cluster = Cluster::new().await;
    let disk = cluster.place.env.disk.clone();
    let shared = cluster.shared();
    let target = Timeline::directory(&shared.config, TENANT, TIMELINE);
    let refused = |directory: &Path, part: &str| {
        let options = ImportOptions { directory: directory.to_path_buf(), system_identifier: None };
        let Err(error) = import::run(&*disk, &target, &options, 1 << 20) else { panic!("taken although: {part}") };
        let error = error.to_string();
        assert!(error.contains(part), "{error}");
        let left = disk.list(&target).unwrap_or_default();
        assert!(left.is_empty(), "{part}: left behind {left:?}");
    };
    refused(&cluster.place.path("absent"), "is not a PostgreSQL data directory");

    let server = cluster.start().await;
    refused(&cluster.data_dir, "pg_ctl stop -m fast first");
    server.kill().await.unwrap();
    std::fs::remove_file(cluster.data_dir.join("postmaster.pid")).unwrap();
    refused(&cluster.data_dir, "its state is in production");
    // The processes of a killed server take a moment to be gone; starting waits for that.
    cluster.start().await.stop(palimpsest::postgres::StopMode::Fast).await.unwrap();

    let path = |name: &str| cluster.data_dir.join(name);
    let with_file = |name: &str, bytes: &[u8], part: &str| {
        let before = std::fs::read(path(name)).ok();
        std::fs::write(path(name), bytes).unwrap();
        refused(&cluster.data_dir, part);
        match before {
            Some(before) => std::fs::write(path(name), before).unwrap(),
            None => std::fs::remove_file(path(name)).unwrap(),
        }
    };
    with_file("backup_label", b"START WAL LOCATION", "never recovered");
    with_file("base/1/99999", &[1; 100], "not a multiple of 8192");
    with_file("base/1/99999.1", &[0; 8192], "missing or not full");
    with_file("pg_twophase/0000ABCD", b"xxxxyyyy", "its checksum is wrong");
    with_file("pg_twophase/x", b"", "hexadecimal digits");
    with_file("global/pg_filenode.map", b"short", "has 5 bytes, 512 are due");
    let mut page = std::fs::read(path("global/1262")).unwrap();
    page[8000] ^= 1;
    with_file("global/1262", &page, "global/1262: the checksum of block 0 is wrong");

    let raw = std::fs::read(path("global/pg_control")).unwrap();
    let changed = |change: &dyn Fn(&mut ControlFile)| {
        let mut control = ControlFile::decode(&raw).unwrap();
        change(&mut control);
        control.encode()
    };
    with_file("global/pg_control", &changed(&|c| c.state = ClusterState::ShutDownInRecovery), "while it was a standby");
    with_file("global/pg_control", &changed(&|c| c.checkpoint.0 -= 8), "cannot be read");
    with_file("global/pg_control", &changed(&|c| c.checkpoint_copy.next_oid += 1), "differs from pg_control's copy");
    with_file("global/pg_control", &changed(&|c| c.checkpoint_copy.tli = 3), "absent or too short");
    with_file("global/pg_control", &changed(&|c| c.system_id += 1), "is another cluster's");
    with_file("global/pg_control", &raw[..100], "pg_control has 100 bytes");

    // pg_control as of an earlier shutdown: the WAL knows more.
    cluster.start().await.stop(palimpsest::postgres::StopMode::Fast).await.unwrap();
    with_file("global/pg_control", &raw, "WAL goes on");
}
