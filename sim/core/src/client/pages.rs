//! A client of the page service: pagestream_v3 on one connection.
//!
//! Numbers are big-endian. Source: reference page-service, sections 1 to 4.

use palimpsest::io_abstraction::{Address, BoxStream, Env};
use palimpsest::types::{Lsn, PAGE_SIZE, RelTag, SlruKind, TenantId, TimelineId};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An open pagestream.
pub struct PageStream {
    stream: BoxStream,
    /// What waits for the flush.
    output: Vec<u8>,
    next_id: u64,
}

/// A request that was sent.
pub struct Asked {
    tag: u8,
    echoed: Vec<u8>,
    body: Vec<u8>,
}

/// Which version a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAt {
    pub request_lsn: Lsn,
    pub not_modified_since: Lsn,
}

impl ReadAt {
    /// Exactly this LSN.
    pub fn exactly(lsn: Lsn) -> ReadAt {
        ReadAt { request_lsn: lsn, not_modified_since: lsn }
    }

    /// The newest version, which must be at least as new as `lsn`.
    pub fn latest(lsn: Lsn) -> ReadAt {
        ReadAt { request_lsn: Lsn::MAX, not_modified_since: lsn }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Exists(RelTag),
    Size(RelTag),
    Page(RelTag, u32),
    Slru(SlruKind, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Exists(bool),
    Size(u32),
    Page(Box<[u8; PAGE_SIZE]>),
    Slru(Vec<u8>),
    /// The server says in band why it cannot answer.
    Error(String),
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("page service: {what}"))
}

fn put_rel(out: &mut Vec<u8>, rel: RelTag) {
    for word in [rel.spc, rel.db, rel.rel] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.push(rel.fork as u8);
}

impl PageStream {
    /// Connects and enters the pagestream of a timeline.
    pub async fn open(env: &Env, address: &Address, tenant: TenantId, timeline: TimelineId) -> io::Result<PageStream> {
        let mut stream = env.net.connect(address).await?;
        let mut startup = 196_608u32.to_be_bytes().to_vec();
        startup.extend_from_slice(b"user\0sim\0database\0postgres\0\0");
        stream.write_u32(startup.len() as u32 + 4).await?;
        stream.write_all(&startup).await?;
        stream.flush().await?;
        let mut this = PageStream { stream, output: Vec::new(), next_id: 1 };
        this.expect_until(b'Z').await?;
        let query = format!("pagestream_v3 {tenant} {timeline}\0");
        this.send(b'Q', query.as_bytes()).await?;
        this.expect_until(b'W').await?;
        Ok(this)
    }

    /// One request, one answer. The request goes out in pieces, as from a client that writes without a buffer.
    ///
    /// Errors: the connection broke, or the server ended the stream; the outcome is unknown.
    pub async fn ask(&mut self, request: Request, at: ReadAt) -> io::Result<Answer> {
        let (message, asked) = self.message(request, at);
        self.send(b'd', &message).await?;
        self.answer(&asked).await
    }

    /// Prepares a request; [`PageStream::flush`] has to follow. Several go out together, and the server has them at hand at once.
    pub fn request(&mut self, request: Request, at: ReadAt) -> Asked {
        let (message, asked) = self.message(request, at);
        self.output.push(b'd');
        self.output.extend_from_slice(&(message.len() as u32 + 4).to_be_bytes());
        self.output.extend_from_slice(&message);
        asked
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        self.stream.write_all(&output).await?;
        self.stream.flush().await
    }

    fn message(&mut self, request: Request, at: ReadAt) -> (Vec<u8>, Asked) {
        let id = self.next_id;
        self.next_id += 1;
        let (tag, body) = encode(request);
        let mut message = vec![tag];
        let mut echoed = Vec::new();
        for word in [id, at.request_lsn.0, at.not_modified_since.0] {
            echoed.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(&echoed);
        message.extend_from_slice(&body);
        (message, Asked { tag, echoed, body })
    }

    /// The answer to the oldest request that has none yet.
    pub async fn answer(&mut self, asked: &Asked) -> io::Result<Answer> {
        let (kind, answer) = self.receive().await?;
        match kind {
            b'd' => decode(&answer, asked.tag, &asked.echoed, &asked.body),
            b'E' => Err(broken(&format!("stream ended: {}", error_text(&answer)))),
            other => Err(broken(&format!("message {:?} inside a stream", other as char))),
        }
    }

    async fn send(&mut self, tag: u8, body: &[u8]) -> io::Result<()> {
        self.stream.write_u8(tag).await?;
        self.stream.write_u32(body.len() as u32 + 4).await?;
        self.stream.write_all(body).await?;
        self.stream.flush().await
    }

    async fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let tag = self.stream.read_u8().await?;
        let len = self.stream.read_u32().await?;
        if !(4..1 << 20).contains(&len) {
            return Err(broken("message length"));
        }
        let mut body = vec![0; len as usize - 4];
        self.stream.read_exact(&mut body).await?;
        Ok((tag, body))
    }

    /// Skips messages up to one with this tag.
    async fn expect_until(&mut self, wanted: u8) -> io::Result<()> {
        loop {
            match self.receive().await? {
                (tag, _) if tag == wanted => return Ok(()),
                (b'E', body) => return Err(io::Error::other(error_text(&body))),
                (b'R' | b'S' | b'K' | b'N', _) => {}
                (other, _) => return Err(broken(&format!("unexpected message {:?}", other as char))),
            }
        }
    }
}

fn encode(request: Request) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    let tag = match request {
        Request::Exists(rel) => {
            put_rel(&mut body, rel);
            0
        }
        Request::Size(rel) => {
            put_rel(&mut body, rel);
            1
        }
        Request::Page(rel, block) => {
            put_rel(&mut body, rel);
            body.extend_from_slice(&block.to_be_bytes());
            2
        }
        Request::Slru(kind, segment) => {
            body.push(kind as u8);
            body.extend_from_slice(&segment.to_be_bytes());
            4
        }
    };
    (tag, body)
}

/// Checks that the answer echoes the request, and takes its payload.
fn decode(answer: &[u8], request_tag: u8, echoed: &[u8], body: &[u8]) -> io::Result<Answer> {
    let (tag, rest) = answer.split_first().ok_or_else(|| broken("empty answer"))?;
    let rest = rest.strip_prefix(echoed).ok_or_else(|| broken("the answer is for another request"))?;
    if *tag == 103 {
        return Ok(Answer::Error(String::from_utf8_lossy(rest.strip_suffix(&[0]).unwrap_or(rest)).into_owned()));
    }
    if *tag != 100 + request_tag + u8::from(request_tag >= 3) {
        return Err(broken("the answer is of another kind"));
    }
    let payload = rest.strip_prefix(body).ok_or_else(|| broken("the answer is for another object"))?;
    let number = || payload.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).ok_or_else(|| broken("short answer"));
    match request_tag {
        0 => Ok(Answer::Exists(payload.first().copied() == Some(1))),
        1 => Ok(Answer::Size(number()?)),
        2 => Ok(Answer::Page(Box::new(payload.try_into().map_err(|_| broken("page length"))?))),
        _ => {
            let blocks = number()? as usize;
            let bytes = &payload[4..];
            if bytes.len() != blocks * PAGE_SIZE {
                return Err(broken("segment length"));
            }
            Ok(Answer::Slru(bytes.to_vec()))
        }
    }
}

/// The message field of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|b| *b == 0).filter_map(|field| field.split_first());
    fields.filter(|(kind, _)| **kind == b'M').map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>().join("; ")
}
