//! The server's half of the frontend/backend protocol, as much as a walsender needs.

use palimpsest::io_abstraction::BoxStream;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
const PROTOCOL_3: u32 = 196_608;
/// Longest message that a client may send.
const MESSAGE_MAX: u32 = 1 << 20;

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads the startup packet, refusing encryption. Gives the parameters.
pub async fn startup(stream: &mut BoxStream) -> io::Result<Vec<(String, String)>> {
    loop {
        let len = stream.read_u32().await?;
        if !(8..=10_000).contains(&len) {
            return Err(bad("startup packet length"));
        }
        let code = stream.read_u32().await?;
        let mut body = vec![0; len as usize - 8];
        stream.read_exact(&mut body).await?;
        match code {
            SSL_REQUEST | GSS_REQUEST => {
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            CANCEL_REQUEST => return Err(bad("cancel request")),
            code if code >> 16 == PROTOCOL_3 >> 16 => {
                let text = String::from_utf8(body).map_err(|_| bad("startup parameters"))?;
                let mut words = text.split('\0');
                let mut parameters = Vec::new();
                while let (Some(name), Some(value)) = (words.next().filter(|n| !n.is_empty()), words.next()) {
                    parameters.push((name.to_string(), value.to_string()));
                }
                return Ok(parameters);
            }
            _ => return Err(bad("protocol version")),
        }
    }
}

/// Reads one message: tag and body.
pub async fn message(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let len = stream.read_u32().await?;
    if !(4..=MESSAGE_MAX).contains(&len) {
        return Err(bad("message length"));
    }
    let mut body = vec![0; len as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// Messages that are being put together.
#[derive(Default)]
pub struct Output(pub Vec<u8>);

impl Output {
    pub fn message(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>)) -> &mut Output {
        self.0.push(tag);
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        body(&mut self.0);
        let len = (self.0.len() - at) as u32;
        self.0[at..at + 4].copy_from_slice(&len.to_be_bytes());
        self
    }

    pub fn ready(&mut self) -> &mut Output {
        self.message(b'Z', |out| out.push(b'I'))
    }

    pub fn parameter(&mut self, name: &str, value: &str) -> &mut Output {
        self.message(b'S', |out| {
            for word in [name, value] {
                out.extend_from_slice(word.as_bytes());
                out.push(0);
            }
        })
    }

    pub fn error(&mut self, code: &str, text: &str) -> &mut Output {
        self.message(b'E', |out| {
            for (field, value) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', text)] {
                out.push(field);
                out.extend_from_slice(value.as_bytes());
                out.push(0);
            }
            out.push(0);
        })
    }

    /// One row of text columns, with its description and completion.
    pub fn row(&mut self, columns: &[(&str, Option<String>)], complete: &str) -> &mut Output {
        self.message(b'T', |out| {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for (name, _) in columns {
                out.extend_from_slice(name.as_bytes());
                out.push(0);
                out.extend_from_slice(&0u32.to_be_bytes()); // table
                out.extend_from_slice(&0u16.to_be_bytes()); // column
                out.extend_from_slice(&25u32.to_be_bytes()); // type text
                out.extend_from_slice(&(-1i16).to_be_bytes());
                out.extend_from_slice(&(-1i32).to_be_bytes());
                out.extend_from_slice(&0u16.to_be_bytes()); // format
            }
        });
        self.message(b'D', |out| {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for (_, value) in columns {
                match value {
                    None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                    Some(text) => {
                        out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
        });
        self.complete(complete)
    }

    pub fn complete(&mut self, tag: &str) -> &mut Output {
        self.message(b'C', |out| {
            out.extend_from_slice(tag.as_bytes());
            out.push(0);
        })
    }

    /// Sends everything.
    pub async fn send(&mut self, stream: &mut (impl tokio::io::AsyncWrite + Unpin)) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.0);
        stream.write_all(&bytes).await?;
        stream.flush().await
    }
}
