//! Follows a primary: streams its WAL into the log, acknowledges what is durable, never mixes histories.
//!
//! Invariants
//! - RC-1: a position is reported as flushed only after the log made it durable.
//! - RC-2: WAL of another system, or bytes that differ from what was received, end the receiver; reads go on.

use super::log::{LogError, WalLog};
use crate::config::TenantConfig;
use crate::io_abstraction::{ClockExt as _, Env, Mono, rng};
use crate::replication::client::{CopyEvent, CopyStream, ReplicationClient};
use crate::replication::connstr::ConnStr;
use crate::replication::error::ReplicationError;
use crate::replication::message::StandbyStatus;
use crate::timeline::Timeline;
use crate::types::Lsn;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bytes gathered before a sync, when more is there already.
const GATHER_BYTES: usize = 4 << 20;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error(transparent)]
    Source(#[from] ReplicationError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "the server at {server} has system identifier {theirs}, this timeline follows {ours}: it is another cluster; set wal_source to the right one"
    )]
    ForeignSystem { server: String, ours: u64, theirs: u64 },
    #[error(
        "diverged: timeline {tli} of the server at {server} ended at {switch}, but WAL up to {ours} was received from it; branch at {switch} to follow the new history"
    )]
    Diverged { server: String, tli: u32, switch: Lsn, ours: Lsn },
    #[error(
        "diverged: the WAL of the server at {server} differs at {at} from what was received before, up to {ours}: it was restored from an older copy; branch at an LSN below {at} to follow the new history"
    )]
    DivergedBytes { server: String, at: Lsn, ours: Lsn },
    #[error(
        "the WAL of the server at {server} ends at {theirs}, but WAL up to {ours} was received: it lags behind, or it was restored from an older copy and has diverged"
    )]
    Behind { server: String, theirs: Lsn, ours: Lsn },
    #[error("damaged WAL was received: asking for it again from {from} on")]
    Damaged { from: Lsn },
    #[error("{behind} bytes behind the server at {server}, and nothing came for more than {limit:?}")]
    Lagging { server: String, behind: u64, limit: Duration },
    #[error("the server at {server} is on timeline {theirs}, which does not descend from {ours}")]
    Unrelated { server: String, ours: u32, theirs: u32 },
}

impl ReceiverError {
    /// No retry can mend it: somebody has to decide.
    fn is_final(&self) -> bool {
        match self {
            ReceiverError::ForeignSystem { .. } | ReceiverError::Diverged { .. } | ReceiverError::Unrelated { .. } => true,
            ReceiverError::DivergedBytes { .. } => true,
            ReceiverError::Source(_) | ReceiverError::Log(_) | ReceiverError::Behind { .. } => false,
            ReceiverError::Lagging { .. } | ReceiverError::Damaged { .. } => false,
        }
    }
}

/// Since when nothing came of a stream that is far behind its server, and where it stood then.
#[derive(Debug, Default)]
struct Lag(Option<(Mono, Lsn)>);

impl Lag {
    /// Takes a look; gives the bytes that it is behind if that has been so for too long.
    fn note(&mut self, now: Mono, (written, wal_end): (Lsn, Lsn), settings: &TenantConfig) -> Option<u64> {
        let behind = wal_end.0.saturating_sub(written.0);
        if behind <= settings.max_lsn_wal_lag.get() {
            self.0 = None;
            return None;
        }
        match self.0 {
            Some((since, stood)) if written <= stood => (now.since(since) > settings.lagging_wal_timeout).then_some(behind),
            _ => {
                self.0 = Some((now, written));
                None
            }
        }
    }
}

pub struct Receiver {
    pub env: Env,
    pub timeline: Arc<Timeline>,
    pub log: Arc<WalLog>,
    pub source: ConnStr,
}

impl Receiver {
    fn status(&self, text: String) {
        *self.timeline.receiver_status.lock() = text;
    }

    /// Streams until cancelled, connecting again after errors with growing pauses.
    pub async fn run(self, cancel: CancellationToken) {
        let mut jitter = self.env.rng.stream(&format!("receiver-backoff {}", self.timeline.identity.timeline));
        let mut pause = BACKOFF_FIRST;
        let work = async {
            loop {
                let before = self.log.durable_lsn();
                let error = tokio::select! {
                    biased;
                    () = self.log.distrusted() => ReceiverError::Damaged { from: self.log.written_lsn() },
                    ended = self.stream() => match ended {
                        Ok(never) => match never {},
                        Err(error) => error,
                    },
                };
                self.env.probe.event("receiver", &|| format!("timeline={} error={error}", self.timeline.identity.timeline));
                if error.is_final() {
                    tracing::error!(timeline = %self.timeline.identity.timeline, %error, "the WAL receiver stops");
                    self.status(format!("Stopped: {error}"));
                    return;
                }
                tracing::warn!(timeline = %self.timeline.identity.timeline, %error, "WAL stream ended, will connect again");
                self.status(format!("Not active: {error}"));
                if self.log.durable_lsn() > before {
                    pause = BACKOFF_FIRST;
                }
                let millis = pause.as_millis() as u64;
                self.env.clock.sleep(Duration::from_millis(millis / 2 + rng::below(&mut jitter, millis / 2 + 1))).await;
                pause = (pause * 3 / 2).min(BACKOFF_MAX);
            }
        };
        if cancel.run_until_cancelled(work).await.is_none() {
            self.status("Not active".to_string());
        }
    }

