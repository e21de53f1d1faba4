//! `pal wal verify` and `pal wal stats` by the real executable, over WAL that a stock server made with wal_consistency_checking=all.
//!
//! `PAL_VERIFY_ROWS` scales the workload.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "runs a program on files of a real server")]

use crate::pal::program;
use crate::redo::server::Server;
use crate::redo::{CONFIG, opcodes, redo_location};
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::page::PageHeader;
use palimpsest::pg::xlog::record::{Record, record_crc};
use palimpsest::pg::xlog::stream::StreamDecoder;
use palimpsest::types::Lsn;
use palimpsest::types::lsn::{WAL_PAGE_SIZE, WAL_SEGMENT_SIZE, parse_segment_file_name, segment_file_name};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows for a run of some seconds in which every opcode occurs.
const ROWS: u32 = 400;

const SEG: u64 = WAL_SEGMENT_SIZE;

/// Exit code, standard output, standard error.
fn pal(verb: &str, dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(program()).args(["wal", verb]).arg(dir).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn json((code, out, err): (Option<i32>, String, String)) -> Value {
    assert_eq!(code, Some(0), "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn lsn(value: &Value) -> Lsn {
    value.as_str().unwrap().parse().unwrap()
}

/// A sum over the rows of both oracles.
fn sum(report: &Value, field: &str) -> u64 {
    let rows = ["isolated", "chained"].into_iter().flat_map(|oracle| report[oracle].as_array().unwrap());
    rows.map(|row| row[field].as_u64().unwrap_or_else(|| panic!("{field} is missing: {row}"))).sum()
}

/// Segments by number.
fn segments(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.filter_map(|path| Some((parse_segment_file_name(path.file_name()?.to_str()?, SEG)?.1, path))).collect()
}

/// A directory with links to some of the segments.
fn archive<'s>(root: &Path, name: &str, segments: impl IntoIterator<Item = (&'s u64, &'s PathBuf)>) -> PathBuf {
    let dir = root.join(name);
    fs::create_dir(&dir).unwrap();
    for (number, path) in segments {
        std::os::unix::fs::symlink(path, dir.join(segment_file_name(1, *number, SEG))).unwrap();
    }
    dir
}

/// The rest of a record that the segment begins with, in bytes.
fn rest_of_record(path: &Path) -> u32 {
    let header = PageHeader::decode(&fs::read(path).unwrap()).unwrap();
    if header.is_continuation() { header.rem_len } else { 0 }
}

/// Start, bytes and end of a heap insertion with a check image, whole on one page of this segment. Its page has a record before in
/// the segment: the first image of a page is where the comparison of that page begins.
fn insertion(number: u64, path: &Path) -> (Lsn, Vec<u8>, Lsn) {
    let mut decoder = StreamDecoder::seek(Lsn(number * SEG), None, SEG).unwrap();
    decoder.feed(Lsn(number * SEG), &fs::read(path).unwrap()).unwrap();
    let mut seen = BTreeSet::new();
    while let Ok(Some((span, bytes))) = decoder.next() {
        let on_one_page = span.start.page_offset() + bytes.len() <= WAL_PAGE_SIZE as usize;
        let record = Record::decode(bytes, PgVersion::V15).unwrap();
        let plain = record.blocks.iter().any(|block| block.image.as_ref().is_some_and(|image| !image.apply && image.bytes.len() > 1000));
        let known = record.blocks.first().is_some_and(|block| seen.contains(&(block.rel, block.block)));
        seen.extend(record.blocks.iter().map(|block| (block.rel, block.block)));
        if known && on_one_page && plain && record.header.rmid == 10 && record.header.info & 0x70 == 0 {
            return (span.start, bytes.to_vec(), span.end);
        }
    }
    panic!("no such record in {}", path.display());
}

/// Where the image of the record's first block lies in the record.
fn image_range(record: &[u8]) -> std::ops::Range<usize> {
    let decoded = Record::decode(record, PgVersion::V15).unwrap();
    let image = decoded.blocks[0].image.as_ref().unwrap().bytes;
    let at = image.as_ptr() as usize - record.as_ptr() as usize;
    at..at + image.len()
}

/// A copy of the segment with these bytes at the LSN, in place of the link.
fn patch(dir: &Path, at: Lsn, bytes: &[u8]) {
    let path = dir.join(segment_file_name(1, at.segment_number(SEG), SEG));
    let mut segment = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let offset = at.segment_offset(SEG) as usize;
    segment[offset..offset + bytes.len()].copy_from_slice(bytes);
    fs::write(path, segment).unwrap();
}

fn made_wal() -> (Server, Lsn) {
    let rows = std::env::var("PAL_VERIFY_ROWS").map_or(ROWS, |rows| rows.parse().expect("PAL_VERIFY_ROWS is a number"));
    let mut server = Server::create(CONFIG);
    let start = redo_location(&server);
    server.start();
    server.script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redo/workload.sql"), rows);
    server.stop();
    (server, start)
}

#[test]
fn wal_of_a_stock_server() {
    let (server, start) = made_wal();
    let wal = server.data().join("pg_wal");
    let all = segments(&wal);
    let whole = json(pal("verify", &wal, &["--start", &start.to_string(), "--json"]));
    assert_eq!(lsn(&whole["start"]), start);
    assert!(lsn(&whole["end"]) > start && whole["stopped"].is_string() && whole["differences"].as_array().unwrap().is_empty());
    assert!(whole["bytes"].as_u64().unwrap() > 50 << 20 && whole["records"].as_u64().unwrap() > 10_000, "{}", whole["bytes"]);
    for field in ["mismatched", "unhandled", "lsn_differs"] {
        assert_eq!(sum(&whole, field), 0, "{field}");
    }
    assert!(sum(&whole, "compared") > 10_000 && sum(&whole, "lsn_compared") > 1000);
    let isolated = whole["isolated"].as_array().unwrap();
    for (rmid, opcode, name) in opcodes() {
        let row = isolated.iter().find(|row| row["rmid"] == rmid && row["opcode"] == opcode);
        assert!(row.is_some_and(|row| row["records"].as_u64().unwrap() > 0), "the workload makes no {name}");
    }
    // Both count the same records.
    let counted = json(pal("stats", &wal, &["--start", &start.to_string(), "--json"]));
    assert_eq!((&counted["total"]["count"], &counted["end"]), (&whole["records"], &whole["end"]));

    // A directory whose first segment begins inside a record.
    let inside = all.iter().skip(1).find(|(_, path)| rest_of_record(path) > 0).map(|(number, _)| *number);
    let first = inside.expect("some segment begins inside a record");
    let root = tempfile::tempdir().unwrap();
    let tail = archive(root.path(), "tail", all.range(first..));
    let rest = rest_of_record(&all[&first]);
    let report = json(pal("verify", &tail, &["--json"]));
    let begun = lsn(&report["start"]);
    assert!(begun.0 >= first * SEG + 40 + u64::from(rest.min(8152)), "it begins at {begun}, {rest} bytes into segment {first}");
    assert_eq!((&report["end"], sum(&report, "mismatched")), (&whole["end"], 0));
    let counted = json(pal("stats", &tail, &["--json"]));
    assert_eq!((&counted["start"], &counted["total"]["count"]), (&report["start"], &report["records"]));
    let again = json(pal("verify", &tail, &["--start", &begun.to_string(), "--json"]));
    assert_eq!(again, report, "the same with the start that was found");
    let (code, _, error) = pal("verify", &tail, &["--start", &Lsn(first * SEG).to_string()]);
    assert!(code == Some(1) && error.contains("a record that began earlier"), "{error}");

    damage(root.path(), &all, first);
}

/// Damage of a page image that the record's checksum does not show, damage that it does, and missing WAL.
fn damage(root: &Path, all: &BTreeMap<u64, PathBuf>, first: u64) {
    let two = || all.range(first..first + 2);
    let (at, mut record, end) = insertion(first, &all[&first]);
    let image = image_range(&record);
    // The end of a heap page: the oldest rows.
    record[image.end - 64..image.end].iter_mut().for_each(|byte| *byte ^= 1);
    let dir = archive(root, "checksum", two());
    patch(&dir, at, &record);
    let (code, out, error) = pal("verify", &dir, &["--json"]);
    assert!(code == Some(1) && out.is_empty() && error.contains(&at.to_string()), "{code:?} {error}");

    let crc = record_crc(&record);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    let dir = archive(root, "image", two());
    patch(&dir, at, &record);
    let (code, out, error) = pal("verify", &dir, &["--json"]);
    assert_eq!(code, Some(1), "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(sum(&report, "mismatched") > 0);
    let first_difference = &report["differences"][0];
    assert_eq!((lsn(&first_difference["lsn"]), &first_difference["rmid"]), (end, &10.into()), "{first_difference}");
    let (code, out, _) = pal("verify", &dir, &[]);
    assert!(code == Some(1) && out.contains(&format!("at {end} rmgr 10 opcode")) && !out.contains(" 0 mismatched"), "{out}");

    let dir = archive(root, "gap", all.range(first..first + 3).filter(|(number, _)| **number != first + 1));
    let (code, _, error) = pal("verify", &dir, &[]);
    assert!(code == Some(1) && error.contains("is missing or cut short"), "{error}");
    let dir = archive(root, "short", []);
    let name = segment_file_name(1, first, SEG);
    fs::write(dir.join(&name), &fs::read(&all[&first]).unwrap()[..3 << 20]).unwrap();
    let report = json(pal("verify", &dir, &["--json"]));
    assert!(report["stopped"].as_str().unwrap().contains("the files end at"), "{report}");
    let (code, _, error) = pal("verify", &dir, &["--end", &Lsn(first * SEG + (4 << 20)).to_string()]);
    assert!(code == Some(1) && error.contains("before the wanted end"), "{error}");
    let dir = archive(root, "nothing", []);
    let mut bytes = fs::read(&all[&first]).unwrap();
    bytes.truncate(WAL_PAGE_SIZE as usize);
    bytes[40..].fill(0);
    PageHeader::new(PgVersion::V15, 1, Lsn(first * SEG), 7, SEG).encode_into(&mut bytes);
    fs::write(dir.join(&name), bytes).unwrap();
    let (code, _, error) = pal("verify", &dir, &[]);
    assert!(code == Some(1) && error.contains("there is no whole record"), "{error}");
}
