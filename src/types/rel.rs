//! Names of relations and SLRUs inside a cluster.

use std::fmt;

/// OID of the tablespace `pg_default`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// OID of the tablespace `pg_global`, whose database is 0.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// A file of a relation. Source: PostgreSQL 15 `common/relpath.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fork {
    Main = 0,
    Fsm = 1,
    Vm = 2,
    Init = 3,
}

impl Fork {
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init];

    pub fn from_number(number: u8) -> Option<Fork> {
        Fork::ALL.get(usize::from(number)).copied()
    }

    /// What PostgreSQL appends to the file name.
    pub fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// One fork of one relation file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelTag {
    /// OID of the tablespace.
    pub spc: u32,
    /// OID of the database, 0 for shared relations.
    pub db: u32,
    /// File number of the relation.
    pub rel: u32,
    pub fork: Fork,
}

impl RelTag {
    pub fn with_fork(self, fork: Fork) -> RelTag {
        RelTag { fork, ..self }
    }
}

impl fmt::Display for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}{}", self.spc, self.db, self.rel, self.fork.suffix())
    }
}

impl fmt::Debug for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The simple-LRU areas whose pages are kept. Numbers are part of the key format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SlruKind {
    Clog = 0,
    MultiXactMembers = 1,
    MultiXactOffsets = 2,
    CommitTs = 3,
}

impl SlruKind {
    pub const ALL: [SlruKind; 4] = [SlruKind::Clog, SlruKind::MultiXactMembers, SlruKind::MultiXactOffsets, SlruKind::CommitTs];
    /// Pages in one segment file (`SLRU_PAGES_PER_SEGMENT`).
    pub const PAGES_PER_SEGMENT: u32 = 32;

    pub fn from_number(number: u8) -> Option<SlruKind> {
        SlruKind::ALL.get(usize::from(number)).copied()
    }

    /// Directory inside the data directory.
    pub fn directory(self) -> &'static str {
        match self {
            SlruKind::Clog => "pg_xact",
            SlruKind::MultiXactMembers => "pg_multixact/members",
            SlruKind::MultiXactOffsets => "pg_multixact/offsets",
            SlruKind::CommitTs => "pg_commit_ts",
        }
    }
}
