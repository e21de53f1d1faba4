//! A stopped cluster with one of everything, and the world in which it is imported.

use crate::support::Place;
use palimpsest::config::{Config, RedoMode};
use palimpsest::layer::BlockCache;
use palimpsest::postgres::{Server, StopMode, hand_over};
use palimpsest::redo::executor::RedoExecutor;
use palimpsest::remote::{AttachMode, Attachment, RemoteClient, StoreAuthority, Validation};
use palimpsest::timeline::import::{self, ImportOptions, Imported};
use palimpsest::timeline::{Shared, Timeline};
use palimpsest::types::{Generation, TenantId, TimelineId};
use std::path::PathBuf;
use std::sync::Arc;

pub const TENANT: TenantId = TenantId([1; 16]);
pub const TIMELINE: TimelineId = TimelineId([2; 16]);

/// What the databases hold, one query per line: database, query.
pub const QUERIES: [(&str, &str); 9] = [
    ("postgres", "SELECT count(*), sum(hashtext(a::text || b)) FROM plain"),
    ("postgres", "SELECT count(*), sum(length(b)) FROM toasted"),
    ("postgres", "SELECT last_value, is_called FROM counter"),
    ("postgres", "SELECT gid FROM pg_prepared_xacts"),
    ("postgres", "SELECT count(*), sum(a) FROM elsewhere"),
    ("postgres", "SELECT count(*) FROM shared_rows"),
    ("postgres", "SELECT count(pg_xact_commit_timestamp(xmin)) FROM toasted"),
    ("other", "SELECT count(*) FROM inside"),
    ("roaming", "SELECT count(*), sum(a) FROM inside"),
];

/// A cluster and a server to load it with.
pub struct Cluster {
    pub place: Place,
    pub data_dir: PathBuf,
    pub tablespace: PathBuf,
}

impl Cluster {
    pub async fn new() -> Cluster {
        let place = Place::new().await;
        let data_dir = place.cluster("source").await;
        let tablespace = place.path("space");
        std::fs::create_dir(&tablespace).unwrap();
        hand_over(&place.env, place.run_as.as_deref(), &tablespace).await.unwrap();
        Cluster { place, data_dir, tablespace }
    }

    pub async fn start(&self) -> Server {
        let spec =
            self.place.spec("source").set("max_prepared_transactions", 7).set("track_commit_timestamp", "on").set("max_connections", 33);
        self.place.start(spec).await
    }

    /// Loads one of everything and stops the server. Gives the answers to [`QUERIES`].
    pub async fn load_and_stop(&self) -> Vec<String> {
        let server = self.start().await;
        let mut sql = server.sql().await.unwrap();
        for statement in [
            "CREATE TABLE plain(a int PRIMARY KEY, b text); INSERT INTO plain SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
            "CREATE INDEX ON plain(b); CREATE INDEX ON plain USING hash(b); CREATE INDEX ON plain USING brin(a)",
            "DELETE FROM plain WHERE a % 3 = 0",
            "VACUUM plain",
            "CREATE TABLE toasted(a int, b text); ALTER TABLE toasted ALTER b SET STORAGE EXTERNAL",
            "INSERT INTO toasted SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 50) i",
            "CREATE SEQUENCE counter; SELECT nextval('counter') FROM generate_series(1, 40)",
            "CREATE UNLOGGED TABLE fleeting(a int PRIMARY KEY, b text); INSERT INTO fleeting SELECT i, 'x' FROM generate_series(1, 1000) i",
            "CREATE TABLE shared_rows(a int PRIMARY KEY); INSERT INTO shared_rows SELECT generate_series(1, 10)",
            "CREATE EXTENSION amcheck",
            "CREATE DATABASE other",
        ] {
            sql.execute(statement).await.unwrap();
        }
        sql.execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", self.tablespace.display())).await.unwrap();
        sql.execute("CREATE TABLE elsewhere(a int PRIMARY KEY) TABLESPACE fast; INSERT INTO elsewhere SELECT generate_series(1, 5000)")
            .await
            .unwrap();
        sql.execute("CREATE DATABASE roaming TABLESPACE fast").await.unwrap();
        sql.execute("BEGIN; INSERT INTO plain VALUES (1000000, 'prepared'); PREPARE TRANSACTION 'waiting'").await.unwrap();
        // A multixact has members from two transactions at once.
        let mut second = server.sql().await.unwrap();
        sql.execute("BEGIN; SELECT * FROM shared_rows FOR KEY SHARE").await.unwrap();
        second.execute("BEGIN; SELECT * FROM shared_rows FOR KEY SHARE; COMMIT").await.unwrap();
        sql.execute("COMMIT").await.unwrap();
        for (database, rows) in [("other", 700), ("roaming", 900)] {
            let mut inside = self.sql(&server, database).await;
            inside
                .execute(&format!("CREATE TABLE inside(a int PRIMARY KEY); INSERT INTO inside SELECT generate_series(1, {rows})"))
                .await
                .unwrap();
        }
        sql.close().await;
        let answers = self.ask(&server).await;
        server.stop(StopMode::Fast).await.unwrap();
        answers
    }

    pub async fn sql(&self, server: &Server, database: &str) -> palimpsest::postgres::SqlClient {
        let connstr = palimpsest::replication::ConnStr { dbname: Some(database.to_string()), ..server.conn_str() };
        palimpsest::postgres::SqlClient::connect(&self.place.env, &connstr).await.unwrap()
    }

    pub async fn ask(&self, server: &Server) -> Vec<String> {
        let mut answers = Vec::new();
        for (database, query) in QUERIES {
            let mut sql = self.sql(server, database).await;
            answers.push(format!("{query}: {:?}", sql.query(query).await.unwrap()));
            sql.close().await;
        }
        answers
    }

    pub fn import_into(&self, layer_bytes_max: u64, system_identifier: Option<u64>) -> (Imported, Arc<Timeline>) {
        let shared = self.shared();
        let target = Timeline::directory(&shared.config, TENANT, TIMELINE);
        let options = ImportOptions { directory: self.data_dir.clone(), system_identifier };
        let imported = import::run(&*self.place.env.disk, &target, &options, layer_bytes_max).unwrap_or_else(|e| panic!("{e}"));
        let (remote, settings) = (shared.remote.clone(), shared.config.tenant.clone());
        let attachment = Attachment::new(TENANT, remote, shared.validation.clone(), AttachMode::Single, settings);
        let timeline = Timeline::open(&shared, &attachment, TIMELINE, &imported.index(Generation(1)), None);
        (imported, timeline)
    }

    pub fn shared(&self) -> Arc<Shared> {
        let env = self.place.env.clone();
        let config = Config::for_data_dir(&self.place.path("node"));
        let redo = RedoExecutor::new(&env, RedoMode::InProcess, config.wal_redo_timeout);
        let remote = RemoteClient::new(&env, Generation(1));
        let validation = Validation::new(&env, remote.clone(), Arc::new(StoreAuthority(remote.clone())));
        Arc::new(Shared { cache: BlockCache::new(1 << 22, env.probe.clone()), redo, remote, validation, config, env })
    }
}
