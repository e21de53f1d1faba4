//! A `pal serve` process, its management API, and exports of its timelines.

use super::cluster::Cluster;
use super::{Place, output, wait_for};
use palimpsest::types::Lsn;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const TENANT: &str = "11111111111111111111111111111111";
pub const TIMELINE: &str = "22222222222222222222222222222222";

/// The process is killed when dropped.
pub struct Pal<'a> {
    pub place: &'a Place,
    pub data: PathBuf,
    settings: Vec<String>,
    child: Option<Child>,
    http: String,
    pub pages: String,
    pub starts: u32,
}

impl<'a> Pal<'a> {
    pub fn start(place: &'a Place, settings: &[&str]) -> Pal<'a> {
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut pal = Pal { place, data: place.path("pal"), settings, child: None, http: String::new(), pages: String::new(), starts: 0 };
        pal.run();
        pal
    }

    /// Replaces settings; takes effect at the next start.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(ToString::to_string).collect();
    }

    /// Starts the process and waits until it is ready.
    pub fn run(&mut self) {
        assert!(self.child.is_none());
        self.starts += 1;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pal"));
        command.arg("serve").arg("-D").arg(&self.data);
        command.args(["-c", "listen_http_addr='127.0.0.1:0'", "-c", "listen_pg_addr='127.0.0.1:0'"]);
        self.settings.iter().for_each(|setting| _ = command.args(["-c", setting]));
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let &["ready:", "http", http, "pages", pages] = words.as_slice() else {
            let ended = child.wait();
            panic!("pal serve said \"{line}\" and ended with {ended:?}:\n{}", self.log());
        };
        (self.http, self.pages) = (http.to_string(), pages.to_string());
        self.child = Some(child);
    }

    fn log_path(&self) -> PathBuf {
        self.place.path("pal.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Ends the process as a power cut of the program would: SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = wait_for("pal stops on SIGTERM", Duration::from_secs(60), || child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// One request; status and body.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map_or_else(String::new, ToString::to_string);
        self.request_text(method, path, &text)
    }

    pub fn request_text(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: pal\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: \"{answer}\""));
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.to_string())))
    }

    /// A request that must succeed.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.request(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub fn timeline_path(timeline: &str) -> String {
        format!("/v1/tenant/{TENANT}/timeline/{timeline}")
    }

    pub fn timeline(&self, timeline: &str) -> Value {
        self.ask("GET", &Pal::timeline_path(timeline), None)
    }

    /// An LSN of the timeline, by the field's name.
    pub fn lsn(&self, timeline: &str, field: &str) -> Lsn {
        let info = self.timeline(timeline);
        info[field].as_str().unwrap_or_else(|| panic!("{field} in {info}")).parse().unwrap()
    }

    pub fn receiver_status(&self) -> String {
        self.timeline(TIMELINE)["walreceiver_status"].as_str().unwrap().to_string()
    }

    /// Makes the tenant, and its timeline from a stopped cluster.
    pub fn import(&self, cluster: &Cluster<'_>) {
        self.ask("POST", "/v1/tenant", Some(&json!({ "new_tenant_id": TENANT })));
        let path = format!("{}/import", Pal::timeline_path(TIMELINE));
        self.ask("PUT", &path, Some(&json!({ "directory": cluster.data })));
    }

    pub fn follow(&self, connstr: &str) {
        self.follow_as(TIMELINE, connstr);
    }

    pub fn follow_as(&self, timeline: &str, connstr: &str) {
        let path = format!("{}/wal_source", Pal::timeline_path(timeline));
        self.ask("PUT", &path, Some(&json!({ "connstr": connstr })));
    }

    #[track_caller]
    pub fn wait_lsn(&self, timeline: &str, lsn: Lsn) {
        wait_for(&format!("WAL up to {lsn}"), Duration::from_secs(60), || (self.lsn(timeline, "last_record_lsn") >= lsn).then_some(()));
    }

    #[track_caller]
    pub fn wait_receiver(&self, words: &str) -> String {
        let mut last = String::new();
        let give_up = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.receiver_status();
            if status.contains(words) {
                return status;
            }
            assert!(std::time::Instant::now() < give_up, "the receiver should say \"{words}\" but says \"{status}\"; before: \"{last}\"");
            last = status;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The program with a client command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pal"));
        command.args(args).env("PAL_ENDPOINT", format!("http://{}", self.http)).env("PAL_PAGE_SERVICE", &self.pages);
        command
    }

    /// A full backup at `lsn`; an error with what the program said.
    pub fn try_export(&self, timeline: &str, lsn: Option<Lsn>, form: &str, to: &Path) -> Result<(), String> {
        let mut command = self.command(&["export", "--tenant", TENANT, "--timeline", timeline, "--as", form, "--no-sync"]);
        if let Some(lsn) = lsn {
            command.args(["--lsn", &lsn.to_string()]);
        }
        let out = output(command.arg("-o").arg(to));
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
    }

    #[track_caller]
    pub fn export(&self, timeline: &str, lsn: Option<Lsn>, form: &str, to: &Path) {
        self.try_export(timeline, lsn, form, to).unwrap_or_else(|e| panic!("export: {e}"));
    }
}

impl Drop for Pal<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("log of pal:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
