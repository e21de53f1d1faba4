//! What must not grow with size: the time and disk space of a branch, and memory while WAL streams through.

use crate::cluster::Cluster;
use crate::os::{Outcome, Scratch, copy_tree, disk_bytes, median, peak_memory, run, wait_for};
use crate::pal::{Pal, TIMELINE};
use crate::report::{Bound, Report};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BRANCHES: usize = 20;
const SMALL: &str = "33333333333333333333333333333333";
/// What one branch may take on disk: its index, in two places, and its directories.
const BRANCH_BYTES_MAX: f64 = 65536.0;
const MEMORY_MAX: f64 = (512_u64 << 20) as f64;
/// Moments that are looked up, half a second apart.
const LOOKUPS: i64 = 20;
const INGEST_LIMIT: Duration = Duration::from_secs(900);

/// Branches of a timeline that holds a pgbench cluster of `scale` (15 MB each) against one that holds an empty cluster.
pub fn branches(scratch: &Scratch, report: &Report, scale: u32) -> Outcome<()> {
    let (home, socket) = (scratch.directory("large")?, scratch.directory("socket")?);
    let mut cluster = Cluster::create(&home.join("data"), &socket, "fsync = off\n")?;
    let small = home.join("small");
    copy_tree(&cluster.data, &small)?;
    cluster.start()?;
    run(cluster.program("pgbench").args(["-i", "-q", "-s", &scale.to_string(), "postgres"]))?;
    cluster.stop("fast")?;
    let data = scratch.directory("branches")?;
    let pal = Pal::start(&data, &[])?;
    pal.create_tenant()?;
    pal.import(TIMELINE, &cluster.data)?;
    pal.import(SMALL, &small)?;
    let size = |timeline: &str| -> Outcome<f64> {
        let path = format!("/v1/tenant/{}/timeline/{timeline}?include-non-incremental-logical-size=true", crate::pal::TENANT);
        Ok(pal.request("GET", &path, None)?["current_logical_size"].as_f64().ok_or("no logical size")? / 1e6)
    };
    let note = format!("timelines of {:.0} and {:.0} MB", size(TIMELINE)?, size(SMALL)?);
    pal.branch(SMALL, &format!("{:032x}", 0x1_0000))?;
    let before = disk_bytes(&data)?;
    let (mut large_ms, mut small_ms) = (Vec::new(), Vec::new());
    for n in 0..BRANCHES {
        for (ancestor, times, base) in [(TIMELINE, &mut large_ms, 0x2_0000), (SMALL, &mut small_ms, 0x3_0000)] {
            let start = Instant::now();
            pal.branch(ancestor, &format!("{:032x}", base + n))?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let grown = disk_bytes(&data)?.saturating_sub(before) as f64 / (2 * BRANCHES) as f64;
    report.add("branch of large timeline (peer: of small)", median(large_ms), median(small_ms), "ms", Bound::AtMost(1.5), note);
    report.add("disk bytes per branch (bound: 64 KiB)", grown, BRANCH_BYTES_MAX, "bytes", Bound::AtMost(1.0), "index and directories");
    pal.stop()?;
    fs::remove_dir_all(&home)?;
    Ok(fs::remove_dir_all(&data)?)
}

/// Peak memory of the server and its redo children while `megabytes` of WAL stream through with default settings.
pub fn memory(scratch: &Scratch, report: &Report, megabytes: u64) -> Outcome<()> {
    let (home, socket) = (scratch.directory("stream")?, scratch.directory("socket")?);
    let mut cluster = Cluster::create(&home.join("data"), &socket, "fsync = off\nsynchronous_commit = off\n")?;
    let base = home.join("base");
    copy_tree(&cluster.data, &base)?;
    cluster.start()?;
    let data = scratch.directory("memory")?;
    let pal = Pal::start(&data, &[])?;
    pal.create_tenant()?;
    pal.import(TIMELINE, &base)?;
    let first = cluster.lsn()?;
    pal.follow(&cluster.connstr("bench"))?;
    let (ended, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Children come and go: the largest sum seen counts.
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(peak_memory(pal.pid()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let streamed = stream(&cluster, &pal, first, megabytes);
        ended.store(true, Ordering::Relaxed);
        streamed
    })?;
    let streamed = end.distance_from(first) as f64 / 1e6;
    let note = format!("{streamed:.0} MB of WAL in {:.0} s", start.elapsed().as_secs_f64());
    times(&pal, report, &format!("{streamed:.0} MB of WAL"))?;
    report.add("peak memory (bound: 512 MiB)", peak.load(Ordering::Relaxed) as f64, MEMORY_MAX, "bytes", Bound::AtMost(1.0), note);
    pal.stop()?;
    cluster.stop("immediate")?;
    fs::remove_dir_all(&home)?;
    Ok(fs::remove_dir_all(&data)?)
}

/// How long it takes to find the LSN of a moment in the history.
fn times(pal: &Pal, report: &Report, note: &str) -> Outcome<()> {
    let path = |rest: String| format!("/v1/tenant/{}/timeline/{TIMELINE}/{rest}", crate::pal::TENANT);
    let last = pal.last_record()?;
    let newest = pal.request("GET", &path(format!("get_timestamp_of_lsn?lsn={last}")), None)?;
    let newest: palimpsest::types::timestamp::PgTimestamp = newest.as_str().ok_or("no time")?.parse()?;
    let mut took = Vec::new();
    for back in 1..=LOOKUPS {
        let time = palimpsest::types::timestamp::PgTimestamp(newest.0 - back * 500_000);
        let start = Instant::now();
        pal.request("GET", &path(format!("get_lsn_by_timestamp?version=2&timestamp={time}")), None)?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report.add("LSN of a time (bound: 50 ms)", median(took), 50.0, "ms", Bound::AtMost(1.0), note);
    Ok(())
}

/// Bulk loads, updates of every row with full-page images, small transactions; until that much WAL is made and ingested.
fn stream(cluster: &Cluster, pal: &Pal, first: palimpsest::types::Lsn, megabytes: u64) -> Outcome<palimpsest::types::Lsn> {
    run(cluster.program("pgbench").args(["-i", "-q", "-s", "5", "postgres"]))?;
    cluster.sql("create table bulk (id bigint primary key, n int, pad text)")?;
    while cluster.lsn()?.distance_from(first) < megabytes << 20 {
        cluster.sql("truncate bulk")?;
        cluster.sql("insert into bulk select g, 0, repeat(md5(g::text), 4) from generate_series(1, 300000) g")?;
        cluster.sql("checkpoint")?;
        cluster.sql("update bulk set n = n + 1")?;
        run(cluster.program("pgbench").args(["-n", "-c", "4", "-t", "2000", "postgres"]))?;
    }
    let end = cluster.lsn()?;
    cluster.sql("select pg_switch_wal()")?;
    wait_for("WAL to be ingested", INGEST_LIMIT, Duration::from_millis(200), || Ok((pal.last_record()? >= end).then_some(())))?;
    pal.checkpoint()?;
    Ok(end)
}
