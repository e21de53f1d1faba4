//! Runs a plan: sets the cluster up, lets actors and faults loose, heals, and reads everything back.
//!
//! Phases: setup (no faults) until the imported timeline follows the primary; safety, with faults, where only "nothing bad"
//! is asked; heal, where faults end and the node has a bound to reach the end of the WAL; audit, where every sampled
//! version must read back. The first violation ends the run.

mod audit;
mod branches;
mod faults;
mod fuse;
mod life;
mod operator;
mod readers;
mod storage;
mod storms;
mod times;

use crate::disk::CrashKind;
use crate::event;
use crate::node;
use crate::oracle::durability::Durability;
use crate::oracle::{Judge, Violation};
use crate::plan::{OpKind, Plan};
use crate::postgres::datadir::{self, DataDir};
use crate::postgres::generator::{Generator, VERSION};
use crate::postgres::{SimPostgres, walsender};
use crate::trace::HostTrace;
use crate::world::{Cluster, Death};
use palimpsest::io_abstraction::{ClockExt as _, Env, Mono};
use palimpsest::pg::xlog::synthesize::WalIdentity;
use palimpsest::types::{Lsn, TenantId, TimelineId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Host names.
pub const PAGESERVER: &str = "ps";
/// Where the tenant moves to and fro. Only the store fails it.
pub const SECOND: &str = "ps2";
pub const PRIMARY: &str = "pg";
pub const CLIENT: &str = "client";

const SEGMENT_SIZE: u64 = 16 << 20;
/// What nobody can promise on a disk that is not honest: that what was synced stays, that everything comes back. Answers are
/// right all the same, or errors.
const WAIVED: [&str; 7] = ["DU-1", "DU-2", "DU-4", "OP-1", "LV-1", "AU-1", "LG-1"];
/// Bound for the setup, which has no faults.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// What all parts of the harness share.
#[derive(Clone)]
pub struct Scene {
    pub cluster: Cluster,
    pub plan: Arc<Plan>,
    pub postgres: SimPostgres,
    pub judge: Judge,
    pub tenant: TenantId,
    pub timeline: TimelineId,
    /// Environment of the clients' host, which never fails.
    pub client: Env,
    trace: HostTrace,
    data_dir: Arc<DataDir>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    progress: Arc<Mutex<operator::Progress>>,
    branches: branches::Branches,
    supervised: Supervised,
    second: Supervised,
    /// The node that the tenant is on, as far as clients know.
    home: Arc<Mutex<&'static str>>,
    life: life::Life,
}

/// The node's process, as its supervisor sees it.
#[derive(Clone, Default)]
struct Supervised {
    process: node::Process,
    /// Somebody takes the process down and will start it again.
    down: Arc<AtomicBool>,
}

impl Scene {
    /// Counts something for the report.
    pub fn count(&self, what: &str) {
        *self.counts.lock().entry(what.to_string()).or_default() += 1;
    }

    pub fn now(&self) -> Mono {
        self.client.clock.mono()
    }

    pub fn home(&self) -> &'static str {
        *self.home.lock()
    }

    /// The node that the tenant is not on. It may believe otherwise.
    pub fn other_node(&self) -> &'static str {
        if self.home() == PAGESERVER { SECOND } else { PAGESERVER }
    }

    /// Waits until `condition`, at most for `limit`.
    async fn wait_until(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        let end = self.now().after(limit);
        while !condition() {
            if self.judge.verdict().is_some() || self.now() >= end {
                return false;
            }
            self.client.clock.sleep(POLL).await;
        }
        true
    }
}

/// How a run went.
pub struct Ran {
    pub violation: Option<Violation>,
    pub counts: BTreeMap<String, u64>,
}

/// Runs a plan on a fresh cluster.
pub async fn run(cluster: Cluster, plan: Plan) -> Ran {
    let hosts = if plan.moves() { vec![PRIMARY, PAGESERVER, SECOND, CLIENT] } else { vec![PRIMARY, PAGESERVER, CLIENT] };
    for host in &hosts {
        cluster.add_host(host);
    }
    let scene = scene(cluster, plan);
    event!(scene.trace, "state", "phase=setup knobs={}", serde_json::to_string(&scene.plan.knobs).unwrap_or_default());
    phases(&scene).await;
    if let Some(objection) = scene.cluster.log.objection(scene.plan.is_calm()) {
        scene.judge.violated("LG-1", objection);
    }
    let mut counts = scene.counts.lock().clone();
    counts.insert("wal-bytes".to_string(), scene.postgres.end().distance_from(scene.postgres.primary.lock().generator.model.base()));
    counts.insert("operations".to_string(), scene.cluster.disk(PAGESERVER).fuse().operations());
    counts.insert("status-reports".to_string(), scene.postgres.durability.reports());
    let (errors, warnings) = scene.cluster.log.counts();
    counts.extend([("log-errors".to_string(), errors), ("log-warnings".to_string(), warnings)]);
    for (mark, count) in scene.cluster.marks(PAGESERVER) {
        counts.insert(format!("mark:{mark}"), count);
    }
    for (what, count) in scene.cluster.disk(PAGESERVER).dishonest() {
        counts.insert(what.to_string(), count);
    }
    event!(scene.trace, "state", "phase=end");
    // Tasks hold the cluster and the cluster holds the tasks: without this nothing of a run would ever be freed.
    for host in hosts {
        scene.cluster.world.kill(host, Death::Closed);
    }
    scene.client.clock.sleep(POLL).await;
    Ran { violation: scene.judge.verdict(), counts }
}

