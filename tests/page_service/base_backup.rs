//! `basebackup`, against the cluster that the timeline was made from: which entries, in which order, with which content.
//!
//! Source: reference page-service, section 8.

#![expect(clippy::disallowed_methods, reason = "looks at real files beside the seams")]

use super::client::Client;
use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::pg::control::{ClusterState, ControlFile};
use palimpsest::pg::version::PgVersion;
use palimpsest::pg::xlog::page::PageHeader;
use palimpsest::pg::xlog::stream::{StreamDecoder, WalError};
use palimpsest::postgres::{Server, StopMode, hand_over};
use palimpsest::types::Lsn;
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, segment_file_name};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIRECTORIES: &str = "global pg_wal/archive_status pg_commit_ts pg_dynshmem pg_notify pg_serial pg_snapshots pg_subtrans pg_twophase \
    pg_multixact pg_multixact/members pg_multixact/offsets base base/1 pg_replslot pg_tblspc pg_stat pg_stat_tmp pg_xact pg_logical \
    pg_logical/snapshots pg_logical/mappings";

const TIMELINE: &str = "0123456789abcdef0123456789abcdef";

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    /// `None`: a directory.
    content: Option<Vec<u8>>,
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let read = |entry: Result<tar::Entry<'_, &[u8]>, _>| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_string();
        let is_file = header.entry_type().is_file();
        assert!(header.as_gnu().is_some(), "{path}: GNU headers");
        assert_eq!(header.mode().unwrap(), if is_file { 0o600 } else { 0o755 }, "{path}");
        assert!(header.mtime().unwrap() > 1_700_000_000, "{path}: now");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        Entry { path, content: is_file.then_some(content) }
    };
    tar::Archive::new(tar).entries().unwrap().map(read).collect()
}

fn content<'e>(entries: &'e [Entry], path: &str) -> &'e [u8] {
    let entry = entries.iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("{path} is missing"));
    entry.content.as_deref().unwrap()
}

/// Names in a directory of the source, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn spec(place: &Place) -> palimpsest::postgres::ServerSpec {
    place.spec("source").set("max_prepared_transactions", 7)
}

/// A cluster with what a base backup carries: two databases, unlogged relations, a prepared transaction, a multixact. Stopped.
async fn source(place: &Place) -> PathBuf {
    let data_dir = place.cluster("source").await;
    let server = place.start(spec(place)).await;
    let mut sql = server.sql().await.unwrap();
    for statement in [
        "CREATE UNLOGGED TABLE fleeting(a int PRIMARY KEY, b text); INSERT INTO fleeting SELECT i, 'x' FROM generate_series(1, 1000) i",
        "CREATE TABLE rows(a int PRIMARY KEY); INSERT INTO rows SELECT generate_series(1, 100)",
        "CREATE DATABASE other",
        "BEGIN; INSERT INTO rows VALUES (1000); PREPARE TRANSACTION 'waiting'",
        "BEGIN; SELECT * FROM rows FOR KEY SHARE",
    ] {
        sql.execute(statement).await.unwrap();
    }
    let mut second = server.sql().await.unwrap();
    second.execute("BEGIN; SELECT * FROM rows FOR KEY SHARE; COMMIT").await.unwrap();
    sql.execute("COMMIT").await.unwrap();
    drop((sql, second));
    server.stop(StopMode::Fast).await.unwrap();
    data_dir
}

/// The paths of a base backup of the stopped source at the end of its WAL, in the order of the reference.
fn expected(source: &Path, lsn: Lsn) -> Vec<String> {
    let mut all: Vec<String> = DIRECTORIES.split_whitespace().map(str::to_string).collect();
    all.extend(["pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"].map(str::to_string));
    for slru in ["pg_xact", "pg_multixact/members", "pg_multixact/offsets"] {
        all.extend(names(&source.join(slru)).into_iter().map(|name| format!("{slru}/{name}")));
    }
    let mut databases: Vec<u32> = names(&source.join("base")).iter().filter_map(|name| name.parse().ok()).collect();
    databases.sort_unstable();
    for db in databases {
        all.push(format!("base/{db}"));
        all.extend(["PG_VERSION", "pg_filenode.map"].map(|name| format!("base/{db}/{name}")));
        let files = names(&source.join(format!("base/{db}")));
        let mut unlogged: Vec<u32> = files.iter().filter_map(|name| name.strip_suffix("_init")?.parse().ok()).collect();
        unlogged.sort_unstable();
        all.extend(unlogged.iter().flat_map(|rel| [format!("base/{db}/{rel}"), format!("base/{db}/{rel}_init")]));
    }
    all.extend(["PG_VERSION", "global/pg_filenode.map"].map(str::to_string));
    all.extend(names(&source.join("pg_twophase")).into_iter().map(|name| format!("pg_twophase/{name}")));
    all.extend(["neon.signal", "zenith.signal", "global/pg_control"].map(str::to_string));
    all.push(format!("pg_wal/{}", segment_file_name(1, lsn.segment_number(WAL_SEGMENT_SIZE), WAL_SEGMENT_SIZE)));
    all
}

