//! The network seam around a backend's: every connection is traced, can be reset, and hands out bytes in odd portions.

use crate::event;
use crate::held::{Hold, Ledger};
use crate::trace::{HostTrace, error_name};
use async_trait::async_trait;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{Address, BoxStream, DetRng, Listener, Net, RngSource};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// All open connections of a run, by their two hosts.
#[derive(Clone, Default)]
pub struct Connections(Arc<All>);

#[derive(Default)]
struct All {
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    opened: AtomicU64,
    refusing: Mutex<BTreeSet<String>>,
}

struct Connection {
    from: String,
    to: String,
    state: Mutex<ConnectionState>,
}

#[derive(Default)]
struct ConnectionState {
    reset: bool,
    /// Who waits to read, and to write.
    wakers: [Option<Waker>; 2],
}

impl Connections {
    /// Breaks every connection whose (client, server) host names match; both sides see a reset. Gives their number.
    pub fn reset(&self, matches: impl Fn(&str, &str) -> bool) -> usize {
        let hit: Vec<_> = self.0.open.lock().values().filter(|c| matches(&c.from, &c.to)).cloned().collect();
        for connection in &hit {
            let wakers = {
                let mut state = connection.state.lock();
                state.reset = true;
                std::mem::take(&mut state.wakers)
            };
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
        hit.len()
    }

    /// From now on (or no more) nobody can connect to this host.
    pub fn refuse(&self, host: &str, refuses: bool) {
        let mut refusing = self.0.refusing.lock();
        if refuses {
            refusing.insert(host.to_string())
        } else {
            refusing.remove(host)
        };
    }

    fn refuses(&self, host: &str) -> bool {
        self.0.refusing.lock().contains(host)
    }

    fn add(&self, from: &str, to: &str) -> (u64, Arc<Connection>) {
        let id = self.0.opened.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection { from: from.to_string(), to: to.to_string(), state: Mutex::default() });
        self.0.open.lock().insert(id, connection.clone());
        (id, connection)
    }
}

/// A host's network.
pub struct TracedNet {
    host: String,
    inner: Arc<dyn Net>,
    connections: Connections,
    trace: HostTrace,
    held: Ledger,
    rng: RngSource,
    opened: AtomicU64,
}

impl TracedNet {
    pub fn new(
        host: &str,
        inner: Arc<dyn Net>,
        connections: Connections,
        (trace, held): (HostTrace, Ledger),
        rng: &RngSource,
    ) -> TracedNet {
        TracedNet { host: host.to_string(), inner, connections, trace, held, rng: rng.child("net"), opened: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Net for TracedNet {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let result = self.inner.listen(address).await;
        match &result {
            Ok(_) => event!(self.trace, "net", "op=listen address={address}"),
            Err(e) => event!(self.trace, "net", "op=listen address={address} error={}", error_name(e)),
        }
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let rng = self.rng.child(&format!("listen-{number}"));
        let open = self.held.hold(&format!("listener {address}"));
        let (trace, held) = (self.trace.clone(), self.held.clone());
        Ok(Box::new(TracedListener { inner: result?, trace, held, _open: open, rng, accepted: 0 }))
    }

    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let to = match address {
            Address::Tcp { host, .. } => host.as_str(),
            Address::Unix(_) => self.host.as_str(),
        };
        let result = match self.connections.refuses(to) {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => self.inner.connect(address).await,
        };
        match &result {
            Ok(_) => event!(self.trace, "net", "op=connect address={address}"),
            Err(e) => event!(self.trace, "net", "op=connect address={address} error={}", error_name(e)),
        }
        let inner = result?;
        let (id, connection) = self.connections.add(&self.host, to);
        let registration = Some(Registration { connections: self.connections.clone(), id, connection });
        let open = self.held.hold(&format!("connection to {address}"));
        Ok(Box::new(CutStream { inner, registration, _open: open, rng: self.rng.stream(&format!("connect-{number}")) }))
    }
}

struct TracedListener {
    inner: Box<dyn Listener>,
    trace: HostTrace,
    held: Ledger,
    _open: Hold,
    rng: RngSource,
    accepted: u64,
}

#[async_trait]
impl Listener for TracedListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (inner, peer) = self.inner.accept().await?;
        event!(self.trace, "net", "op=accept peer={peer}");
        self.accepted += 1;
        let rng = self.rng.stream(&format!("accept-{}", self.accepted));
        // Only the connecting side is registered: when it is reset it drops the stream, which the other side sees.
        let open = self.held.hold(&format!("connection from {peer}"));
        Ok((Box::new(CutStream { inner, registration: None, _open: open, rng }), peer))
    }

    fn local_address(&self) -> Address {
        self.inner.local_address()
    }
}

struct Registration {
    connections: Connections,
    id: u64,
    connection: Arc<Connection>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.0.open.lock().remove(&self.id);
    }
}

/// A stream that can be reset, and whose reads return odd numbers of bytes now and then.
struct CutStream {
    inner: BoxStream,
    registration: Option<Registration>,
    _open: Hold,
    rng: DetRng,
}

const READER: usize = 0;
const WRITER: usize = 1;

impl CutStream {
    fn check(&self, cx: &mut Context<'_>, side: usize) -> io::Result<()> {
        let Some(registration) = &self.registration else { return Ok(()) };
        let mut state = registration.connection.state.lock();
        if state.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        state.wakers[side] = Some(cx.waker().clone());
        Ok(())
    }
}

impl AsyncRead for CutStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(cx, READER)?;
        let room = buf.remaining();
        // One read in eight is short: whoever assumes that a message arrives whole shall find out.
        if room < 2 || below(&mut this.rng, 8) != 0 {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let portion = 1 + below(&mut this.rng, (room as u64 - 1).min(4096)) as usize;
        let mut small = buf.take(portion);
        let before = small.filled().len();
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut small))?;
        let read = small.filled().len() - before;
        // `take` shares the memory but not the counters. A `ReadBuf` does not tell what of the rest was initialised, so
        // the bytes are copied once more, safely.
        let bytes = small.filled()[before..].to_vec();
        debug_assert_eq!(bytes.len(), read);
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx, WRITER)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx, WRITER)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx, WRITER)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
