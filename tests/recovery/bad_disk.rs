//! Damaged layers and a full disk: what is whole elsewhere is fetched again, what is not is one page's error, and nothing is
//! acknowledged that has no place.

use super::support::cluster::Cluster;
use super::support::pages::Pages;
use super::support::pal::{Pal, TENANT, TIMELINE};
use super::support::{Place, wait_for};
use palimpsest::types::Lsn;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn files_of(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// The largest layer file of the timeline: that of the relations.
fn largest_layer(pal: &Pal<'_>) -> PathBuf {
    let directory = pal.data.join(format!("tenants/{TENANT}/timelines/{TIMELINE}"));
    files_of(&directory).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

/// Its copy in remote storage, whose name goes on with the generation.
fn remote_copy(pal: &Pal<'_>, layer: &Path) -> PathBuf {
    let directory = pal.data.join(format!("remote/tenants/{TENANT}/timelines/{TIMELINE}"));
    let name = layer.file_name().unwrap().to_str().unwrap();
    files_of(&directory).into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap()
}

/// Flips a byte inside the first of `len` bytes from the middle on that is not zero.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_layers() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", "autovacuum=off\n");
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT g a, md5(g::text) b FROM generate_series(1, 200000) g");
    let place_of = primary.sql("SELECT 1663, oid, pg_relation_filenode('t') FROM pg_database WHERE datname = 'postgres'");
    let numbers: Vec<u32> = place_of.split('|').map(|n| n.parse().unwrap()).collect();
    let rel = (numbers[0], numbers[1], numbers[2]);
    primary.stop("fast");
    let mut pal = Pal::start(&place, &[]);
    pal.import(&primary);
    let lsn = pal.lsn(TIMELINE, "last_record_lsn");
    let layer = largest_layer(&pal);
    let whole = std::fs::read(&layer).unwrap();
    let read_all = |pal: &Pal<'_>| -> Vec<Result<Vec<u8>, String>> {
        let mut pages = Pages::open(&pal.pages, TIMELINE);
        let blocks = pages.blocks(rel, lsn).unwrap();
        (0..blocks).map(|block| pages.page(rel, block, lsn)).collect()
    };
    let truth: Vec<Vec<u8>> = read_all(&pal).into_iter().collect::<Result<_, _>>().unwrap();

    // The local file is damaged: remote storage has a whole one.
    pal.stop();
    damage(&layer);
    pal.run();
    let again: Vec<Vec<u8>> = read_all(&pal).into_iter().collect::<Result<_, _>>().unwrap();
    assert!(again == truth);
    assert!(std::fs::read(&layer).unwrap() == whole, "the local file is whole again");
    assert!(pal.log().contains("damaged"), "{}", pal.log());

    // Both are damaged: some pages are lost, and their error says so; the others are there.
    pal.stop();
    damage(&layer);
    damage(&remote_copy(&pal, &layer));
    pal.run();
    let now = read_all(&pal);
    let lost: Vec<&String> = now.iter().filter_map(|page| page.as_ref().err()).collect();
    assert!(!lost.is_empty() && lost.len() <= truth.len() / 10, "{} of {} pages are lost", lost.len(), truth.len());
    let name = layer.file_name().unwrap().to_str().unwrap();
    assert!(lost.iter().all(|error| error.contains("damaged") && error.contains(name)), "{:?}", lost[0]);
    assert!(now.iter().zip(&truth).all(|(now, truth)| now.as_ref().map_or(true, |now| now == truth)));
    println!("bad disk: {} of {} pages are lost with their block: {}", lost.len(), truth.len(), lost[0]);
    let refused = pal.try_export(TIMELINE, None, "fresh", &place.path("none")).unwrap_err();
    assert!(refused.contains("damaged"), "{refused}");
    assert!(!place.path("none").exists(), "nothing half-made stays");
    assert!(pal.is_running());
}

#[test]
fn a_full_disk_stops_acknowledging_and_nothing_else() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", "autovacuum=off\nmax_wal_size=4GB\n");
    primary.start();
    primary.sql("CREATE TABLE t(a int, b text)");
    primary.stop("fast");
    let mut pal = Pal::start(&place, &[&format!("disk_reserve_bytes={}", 1u64 << 50)]);
    pal.import(&primary);
    let begin = pal.lsn(TIMELINE, "last_record_lsn");
    primary.start();
    pal.follow(&primary.connstr());
    primary.sql("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 20000) g");
    let end: Lsn = primary.wal_end().parse().unwrap();
    let said = pal.wait_receiver("bytes of disk are free");
    assert!(said.contains("nothing is acknowledged until space is freed"), "{said}");
    // Not a byte of the new WAL was confirmed.
    let confirmed = primary.sql("SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication");
    assert!(confirmed.parse::<Lsn>().unwrap() <= begin, "{confirmed} is confirmed, {begin} is kept");
    pal.export(TIMELINE, Some(begin), "fresh", &place.path("meanwhile"));
    place.discard(&place.path("meanwhile"));

    pal.stop();
    pal.set(&["disk_reserve_bytes=1048576"]);
    pal.run();
    pal.wait_lsn(TIMELINE, end);
    wait_for("the WAL is confirmed", Duration::from_secs(10), || {
        let confirmed = primary.sql("SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication");
        (confirmed.parse::<Lsn>().unwrap() >= end).then_some(())
    });
}
