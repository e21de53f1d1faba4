//! The replication commands: identify, slots, timeline history, and the WAL stream itself.
//!
//! In: a server. Out: WAL in the pieces the server sends, as slices of the read buffer. Invariants: pieces come in the order
//! of the stream and unchanged (whether they join without a gap is the receiver's business); status messages are
//! never torn, even if the future that sends one is dropped.
//! Source: PostgreSQL 15 documentation, section 55.4.

use super::connection::{COMMAND_LIMIT, Connection, Mode, ResultSet};
use super::connstr::ConnStr;
use super::error::ReplicationError;
use super::message::{self, StandbyStatus, StreamMessage};
use crate::io_abstraction::{Env, Mono, Wall};
use crate::types::Lsn;
use bytes::{BufMut as _, Bytes};
use std::time::Duration;

/// Read at a time from a stream: several of the server's pieces of 128 KiB.
const STREAM_READ_BYTES: usize = 1 << 20;
/// Silence after which a stream counts as dead. A stock server speaks every 30 s at the latest, and is asked at half of it.
pub const DEFAULT_SILENCE_LIMIT: Duration = Duration::from_secs(60);

const START: &str = "START_REPLICATION";

/// Answer of IDENTIFY_SYSTEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_id: u64,
    /// The server's current timeline.
    pub tli: u32,
    /// End of the WAL that is flushed there.
    pub flush_lsn: Lsn,
}

/// A physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// WAL from here on is kept; `None` if the slot reserves nothing yet.
    pub restart_lsn: Option<Lsn>,
    pub restart_tli: Option<u32>,
}

/// A connection to a walsender.
pub struct ReplicationClient {
    connection: Connection,
}

impl ReplicationClient {
    pub async fn connect(env: &Env, connstr: &ConnStr) -> Result<ReplicationClient, ReplicationError> {
        Ok(ReplicationClient { connection: Connection::connect(env, connstr, Mode::Replication).await? })
    }

    /// Major version of the server, 0 if it did not say.
    pub fn server_major(&self) -> u32 {
        self.connection.server_major()
    }

