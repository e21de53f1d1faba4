//! Export: stock servers start on every form, and find what was in the cluster.

use super::cluster::Cluster;
use palimpsest::export::{self, ByteOutput, DirectorySink, ExportSpec, Exported, Form, TarSink, WalSource};
use palimpsest::io_abstraction::process::Command;
use palimpsest::pg::control::ControlFile;
use palimpsest::postgres::{Server, StopMode, hand_over};
use palimpsest::timeline::Timeline;
use palimpsest::types::Lsn;
use palimpsest::types::lsn::segment_file_name;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

async fn export_to(cluster: &Cluster, timeline: &Timeline, spec: &ExportSpec, name: &str) -> Exported {
    let root = cluster.place.path(name);
    let mut sink = DirectorySink::create(&cluster.place.env, &root).await.unwrap();
    let done = AtomicU64::new(0);
    let progress = |now, total| {
        assert!(now <= total && done.fetch_max(now, Ordering::Relaxed) <= now);
    };
    let exported = export::run(&cluster.place.env, timeline, spec, &mut sink, &progress).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.load(Ordering::Relaxed), exported.bytes);
    exported
}

/// Relative path -> content, links by their target.
pub(super) fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let content = path.is_file().then(|| std::fs::read(&path).unwrap());
            if path.is_dir() {
                todo.push(path.clone());
            }
            all.insert(path.strip_prefix(root).unwrap().to_path_buf(), content);
        }
    }
    all
}

async fn check_checksums(cluster: &Cluster, data_dir: &Path) {
    let place = &cluster.place;
    hand_over(&place.env, place.run_as.as_deref(), data_dir).await.unwrap();
    let program = place.binaries.tool(&place.env, "pg_checksums").expect("pg_checksums is part of PostgreSQL 15 here");
    let args = vec!["--check".into(), "-D".into(), data_dir.display().to_string()];
    let output = place.env.process.run(Command { program, args, run_as: place.run_as.clone(), ..Command::default() }).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.success() && out.contains("Bad checksums:  0"), "{out}{err}");
}

async fn check_indexes(cluster: &Cluster, server: &Server) -> u64 {
    let mut count = 0;
    for database in ["postgres", "other", "roaming"] {
        let mut sql = cluster.sql(server, database).await;
        sql.execute("CREATE EXTENSION IF NOT EXISTS amcheck").await.unwrap();
        let checked = sql
            .query_value("SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'btree' AND relkind = 'i' AND relpersistence <> 't'")
            .await
            .unwrap();
        count += checked.unwrap().parse::<u64>().unwrap();
        let damaged = sql
            .query(
                "SELECT c.relname, v.* FROM pg_class c, verify_heapam(c.oid) v WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'",
            )
            .await
            .unwrap();
        assert!(damaged.is_empty(), "{database}: {damaged:?}");
        sql.close().await;
    }
    count
}

