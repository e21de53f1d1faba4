//! `pal serve` as its own process, and its management API.

use crate::os::{Outcome, Running, wait_for};
use palimpsest::types::Lsn;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub const TENANT: &str = "11111111111111111111111111111111";
pub const TIMELINE: &str = "22222222222222222222222222222222";

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pal");

pub struct Pal {
    running: Running,
    pub http: String,
    pub pages: String,
}

impl Pal {
    /// Starts a server with default settings but its addresses, and `settings`.
    pub fn start(data: &Path, settings: &[&str]) -> Outcome<Pal> {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("-D").arg(data).args(["-c", "listen_http_addr='127.0.0.1:0'", "-c", "listen_pg_addr='127.0.0.1:0'"]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let mut running = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut line = String::new();
        BufReader::new(running.0.stdout.take().ok_or("pal has no output")?).read_line(&mut line)?;
        let word =
            |n: usize| line.split_whitespace().nth(n).map(str::to_string).ok_or_else(|| format!("pal serve did not start: {line:?}"));
        Ok(Pal { http: word(2)?, pages: word(4)?, running })
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn stop(mut self) -> Outcome<()> {
        self.running.stop()
    }

    /// One request; gives the JSON of an answer below 300.
    pub fn request(&self, method: &str, path: &str, body: Option<Value>) -> Outcome<Value> {
        let mut stream = TcpStream::connect(&self.http)?;
        stream.set_nodelay(true)?;
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: pal\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").ok_or("an answer without a body")?;
        let status: u32 = head.split_whitespace().nth(1).unwrap_or_default().parse()?;
        if status >= 300 {
            return Err(format!("{method} {path}: {status} {body}").into());
        }
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn path(timeline: &str, behind: &str) -> String {
        format!("/v1/tenant/{TENANT}/timeline/{timeline}{behind}")
    }

    pub fn create_tenant(&self) -> Outcome<()> {
        self.request("POST", "/v1/tenant", Some(json!({ "new_tenant_id": TENANT }))).map(|_| ())
    }

    pub fn import(&self, timeline: &str, directory: &Path) -> Outcome<()> {
        self.request("PUT", &Self::path(timeline, "/import"), Some(json!({ "directory": directory }))).map(|_| ())
    }

    pub fn follow(&self, connstr: &str) -> Outcome<()> {
        self.request("PUT", &Self::path(TIMELINE, "/wal_source"), Some(json!({ "connstr": connstr }))).map(|_| ())
    }

    pub fn checkpoint(&self) -> Outcome<()> {
        self.request("PUT", &Self::path(TIMELINE, "/checkpoint"), None).map(|_| ())
    }

    pub fn branch(&self, ancestor: &str, id: &str) -> Outcome<()> {
        let body = json!({ "new_timeline_id": id, "ancestor_timeline_id": ancestor });
        self.request("POST", &format!("/v1/tenant/{TENANT}/timeline"), Some(body)).map(|_| ())
    }

    pub fn last_record(&self) -> Outcome<Lsn> {
        let info = self.request("GET", &Self::path(TIMELINE, ""), None)?;
        Ok(info["last_record_lsn"].as_str().ok_or("no last_record_lsn")?.parse()?)
    }

    pub fn wait_ingested(&self, lsn: Lsn, limit: Duration) -> Outcome<()> {
        wait_for("WAL to be ingested", limit, Duration::from_millis(20), || Ok((self.last_record()? >= lsn).then_some(())))
    }

    /// Where the timeline's WAL log is.
    pub fn wal_directory(data: &Path) -> PathBuf {
        data.join("tenants").join(TENANT).join("timelines").join(TIMELINE).join("wal")
    }
}
