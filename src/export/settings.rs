//! The configuration files of an exported cluster: enough to start, open to this machine only.

use super::start::Start;
use crate::pg::control::ServerLimits;
use std::fmt::Write as _;

/// Everybody on this machine is trusted: whoever takes the cluster elsewhere writes rules of their own.
pub const HBA: &str = "\
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust
host    all             all             127.0.0.1/32            trust
host    all             all             ::1/128                 trust
local   replication     all                                     trust
host    replication     all             127.0.0.1/32            trust
host    replication     all             ::1/128                 trust
";

/// postgresql.conf: what the cluster last ran with, which a standby must have at least, and listening to this machine only.
pub fn postgresql_conf(start: &Start, in_place_tablespaces: bool) -> String {
    let ServerLimits {
        max_connections,
        max_worker_processes,
        max_wal_senders,
        max_prepared_xacts,
        max_locks_per_xact,
        wal_level,
        wal_log_hints,
        track_commit_timestamp,
    } = start.control.limits;
    let level = match wal_level {
        0 => "minimal",
        1 => "replica",
        _ => "logical",
    };
    // The server refuses senders when the WAL is not enough for them.
    let max_wal_senders = if wal_level == 0 { 0 } else { max_wal_senders };
    let on = |flag: bool| if flag { "on" } else { "off" };
    let mut text = format!(
        "# Written by palimpsest: content of {lsn}.\n\
         listen_addresses = '127.0.0.1'\n\
         unix_socket_directories = '/tmp'\n\
         max_connections = {max_connections}\n\
         max_worker_processes = {max_worker_processes}\n\
         max_wal_senders = {max_wal_senders}\n\
         max_prepared_transactions = {max_prepared_xacts}\n\
         max_locks_per_transaction = {max_locks_per_xact}\n\
         wal_level = {level}\n\
         wal_log_hints = {hints}\n\
         track_commit_timestamp = {commit_ts}\n",
        lsn = start.lsn,
        hints = on(wal_log_hints),
        commit_ts = on(track_commit_timestamp),
    );
    if in_place_tablespaces && start.is_standby {
        // Recovery would take a tablespace that is no link for damage.
        text.push_str("allow_in_place_tablespaces = on\n");
    }
    text
}

/// postgresql.auto.conf with settings of the caller.
pub fn auto_conf(settings: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} = '{value}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let settings = [("primary_conninfo".to_string(), r"host=/tmp password='a\b'".to_string())];
        assert_eq!(auto_conf(&settings), "primary_conninfo = 'host=/tmp password=''a\\\\b'''\n");
        assert_eq!(auto_conf(&[]), "");
    }
}
