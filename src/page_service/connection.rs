//! One client: startup, then commands by simple or extended query, until it leaves.

use super::protocol::{Command, CommandError};
use crate::export::ExportSpec;
use crate::io_abstraction::{BoxStream, ClockExt as _, Env};
use crate::limits::PAGE_SERVICE_MESSAGE_MAX;
use crate::pg::wire::{self, ColumnType, Frontend, Severity, StartupPacket, Target, TransactionStatus, WireError};
use crate::tenant::{LookupError, Registry, TimelineHandle};
use crate::timeline::ReadError;
use crate::types::{TenantId, TimelineId};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// SQLSTATEs of our own errors. Source: PostgreSQL 15 documentation, appendix A.
pub mod sqlstate {
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const INTERNAL: &str = "XX000";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
}

/// Why a connection ended other than by Terminate.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the client was silent for too long")]
    Idle,
    #[error("{0}")]
    Ended(String),
}

/// An error that the client gets in words.
#[derive(Debug)]
pub struct CommandFailure {
    pub sqlstate: &'static str,
    pub message: String,
}

impl CommandFailure {
    pub fn new(sqlstate: &'static str, message: impl std::fmt::Display) -> CommandFailure {
        CommandFailure { sqlstate, message: message.to_string() }
    }
}

impl From<CommandError> for CommandFailure {
    fn from(error: CommandError) -> CommandFailure {
        CommandFailure::new(error.sqlstate(), error)
    }
}

impl From<LookupError> for CommandFailure {
    fn from(error: LookupError) -> CommandFailure {
        CommandFailure::new(sqlstate::INTERNAL, error)
    }
}

impl From<ReadError> for CommandFailure {
    fn from(error: ReadError) -> CommandFailure {
        let code = if matches!(error, ReadError::ShuttingDown(_)) { sqlstate::ADMIN_SHUTDOWN } else { sqlstate::INTERNAL };
        CommandFailure::new(code, error)
    }
}

pub struct Connection {
    pub(super) env: Env,
    pub(super) registry: Arc<Registry>,
    stream: BoxStream,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// The unnamed statement of the extended protocol.
    statement: String,
}

const READ_BYTES: usize = 16 << 10;
/// Answers of the extended protocol that gather without a Sync.
const OUTPUT_MAX: usize = 64 << 10;

impl Connection {
    pub fn new(env: Env, registry: Arc<Registry>, stream: BoxStream) -> Connection {
        Connection { env, registry, stream, input: BytesMut::new(), output: BytesMut::new(), statement: String::new() }
    }

    /// Serves until the client leaves. Garbage gets an error and ends the connection.
    pub async fn run(mut self) -> Result<(), ConnectionError> {
        match self.serve().await {
            Err(ConnectionError::Wire(error)) => {
                wire::put_error(&mut self.output, Severity::Fatal, error.sqlstate(), &error.to_string());
                self.flush().await?;
                Err(error.into())
            }
            other => other,
        }
    }

