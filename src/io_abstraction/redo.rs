//! The WAL-redo child: a process that turns (base page, records) into a page behind a pipe.

use futures::future::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pg::version::PgVersion;

/// Starts redo children.
///
/// A child reads requests from its input and writes answers to its output in order (protocol: `redo::pipe`). It may stop
/// answering, end in the middle of an answer, or answer late: whoever talks to it sets a time limit and kills it. End of
/// input ends the child. Nothing of it survives a crash of the node.
pub trait RedoSpawner: Send + Sync {
    /// `hint_bits_logged`: the cluster has data checksums or `wal_log_hints`.
    fn spawn(&self, version: PgVersion, hint_bits_logged: bool) -> io::Result<RedoChild>;
}

/// A running child. Dropping it kills the process.
pub struct RedoChild {
    pub input: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    pub output: Box<dyn AsyncRead + Send + Sync + Unpin>,
    pub control: Box<dyn RedoControl>,
}

/// Ends a child.
pub trait RedoControl: Send + Sync {
    /// Kills the process and completes when it is gone.
    fn kill(self: Box<Self>) -> BoxFuture<'static, ()>;
}
