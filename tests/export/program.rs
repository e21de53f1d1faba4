//! `pal export` by the real executable, from a node that imported the cluster or follows it: every form starts.

use super::boot::{check_server, control, tree};
use super::cluster::Cluster;
use crate::pal::{PalServer, command};
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::process::Output;
use palimpsest::pg::control::ClusterState;
use palimpsest::postgres::{Server, StopMode};
use palimpsest::types::Lsn;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

const TIMELINE: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(120);

/// A node with the cluster's timeline.
struct Node<'a> {
    cluster: &'a Cluster,
    server: PalServer,
    tenant: String,
}

impl<'a> Node<'a> {
    /// Imports the stopped cluster.
    async fn new(cluster: &'a Cluster) -> Node<'a> {
        let place = &cluster.place;
        let server = PalServer::start(place, "node-dir", &["wait_lsn_timeout = '1s'"]).await;
        let tenant = server.pal(place, &["tenant", "create"]).await.ok().to_string();
        let node = Node { cluster, server, tenant };
        node.of_timeline("import", &[&cluster.data_dir.display().to_string()]).await;
        node
    }

    /// A command about the timeline that must succeed.
    async fn of_timeline(&self, verb: &str, more: &[&str]) -> Value {
        let args: Vec<&str> = verb.split(' ').chain(["--tenant", &self.tenant, "--timeline", TIMELINE, "--json"]).collect();
        self.server.pal(&self.cluster.place, &[&args, more].concat()).await.json()
    }

    async fn export(&self, form: &str, name: &str) -> Value {
        let directory = self.cluster.place.path(name).display().to_string();
        self.of_timeline("export", &["--as", form, "-o", &directory]).await
    }

    async fn export_raw(&self, more: &[&str]) -> Output {
        let place = &self.cluster.place;
        let args = [&["export", "--tenant", &self.tenant, "--timeline", TIMELINE], more].concat();
        let run = place.env.process.run(command(place, &args, &[("PAL_PAGE_SERVICE", &self.server.pages)]));
        place.env.clock.timeout(LIMIT, run).await.expect("the command ends").unwrap()
    }

    async fn info(&self) -> Value {
        self.of_timeline("timeline get", &[]).await
    }

    async fn follow(&self, primary: &Server) {
        self.of_timeline("timeline follow", &[&format!("host={} port=5432 user=postgres", primary.socket_dir().display())]).await;
    }

    /// Waits until everything that the server wrote is here.
    async fn caught_up(&self, primary: &Server) -> Lsn {
        let mut sql = primary.sql().await.unwrap();
        self.reached(sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap()).await
    }

    /// Waits until the timeline has the WAL up to there; gives the end of its last record.
    async fn reached(&self, written: Lsn) -> Lsn {
        let place = &self.cluster.place;
        let give_up = place.env.clock.mono().after(LIMIT);
        loop {
            let info = self.info().await;
            let last: Lsn = info["last_record_lsn"].as_str().unwrap().parse().unwrap();
            if last >= written {
                return last;
            }
            assert!(place.env.clock.mono() < give_up, "{written} was written: {info}");
            place.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn clusters_of_their_own() {
    let cluster = Cluster::new().await;
    let answers = cluster.load_and_stop().await;
    let node = Node::new(&cluster).await;
    let path = |name: &str| cluster.place.path(name);
    let source = control(&cluster.data_dir);

    let made = node.export("fresh", "fresh").await;
    assert_eq!((&made["as"], &made["lsn"]), (&"fresh".into(), &Value::Null), "{made}");
    assert_eq!(made["files"].as_u64().unwrap() as usize, tree(&path("fresh")).values().flatten().count());
    assert_eq!((mode(&path("fresh")), mode(&path("fresh/base")), mode(&path("fresh/PG_VERSION"))), (0o700, 0o700, 0o600));
    assert_ne!(control(&path("fresh")).system_id, source.system_id);
    check_server(&cluster, "fresh", &answers).await;

    for name in ["first", "again"] {
        node.export("first-node", name).await;
    }
    let first = tree(&path("first"));
    assert!(first.len() > 1000 && first == tree(&path("again")), "the same export twice");
    let info = node.info().await;
    let (control, lsn) = (control(&path("first")), info["last_record_lsn"].as_str().unwrap());
    assert_eq!((control.system_id, control.state, control.checkpoint_copy.tli), (source.system_id, ClusterState::ShutDown, 1));
    assert_eq!(control.checkpoint.to_string(), lsn);
    check_server(&cluster, "first", &answers).await;

    let said = node.export_raw(&["-o", "-"]).await;
    assert!(said.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    let mut archive = tar::Archive::new(said.stdout.as_slice());
    archive.set_preserve_mtime(false);
    archive.unpack(path("unpacked")).unwrap();
    check_server(&cluster, "unpacked", &answers).await;

    // What cannot be: nothing is left of it.
    std::fs::create_dir(path("empty")).unwrap();
    for (more, code, part) in [
        (&["-o", "first"][..], 4, "first is not empty"),
        (&["-o", "none", "--lsn", "0/10"], 1, "was garbage collected"),
        (&["-o", "empty", "--lsn", "FF/0"], 1, "timed out after 1s"),
        (&["-o", "none", "--as", "reseed", "--lsn", "FF/0"], 1, "timed out after 1s"),
        (&["-o", "none", "--as", "replica"], 1, "run CHECKPOINT on the primary"),
        (&["-o", "-", "--json"], 7, "would both write to standard output"),
        (&["-o", "-", "--lsn", "0/10"], 1, "was garbage collected"),
        (&["-o", "none", "--timeline", "ffffffffffffffffffffffffffffffff"], 2, "cannot be used multiple times"),
    ] {
        let target = path(more[1]).display().to_string();
        let more: Vec<&str> = more.iter().enumerate().map(|(i, word)| if i == 1 && *word != "-" { &target } else { *word }).collect();
        let said = node.export_raw(&more).await;
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.code == Some(code) && error.contains(part) && said.stdout.is_empty(), "{more:?}: {:?} {error}", said.code);
    }
    assert!(!path("none").exists() && path("empty").read_dir().unwrap().next().is_none());
    assert!(first == tree(&path("again")));
    assert_eq!(node.server.stop(&cluster.place).await, Some(0));
}

#[tokio::test]
async fn a_replica_and_the_next_primary() {
    let cluster = Cluster::new().await;
    cluster.load_and_stop().await;
    let node = Node::new(&cluster).await;
    let place = &cluster.place;
    let primary = cluster.start().await;
    node.follow(&primary).await;
    let mut sql = primary.sql().await.unwrap();
    // Not into the table with the hash index, which has no redo yet.
    sql.execute("CREATE TABLE followed(a int PRIMARY KEY, b text); CREATE INDEX ON followed(b)").await.unwrap();
    sql.execute("INSERT INTO followed SELECT i, 'followed' FROM generate_series(1, 5000) i; CHECKPOINT").await.unwrap();
    sql.execute("UPDATE followed SET b = 'later' WHERE a % 5 = 0").await.unwrap();
    let seeded = node.caught_up(&primary).await;

    // A replica of the running primary.
    node.export("replica", "replica").await;
    let root = place.path("replica");
    let file = control(&root);
    assert_eq!((file.state, file.system_id), (ClusterState::ShutDownInRecovery, control(&cluster.data_dir).system_id));
    assert!(file.checkpoint < file.min_recovery_point && file.min_recovery_point >= seeded, "{file:?}");
    assert!(root.join("standby.signal").exists());
    let conninfo = format!("host={} port=5432 user=postgres", primary.socket_dir().display());
    let replica = place.start(place.spec("replica").set("primary_conninfo", &conninfo)).await;
    sql.execute("INSERT INTO followed SELECT i, 'streamed' FROM generate_series(6000, 6100) i").await.unwrap();
    let written: Lsn = sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap().parse().unwrap();
    let mut there = replica.sql().await.unwrap();
    let give_up = place.env.clock.mono().after(LIMIT);
    loop {
        let replayed: Lsn = there.query_value("SELECT pg_last_wal_replay_lsn()").await.unwrap().unwrap().parse().unwrap();
        if replayed >= written {
            break;
        }
        assert!(place.env.clock.mono() < give_up, "replayed up to {replayed}, {written} was written: {}", replica.log_tail());
        place.env.clock.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(there.query_value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    let answers = cluster.ask(&primary).await;
    // A standby shows prepared transactions only once it is promoted.
    let shown = |answers: &[String]| answers.iter().filter(|a| !a.contains("pg_prepared_xacts")).cloned().collect::<Vec<_>>();
    assert_eq!(shown(&cluster.ask(&replica).await), shown(&answers));
    let rows = "SELECT count(*), sum(a), count(DISTINCT b), sum(hashtext(b)) FROM followed";
    let followed = sql.query(rows).await.unwrap();
    assert_eq!(there.query(rows).await.unwrap(), followed);
    drop(there);
    replica.stop(StopMode::Fast).await.unwrap();

    // All servers are gone: the next primary is on the next TLI, and the timeline goes on with it.
    drop(sql);
    // The last thing it wrote is likely a part of a record.
    primary.kill().await.unwrap();
    node.reached(written).await;
    node.export("reseed", "reseed").await;
    let last: Lsn = node.info().await["last_record_lsn"].as_str().unwrap().parse().unwrap();
    let root = place.path("reseed");
    let file = control(&root);
    assert_eq!((file.checkpoint_copy.tli, file.system_id), (2, control(&cluster.data_dir).system_id));
    assert_eq!(std::fs::read_to_string(root.join("pg_wal/00000002.history")).unwrap(), format!("1\t{last}\tpromoted\n"));
    let next = place.start(place.spec("reseed")).await;
    node.follow(&next).await;
    let mut sql = next.sql().await.unwrap();
    assert_eq!((sql.query(rows).await.unwrap(), cluster.ask(&next).await), (followed, answers.clone()));
    sql.execute("INSERT INTO followed SELECT i, 'on TLI 2' FROM generate_series(7000, 7100) i").await.unwrap();
    assert!(node.caught_up(&next).await > last);
    let status = node.info().await["walreceiver_status"].to_string();
    assert!(!status.contains("Stopped"), "{status}");
    drop(sql);
    next.stop(StopMode::Fast).await.unwrap();
    check_server(&cluster, "reseed", &answers).await;
    assert_eq!(node.server.stop(place).await, Some(0));
}