/// Everything that a started export must show, work included.
pub(super) async fn check_server(cluster: &Cluster, name: &str, answers: &[String]) {
    let server = cluster.place.start(cluster.place.spec(name)).await;
    let log = std::fs::read_to_string(cluster.place.path(&format!("{name}.log"))).unwrap();
    assert!(log.contains("database system was shut down at"), "{log}");
    assert_eq!(cluster.ask(&server).await, answers);
    assert!(check_indexes(cluster, &server).await > 150);
    let mut sql = server.sql().await.unwrap();
    let mut value = async |query: &str| sql.query_value(query).await.unwrap_or_else(|e| panic!("{query}: {e}")).unwrap_or_default();
    assert_eq!(value("SELECT count(*) FROM fleeting").await, "0", "unlogged tables come up empty");
    assert_eq!(value("INSERT INTO fleeting VALUES (1, 'y'); SELECT count(*) FROM fleeting").await, "1");
    assert_eq!(value("SELECT current_setting('max_connections') || ' ' || current_setting('max_prepared_transactions')").await, "33 7");
    assert_eq!(value("SELECT current_setting('track_commit_timestamp')").await, "on");
    assert_eq!(value("SELECT nextval('counter')").await, "41");
    value("COMMIT PREPARED 'waiting'").await;
    assert_eq!(value("SELECT b FROM plain WHERE a = 1000000").await, "prepared");
    value(
        "INSERT INTO elsewhere SELECT generate_series(5001, 6000); CREATE TABLE later(a int) TABLESPACE fast; INSERT INTO later VALUES (1)",
    )
    .await;
    value("UPDATE plain SET b = 'changed' WHERE a % 2 = 0; DELETE FROM toasted WHERE a < 10").await;
    value("CHECKPOINT").await;
    value("INSERT INTO plain SELECT i, 'new' FROM generate_series(2000000, 2005000) i").await;
    drop(sql);
    server.stop(StopMode::Immediate).await.unwrap();
    let server = cluster.place.start(cluster.place.spec(name)).await;
    let mut sql = server.sql().await.unwrap();
    assert_eq!(
        sql.query_value("SELECT count(*) FROM plain WHERE b = 'new'").await.unwrap().as_deref(),
        Some("5001"),
        "recovers from a crash"
    );
    drop(sql);
    check_indexes(cluster, &server).await;
    server.stop(StopMode::Fast).await.unwrap();
    check_checksums(cluster, &cluster.place.path(name)).await;
}

#[derive(Default)]
struct Collect(Vec<u8>);

