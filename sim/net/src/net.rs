//! The network seam on turmoil's TCP.

use crate::driver::SEGMENTS;
use crate::hosts::Shared;
use crate::stream::TurStream;
use async_trait::async_trait;
use palimpsest::io_abstraction::{Address, BoxStream, Listener, Net};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use turmoil::net::{TcpListener, TcpStream};

/// turmoil ends the whole run when more connections wait than a listener's queue holds. Here as under Linux the first packet
/// is lost then, and sent again later.
const WAITING_MAX: usize = SEGMENTS / 4;
const SEND_AGAIN: Duration = Duration::from_secs(1);
/// Time after which a machine that answers with nothing but a refusal has answered.
const REFUSAL: Duration = Duration::from_millis(5);

/// What all machines' networks share.
pub struct Network {
    shared: Arc<Shared>,
    segment_bytes: usize,
    /// Connections under way, by where they go.
    connecting: Mutex<BTreeMap<(String, u16), usize>>,
}

impl Network {
    pub fn new(shared: Arc<Shared>, segment_bytes: usize) -> Network {
        Network { shared, segment_bytes: segment_bytes.max(1), connecting: Mutex::default() }
    }
}

/// One machine's view of the network.
pub struct TurNet {
    pub host: String,
    pub network: Arc<Network>,
}

/// A place among the connections under way.
struct Connecting<'a>(&'a Network, (String, u16));

impl Network {
    fn begin(&self, to: &(String, u16)) -> Option<Connecting<'_>> {
        let mut connecting = self.connecting.lock();
        let count = connecting.entry(to.clone()).or_default();
        if *count >= WAITING_MAX {
            return None;
        }
        *count += 1;
        Some(Connecting(self, to.clone()))
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0.connecting.lock().get_mut(&self.1) {
            *count -= 1;
        }
    }
}

fn split(address: &Address) -> io::Result<(&str, u16)> {
    match address {
        Address::Tcp { host, port } => Ok((host, *port)),
        Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[async_trait]
impl Net for TurNet {
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let (host, port) = split(address)?;
        // On all of the machine's addresses: what is configured as loopback has to be reached by other machines here.
        let inner = TcpListener::bind(("0.0.0.0", port)).await?;
        let port = inner.local_addr()?.port();
        // A wildcard is no address that a client could use.
        let host = if host == "0.0.0.0" { self.host.as_str() } else { host };
        Ok(Box::new(TurListener { inner, address: Address::tcp(host, port), segment_bytes: self.network.segment_bytes }))
    }

    #[expect(clippy::disallowed_methods, reason = "the time of this world is tokio's")]
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let (host, port) = split(address)?;
        if self.network.shared.refuses(host) {
            tokio::time::sleep(REFUSAL).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let to = (host.to_string(), port);
        loop {
            if let Some(_place) = self.network.begin(&to) {
                let inner = TcpStream::connect((host, port)).await?;
                return Ok(Box::new(TurStream::new(inner, self.network.segment_bytes)));
            }
            tokio::time::sleep(SEND_AGAIN).await;
        }
    }
}

struct TurListener {
    inner: TcpListener,
    address: Address,
    segment_bytes: usize,
}

#[async_trait]
impl Listener for TurListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, peer) = self.inner.accept().await?;
        Ok((Box::new(TurStream::new(stream, self.segment_bytes)), peer.to_string()))
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}
