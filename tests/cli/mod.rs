//! The commands as a person or a script meets them: help, errors with their exit codes, tables and JSON.

mod verify;

use crate::pal::{PalServer, pal};
use crate::support::Place;
use palimpsest::postgres::StopMode;
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn help_names_what_there_is() {
    let place = Place::new().await;
    for (args, parts) in [
        (
            &["--help"][..],
            &["demo", "serve", "tenant", "timeline", "import", "export", "keygen", "token", "wal", "postgres", "Exit codes", "pal demo"][..],
        ),
        (&["tenant", "--help"], &["create", "list", "get", "PAL_ENDPOINT", "Examples:"]),
        (&["timeline", "--help"], &["create", "list", "get", "follow", "unfollow", "wal_level=replica"]),
        (&["timeline", "create", "--help"], &["--tenant", "--id", "--ancestor", "--at", "--pg-version", "--json", "--endpoint"]),
        (&["timeline", "follow", "--help"], &["CONNSTR", "postgresql://"]),
        (&["import", "--help"], &["stopped", "pg_ctl stop", "DIR"]),
        (&["export", "--help"], &["--lsn", "first-node", "fresh", "replica", "reseed", "PAL_PAGE_SERVICE", "postgres -D"]),
        (&["keygen", "--help"], &["auth_private_key.pem", "auth_validation_public_key_path", "--json"]),
        (&["token", "--help"], &["--key", "--scope", "--tenant", "--ttl", "pageserverapi", "PAL_TOKEN", "Bearer"]),
        (&["wal", "stats", "--help"], &["pg_waldump", "--start", "--end", "--json"]),
        (&["wal", "verify", "--help"], &["wal_consistency_checking=all", "--start", "--end", "--json", "Exit codes"]),
        (&["postgres", "--help"], &["install", "list", "npm"]),
        (&["demo", "--help"], &["--pg", "--json", "--keep", "temporary directory"]),
        (&["serve", "--help"], &["--data-dir", "--config"]),
    ] {
        let said = pal(&place, args, &[]).await;
        for part in parts {
            assert!(said.ok().contains(part), "{args:?}: {part} is not in {}", said.out);
        }
    }
    let said = pal(&place, &["--help"], &[]).await;
    assert!(!said.ok().contains("wal-redo"), "the child of the server is nobody's command");
    assert!(pal(&place, &["--version"], &[]).await.ok().starts_with("pal "));
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let place = Place::new().await;
    let id = "0123456789abcdef0123456789abcdef";
    for (args, part) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["tenant"], "create"),
        (&["tenant", "get", "zz"], "32 hexadecimal digits"),
        (&["tenant", "create", "--id", "0123"], "32 hexadecimal digits"),
        (&["tenant", "list", "-o", "yaml"], "json"),
        (&["tenant", "list", "-o", "json", "--json"], "cannot be used with"),
        (&["tenant", "list", "--endpoint", "ftp://localhost:1"], "only http://"),
        (&["timeline", "list"], "--tenant"),
        (&["timeline", "create", "--tenant", id, "--at", "0/10"], "--ancestor"),
        (&["timeline", "create", "--tenant", id, "--ancestor", id, "--at", "10"], "neither an LSN"),
        (&["timeline", "create", "--tenant", id, "--pg-version", "13"], "from 14 to 18"),
        (&["export", "--tenant", id, "--timeline", id], "--output"),
        (&["export", "--tenant", id, "--timeline", id, "-o", "x", "--as", "clone"], "first-node"),
        (&["export", "--tenant", id, "--timeline", id, "-o", "x", "--page-service", "here"], "HOST:PORT"),
        (&["token"], "--key"),
        (&["token", "--key", "x", "--scope", "admin"], "pageserverapi"),
        (&["token", "--key", "x", "--scope", "tenant"], "--tenant"),
        (&["token", "--key", "x", "--ttl", "soon"], "--ttl"),
        (&["postgres", "install", "x"], "from 14 to 18"),
        (&["demo", "--pg", "9"], "from 14 to 18"),
    ] {
        let said = pal(&place, args, &[]).await;
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.err.contains(part) || said.out.contains(part), "{args:?}: {part} is not in {said:?}");
    }
}

#[tokio::test]
async fn without_a_server_the_error_says_how_to_start_one() {
    let place = Place::new().await;
    let address = format!("127.0.0.1:{}", place.free_port().await);
    let id = "0123456789abcdef0123456789abcdef";
    let said = pal(&place, &["tenant", "list", "--endpoint", &address], &[]).await;
    assert_eq!(said.code, Some(8), "{said:?}");
    for part in [address.as_str(), "pal serve", "--endpoint", "PAL_ENDPOINT"] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    let target = place.path("none").display().to_string();
    let said = pal(&place, &["export", "--tenant", id, "--timeline", id, "-o", &target, "--json"], &[("PAL_PAGE_SERVICE", &address)]).await;
    assert_eq!(said.code, Some(8), "{said:?}");
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert!(error["msg"].as_str().unwrap().contains("--page-service"), "{said:?}");
    assert!(place.env.disk.list(&place.path("none")).is_err(), "nothing is left of it");
}