#[async_trait::async_trait]
impl ByteOutput for Collect {
    async fn send(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn tar_of(cluster: &Cluster, timeline: &Timeline, form: Form) -> Vec<u8> {
    let mut collect = Collect::default();
    let mut sink = TarSink::new(&mut collect);
    export::run(&cluster.place.env, timeline, &ExportSpec::new(form, None), &mut sink, &|_, _| {}).await.unwrap();
    collect.0
}

pub(super) fn control(root: &Path) -> ControlFile {
    ControlFile::decode(&std::fs::read(root.join("global/pg_control")).unwrap()).unwrap()
}

#[tokio::test]
async fn first_nodes_are_equal_byte_for_byte_and_start() {
    let cluster = Cluster::new().await;
    let answers = cluster.load_and_stop().await;
    let (imported, timeline) = cluster.import_into(64 << 20, Some(77));
    let spec = ExportSpec::new(Form::FirstNode, Some(imported.lsn));
    let first = export_to(&cluster, &timeline, &spec, "first").await;
    let again = export_to(&cluster, &timeline, &spec, "again").await;
    assert_eq!(first, again);
    assert_eq!((first.system_identifier, first.tli, first.lsn, first.checkpoint_lsn), (77, 1, imported.lsn, imported.lsn));
    let files = tree(&cluster.place.path("first"));
    assert!(files == tree(&cluster.place.path("again")), "the same export twice");
    assert!(files.len() as u64 > first.files && first.files > 1000);

    // The tar stream has the same files; the order ends with pg_control.
    let bytes = tar_of(&cluster, &timeline, Form::FirstNode).await;
    assert!(bytes == tar_of(&cluster, &timeline, Form::FirstNode).await, "the same stream twice");
    let mut paths = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let is_file = entry.header().entry_type().is_file();
        let mut content = Vec::new();
        io::Read::read_to_end(&mut entry, &mut content).unwrap();
        assert_eq!(files.get(&path), Some(&is_file.then_some(content)), "{}", path.display());
        paths.push(path);
    }
    assert_eq!(paths.len(), files.len());
    assert_eq!(paths.last(), Some(&PathBuf::from("global/pg_control")));

    // What is not rewritten is as it was in the source: pages, transaction state, maps.
    let source = tree(&cluster.data_dir);
    let differing: Vec<_> = files
        .iter()
        .filter(|(path, content)| source.get(*path).is_some_and(|was| was != *content))
        .map(|(path, _)| path.display().to_string())
        .collect();
    let written =
        |path: &String| ["PG_VERSION", ".conf", "pg_control"].iter().any(|end| path.ends_with(end)) || path.starts_with("pg_wal/");
    let unlogged = |path: &String| path.starts_with("base/5/");
    assert!(differing.iter().all(|path| written(path) || unlogged(path)), "{differing:?}");
    assert!(differing.iter().filter(|path| unlogged(path)).count() <= 3, "{differing:?}");

    check_checksums(&cluster, &cluster.place.path("first")).await;
    check_server(&cluster, "first", &answers).await;
}

#[tokio::test]
async fn a_fresh_cluster_starts_with_its_tablespace_elsewhere() {
    let cluster = Cluster::new().await;
    let answers = cluster.load_and_stop().await;
    let (_, timeline) = cluster.import_into(64 << 20, None);
    let elsewhere = cluster.place.path("elsewhere");
    let mut spec = ExportSpec::new(Form::Fresh, None);
    spec.tablespaces.insert(cluster.tablespace.display().to_string(), elsewhere.clone());
    let exported = export_to(&cluster, &timeline, &spec, "fresh").await;
    assert_ne!(exported.system_identifier, timeline.identity.system_identifier);
    let nonces = [control(&cluster.place.path("fresh")), control(&cluster.data_dir)].map(|c| c.mock_authentication_nonce);
    assert_ne!(nonces[0], nonces[1]);
    hand_over(&cluster.place.env, cluster.place.run_as.as_deref(), &elsewhere).await.unwrap();
    check_server(&cluster, "fresh", &answers).await;
    assert!(!tree(&elsewhere).is_empty());
}

#[tokio::test]
async fn what_cannot_be_exported_is_refused() {
    let cluster = Cluster::new().await;
    let (imported, timeline) = cluster.import_into(64 << 20, None);
    let env = &cluster.place.env;
    let mut collect = Collect::default();
    let mut sink = TarSink::new(&mut collect);
    let mut refused = async |spec: ExportSpec, part: &str| {
        let error = export::run(env, &timeline, &spec, &mut sink, &|_, _| {}).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(ExportSpec::new(Form::Fresh, Some(Lsn(imported.lsn.0 - 8))), "garbage collected").await;
    refused(ExportSpec::new(Form::Replica, None), "there is no WAL log here").await;
    let mut spec = ExportSpec::new(Form::Fresh, None);
    spec.tablespaces.insert("/nowhere".into(), PathBuf::from("/elsewhere"));
    refused(spec, "the tablespace map names \"/nowhere\"").await;
    assert!(collect.0.is_empty(), "nothing was sent before the refusal");
    let taken = DirectorySink::create(env, &cluster.data_dir).await.map(|_| ()).unwrap_err().to_string();
    assert!(taken.contains("not empty"), "{taken}");
    let mut sink = DirectorySink::create(env, &cluster.place.path("half")).await.unwrap();
    export::Sink::directory(&mut sink, "base").await.unwrap();
    sink.discard().await.unwrap();
    assert!(!cluster.place.path("half").exists());
}

/// The WAL of a server's own directory.
struct ServerWal {
    directory: PathBuf,
    start: Lsn,
}

const SEGMENT: u64 = 16 << 20;

impl WalSource for ServerWal {
    fn start_lsn(&self) -> Lsn {
        self.start
    }

    fn read(&self, lsn: Lsn, buffer: &mut [u8]) -> io::Result<usize> {
        let path = self.directory.join(segment_file_name(1, lsn.segment_number(SEGMENT), SEGMENT));
        let left = (SEGMENT - lsn.segment_offset(SEGMENT)).min(buffer.len() as u64) as usize;
        match std::fs::File::open(path) {
            Ok(file) => file.read_at(&mut buffer[..left], lsn.segment_offset(SEGMENT)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn wal_of(cluster: &Cluster, start: Lsn) -> Option<Arc<dyn WalSource>> {
    Some(Arc::new(ServerWal { directory: cluster.data_dir.join("pg_wal"), start }))
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let cluster = Cluster::new().await;
    let answers = cluster.load_and_stop().await;
    let (imported, timeline) = cluster.import_into(64 << 20, None);
    let primary = cluster.start().await;
    let mut spec = ExportSpec::new(Form::Replica, None);
    spec.wal = wal_of(&cluster, imported.prev_record_lsn.page_start());
    let conninfo = format!("host={} port=5432 user=postgres", primary.socket_dir().display());
    spec.settings.push(("primary_conninfo".to_string(), conninfo));
    let exported = export_to(&cluster, &timeline, &spec, "replica").await;
    assert_eq!((exported.checkpoint_lsn, exported.system_identifier), (imported.prev_record_lsn, imported.system_identifier));
    // The socket directory is the servers' user's own.
    let replica = cluster.place.start(cluster.place.spec("replica")).await;
    // A standby shows prepared transactions only once it is promoted.
    let shown = |answers: &[String]| answers.iter().filter(|a| !a.contains("pg_prepared_xacts")).cloned().collect::<Vec<_>>();
    assert_eq!(shown(&cluster.ask(&replica).await), shown(&answers));
    let mut sql = primary.sql().await.unwrap();
    sql.execute("INSERT INTO plain SELECT i, 'streamed' FROM generate_series(3000000, 3000100) i").await.unwrap();
    let written: Lsn = sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap();
    let mut there = replica.sql().await.unwrap();
    for attempt in 0.. {
        let replayed: Lsn = there.query_value("SELECT pg_last_wal_replay_lsn()").await.unwrap().unwrap().parse().unwrap();
        if replayed >= written {
            break;
        }
        assert!(attempt < 300, "replayed up to {replayed}, {written} was written: {}", replica.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(there.query_value("SELECT count(*) FROM plain WHERE b = 'streamed'").await.unwrap().as_deref(), Some("101"));
    assert_eq!(there.query_value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    assert_eq!(there.query_value("SELECT pg_promote()").await.unwrap().as_deref(), Some("t"));
    assert_eq!(there.query_value("SELECT gid FROM pg_prepared_xacts").await.unwrap().as_deref(), Some("waiting"));
    check_indexes(&cluster, &replica).await;
    drop((sql, there));
    replica.stop(StopMode::Fast).await.unwrap();
    primary.stop(StopMode::Fast).await.unwrap();

    let mut without = ExportSpec::new(Form::Replica, None);
    without.wal = wal_of(&cluster, imported.lsn);
    let mut collect = Collect::default();
    let error =
        export::run(&cluster.place.env, &timeline, &without, &mut TarSink::new(&mut collect), &|_, _| {}).await.unwrap_err().to_string();
    assert!(error.contains("run CHECKPOINT on the primary"), "{error}");
}

#[tokio::test]
async fn a_new_primary_goes_on_with_the_next_tli() {
    let cluster = Cluster::new().await;
    let answers = cluster.load_and_stop().await;
    let (imported, timeline) = cluster.import_into(64 << 20, None);
    for (name, wal) in [("made", None), ("logged", wal_of(&cluster, imported.prev_record_lsn.page_start()))] {
        let mut spec = ExportSpec::new(Form::Reseed, None);
        spec.wal = wal;
        let exported = export_to(&cluster, &timeline, &spec, name).await;
        assert_eq!((exported.tli, exported.system_identifier), (2, imported.system_identifier));
        let root = cluster.place.path(name);
        let history = std::fs::read_to_string(root.join("pg_wal/00000002.history")).unwrap();
        assert_eq!(history, format!("1\t{}\tpromoted\n", imported.lsn));
        let segment = root.join("pg_wal").join(segment_file_name(2, imported.lsn.segment_number(SEGMENT), SEGMENT));
        let (new, old) = (
            std::fs::read(segment).unwrap(),
            cluster.data_dir.join("pg_wal").join(segment_file_name(1, imported.lsn.segment_number(SEGMENT), SEGMENT)),
        );
        let old = std::fs::read(old).unwrap();
        let range = imported.prev_record_lsn.page_start().segment_offset(SEGMENT) as usize..imported.lsn.segment_offset(SEGMENT) as usize;
        assert_eq!(new[range.clone()] == old[range], name == "logged", "{name}: the WAL before the new record");
        check_server(&cluster, name, &answers).await;
        assert_eq!(control(&root).checkpoint_copy.tli, 2);
    }
}
