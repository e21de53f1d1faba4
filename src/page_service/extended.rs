//! Extended queries: Parse, Bind, Describe, Execute, Sync; one statement and one portal at a time, a new one replaces the old.
//!
//! Invariant PS-1: after an error nothing is answered until the client's Sync, and Sync is always answered.
//! Source: PostgreSQL 15 documentation, section 55.2.3.

use super::connection::{CommandFailure, Connection, ConnectionError, Outcome, sqlstate};
use super::protocol::Command;
use crate::pg::wire::{self, Frontend, Target, TransactionStatus, WireError};

/// A command by the name that the client gave it; `None` for the empty query.
type Named = (String, Option<Command>);

/// What the client prepared.
#[derive(Default)]
pub(super) struct Extended {
    statement: Option<Named>,
    portal: Option<Named>,
    failed: bool,
}

impl Extended {
    /// Whether everything up to the next Sync is to be passed over.
    pub(super) fn is_failed(&self) -> bool {
        self.failed
    }

    fn statement(&self, name: &str) -> Result<&Option<Command>, CommandFailure> {
        let found = self.statement.as_ref().filter(|(known, _)| known == name).map(|(_, command)| command);
        let missing = || format!("prepared statement \"{name}\" does not exist: only the last one that was prepared is kept");
        found.ok_or_else(|| CommandFailure::new(sqlstate::INVALID_STATEMENT, missing()))
    }

    fn portal(&self, name: &str) -> Result<&Option<Command>, CommandFailure> {
        let found = self.portal.as_ref().filter(|(known, _)| known == name).map(|(_, command)| command);
        let missing = || format!("portal \"{name}\" does not exist: only the last one that was bound is kept, up to Sync");
        found.ok_or_else(|| CommandFailure::new(sqlstate::INVALID_PORTAL, missing()))
    }
}

impl Connection {
    /// Takes a message of an extended query other than Sync.
    pub(super) async fn extended(&mut self, message: Frontend) -> Result<(), ConnectionError> {
        let outcome = match message {
            Frontend::Parse { statement, query, .. } => self.parse(statement, &query),
            Frontend::Bind { portal, statement, params, result_formats, .. } => {
                self.bind(portal, &statement, params.len(), result_formats.iter().all(|format| *format == 0))
            }
            Frontend::Describe { target, name } => self.describe(target, &name),
            Frontend::Execute { portal, .. } => self.execute(&portal).await?,
            Frontend::Close { target, name } => {
                self.close(target, &name);
                Ok(())
            }
            Frontend::Flush => return self.flush().await,
            // Left over from a copy that failed: the protocol says to pass over them.
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => Ok(()),
            Frontend::Password(_) | Frontend::Query(_) | Frontend::Sync | Frontend::Terminate => return Err(WireError::Tag(b'p').into()),
        };
        if let Err(failure) = outcome {
            self.extended.failed = true;
            self.refuse(&failure)?;
            // A Flush that follows is passed over too: who waits for answers gets this one.
            self.flush().await?;
        }
        Ok(())
    }

    /// Sync: the next command may come.
    pub(super) async fn sync(&mut self) -> Result<(), ConnectionError> {
        (self.extended.failed, self.extended.portal) = (false, None);
        wire::put_ready_for_query(&mut self.output, TransactionStatus::Idle);
        self.flush().await
    }

    fn parse(&mut self, name: String, query: &str) -> Result<(), CommandFailure> {
        self.extended.statement = None;
        self.extended.statement = Some((name, Command::parse_query(query)?));
        wire::put_parse_complete(&mut self.output);
        Ok(())
    }

    fn bind(&mut self, portal: String, statement: &str, params: usize, as_text: bool) -> Result<(), CommandFailure> {
        let command = self.extended.statement(statement)?.clone();
        if params > 0 {
            let message = format!("bind supplies {params} parameters, but no command takes any");
            return Err(CommandFailure::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        if !as_text && command.as_ref().is_some_and(|command| !command.columns().is_empty()) {
            return Err(CommandFailure::new(sqlstate::FEATURE_NOT_SUPPORTED, "results come as text only: ask for format 0"));
        }
        self.extended.portal = Some((portal, command));
        wire::put_bind_complete(&mut self.output);
        Ok(())
    }

    fn describe(&mut self, target: Target, name: &str) -> Result<(), CommandFailure> {
        let command = match target {
            Target::Statement => self.extended.statement(name)?,
            Target::Portal => self.extended.portal(name)?,
        };
        let columns = command.as_ref().map_or(&[][..], Command::columns);
        if target == Target::Statement {
            wire::put_parameter_description(&mut self.output);
        }
        match columns {
            [] => wire::put_no_data(&mut self.output),
            columns => wire::put_row_description(&mut self.output, columns),
        }
        Ok(())
    }

    async fn execute(&mut self, portal: &str) -> Outcome<()> {
        match self.extended.portal(portal).cloned() {
            Ok(Some(command)) => self.perform(&command, false).await,
            Ok(None) => {
                wire::put_empty_query_response(&mut self.output);
                Ok(Ok(()))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Closing what is not there is no error.
    fn close(&mut self, target: Target, name: &str) {
        let place = match target {
            Target::Statement => &mut self.extended.statement,
            Target::Portal => &mut self.extended.portal,
        };
        place.take_if(|(known, _)| known == name);
        wire::put_close_complete(&mut self.output);
    }
}
