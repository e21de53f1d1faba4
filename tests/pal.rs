//! The real executable: single commands, and a server that runs while a test talks to it.

use crate::support::Place;
use palimpsest::io_abstraction::disk::read_file;
use palimpsest::io_abstraction::process::{Child, Command, Signal};
use palimpsest::io_abstraction::{Address, ClockExt as _};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Generous: a busy machine must not fail a test.
const LIMIT: Duration = Duration::from_secs(120);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output of a command that must have succeeded.
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out.trim_end()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pal"))
}

/// The command with what npm and scratch directories need of the environment.
pub fn command(place: &Place, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut env: Vec<(String, String)> = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    env.extend(place.env.process.variable("HOME").map(|home| ("HOME".to_string(), home)));
    Command { program: program(), args: args.iter().map(|a| a.to_string()).collect(), env, ..Command::default() }
}

/// Runs a command to its end.
pub async fn pal(place: &Place, args: &[&str], variables: &[(&str, &str)]) -> Said {
    let run = place.env.process.run(command(place, args, variables));
    let output = place.env.clock.timeout(LIMIT, run).await.expect("the command ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.code, out: text(output.stdout), err: text(output.stderr) }
}

/// `pal serve` on free ports.
pub struct PalServer {
    child: Box<dyn Child>,
    pub http: String,
    pub pages: String,
}

impl PalServer {
    pub async fn start(place: &Place, data_dir: &str, settings: &[&str]) -> PalServer {
        let directory = place.path(data_dir).display().to_string();
        let mut args = vec!["serve", "-D", &directory, "-c", "listen_http_addr = '127.0.0.1:0'", "-c", "listen_pg_addr = '127.0.0.1:0'"];
        settings.iter().for_each(|setting| args.extend(["-c", setting]));
        let log = place.path(&format!("{data_dir}.log"));
        // A log of an earlier life would show its addresses.
        let _ = place.env.disk.unlink(&log);
        let command = Command { log_file: Some(log.clone()), ..command(place, &args, &[]) };
        let child = place.env.process.spawn(command).await.unwrap();
        let give_up = place.env.clock.mono().after(LIMIT);
        let (http, pages) = loop {
            if let Some(addresses) = addresses(place, &log) {
                break addresses;
            }
            assert!(place.env.clock.mono() < give_up, "the server does not get ready: {:?}", read_file(&*place.env.disk, &log));
            place.env.clock.sleep(Duration::from_millis(20)).await;
        };
        PalServer { child, http, pages }
    }

    /// Runs a command against this server.
    pub async fn pal(&self, place: &Place, args: &[&str]) -> Said {
        pal(place, args, &[("PAL_ENDPOINT", &self.http), ("PAL_PAGE_SERVICE", &self.pages)]).await
    }

    pub fn http_address(&self) -> Address {
        address(&self.http)
    }

    pub fn pages_address(&self) -> Address {
        address(&self.pages)
    }

    /// Asks it to stop and gives its exit code.
    pub async fn stop(mut self, place: &Place) -> Option<i32> {
        self.child.signal(Signal::Terminate).unwrap();
        place.env.clock.timeout(LIMIT, self.child.wait()).await.expect("the server stops").unwrap()
    }
}

fn addresses(place: &Place, log: &Path) -> Option<(String, String)> {
    let text = String::from_utf8(read_file(&*place.env.disk, log).ok()?).ok()?;
    let line = text.lines().find(|line| line.starts_with("ready: "))?;
    let mut words = line.split(' ');
    let mut after = |name| words.by_ref().skip_while(|word| *word != name).nth(1).map(str::to_string);
    Some((after("http")?, after("pages")?))
}

fn address(text: &str) -> Address {
    let (host, port) = text.rsplit_once(':').unwrap();
    Address::tcp(host, port.parse().unwrap())
}
