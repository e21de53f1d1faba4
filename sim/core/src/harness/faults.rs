//! Lets the plan's faults loose on time, and takes them back.
//!
//! - `RS-1`: a process that is told to stop stops within its bound.
//! - `RS-2`: nothing of it runs on afterwards.
//! - `RS-3`: it holds nothing any more: no open file, listener, connection, redo child or request to the object store.
//!
//! What a plan may destroy is bounded by what the design promises to bring back: only layer files that remote storage has
//! rot; errors and fullness end; while an oracle waits for a node without its primary, nothing else is done to it.

use super::readers::{self, Question};
use super::{CLIENT, PAGESERVER, PRIMARY, Scene};
use crate::client::pages::{ReadAt, Request};
use crate::disk::{CrashKind, DiskFaults};
use crate::event;
use crate::plan::{Fault, FaultKind, Files, LinkFault, Peer};
use crate::postgres::generator;
use crate::store::StoreFaults;
use crate::world::{DISK_CAPACITY, LinkState};
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::types::Lsn;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An entry of the agenda.
enum Action {
    Begin(Fault),
    Start {
        kind: CrashKind,
        away_ms: u64,
    },
    /// Looks whether the process of this life has stopped, which it must have by the given time.
    AwaitStop {
        life: u64,
        by: Mono,
        down_ms: u64,
    },
    /// Looks whether anything of it runs on.
    Stopped {
        life: u64,
        down_ms: u64,
    },
    PrimaryBack,
    StoreCalm,
    LinkOpen(Link),
    Accepts,
    Thaw {
        life: u64,
    },
    DiskCalm,
    DiskGrows,
}

/// A link as the world names it.
type Link = (&'static str, &'static str);

/// Time an acknowledged LSN has to become readable without the primary, from the start of the node.
const READABLE_LIMIT: Duration = Duration::from_millis(3_500);
/// Time for a stop: what the node gives one timeline's uploads, and a little more.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Time for what serves connections to notice that the node has stopped.
const REST_MS: u64 = 1_000;
const LOOK_MS: u64 = 100;
/// A throttled store: refusals in parts per million, longest time for an answer.
const THROTTLE_PPM: u32 = 700_000;
const THROTTLE_LATENCY_US: u64 = 800_000;
const CONFLICT_PPM: u32 = 500_000;

#[derive(Default)]
struct State {
    /// While the primary is away, nothing else is done to the node.
    away: bool,
    /// How many faults hold each thing.
    links: BTreeMap<Link, u32>,
    store: u32,
    refusing: u32,
    disk_errors: u32,
    disk_full: u32,
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
        put(&mut agenda, fault.at_ms, Action::Begin(fault.clone()));
    }
    let mut state = State::default();
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
        Action::Begin(fault) => return begin(scene, state, fault),
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
        Action::AwaitStop { life, by, down_ms } => return await_stop(scene, life, by, down_ms),
        Action::Stopped { life, down_ms } => return stopped(scene, life, down_ms),
        Action::PrimaryBack => {
            state.away = false;
            open(scene, state, (PAGESERVER, PRIMARY));
        }
        Action::StoreCalm => {
            state.store -= 1;
            if state.store == 0 {
                scene.cluster.store.set_faults(StoreFaults::default());
                scene.progress.lock().store_calm_since = Some(scene.now());
                event!(scene.trace, "fault", "op=store_calm");
            }
        }
        Action::LinkOpen(link) => open(scene, state, link),
        Action::Accepts => {
            state.refusing -= 1;
            scene.cluster.connections.refuse(PAGESERVER, state.refusing > 0);
        }
        Action::Thaw { life } => {
            if scene.life() == life {
                event!(scene.trace, "fault", "op=thaw");
                scene.cluster.world.freeze(PAGESERVER, false);
                scene.supervised.down.store(false, Ordering::Relaxed);
            }
        }
        Action::DiskCalm => {
            state.disk_errors -= 1;
            if state.disk_errors == 0 {
                scene.cluster.disk(PAGESERVER).set_faults(DiskFaults::default());
                event!(scene.trace, "fault", "op=disk_calm");
            }
        }
        Action::DiskGrows => {
            state.disk_full -= 1;
            if state.disk_full == 0 {
                scene.cluster.disk(PAGESERVER).set_capacity(DISK_CAPACITY);
                event!(scene.trace, "fault", "op=disk_grows");
            }
        }
    }
    None
}

