//! One client: login, then commands by simple or extended query, until it leaves.
//!
//! Every wait for the client has a limit: for its next byte, and for its taking a part of what it is sent.

use super::extended::Extended;
use super::protocol::{Command, CommandError};
use crate::auth::{Guard, Permission};
use crate::export::{ExportSpec, Form};
use crate::io_abstraction::{BoxStream, ClockExt as _, Env};
use crate::limits::PAGE_SERVICE_MESSAGE_MAX;
use crate::pg::wire::{self, Frontend, Severity, TransactionStatus, WireError};
use crate::tenant::{LookupError, Registry, TimelineHandle};
use crate::timeline::ReadError;
use crate::types::{TenantId, TimelineId};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// SQLSTATEs of our own errors. Source: PostgreSQL 15 documentation, appendix A.
pub mod sqlstate {
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const INTERNAL: &str = "XX000";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const INVALID_PASSWORD: &str = "28P01";
    pub const INVALID_PORTAL: &str = "34000";
    pub const INVALID_STATEMENT: &str = "26000";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const QUERY_CANCELED: &str = "57014";
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
    #[error("the client took nothing of what it was sent for too long")]
    Stuck,
    #[error("{0}")]
    Ended(String),
    /// The login failed; the client is told so.
    #[error("{message}")]
    Refused { sqlstate: &'static str, message: String },
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
    pub(super) guard: Arc<Guard>,
    /// `None` before the login.
    pub(super) permission: Option<Permission>,
    pub(super) stream: BoxStream,
    pub(super) encrypted: bool,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    pub(super) extended: Extended,
}

const READ_BYTES: usize = 16 << 10;
/// Answers of the extended protocol that gather without a Sync.
const OUTPUT_MAX: usize = 64 << 10;
/// How long a client may take for the last words of a connection that ends.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// The outer error ends the connection, the inner one goes to the client.
pub type Outcome<T> = Result<Result<T, CommandFailure>, ConnectionError>;

impl Connection {
    pub fn new(env: Env, registry: Arc<Registry>, guard: Arc<Guard>, stream: BoxStream) -> Connection {
        let (input, output, extended) = (BytesMut::new(), BytesMut::new(), Extended::default());
        Connection { env, registry, permission: guard.first_permission(), guard, stream, encrypted: false, input, output, extended }
    }

    /// Serves until the client leaves or `cancel` fires. Garbage gets an error and ends the connection.
    pub async fn run(mut self, cancel: &CancellationToken) -> Result<(), ConnectionError> {
        // Wherever it is stopped, the output begins with the rest of a message and then has whole ones: another may follow.
        let error = match cancel.run_until_cancelled(self.serve()).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error,
            None => {
                let message = "the server is shutting down";
                wire::put_error(&mut self.output, Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, message);
                ConnectionError::Ended(message.to_string())
            }
        };
        match &error {
            ConnectionError::Wire(error) => wire::put_error(&mut self.output, Severity::Fatal, error.sqlstate(), &error.to_string()),
            ConnectionError::Refused { sqlstate, message } => wire::put_error(&mut self.output, Severity::Fatal, sqlstate, message),
            _ => {}
        }
        if matches!(error, ConnectionError::Wire(_) | ConnectionError::Ended(_) | ConnectionError::Refused { .. }) {
            let clock = self.env.clock.clone();
            clock.timeout(FAREWELL_LIMIT, self.flush()).await.unwrap_or(Err(ConnectionError::Stuck))?;
            if self.encrypted {
                // Without the end that TLS has of its own, the client could not tell last words from cut ones.
                let _ = clock.timeout(FAREWELL_LIMIT, self.stream.shutdown()).await;
            }
        }
        Err(error)
    }

    /// How long the client may keep us waiting.
    fn patience(&self) -> Duration {
        self.registry.shared.config.page_service_idle_timeout
    }

    /// Reads more; false at the end of input.
    pub(super) async fn fill(&mut self) -> Result<bool, ConnectionError> {
        self.input.reserve(READ_BYTES);
        let read = self.env.clock.timeout(self.patience(), self.stream.read_buf(&mut self.input)).await;
        Ok(read.map_err(|_| ConnectionError::Idle)?? > 0)
    }

