//! Redo against a stock PostgreSQL 15: both oracles over WAL with check images, and SLRU files against their replay.
//!
//! `PAL_REDO_ROWS` scales the workload; `PAL_REDO_KEEP=FILE` writes the report there.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a client of a real server and its files")]

pub mod server;

use palimpsest::cli::wal_verify::{self, Outcome, WalVerifyArgs};
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::stream::StreamDecoder;
use palimpsest::redo::{ApplyContext, PageBuf, apply_record};
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, segment_file_name};
use palimpsest::types::{Key, Lsn, PAGE_SIZE, SlruKind};
use server::Server;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

pub const CONFIG: &str = "
wal_consistency_checking = 'all'
full_page_writes = off
wal_level = logical
max_wal_size = '40GB'
wal_keep_size = '60GB'
checkpoint_timeout = '1h'
max_prepared_transactions = 20
track_commit_timestamp = on
autovacuum = off
";

/// Rows for a run of some seconds, about 400 MB of WAL.
const ROWS: u32 = 1000;

type SlruPages = BTreeMap<Key, Vec<u8>>;

/// Reads all pages of the SLRU areas under `data`.
fn slru_pages(data: &Path) -> SlruPages {
    let mut pages = BTreeMap::new();
    for kind in SlruKind::ALL {
        for entry in fs::read_dir(data.join(kind.directory())).expect("SLRU directory") {
            let entry = entry.expect("SLRU directory");
            let segment = u32::from_str_radix(&entry.file_name().to_string_lossy(), 16).expect("segment name");
            for (i, page) in fs::read(entry.path()).expect("segment").chunks(PAGE_SIZE).enumerate() {
                pages.insert(Key::slru_page(kind, segment * SlruKind::PAGES_PER_SEGMENT + i as u32), page.to_vec());
            }
        }
    }
    pages
}

/// The REDO location that pg_controldata prints.
pub fn redo_location(server: &Server) -> Lsn {
    let text = server.run("pg_controldata", &[]);
    let line = text.lines().find(|line| line.contains("REDO location")).expect("REDO location");
    line.rsplit(' ').next().expect("a value").parse().expect("an LSN")
}

/// Replays every record from `start` onto every SLRU page it concerns and compares with the files at the end.
fn check_slru(server: &Server, start: Lsn, before: &SlruPages) {
    let ctx = ApplyContext::new(PgVersion::V15);
    let after = slru_pages(&server.data());
    let mut pages: BTreeMap<Key, PageBuf> = BTreeMap::new();
    for key in after.keys() {
        let mut page = PageBuf::new();
        page.load(*key, before.get(key).map(|page| &page[..])).expect("an SLRU page");
        pages.insert(*key, page);
    }
    let mut decoder = StreamDecoder::new(start, Some(PgVersion::V15), WAL_SEGMENT_SIZE).expect("a decoder");
    let mut applied = [0; 4];
    let mut number = start.segment_number(WAL_SEGMENT_SIZE);
    'wal: while let Ok(bytes) = fs::read(server.data().join("pg_wal").join(segment_file_name(1, number, WAL_SEGMENT_SIZE))) {
        let at = Lsn(number * WAL_SEGMENT_SIZE);
        let skip = start.page_start().0.saturating_sub(at.0) as usize;
        decoder.feed(Lsn(at.0 + skip as u64), &bytes[skip..]).expect("the next segment");
        number += 1;
        loop {
            match decoder.next() {
                Ok(Some((span, record))) if [1, 3, 6, 18].contains(&record[17]) => {
                    for (key, page) in &mut pages {
                        let done = apply_record(&ctx, *key, page, span.end, record);
                        applied[key.field2 as usize] += usize::from(done.is_ok());
                        if let Err(error) = done {
                            assert!(error.to_string().contains("does not concern") || error.to_string().contains("no base"), "{error}");
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => break 'wal,
            }
        }
    }
    assert!(applied.iter().all(|count| *count > 0), "{applied:?}");
    for (key, page) in pages {
        let (ours, theirs) = (&page.page()[..], &after[&key][..]);
        let differs = ours.iter().zip(theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{key:?} differs from the replay at this byte, {applied:?}");
    }
}

fn verify(server: &Server, start: Lsn) -> Outcome {
    let dir = server.data().join("pg_wal");
    let names: Vec<String> =
        fs::read_dir(&dir).expect("pg_wal").map(|e| e.expect("pg_wal").file_name().to_string_lossy().into_owned()).collect();
    let args = WalVerifyArgs { dir: dir.clone(), start: Some(start), end: None, json: false };
    let mut read = |name: &str, offset: u64, len: usize| -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(dir.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    wal_verify::run(&args, names, &mut read).expect("WAL reads")
}

/// Opcodes that the workload must produce.
pub fn opcodes() -> Vec<(u8, u8, &'static str)> {
    let lines = include_str!("opcodes.txt").lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &'static str| {
        let mut words = line.split(' ');
        let (rmid, opcode) = (words.next()?.parse().ok()?, u8::from_str_radix(words.next()?, 16).ok()?);
        Some((rmid, opcode, words.next()?))
    };
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("opcodes.txt: {line}"))).collect()
}

#[test]
fn every_record_of_a_stock_server_replays_to_the_page_it_made() {
    let rows = std::env::var("PAL_REDO_ROWS").map_or(ROWS, |rows| rows.parse().expect("PAL_REDO_ROWS is a number"));
    let mut server = Server::create(CONFIG);
    let start = redo_location(&server);
    let before = slru_pages(&server.data());
    server.start();
    server.script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redo/workload.sql"), rows);
    server.run("pgbench", &["-q", "-i", "-s", "1", "postgres"]);
    server.run("pgbench", &["-n", "-c", "4", "-t", "250", "postgres"]);
    server.stop();
    // Without logical decoding updates leave out what the new tuple has in common with the old one.
    server.configure("wal_level = replica");
    server.start();
    server.run("pgbench", &["-n", "-c", "4", "-t", "250", "postgres"]);
    server.stop();

    let outcome = verify(&server, start);
    if let Ok(path) = std::env::var("PAL_REDO_KEEP") {
        fs::write(path, outcome.print(false).expect("text")).expect("report");
    }
    assert_eq!(outcome.exit_code(), 0, "{}", outcome.print(false).expect("text"));
    assert!(outcome.report.bytes > 200 << 20, "{} bytes of WAL", outcome.report.bytes);
    for (rmid, opcode, name) in opcodes() {
        assert!(outcome.report.records_of(rmid, opcode) > 0, "the workload makes no {name}");
    }
    let lsn_differs: u64 = outcome.report.isolated.iter().map(|row| row.counts.lsn_differs).sum();
    assert_eq!(lsn_differs, 0, "page LSNs after replay differ from the server's: {}", outcome.print(false).expect("text"));
    check_slru(&server, start, &before);
}
