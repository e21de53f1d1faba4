//! A page-service client as bare as can be: fixed requests out, fixed answers in. The echo peer uses the same code.

use crate::os::{Failure, Outcome};
use crate::pal::{TENANT, TIMELINE};
use bytes::{BufMut as _, BytesMut};
use palimpsest::page_service::protocol::{PagestreamVersion, Question, Request, RequestHeader};
use palimpsest::types::{Lsn, PAGE_SIZE, RelTag};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// CopyData header and a V3 GetPage request.
pub const REQUEST_LEN: usize = 5 + 42;
/// CopyData header, tag, request header, relation and block, page.
pub const ANSWER_LEN: usize = 5 + 1 + 24 + 17 + PAGE_SIZE;
const GET_PAGE_ANSWER: u8 = 102;
const NBLOCKS_ANSWER: u8 = 101;

pub struct PagesClient {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// The bytes of a request.
pub fn request(question: Question, lsn: Lsn) -> Vec<u8> {
    let request = Request { header: RequestHeader { reqid: 1, request_lsn: lsn, not_modified_since: lsn }, question };
    let mut body = BytesMut::new();
    request.encode(PagestreamVersion::V3, &mut body);
    let mut out = vec![b'd'];
    out.put_u32(body.len() as u32 + 4);
    out.extend_from_slice(&body);
    out
}

impl PagesClient {
    /// Connects to the echo server.
    pub async fn bare(address: &str) -> Outcome<PagesClient> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(PagesClient { stream, answer: vec![0; ANSWER_LEN] })
    }

    /// Connects to the page service and enters the pagestream.
    pub async fn connect(address: &str) -> Outcome<PagesClient> {
        let mut client = PagesClient::bare(address).await?;
        let parameters = b"user\0bench\0database\0bench\0\0";
        let mut startup = Vec::new();
        startup.put_u32(8 + parameters.len() as u32);
        startup.put_u32(3 << 16);
        startup.extend_from_slice(parameters);
        client.stream.write_all(&startup).await?;
        client.skip_to(b'Z').await?;
        let query = format!("pagestream_v3 {TENANT} {TIMELINE}\0");
        let mut message = vec![b'Q'];
        message.put_u32(4 + query.len() as u32);
        message.extend_from_slice(query.as_bytes());
        client.stream.write_all(&message).await?;
        client.skip_to(b'W').await?;
        Ok(client)
    }

    /// Reads messages until one of this type.
    async fn skip_to(&mut self, wanted: u8) -> Outcome<()> {
        loop {
            let (kind, body) = self.message().await?;
            match kind {
                kind if kind == wanted => return Ok(()),
                b'E' => return Err(String::from_utf8_lossy(&body).into()),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Outcome<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let len = self.stream.read_u32().await?;
        let mut body = vec![0; (len as usize).checked_sub(4).ok_or("a message without a length")?];
        self.stream.read_exact(&mut body).await?;
        Ok((kind, body))
    }

    /// One request of [`REQUEST_LEN`] bytes, one answer of [`ANSWER_LEN`].
    pub async fn ask(&mut self, request: &[u8]) -> Outcome<()> {
        self.stream.write_all(request).await?;
        // An error is shorter than a page: its length says so before all of it is waited for.
        self.stream.read_exact(&mut self.answer[..6]).await?;
        if self.answer[5] != GET_PAGE_ANSWER {
            let len = u32::from_be_bytes([self.answer[1], self.answer[2], self.answer[3], self.answer[4]]) as usize;
            let mut text = vec![0; len.saturating_sub(5)];
            self.stream.read_exact(&mut text).await?;
            return Err(String::from_utf8_lossy(text.get(24..).unwrap_or(&text)).into());
        }
        self.stream.read_exact(&mut self.answer[6..]).await?;
        Ok(())
    }

    /// Size of a relation in blocks.
    pub async fn blocks(&mut self, rel: RelTag, lsn: Lsn) -> Outcome<u32> {
        self.stream.write_all(&request(Question::Nblocks { rel }, lsn)).await?;
        let (_, body) = self.message().await?;
        match (body.first(), body.last_chunk::<4>()) {
            (Some(&NBLOCKS_ANSWER), Some(blocks)) => Ok(u32::from_be_bytes(*blocks)),
            _ => Err(String::from_utf8_lossy(&body).into()),
        }
    }
}

/// Requests per second of some clients, each with one request at a time, over `length`.
pub async fn rate(clients: Vec<PagesClient>, requests: &[Vec<u8>], length: Duration) -> Outcome<f64> {
    let start = Instant::now();
    let step = requests.len() / clients.len().max(1);
    let tasks = clients.into_iter().enumerate().map(|(n, mut client)| {
        let requests = requests.to_vec();
        tokio::spawn(async move {
            let mut done = 0u64;
            for request in requests.iter().cycle().skip(n * step) {
                client.ask(request).await?;
                done += 1;
                if start.elapsed() >= length {
                    break;
                }
            }
            Ok::<u64, Failure>(done)
        })
    });
    let mut total = 0;
    for task in tasks.collect::<Vec<_>>() {
        total += task.await??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// `echo-server`: answers every request with as many bytes as a page takes. Prints its address.
pub fn echo_server() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let mut answer = vec![0; ANSWER_LEN];
        answer[5] = GET_PAGE_ANSWER;
        let answer: std::sync::Arc<[u8]> = answer.into();
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; REQUEST_LEN];
                while stream.read_exact(&mut request).await.is_ok() {
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}