    /// After a failed sync: the log gives up what is not durable before anything is received again.
    async fn heal(&self) -> Result<(), ReceiverError> {
        let log = self.log.clone();
        Ok(self.env.tasks.blocking("heal-wal-log", move || log.heal()).await?)
    }

    /// One connection: from identifying the server to the error that ends it.
    async fn stream(&self) -> Result<std::convert::Infallible, ReceiverError> {
        self.heal().await?;
        self.status(format!("Connecting to {}", self.source));
        let mut source = self.source.clone();
        source.connect_timeout = source.connect_timeout.min(self.timeline.settings().walreceiver_connect_timeout);
        let mut client = ReplicationClient::connect(&self.env, &source).await?;
        loop {
            let tli = self.check_history(&mut client).await?;
            let from = self.log.resume_lsn();
            let mut stream = client.start_physical(from, tli).await?;
            let trusting = crate::planted!(self.env, "no-silence-limit");
            stream.set_silence_limit(if trusting { Duration::MAX / 4 } else { self.timeline.shared.config.walreceiver_idle_timeout });
            self.status(format!("Streaming from {}", self.source));
            self.env.probe.mark("receiver-streaming");
            let (next_tli, switch) = self.copy(&mut stream).await?;
            self.follow_switch(stream.server(), tli, next_tli, switch).await?;
            client = stream.into_client().ok_or_else(|| ReplicationError::SourceStopped { server: self.source.to_string() })?;
        }
    }

    /// Makes sure that the server continues our history; gives the TLI to ask for.
    async fn check_history(&self, client: &mut ReplicationClient) -> Result<u32, ReceiverError> {
        let system = client.identify_system().await?;
        let identity = &self.timeline.identity;
        let server = client.server().to_string();
        if system.system_id != identity.system_identifier {
            return Err(ReceiverError::ForeignSystem { server, ours: identity.system_identifier, theirs: system.system_id });
        }
        let ours = self.timeline.pg_timeline().tli;
        if system.tli == ours {
            let (theirs, ours_end) = (system.flush_lsn, self.log.written_lsn());
            return if theirs < ours_end { Err(ReceiverError::Behind { server, theirs, ours: ours_end }) } else { Ok(ours) };
        }
        let unrelated = || ReceiverError::Unrelated { server: server.clone(), ours, theirs: system.tli };
        if system.tli < ours {
            return Err(unrelated());
        }
        let (_, history) = client.timeline_history(system.tli).await?;
        let switch = parse_history(&history).into_iter().find(|(tli, _)| *tli == ours).ok_or_else(unrelated)?.1;
        self.fit_to_switch(&server, ours, switch).await?;
        Ok(ours)
    }

    /// A TLI that ended at or behind our last whole record is our history; what we have of the next record is not.
    async fn fit_to_switch(&self, server: &str, tli: u32, switch: Lsn) -> Result<(), ReceiverError> {
        let written = self.log.written_lsn();
        if switch >= written {
            return Ok(());
        }
        let (log, last) = (self.log.clone(), self.timeline.last_record.lsn());
        let ours = self.env.tasks.blocking("find-last-record", move || log.last_whole_record(last)).await?;
        if switch < ours {
            return Err(ReceiverError::Diverged { server: server.to_string(), tli, switch, ours });
        }
        tracing::info!(timeline = %self.timeline.identity.timeline, %switch, %written, "giving up a record that was never whole");
        self.log.give_up_tail(switch);
        Ok(())
    }

    async fn follow_switch(&self, server: &str, tli: u32, next: u32, switch: Lsn) -> Result<(), ReceiverError> {
        self.fit_to_switch(server, tli, switch).await?;
        tracing::info!(timeline = %self.timeline.identity.timeline, tli = next, at = %switch, "following the server's new timeline");
        // Durable before any WAL of the new TLI is, or a restart would not find that WAL.
        let log = self.log.clone();
        self.env.tasks.blocking("switch-tli", move || log.switch_tli(next, switch)).await?;
        self.timeline.set_pg_timeline(self.log.pg_timeline());
        Ok(())
    }

    /// Copies the stream into the log until the server's timeline ends.
    async fn copy(&self, stream: &mut CopyStream) -> Result<(u32, Lsn), ReceiverError> {
        let mut syncing = None;
        let outcome = self.copy_while_syncing(stream, &mut syncing).await;
        // Nothing is written or mended while a sync still runs.
        if let Some(running) = syncing {
            let synced: Result<Lsn, LogError> = running.await;
            if outcome.is_ok() {
                synced?;
            }
        }
        if outcome.is_ok() {
            self.sync().await?;
        }
        outcome
    }

