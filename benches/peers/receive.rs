//! The receiver against `pg_receivewal --synchronous`: catching up, and the latency of synchronous commits.

use crate::cluster::{Cluster, Session};
use crate::os::{Outcome, Scratch, copy_tree, median, run};
use crate::pal::{Pal, TIMELINE};
use crate::report::{Bound, Report};
use palimpsest::types::Lsn;
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, segment_file_name};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);
const NAME: &str = "bench";

/// A running primary whose stopped state was kept.
struct Primary {
    cluster: Cluster,
    base: PathBuf,
    /// The segment in which the kept state ends.
    segment: u64,
}

impl Primary {
    fn start(scratch: &Scratch, settings: &str) -> Outcome<Primary> {
        let (home, socket) = (scratch.directory("primary")?, scratch.directory("socket")?);
        let mut cluster = Cluster::create(&home.join("data"), &socket, &format!("wal_keep_size = 16GB\n{settings}"))?;
        cluster.start()?;
        cluster.sql("create table commits (n int)")?;
        cluster.sql("create table bulk (id bigint, pad text)")?;
        // The kept state ends at the start of a segment: both receivers then take the same bytes.
        cluster.sql("select pg_switch_wal()")?;
        cluster.stop("fast")?;
        let base = home.join("base");
        copy_tree(&cluster.data, &base)?;
        cluster.start()?;
        let segment = cluster.lsn()?.segment_number(WAL_SEGMENT_SIZE);
        Ok(Primary { cluster, base, segment })
    }

    /// Makes about this much WAL; gives its end.
    fn fill(&self, megabytes: u64) -> Outcome<Lsn> {
        let start = self.cluster.lsn()?;
        while self.cluster.lsn()?.distance_from(start) < megabytes << 20 {
            self.cluster.sql("insert into bulk select g, repeat(md5(g::text), 4) from generate_series(1, 100000) g")?;
        }
        Ok(self.cluster.sql("select pg_current_wal_flush_lsn()")?.parse()?)
    }

    /// pg_receivewal that starts with the segment in which the kept state ends.
    fn receivewal(&self, scratch: &Scratch) -> Outcome<crate::os::Running> {
        let directory = scratch.directory("receivewal")?;
        let name = segment_file_name(1, self.segment - 1, WAL_SEGMENT_SIZE);
        fs::copy(self.cluster.data.join("pg_wal").join(&name), directory.join(&name))?;
        run(Command::new("chmod").args(["-R", "a+rw"]).arg(directory.join(&name)))?;
        self.cluster.receivewal(&directory, NAME)
    }

    fn pal(&self, data: &Path) -> Outcome<Pal> {
        let pal = Pal::start(data, &[])?;
        pal.create_tenant()?;
        pal.import(TIMELINE, &self.base)?;
        Ok(pal)
    }
}

/// Bytes per second from connecting until all is acknowledged as durable.
pub fn throughput(scratch: &Scratch, report: &Report, megabytes: u64) -> Outcome<()> {
    let mut primary = Primary::start(scratch, "")?;
    let end = primary.fill(megabytes)?;
    let bytes = end.0 - primary.segment * WAL_SEGMENT_SIZE;
    let mut session = primary.cluster.session()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let data = scratch.directory("receive")?;
        let pal = primary.pal(&data)?;
        let start = Instant::now();
        pal.follow(&primary.cluster.connstr(NAME))?;
        session.wait_flushed(NAME, end, LIMIT)?;
        ours.push(start.elapsed().as_secs_f64());
        drop(pal);
        fs::remove_dir_all(&data)?;
        gone(&mut session)?;
        let start = Instant::now();
        let receiver = primary.receivewal(scratch)?;
        session.wait_flushed(NAME, end, LIMIT)?;
        theirs.push(start.elapsed().as_secs_f64());
        drop(receiver);
        gone(&mut session)?;
    }
    let rate = |times| bytes as f64 / 1e6 / median(times);
    let note = format!("{:.0} MB, ingest runs at the same time", bytes as f64 / 1e6);
    report.add("receive, durable (peer: pg_receivewal)", rate(ours), rate(theirs), "MB/s", Bound::AtLeast(0.8), note);
    primary.cluster.stop("immediate")
}

/// Waits until the server has noticed that its receiver left.
fn gone(session: &mut Session) -> Outcome<()> {
    let sql = format!("select count(*) from pg_stat_replication where application_name = '{NAME}'");
    crate::os::wait_for("the receiver to leave", LIMIT, Duration::from_millis(20), || Ok((session.line(&sql)? == "0").then_some(())))
}

/// Average latency of small inserts that wait for the receiver.
pub fn commit_latency(scratch: &Scratch, report: &Report, seconds: u32) -> Outcome<()> {
    let mut primary = Primary::start(scratch, &format!("synchronous_standby_names = 'FIRST 1 ({NAME})'\nsynchronous_commit = local\n"))?;
    let script = scratch.path().join("insert.sql");
    fs::write(&script, "set synchronous_commit = on;\ninsert into commits values (1);\n")?;
    run(Command::new("chmod").arg("a+r").arg(&script))?;
    let mut session = primary.cluster.session()?;
    let data = scratch.directory("commit")?;
    let pal = primary.pal(&data)?;
    let clients = [1, 4];
    let mut times = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for _ in 0..RUNS {
        pal.follow(&primary.cluster.connstr(NAME))?;
        session.wait_flushed(NAME, primary.cluster.lsn()?, LIMIT)?;
        for (n, clients) in clients.iter().enumerate() {
            times[n].0.push(pgbench(&primary.cluster, &script, *clients, seconds)?);
        }
        pal.request("DELETE", &format!("/v1/tenant/{}/timeline/{TIMELINE}/wal_source", crate::pal::TENANT), None)?;
        gone(&mut session)?;
        let receiver = primary.receivewal(scratch)?;
        session.wait_flushed(NAME, primary.cluster.lsn()?, LIMIT)?;
        for (n, clients) in clients.iter().enumerate() {
            times[n].1.push(pgbench(&primary.cluster, &script, *clients, seconds)?);
        }
        drop(receiver);
        gone(&mut session)?;
    }
    for ((ours, theirs), clients) in times.into_iter().zip(clients) {
        let name = format!("sync commit, {clients} clients (peer: pg_receivewal)");
        report.add(&name, median(ours), median(theirs), "ms", Bound::AtMost(1.2), "average latency");
    }
    drop(pal);
    fs::remove_dir_all(&data)?;
    primary.cluster.stop("immediate")
}

fn pgbench(cluster: &Cluster, script: &Path, clients: u32, seconds: u32) -> Outcome<f64> {
    let mut command = cluster.program("pgbench");
    command.args(["-n", "-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"]).arg(script).arg("postgres");
    let text = run(&mut command)?;
    let line = text.lines().find(|l| l.starts_with("latency average")).ok_or("pgbench prints no latency")?;
    Ok(line.split_whitespace().nth(3).unwrap_or_default().parse()?)
}
