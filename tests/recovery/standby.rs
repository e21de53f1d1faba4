//! Exports at random record boundaries equal a stock standby at the same place, pass PostgreSQL's own checks, and start.

use super::support::cluster::Cluster;
use super::support::compare::compare;
use super::support::oracle::{Base, check_balances, check_checksums, check_with_amcheck, record_boundaries};
use super::support::pal::{Pal, TIMELINE};
use super::support::workload::{CONFIG, Load, prepare};
use super::support::{Numbers, Place, long};
use palimpsest::types::Lsn;
use std::time::{Duration, Instant};

/// Stops the load and leaves WAL behind the last boundary.
fn end_of_load(primary: &Cluster<'_>, load: Load) -> Lsn {
    drop(load);
    let end = primary
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
    drop(end);
    primary.sql("SELECT pg_logical_emit_message(false, 'end', 'of the load')");
    let end: Lsn = primary.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    primary.sql("SELECT pg_logical_emit_message(true, 'end', 'behind it'); SELECT pg_switch_wal()");
    end
}

#[test]
fn exports_equal_a_standby_at_the_same_lsn() {
    let (seconds, kills, boundaries) = if long() { (60, 5, 20) } else { (9, 1, 3) };
    let place = Place::new();
    let mut numbers = Numbers::new("standby");
    let mut primary = Cluster::create(&place, "primary", CONFIG);
    let tablespace = place.own_directory("space");
    primary.start();
    prepare(&primary, &tablespace.display().to_string(), if long() { 4 } else { 1 });
    primary.stop("fast");
    let base = Base::take(&place, &primary);
    let mut pal = Pal::start(&place, &["checkpoint_distance=8388608"]);
    pal.import(&primary);
    let from = pal.lsn(TIMELINE, "last_record_lsn");
    primary.start();
    pal.follow(&primary.connstr());
    let mut load = Load::start(&place, &primary);
    let begun = Instant::now();
    for round in 1..=kills {
        let at = seconds * 1000 * round / (kills + 1) + numbers.below(500);
        std::thread::sleep(Duration::from_millis(at).saturating_sub(begun.elapsed()));
        pal.kill();
        pal.run();
    }
    std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    load.check(&place);
    let end = end_of_load(&primary, load);
    pal.wait_lsn(TIMELINE, end);

    let wal = primary.data.join("pg_wal");
    let all = record_boundaries(&place, &wal, from, end);
    println!("standby: {} records, {} bytes of WAL from {from} to {end}", all.len(), end.0 - from.0);
    for n in 0..boundaries {
        // The last place is the end of the load: it holds the most.
        let lsn = if n == 0 { end } else { all[numbers.below(all.len() as u64) as usize] };
        check_at(&place, &pal, &base, lsn);
    }
}

fn check_at(place: &Place, pal: &Pal<'_>, base: &Base, lsn: Lsn) {
    let begun = Instant::now();
    let export = place.path("export");
    pal.export(TIMELINE, Some(lsn), "fresh", &export);
    let exported = begun.elapsed();
    let standby = base.standby_at(place, lsn, &place.path("primary/pg_wal"), "standby");
    let recovered = begun.elapsed() - exported;
    let compared = compare(&export, &standby);
    println!(
        "standby: at {lsn}: {} files, {} pages ({} differ in hints), {} xids, {} multixacts; export {exported:.1?}, standby {recovered:.1?}",
        compared.files, compared.pages, compared.masked, compared.xids, compared.multixacts
    );
    assert!(compared.differences.is_empty(), "at {lsn}:\n{}", compared.differences.join("\n"));
    assert!(compared.pages > 3000 && compared.xids > 0, "nothing was compared");
    base.discard(place, "standby");

    let mut copy = Cluster::adopt(place, "export", "autovacuum=off\n");
    check_checksums(place, &export);
    copy.start();
    assert!(copy.log().contains("database system was shut down at"), "it needs recovery:\n{}", copy.log());
    // Two-phase transactions came along and hold their locks.
    for rollback in copy.sql("SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts").lines() {
        copy.sql(rollback);
    }
    check_with_amcheck(&copy);
    check_balances(&copy);
    // It works on.
    let work = ["INSERT INTO journal(who, what) SELECT -9, 'after' FROM generate_series(1, 1000)", "CHECKPOINT", "VACUUM journal"];
    for statement in work.into_iter().chain(["CREATE DATABASE fresh", "DROP DATABASE fresh"]) {
        copy.sql(statement);
    }
    copy.stop("fast");
    check_checksums(place, &export);
    drop(copy);
    place.discard(&export);
    place.discard(&place.path("export.s"));
}
