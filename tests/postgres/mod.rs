//! Stock servers: finding, initdb, starting, stopping, crashing.

use crate::support::Place;
use async_trait::async_trait;
use palimpsest::io_abstraction::process::{Child, Command, Output, Process};
use palimpsest::pg::version::PgVersion;
use palimpsest::postgres::sql::quote_literal;
use palimpsest::postgres::{InitDbSpec, Server, StopMode, binaries, initdb};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[tokio::test]
async fn a_cluster_lives_through_stops_and_crashes() {
    let place = Place::new().await;
    let data_dir = place.cluster("a").await;
    let server = place.start(place.spec("a")).await;
    let mut sql = server.sql().await.unwrap();
    let settings = sql
        .query("SELECT current_setting('server_encoding'), datcollate, current_setting('data_checksums'), current_user, NULL FROM pg_database WHERE datname = 'template1'")
        .await
        .unwrap();
    let row: Vec<Option<&str>> = settings[0].iter().map(Option::as_deref).collect();
    assert_eq!([row[0], row[2], row[3], row[4]], [Some("UTF8"), Some("on"), Some("postgres"), None]);
    assert!(matches!(row[1], Some("C.UTF-8" | "C")), "{row:?}");
    sql.execute("CREATE TABLE t(x int); INSERT INTO t VALUES (1)").await.unwrap();
    sql.close().await;
    server.kill().await.unwrap();

    let server = place.start(place.spec("a")).await;
    let mut sql = server.sql().await.unwrap();
    assert_eq!(sql.query_value("SELECT x FROM t").await.unwrap().as_deref(), Some("1"), "recovered after a crash");
    let error = sql.query("SELECT 1/0").await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("22012"));
    assert!(error.to_string().contains("division by zero"), "{error}");
    for text in ["it's", r"back\slash", r"\'; DROP TABLE t; --", ""] {
        assert_eq!(sql.query_value(&format!("SELECT {}", quote_literal(text))).await.unwrap().as_deref(), Some(text));
    }
    let socket_dir = server.socket_dir().to_path_buf();
    server.stop(StopMode::Immediate).await.unwrap();
    assert!(place.env.disk.list(&socket_dir).is_err(), "the socket directory is removed");

    let server = place.start(place.spec("a")).await;
    server.stop(StopMode::Fast).await.unwrap();
    let again =
        InitDbSpec { binaries: &place.binaries, data_dir: &data_dir, run_as: place.run_as.as_deref(), sync: false, extra_args: &[] };
    let error = initdb::run(&place.env, &again).await.unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_its_log() {
    let place = Place::new().await;
    place.cluster("b").await;
    let Err(error) = Server::start(&place.env, place.spec("b").set("shared_buffers", "none")).await else { panic!("it started") };
    let error = error.to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\"") && error.contains("exit code Some(1)"), "{error}");
}

#[tokio::test]
async fn configured_directories_are_checked() {
    let place = Place::new().await;
    let find = |version, dir: PathBuf| {
        let env = place.env.clone();
        async move { binaries::find(&env, &BTreeMap::from([(version, dir)]), version).await }
    };
    let bin_dir = place.binaries.bin_dir.clone();
    assert_eq!(find(PgVersion::V15, bin_dir.clone()).await.unwrap(), place.binaries);
    let parent = bin_dir.parent().unwrap().to_path_buf();
    assert_eq!(find(PgVersion::V15, parent).await.unwrap(), place.binaries);
    let error = find(PgVersion::V16, bin_dir).await.unwrap_err().to_string();
    assert!(error.contains("postgres.versions: 16") && error.contains("the server there is 15."), "{error}");
    let error = find(PgVersion::V15, place.path("nowhere")).await.unwrap_err().to_string();
    assert!(error.contains("cannot run") && error.contains("nowhere"), "{error}");
}

/// A machine without any program.
struct BareMachine;

#[async_trait]
impl Process for BareMachine {
    async fn run(&self, command: Command) -> io::Result<Output> {
        // Only the tools every system has.
        match command.program.to_str() {
            Some("chmod") => Ok(Output { code: Some(0), stdout: Vec::new(), stderr: Vec::new() }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    async fn spawn(&self, _: Command) -> io::Result<Box<dyn Child>> {
        Err(io::ErrorKind::NotFound.into())
    }

    async fn give_to(&self, _: &str, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_root(&self) -> bool {
        false
    }

    fn user_exists(&self, _: &str) -> bool {
        false
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| std::env::temp_dir().join(format!("palimpsest-bare-{}", std::process::id())).display().to_string())
    }
}

#[tokio::test]
async fn a_bare_machine_hears_both_ways_to_get_a_server() {
    let mut env = Place::new().await.env;
    env.process = Arc::new(BareMachine);
    let found = binaries::find(&env, &BTreeMap::new(), PgVersion::V17).await.unwrap_err().to_string();
    let installed = binaries::find_or_install(&env, &BTreeMap::new(), PgVersion::V17).await.unwrap_err().to_string();
    for error in [found, installed] {
        assert!(error.contains("postgresql-17") && error.contains("pal postgres install 17") && error.contains("npm"), "{error}");
    }
    let home = env.process.variable("HOME").unwrap();
    env.disk.remove_dir_all(Path::new(&home)).unwrap();
}
