//! A model of a stock primary's walsender: physical replication, slots, and the one SQL function that moves a slot.
//!
//! Streams are cut anywhere, pause now and then, ask for replies, and end with an error when the harness resets them. Every
//! status message goes to the durability oracle.

use super::wire::{self, Output};
use super::{SimPostgres, Slot};
use crate::event;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{Address, BoxStream, Clock, ClockExt as _, DetRng, Env};
use palimpsest::types::Lsn;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};

/// Port of the primary.
pub const PORT: u16 = 5432;

/// Bytes in one message of a stock server (`MAX_SEND_SIZE`). Source: PostgreSQL 15 `walsender.c`.
const CHUNK_BYTES_STOCK: u64 = 128 << 10;

/// How streams behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalsenderKnobs {
    /// Most bytes in one message.
    pub chunk_bytes_max: u32,
    /// Chance of a pause before a message, in parts per million, and its longest time.
    pub stall_ppm: u32,
    pub stall_ms_max: u64,
    pub keepalive_ms: u64,
    /// Chance before a message that the server ends the connection.
    pub reset_ppm: u32,
    /// Chance before a message that some of what was sent is sent again.
    pub repeat_ppm: u32,
}

/// Most bytes that are sent again.
const REPEATED_MAX: u64 = 10_000;

#[derive(Clone)]
struct Server {
    env: Env,
    postgres: SimPostgres,
    knobs: WalsenderKnobs,
    system_id: u64,
    /// Number of the connection.
    number: u64,
    /// The machine at its other end.
    standby: String,
}

/// Serves connections until the host dies.
pub async fn serve(env: Env, postgres: SimPostgres, knobs: WalsenderKnobs) {
    let system_id = postgres.primary.lock().generator.writer.identity().system_id;
    let server = Server { env: env.clone(), postgres, knobs, system_id, number: 0, standby: String::new() };
    let mut listener = env.net.listen(&Address::tcp("0.0.0.0", PORT)).await.expect("the primary's port is free");
    let mut accepted = 0u64;
    while let Ok((stream, peer)) = listener.accept().await {
        accepted += 1;
        // Its port is another one for each connection.
        let standby = peer.rsplit_once(':').map_or(peer.as_str(), |(machine, _)| machine).to_string();
        let server = Server { number: accepted, standby, ..server.clone() };
        let rng = env.rng.stream(&format!("walsender-{accepted}"));
        env.tasks.spawn("walsender", async move {
            // A connection that ends in an error has ended; the standby comes back.
            let _ = server.connection(stream, rng).await;
        });
    }
}

