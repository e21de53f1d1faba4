//! What was acknowledged to a client is kept: palimpsest is the synchronous receiver, is killed again and again, and the
//! primary is lost in the end.

use super::support::cluster::Cluster;
use super::support::pal::{Pal, TIMELINE};
use super::support::{Numbers, Place, long, wait_for};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 6;
const SCRIPT: &str = "\\set n :n + 1\nINSERT INTO kept VALUES (:client_id, :n);\n";

/// Transactions acknowledged to each client, by pgbench's log: one line each, in the client's order.
fn acknowledged(directory: &Path) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let mut words = line.split(' ');
            let client: u32 = words.next().unwrap().parse().unwrap();
            let count = counts.entry(client).or_insert(0);
            *count += 1;
            assert_eq!(words.next().unwrap().parse::<u64>().unwrap(), *count, "{line}");
        }
    }
    counts
}

#[test]
fn every_acknowledged_commit_survives_the_primary() {
    let (seconds, kills) = if long() { (60, 5) } else { (10, 2) };
    let place = Place::new();
    let mut numbers = Numbers::new("durability");
    let mut primary = Cluster::create(&place, "primary", "max_wal_size=4GB\n");
    primary.start();
    primary.sql("CREATE TABLE kept(client int, n int)");
    primary.stop("fast");
    let mut pal = Pal::start(&place, &["checkpoint_distance=4194304"]);
    pal.import(&primary);
    primary.start();
    pal.follow(&primary.connstr());
    pal.wait_receiver("Streaming");
    primary.configure("synchronous_standby_names='FIRST 1 (palimpsest)'\n");
    primary.sql("SELECT pg_reload_conf()");
    let synchronous = || (primary.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1").then_some(());
    wait_for("palimpsest is the synchronous standby", Duration::from_secs(10), synchronous);

    let script = place.path("script.sql");
    std::fs::write(&script, SCRIPT).unwrap();
    let logs = place.path("logs");
    std::fs::create_dir(&logs).unwrap();
    let mut load = primary.client("pgbench");
    load.args(["-n", "-M", "prepared", "-D", "n=0", "-l", "-j", "2", "-c", &CLIENTS.to_string(), "-T", &(seconds + 30).to_string()]);
    load.arg("--log-prefix").arg(logs.join("t")).arg("-f").arg(&script);
    let mut load = primary.background(&mut load, &place.path("pgbench.log"));
    let begun = Instant::now();
    for round in 1..=kills {
        // Spread over the run, never twice at the same distance.
        let at = seconds * 1000 * round / (kills + 1) + numbers.below(1000);
        std::thread::sleep(Duration::from_millis(at).saturating_sub(begun.elapsed()));
        pal.kill();
        pal.run();
    }
    std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    assert!(load.is_running(), "{}", std::fs::read_to_string(place.path("pgbench.log")).unwrap());
    // The primary is gone in the middle of its work; the receiver dies once more before it saw the end of it.
    primary.stop("immediate");
    pal.kill();
    pal.run();
    wait_for("pgbench notices the loss", Duration::from_secs(30), || (!load.is_running()).then_some(()));
    let acknowledged = acknowledged(&logs);
    assert_eq!(acknowledged.len(), CLIENTS as usize);

    let mut last = pal.lsn(TIMELINE, "last_record_lsn");
    // Nothing more comes: the log is read to its end when the position rests.
    wait_for("the WAL log is ingested", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = pal.lsn(TIMELINE, "last_record_lsn");
        std::mem::replace(&mut last, now).eq(&now).then_some(())
    });
    pal.export(TIMELINE, None, "fresh", &place.path("copy"));
    let mut copy = Cluster::adopt(&place, "copy", "");
    copy.start();
    let rows = copy.sql("SELECT client, count(*), count(DISTINCT n), max(n) FROM kept GROUP BY 1");
    let mut total = 0;
    for row in rows.lines() {
        let fields: Vec<u64> = row.split('|').map(|field| field.parse().unwrap()).collect();
        let (client, kept) = (fields[0] as u32, fields[1]);
        let known = acknowledged[&client];
        // The last one may be there although its answer was lost.
        assert!(kept >= known && kept <= known + 1, "client {client}: {known} were acknowledged, {kept} are there");
        assert_eq!((fields[2], fields[3]), (kept, kept), "client {client} has gaps");
        total += known;
    }
    assert_eq!(rows.lines().count(), CLIENTS as usize);
    println!("durability: {total} acknowledged commits of {CLIENTS} clients in {seconds} s, {} kills of pal, all kept", pal.starts - 1);
}
