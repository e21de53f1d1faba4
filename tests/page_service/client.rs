//! A client that says and hears single messages, right or wrong ones.
//!
//! Source: PostgreSQL 15 documentation, sections 55.2 and 55.7.

use crate::pal::PalServer;
use crate::support::Place;
use palimpsest::io_abstraction::{BoxStream, ClockExt as _, Env};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Generous: a busy machine must not fail a test.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Type and body.
pub type Message = (u8, Vec<u8>);

pub struct Client {
    env: Env,
    stream: BoxStream,
}

/// An ErrorResponse.
#[derive(Debug)]
pub struct Refusal {
    pub sqlstate: String,
    pub message: String,
}

impl Refusal {
    fn of(body: &[u8]) -> Refusal {
        let field = |wanted: u8| {
            let found = body.split(|b| *b == 0).filter_map(<[u8]>::split_first).find(|(kind, _)| **kind == wanted);
            found.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
        };
        Refusal { sqlstate: field(b'C'), message: field(b'M') }
    }

    #[track_caller]
    pub fn check(&self, sqlstate: &str, part: &str) {
        assert!(self.sqlstate == sqlstate && self.message.contains(part), "wanted {sqlstate} with \"{part}\": {self:?}");
    }
}

/// A message as bytes.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The startup packet of protocol 3.`minor`.
pub fn startup(minor: u8, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, minor];
    for (name, value) in parameters {
        packet.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    packet.push(0);
    let len = packet.len() as u32;
    packet[..4].copy_from_slice(&len.to_be_bytes());
    packet
}

impl Client {
    /// Connects and waits until commands are taken.
    pub async fn connect(place: &Place, server: &PalServer) -> Client {
        let (mut client, _) = Client::connect_with(place, server, &startup(0, &[("user", "pal")])).await;
        client.ready().await;
        client
    }

    /// Connects with this startup packet; gives the first message too.
    pub async fn connect_with(place: &Place, server: &PalServer, startup: &[u8]) -> (Client, Message) {
        let stream = place.env.net.connect(&server.pages_address()).await.unwrap();
        let mut client = Client { env: place.env.clone(), stream };
        client.write(startup).await;
        let first = client.next().await.expect("an answer to the startup packet");
        (client, first)
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message; `None` when the server hung up.
    pub async fn next(&mut self) -> Option<Message> {
        let read = async {
            let kind = self.stream.read_u8().await.ok()?;
            let len = self.stream.read_u32().await.ok()?;
            let mut body = vec![0; len as usize - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some((kind, body))
        };
        self.env.clock.timeout(LIMIT, read).await.expect("the server says something, or hangs up")
    }

    /// The next message, which must be of this type.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) -> impl Future<Output = Vec<u8>> {
        let caller = std::panic::Location::caller();
        async move {
            let (found, body) = self.next().await.unwrap_or_else(|| panic!("{caller}: the server hung up"));
            assert_eq!(char::from(found), char::from(kind), "{caller}: {}", String::from_utf8_lossy(&body));
            body
        }
    }

    /// The next message, which must be an error.
    pub async fn refusal(&mut self) -> Refusal {
        Refusal::of(&self.expect(b'E').await)
    }

    /// Passes over messages up to ReadyForQuery; gives their types.
    pub async fn ready(&mut self) -> String {
        let mut kinds = String::new();
        loop {
            let (kind, _) = self.next().await.expect("the server is ready again");
            if kind == b'Z' {
                return kinds;
            }
            kinds.push(char::from(kind));
        }
    }

    pub async fn query(&mut self, text: &str) {
        self.write(&message(b'Q', format!("{text}\0").as_bytes())).await;
    }

    /// A query that must be refused; the connection goes on.
    pub async fn refused(&mut self, text: &str) -> Refusal {
        self.query(text).await;
        let refusal = self.refusal().await;
        self.expect(b'Z').await;
        refusal
    }

    /// A query that is answered by COPY OUT: what was copied, or the error, and whether the copy had begun.
    pub async fn copy_out(&mut self, text: &str) -> Result<Vec<u8>, (Refusal, bool)> {
        self.query(text).await;
        let mut bytes = Vec::new();
        let mut begun = false;
        loop {
            match self.next().await.expect("the copy goes on") {
                (b'H', body) => {
                    assert_eq!(body, [0, 0, 0], "text format, no columns");
                    begun = true;
                }
                (b'd', piece) => bytes.extend_from_slice(&piece),
                (b'c', _) => {
                    assert_eq!(self.expect(b'C').await, b"SELECT 1\0");
                    self.expect(b'Z').await;
                    return Ok(bytes);
                }
                (b'E', body) => {
                    self.expect(b'Z').await;
                    return Err((Refusal::of(&body), begun));
                }
                (other, _) => panic!("message '{}' in a copy", char::from(other)),
            }
        }
    }
}
