//! Main data of the records that change more than the pages they name, as typed structs. All bounds-checked, version-aware.
//!
//! Source: reference wal-redo section 4 and wal-ingest section 4; PostgreSQL 15 `access/xact.h`, `access/multixact.h`,
//! `access/clog.h`, `catalog/storage_xlog.h`, `commands/dbcommands_xlog.h`, `utils/relmapper.h`, `storage/standbydefs.h`.

mod cut;
pub mod database;
pub mod names;
pub mod slru;
pub mod storage;
pub mod xact;
pub mod xlog;

/// Numbers of resource managers. Source: PostgreSQL 15 `access/rmgrlist.h`.
pub mod id {
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const HASH: u8 = 12;
    pub const GIN: u8 = 13;
    pub const GIST: u8 = 14;
    pub const SEQ: u8 = 15;
    pub const SPGIST: u8 = 16;
    pub const BRIN: u8 = 17;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLORIGIN: u8 = 19;
    pub const GENERIC: u8 = 20;
    pub const LOGICALMSG: u8 = 21;
}

/// The main data does not have the form that its resource manager and opcode say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the main data of a {0} record is too short or malformed")]
pub struct MalformedRecord(pub &'static str);
