//! GetPage from image layers against an echo of as many bytes, and the latency of every page of a history.

use crate::history::History;
use crate::os::{Outcome, Running, Scratch, copy_tree, median};
use crate::pages_client::{self, PagesClient, request};
use crate::pal::{Pal, TIMELINE};
use crate::report::{Bound, Report};
use palimpsest::page_service::protocol::Question;
use palimpsest::types::{Fork, Lsn};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 3;
const CLIENTS: [usize; 3] = [1, 8, 64];
const INGEST_LIMIT: Duration = Duration::from_secs(600);
/// What the requirement allows, in milliseconds.
const P99_MS: f64 = 5.0;
const SLOWEST_MS: f64 = 50.0;

fn echo() -> Outcome<(Running, String)> {
    let mut running = Running(Command::new(std::env::current_exe()?).arg("echo-server").stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().ok_or("the echo server has no output")?).read_line(&mut line)?;
    Ok((running, line.trim().to_string()))
}

/// GetPage of pages that only image layers have.
pub fn throughput(scratch: &Scratch, history: &History, report: &Report, length: Duration) -> Outcome<()> {
    let data = scratch.directory("getpage")?;
    let pal = Pal::start(&data, &[])?;
    pal.create_tenant()?;
    pal.import(TIMELINE, &history.base)?;
    let lsn = pal.last_record()?;
    let (_echo, echo_address) = echo()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = PagesClient::connect(&pal.pages).await?;
        let mut requests = Vec::new();
        for rel in history.relations.iter().copied().filter(|rel| rel.fork == Fork::Main) {
            let blocks = client.blocks(rel, lsn).await?;
            requests.extend((0..blocks).map(|block| request(Question::GetPage { rel, block }, lsn)));
        }
        shuffle(&mut requests);
        // Once through, so that neither side pays for cold files.
        for request in &requests {
            client.ask(request).await?;
        }
        for count in CLIENTS {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let mut clients = Vec::new();
                for _ in 0..count {
                    clients.push(PagesClient::connect(&pal.pages).await?);
                }
                ours.push(pages_client::rate(clients, &requests, length).await?);
                let mut clients = Vec::new();
                for _ in 0..count {
                    clients.push(PagesClient::bare(&echo_address).await?);
                }
                theirs.push(pages_client::rate(clients, &requests, length).await?);
            }
            let name = format!("GetPage, {count} clients (peer: 8 KiB echo)");
            report.add(&name, median(ours), median(theirs), "req/s", Bound::AtLeast(0.4), format!("{} pages", requests.len()));
        }
        Outcome::Ok(())
    })?;
    pal.stop()?;
    Ok(fs::remove_dir_all(&data)?)
}

/// A fixed random order: neighbours share a disk block.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, (state >> 33) as usize % (i + 1));
    }
}

/// One client asks for every page at the end and at older LSNs: while the history is in memory as far as it goes, and after a
/// flush.
pub fn latency(scratch: &Scratch, history: &History, report: &Report, older: u64) -> Outcome<()> {
    let data = scratch.directory("pages")?;
    let pal = Pal::start(&data, &[])?;
    pal.create_tenant()?;
    pal.import(TIMELINE, &history.base)?;
    pal.stop()?;
    let log = Pal::wal_directory(&data);
    if log.exists() {
        fs::remove_dir_all(&log)?;
    }
    copy_tree(&history.wal, &log)?;
    let pal = Pal::start(&data, &[])?;
    pal.wait_ingested(history.end, INGEST_LIMIT)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for place in ["as ingested", "flushed"] {
        if place == "flushed" {
            pal.checkpoint()?;
        }
        let mut times = runtime.block_on(every_page(&pal, history, older))?;
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let p99 = times[times.len() * 99 / 100].0;
        let Some((slowest, page)) = times.last().cloned() else { return Err("the history has no pages".into()) };
        let slow = times.iter().filter(|(ms, _)| *ms > SLOWEST_MS).count();
        let note = format!("{} pages, median {:.2} ms", times.len(), times[times.len() / 2].0);
        report.add(&format!("GetPage over history, {place}: p99"), p99, P99_MS, "ms", Bound::AtMost(1.0), note);
        let note = format!("{page}; {slow} above the bound");
        report.add(&format!("GetPage over history, {place}: slowest"), slowest, SLOWEST_MS, "ms", Bound::AtMost(1.0), note);
    }
    pal.stop()?;
    Ok(fs::remove_dir_all(&data)?)
}

/// Milliseconds that each page took, and which it was.
async fn every_page(pal: &Pal, history: &History, older: u64) -> Outcome<Vec<(f64, String)>> {
    let mut client = PagesClient::connect(&pal.pages).await?;
    let mut times = Vec::new();
    for n in (0..=older).rev() {
        let lsn = Lsn(history.end.0 - history.bytes() * n / (older + 1)).align8();
        for rel in &history.relations {
            for block in 0..client.blocks(*rel, lsn).await? {
                let request = request(Question::GetPage { rel: *rel, block }, lsn);
                let start = Instant::now();
                client.ask(&request).await?;
                times.push((start.elapsed().as_secs_f64() * 1e3, format!("{rel} block {block} at {lsn}")));
            }
        }
    }
    Ok(times)
}