/// The WAL segment has headers only, and a reader that looks for a record at `lsn` finds the end of the WAL there.
fn check_wal(segment: &[u8], lsn: Lsn, system_id: u64) {
    assert_eq!(segment.len() as u64, WAL_SEGMENT_SIZE);
    let base = Lsn(lsn.0 - lsn.segment_offset(WAL_SEGMENT_SIZE));
    let header = PageHeader::decode(segment).unwrap();
    header.validate(base, WAL_SEGMENT_SIZE).unwrap();
    let long = header.long.expect("the first page has a long header");
    assert_eq!((long.system_id, header.tli, header.version()), (system_id, 1, Some(PgVersion::V15)));
    let page = lsn.page_start().segment_offset(WAL_SEGMENT_SIZE) as usize;
    let header = PageHeader::decode(&segment[page..]).unwrap();
    header.validate(lsn.page_start(), WAL_SEGMENT_SIZE).unwrap();
    let header_len = if page == 0 { 40 } else { 24 };
    assert!(header.is_continuation() && header.rem_len as usize == lsn.page_offset() - header_len, "{header:?}");
    let zeros = [(40.min(page)..page), (page + header_len..segment.len())];
    assert!(zeros.into_iter().all(|range| segment[range].iter().all(|b| *b == 0)), "all else is zero");
    let mut decoder = StreamDecoder::new(lsn, Some(PgVersion::V15), WAL_SEGMENT_SIZE).unwrap();
    decoder.feed(lsn.page_start(), &segment[page..]).unwrap();
    assert_eq!(decoder.next(), Err(WalError::ZeroLength { at: lsn }));
}

fn check_control(control: &[u8], source: &ControlFile, lsn: Lsn) {
    assert_eq!(control.len(), 8192);
    let control = ControlFile::decode(control).unwrap();
    assert_eq!((control.state, control.checkpoint), (ClusterState::ShutDown, Lsn::INVALID));
    assert_eq!(control.checkpoint_copy.redo, lsn);
    assert_eq!(control.system_id, source.system_id);
    assert_eq!(control.checkpoint_copy.next_xid, source.checkpoint_copy.next_xid);
    assert_eq!(control.checkpoint_copy.next_multi, source.checkpoint_copy.next_multi);
    assert_eq!(control.limits, source.limits);
}

async fn backup(client: &mut Client, command: &str) -> Vec<Entry> {
    entries(&client.copy_out(command).await.unwrap_or_else(|e| panic!("{command}: {e:?}")))
}

async fn last_record(client: &mut Client, ids: &str) -> (Lsn, Lsn) {
    client.query(&format!("get_last_record_rlsn {ids}")).await;
    client.expect(b'T').await;
    let row = client.expect(b'D').await;
    client.ready().await;
    let text = |at: usize| {
        let len = u32::from_be_bytes(row[at..at + 4].try_into().unwrap()) as usize;
        (String::from_utf8(row[at + 4..at + 4 + len].to_vec()).unwrap(), at + 4 + len)
    };
    let (prev, next) = text(2);
    (text(next).0.parse().unwrap(), prev.parse().unwrap())
}

/// Starts the source and makes the timeline follow it; gives the server and where its WAL was after some work.
async fn follow(place: &Place, server: &PalServer, client: &mut Client, tenant: &str, ids: &str) -> (Server, Lsn) {
    let primary = place.start(spec(place)).await;
    let connstr = format!("host={} port=5432 user=postgres", primary.socket_dir().display());
    server.pal(place, &["timeline", "follow", "--tenant", tenant, "--timeline", TIMELINE, &connstr]).await.ok();
    let mut sql = primary.sql().await.unwrap();
    sql.execute("INSERT INTO rows SELECT generate_series(2000, 3000)").await.unwrap();
    let written: Lsn = sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap();
    let give_up = place.env.clock.mono().after(super::client::LIMIT);
    while last_record(client, ids).await.0 < written {
        assert!(place.env.clock.mono() < give_up, "the WAL does not arrive");
        place.env.clock.sleep(Duration::from_millis(20)).await;
    }
    (primary, written)
}

