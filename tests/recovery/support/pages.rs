//! A page-service client of its own: startup, a query, pagestream requests, byte by byte as the protocol says.

use super::pal::TENANT;
use palimpsest::types::{Lsn, PAGE_SIZE};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A connection in pagestream mode, version 3.
pub struct Pages(TcpStream);

/// A relation: tablespace, database, number.
pub type Rel = (u32, u32, u32);

impl Pages {
    pub fn open(address: &str, timeline: &str) -> Pages {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut startup = vec![0, 3, 0, 0];
        startup.extend_from_slice(b"user\0pal\0\0");
        stream.write_all(&(startup.len() as u32 + 4).to_be_bytes()).unwrap();
        stream.write_all(&startup).unwrap();
        let mut pages = Pages(stream);
        while pages.message().0 != b'Z' {}
        pages.send(b'Q', format!("pagestream_v3 {TENANT} {timeline}\0").as_bytes());
        let (kind, body) = pages.message();
        assert_eq!(kind, b'W', "{}", String::from_utf8_lossy(&body));
        pages
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        self.0.write_all(&bytes).unwrap();
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; len as usize - 4];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    /// One request at exactly `lsn`; the answer behind its echo, or the error's text.
    fn ask(&mut self, tag: u8, lsn: Lsn, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut request = vec![tag];
        for number in [7, lsn.0, lsn.0] {
            request.extend_from_slice(&number.to_be_bytes());
        }
        request.extend_from_slice(body);
        self.send(b'd', &request);
        let (kind, answer) = self.message();
        assert_eq!(kind, b'd', "{}", String::from_utf8_lossy(&answer));
        let payload = &answer[25..];
        match answer[0] {
            103 => Err(String::from_utf8_lossy(payload).trim_end_matches('\0').to_string()),
            found => {
                assert_eq!(found, tag + 100);
                assert_eq!(&payload[..body.len()], body);
                Ok(payload[body.len()..].to_vec())
            }
        }
    }

    fn tag((spc, db, rel): Rel) -> Vec<u8> {
        let mut body: Vec<u8> = [spc, db, rel].iter().flat_map(|n| n.to_be_bytes()).collect();
        body.push(0);
        body
    }

    /// Blocks of the main fork.
    pub fn blocks(&mut self, rel: Rel, lsn: Lsn) -> Result<u32, String> {
        self.ask(1, lsn, &Pages::tag(rel)).map(|answer| u32::from_be_bytes(answer.try_into().unwrap()))
    }

    /// A block of the main fork.
    pub fn page(&mut self, rel: Rel, block: u32, lsn: Lsn) -> Result<Vec<u8>, String> {
        let body = [Pages::tag(rel), block.to_be_bytes().to_vec()].concat();
        let page = self.ask(2, lsn, &body)?;
        assert_eq!(page.len(), PAGE_SIZE);
        Ok(page)
    }
}
