//! Lets the plan's faults loose on time, and takes them back.

use super::readers::{self, Question};
use super::{PAGESERVER, PRIMARY, Scene};
use crate::client::pages::{ReadAt, Request};
use crate::disk::CrashKind;
use crate::event;
use crate::plan::FaultKind;
use crate::postgres::generator;
use crate::store::StoreFaults;
use crate::world::LinkState;
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::types::Lsn;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An entry of the agenda.
enum Action {
    Begin(FaultKind),
    Start { kind: CrashKind, away_ms: u64 },
    PrimaryBack,
    StoreCalm,
    Unclog,
}

/// Time an acknowledged LSN has to become readable without the primary, from the start of the node.
const READABLE_LIMIT: Duration = Duration::from_millis(3_500);

struct State {
    /// While the primary is away, nothing else is done to the node.
    away: bool,
    clogged: u32,
    store: u32,
}

/// Runs the safety phase to its end; then everything is healed and the node is up.
pub async fn run(scene: &Scene, start: Mono) {
    let mut agenda: BTreeMap<(u64, u32), Action> = BTreeMap::new();
    let mut sequence = 0;
    let mut put = |agenda: &mut BTreeMap<(u64, u32), Action>, at_ms: u64, action| {
        agenda.insert((at_ms, sequence), action);
        sequence += 1;
    };
    for fault in &scene.plan.faults {
        put(&mut agenda, fault.at_ms, Action::Begin(fault.kind.clone()));
    }
    let mut state = State { away: false, clogged: 0, store: 0 };
    scene.progress.lock().store_calm_since = Some(start);
    scene.cluster.redo_faults.store(scene.plan.knobs.pageserver.redo_fault_ppm, Ordering::Relaxed);
    while let Some(((at_ms, _), action)) = agenda.pop_first() {
        scene.client.clock.sleep_until(start.after(Duration::from_millis(at_ms))).await;
        if scene.judge.verdict().is_some() {
            return;
        }
        if let Some((after_ms, then)) = perform(scene, &mut state, action) {
            put(&mut agenda, at_ms + after_ms, then);
        }
    }
    let end = start.after(Duration::from_millis(scene.plan.knobs.run_ms));
    scene.client.clock.sleep_until(end).await;
    scene.cluster.redo_faults.store(0, Ordering::Relaxed);
}

/// Does one thing; gives what has to follow, and after how long.
fn perform(scene: &Scene, state: &mut State, action: Action) -> Option<(u64, Action)> {
    match action {
        Action::Begin(kind) => return begin(scene, state, kind),
        Action::Start { kind, away_ms } => {
            if kind == CrashKind::Wipe && !scene.progress.lock().imported {
                scene.restore_data_dir();
            }
            scene.start_node();
            if state.away {
                require_readable(scene);
                return Some((away_ms, Action::PrimaryBack));
            }
        }
        Action::PrimaryBack => {
            state.away = false;
            unclog(scene, state);
        }
        Action::StoreCalm => {
            state.store -= 1;
            if state.store == 0 {
                scene.cluster.store.set_faults(StoreFaults::default());
                scene.progress.lock().store_calm_since = Some(scene.now());
                event!(scene.trace, "fault", "op=store_calm");
            }
        }
        Action::Unclog => unclog(scene, state),
    }
    None
}

fn begin(scene: &Scene, state: &mut State, kind: FaultKind) -> Option<(u64, Action)> {
    event!(scene.trace, "fault", "begin={kind:?} away={}", state.away);
    match kind {
        FaultKind::Crash { .. } if state.away => None,
        FaultKind::Crash { kind, down_ms, primary_away_ms } => {
            if !scene.crash_node(kind) {
                return None;
            }
            scene.count(match kind {
                CrashKind::PowerLoss => "crash-power-loss",
                CrashKind::ProcessCrash => "crash-process",
                CrashKind::Wipe => "crash-wipe",
            });
            if kind == CrashKind::Wipe {
                scene.postgres.durability.machine_lost();
            } else if primary_away_ms > 0 && scene.progress.lock().imported {
                // One thing at a time: a node without its object store may take longer to start.
                state.away = true;
                scene.cluster.store.set_faults(StoreFaults::default());
                clog(scene, state);
            }
            Some((down_ms, Action::Start { kind, away_ms: primary_away_ms }))
        }
        FaultKind::StoreErrors { .. } | FaultKind::StoreOutage { .. } if state.away => None,
        FaultKind::StoreErrors { for_ms, before_ppm, after_ppm, silent_ppm } => {
            scene.count("store-errors");
            let faults = StoreFaults { error_before_ppm: before_ppm, error_after_ppm: after_ppm, silent_ppm, ..StoreFaults::default() };
            Some((for_ms, store(scene, state, faults)))
        }
        FaultKind::StoreOutage { for_ms } => {
            scene.count("store-outage");
            Some((for_ms, store(scene, state, StoreFaults { outage: true, ..StoreFaults::default() })))
        }
        FaultKind::Clog { for_ms } => {
            scene.count("link-clogged");
            clog(scene, state);
            Some((for_ms, Action::Unclog))
        }
        FaultKind::Reset => {
            let broken = scene.cluster.connections.reset(|a, b| a == PAGESERVER || b == PAGESERVER);
            if broken > 0 {
                scene.count("connection-reset");
            }
            event!(scene.trace, "fault", "op=reset connections={broken}");
            None
        }
    }
}

fn store(scene: &Scene, state: &mut State, faults: StoreFaults) -> Action {
    state.store += 1;
    scene.cluster.store.set_faults(faults);
    scene.progress.lock().store_calm_since = None;
    Action::StoreCalm
}

fn clog(scene: &Scene, state: &mut State) {
    state.clogged += 1;
    scene.cluster.world.set_link(PAGESERVER, PRIMARY, LinkState::Held);
}

fn unclog(scene: &Scene, state: &mut State) {
    state.clogged -= 1;
    if state.clogged == 0 {
        scene.cluster.world.set_link(PAGESERVER, PRIMARY, LinkState::Open);
        event!(scene.trace, "fault", "op=unclog");
    }
}

/// `DU-4`: what was acknowledged before the crash is readable while the primary is away.
fn require_readable(scene: &Scene) {
    let acknowledged = scene.postgres.durability.flushed();
    let (lsn, version) = {
        let primary = scene.postgres.primary.lock();
        let lsn = primary.generator.last_record_end(acknowledged).max(primary.generator.model.base());
        (lsn, primary.generator.model.newest_version(lsn))
    };
    let scene = scene.clone();
    let incarnation = scene.cluster.disk(PAGESERVER).incarnation();
    let client = scene.client.tasks.clone();
    client.spawn("without-primary", async move {
        let deadline = scene.now().after(READABLE_LIMIT);
        let rel = version.map_or(generator::table(generator::FIRST_OID), |v| v.rel);
        let question = Question { request: Request::Page(rel, version.map_or(0, |v| v.block)), at: ReadAt::exactly(lsn) };
        let mut stream = None;
        while scene.now() < deadline {
            // The answer itself is judged like any other.
            if readers::ask(&scene, &mut stream, question).await == "read-ok" {
                scene.count("read-without-primary");
                return;
            }
            scene.client.clock.sleep(Duration::from_millis(100)).await;
        }
        let same_life = scene.cluster.disk(PAGESERVER).incarnation() == incarnation;
        if same_life && lsn > Lsn::INVALID {
            let text =
                format!("flush was reported at {acknowledged}, but {lsn} cannot be read without the primary within {READABLE_LIMIT:?}");
            scene.judge.violated("DU-4", text);
        }
    });
}
