//! WAL that is damaged, foreign or of another history: a clear word about it, reads go on, nothing is lost.

use super::support::cluster::Cluster;
use super::support::pages::{Pages, Rel};
use super::support::pal::{Pal, TIMELINE};
use super::support::proxy::Proxy;
use super::support::{Place, wait_for};
use palimpsest::types::Lsn;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONFIG: &str = "max_wal_size=4GB\nautovacuum=off\n";

fn load(primary: &Cluster<'_>, rows: u32) -> Lsn {
    primary.sql(&format!("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, {rows}) g"));
    primary.wal_end().parse().unwrap()
}

fn relation(cluster: &Cluster<'_>, name: &str) -> Rel {
    let place = cluster.sql(&format!("SELECT 1663, d.oid, pg_relation_filenode('{name}') FROM pg_database d WHERE datname = 'postgres'"));
    let numbers: Vec<u32> = place.split('|').map(|n| n.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2])
}

/// The page as a server has it, which checkpointed before and changed nothing since.
fn block_on_disk(cluster: &Cluster<'_>, rel: Rel, block: u32) -> Vec<u8> {
    let file = std::fs::read(cluster.data.join(format!("base/{}/{}", rel.1, rel.2))).unwrap();
    file[block as usize * 8192..][..8192].to_vec()
}

fn assert_same_page(ours: &[u8], theirs: &[u8]) {
    // The checksum is made when a page is written.
    assert!(ours[..8] == theirs[..8] && ours[10..] == theirs[10..], "the page differs from the server's");
}

/// The WAL log's files, oldest first.
fn log_files(pal: &Pal<'_>) -> Vec<PathBuf> {
    let directory = pal.data.join(format!("tenants/{}/timelines/{TIMELINE}/wal", super::support::pal::TENANT));
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn damage(path: &Path, offset: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_wal_is_fetched_again() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", CONFIG);
    primary.start();
    primary.sql("CREATE TABLE t(a int, b text)");
    primary.stop("fast");
    let mut pal = Pal::start(&place, &[]);
    pal.import(&primary);
    primary.start();
    let rel = relation(&primary, "t");
    let front = place.path("front");
    let proxy = Proxy::start(&front, &primary.socket, "5700");
    pal.follow(&primary.connstr().replace(&primary.socket.display().to_string(), &front.display().to_string()));
    let before = load(&primary, 1000);
    pal.wait_lsn(TIMELINE, before);

    // A byte of the stream flips on its way. Reads below it go on; the rest comes again.
    proxy.damage_once();
    let end = load(&primary, 20_000);
    wait_for("the damage is done", Duration::from_secs(10), || proxy.is_done().then_some(()));
    assert_eq!(Pages::open(&pal.pages, TIMELINE).page(rel, 0, before).unwrap().len(), 8192);
    pal.wait_lsn(TIMELINE, end);
    primary.sql("CHECKPOINT");
    let blocks = Pages::open(&pal.pages, TIMELINE).blocks(rel, end).unwrap();
    for block in [0, blocks / 2, blocks - 1] {
        assert_same_page(&Pages::open(&pal.pages, TIMELINE).page(rel, block, end).unwrap(), &block_on_disk(&primary, rel, block));
    }

    // A byte of the log flips while the process is down, in WAL that no layer has yet.
    let end = load(&primary, 20_000);
    pal.wait_lsn(TIMELINE, end);
    pal.kill();
    let middle = Lsn((before.0 + end.0) / 2);
    let files = log_files(&pal);
    let file = files.iter().find(|f| f.ends_with(format!("{:08X}{:08X}{:08X}", 1, 0, middle.0 >> 24))).unwrap();
    damage(file, middle.0 & 0xFF_FFFF);
    pal.run();
    pal.wait_lsn(TIMELINE, end);
    primary.sql("CHECKPOINT");
    let blocks = Pages::open(&pal.pages, TIMELINE).blocks(rel, end).unwrap();
    assert_same_page(&Pages::open(&pal.pages, TIMELINE).page(rel, blocks - 1, end).unwrap(), &block_on_disk(&primary, rel, blocks - 1));
    // The log itself is whole again: the next start reads it to the end.
    pal.kill();
    primary.stop("fast");
    pal.run();
    pal.wait_lsn(TIMELINE, end);
}

#[test]
fn other_histories_are_refused() {
    let place = Place::new();
    let mut primary = Cluster::create(&place, "primary", CONFIG);
    primary.start();
    primary.sql("CREATE TABLE t(a int, b text)");
    primary.stop("fast");
    let pal = Pal::start(&place, &["wait_lsn_timeout='300ms'"]);
    pal.import(&primary);
    primary.start();
    let rel = relation(&primary, "t");
    pal.follow(&primary.connstr());
    let first = load(&primary, 1000);
    pal.wait_lsn(TIMELINE, first);

    let mut foreign = Cluster::create(&place, "foreign", "");
    foreign.start();
    pal.follow(&foreign.connstr());
    let said = pal.wait_receiver("Stopped");
    assert!(said.contains("system identifier"), "{said}");
    foreign.stop("fast");
    let mut pages = Pages::open(&pal.pages, TIMELINE);
    pages.page(rel, 0, first).unwrap();
    // WAL that is not here: the error says why it does not come.
    let late = pages.page(rel, 0, Lsn(first.0 + (1 << 30))).unwrap_err();
    assert!(late.contains("WalReceiver status: Stopped") && late.contains("system identifier"), "{late}");
    let early = pages.page(rel, 0, Lsn(0x18)).unwrap_err();
    assert!(early.contains("gc cutoff"), "{early}");
    let unknown = pages.blocks((1663, rel.1, 3_999_999), first).unwrap_err();
    assert!(unknown.contains("does not exist"), "{unknown}");

    // The right one again: nothing is lost.
    pal.follow(&primary.connstr());
    let second = load(&primary, 1000);
    pal.wait_lsn(TIMELINE, second);

    // The primary is put back from a copy and goes another way, until its WAL is longer than ours.
    primary.stop("fast");
    let copy = place.path("older");
    place.copy(&primary.data, &copy);
    primary.start();
    let ours = load(&primary, 3000);
    pal.wait_lsn(TIMELINE, ours);
    primary.stop("immediate");
    drop(primary);
    let mut older = Cluster::adopt(&place, "older", CONFIG);
    older.start();
    pal.follow(&older.connstr());
    let here = pal.wait_receiver("Not active");
    println!("bad WAL: a primary that is behind: {here}");
    load(&older, 30_000);
    let said = pal.wait_receiver("Stopped");
    println!("bad WAL: {said}");
    assert!(said.contains("diverged"), "{said}");
    let mut pages = Pages::open(&pal.pages, TIMELINE);
    pages.page(rel, 0, ours).unwrap();
    assert!(pal.lsn(TIMELINE, "last_record_lsn") >= ours);
    // Nothing of the other history came in.
    let late = pages.page(rel, 0, Lsn(ours.0 + (1 << 20))).unwrap_err();
    assert!(late.contains("diverged"), "{late}");
}