    /// Sends the output. The limit is for each step: a slow client is served, one that takes nothing is not.
    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        let patience = self.patience();
        if crate::planted!(self.env, "short-write") && self.stream.write(&self.output).await? > 0 {
            self.output.clear();
        }
        while !self.output.is_empty() {
            let written = self.env.clock.timeout(patience, self.stream.write_buf(&mut self.output)).await;
            if written.map_err(|_| ConnectionError::Stuck)?? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        Ok(self.env.clock.timeout(patience, self.stream.flush()).await.map_err(|_| ConnectionError::Stuck)??)
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
        if !self.log_in().await? {
            return Ok(());
        }
        while let Some(message) = self.message().await? {
            match message {
                Frontend::Terminate => return Ok(()),
                Frontend::Sync => self.sync().await?,
                _ if self.extended.is_failed() => {}
                Frontend::Query(query) => {
                    self.query(&query).await?;
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

    /// A simple query.
    async fn query(&mut self, text: &str) -> Result<(), ConnectionError> {
        let outcome = match Command::parse_query(text) {
            Ok(None) => {
                wire::put_empty_query_response(&mut self.output);
                Ok(())
            }
            Ok(Some(command)) => self.perform(&command, true).await?,
            Err(error) => Err(error.into()),
        };
        outcome.or_else(|failure| self.refuse(&failure))
    }

    /// Tells the client why not. Errors: the connection ends after that.
    pub(super) fn refuse(&mut self, failure: &CommandFailure) -> Result<(), ConnectionError> {
        wire::put_error(&mut self.output, Severity::Error, failure.sqlstate, &failure.message);
        if failure.sqlstate == sqlstate::ADMIN_SHUTDOWN { Err(ConnectionError::Ended(failure.message.clone())) } else { Ok(()) }
    }

    fn timeline(&self, tenant: TenantId, timeline: TimelineId) -> Result<Arc<TimelineHandle>, LookupError> {
        self.registry.timeline(tenant, timeline)
    }

    /// Runs a command. `describe`: the row's description goes with the row.
    pub(super) async fn perform(&mut self, command: &Command, describe: bool) -> Outcome<()> {
        if let Err(failure) = self.permit(command) {
            return Ok(Err(failure));
        }
        let row = match *command {
            Command::Set => Vec::new(),
            Command::Show { tenant } => match self.registry.tenant(tenant) {
                Ok(_) => self.settings(),
                Err(error) => return Ok(Err(error.into())),
            },
            Command::GetLastRecordRlsn { tenant, timeline } => match self.timeline(tenant, timeline) {
                Ok(handle) => {
                    let (last, prev) = handle.timeline.last_record.lsn_and_prev();
                    vec![prev.to_string(), last.to_string()]
                }
                Err(error) => return Ok(Err(error.into())),
            },
            Command::Pagestream { version, tenant, timeline } => {
                return match self.timeline(tenant, timeline) {
                    Ok(handle) => self.pagestream(version, &handle.timeline).await,
                    Err(error) => Ok(Err(error.into())),
                };
            }
            // Slots, the only thing that it leaves out for a replica, are never in it.
            Command::BaseBackup { tenant, timeline, lsn, gzip, replica: _ } => {
                return match self.timeline(tenant, timeline) {
                    Ok(handle) => self.backup(handle, ExportSpec::new(Form::BaseBackup, lsn), gzip).await,
                    Err(error) => Ok(Err(error.into())),
                };
            }
            Command::FullBackup { tenant, timeline, lsn, prev_lsn: _, form } => {
                return match self.timeline(tenant, timeline) {
                    Ok(handle) => self.backup(handle, ExportSpec::new(form, lsn), false).await,
                    Err(error) => Ok(Err(error.into())),
                };
            }
        };
        if !row.is_empty() {
            if describe {
                wire::put_row_description(&mut self.output, command.columns());
            }
            wire::put_data_row(&mut self.output, &row.iter().map(|text| Some(text.as_bytes())).collect::<Vec<_>>());
        }
        wire::put_command_complete(&mut self.output, "SELECT 1");
        Ok(Ok(()))
    }

    /// The row of `show`.
    fn settings(&self) -> Vec<String> {
        let config = &self.registry.shared.config.tenant;
        let numbers = [config.checkpoint_distance, config.checkpoint_timeout.as_secs(), config.compaction_target_size];
        numbers.iter().map(u64::to_string).collect()
    }
}
