//! What a timeline needs to follow WAL: the log, the ingest task, the receiver and the slot keeper, started and stopped together.

use super::ingest::{Ingest, IngestError};
use super::log::{LogError, LogStart, WalLog};
use super::receiver::Receiver;
use crate::io_abstraction::{ClockExt as _, Env, Scope};
use crate::pg::xlog::stream::StreamDecoder;
use crate::postgres::SqlClient;
use crate::replication::client::ReplicationClient;
use crate::replication::connstr::ConnStr;
use crate::replication::error::ReplicationError;
use crate::timeline::{Timeline, TimelineWriter};
use crate::types::Lsn;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause after ingest met an error.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two looks at the slot, and at the log's old segments.
const KEEP_PERIOD: Duration = Duration::from_secs(5);

/// What the simulator may let ingest read at once: less than a record's header.
const CRUMB_BYTES: usize = 7;

/// The WAL side of one timeline.
pub struct WalRunner {
    env: Env,
    timeline: Arc<Timeline>,
    pub log: Arc<WalLog>,
    /// Ends with the timeline.
    scope: Scope,
    /// Ends when another source is set.
    receiver: tokio::sync::Mutex<Option<Scope>>,
}

impl WalRunner {
    /// Opens the log, reads what it has beyond the timeline, and follows the source if one is set.
    pub async fn start(env: &Env, timeline: &Arc<Timeline>) -> Result<Arc<WalRunner>, LogError> {
        let config = &timeline.shared.config;
        let start = LogStart {
            root: config.data_dir.clone(),
            directory: timeline.local_directory().join("wal"),
            segment_size: timeline.identity.wal_segment_size,
            reserve: config.disk_reserve_bytes,
            cap: config.wal_log_bytes_max,
            from: timeline.disk_consistent_lsn(),
            pg_timeline: timeline.pg_timeline(),
        };
        let opening = env.clone();
        let log = env.tasks.blocking("open-wal-log", move || WalLog::open(&opening, start)).await?;
        timeline.set_pg_timeline(log.pg_timeline());
        let runner = Arc::new(WalRunner {
            env: env.clone(),
            timeline: timeline.clone(),
            log: log.clone(),
            scope: Scope::new(&env.tasks),
            receiver: tokio::sync::Mutex::new(None),
        });
        runner.scope.spawn("trim-wal-log", |cancel| keep_short(env.clone(), timeline.clone(), log.clone(), cancel));
        runner.scope.spawn("ingest", |cancel| ingest(env.clone(), timeline.clone(), log, cancel));
        runner.follow().await;
        Ok(runner)
    }

    /// Starts the receiver for the source that the timeline has now; ends the one before.
    pub async fn follow(&self) {
        let mut slot = self.receiver.lock().await;
        if let Some(old) = slot.take() {
            old.shutdown().await;
        }
        if self.scope.cancel().is_cancelled() {
            return;
        }
        let Some(source) = self.timeline.wal_source() else { return };
        let source: ConnStr = match source.parse() {
            Ok(source) => source,
            Err(error) => {
                // It was checked when it was set; only an index of another program version can hold this.
                *self.timeline.receiver_status.lock() = format!("Stopped: the stored wal_source is not usable: {error}");
                return;
            }
        };
        let scope = Scope::new(&self.env.tasks);
        let receiver = Receiver { env: self.env.clone(), timeline: self.timeline.clone(), log: self.log.clone(), source: source.clone() };
        scope.spawn("receive", |cancel| receiver.run(cancel));
        let keeper = SlotKeeper { env: self.env.clone(), timeline: self.timeline.clone(), source };
        scope.spawn("keep-slot", |cancel| keeper.run(cancel));
        *slot = Some(scope);
    }

    pub async fn shutdown(&self) {
        // First, so that no receiver is started behind our back.
        self.scope.cancel().cancel();
        if let Some(receiver) = self.receiver.lock().await.take() {
            receiver.shutdown().await;
        }
        self.scope.shutdown().await;
    }
}

