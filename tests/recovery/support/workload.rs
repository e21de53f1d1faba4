//! A workload that makes WAL of many kinds: pgbench's own script, row locks that become multixacts, subtransactions, and a
//! session that changes everything else: DDL, vacuum, truncation, index builds, databases, two-phase commits, COPY.

use super::Place;
use super::cluster::{Background, Cluster};
use std::fmt::Write as _;

/// Configuration of a primary whose every record is to be followed.
pub const CONFIG: &str = "max_wal_size=8GB\nwal_keep_size=16GB\ncheckpoint_timeout=1h\nmax_prepared_transactions=20\n\
    track_commit_timestamp=on\nautovacuum_naptime=1s\nmax_connections=40\nwal_level=replica\nfull_page_writes=on\nshared_buffers=32MB\n";

/// Rows locked by several clients at once, with work in subtransactions.
const SHARED_LOCKS: &str = "\\set a random(1, 40)
\\set b random(1, 100000)
BEGIN;
SELECT * FROM shared_rows WHERE a = :a FOR KEY SHARE;
SAVEPOINT one;
SELECT * FROM shared_rows WHERE a = :a FOR SHARE;
UPDATE pgbench_accounts SET filler = 'x' || :b WHERE aid = :b;
ROLLBACK TO one;
SAVEPOINT two;
INSERT INTO journal(who, what) VALUES (:client_id, repeat('j', :a * 40));
RELEASE two;
COMMIT;
";

/// Changes to the rows that others lock.
const UPDATED_LOCKS: &str = "\\set a random(1, 40)
BEGIN;
SELECT * FROM shared_rows WHERE a = :a FOR NO KEY UPDATE;
UPDATE shared_rows SET b = b + 1 WHERE a = :a;
COMMIT;
";

/// What exists before the timeline is made.
pub fn prepare(cluster: &Cluster<'_>, tablespace: &str, scale: u32) {
    super::run(cluster.client("pgbench").args(["-i", "-q", "-s", &scale.to_string()]));
    cluster.sql(&format!("CREATE TABLESPACE fast LOCATION '{tablespace}'"));
    for statement in [
        "CREATE TABLE shared_rows(a int PRIMARY KEY, b int DEFAULT 0)",
        "INSERT INTO shared_rows SELECT generate_series(1, 40)",
        "CREATE SEQUENCE numbers",
        "CREATE TABLE journal(id bigint PRIMARY KEY DEFAULT nextval('numbers'), who int, what text)",
        "CREATE INDEX ON journal(what text_pattern_ops)",
        "CREATE TABLE elsewhere(a int PRIMARY KEY, b text) TABLESPACE fast",
        "CREATE TABLE emptied(a int, b text); CREATE INDEX ON emptied(a); CREATE INDEX ON emptied USING brin(a)",
        "CREATE TABLE shrinking(a int PRIMARY KEY, b text)",
        "CREATE TABLE wide(a int, b text); ALTER TABLE wide ALTER b SET STORAGE EXTERNAL",
        "CREATE UNLOGGED TABLE fleeting(a int PRIMARY KEY, b text)",
        "CREATE TABLE many_locks(a int PRIMARY KEY)",
        "INSERT INTO many_locks SELECT generate_series(1, 2500)",
        "CREATE TABLE still(a int) WITH (autovacuum_enabled = off); INSERT INTO still SELECT generate_series(1, 2500)",
        "CREATE EXTENSION dblink",
    ] {
        cluster.sql(statement);
    }
}