#[tokio::test]
async fn what_a_base_backup_carries() {
    let place = Place::new().await;
    let data_dir = source(&place).await;
    let server = PalServer::start(&place, "node", &[]).await;
    let tenant = server.pal(&place, &["tenant", "create"]).await.ok().to_string();
    let ids = format!("{tenant} {TIMELINE}");
    server.pal(&place, &["import", "--tenant", &tenant, "--timeline", TIMELINE, &data_dir.display().to_string()]).await.ok();
    let mut client = Client::connect(&place, &server).await;
    let (lsn, prev) = last_record(&mut client, &ids).await;

    let all = backup(&mut client, &format!("basebackup {ids}")).await;
    let paths: Vec<&str> = all.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, expected(&data_dir, lsn));
    let file = |path: &str| std::fs::read(data_dir.join(path)).unwrap();
    let mut unlogged = 0;
    for entry in &all {
        let Some(found) = &entry.content else { continue };
        match entry.path.as_str() {
            "pg_ident.conf" | "postgresql.auto.conf" => assert!(found.is_empty()),
            "pg_hba.conf" => {
                let lines = String::from_utf8(found.clone()).unwrap();
                assert_eq!(lines.lines().filter(|line| !line.starts_with('#') && line.ends_with(" trust")).count(), 6, "{lines}");
            }
            path if path.ends_with("PG_VERSION") => assert_eq!(found, b"15", "{path}: no newline before 16"),
            "global/pg_control" => check_control(found, &ControlFile::decode(&file("global/pg_control")).unwrap(), lsn),
            "neon.signal" | "zenith.signal" => assert_eq!(found, format!("PREV LSN: {prev}").as_bytes()),
            path if path.starts_with("pg_wal/") => {
                check_wal(found, lsn, ControlFile::decode(&file("global/pg_control")).unwrap().system_id);
            }
            // The main fork is the empty one that init holds.
            path if data_dir.join(format!("{path}_init")).exists() => {
                unlogged += 1;
                assert_eq!(*found, file(&format!("{path}_init")), "{path}");
            }
            path => assert_eq!(*found, file(path), "{path}"),
        }
    }
    assert_eq!(unlogged, 4, "table, its toast table and two indexes");
    for path in ["pg_xact/0000", "pg_multixact/members/0000", "pg_multixact/offsets/0000"] {
        assert!(!content(&all, path).is_empty(), "{path}");
    }
    assert!(paths.iter().any(|path| path.starts_with("pg_twophase/")));

    for words in ["latest", &lsn.to_string(), "--replica", "latest --replica"] {
        assert!(backup(&mut client, &format!("basebackup {ids} {words}")).await == all, "{words}: the same");
    }
    for words in ["--gzip", "latest --gzip --replica", &format!("{lsn} --gzip")] {
        let packed = client.copy_out(&format!("basebackup {ids} {words}")).await.unwrap();
        assert!(packed.len() < 1 << 20, "{} bytes", packed.len());
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut tar).unwrap();
        assert!(entries(&tar) == all, "{words}: the same once unpacked");
    }

    // At an LSN of the past the record before is not known, except that a branch begins there.
    let (primary, written) = follow(&place, &server, &mut client, &tenant, &ids).await;
    let past = backup(&mut client, &format!("basebackup {ids} {lsn}")).await;
    assert_eq!(content(&past, "zenith.signal"), b"PREV LSN: invalid");
    let except = |entries: &[Entry]| entries.iter().filter(|e| !e.path.ends_with(".signal")).map(|e| e.path.clone()).collect::<Vec<_>>();
    assert_eq!(except(&past), except(&all));
    for entry in past.iter().filter(|entry| !entry.path.ends_with(".signal") && entry.path != "global/pg_control") {
        assert!(all.contains(entry), "{} is as it was at that LSN", entry.path);
    }
    let now = backup(&mut client, &format!("basebackup {ids} {written}")).await;
    assert_ne!(content(&now, "pg_xact/0000"), content(&all, "pg_xact/0000"));
    let args = ["timeline", "create", "--tenant", &tenant, "--ancestor", TIMELINE, "--at", &lsn.to_string()];
    let branch = server.pal(&place, &args).await.ok().to_string();
    let branched = backup(&mut client, &format!("basebackup {tenant} {branch}")).await;
    assert_eq!(content(&branched, "zenith.signal"), b"PREV LSN: none");
    let control = ControlFile::decode(content(&branched, "global/pg_control")).unwrap();
    let info = server.pal(&place, &["timeline", "get", "--tenant", &tenant, "--timeline", &branch, "--json"]).await.json();
    assert_eq!(info["system_identifier"].to_string().trim_matches('"'), control.system_id.to_string(), "the branch's own");
    primary.stop(StopMode::Fast).await.unwrap();
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn tablespaces_are_refused() {
    let place = Place::new().await;
    let data_dir = place.cluster("source").await;
    let space = place.path("space");
    std::fs::create_dir(&space).unwrap();
    hand_over(&place.env, place.run_as.as_deref(), &space).await.unwrap();
    let postgres = place.start(spec(&place)).await;
    let mut sql = postgres.sql().await.unwrap();
    sql.execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display())).await.unwrap();
    sql.execute("CREATE TABLE elsewhere(a int) TABLESPACE fast").await.unwrap();
    drop(sql);
    postgres.stop(StopMode::Fast).await.unwrap();
    let server = PalServer::start(&place, "node", &[]).await;
    let tenant = server.pal(&place, &["tenant", "create"]).await.ok().to_string();
    server.pal(&place, &["import", "--tenant", &tenant, "--timeline", TIMELINE, &data_dir.display().to_string()]).await.ok();
    let mut client = Client::connect(&place, &server).await;
    for words in ["", " --gzip"] {
        let (refusal, begun) = client.copy_out(&format!("basebackup {tenant} {TIMELINE}{words}")).await.unwrap_err();
        refusal.check("XX000", "user tablespaces are not supported by basebackup");
        assert!(!begun);
    }
    assert!(!client.copy_out(&format!("fullbackup {tenant} {TIMELINE}")).await.unwrap().is_empty());
    assert_eq!(server.stop(&place).await, Some(0));
}
