//! Where an export goes: a tar stream or a directory.

mod directory;
mod tar;

pub use directory::DirectorySink;
pub use tar::TarSink;

use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Takes directories and files in order.
///
/// Calls come as: `begin`, then directories, links and files, each after its parent, per file `file`, `data` until the announced length
/// is reached, `file_end`; at last `finish`. Paths are relative, with `/`. After an error nothing more comes.
#[async_trait]
pub trait Sink: Send {
    /// `time`: seconds since 1970 for whatever carries a time.
    async fn begin(&mut self, time: i64) -> io::Result<()>;
    async fn directory(&mut self, path: &str) -> io::Result<()>;
    /// A directory that is elsewhere: makes `target`, and `path` a link to it.
    async fn link(&mut self, path: &str, target: &str) -> io::Result<()>;
    async fn file(&mut self, path: &str, len: u64) -> io::Result<()>;
    async fn data(&mut self, bytes: Bytes) -> io::Result<()>;
    async fn file_end(&mut self) -> io::Result<()>;
    /// Everything came; it is durable when this returns, where that means anything.
    async fn finish(&mut self) -> io::Result<()>;
}

/// Takes a stream of bytes: standard output, or the CopyData messages of a connection.
#[async_trait]
pub trait ByteOutput: Send {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()>;
    async fn flush(&mut self) -> io::Result<()>;
}

/// Writes to an `AsyncWrite`.
pub struct WriterOutput<W>(pub W);

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> ByteOutput for WriterOutput<W> {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}