impl Server {
    async fn connection(self, mut stream: BoxStream, mut rng: DetRng) -> io::Result<()> {
        let parameters = wire::startup(&mut stream).await?;
        let replication = parameters.iter().any(|(name, value)| name == "replication" && value != "false");
        let mut out = Output::default();
        out.message(b'R', |body| body.extend_from_slice(&0u32.to_be_bytes()));
        for (name, value) in [
            ("server_version", "15.18"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("integer_datetimes", "on"),
            ("in_hot_standby", "off"),
        ] {
            out.parameter(name, value);
        }
        out.message(b'K', |body| body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2])).ready().send(&mut stream).await?;
        loop {
            let (tag, body) = wire::message(&mut stream).await?;
            match tag {
                b'Q' => {
                    let text = String::from_utf8_lossy(&body).trim_end_matches('\0').trim().trim_end_matches(';').to_string();
                    let mut out = Output::default();
                    match self.command(&text, replication, &mut out) {
                        Action::Answered => out.ready().send(&mut stream).await?,
                        Action::Stream(start, number) => {
                            out.message(b'W', |body| body.extend_from_slice(&[0, 0, 0])).send(&mut stream).await?;
                            return self.stream(stream, (start, number), &mut rng).await;
                        }
                    }
                }
                b'X' => return Ok(()),
                _ => {
                    let mut out = Output::default();
                    out.error("0A000", "the simulated server speaks the simple protocol only").ready().send(&mut stream).await?;
                }
            }
        }
    }

    /// Answers a command, or begins to stream.
    fn command(&self, text: &str, replication: bool, out: &mut Output) -> Action {
        let words = split_words(text);
        let upper: Vec<String> = words.iter().map(|w| w.to_uppercase()).collect();
        let first = upper.first().map_or("", String::as_str);
        match first {
            "IDENTIFY_SYSTEM" if replication => self.identify(out),
            "CREATE_REPLICATION_SLOT" if replication => self.create_slot(&words, &upper, out),
            "READ_REPLICATION_SLOT" if replication => self.read_slot(&words, out),
            "DROP_REPLICATION_SLOT" if replication => self.drop_slot(words.get(1).map_or("", String::as_str), "DROP_REPLICATION_SLOT", out),
            "START_REPLICATION" if replication => return self.start(&words, &upper, out),
            "TIMELINE_HISTORY" if replication => {
                let tli: u32 = words.get(1).and_then(|w| w.parse().ok()).unwrap_or(0);
                out.error("58P01", &format!("could not open file \"pg_wal/{tli:08X}.history\": No such file or directory"));
            }
            "SELECT" => self.select(text, out),
            "SET" | "BEGIN" | "COMMIT" => _ = out.complete(first),
            _ => _ = out.error("42601", &format!("the simulated server does not know this statement: {text}")),
        }
        Action::Answered
    }

    fn identify(&self, out: &mut Output) {
        let columns = [
            ("systemid", Some(self.system_id.to_string())),
            ("timeline", Some("1".to_string())),
            ("xlogpos", Some(self.postgres.end().to_string())),
            ("dbname", None),
        ];
        out.row(&columns, "IDENTIFY_SYSTEM");
    }

    fn create_slot(&self, words: &[String], upper: &[String], out: &mut Output) {
        let name = words.get(1).cloned().unwrap_or_default();
        if !upper.iter().any(|w| w == "PHYSICAL") {
            out.error("0A000", "the simulated server has physical slots only");
            return;
        }
        let reserve = upper.iter().any(|w| w.contains("RESERVE_WAL"));
        match self.add_slot(&name, reserve) {
            Err(()) => _ = out.error("42710", &format!("replication slot \"{name}\" already exists")),
            Ok(()) => {
                let columns = [
                    ("slot_name", Some(name)),
                    ("consistent_point", Some("0/0".to_string())),
                    ("snapshot_name", None),
                    ("output_plugin", None),
                ];
                out.row(&columns, "CREATE_REPLICATION_SLOT");
            }
        }
    }

    /// Errors: there is one of this name.
    fn add_slot(&self, name: &str, reserve: bool) -> Result<(), ()> {
        let mut primary = self.postgres.primary.lock();
        if primary.slots.contains_key(name) {
            return Err(());
        }
        // A slot that reserves at once keeps WAL from the last checkpoint's redo position on.
        let redo = primary.generator.redo.max(primary.kept_from());
        primary.slots.insert(name.to_string(), Slot { restart_lsn: reserve.then_some(redo) });
        Ok(())
    }

    fn read_slot(&self, words: &[String], out: &mut Output) {
        let slot = words.get(1).and_then(|name| self.postgres.primary.lock().slots.get(name).copied());
        let restart = slot.and_then(|s| s.restart_lsn);
        let columns = [
            ("slot_type", slot.map(|_| "physical".to_string())),
            ("restart_lsn", restart.map(|lsn| lsn.to_string())),
            ("restart_tli", restart.map(|_| "1".to_string())),
        ];
        out.row(&columns, "READ_REPLICATION_SLOT");
    }

    fn drop_slot(&self, name: &str, complete: &str, out: &mut Output) {
        match self.postgres.primary.lock().slots.remove(name) {
            Some(_) => _ = out.complete(complete),
            None => _ = out.error("42704", &format!("replication slot \"{name}\" does not exist")),
        }
    }

    fn start(&self, words: &[String], upper: &[String], out: &mut Output) -> Action {
        let position = upper.iter().position(|w| w == "PHYSICAL").and_then(|at| words.get(at + 1)).and_then(|w| w.parse::<Lsn>().ok());
        let Some(start) = position else {
            out.error("42601", "syntax error in START_REPLICATION");
            return Action::Answered;
        };
        let (number, kept) = {
            let primary = self.postgres.primary.lock();
            let number =
                self.postgres.durability.on_start((&self.standby, self.number), start, |lsn| primary.generator.last_record_end(lsn));
            (number, primary.kept_from())
        };
        let end = self.postgres.end();
        event!(self.host_trace(), "walsender", "op=start lsn={start} kept={kept} end={end}");
        if start < kept {
            out.error("58P01", &format!("requested WAL segment {start} has already been removed"));
        } else if start > end {
            out.error("55000", &format!("requested starting point {start} is ahead of the WAL flush position of this server {end}"));
        } else {
            return Action::Stream(start, number);
        }
        Action::Answered
    }

    fn select(&self, text: &str, out: &mut Output) {
        let quoted: Vec<&str> = text.split('\'').skip(1).step_by(2).collect();
        let (name, second) = (quoted.first().copied().unwrap_or(""), quoted.get(1).copied());
        if text.contains("pg_replication_slot_advance") {
            match self.advance(name, second.and_then(|t| t.parse().ok())) {
                Ok(end) => _ = out.row(&[("slot_name", Some(name.to_string())), ("end_lsn", Some(end.to_string()))], "SELECT 1"),
                Err((code, message)) => _ = out.error(code, &message),
            }
        } else if text.contains("pg_create_physical_replication_slot") {
            let reserve = text.to_lowercase().contains("true");
            match self.add_slot(name, reserve) {
                Ok(()) => _ = out.row(&[("pg_create_physical_replication_slot", Some(format!("({name},)")))], "SELECT 1"),
                Err(()) => _ = out.error("42710", &format!("replication slot \"{name}\" already exists")),
            }
        } else if text.contains("pg_drop_replication_slot") {
            self.drop_slot(name, "SELECT 1", out);
        } else {
            out.error("0A000", &format!("the simulated server does not know this query: {text}"));
        }
    }

    /// Source: PostgreSQL 15 `slotfuncs.c`: a physical slot moves forward only, and at most to the end of flushed WAL.
    fn advance(&self, name: &str, to: Option<Lsn>) -> Result<Lsn, (&'static str, String)> {
        let to = to.filter(|lsn| lsn.is_valid()).ok_or(("22023", "invalid target WAL LSN".to_string()))?;
        let to = to.min(self.postgres.end());
        let mut primary = self.postgres.primary.lock();
        let missing = || ("42704", format!("replication slot \"{name}\" does not exist"));
        let slot = primary.slots.get_mut(name).ok_or_else(missing)?;
        let restart = slot.restart_lsn.ok_or(("55000", format!("replication slot \"{name}\" cannot be advanced")))?;
        if to < restart {
            return Err(("55000", format!("cannot advance replication slot to {to}, minimum is {restart}")));
        }
        slot.restart_lsn = Some(to);
        drop(primary);
        event!(self.host_trace(), "walsender", "op=advance slot={name} lsn={to}");
        Ok(to)
    }

    fn host_trace(&self) -> ProbeTrace<'_> {
        ProbeTrace(&self.env)
    }

    async fn stream(&self, stream: BoxStream, (start, number): (Lsn, u64), rng: &mut DetRng) -> io::Result<()> {
        let (reader, writer) = tokio::io::split(stream);
        let sent = Arc::new(parking_lot::Mutex::new(start));
        let send = self.send_wal(writer, start, sent.clone(), rng);
        let receive = self.receive_status(reader, number, sent);
        futures::pin_mut!(send, receive);
        // The first error ends both.
        futures::future::try_select(send, receive).await.map(|_| ()).map_err(|either| either.factor_first().0)
    }

    async fn send_wal(
        &self,
        mut writer: WriteHalf<BoxStream>,
        start: Lsn,
        sent: Arc<parking_lot::Mutex<Lsn>>,
        rng: &mut DetRng,
    ) -> io::Result<()> {
        let clock: &Arc<dyn Clock> = &self.env.clock;
        let mut flushed = self.postgres.subscribe();
        let mut position = start;
        loop {
            let end = *flushed.borrow_and_update();
            let mut out = Output::default();
            if position < end {
                let calm = self.postgres.is_calm();
                if !calm && below(rng, 1_000_000) < u64::from(self.knobs.stall_ppm) {
                    clock.sleep(Duration::from_millis(below(rng, self.knobs.stall_ms_max + 1))).await;
                }
                let mut happens = |ppm: u32| !calm && below(rng, 1_000_000) < u64::from(ppm);
                if happens(self.knobs.reset_ppm) {
                    event!(self.host_trace(), "walsender", "op=reset at={position}");
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                if happens(self.knobs.repeat_ppm) {
                    position = start.max(position.saturating_sub(below(rng, REPEATED_MAX)));
                    event!(self.host_trace(), "walsender", "op=repeat from={position}");
                }
                let chunk = if calm { CHUNK_BYTES_STOCK } else { u64::from(self.knobs.chunk_bytes_max.max(1)) };
                let upto = Lsn(position.0 + 1 + below(rng, end.distance_from(position).min(chunk)));
                let bytes = self.postgres.primary.lock().generator.writer.bytes(position..upto).map(<[u8]>::to_vec);
                let Some(bytes) = bytes else {
                    // A slot was moved past a stream that lags behind, as it happens on a real server.
                    out.error("58P01", "requested WAL segment has already been removed").send(&mut writer).await?;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                };
                out.message(b'd', |body| {
                    body.push(b'w');
                    body.extend_from_slice(&position.0.to_be_bytes());
                    body.extend_from_slice(&end.0.to_be_bytes());
                    body.extend_from_slice(&self.env.clock.wall().postgres_micros().to_be_bytes());
                    body.extend_from_slice(&bytes);
                });
                // Counted before it is sent: the reply must not overtake the count.
                {
                    let mut sent = sent.lock();
                    *sent = upto.max(*sent);
                }
                self.postgres.durability.on_sent(upto);
                out.send(&mut writer).await?;
                position = upto;
                continue;
            }
            let wait = Duration::from_millis(self.knobs.keepalive_ms.max(1));
            match clock.timeout(wait, flushed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(_) => {
                    let reply = u8::from(below(rng, 2) == 0);
                    out.message(b'd', |body| {
                        body.push(b'k');
                        body.extend_from_slice(&end.0.to_be_bytes());
                        body.extend_from_slice(&self.env.clock.wall().postgres_micros().to_be_bytes());
                        body.push(reply);
                    });
                    out.send(&mut writer).await?;
                }
            }
        }
    }

    async fn receive_status(&self, mut reader: ReadHalf<BoxStream>, number: u64, sent: Arc<parking_lot::Mutex<Lsn>>) -> io::Result<()> {
        loop {
            let (tag, body) = wire::message(&mut reader).await?;
            match (tag, body.first()) {
                (b'd', Some(b'r')) if body.len() == 34 => {
                    let word = |at: usize| Lsn(u64::from_be_bytes(body[at..at + 8].try_into().unwrap_or_default()));
                    let (write, flush, apply) = (word(1), word(9), word(17));
                    event!(self.host_trace(), "walsender", "op=status write={write} flush={flush} apply={apply}");
                    let sent = *sent.lock();
                    self.postgres
                        .durability
                        .on_status((&self.standby, number), sent, (write, flush, apply), |from| self.postgres.zeros_end(from));
                }
                (b'd', Some(b'h')) => {}
                (b'c' | b'X', _) => {
                    // The standby leaves; what it still wrote is read and forgotten.
                    let mut rest = Vec::new();
                    reader.read_to_end(&mut rest).await?;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Lets the walsender write into the trace through its host's probe.
struct ProbeTrace<'a>(&'a Env);

impl ProbeTrace<'_> {
    fn event(&self, kind: &'static str, detail: std::fmt::Arguments<'_>) {
        self.0.probe.event(kind, &|| detail.to_string());
    }
}

enum Action {
    Answered,
    /// From a position, as the stream of this number.
    Stream(Lsn, u64),
}

/// Words of a command; a name in double quotes is one word without them.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
