//! WAL files to flushed, compressed, uploaded delta layers, against stock archive recovery of the same files: processor seconds
//! per GB of WAL, children included.
//!
//! Ours runs in a process of its own ([`worker`]): the composition root of `pal serve`, its timeline fed from files. Peer and ours
//! take turns, and each figure is the median of its rounds: one round alone moves by a tenth on a shared machine.

use crate::cluster::Cluster;
use crate::history::History;
use crate::os::{self, Failure, Outcome, Scratch, copy_tree, cpu_seconds_of_ended_children, run};
use crate::pal::{TENANT, TIMELINE};
use crate::report::{Bound, Report};
use palimpsest::config::Config;
use palimpsest::io_abstraction::real;
use palimpsest::node::Node;
use palimpsest::pg::xlog::stream::StreamDecoder;
use palimpsest::tenant::{CreateSpec, Origin, TimelineHandle};
use palimpsest::timeline::TimelineWriter;
use palimpsest::types::Lsn;
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, segment_file_name};
use palimpsest::wal::ingest::Ingest;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What the worker tells on its standard output.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    wall_seconds: f64,
    /// Until the last record was ingested.
    cpu_ingest: f64,
    /// Until everything was flushed and uploaded.
    cpu_total: f64,
    layer_bytes: u64,
}

/// Times that each is measured.
const ROUNDS: usize = 3;

pub fn bench(scratch: &Scratch, history: &History, report: &Report) -> Outcome<()> {
    let per_gb = |seconds: f64| seconds / history.gigabytes();
    let modes = ["child", "in-process"];
    let (mut stock, mut ours) = (Vec::new(), modes.map(|_| Vec::new()));
    for _ in 0..ROUNDS {
        stock.push(recovery(scratch, history)?);
        for (rounds, redo) in ours.iter_mut().zip(modes) {
            rounds.push(run_worker(scratch, history, redo)?);
        }
    }
    stock.sort_by(f64::total_cmp);
    for (redo, mut rounds) in modes.into_iter().zip(ours) {
        rounds.sort_by(|a, b| a.cpu_total.total_cmp(&b.cpu_total));
        let ours = &rounds[ROUNDS / 2];
        let note = format!(
            "{:.2} s + flush {:.2} s; {:.1} s wall; layers {:.0} MB of {:.0} MB WAL; rounds {}, peer {}",
            ours.cpu_ingest,
            ours.cpu_total - ours.cpu_ingest,
            ours.wall_seconds,
            ours.layer_bytes as f64 / 1e6,
            history.bytes() as f64 / 1e6,
            spread(rounds.iter().map(|round| per_gb(round.cpu_total))),
            spread(stock.iter().map(|seconds| per_gb(*seconds)))
        );
        let name = format!("ingest, redo {redo} (peer: stock recovery)");
        report.add(&name, per_gb(ours.cpu_total), per_gb(stock[ROUNDS / 2]), "CPU s/GB", Bound::AtMost(1.0), note);
    }
    Ok(())
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    values.map(|value| format!("{value:.1}")).collect::<Vec<_>>().join("/")
}

fn run_worker(scratch: &Scratch, history: &History, redo: &str) -> Outcome<Measured> {
    let data = scratch.directory("ingest")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("ingest-worker").arg(redo).arg(&data).arg(&history.base).arg(&history.wal).arg(history.end.to_string());
    let text = run(&mut command)?;
    fs::remove_dir_all(&data)?;
    Ok(serde_json::from_str(&text)?)
}