fn scene(cluster: Cluster, plan: Plan) -> Scene {
    let source = cluster.source.child("cluster");
    let mut ids = source.stream("ids");
    let (tenant, timeline) = (TenantId::generate(&mut ids), TimelineId::generate(&mut ids));
    let identity =
        WalIdentity { version: VERSION, system_id: TimelineId::generate(&mut ids).system_identifier(), tli: 1, segment_size: SEGMENT_SIZE };
    let mut generator = Generator::new(identity, Lsn(SEGMENT_SIZE), plan.knobs.workload.clone(), &source);
    let data_dir = datadir::build(&mut generator, &source);
    let trace = cluster.trace.host("harness", 0);
    let judge = Judge::new(trace.clone()).waiving(if plan.knobs.hostile { &WAIVED } else { &[] });
    let durability = Durability::new(judge.clone(), generator.model.base());
    let postgres = SimPostgres::new(generator, durability);
    let client = cluster.env(CLIENT);
    Scene {
        client,
        plan: Arc::new(plan),
        postgres,
        judge,
        tenant,
        timeline,
        trace,
        data_dir: Arc::new(data_dir),
        counts: Arc::default(),
        progress: Arc::default(),
        branches: branches::Branches::default(),
        supervised: Supervised::default(),
        second: Supervised::default(),
        home: Arc::new(Mutex::new(PAGESERVER)),
        life: life::Life::default(),
        cluster,
    }
}

async fn phases(scene: &Scene) {
    let primary = scene.cluster.env(PRIMARY);
    let served = walsender::serve(primary, scene.postgres.clone(), scene.plan.knobs.walsender.clone());
    scene.cluster.start(PRIMARY, Box::pin(served));
    scene.cluster.start(CLIENT, Box::pin(operator::operate(scene.clone())));
    scene.restore_data_dir();
    fuse::light(scene);
    if scene.plan.moves() && !second_up(scene).await {
        return scene.judge.violated("setup", format!("the second node did not start within {SETUP_LIMIT:?}"));
    }
    scene.start_node();
    supervise(scene);
    let ready = || scene.progress.lock().following && scene.has_slot();
    if !scene.wait_until(SETUP_LIMIT, ready).await {
        return scene.judge.violated("setup", format!("the node did not import and follow the cluster within {SETUP_LIMIT:?}"));
    }
    event!(scene.trace, "state", "phase=safety");
    let start = scene.now();
    scene.cluster.set_buggify(PAGESERVER, scene.plan.knobs.pageserver.buggify_ppm);
    primary_actor(scene, start);
    readers::start(scene, start);
    branches::start(scene, start);
    storms::start(scene, start);
    life::start(scene, start);
    faults::run(scene, start).await;
    if scene.judge.verdict().is_some() {
        return;
    }
    event!(scene.trace, "state", "phase=heal");
    scene.cluster.set_buggify(PAGESERVER, 0);
    scene.postgres.calm_down();
    let whole = life::settled(scene).await && audit::caught_up(scene).await && branches::settled(scene).await;
    if !whole && !scene.plan.knobs.hostile {
        return;
    }
    event!(scene.trace, "state", "phase=audit");
    audit::read_back(scene, "after healing").await;
    if scene.plan.knobs.final_wipe && scene.judge.verdict().is_none() {
        audit::from_remote_alone(scene).await;
    }
}

impl Scene {
    fn has_slot(&self) -> bool {
        self.postgres.primary.lock().slots.values().any(|slot| slot.restart_lsn.is_some())
    }

    /// Starts the node's process.
    fn start_node(&self) {
        self.supervised.down.store(false, Ordering::Relaxed);
        node::start(&self.cluster, PAGESERVER, &self.plan.knobs.pageserver, self.supervised.process.clone());
    }

    /// Takes the node's process down. Gives false if it is down already.
    fn crash_node(&self, kind: CrashKind) -> bool {
        if self.supervised.down.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.cluster.crash(PAGESERVER, kind);
        true
    }

    fn life(&self) -> u64 {
        self.cluster.disk(PAGESERVER).incarnation()
    }

    /// Puts the cluster to import onto the pageserver's disk.
    fn restore_data_dir(&self) {
        let disk = self.cluster.env(PAGESERVER).disk;
        let written = self.data_dir.write(&*disk, std::path::Path::new(operator::IMPORT_DIR), SEGMENT_SIZE);
        written.expect("the disk has no faults while a data directory is put on it");
    }
}

/// Starts the second node, before there is a tenant: a node that is new takes over all that there are.
async fn second_up(scene: &Scene) -> bool {
    let process = scene.second.process.clone();
    node::start(&scene.cluster, SECOND, &scene.plan.knobs.pageserver, process.clone());
    scene.wait_until(SETUP_LIMIT, || process.is_up(scene.cluster.disk(SECOND).incarnation())).await
}

/// Starts the process again after it ended by itself, as an init system does.
fn supervise(scene: &Scene) {
    let inner = scene.clone();
    scene.client.tasks.spawn("supervisor", async move {
        loop {
            inner.client.clock.sleep(POLL).await;
            if inner.supervised.process.has_exited(inner.life()) && inner.crash_node(CrashKind::ProcessCrash) {
                inner.count("node-exited");
                inner.client.clock.sleep(POLL).await;
                inner.start_node();
            }
        }
    });
}

/// Writes WAL as the plan says.
fn primary_actor(scene: &Scene, start: Mono) {
    let inner = scene.clone();
    scene.client.tasks.spawn("primary-load", async move {
        for op in &inner.plan.ops {
            if let OpKind::Wal { steps } = op.kind {
                inner.client.clock.sleep_until(start.after(Duration::from_millis(op.at_ms))).await;
                for _ in 0..steps {
                    inner.postgres.step();
                }
                event!(inner.trace, "op", "id={} wal_end={}", op.id, inner.postgres.end());
            }
        }
    });
}
