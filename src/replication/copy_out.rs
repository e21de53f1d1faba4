//! COPY OUT: a command whose answer is a stream of bytes, as a base backup is.
//!
//! In: a command on an idle connection. Out: its pieces in order. Invariant: the end is reported only after the server said
//! that the copy and the command are complete; a stream that merely stops is an error.
//! Source: PostgreSQL 15 documentation, section 55.2.6.

use super::connection::Connection;
use super::error::ReplicationError;
use bytes::Bytes;
use std::time::Duration;

/// Read at a time: several pieces of a backup.
const COPY_READ_BYTES: usize = 256 << 10;

/// A copy under way. Dropped half-way it leaves a connection that takes no further command.
pub struct CopyOut<'c> {
    connection: &'c mut Connection,
    command: String,
    silence: Duration,
}

impl Connection {
    /// Runs a command that answers with COPY OUT. `silence` is how long the server may say nothing.
    pub async fn copy_out(&mut self, command: &str, silence: Duration) -> Result<CopyOut<'_>, ReplicationError> {
        let deadline = self.deadline(silence);
        self.send_query(command, deadline).await?;
        let frame = self.read_frame(command, deadline).await?;
        if frame.tag != b'H' {
            return Err(self.unexpected(command, frame.tag));
        }
        self.set_read_bytes(COPY_READ_BYTES);
        Ok(CopyOut { command: command.to_string(), connection: self, silence })
    }
}

impl CopyOut<'_> {
    /// The next piece; `None` once the command is complete and the connection idle again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReplicationError> {
        let deadline = self.connection.deadline(self.silence);
        let frame = self.connection.read_frame(&self.command, deadline).await?;
        match frame.tag {
            b'd' => return Ok(Some(frame.body)),
            b'c' => {}
            other => return Err(self.connection.unexpected(&self.command, other)),
        }
        loop {
            let frame = self.connection.read_frame(&self.command, deadline).await?;
            match frame.tag {
                b'C' => {}
                b'Z' => {
                    self.connection.set_idle();
                    return Ok(None);
                }
                other => return Err(self.connection.unexpected(&self.command, other)),
            }
        }
    }
}