    /// Address for messages.
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        const COMMAND: &str = "IDENTIFY_SYSTEM";
        let set = self.command(COMMAND).await?;
        let identity = set.rows.first().and_then(|row| {
            Some(SystemIdentity { system_id: parse(row.first())?, tli: parse(row.get(1))?, flush_lsn: parse(row.get(2))? })
        });
        identity.ok_or_else(|| self.connection.protocol(COMMAND, "the row does not hold system id, timeline and position"))
    }

    /// Name and content of a timeline's history file. The first timeline has none: the server refuses.
    pub async fn timeline_history(&mut self, tli: u32) -> Result<(String, Bytes), ReplicationError> {
        let command = format!("TIMELINE_HISTORY {tli}");
        let set = self.command(&command).await?;
        let file = set.rows.first().and_then(|row| Some((text(row.first())?.to_string(), row.get(1)?.clone()?)));
        file.ok_or_else(|| self.connection.protocol(&command, "the row does not hold file name and content"))
    }

    /// Creates a physical slot; one of this name that exists is fine. With `reserve` it keeps WAL from now on.
    pub async fn create_physical_slot(&mut self, name: &str, reserve: bool) -> Result<(), ReplicationError> {
        let options = match (reserve, self.server_major()) {
            (false, _) => "",
            (true, 0..=14) => " RESERVE_WAL",
            (true, _) => " (RESERVE_WAL)",
        };
        match self.command(&format!("CREATE_REPLICATION_SLOT {} PHYSICAL{options}", quote_identifier(name))).await {
            Err(e) if e.sqlstate() == Some("42710") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// State of a slot; `None` if there is none of this name.
    ///
    /// Errors: `TooOld` on 14, where `postgres::sql` can ask the view `pg_replication_slots`.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotState>, ReplicationError> {
        const COMMAND: &str = "READ_REPLICATION_SLOT";
        if self.server_major() < 15 {
            return Err(ReplicationError::TooOld {
                server: self.server().to_string(),
                version: self.connection.parameter("server_version").unwrap_or("unknown").to_string(),
                command: COMMAND,
                instead: "ask the view pg_replication_slots",
            });
        }
        let set = self.command(&format!("{COMMAND} {}", quote_identifier(name))).await?;
        let row = set.rows.first().ok_or_else(|| self.connection.protocol(COMMAND, "no row"))?;
        let exists = text(row.first()).is_some();
        Ok(exists.then(|| SlotState { restart_lsn: parse(row.get(1)), restart_tli: parse(row.get(2)) }))
    }

    /// Drops a slot; one that is absent is fine.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), ReplicationError> {
        match self.command(&format!("DROP_REPLICATION_SLOT {} WAIT", quote_identifier(name))).await {
            Err(e) if e.sqlstate() == Some("42704") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Starts physical streaming without a slot, from `lsn` of timeline `tli`.
    pub async fn start_physical(mut self, lsn: Lsn, tli: u32) -> Result<CopyStream, ReplicationError> {
        let deadline = self.connection.deadline(COMMAND_LIMIT);
        self.connection.send_query(&format!("{START} PHYSICAL {lsn} TIMELINE {tli}"), deadline).await?;
        let mut stream = CopyStream {
            last_received: self.connection.clock().mono(),
            connection: self.connection,
            state: State::Streaming,
            end: None,
            status: StandbyStatus { write: lsn, ..StandbyStatus::default() },
            silence_limit: DEFAULT_SILENCE_LIMIT,
            asked_at: None,
        };
        let frame = stream.connection.read_frame(START, deadline).await?;
        match frame.tag {
            b'W' => stream.connection.set_read_bytes(STREAM_READ_BYTES),
            // The timeline ends exactly here: its result comes without a copy.
            b'T' => stream.state = State::Ending,
            other => return Err(stream.connection.unexpected(START, other)),
        }
        Ok(stream)
    }

    pub async fn close(self) {
        self.connection.close().await;
    }

    async fn command(&mut self, command: &str) -> Result<ResultSet, ReplicationError> {
        let sets = self.connection.simple_query(command, COMMAND_LIMIT).await?;
        Ok(sets.into_iter().next().unwrap_or_default())
    }
}

/// What a stream gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// WAL bytes from `start` on; `wal_end` is the end of WAL at the server.
    XLogData {
        start: Lsn,
        wal_end: Lsn,
        data: Bytes,
    },
    Keepalive {
        wal_end: Lsn,
        reply_requested: bool,
    },
    /// The timeline ended at `switch_point`; the next one is `next_tli`. Later calls give the same again.
    Ended {
        next_tli: u32,
        switch_point: Lsn,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// CopyDone came (or there was no copy); the result with the next timeline follows.
    Ending,
    Ended,
}

/// A running WAL stream. One task reads and reports; every method may be dropped at an await without harm.
pub struct CopyStream {
    connection: Connection,
    state: State,
    end: Option<(u32, Lsn)>,
    status: StandbyStatus,
    last_received: Mono,
    silence_limit: Duration,
    /// When the server was asked for a sign of life, after half of the silence limit.
    asked_at: Option<Mono>,
}

impl CopyStream {
    /// Waits for the next event.
    ///
    /// After half of the silence limit without a byte the server is asked for a reply, after all of it the stream fails
    /// with `Timeout`, however often this future was dropped and made anew in between.
    pub async fn next(&mut self) -> Result<CopyEvent, ReplicationError> {
        loop {
            if let Some(event) = self.take_event()? {
                return Ok(event);
            }
            let deadline = self.connection.deadline(self.silence_limit);
            self.connection.flush_output(START, deadline).await?;
            // Counted from the question: a caller that was away for long still gives the server time to answer.
            let until = self.asked_at.unwrap_or(self.last_received).after(self.silence_limit / 2);
            match self.connection.fill(START, until).await {
                Ok(()) => self.heard(),
                Err(ReplicationError::Timeout { .. }) if self.asked_at.is_none() => {
                    self.asked_at = Some(self.connection.clock().mono());
                    self.put_status(true);
                }
                Err(ReplicationError::Timeout { server, command, .. }) => {
                    return Err(ReplicationError::Timeout { server, command, after: self.silence_limit });
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The next event that is here already, in the buffer or in the socket; `None` instead of waiting. A caller that gathers
    /// a batch bounds it by bytes: a busy server can keep this going for ever.
    pub fn try_next_buffered(&mut self) -> Result<Option<CopyEvent>, ReplicationError> {
        loop {
            if let Some(event) = self.take_event()? {
                return Ok(Some(event));
            }
            if !self.connection.fill_now(START)? {
                return Ok(None);
            }
            self.heard();
        }
    }

    /// Reports positions to the server. `now` goes into the message as the time of the report.
    pub async fn send_status(&mut self, status: StandbyStatus, now: Wall, reply_wanted: bool) -> Result<(), ReplicationError> {
        self.status = status;
        if self.state == State::Streaming {
            message::put_status(&mut self.connection.output, status, now.postgres_micros(), reply_wanted);
        }
        let deadline = self.connection.deadline(self.silence_limit);
        self.connection.flush_output("a status report", deadline).await
    }

    /// Sets after how long a silence the stream fails. At least a second.
    pub fn set_silence_limit(&mut self, limit: Duration) {
        self.silence_limit = limit.max(Duration::from_secs(1));
    }

    /// When the last byte came.
    pub fn last_received(&self) -> Mono {
        self.last_received
    }

    /// Address for messages.
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    /// After `Ended`: the connection, ready for the next timeline. Before: `None`, and the connection is closed.
    pub fn into_client(self) -> Option<ReplicationClient> {
        (self.state == State::Ended).then_some(ReplicationClient { connection: self.connection })
    }

    /// Leaves without waiting for the server.
    pub async fn close(self) {
        self.connection.close().await;
    }

    fn heard(&mut self) {
        self.last_received = self.connection.clock().mono();
        self.asked_at = None;
    }

    fn put_status(&mut self, reply_wanted: bool) {
        let now = self.connection.clock().wall().postgres_micros();
        message::put_status(&mut self.connection.output, self.status, now, reply_wanted);
    }

    /// Turns buffered frames into events and follows the end of the copy.
    fn take_event(&mut self) -> Result<Option<CopyEvent>, ReplicationError> {
        if self.state == State::Ended {
            return self.ended().map(Some);
        }
        while let Some(frame) = self.connection.take_frame(START)? {
            match (self.state, frame.tag) {
                (State::Streaming, b'd') => {
                    let parsed = message::parse_stream_message(frame.body).map_err(|e| self.connection.damaged(START, e))?;
                    return Ok(Some(match parsed {
                        StreamMessage::XLogData { start, wal_end, data } => CopyEvent::XLogData { start, wal_end, data },
                        StreamMessage::Keepalive { wal_end, reply_requested } => CopyEvent::Keepalive { wal_end, reply_requested },
                    }));
                }
                (State::Streaming, b'c') => {
                    self.state = State::Ending;
                    self.connection.output.put_slice(b"c\0\0\0\x04");
                }
                // A walsender that ends with its server completes the command in the middle of the copy.
                (State::Streaming, b'C') => return Err(ReplicationError::SourceStopped { server: self.server().to_string() }),
                (_, b'E') => return Err(self.connection.refused(START, message::parse_server_error(&frame.body))),
                (State::Ending, b'T' | b'C' | b'd') => {}
                (State::Ending, b'D') => {
                    let row = message::parse_data_row(frame.body).map_err(|e| self.connection.damaged(START, e))?;
                    self.end = parse(row.first()).zip(parse(row.get(1)));
                }
                (State::Ending, b'Z') => {
                    self.state = State::Ended;
                    self.connection.set_idle();
                    return self.ended().map(Some);
                }
                (_, other) => return Err(self.connection.unexpected(START, other)),
            }
        }
        Ok(None)
    }

    fn ended(&self) -> Result<CopyEvent, ReplicationError> {
        match self.end {
            Some((next_tli, switch_point)) => Ok(CopyEvent::Ended { next_tli, switch_point }),
            None => Err(ReplicationError::SourceStopped { server: self.server().to_string() }),
        }
    }
}

/// A name inside double quotes, as the replication grammar and SQL read it.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(value: Option<&Option<Bytes>>) -> Option<&str> {
    std::str::from_utf8(value?.as_ref()?).ok()
}

fn parse<T: std::str::FromStr>(value: Option<&Option<Bytes>>) -> Option<T> {
    text(value)?.parse().ok()
}