    /// Reads more; false at the end of input.
    pub(super) async fn fill(&mut self) -> Result<bool, ConnectionError> {
        self.input.reserve(READ_BYTES);
        let limit = self.registry.shared.config.page_service_idle_timeout;
        let read = self.env.clock.timeout(limit, self.stream.read_buf(&mut self.input)).await;
        Ok(read.map_err(|_| ConnectionError::Idle)?? > 0)
    }

    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        if crate::planted!(self.env, "short-write") && self.stream.write(&self.output).await? > 0 {
            self.output.clear();
        }
        if !self.output.is_empty() {
            self.stream.write_all_buf(&mut self.output).await?;
        }
        Ok(self.stream.flush().await?)
    }

    /// The next message; `None` when the client has gone.
    pub(super) async fn message(&mut self) -> Result<Option<Frontend>, ConnectionError> {
        loop {
            if let Some(message) = wire::take_frontend(&mut self.input, PAGE_SERVICE_MESSAGE_MAX)? {
                return Ok(Some(message));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn serve(&mut self) -> Result<(), ConnectionError> {
        if !self.start_up().await? {
            return Ok(());
        }
        while let Some(message) = self.message().await? {
            match message {
                Frontend::Terminate => return Ok(()),
                Frontend::Query(query) => {
                    self.command(&query).await?;
                    wire::put_ready_for_query(&mut self.output, TransactionStatus::Idle);
                    self.flush().await?;
                }
                other => self.extended(other).await?,
            }
            // A client may never ask for the answers.
            if self.output.len() > OUTPUT_MAX {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Answers the startup packet; false if the client only wanted to cancel something or left.
    async fn start_up(&mut self) -> Result<bool, ConnectionError> {
        loop {
            let Some(packet) = wire::take_startup(&mut self.input)? else {
                if !self.fill().await? {
                    return Ok(false);
                }
                continue;
            };
            match packet {
                StartupPacket::Ssl | StartupPacket::GssEnc => {
                    self.output.extend_from_slice(&[wire::REFUSE_ENCRYPTION]);
                    self.flush().await?;
                }
                StartupPacket::Cancel { .. } => return Ok(false),
                StartupPacket::Startup { .. } => break,
            }
        }
        wire::put_authentication_ok(&mut self.output);
        for (name, value) in [("client_encoding", "UTF8"), ("integer_datetimes", "on"), ("server_version", "15.0")] {
            wire::put_parameter_status(&mut self.output, name, value);
        }
        wire::put_ready_for_query(&mut self.output, TransactionStatus::Idle);
        self.flush().await?;
        Ok(true)
    }

    /// Parse, Bind, Describe, Execute, Sync on the unnamed statement.
    async fn extended(&mut self, message: Frontend) -> Result<(), ConnectionError> {
        match message {
            Frontend::Parse { query, .. } => {
                self.statement = query;
                wire::put_parse_complete(&mut self.output);
            }
            Frontend::Bind { .. } => wire::put_bind_complete(&mut self.output),
            Frontend::Describe { target, .. } => {
                if target == Target::Statement {
                    wire::put_parameter_description(&mut self.output);
                }
                wire::put_no_data(&mut self.output);
            }
            Frontend::Execute { .. } => {
                let statement = self.statement.clone();
                self.command(&statement).await?;
            }
            Frontend::Close { .. } => wire::put_close_complete(&mut self.output),
            Frontend::Sync => {
                wire::put_ready_for_query(&mut self.output, TransactionStatus::Idle);
                self.flush().await?;
            }
            Frontend::Flush => self.flush().await?,
            // Left over from a copy that failed: the protocol says to pass over them.
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => {}
            Frontend::Password(_) | Frontend::Query(_) | Frontend::Terminate => return Err(WireError::Tag(b'p').into()),
        }
        Ok(())
    }

    async fn command(&mut self, query: &str) -> Result<(), ConnectionError> {
        if query.trim().trim_end_matches(';').is_empty() {
            wire::put_empty_query_response(&mut self.output);
            return Ok(());
        }
        let outcome = match Command::parse(query) {
            Ok(command) => self.perform(command).await?,
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = outcome {
            wire::put_error(&mut self.output, Severity::Error, failure.sqlstate, &failure.message);
            if failure.sqlstate == sqlstate::ADMIN_SHUTDOWN {
                self.flush().await?;
                return Err(ConnectionError::Ended(failure.message));
            }
        }
        Ok(())
    }

    pub(super) fn timeline(&self, tenant: TenantId, timeline: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        self.registry.timeline(tenant, timeline)
    }

    /// Runs a command. The outer error ends the connection, the inner one goes to the client.
    async fn perform(&mut self, command: Command) -> Result<Result<(), CommandFailure>, ConnectionError> {
        match command {
            Command::Set => {
                wire::put_command_complete(&mut self.output, "SELECT 1");
                Ok(Ok(()))
            }
            Command::Show { tenant } => Ok(self.show(tenant)),
            Command::GetLastRecordRlsn { tenant, timeline } => Ok(self.last_record(tenant, timeline)),
            Command::Pagestream { version, tenant, timeline } => match self.timeline(tenant, timeline) {
                Ok(handle) => self.pagestream(version, &handle.timeline).await,
                Err(error) => Ok(Err(error.into())),
            },
            Command::BaseBackup { tenant, timeline, lsn, gzip, replica } => self.base_backup((tenant, timeline), lsn, gzip, replica).await,
            Command::FullBackup { tenant, timeline, lsn, prev_lsn: _, form } => match self.timeline(tenant, timeline) {
                Ok(handle) => self.full_backup(handle, ExportSpec::new(form, lsn)).await,
                Err(error) => Ok(Err(error.into())),
            },
        }
    }

    fn show(&mut self, tenant: TenantId) -> Result<(), CommandFailure> {
        self.registry.tenant(tenant)?;
        let config = &self.registry.shared.config;
        let columns = [
            ("checkpoint_distance", config.checkpoint_distance),
            ("checkpoint_timeout", config.checkpoint_timeout.as_secs()),
            ("compaction_target_size", config.compaction_target_size),
        ];
        wire::put_row_description(&mut self.output, &columns.map(|(name, _)| (name, ColumnType::Int8)));
        let texts = columns.map(|(_, value)| value.to_string());
        wire::put_data_row(&mut self.output, &texts.each_ref().map(|text| Some(text.as_bytes())));
        wire::put_command_complete(&mut self.output, "SELECT 1");
        Ok(())
    }

    fn last_record(&mut self, tenant: TenantId, timeline: TimelineId) -> Result<(), CommandFailure> {
        let (last, prev) = self.timeline(tenant, timeline)?.timeline.last_record.lsn_and_prev();
        wire::put_row_description(&mut self.output, &[("prev_lsn", ColumnType::Text), ("last_lsn", ColumnType::Text)]);
        let texts = [prev.to_string(), last.to_string()];
        wire::put_data_row(&mut self.output, &texts.each_ref().map(|text| Some(text.as_bytes())));
        wire::put_command_complete(&mut self.output, "SELECT 1");
        Ok(())
    }
}

impl Connection {
    async fn base_backup(
        &mut self,
        _: (TenantId, TimelineId),
        _: Option<crate::types::Lsn>,
        _: bool,
        _: bool,
    ) -> Result<Result<(), CommandFailure>, ConnectionError> {
        Ok(Err(CommandFailure::new(sqlstate::FEATURE_NOT_SUPPORTED, "basebackup")))
    }
}
