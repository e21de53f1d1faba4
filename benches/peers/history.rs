//! Real input: a pgbench cluster stopped right after its load, and the WAL of a run on it.

use crate::cluster::Cluster;
use crate::os::{Outcome, Scratch, copy_tree, run};
use palimpsest::types::lsn::{WAL_SEGMENT_SIZE, parse_segment_file_name, segment_file_name};
use palimpsest::types::{Fork, Lsn, RelTag};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A base directory and the WAL behind it.
pub struct History {
    /// The stopped data directory.
    pub base: PathBuf,
    /// Segments from the base's last one on, and nothing else.
    pub wal: PathBuf,
    /// Start of the base's shutdown checkpoint record, the last one of the base.
    pub checkpoint: Lsn,
    /// End of the last record of the run.
    pub end: Lsn,
    /// The relations of pgbench.
    pub relations: Vec<RelTag>,
}

/// How large a history is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub scale: u32,
    pub seconds: u32,
}

impl History {
    /// Loads, stops, keeps the directory, runs pgbench with full_page_writes off, keeps the WAL.
    pub fn make(scratch: &Scratch, size: Size) -> Outcome<History> {
        let settings = "full_page_writes = off\nfsync = off\nsynchronous_commit = off\n";
        let socket = scratch.directory("socket")?;
        let home = scratch.directory("history")?;
        let mut cluster = Cluster::create(&home.join("data"), &socket, settings)?;
        cluster.start()?;
        run(cluster.program("pgbench").args(["-i", "-q", "-s", &size.scale.to_string(), "postgres"]))?;
        cluster.sql("vacuum freeze")?;
        cluster.stop("fast")?;
        let (base, wal) = (home.join("base"), home.join("wal"));
        copy_tree(&cluster.data, &base)?;
        let checkpoint = checkpoint_of(&base)?;
        cluster.start()?;
        run(cluster.program("pgbench").args(["-n", "-c", "4", "-j", "2", "-T", &size.seconds.to_string(), "postgres"]))?;
        let relations = relations(&cluster)?;
        let end = cluster.lsn()?;
        cluster.sql("select pg_switch_wal()")?;
        keep_wal(&cluster.data.join("pg_wal"), &wal, checkpoint, end)?;
        cluster.stop("immediate")?;
        fs::remove_dir_all(&cluster.data)?;
        Ok(History { base, wal, checkpoint, end, relations })
    }

    /// Bytes of WAL.
    pub fn bytes(&self) -> u64 {
        self.end.distance_from(self.checkpoint)
    }

    pub fn gigabytes(&self) -> f64 {
        self.bytes() as f64 / 1e9
    }

    /// The segment files in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let numbers = self.checkpoint.segment_number(WAL_SEGMENT_SIZE)..=self.end.segment_number(WAL_SEGMENT_SIZE);
        numbers.map(|n| self.wal.join(segment_file_name(1, n, WAL_SEGMENT_SIZE))).collect()
    }
}

/// Where the last checkpoint record of a stopped cluster starts.
fn checkpoint_of(data: &Path) -> Outcome<Lsn> {
    let text = run(Command::new(crate::os::postgres_programs()?.join("pg_controldata")).env("LC_ALL", "C").arg(data))?;
    let line = text.lines().find(|l| l.starts_with("Latest checkpoint location:")).ok_or("pg_controldata names no checkpoint")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

fn keep_wal(from: &Path, to: &Path, first: Lsn, last: Lsn) -> Outcome<()> {
    fs::create_dir_all(to)?;
    let wanted = first.segment_number(WAL_SEGMENT_SIZE)..=last.segment_number(WAL_SEGMENT_SIZE);
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if parse_segment_file_name(&name, WAL_SEGMENT_SIZE).is_some_and(|(_, n)| wanted.contains(&n)) {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    // Archive recovery reads them as the server's user.
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(to)).map(|_| ())
}

/// Main forks of pgbench's tables and indexes, and the maps that have pages.
fn relations(cluster: &Cluster) -> Outcome<Vec<RelTag>> {
    let sql = "select dattablespace, (select oid from pg_database where datname = 'postgres'), pg_relation_filenode(c.oid),
               pg_relation_size(c.oid, 'vm') from pg_class c, pg_database d
               where d.datname = 'postgres' and relname like 'pgbench%' and relkind in ('r', 'i')";
    let mut found = Vec::new();
    for line in cluster.sql(sql)?.lines() {
        let numbers = line.split('|').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        let [spc, db, rel, map] = numbers[..] else { return Err(format!("unexpected row {line}").into()) };
        let main = RelTag { spc, db, rel, fork: Fork::Main };
        found.push(main);
        if map > 0 {
            found.push(main.with_fork(Fork::Vm));
        }
    }
    Ok(found)
}
