//! What a server starts from: pg_control, the WAL it finds, its place in PostgreSQL's timelines. One way per [`Form`].

use super::wal::{self, WalSource};
use super::{ExportError, ExportSpec, Form, base_backup};
use crate::io_abstraction::Env;
use crate::pg::control::{CheckPoint, ClusterState, ControlFile};
use crate::pg::xlog::page::PageHeader;
use crate::pg::xlog::synthesize::{RecordBuilder, WalIdentity, WalWriter};
use crate::remote::index::TliSwitch;
use crate::timeline::import::authentication_nonce;
use crate::timeline::{PgTimeline, Timeline};
use crate::types::lsn::{WAL_LONG_HEADER, segment_file_name};
use crate::types::{Key, Lsn};
use rand_core::Rng as _;
use std::io;
use std::sync::Arc;

/// A WAL segment file.
pub enum Segment {
    /// Made here: few bytes that are not zero.
    Made(Vec<u8>),
    /// From the log up to an LSN.
    Logged { source: Arc<dyn WalSource>, start: Lsn, end: Lsn, first_page: Vec<u8> },
}

/// How the exported cluster begins.
pub struct Start {
    pub lsn: Lsn,
    /// Start of the record that ends at `lsn`, if known.
    pub prev: Lsn,
    pub control: ControlFile,
    /// File name in pg_wal and content.
    pub segments: Vec<(String, Arc<Segment>)>,
    /// (TLI, content of its history file).
    pub history: Option<(u32, String)>,
    pub is_standby: bool,
    /// End of the WAL in `segments`.
    pub wal_end: Lsn,
    /// Seconds since 1970: when the last checkpoint was. Fixed for a given LSN.
    pub time: i64,
}

pub async fn prepare(env: &Env, timeline: &Timeline, spec: &ExportSpec, (lsn, prev): (Lsn, Lsn)) -> Result<Start, ExportError> {
    let id = timeline.identity.timeline;
    let stored = timeline.get(Key::CONTROL_FILE, lsn).await?;
    let mut control = ControlFile::decode(&stored).map_err(|error| ExportError::Control { timeline: id, lsn, error })?;
    let point = timeline.get(Key::CHECKPOINT, lsn).await?;
    let damaged = || ExportError::Stored { timeline: id, lsn, what: "the stored checkpoint".to_string() };
    let point = CheckPoint::decode(&point, control.version()).ok_or_else(damaged)?;
    set_identity(env, timeline, spec.form, lsn, &mut control);
    // The time of the last checkpoint, not of the export: the bytes must not depend on when they are made.
    control.time = point.time;
    let at_lsn = pg_timeline_at(timeline.pg_timeline(), lsn);
    match spec.form {
        Form::FirstNode | Form::Fresh => shut_down(control, point, lsn, At { tli: 1, prev: Lsn::INVALID, history: Vec::new() }, None).await,
        Form::Reseed => {
            let mut history = at_lsn.history;
            history.push(TliSwitch { tli: at_lsn.tli, end: lsn });
            shut_down(control, point, lsn, At { tli: at_lsn.tli + 1, prev, history }, spec.wal.as_ref().map(|source| (env, source))).await
        }
        Form::Replica => {
            let source = spec.wal.clone().ok_or(ExportError::NoWal { timeline: id, lsn })?;
            standby(env, timeline, control, lsn, at_lsn, source).await
        }
        Form::BaseBackup => Ok(base_backup::start(env, control, point, (lsn, prev))),
    }
}

fn set_identity(env: &Env, timeline: &Timeline, form: Form, lsn: Lsn, control: &mut ControlFile) {
    if form == Form::Fresh {
        let id = timeline.identity.timeline;
        let mut rng = env.rng.stream(&format!("export {id} {lsn} {} {}", env.clock.wall().0, env.clock.mono().0));
        control.system_id = (rng.next_u64() >> 1).max(1);
        rng.fill_bytes(&mut control.mock_authentication_nonce);
    } else if control.system_id != timeline.identity.system_identifier {
        // A branch: what is stored is the ancestor's.
        control.system_id = timeline.identity.system_identifier;
        control.mock_authentication_nonce = authentication_nonce(control.system_id);
    }
}

/// The state of PostgreSQL's timelines as of `lsn`.
fn pg_timeline_at(mut now: PgTimeline, lsn: Lsn) -> PgTimeline {
    while let Some(switch) = now.history.pop_if(|switch| lsn < switch.end) {
        now.tli = switch.tli;
    }
    now
}

struct At {
    tli: u32,
    /// Start of the record before.
    prev: Lsn,
    history: Vec<TliSwitch>,
}

