//! Records of the WAL machinery itself.

use super::MalformedRecord;
use super::cut::Cut;

pub const CHECKPOINT_SHUTDOWN: u8 = 0x00;
pub const CHECKPOINT_ONLINE: u8 = 0x10;
pub const NEXTOID: u8 = 0x30;
pub const SWITCH: u8 = 0x40;
pub const PARAMETER_CHANGE: u8 = 0x60;
pub const END_OF_RECOVERY: u8 = 0x90;
pub const FPI_FOR_HINT: u8 = 0xA0;
pub const FPI: u8 = 0xB0;

pub fn parse_next_oid(main: &[u8]) -> Result<u32, MalformedRecord> {
    Cut::new(main, "next OID").u32()
}

/// Settings that a standby must know. Source: PostgreSQL 15 `access/xlog_internal.h` (xl_parameter_change).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterChange {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
    pub wal_level: u32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

pub fn parse_parameter_change(main: &[u8]) -> Result<ParameterChange, MalformedRecord> {
    let mut cut = Cut::new(main, "parameter change");
    Ok(ParameterChange {
        max_connections: cut.u32()?,
        max_worker_processes: cut.u32()?,
        max_wal_senders: cut.u32()?,
        max_prepared_transactions: cut.u32()?,
        max_locks_per_transaction: cut.u32()?,
        wal_level: cut.u32()?,
        wal_log_hints: cut.u8()? != 0,
        track_commit_timestamp: cut.u8()? != 0,
    })
}

/// Standby RUNNING_XACTS: what a snapshot of running transactions says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningXacts {
    pub next_xid: u32,
    pub oldest_running_xid: u32,
    pub latest_completed_xid: u32,
}

pub const STANDBY_RUNNING_XACTS: u8 = 0x10;

/// Layout: xcnt, subxcnt i32; subxid_overflow bool and 3 padding; next, oldest running, latest completed xid u32; xids.
pub fn parse_running_xacts(main: &[u8]) -> Result<RunningXacts, MalformedRecord> {
    let mut cut = Cut::new(main, "running transactions");
    cut.take(12)?;
    Ok(RunningXacts { next_xid: cut.u32()?, oldest_running_xid: cut.u32()?, latest_completed_xid: cut.u32()? })
}

/// The checkpoint struct of a CHECKPOINT record: 88 bytes in all versions.
pub fn checkpoint_bytes(main: &[u8]) -> Result<&[u8], MalformedRecord> {
    Cut::new(main, "checkpoint").take(88)
}
