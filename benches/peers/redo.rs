//! Redo: steps per second in this process, and what the pipe to a child costs.

use crate::decode::records;
use crate::history::History;
use crate::os::{Outcome, Running, median};
use crate::pal::PROGRAM;
use crate::report::{Bound, Report};
use palimpsest::pg::page::PageBytes;
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::record::Record;
use palimpsest::redo::pipe::{self, BlockTag, Message};
use palimpsest::redo::{ApplyContext, PageBuf, apply_record};
use palimpsest::types::{Fork, Key, Lsn, PAGE_SIZE};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const CHAIN: usize = 10;
const ROUND_TRIPS: usize = 4000;
const RUNS: usize = 5;

/// The records of one page on its base.
struct Chain {
    tag: BlockTag,
    base: Option<Box<PageBytes>>,
    records: Vec<(Lsn, Vec<u8>)>,
}

impl Chain {
    fn key(&self) -> Key {
        Key::rel_block(self.tag.rel, self.tag.block)
    }
}

pub fn bench(history: &History, report: &Report) -> Outcome<()> {
    let chains = chains(history)?;
    in_process(&chains, report)?;
    through_pipe(&chains, report)
}

/// All chains of heap and index pages, with their pages from the base directory.
fn chains(history: &History) -> Outcome<Vec<Chain>> {
    let mut found: BTreeMap<Key, Chain> = BTreeMap::new();
    records(history, |end, bytes| {
        let record = Record::decode(bytes, PgVersion::V15)?;
        for block in record.blocks.iter().filter(|b| b.rel.fork == Fork::Main) {
            let tag = BlockTag { rel: block.rel, block: block.block };
            let chain = found.entry(Key::rel_block(block.rel, block.block));
            let chain = chain.or_insert_with(|| Chain { tag, base: base_page(history, tag), records: Vec::new() });
            chain.records.push((end, bytes.to_vec()));
        }
        Ok(())
    })?;
    Ok(found.into_values().collect())
}

fn base_page(history: &History, tag: BlockTag) -> Option<Box<PageBytes>> {
    use std::os::unix::fs::FileExt as _;
    let relative = if tag.rel.db == 0 { format!("global/{}", tag.rel.rel) } else { format!("base/{}/{}", tag.rel.db, tag.rel.rel) };
    let file = fs::File::open(history.base.join(relative)).ok()?;
    let mut page = Box::new([0; PAGE_SIZE]);
    file.read_exact_at(&mut page[..], u64::from(tag.block) * PAGE_SIZE as u64).ok()?;
    Some(page)
}

fn in_process(chains: &[Chain], report: &Report) -> Outcome<()> {
    let context = ApplyContext::new(PgVersion::V15);
    let (mut steps, mut failed) = (0u64, 0u64);
    let mut page = PageBuf::new();
    let start = Instant::now();
    for chain in chains {
        let key = chain.key();
        page.load(key, chain.base.as_ref().map(|b| &b[..]))?;
        for (end, record) in &chain.records {
            steps += 1;
            if apply_record(&context, key, &mut page, *end, record).is_err() {
                failed += 1;
                break;
            }
        }
    }
    let rate = steps as f64 / start.elapsed().as_secs_f64();
    let note = format!("{steps} (record, block) steps on {} pages, {failed} chains failed", chains.len());
    report.add("redo in process (bound: 1 M/s per core)", rate, 1e6, "steps/s", Bound::AtLeast(1.0), note);
    if failed > 0 { Err(format!("{failed} chains cannot be replayed").into()) } else { Ok(()) }
}

struct Pipe {
    _child: Running,
    input: ChildStdin,
    output: ChildStdout,
}

impl Pipe {
    fn start() -> Outcome<Pipe> {
        let mut command = Command::new(PROGRAM);
        let mut child = Running(command.args(["wal-redo", "--pg-version", "15"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let input = child.0.stdin.take().ok_or("the child has no input")?;
        let output = child.0.stdout.take().ok_or("the child has no output")?;
        Ok(Pipe { _child: child, input, output })
    }

    /// Microseconds per round trip of these requests, taken in turn.
    fn round_trips(&mut self, requests: &[Vec<u8>]) -> Outcome<f64> {
        let mut page = [0; pipe::ANSWER_LEN];
        let start = Instant::now();
        for request in requests.iter().cycle().take(ROUND_TRIPS) {
            self.input.write_all(request)?;
            self.output.read_exact(&mut page)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / ROUND_TRIPS as f64)
    }
}

fn through_pipe(chains: &[Chain], report: &Report) -> Outcome<()> {
    let requests: Vec<Vec<u8>> = chains.iter().filter(|c| c.records.len() >= CHAIN && c.base.is_some()).take(64).map(request).collect();
    if requests.is_empty() {
        return Err(format!("no page of the history has {CHAIN} records").into());
    }
    let mut ping = Vec::new();
    pipe::encode(Message::Ping, &mut ping);
    let mut pipe = Pipe::start()?;
    pipe.round_trips(&requests)?;
    let (mut pings, mut times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pings.push(pipe.round_trips(std::slice::from_ref(&ping))?);
        times.push(pipe.round_trips(&requests)?);
    }
    report.add("redo pipe, 10 records (peer: ping)", median(times), median(pings), "us", Bound::AtMost(2.5), "");
    Ok(())
}

fn request(chain: &Chain) -> Vec<u8> {
    let mut out = Vec::new();
    let records = chain.records.iter().take(CHAIN).map(|(end, record)| (*end, record.as_slice()));
    pipe::encode_request(chain.tag, chain.base.as_deref(), records, &mut out);
    out
}