/// A cluster that was shut down at `lsn`: a checkpoint record at the first place for one.
async fn shut_down(
    mut control: ControlFile,
    point: CheckPoint,
    lsn: Lsn,
    at: At,
    log: Option<(&Env, &Arc<dyn WalSource>)>,
) -> Result<Start, ExportError> {
    let version = control.version();
    let segment_size = u64::from(control.wal_segment_size);
    let identity = WalIdentity { version, system_id: control.system_id, tli: at.tli, segment_size };
    let time = point.time;
    let mut writer = WalWriter::new(identity, lsn, at.prev);
    let start = writer.end();
    let point = CheckPoint {
        redo: start,
        tli: at.tli,
        prev_tli: at.tli,
        wal_level: point.wal_level.map(|_| control.limits.wal_level),
        oldest_active_xid: 0,
        ..point
    };
    let span = writer.append(&RecordBuilder::new(0, 0).main(point.encode()));
    assert!(span.start == start && start >= lsn, "EX-3: the checkpoint stands at {} for pages up to {lsn}", span.start);
    control.set_shut_down(start, point);
    let first = start.segment_number(segment_size);
    // The end may be the boundary itself: then the next segment holds nothing of the record.
    let last = Lsn(span.end.0 - 1).segment_number(segment_size);
    let mut segments = Vec::new();
    for number in first..=last {
        let mut bytes = writer.segment(number);
        if let Some((env, source)) = log.filter(|_| number == first) {
            let base = Lsn(number * segment_size);
            if base < lsn {
                // The log may begin later; readers want the TLI of pages never to go back.
                let before = pg_timeline_at(PgTimeline { tli: at.tli, history: at.history.clone() }, base).tli;
                PageHeader::new(version, before, base, control.system_id, segment_size).encode_into(&mut bytes);
                bytes = overlay(env, source.clone(), base, lsn, bytes).await?;
            }
        }
        segments.push((segment_file_name(at.tli, number, segment_size), Arc::new(Segment::Made(bytes))));
    }
    let history = (!at.history.is_empty()).then(|| (at.tli, history_file(&at.history)));
    Ok(Start { lsn, prev: at.prev, control, segments, history, is_standby: false, wal_end: span.end, time })
}

/// Puts the real WAL below `lsn` into its segment, as a promotion does.
async fn overlay(env: &Env, source: Arc<dyn WalSource>, base: Lsn, lsn: Lsn, mut segment: Vec<u8>) -> Result<Vec<u8>, ExportError> {
    let work = move || wal::copy(&*source, base, (base, lsn), &mut segment).map(|()| segment);
    env.tasks.blocking("export-wal", work).await.map_err(|error| ExportError::Wal { lsn, error })
}

/// A standby that recovers from the last real checkpoint to `lsn` and on.
async fn standby(
    env: &Env,
    timeline: &Timeline,
    mut control: ControlFile,
    lsn: Lsn,
    at_lsn: PgTimeline,
    source: Arc<dyn WalSource>,
) -> Result<Start, ExportError> {
    let (version, segment_size) = (control.version(), u64::from(control.wal_segment_size));
    let (log, log_start) = (source.clone(), source.start_lsn());
    let found = env.tasks.blocking("export-checkpoint", move || wal::last_checkpoint(&*log, version, segment_size, lsn)).await;
    let found = found.map_err(|error| ExportError::Wal { lsn, error })?;
    let (checkpoint, point) = found.ok_or(ExportError::NoCheckpoint { timeline: timeline.identity.timeline, lsn, start: log_start })?;
    let time = point.time;
    let mut segments = Vec::new();
    for number in point.redo.segment_number(segment_size)..=Lsn(lsn.0 - 1).segment_number(segment_size) {
        let start = Lsn(number * segment_size);
        let end = Lsn(start.0 + segment_size).min(lsn);
        let tli_at = |lsn| pg_timeline_at(PgTimeline { tli: at_lsn.tli, history: at_lsn.history.clone() }, lsn).tli;
        // A segment in which the TLI changes belongs to the new one, and begins with the old one.
        let tli = tli_at(Lsn(end.0 - 1));
        let mut first_page = vec![0; WAL_LONG_HEADER as usize];
        PageHeader::new(version, tli_at(start), start, control.system_id, segment_size).encode_into(&mut first_page);
        segments.push((
            segment_file_name(tli, number, segment_size),
            Arc::new(Segment::Logged { source: source.clone(), start, end, first_page }),
        ));
    }
    control.state = ClusterState::ShutDownInRecovery;
    control.checkpoint = checkpoint;
    control.checkpoint_copy = point;
    control.min_recovery_point = lsn;
    control.min_recovery_point_tli = at_lsn.tli;
    control.backup_start_point = Lsn::INVALID;
    control.backup_end_point = Lsn::INVALID;
    control.backup_end_required = false;
    let history = (!at_lsn.history.is_empty()).then(|| (at_lsn.tli, history_file(&at_lsn.history)));
    Ok(Start { lsn, prev: Lsn::INVALID, control, segments, history, is_standby: true, wal_end: lsn, time })
}

/// One line per TLI that ended: TLI, where it ended, why.
fn history_file(switches: &[TliSwitch]) -> String {
    switches.iter().map(|switch| format!("{}\t{}\tpromoted\n", switch.tli, switch.end)).collect()
}

impl Segment {
    /// The whole file. Blocks.
    pub fn bytes(&self, segment_size: usize) -> io::Result<Vec<u8>> {
        match self {
            Segment::Made(bytes) => Ok(bytes.clone()),
            Segment::Logged { source, start, end, first_page } => {
                let mut bytes = vec![0; segment_size];
                // Readers check the first page of a segment, which the log may not have.
                if let Some(head) = bytes.get_mut(..first_page.len()) {
                    head.copy_from_slice(first_page);
                }
                wal::copy(&**source, *start, (*start, *end), &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_of_postgres_at_an_lsn() {
        let switch = |tli, end| TliSwitch { tli, end: Lsn(end) };
        let now = PgTimeline { tli: 3, history: vec![switch(1, 100), switch(2, 200)] };
        for (lsn, tli, past) in [(50, 1, 0), (100, 2, 1), (199, 2, 1), (200, 3, 2), (900, 3, 2)] {
            let at = pg_timeline_at(now.clone(), Lsn(lsn));
            assert_eq!((at.tli, at.history.len()), (tli, past), "{lsn}");
        }
        assert_eq!(history_file(&now.history), "1\t0/64\tpromoted\n2\t0/C8\tpromoted\n");
    }
}
