//! What can go wrong between us and a PostgreSQL server.
//!
//! Every variant names the server; those that happen inside a command name the command. [`ReplicationError::is_transient`]
//! tells whether a new connection may help.

use super::connstr::ConnStrError;
use super::message::MessageError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An ErrorResponse of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: String,
    /// Five characters of SQLSTATE.
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

/// A conversation with a PostgreSQL server failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    #[error(transparent)]
    ConnStr(#[from] ConnStrError),
    #[error("cannot connect to {server}: {source}; check that the server runs and listens there")]
    Connect { server: String, source: io::Error },
    #[error("{server} gave no answer to {command} within {after:?}; check the server's load and the network")]
    Timeout { server: String, command: String, after: Duration },
    #[error("connection to {server} broke during {command}: {source}")]
    Io { server: String, command: String, source: io::Error },
    #[error("{server} closed the connection during {command}")]
    Closed { server: String, command: String },
    #[error("{server} stopped the stream: the server is shutting down")]
    SourceStopped { server: String },
    #[error("{server} refused {command}: {error}{advice}")]
    Server { server: String, command: String, error: Box<ServerError>, advice: &'static str },
    #[error("{server} asks for a password and the connection string has none: add password=")]
    PasswordNeeded { server: String },
    #[error(
        "{server} asks for {method} authentication, which is not supported: use scram-sha-256, md5, password or trust in its pg_hba.conf"
    )]
    AuthenticationMethod { server: String, method: String },
    #[error("{server} failed to prove that it knows the password of user \"{user}\": {why}")]
    ServerProof { server: String, user: String, why: String },
    #[error("{server} does not offer TLS and sslmode={mode} demands it: switch ssl on there, or use sslmode=prefer")]
    TlsRefused { server: String, mode: &'static str },
    #[error("TLS with {server} failed: {source}")]
    Tls { server: String, source: io::Error },
    #[error("sslmode={mode} needs sslrootcert=FILE with the certificates that sign the server's")]
    RootCertMissing { mode: &'static str },
    #[error("sslrootcert={path}: {why}", path = path.display())]
    RootCert { path: PathBuf, why: String },
    #[error("{server} sent something unexpected during {command}: {why}")]
    Protocol { server: String, command: String, why: String },
    #[error("{server} sent a damaged message during {command}: {source}")]
    Message { server: String, command: String, source: MessageError },
    #[error("{server} runs PostgreSQL {version}, where {command} does not exist: {instead}")]
    TooOld { server: String, version: String, command: &'static str, instead: &'static str },
}

impl ReplicationError {
    /// Whether the same attempt over a new connection may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Io { .. } | Self::Closed { .. } | Self::SourceStopped { .. } => true,
            Self::Server { error, .. } => sqlstate_is_transient(&error.sqlstate),
            Self::Protocol { .. } | Self::Message { .. } => true,
            Self::ConnStr(_) | Self::PasswordNeeded { .. } | Self::AuthenticationMethod { .. } | Self::ServerProof { .. } => false,
            Self::TlsRefused { .. } | Self::Tls { .. } | Self::RootCertMissing { .. } | Self::RootCert { .. } | Self::TooOld { .. } => {
                false
            }
        }
    }

    /// SQLSTATE, when the server itself refused.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { error, .. } => Some(&error.sqlstate),
            _ => None,
        }
    }

    /// True if the WAL that was asked for is no longer on the server.
    /// Source: PostgreSQL 15 `walsender.c` raises `undefined_file` for it.
    pub fn is_wal_removed(&self) -> bool {
        matches!(self, Self::Server { error, .. } if error.sqlstate == "58P01" && error.message.contains("WAL segment"))
    }
}

/// Classes of SQLSTATE that pass by themselves. Source: PostgreSQL 15 documentation, appendix A.
fn sqlstate_is_transient(state: &str) -> bool {
    let class = state.get(..2).unwrap_or_default();
    // 08 connection, 40 rollback, 53 resources, 55 object state (slot in use), 57 operator intervention (start, shutdown), XX internal
    // (a start position that is ahead of the server's flushed WAL is XX000).
    matches!(class, "08" | "40" | "53" | "55" | "57" | "XX")
}

/// A sentence about what to do, for the refusals that people meet.
pub(super) fn advice_for(error: &ServerError) -> &'static str {
    match error.sqlstate.as_str() {
        "28P01" => "; correct the password",
        "28000" if error.message.contains("pg_hba.conf") => {
            "; add a line for this user and address to the server's pg_hba.conf (database \"replication\" for streaming)"
        }
        "42501" => "; give the role the REPLICATION attribute",
        "53300" => "; raise max_wal_senders or max_connections",
        "58P01" => "; keep WAL with a replication slot or wal_keep_size, and import again",
        "53400" => "; raise max_replication_slots",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_and_permanent() {
        let server = |state: &str| ReplicationError::Server {
            server: "s".into(),
            command: "c".into(),
            error: Box::new(ServerError { sqlstate: state.into(), ..ServerError::default() }),
            advice: "",
        };
        for state in ["57P03", "53300", "08006", "55006", "XX000"] {
            assert!(server(state).is_transient(), "{state}");
        }
        for state in ["28P01", "28000", "42501", "58P01", "3D000", "42601", "", "é"] {
            assert!(!server(state).is_transient(), "{state}");
        }
        assert!(ReplicationError::Closed { server: "s".into(), command: "c".into() }.is_transient());
    }
}