#[tokio::test]
async fn a_tenants_life_in_commands() {
    let place = Place::new().await;
    let server = PalServer::start(&place, "node", &[]).await;
    let tenant = server.pal(&place, &["tenant", "create"]).await.ok().to_string();
    assert_eq!(server.pal(&place, &["tenant", "list", "--json"]).await.json()[0]["id"], tenant.as_str());
    let other = "0123456789abcdef0123456789abcdef";
    assert_eq!(server.pal(&place, &["tenant", "create", "--id", other, "-o", "json"]).await.json()["id"], other);
    assert_eq!(server.pal(&place, &["tenant", "create", "--id", other]).await.code, Some(4));
    assert_eq!(server.pal(&place, &["tenant", "get", "ffffffffffffffffffffffffffffffff"]).await.code, Some(3));
    assert!(server.pal(&place, &["tenant", "list"]).await.ok().lines().any(|line| line.starts_with(other) && line.ends_with("Active")));

    let of_tenant = ["--tenant", &tenant];
    let with = |words: &[&'static str], more: &[&str]| -> Vec<String> {
        words.iter().copied().chain(of_tenant).chain(more.iter().copied()).map(str::to_string).collect()
    };
    let run = async |args: Vec<String>| server.pal(&place, &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let root = run(with(&["timeline", "create"], &["--pg-version", "15"])).await.ok().to_string();
    let info = run(with(&["timeline", "get"], &["--timeline", &root, "--json"])).await.json();
    assert_eq!(
        (&info["timeline_id"], &info["pg_version"], &info["ancestor_timeline_id"]),
        (&root.as_str().into(), &15.into(), &Value::Null)
    );
    let at = info["last_record_lsn"].as_str().unwrap();
    let branch = run(with(&["timeline", "create"], &["--ancestor", &root, "--at", at, "--json"])).await.json();
    assert_eq!((&branch["ancestor_timeline_id"], &branch["ancestor_lsn"]), (&root.as_str().into(), &at.into()));
    let below = run(with(&["timeline", "create"], &["--ancestor", &root, "--at", "0/10"])).await;
    assert!(below.code == Some(7) && below.err.contains("less than the latest GC cutoff"), "{below:?}");
    let list = run(with(&["timeline", "list"], &[])).await;
    assert!(list.ok().starts_with("TIMELINE") && list.out.contains(&root) && list.out.lines().count() == 3, "{list:?}");

    let followed = run(with(&["timeline", "follow"], &["--timeline", &root, "host=/nowhere password=secret", "--json"])).await;
    assert!(
        followed.json()["wal_source_connstr"].as_str().unwrap().contains("host=/nowhere") && !followed.out.contains("secret"),
        "{followed:?}"
    );
    assert_eq!(server.stop(&place).await, Some(0));

    let server = PalServer::start(&place, "node", &[]).await;
    let run = async |args: Vec<String>| server.pal(&place, &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let info = run(with(&["timeline", "get"], &["--timeline", &root, "--json"])).await.json();
    assert!(info["wal_source_connstr"].as_str().unwrap().contains("host=/nowhere"), "kept across restarts: {info}");
    let info = run(with(&["timeline", "unfollow"], &["--timeline", &root, "--json"])).await.json();
    assert_eq!(info["wal_source_connstr"], Value::Null);

    let config = server.pal(&place, &["tenant", "config", &tenant, "gc_horizon=1000", "pitr_interval=2h", "--json"]).await.json();
    assert_eq!(config["tenant_specific_overrides"], serde_json::json!({ "gc_horizon": 1000, "pitr_interval": "2h" }));
    let table = server.pal(&place, &["tenant", "config", &tenant]).await;
    assert!(table.ok().lines().any(|line| line.split_whitespace().eq(["pitr_interval", "2h", "tenant"])), "{table:?}");
    let wrong = server.pal(&place, &["tenant", "config", &tenant, "gc_horizonn=1"]).await;
    assert!(wrong.code == Some(7) && wrong.err.contains("did you mean"), "{wrong:?}");
    assert!(server.pal(&place, &["tenant", "detach", &tenant]).await.ok().contains("is detached"));
    assert_eq!(server.pal(&place, &["tenant", "get", &tenant]).await.code, Some(3));
    let attached = server.pal(&place, &["tenant", "attach", &tenant, "gc_horizon=7", "--json"]).await.json();
    assert_eq!(attached["state"]["slug"], "Active");
    let has_branches = run(with(&["timeline", "delete"], &["--timeline", &root])).await;
    assert!(has_branches.code == Some(4) && has_branches.err.contains("child timelines"), "{has_branches:?}");
    let branch = branch["timeline_id"].as_str().unwrap();
    assert!(run(with(&["timeline", "delete"], &["--timeline", branch])).await.ok().contains("is deleted"));
    assert_eq!(run(with(&["timeline", "get"], &["--timeline", branch])).await.code, Some(3));
    assert!(server.pal(&place, &["tenant", "delete", &tenant]).await.ok().contains("is deleted"));
    assert_eq!(server.pal(&place, &["tenant", "delete", &tenant]).await.code, Some(3));
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn a_stopped_directory_comes_in() {
    let place = Place::new().await;
    let data_dir = place.cluster("cluster").await.display().to_string();
    let postgres = place.start(place.spec("cluster")).await;
    let server = PalServer::start(&place, "node", &[]).await;
    let tenant = server.pal(&place, &["tenant", "create"]).await.ok().to_string();
    let id = "0123456789abcdef0123456789abcdef";
    let import = ["import", "--tenant", &tenant, "--timeline", id, &data_dir, "--json"];
    let running = server.pal(&place, &import).await;
    assert!(running.code == Some(7) && running.err.contains("stop the server"), "{running:?}");
    postgres.stop(StopMode::Fast).await.unwrap();
    let imported = server.pal(&place, &import).await.json();
    assert_eq!((&imported["timeline_id"], &imported["pg_version"], &imported["state"]), (&id.into(), &15.into(), &"Active".into()));
    assert_eq!(server.pal(&place, &import).await.code, Some(4), "the timeline exists");
    assert_eq!(server.stop(&place).await, Some(0));
}

#[tokio::test]
async fn wal_verify_compares_pages() {
    let place = Place::new().await;
    let data_dir = place.cluster("checked").await;
    let postgres = place
        .start(place.spec("checked").set("wal_consistency_checking", "all").set("wal_keep_size", "1GB").set("autovacuum", "off"))
        .await;
    let mut sql = postgres.sql().await.unwrap();
    sql.set_limit(Duration::from_secs(120));
    sql.execute("CHECKPOINT").await.unwrap();
    let start = sql.query_value("SELECT pg_current_wal_insert_lsn()").await.unwrap().unwrap();
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i; UPDATE t SET x = '' WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0")
        .await
        .unwrap();
    let end = sql.query_value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    sql.close().await;
    postgres.stop(StopMode::Fast).await.unwrap();
    let wal = data_dir.join("pg_wal").display().to_string();
    let report = pal(&place, &["wal", "verify", &wal, "--start", &start, "--end", &end, "--json"], &[]).await;
    assert_eq!(report.code, Some(0), "{report:?}");
    let report = report.json();
    assert!(report["records"].as_u64().unwrap() > 800, "{report}");
    let text = pal(&place, &["wal", "verify", &wal, "--start", &start, "--end", &end], &[]).await;
    assert!(text.ok().contains(" 0 mismatched, 0 unhandled"), "{text:?}");

    let counted = pal(&place, &["wal", "stats", &wal, "--start", &start, "--end", &end, "--json"], &[]).await.json();
    assert_eq!(counted["total"]["count"], report["records"]);
    let table = pal(&place, &["wal", "stats", &wal, "--start", &start], &[]).await;
    assert!(table.ok().contains("Heap/HOT_UPDATE") && table.out.contains("Total"), "{table:?}");
    let none = pal(&place, &["wal", "stats", &place.path("nowhere").display().to_string()], &[]).await;
    assert_eq!(none.code, Some(7), "{none:?}");

    let empty = pal(&place, &["wal", "verify", &data_dir.join("base").display().to_string()], &[]).await;
    assert!(empty.code == Some(7) && empty.err.contains("no WAL segment"), "{empty:?}");
    for (start, end, part) in [(start.as_str(), "FF/0", "before the wanted end"), ("FF/0", "FF/8", "holds the start FF/0")] {
        let said = pal(&place, &["wal", "verify", &wal, "--start", start, "--end", end], &[]).await;
        assert!(said.code == Some(1) && said.err.contains(part), "{said:?}");
    }
}

#[tokio::test]
async fn servers_are_listed() {
    let place = Place::new().await;
    let list = pal(&place, &["postgres", "list", "--json"], &[]).await.json();
    let ours = list.as_array().unwrap().iter().find(|server| server["major"] == 15).unwrap();
    assert_eq!(ours["version"], place.binaries.full_version.as_str());
}
