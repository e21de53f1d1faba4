//! The network seam on madsim's TCP.
//!
//! madsim's streams have no half-close: here each write travels as a frame (length u32 LE, bytes) and `shutdown` as an
//! empty one. Both ends of every simulated connection come from this file, so nobody sees the frames.

use crate::world::Directory;
use async_trait::async_trait;
use madsim::net::{TcpListener, TcpStream};
use palimpsest::io_abstraction::{Address, BoxStream, Listener, Net};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One host's view of the network.
pub struct MadNet {
    pub host: String,
    pub directory: Arc<Directory>,
}

impl MadNet {
    fn resolve(&self, host: &str) -> io::Result<IpAddr> {
        if let Ok(ip) = host.parse() {
            return Ok(ip);
        }
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no simulated host is called {host}"));
        self.directory.ip(host).ok_or_else(unknown)
    }
}

fn split(address: &Address) -> io::Result<(&str, u16)> {
    match address {
        Address::Tcp { host, port } => Ok((host, *port)),
        Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[async_trait]
impl Net for MadNet {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let (host, port) = split(address)?;
        // madsim would give the lowest port, which the next client socket of this host takes after the listener is gone.
        let port = if port == 0 { self.directory.free_port(&self.host) } else { port };
        let inner = TcpListener::bind(("0.0.0.0", port)).await?;
        // A wildcard is no address that a client could use.
        let host = if self.resolve(host)?.is_unspecified() { self.host.as_str() } else { host };
        Ok(Box::new(MadListener { inner, address: Address::tcp(host, port) }))
    }

    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let (host, port) = split(address)?;
        let inner = TcpStream::connect((self.resolve(host)?, port)).await?;
        Ok(Box::new(Framed::new(inner)))
    }
}

struct MadListener {
    inner: TcpListener,
    address: Address,
}

#[async_trait]
impl Listener for MadListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, peer) = self.inner.accept().await?;
        Ok((Box::new(Framed::new(stream)), peer.to_string()))
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

const HEADER: usize = 4;
const PORTION: usize = 16 << 10;

/// A stream whose two directions close on their own.
struct Framed {
    inner: TcpStream,
    /// Bytes that came in and are not yet parsed or read.
    pending: Vec<u8>,
    /// How many of `pending` are consumed.
    start: usize,
    /// Bytes left of the present frame.
    frame: usize,
    ended: bool,
    closed: bool,
}

impl Framed {
    fn new(inner: TcpStream) -> Framed {
        Framed { inner, pending: Vec::new(), start: 0, frame: 0, ended: false, closed: false }
    }

    /// Gives bytes that are there, or `None` if more must come in.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Option<()> {
        loop {
            let available = self.pending.len() - self.start;
            if self.ended {
                return Some(());
            }
            if self.frame > 0 {
                let n = self.frame.min(available).min(buf.remaining());
                if n == 0 {
                    return None;
                }
                buf.put_slice(&self.pending[self.start..self.start + n]);
                self.start += n;
                self.frame -= n;
                return Some(());
            }
            if available < HEADER {
                return None;
            }
            let mut header = [0; HEADER];
            header.copy_from_slice(&self.pending[self.start..self.start + HEADER]);
            self.start += HEADER;
            self.frame = u32::from_le_bytes(header) as usize;
            self.ended = self.frame == 0;
        }
    }
}

impl AsyncRead for Framed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while this.take(buf).is_none() {
            this.pending.drain(..this.start);
            this.start = 0;
            let mut portion = [MaybeUninit::uninit(); PORTION];
            let mut incoming = ReadBuf::uninit(&mut portion);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut incoming))?;
            if incoming.filled().is_empty() {
                // The peer is gone without a farewell, as a process that was killed.
                this.ended = true;
            }
            this.pending.extend_from_slice(incoming.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut frame = Vec::with_capacity(HEADER + buf.len());
        frame.extend_from_slice(&(buf.len() as u32).to_le_bytes());
        frame.extend_from_slice(buf);
        // madsim's stream buffers everything until the next flush.
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &frame))?;
        assert_eq!(written, frame.len(), "a frame goes out whole");
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            ready!(Pin::new(&mut self.inner).poll_write(cx, &0u32.to_le_bytes()))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}