    /// Receives the next bytes while those before are synced; one sync at a time.
    async fn copy_while_syncing<'a>(
        &'a self,
        stream: &mut CopyStream,
        syncing: &mut Option<BoxFuture<'a, Result<Lsn, LogError>>>,
    ) -> Result<(u32, Lsn), ReceiverError> {
        // Bytes in the log that no sync covers yet.
        let mut gathered = 0;
        let mut lag = Lag::default();
        loop {
            let mut event = match syncing.as_mut() {
                Some(running) => tokio::select! {
                    biased;
                    synced = running => {
                        *syncing = None;
                        synced?;
                        self.report(stream, self.log.durable_lsn()).await?;
                        None
                    }
                    event = stream.next(), if gathered < GATHER_BYTES => Some(event?),
                },
                None => Some(stream.next().await?),
            };
            let mut reply = false;
            while let Some(now) = event {
                match now {
                    CopyEvent::XLogData { start, data, wal_end } => {
                        gathered += data.len();
                        self.log.append(start, &data).map_err(|error| diverged(stream.server(), error))?;
                        self.check_lag(&mut lag, stream.server(), wal_end)?;
                    }
                    CopyEvent::Keepalive { reply_requested, wal_end } => {
                        reply |= reply_requested;
                        self.check_lag(&mut lag, stream.server(), wal_end)?;
                    }
                    CopyEvent::Ended { next_tli, switch_point } => return Ok((next_tli, switch_point)),
                }
                event = if gathered < GATHER_BYTES { stream.try_next_buffered()? } else { None };
            }
            if gathered > 0 && syncing.is_none() {
                if crate::planted!(self.env, "ack-before-fsync") {
                    self.report(stream, self.log.written_lsn()).await?;
                }
                gathered = 0;
                *syncing = Some(Box::pin(self.sync()));
                if crate::buggify!(self.env, "stream-given-up") {
                    return Err(ReplicationError::SourceStopped { server: stream.server().to_string() }.into());
                }
            }
            if reply {
                self.report(stream, self.log.durable_lsn()).await?;
            }
        }
    }

    /// Errors: another connection may be faster.
    fn check_lag(&self, lag: &mut Lag, server: &str, wal_end: Lsn) -> Result<(), ReceiverError> {
        let settings = self.timeline.settings();
        match lag.note(self.env.clock.mono(), (self.log.written_lsn(), wal_end), &settings) {
            None => Ok(()),
            Some(behind) => {
                let limit = settings.lagging_wal_timeout;
                Err(ReceiverError::Lagging { server: server.to_string(), behind, limit })
            }
        }
    }

    async fn sync(&self) -> Result<Lsn, LogError> {
        let log = self.log.clone();
        self.env.tasks.blocking("sync-wal", move || log.sync()).await
    }

    async fn report(&self, stream: &mut CopyStream, flush: Lsn) -> Result<(), ReceiverError> {
        let early = crate::planted!(self.env, "apply-before-upload");
        let apply = if early { self.timeline.disk_consistent_lsn() } else { self.timeline.remote_consistent_lsn() };
        // The stream begins again at the start of a page, below what remote storage holds already.
        let flush = flush.max(apply);
        let status = StandbyStatus { write: self.log.written_lsn().max(flush), flush, apply };
        self.env.probe.event("ack", &|| format!("timeline={} flush={flush} apply={}", self.timeline.identity.timeline, status.apply));
        Ok(stream.send_status(status, self.env.clock.wall(), false).await?)
    }
}

/// Names the server whose bytes differ.
fn diverged(server: &str, error: LogError) -> ReceiverError {
    match error {
        LogError::Differs { at, ours, .. } => ReceiverError::DivergedBytes { server: server.to_string(), at, ours },
        other => other.into(),
    }
}

/// Lines of a history file: (TLI, where it ended).
fn parse_history(bytes: &[u8]) -> Vec<(u32, Lsn)> {
    let text = String::from_utf8_lossy(bytes);
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_lags_when_it_is_far_behind_and_nothing_comes() {
        let second = |n: u64| Mono(n * 1_000_000_000);
        let settings = TenantConfig { lagging_wal_timeout: Duration::from_secs(10), ..TenantConfig::default() };
        let far = settings.max_lsn_wal_lag.get() + 100;
        let mut lag = Lag::default();
        for (at, written, wal_end, expected) in [
            (0, 50, far - 100, None),
            (1, 50, far, None),
            (11, 50, far + 5, None),
            (12, 60, far + 9, None),
            (22, 60, far + 9, None),
            (23, 60, far + 9, Some(far - 51)),
            (24, far, far + 9, None),
        ] {
            assert_eq!(lag.note(second(at), (Lsn(written), Lsn(wal_end)), &settings), expected, "at {at} s");
        }
    }

    #[test]
    fn history_files() {
        let text = b"1\t0/3000148\tno recovery target specified\n\n# comment\n2\t0/5000000\tbefore 2026\nx\n";
        assert_eq!(parse_history(text), [(1, Lsn(0x300_0148)), (2, Lsn(0x500_0000))]);
    }
}
