//! `fullbackup` and `basebackup`: a cluster as a tar, by COPY OUT.
//!
//! In: a timeline, an LSN and what the cluster is for. Out: CopyData messages. Invariant: CopyDone is sent only after everything was read
//! and sent; what fails earlier ends with an error, and its tar without pg_control.

use super::connection::{CommandFailure, Connection, ConnectionError, Outcome, sqlstate};
use super::gzip::GzipOutput;
use crate::export::{self, ByteOutput, ExportError, ExportSpec, Form, TarSink, WalSource};
use crate::io_abstraction::Env;
use crate::pg::wire::{self, CopyDirection};
use crate::tenant::TimelineHandle;
use crate::timeline::ReadError;
use crate::types::Lsn;
use crate::wal::log::WalLog;
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Bytes that gather before they are sent.
const GATHER_BYTES: usize = 256 << 10;
/// Mode of directories in a `basebackup`. Source: reference page-service, section 8.
const BASE_BACKUP_DIRECTORY: u32 = 0o755;

impl Connection {
    pub(super) async fn backup(&mut self, handle: Arc<TimelineHandle>, mut spec: ExportSpec, gzip: bool) -> Outcome<()> {
        spec.wal = Some(Arc::new(Log(handle.wal.log.clone())));
        let env = self.env.clone();
        let mut output = CopyOutput { connection: self, started: false, broken: None };
        let exported = match gzip {
            true => {
                let mut packed = GzipOutput::new(&mut output);
                match export_tar(&env, &handle, &spec, &mut packed).await {
                    Ok(()) => packed.finish().await.map_err(|error| ExportError::Sink { path: "the archive".to_string(), error }),
                    Err(error) => Err(error),
                }
            }
            false => export_tar(&env, &handle, &spec, &mut output).await,
        };
        if let Some(error) = output.broken.take() {
            return Err(error);
        }
        Ok(match exported {
            Ok(()) => {
                wire::put_copy_done(&mut self.output);
                wire::put_command_complete(&mut self.output, "SELECT 1");
                Ok(())
            }
            Err(error) => Err(failure(error, spec.form)),
        })
    }
}

async fn export_tar(env: &Env, handle: &TimelineHandle, spec: &ExportSpec, output: &mut dyn ByteOutput) -> Result<(), ExportError> {
    let mut sink = TarSink::new(output);
    if spec.form == Form::BaseBackup {
        sink = sink.directory_mode(BASE_BACKUP_DIRECTORY);
    }
    export::run(env, &handle.timeline, spec, &mut sink, &|_, _| {}).await.map(|_| ())
}

fn failure(error: ExportError, form: Form) -> CommandFailure {
    match error {
        ExportError::Read(error @ (ReadError::BelowCutoff { .. } | ReadError::WaitTimedOut { .. })) if form == Form::BaseBackup => {
            CommandFailure::new(sqlstate::INTERNAL, format!("invalid basebackup lsn: {error}"))
        }
        ExportError::Read(error) => error.into(),
        other => CommandFailure::new(sqlstate::INTERNAL, other),
    }
}

/// Sends pieces as CopyData. The copy begins with the first one, so that a refusal before it is a plain error.
struct CopyOutput<'a> {
    connection: &'a mut Connection,
    started: bool,
    broken: Option<ConnectionError>,
}

impl CopyOutput<'_> {
    async fn flush_connection(&mut self) -> io::Result<()> {
        self.connection.flush().await.map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.broken = Some(error);
            told
        })
    }
}

#[async_trait]
impl ByteOutput for CopyOutput<'_> {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if !self.started {
            wire::put_copy_response(&mut self.connection.output, CopyDirection::Out, false);
            self.started = true;
        }
        for piece in bytes.chunks(GATHER_BYTES) {
            wire::put_copy_data(&mut self.connection.output, piece);
            if self.connection.output.len() >= GATHER_BYTES {
                self.flush_connection().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.flush_connection().await
    }
}

/// The timeline's WAL log as the export wants it.
struct Log(Arc<WalLog>);

impl WalSource for Log {
    fn start_lsn(&self) -> Lsn {
        self.0.start_lsn()
    }

    fn read(&self, lsn: Lsn, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(lsn, buffer).map_err(io::Error::other)
    }
}
