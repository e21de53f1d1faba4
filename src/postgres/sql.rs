//! SQL to a server, by simple queries, with text results.

use crate::io_abstraction::Env;
use crate::replication::client::{SlotState, quote_identifier};
use crate::replication::connection::COMMAND_LIMIT;
use crate::replication::{ConnStr, Connection, Mode, ReplicationError};
use crate::types::Lsn;
use std::time::Duration;

/// A row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A connection for SQL.
pub struct SqlClient {
    connection: Connection,
    limit: Duration,
}

impl SqlClient {
    /// Connects to the connection string's database, `postgres` if it names none.
    pub async fn connect(env: &Env, connstr: &ConnStr) -> Result<SqlClient, ReplicationError> {
        Ok(SqlClient { connection: Connection::connect(env, connstr, Mode::Sql).await?, limit: COMMAND_LIMIT })
    }

    /// Sets how long a query may take (60 s at first).
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Runs one or more statements; gives the rows of the last one that returns rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ReplicationError> {
        let sets = self.connection.simple_query(sql, self.limit).await?;
        let last = sets.into_iter().rev().find(|set| !set.columns.is_empty()).unwrap_or_default();
        let as_text = |value: bytes::Bytes| String::from_utf8_lossy(&value).into_owned();
        Ok(last.rows.into_iter().map(|row| row.into_iter().map(|v| v.map(as_text)).collect()).collect())
    }

    /// Runs statements whose rows do not matter.
    pub async fn execute(&mut self, sql: &str) -> Result<(), ReplicationError> {
        self.connection.simple_query(sql, self.limit).await.map(|_| ())
    }

    /// The first column of the first row; `None` for no row or NULL.
    pub async fn query_value(&mut self, sql: &str) -> Result<Option<String>, ReplicationError> {
        Ok(self.query(sql).await?.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// State of a replication slot on any supported version; `None` if there is none of this name.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotState>, ReplicationError> {
        let rows = self.query(&format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = {}", quote_literal(name))).await?;
        Ok(rows
            .into_iter()
            .next()
            .map(|row| SlotState { restart_lsn: row.into_iter().next().flatten().and_then(|lsn| lsn.parse().ok()), restart_tli: None }))
    }

    /// Moves a physical slot forward to `lsn`, so that the server may recycle older WAL; never backwards. Gives where the slot
    /// stands then, `None` if there is no such slot or it reserves nothing.
    pub async fn advance_slot(&mut self, name: &str, lsn: Lsn) -> Result<Option<Lsn>, ReplicationError> {
        let sql = format!(
            "SELECT CASE WHEN restart_lsn < '{lsn}'::pg_lsn THEN (pg_replication_slot_advance(slot_name, '{lsn}')).end_lsn \
             ELSE restart_lsn END FROM pg_replication_slots WHERE slot_name = {}",
            quote_literal(name)
        );
        Ok(self.query_value(&sql).await?.and_then(|text| text.parse().ok()))
    }

    pub fn server_major(&self) -> u32 {
        self.connection.server_major()
    }

    pub async fn close(self) {
        self.connection.close().await;
    }
}

/// A string constant, safe with every setting of `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A name inside double quotes.
pub fn quote_name(name: &str) -> String {
    quote_identifier(name)
}