fn begin(scene: &Scene, state: &mut State, Fault { id, kind, .. }: Fault) -> Option<(u64, Action)> {
    event!(scene.trace, "fault", "begin={kind:?} away={}", state.away);
    // One thing at a time: a node that is awaited without its primary may take longer under another fault.
    if state.away && !matches!(kind, FaultKind::Reset | FaultKind::ClockJump { .. }) {
        return None;
    }
    match kind {
        FaultKind::Crash { kind, down_ms, primary_away_ms } => crash(scene, state, kind, (down_ms, primary_away_ms)),
        FaultKind::GracefulStop { down_ms } => stop(scene, down_ms),
        FaultKind::Freeze { for_ms } => freeze(scene, for_ms),
        FaultKind::ClockJump { by_ms } => {
            scene.count("clock-jump");
            scene.cluster.jump_wall_clock(PAGESERVER, by_ms);
            None
        }
        FaultKind::StoreErrors { .. }
        | FaultKind::StoreOutage { .. }
        | FaultKind::StoreThrottle { .. }
        | FaultKind::StoreConflicts { .. } => store(scene, state, kind),
        FaultKind::Link { peer, how, for_ms } => link(scene, state, (peer, how)).map(|link| (for_ms, Action::LinkOpen(link))),
        FaultKind::Refuse { for_ms } => {
            scene.count("refusing");
            state.refusing += 1;
            scene.cluster.connections.refuse(PAGESERVER, true);
            Some((for_ms, Action::Accepts))
        }
        FaultKind::Reset => {
            let broken = scene.cluster.connections.reset(|a, b| a == PAGESERVER || b == PAGESERVER);
            if broken > 0 {
                scene.count("connection-reset");
            }
            event!(scene.trace, "fault", "op=reset connections={broken}");
            None
        }
        FaultKind::DiskErrors { .. }
        | FaultKind::DiskHostile { .. }
        | FaultKind::DiskFull { .. }
        | FaultKind::DiskStall { .. }
        | FaultKind::BitRot { .. } => disk(scene, state, id, kind),
        // It is not at a time: `fuse` waits for it.
        FaultKind::CrashAt { .. } => None,
    }
}

fn crash(scene: &Scene, state: &mut State, kind: CrashKind, (down_ms, away_ms): (u64, u64)) -> Option<(u64, Action)> {
    if !scene.crash_node(kind) {
        return None;
    }
    scene.count(match kind {
        CrashKind::PowerLoss => "crash-power-loss",
        CrashKind::ProcessCrash => "crash-process",
        CrashKind::Wipe => "crash-wipe",
    });
    let mut away = 0;
    if kind == CrashKind::Wipe {
        scene.postgres.durability.machine_lost();
    } else if away_ms > 0 && scene.progress.lock().imported {
        away = away_ms;
        state.away = true;
        calm(scene, state);
        close(scene, state, (PAGESERVER, PRIMARY), LinkState::Held);
    }
    Some((down_ms, Action::Start { kind, away_ms: away }))
}

/// Ends what makes a start slow, though its end is still on the agenda.
fn calm(scene: &Scene, state: &State) {
    for link in state.links.iter().filter(|(_, count)| **count > 0).map(|(link, _)| link) {
        scene.cluster.world.set_link(link.0, link.1, LinkState::Open);
    }
    scene.cluster.unstall_disk(PAGESERVER);
    scene.cluster.store.set_faults(StoreFaults::default());
    let disk = scene.cluster.disk(PAGESERVER);
    disk.set_faults(DiskFaults::default());
    disk.set_capacity(DISK_CAPACITY);
    scene.cluster.connections.refuse(PAGESERVER, false);
}

fn stop(scene: &Scene, down_ms: u64) -> Option<(u64, Action)> {
    let life = scene.life();
    // A node that still loads may wait for the store for long.
    if !scene.supervised.process.is_up(life) || scene.supervised.down.swap(true, Ordering::Relaxed) {
        return None;
    }
    scene.supervised.process.stop(life);
    let timelines = 1 + scene.branches.count();
    Some((LOOK_MS, Action::AwaitStop { life, by: scene.now().after(STOP_LIMIT * timelines), down_ms }))
}

fn await_stop(scene: &Scene, life: u64, by: Mono, down_ms: u64) -> Option<(u64, Action)> {
    let process = &scene.supervised.process;
    if process.has_stopped(life) {
        scene.count("stopped");
        return Some((REST_MS, Action::Stopped { life, down_ms }));
    }
    if scene.now() > by {
        let text = format!("the process was told to stop, and still runs: {}", few(&scene.cluster.live_tasks(PAGESERVER)));
        scene.judge.violated("RS-1", text);
        return None;
    }
    Some((LOOK_MS, Action::AwaitStop { life, by, down_ms }))
}