/// One round of everything else.
fn round(n: u32, socket: &str) -> String {
    let mut sql = String::new();
    let other = format!("host={socket} port=5700 user=postgres dbname=postgres");
    for statement in [
        // Relations: growth, bulk loads, vacuum with truncation at the end, truncation, rewrites.
        "INSERT INTO shrinking SELECT i, md5(i::text) FROM generate_series(1, 6000) i ON CONFLICT DO NOTHING",
        "DELETE FROM shrinking WHERE a > 500 AND a % 50 <> 0",
        "VACUUM shrinking",
        "DELETE FROM shrinking WHERE a > 600",
        "VACUUM (FREEZE) shrinking",
        "INSERT INTO emptied SELECT i, repeat('e', 60) FROM generate_series(1, 3000) i",
        "TRUNCATE emptied",
        "BEGIN; INSERT INTO emptied SELECT i, 'aborted' FROM generate_series(1, 500) i; TRUNCATE emptied; ROLLBACK",
        "INSERT INTO wide SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 60) i",
        "DELETE FROM wide WHERE a % 2 = 0",
        "COPY (SELECT g, md5(g::text) FROM generate_series(1, 4000) g) TO PROGRAM 'cat > /dev/null'",
        "INSERT INTO fleeting SELECT i, 'gone' FROM generate_series(1, 400) i ON CONFLICT DO NOTHING",
        "VACUUM pgbench_branches, pgbench_tellers",
        "VACUUM (INDEX_CLEANUP on) journal",
        // Index builds of every kind; those that are written to later, by a vacuum too, are btree and brin.
        "DROP INDEX IF EXISTS i_btree, i_gin, i_gist, i_spgist, i_brin, i_concurrent",
        "CREATE INDEX i_btree ON pgbench_accounts(abalance, aid)",
        "CREATE INDEX i_brin ON journal USING brin(id)",
        "CREATE INDEX i_gin ON still USING gin((ARRAY[a, a % 7]))",
        "CREATE INDEX i_gist ON still USING gist(point(a, a % 7))",
        "CREATE INDEX i_spgist ON still USING spgist((a::text))",
        "INSERT INTO shrinking SELECT i, md5(i::text) FROM generate_series(7000, 9000) i ON CONFLICT DO NOTHING",
        "CREATE INDEX CONCURRENTLY i_concurrent ON shrinking(b)",
        "REINDEX INDEX shrinking_pkey",
        // Sequences and the catalog.
        "SELECT count(nextval('numbers')) FROM generate_series(1, 100)",
        "ALTER SEQUENCE numbers CACHE 5",
        "ALTER TABLE elsewhere ADD COLUMN IF NOT EXISTS c int DEFAULT 7",
        "ALTER TABLE elsewhere ALTER c TYPE bigint",
        "ALTER TABLE elsewhere DROP COLUMN c",
        "INSERT INTO elsewhere SELECT i, md5(i::text) FROM generate_series(1, 2000) i ON CONFLICT DO NOTHING",
        "ALTER TABLE elsewhere SET TABLESPACE pg_default",
        "DELETE FROM elsewhere WHERE a % 3 = 0",
        "VACUUM FULL elsewhere",
        "ALTER TABLE elsewhere SET TABLESPACE fast",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS summary AS SELECT bid, sum(abalance) FROM pgbench_accounts GROUP BY 1",
        "REFRESH MATERIALIZED VIEW summary",
        "CREATE TEMP TABLE t_temporary AS SELECT generate_series(1, 100) a; DROP TABLE t_temporary",
        // Subtransactions: enough to fill pages of pg_xact now and then, and a commit with many children.
        "DO $$ BEGIN FOR i IN 1..3000 LOOP BEGIN INSERT INTO journal(who, what) VALUES (-1, 'sub'); \
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
        // One row, one multixact: pages of both multixact areas come and fill.
        "BEGIN; SELECT count(*) FROM (SELECT * FROM many_locks FOR KEY SHARE) x; \
            SELECT * FROM dblink('@', 'SELECT count(*) FROM (SELECT * FROM many_locks FOR KEY SHARE) x') AS t(n bigint); COMMIT",
        // Two-phase commits: one that stays for a while, one that goes.
        "BEGIN; INSERT INTO journal(who, what) VALUES (-2, 'prepared'); SAVEPOINT s; INSERT INTO journal(who, what) VALUES (-2, 'child'); \
            RELEASE s; PREPARE TRANSACTION 'stays#'",
        "BEGIN; CREATE TABLE two_phase#(a int PRIMARY KEY); INSERT INTO two_phase# VALUES (1); DROP TABLE IF EXISTS two_phase@@; PREPARE TRANSACTION 'goes#'",
        "COMMIT PREPARED 'goes#'",
        "BEGIN; CREATE TABLE never#(a int); INSERT INTO never# VALUES (1); PREPARE TRANSACTION 'aborts#'",
        "ROLLBACK PREPARED 'aborts#'",
        // Databases by both strategies, in both tablespaces.
        "CREATE DATABASE copied# STRATEGY file_copy",
        "CREATE DATABASE logged# STRATEGY wal_log TABLESPACE fast",
        "ALTER DATABASE copied# SET TABLESPACE fast",
        "ANALYZE journal",
        "ROLLBACK PREPARED 'stays@@'",
        "DROP DATABASE IF EXISTS copied@@",
        "DROP DATABASE IF EXISTS logged@@",
        "DROP DATABASE logged#",
        "CHECKPOINT",
        "ALTER SYSTEM SET work_mem = '5MB'; SELECT pg_switch_wal()",
        "DROP INDEX i_gin, i_spgist",
        "VACUUM (FREEZE) many_locks",
    ] {
        let statement = statement.replace("@@", &(n.wrapping_sub(1)).to_string()).replace('#', &n.to_string()).replace('@', &other);
        let alone = statement.starts_with("ALTER SYSTEM");
        for part in if alone { statement.split("; ").collect() } else { vec![statement.as_str()] } {
            writeln!(sql, "{part};").unwrap();
        }
    }
    sql
}

/// Both kinds of load, beside the test.
pub struct Load {
    _pgbench: Background,
    everything_else: Background,
}

impl Load {
    pub fn start(place: &Place, cluster: &Cluster<'_>) -> Load {
        for (name, text) in [("shared.sql", SHARED_LOCKS), ("updated.sql", UPDATED_LOCKS)] {
            std::fs::write(place.path(name), text).unwrap();
        }
        let mut pgbench = cluster.client("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-c", "5", "-j", "1", "-T", "3600", "-b", "tpcb-like@4", "--max-tries=100"]);
        pgbench.arg("-f").arg(format!("{}@2", place.path("shared.sql").display()));
        pgbench.arg("-f").arg(format!("{}@1", place.path("updated.sql").display()));
        let pgbench = cluster.background(&mut pgbench, &place.path("pgbench.log"));
        let rounds: String = (1..500).map(|n| round(n, &cluster.socket.display().to_string())).collect();
        std::fs::write(place.path("rounds.sql"), rounds).unwrap();
        let mut everything_else = cluster.psql("postgres");
        // Some statements are meant to fail: the first round has nothing to drop.
        everything_else.args(["-v", "ON_ERROR_STOP=0", "-o", "/dev/null", "-f"]).arg(place.path("rounds.sql"));
        let everything_else = cluster.background(&mut everything_else, &place.path("rounds.log"));
        Load { _pgbench: pgbench, everything_else }
    }

    /// Neither ended by itself.
    pub fn check(&mut self, place: &Place) {
        let log = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
        assert!(self._pgbench.is_running(), "{}", log("pgbench.log"));
        assert!(self.everything_else.is_running(), "{}", log("rounds.log"));
        // Only what the first round cannot find may fail.
        let unexpected: Vec<String> =
            log("rounds.log").lines().filter(|l| l.contains("ERROR") && !l.contains("stays0")).map(String::from).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}
