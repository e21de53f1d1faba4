//! Byte streams between processes: TCP and unix-domain sockets.

use async_trait::async_trait;
use std::fmt;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where to listen or connect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// Host name or IP address, and port. Port 0 when listening: any free one.
    Tcp { host: String, port: u16 },
    /// Path of the socket file.
    Unix(PathBuf),
}

impl Address {
    pub fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_string(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected byte stream. Bytes may stay in a buffer until `flush`: flush at the end of every message.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub type BoxStream = Box<dyn Stream>;

/// The network.
///
/// Bytes of one stream arrive in order and unchanged, or the stream ends with an error or end-of-file; how much of what was
/// written before an error arrived is unknown. A peer that vanished may never be noticed: use time-outs. Every error may be
/// retried with a new connection.
#[async_trait]
pub trait Net: Send + Sync {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>>;
    async fn connect(&self, address: &Address) -> io::Result<BoxStream>;
}

/// A listening socket. Dropping it refuses new connections; accepted streams live on.
#[async_trait]
pub trait Listener: Send {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)>;

    /// The address clients can use: with the real port when 0 was asked for.
    fn local_address(&self) -> Address;
}