/// Reads the log from the timeline's last record on, for ever.
async fn ingest(env: Env, timeline: Arc<Timeline>, log: Arc<WalLog>, cancel: CancellationToken) {
    let work = async {
        let mut writer = Some(TimelineWriter::new(timeline.clone()));
        loop {
            let Some(mine) = writer.take() else { return };
            let (error, mine) = follow_log(&log, mine).await;
            let Some(error) = error else {
                // Bytes that were read are not part of the log any more: from the last record again.
                writer = Some(mine);
                continue;
            };
            tracing::warn!(timeline = %timeline.identity.timeline, %error, "ingest met an error, will try again");
            env.probe.event("ingest", &|| format!("timeline={} error={error}", timeline.identity.timeline));
            if let IngestError::Wal(_) = error {
                log.distrust(timeline.last_record.lsn());
            }
            writer = Some(mine);
            env.clock.sleep(RETRY).await;
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// Ingests until an error, or until bytes were taken back from the log.
async fn follow_log(log: &WalLog, mut writer: TimelineWriter) -> (Option<IngestError>, TimelineWriter) {
    let timeline = writer.timeline().clone();
    let mut ingest = match Ingest::load(&timeline).await {
        Ok(ingest) => ingest,
        Err(error) => return (Some(error), writer),
    };
    let start = timeline.last_record.lsn();
    let identity = &timeline.identity;
    let mut decoder = match StreamDecoder::new(start, Some(identity.pg_version), identity.wal_segment_size) {
        Ok(decoder) => decoder.with_system_id(identity.system_identifier),
        Err(error) => return (Some(error.into()), writer),
    };
    let mut at = start.page_start();
    let cuts = log.cuts();
    loop {
        log.wait_beyond(at, cuts).await;
        if log.cuts() != cuts {
            return (None, writer);
        }
        // As much as is there: a quiet primary sends a few bytes at a time.
        let there = usize::try_from(log.durable_lsn().distance_from(at)).unwrap_or(usize::MAX);
        let most = if crate::buggify!(timeline.shared.env, "log-in-crumbs") { CRUMB_BYTES } else { crate::limits::WAL_READ_BYTES };
        let mut bytes = vec![0; there.min(most)];
        let step = async {
            let read = log.read(at, &mut bytes)?;
            bytes.truncate(read);
            decoder.feed_bytes(at, bytes.into())?;
            at = Lsn(at.0 + read as u64);
            loop {
                match decoder.next() {
                    Ok(Some((span, record))) => ingest.record(&mut writer, span, record).await?,
                    ended => {
                        // Damage ends the chunk, but what came before it is whole.
                        ingest.commit(&mut writer).await;
                        return ended.map(|_| ()).map_err(IngestError::from);
                    }
                }
            }
        };
        if let Err(error) = step.await {
            // What came before the record with the error is good, and may never be read if the error stays.
            ingest.commit(&mut writer).await;
            return (Some(error), writer);
        }
    }
}

/// Removes segments of the log that remote storage made needless; warns when it does not keep up.
async fn keep_short(env: Env, timeline: Arc<Timeline>, log: Arc<WalLog>, cancel: CancellationToken) {
    let config = &timeline.shared.config;
    let work = async {
        let mut warned = false;
        loop {
            let at_once = crate::buggify!(env, "trim-at-once");
            env.clock.sleep(if at_once { Duration::ZERO } else { KEEP_PERIOD }).await;
            let keep_bytes = if at_once { 0 } else { config.wal_log_keep_bytes };
            let keep_from = timeline.remote_consistent_lsn().saturating_sub(keep_bytes);
            let trimming = log.clone();
            if let Err(error) = env.tasks.blocking("trim-wal-log", move || trimming.trim(keep_from)).await {
                tracing::warn!(timeline = %timeline.identity.timeline, %error, "could not remove old segments of the WAL log");
            }
            let (held, cap) = (log.held_bytes(), config.wal_log_bytes_max);
            let much = held > cap / 2;
            if much && !warned {
                let remote = timeline.remote_consistent_lsn();
                tracing::warn!(timeline = %timeline.identity.timeline, held, cap, %remote, "the WAL log grows: remote storage does not keep up");
            }
            warned = much;
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// Keeps a physical slot on the primary at the remotely consistent LSN.
struct SlotKeeper {
    env: Env,
    timeline: Arc<Timeline>,
    source: ConnStr,
}

impl SlotKeeper {
    /// One slot per timeline, so that two timelines may follow one primary.
    fn slot_name(&self) -> String {
        format!("palimpsest_{}", self.timeline.identity.timeline)
    }

    async fn run(self, cancel: CancellationToken) {
        let mut advanced = Lsn::INVALID;
        let mut created = false;
        let work = async {
            loop {
                let apply = self.timeline.remote_consistent_lsn();
                if !created || apply > advanced {
                    match self.keep(created, apply).await {
                        // Absent: on a server that was promoted meanwhile, or dropped by hand.
                        Ok(false) => created = false,
                        Ok(true) => (created, advanced) = (true, apply),
                        Err(error) => {
                            tracing::debug!(timeline = %self.timeline.identity.timeline, %error, "could not keep the replication slot")
                        }
                    }
                }
                self.env.clock.sleep(KEEP_PERIOD).await;
            }
        };
        cancel.run_until_cancelled(work).await;
    }

    /// Gives whether the slot was there.
    async fn keep(&self, created: bool, apply: Lsn) -> Result<bool, ReplicationError> {
        let name = self.slot_name();
        if !created {
            let mut client = ReplicationClient::connect(&self.env, &self.source).await?;
            client.create_physical_slot(&name, true).await?;
            client.close().await;
        }
        let mut sql = SqlClient::connect(&self.env, &self.source).await?;
        let stands_at = sql.advance_slot(&name, apply).await?;
        sql.close().await;
        Ok(stands_at.is_some())
    }
}