/// Processor seconds of stock archive recovery up to the end of the history, all of its processes.
fn recovery(scratch: &Scratch, history: &History) -> Outcome<f64> {
    let (home, socket) = (scratch.directory("recovery")?, scratch.directory("socket")?);
    let data = home.join("data");
    copy_tree(&history.base, &data)?;
    fs::write(data.join("recovery.signal"), "")?;
    let mut cluster = Cluster::at(&data, &socket)?;
    cluster.configure(&format!(
        "restore_command = 'cp {}/%f %p'\nrecovery_target_lsn = '{}'\nrecovery_target_action = shutdown\nhot_standby = off\n",
        history.wal.display(),
        history.end
    ))?;
    let before = cpu_seconds_of_ended_children();
    cluster.spawn()?;
    cluster.wait()?;
    let spent = cpu_seconds_of_ended_children() - before;
    let log = fs::read_to_string(socket.join(format!("server-{}.log", std::process::id())))?;
    if !log.contains("shutdown at recovery target") {
        return Err(format!("stock recovery did not reach its target: {}", log.lines().last().unwrap_or_default()).into());
    }
    fs::remove_dir_all(&home)?;
    Ok(spent)
}

/// `ingest-worker REDO DATA BASE WAL END`
pub fn worker(args: &[String]) -> Outcome<()> {
    let [redo, data, base, wal, end] = args else { return Err("ingest-worker REDO DATA BASE WAL END".into()) };
    let (base, wal, end) = (PathBuf::from(base), PathBuf::from(wal), end.parse()?);
    let settings = [format!("redo='{redo}'"), "listen_http_addr='127.0.0.1:0'".into(), "listen_pg_addr='127.0.0.1:0'".into()];
    let config = Config::load(Path::new(data), None, &settings)?;
    real::block_on(async {
        let env = real::env(real::local_store(&config.remote_path())?)?;
        let node = Node::start(env, config).await?;
        let (tenant, timeline) = (TENANT.parse()?, TIMELINE.parse()?);
        node.registry.create_tenant(tenant, Default::default(), None).await?;
        let spec = CreateSpec { timeline, origin: Origin::Directory(base) };
        let handle = node.registry.create_timeline(tenant, &spec).await?;
        let measured = measure(&handle, &wal, end).await?;
        println!("{}", serde_json::to_string(&measured)?);
        node.shutdown().await;
        Ok::<(), Failure>(())
    })
}

async fn measure(handle: &TimelineHandle, wal: &Path, end: Lsn) -> Outcome<Measured> {
    let timeline = &handle.timeline;
    let layers_before = timeline.physical_size();
    let (start, before) = (Instant::now(), os::cpu_seconds(std::process::id()));
    feed(handle, wal, end).await?;
    let ingested = os::cpu_seconds(std::process::id());
    timeline.flush_all().await;
    timeline.uploaded().await?;
    Ok(Measured {
        wall_seconds: start.elapsed().as_secs_f64(),
        cpu_ingest: ingested - before,
        cpu_total: os::cpu_seconds(std::process::id()) - before,
        layer_bytes: timeline.physical_size() - layers_before,
    })
}

/// What the server's ingest task does with its log, with files.
async fn feed(handle: &TimelineHandle, wal: &Path, end: Lsn) -> Outcome<()> {
    let timeline = &handle.timeline;
    let mut writer = TimelineWriter::new(timeline.clone());
    let mut ingest = Ingest::load(timeline).await?;
    let start = timeline.last_record.lsn();
    let mut decoder = StreamDecoder::new(start, Some(timeline.identity.pg_version), WAL_SEGMENT_SIZE)?;
    for number in start.segment_number(WAL_SEGMENT_SIZE)..=end.segment_number(WAL_SEGMENT_SIZE) {
        let mut file = fs::File::open(wal.join(segment_file_name(1, number, WAL_SEGMENT_SIZE)))?;
        let mut at = Lsn(number * WAL_SEGMENT_SIZE);
        loop {
            let mut bytes = vec![0; palimpsest::limits::WAL_READ_BYTES];
            let read = file.read(&mut bytes)?;
            bytes.truncate(read);
            if read == 0 {
                break;
            }
            decoder.feed_bytes(at, bytes.into())?;
            at = Lsn(at.0 + read as u64);
            while let Some((span, record)) = decoder.next()? {
                if span.start >= end {
                    ingest.commit(&mut writer).await;
                    return Ok(());
                }
                ingest.record(&mut writer, span, record).await?;
            }
            ingest.commit(&mut writer).await;
        }
    }
    Ok(())
}