/// Names of things for a message: the first of them, each once.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn stopped(scene: &Scene, life: u64, down_ms: u64) -> Option<(u64, Action)> {
    let left = scene.cluster.live_tasks(PAGESERVER);
    if scene.supervised.process.has_stopped(life) && !left.is_empty() {
        scene.judge.violated("RS-2", format!("the node has stopped, but these tasks run on: {}", few(&left)));
    }
    let held = scene.cluster.held(PAGESERVER);
    if scene.supervised.process.has_stopped(life) && !held.is_empty() {
        scene.judge.violated("RS-3", format!("the node has stopped, but it still holds: {}", few(&held)));
    }
    scene.cluster.crash(PAGESERVER, CrashKind::ProcessCrash);
    Some((down_ms, Action::Start { kind: CrashKind::ProcessCrash, away_ms: 0 }))
}

fn freeze(scene: &Scene, for_ms: u64) -> Option<(u64, Action)> {
    // Whoever freezes a process has to let it go on before anything else happens to it.
    if scene.supervised.down.swap(true, Ordering::Relaxed) {
        return None;
    }
    scene.count("frozen");
    scene.cluster.world.freeze(PAGESERVER, true);
    Some((for_ms, Action::Thaw { life: scene.life() }))
}

fn store(scene: &Scene, state: &mut State, kind: FaultKind) -> Option<(u64, Action)> {
    let calm = StoreFaults::default();
    let (what, for_ms, faults) = match kind {
        FaultKind::StoreErrors { for_ms, before_ppm, after_ppm, silent_ppm } => {
            let faults = StoreFaults { error_before_ppm: before_ppm, error_after_ppm: after_ppm, silent_ppm, ..calm };
            ("store-errors", for_ms, faults)
        }
        FaultKind::StoreThrottle { for_ms } => {
            let faults = StoreFaults { throttle_ppm: THROTTLE_PPM, latency_us_max: THROTTLE_LATENCY_US, ..calm };
            ("store-throttled", for_ms, faults)
        }
        FaultKind::StoreConflicts { for_ms } => ("store-conflicts", for_ms, StoreFaults { conflict_ppm: CONFLICT_PPM, ..calm }),
        FaultKind::StoreOutage { for_ms } => ("store-outage", for_ms, StoreFaults { outage: true, ..calm }),
        _ => return None,
    };
    scene.count(what);
    state.store += 1;
    scene.cluster.store.set_faults(faults);
    scene.progress.lock().store_calm_since = None;
    Some((for_ms, Action::StoreCalm))
}

fn link(scene: &Scene, state: &mut State, (peer, how): (Peer, LinkFault)) -> Option<Link> {
    let other = if peer == Peer::Primary { PRIMARY } else { CLIENT };
    let (what, link, to) = match how {
        LinkFault::Hold => ("link-held", (PAGESERVER, other), LinkState::Held),
        LinkFault::Lost => ("link-lost", (PAGESERVER, other), LinkState::Lost),
        LinkFault::LostFrom => ("link-one-way", (PAGESERVER, other), LinkState::LostOneWay),
        LinkFault::LostTo => ("link-one-way", (other, PAGESERVER), LinkState::LostOneWay),
    };
    // One state per pair of machines at a time.
    if [link, (link.1, link.0)].iter().any(|l| state.links.get(l).is_some_and(|count| *count > 0)) {
        return None;
    }
    if !close(scene, state, link, to) {
        event!(scene.trace, "fault", "op=skipped world={} has no {how:?}", scene.cluster.world.name());
        return None;
    }
    scene.count(what);
    Some(link)
}

/// Gives false if the world has no such thing.
fn close(scene: &Scene, state: &mut State, link: Link, to: LinkState) -> bool {
    let done = scene.cluster.world.set_link(link.0, link.1, to);
    *state.links.entry(link).or_default() += u32::from(done);
    done
}

fn open(scene: &Scene, state: &mut State, link: Link) {
    let Some(count) = state.links.get_mut(&link) else { return };
    *count -= 1;
    if *count == 0 {
        scene.cluster.world.set_link(link.0, link.1, LinkState::Open);
        event!(scene.trace, "fault", "op=link_open from={} to={}", link.0, link.1);
    }
}

