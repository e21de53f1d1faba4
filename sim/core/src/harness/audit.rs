//! The end of a run: nothing fails any more, so everything must be there.
//!
//! - `LV-1`: the node reaches the end of the WAL, and reports it as remotely consistent, within the bound.
//! - `AU-1`: every sampled version, size and status can be read.
//!
//! What times are answered with is asked in `times`.

use super::readers::{self, Question};
use super::{PAGESERVER, Scene};
use super::{storage, times};
use crate::client::pages::{ReadAt, Request};
use crate::disk::CrashKind;
use crate::event;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::rng::below;
use palimpsest::types::SlruKind;
use std::time::Duration;

/// Attempts per question, and the pause between them.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the node has everything.
pub async fn caught_up(scene: &Scene) -> bool {
    let limit = Duration::from_millis(scene.plan.knobs.heal_ms);
    let end = scene.postgres.end();
    let there = || {
        let progress = scene.progress.lock();
        let present = progress.incarnation == scene.cluster.disk(PAGESERVER).incarnation();
        present && progress.last_record >= end && progress.remote_consistent >= end
    };
    if scene.wait_until(limit, there).await {
        return true;
    }
    if scene.judge.verdict().is_some() {
        // It was not waited for to the end.
        return false;
    }
    let progress = scene.progress.lock().clone();
    let text = format!(
        "{limit:?} after the last fault: WAL ends at {end}, last_record_lsn is {}, remote_consistent_lsn {}, the receiver says: {}",
        progress.last_record, progress.remote_consistent, progress.receiver_status
    );
    scene.judge.violated("LV-1", text);
    false
}

/// Reads a sample of everything back, from the clients' host.
pub async fn read_back(scene: &Scene, when: &'static str) {
    let inner = scene.clone();
    scene.client.tasks.spawn("audit", async move { ask_all(&inner, when).await }).join().await;
}

async fn ask_all(scene: &Scene, when: &str) {
    let questions = sample(scene, when);
    event!(scene.trace, "state", "audit=\"{when}\" questions={}", questions.len());
    let mut stream = None;
    for question in questions {
        if !answered(scene, &mut stream, question).await {
            if scene.judge.verdict().is_none() {
                let Question { request, at, .. } = question;
                scene.judge.violated("AU-1", format!("{when}: {request:?} at {} cannot be read in {ATTEMPTS} attempts", at.request_lsn));
            }
            if scene.judge.verdict().is_some() {
                return;
            }
        }
    }
    // On a disk that lies the node may rightly stop before the commits that are asked for.
    // And where garbage collection runs, so may the cutoff.
    if !scene.plan.knobs.hostile && scene.plan.knobs.pageserver.gc.period_ms == 0 {
        times::ask(scene, when).await;
    }
}

async fn answered(scene: &Scene, stream: &mut Option<readers::Open>, question: Question) -> bool {
    // Where an answer may be refused for good, one question tells as much as many.
    let attempts = if scene.plan.knobs.hostile { 1 } else { ATTEMPTS };
    for _ in 0..attempts {
        match readers::ask(scene, stream, question).await {
            "read-ok" => {
                scene.count("audit-ok");
                return true;
            }
            "read-wrong" => return false,
            // The operator looks oftener than this pauses: what it saw of the cutoff is newer than the refusal before the last.
            _ if is_collected(scene, &question) => {
                scene.count("audit-collected");
                return true;
            }
            _ => scene.client.clock.sleep(PAUSE).await,
        }
    }
    false
}

/// Whether garbage collection has gone past what is asked for. Branches begin where their ancestor is kept.
fn is_collected(scene: &Scene, question: &Question) -> bool {
    question.timeline == scene.timeline && question.at.request_lsn < scene.progress.lock().gc_cutoff
}

fn sample(scene: &Scene, when: &str) -> Vec<Question> {
    let mut rng = scene.cluster.source.stream(&format!("audit {when}"));
    let primary = scene.postgres.primary.lock();
    let model = &primary.generator.model;
    let (base, end) = (model.base(), primary.generator.end());
    let mut questions = Vec::new();
    let ask = |request, lsn| Question { timeline: scene.timeline, request, at: ReadAt::exactly(lsn) };
    for _ in 0..scene.plan.knobs.audit_versions {
        let Some(version) = model.version_number(u64::from(below(&mut rng, u64::from(u32::MAX)) as u32)) else { break };
        // Pages of a relation that does not exist at that LSN are refused.
        if model.size(version.rel, version.lsn).is_some() {
            questions.push(ask(Request::Page(version.rel, version.block), version.lsn));
        }
    }
    for rel in model.relations() {
        questions.push(ask(Request::Exists(rel), end));
        if let Some(size) = model.size(rel, end) {
            questions.push(ask(Request::Size(rel), end));
            questions.extend((0..size.min(20)).map(|block| ask(Request::Page(rel, block), end)));
        }
    }
    questions.push(ask(Request::Slru(SlruKind::Clog, 0), end));
    questions.push(ask(Request::Slru(SlruKind::Clog, 0), base));
    for branch in scene.branches.all_confirmed() {
        let Some(newest) = model.newest_version(branch.lsn).filter(|v| model.size(v.rel, branch.lsn).is_some()) else { continue };
        let at = ReadAt::exactly(branch.lsn);
        questions.push(Question { timeline: branch.timeline, request: Request::Page(newest.rel, newest.block), at });
        questions.push(Question { timeline: branch.timeline, request: Request::Slru(SlruKind::Clog, 0), at });
    }
    questions
}

/// Loses the machine and reads everything from what is in remote storage. The primary has stopped writing.
pub async fn from_remote_alone(scene: &Scene) {
    scene.count("final-wipe");
    scene.postgres.durability.machine_lost();
    while !scene.crash_node(CrashKind::Wipe) {
        scene.client.clock.sleep(PAUSE).await;
    }
    scene.progress.lock().store_calm_since = Some(scene.now());
    scene.start_node();
    if !scene.plan.knobs.hostile {
        storage::swept(scene).await;
    }
    if (caught_up(scene).await && super::branches::settled(scene).await) || scene.plan.knobs.hostile {
        read_back(scene, "from remote storage alone").await;
    }
}
