//! Our decoder against `pg_waldump --stats` over the same files.

use crate::history::History;
use crate::os::{Outcome, median, postgres_programs, run};
use crate::report::{Bound, Report};
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::record::Record;
use palimpsest::pg::xlog::stream::StreamDecoder;
use palimpsest::types::Lsn;
use palimpsest::types::lsn::WAL_SEGMENT_SIZE;
use std::fs;
use std::process::Command;
use std::time::Instant;

const RUNS: usize = 3;

/// Calls `visit` with each record of the history (end LSN, bytes), reading as the server does.
pub fn records(history: &History, mut visit: impl FnMut(Lsn, &[u8]) -> Outcome<()>) -> Outcome<()> {
    use std::io::Read as _;
    let mut decoder = StreamDecoder::new(history.checkpoint, Some(PgVersion::V15), WAL_SEGMENT_SIZE)?;
    let mut at = Lsn(history.checkpoint.segment_number(WAL_SEGMENT_SIZE) * WAL_SEGMENT_SIZE);
    for segment in history.segments() {
        let mut file = fs::File::open(segment)?;
        loop {
            let mut bytes = vec![0; palimpsest::limits::WAL_READ_BYTES];
            let read = file.read(&mut bytes)?;
            if read == 0 {
                break;
            }
            bytes.truncate(read);
            decoder.feed_bytes(at, bytes.into())?;
            at = Lsn(at.0 + read as u64);
            while let Some((span, record)) = decoder.next()? {
                if span.start >= history.end {
                    return Ok(());
                }
                visit(span.end, record)?;
            }
        }
    }
    Ok(())
}

pub fn bench(history: &History, report: &Report) -> Outcome<()> {
    let (mut ours, mut theirs, mut counted) = (Vec::new(), Vec::new(), (0, 0));
    for _ in 0..RUNS {
        let start = Instant::now();
        counted.0 = 0u64;
        let mut blocks = 0;
        records(history, |_, bytes| {
            let record = Record::decode(bytes, PgVersion::V15)?;
            counted.0 += 1;
            blocks += record.blocks.len();
            Ok(())
        })?;
        std::hint::black_box(blocks);
        ours.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut command = Command::new(postgres_programs()?.join("pg_waldump"));
        command.env("LC_ALL", "C").arg("--stats").arg("-p").arg(&history.wal);
        let text = run(command.args(["-s", &history.checkpoint.to_string(), "-e", &history.end.to_string()]))?;
        theirs.push(start.elapsed().as_secs_f64());
        let total = text.lines().rev().find(|l| l.starts_with("Total")).ok_or("pg_waldump prints no total")?;
        counted.1 = total.split_whitespace().nth(1).unwrap_or_default().parse::<u64>()?;
    }
    let (ours, theirs) = (counted.0 as f64 / median(ours), counted.1 as f64 / median(theirs));
    let note = format!("{} and {} records, {:.0} MB", counted.0, counted.1, history.bytes() as f64 / 1e6);
    report.add("decode (peer: pg_waldump --stats)", ours, theirs, "records/s", Bound::AtLeast(0.5), note);
    Ok(())
}
