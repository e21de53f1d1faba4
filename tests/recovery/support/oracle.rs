//! A stock standby brought to an LSN: the truth about what a cluster looked like there.

use super::cluster::Cluster;
use super::{Place, run};
use palimpsest::types::Lsn;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A stopped data directory with its tablespaces, and the primary whose WAL goes on from there.
pub struct Base {
    copy: PathBuf,
    /// (OID, copy of its directory)
    tablespaces: Vec<(String, PathBuf)>,
}

impl Base {
    /// Copies a stopped cluster.
    pub fn take(place: &Place, cluster: &Cluster<'_>) -> Base {
        let copy = place.path("base");
        place.copy(&cluster.data, &copy);
        let mut tablespaces = Vec::new();
        for entry in std::fs::read_dir(copy.join("pg_tblspc")).unwrap() {
            let link = entry.unwrap();
            let oid = link.file_name().into_string().unwrap();
            let kept = place.path(&format!("base-{oid}"));
            place.copy(&std::fs::read_link(link.path()).unwrap(), &kept);
            tablespaces.push((oid, kept));
        }
        Base { copy, tablespaces }
    }

    /// A standby stopped with the content of `lsn`, a record boundary, after recovery from this base and `wal`.
    ///
    /// It is promoted there: a standby that is merely shut down keeps pages in memory which it never wrote. Nobody connects to it,
    /// and no worker of its own does: a look at a catalog would leave hint bits.
    pub fn standby_at(&self, place: &Place, lsn: Lsn, wal: &Path, name: &str) -> PathBuf {
        let data = place.path(name);
        place.copy(&self.copy, &data);
        for (oid, kept) in &self.tablespaces {
            let own = place.path(&format!("{name}-{oid}"));
            place.copy(kept, &own);
            let link = data.join("pg_tblspc").join(oid);
            std::fs::remove_file(&link).unwrap();
            symlink(own, link).unwrap();
        }
        std::fs::write(data.join("recovery.signal"), "").unwrap();
        let config = format!(
            "restore_command='cp \"{}/%f\" \"%p\"'\nrecovery_target_lsn='{lsn}'\nrecovery_target_inclusive=off\n\
             recovery_target_action=promote\nrecovery_target_timeline=current\nhot_standby=off\nautovacuum=off\n\
             max_logical_replication_workers=0\nsynchronous_standby_names=''\n",
            wal.display()
        );
        let mut standby = Cluster::adopt(place, name, &config);
        standby.launch();
        standby.wait_log("database system is ready to accept connections", Duration::from_secs(120));
        assert!(standby.log().contains("recovery stopping before WAL location"), "{}", standby.log());
        standby.stop("fast");
        data
    }

    /// Removes a standby's directories.
    pub fn discard(&self, place: &Place, name: &str) {
        place.discard(&place.path(name));
        place.discard(&place.path(&format!("{name}.s")));
        self.tablespaces.iter().for_each(|(oid, _)| place.discard(&place.path(&format!("{name}-{oid}"))));
    }
}

/// Starts of records in `[from, to)`: each is a boundary, everything before it is whole.
pub fn record_boundaries(place: &Place, wal: &Path, from: Lsn, to: Lsn) -> Vec<Lsn> {
    let dump = run(place.client_program("pg_waldump").arg("-p").arg(wal).args(["-s", &from.to_string(), "-e", &to.to_string()]));
    let start = |line: &str| {
        let behind = line.split("lsn: ").nth(1)?;
        behind.split(',').next()?.parse::<Lsn>().ok()
    };
    dump.lines().filter_map(start).collect()
}

/// Checks a running cluster with PostgreSQL's own means: every btree index against its heap, every heap.
pub fn check_with_amcheck(cluster: &Cluster<'_>) {
    let args = ["--all", "--install-missing", "--heapallindexed", "--parent-check", "-j", "2"];
    run(cluster.client("pg_amcheck").args(args));
}

/// pgbench's invariant: what was paid in one place was booked in the others.
pub fn check_balances(cluster: &Cluster<'_>) {
    let sums = cluster.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
         (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "balances differ: {sums:?}");
}

/// `pg_checksums --check` on a cluster that does not run.
pub fn check_checksums(place: &Place, data: &Path) {
    run(place.server_program("pg_checksums").arg("--check").arg("-D").arg(data));
}