fn disk(scene: &Scene, state: &mut State, id: u32, kind: FaultKind) -> Option<(u64, Action)> {
    let disk = scene.cluster.disk(PAGESERVER);
    match kind {
        FaultKind::DiskErrors { for_ms, read_ppm, write_ppm, sync_ppm, budget, files } => {
            scene.count("disk-errors");
            state.disk_errors += 1;
            let data = format!("{}/", crate::node::DATA_DIR);
            let only = match files {
                Files::All => vec![data],
                Files::WalLog => vec![data, "/wal/".to_string()],
                Files::Layers => vec![data, "__".to_string()],
            };
            let (read_error_ppm, write_error_ppm, sync_error_ppm) = (read_ppm, write_ppm, sync_ppm);
            disk.begin_faults(id, DiskFaults { read_error_ppm, write_error_ppm, sync_error_ppm, budget, only, ..DiskFaults::default() });
            Some((for_ms, Action::DiskCalm))
        }
        FaultKind::DiskHostile { for_ms, read_ppm, write_ppm, sync_ppm, budget, files } => {
            scene.count("disk-hostile");
            state.disk_errors += 1;
            disk.begin_faults(
                id,
                DiskFaults {
                    misdirected_read_ppm: read_ppm,
                    misdirected_write_ppm: write_ppm,
                    lying_sync_ppm: sync_ppm,
                    budget,
                    only: vec![format!("{}/", crate::node::DATA_DIR)],
                    one_of: with_checksums(files),
                    ..DiskFaults::default()
                },
            );
            Some((for_ms, Action::DiskCalm))
        }
        FaultKind::DiskFull { for_ms, left_bytes } => {
            scene.count("disk-full");
            state.disk_full += 1;
            disk.set_capacity(disk.used() + left_bytes);
            event!(scene.trace, "fault", "op=disk_full used={}", disk.used());
            Some((for_ms, Action::DiskGrows))
        }
        FaultKind::DiskStall { for_ms } => {
            scene.count("disk-stall");
            scene.cluster.stall_disk(PAGESERVER, scene.now().after(Duration::from_millis(for_ms)));
            None
        }
        FaultKind::BitRot { pick } => {
            let safe = scene.layers_with_a_copy();
            let chosen = (pick >> 32).checked_rem(safe.len() as u64).and_then(|at| safe.get(at as usize));
            if let Some(path) = chosen.filter(|path| disk.rot(path, pick)) {
                scene.count("bit-rot");
                event!(scene.trace, "fault", "op=bit_rot path={path}");
            }
            None
        }
        _ => None,
    }
}

/// What the paths of files contain whose every byte is under a checksum: segments of the WAL log, and layers, also while
/// they are written. The node's own few small files have none, and nobody could notice.
fn with_checksums(files: Files) -> Vec<String> {
    let (log, layers) = (["/wal/0"].as_slice(), ["__", "/layer-"].as_slice());
    let parts = match files {
        Files::All => [log, layers].concat(),
        Files::WalLog => log.to_vec(),
        Files::Layers => layers.to_vec(),
    };
    parts.into_iter().map(str::to_string).collect()
}

impl Scene {
    /// Layer files of the pageserver that remote storage has too, named by an index that is stored.
    fn layers_with_a_copy(&self) -> Vec<String> {
        let objects = self.cluster.store.snapshot(self.now());
        let disk = self.cluster.disk(PAGESERVER);
        let named = |path: &str| {
            let (directory, name) = path.rsplit_once('/')?;
            let remote = directory.strip_prefix(crate::node::DATA_DIR)?.strip_prefix('/')?;
            let stored = objects.range(format!("{remote}/{name}-")..).next()?.0.starts_with(&format!("{remote}/{name}-"));
            let index = objects.range(format!("{remote}/index_part.json")..).take_while(|(p, _)| p.starts_with(remote)).last()?.1;
            let index = palimpsest::remote::IndexPart::decode(index).ok()?;
            (stored && index.layer_metadata.contains_key(name)).then_some(())
        };
        disk.files().into_iter().filter(|path| named(path).is_some()).collect()
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
    let incarnation = scene.life();
    let client = scene.client.tasks.clone();
    client.spawn("without-primary", async move {
        let deadline = scene.now().after(READABLE_LIMIT);
        let rel = version.map_or(generator::table(generator::FIRST_OID), |v| v.rel);
        let request = Request::Page(rel, version.map_or(0, |v| v.block));
        let question = Question { timeline: scene.timeline, request, at: ReadAt::exactly(lsn) };
        let mut stream = None;
        while scene.now() < deadline {
            // The answer itself is judged like any other.
            if readers::ask(&scene, &mut stream, question).await == "read-ok" {
                scene.count("read-without-primary");
                return;
            }
            scene.client.clock.sleep(Duration::from_millis(100)).await;
        }
        if scene.life() == incarnation && lsn > Lsn::INVALID {
            let text =
                format!("flush was reported at {acknowledged}, but {lsn} cannot be read without the primary within {READABLE_LIMIT:?}");
            scene.judge.violated("DU-4", text);
        }
    });
}
