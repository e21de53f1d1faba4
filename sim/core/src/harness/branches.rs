//! Creates branches, as a client does that knows only what it was answered: it asks again until it is told that the branch is
//! there, and sometimes in several requests at once.
//!
//! - `CR-1`: a request that was answered with 201 is answered with 201 as often as it is repeated, also after restarts.
//! - `CR-2`: 409 for the same parameters only while another request may be at work; never for ever.
//! - `CR-3`: the same id with other parameters is refused with 409.
//! - `CR-4`: a branch is what was asked for: its ancestor, its LSN.
//! - `CR-5`: after the faults every branch is there: asked for again it is answered with 201 within the bound, and the list of
//!   timelines has each of them once and nothing else.
//!
//! A request without an answer is *unknown*: it may be at work still.

use super::operator::{ANSWER_LIMIT, call, call_at};
use super::{PAGESERVER, Scene};
use crate::event;
use crate::plan::{Op, OpKind};
use hyper::Method;
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::types::{Lsn, TimelineId};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(300);
/// Time for which a request may be at work after the last word of it.
const AT_WORK: Duration = Duration::from_secs(130);
/// Time to settle after the faults.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);

/// A branch that somebody asked for.
#[derive(Debug, Clone, Copy)]
pub struct Branch {
    pub timeline: TimelineId,
    pub ancestor: TimelineId,
    pub lsn: Lsn,
    /// Somebody was answered with 201.
    confirmed: bool,
    /// All that ask for it as the plan says have done so.
    asked: bool,
    /// It is being deleted, or is gone.
    gone: bool,
    /// Requests under way.
    open: u32,
    /// When a request was last under way: a request without an answer may go on for a while.
    last: Mono,
}

/// All branches by their numbers.
#[derive(Clone, Default)]
pub struct Branches(Arc<Mutex<BTreeMap<u32, Branch>>>);

impl Branches {
    pub fn count(&self) -> u32 {
        self.0.lock().len() as u32
    }

    /// One of those that are there for sure; any number chooses one.
    pub fn confirmed(&self, pick: u64) -> Option<Branch> {
        let all = self.all_confirmed();
        let index = pick.checked_rem(all.len() as u64)?;
        all.get(index as usize).copied()
    }

    pub fn all_confirmed(&self) -> Vec<Branch> {
        self.0.lock().values().filter(|b| b.confirmed && !b.gone).copied().collect()
    }

    /// Takes a branch without branches for its deletion; any number chooses one.
    pub fn take_leaf(&self, pick: u64) -> Option<(u32, Branch)> {
        let mut all = self.0.lock();
        let has_branches = |id: TimelineId| all.values().any(|b| b.ancestor == id && !b.gone);
        let leaves: Vec<u32> =
            all.iter().filter(|(_, b)| b.confirmed && b.asked && !b.gone && !has_branches(b.timeline)).map(|(number, _)| *number).collect();
        let number = *leaves.get(pick.checked_rem(leaves.len() as u64)? as usize)?;
        let branch = all.get_mut(&number)?;
        branch.gone = true;
        Some((number, *branch))
    }

    fn is_gone(&self, timeline: TimelineId) -> bool {
        self.0.lock().values().any(|b| b.timeline == timeline && b.gone)
    }

    /// The branch is not deleted after all.
    pub fn put_back(&self, number: u32) {
        self.change(number, |branch| branch.gone = false);
    }

    fn get(&self, number: u32) -> Option<Branch> {
        self.0.lock().get(&number).copied()
    }

    fn change(&self, number: u32, f: impl FnOnce(&mut Branch)) {
        if let Some(branch) = self.0.lock().get_mut(&number) {
            f(branch);
        }
    }
}

pub fn start(scene: &Scene, start: Mono) {
    for op in &scene.plan.ops {
        if let OpKind::Branch { branch, .. } = op.kind {
            let (inner, op) = (scene.clone(), op.clone());
            scene.client.tasks.spawn(&format!("branch-{branch}"), async move {
                inner.client.clock.sleep_until(start.after(Duration::from_millis(op.at_ms))).await;
                create(&inner, &op).await;
            });
        }
    }
}

async fn create(scene: &Scene, op: &Op) {
    let OpKind::Branch { branch: number, of, parallel, again, pick } = op.kind else { return };
    let Some(branch) = define(scene, number, of, pick) else { return };
    event!(
        scene.client_trace(),
        "op",
        "id={} branch={number} timeline={} of={} lsn={}",
        op.id,
        branch.timeline,
        branch.ancestor,
        branch.lsn
    );
    let mut tasks = Vec::new();
    for _ in 0..parallel.max(1) {
        let inner = scene.clone();
        tasks.push(scene.client.tasks.spawn(&format!("branch-{number}"), async move {
            while inner.judge.verdict().is_none() && !request(&inner, number, None).await {
                inner.client.clock.sleep(PAUSE).await;
            }
        }));
    }
    for task in tasks {
        task.join().await;
    }
    for _ in 0..again {
        request(scene, number, None).await;
    }
    // The same id at another LSN.
    request(scene, number, Some(Lsn(branch.lsn.0 - 8))).await;
    scene.branches.change(number, |b| b.asked = true);
}

/// Chooses where the branch begins. `None` if the one it is made of was never asked for.
fn define(scene: &Scene, number: u32, of: Option<u32>, pick: u64) -> Option<Branch> {
    let (ancestor, most) = match of {
        None => (scene.timeline, Lsn::MAX),
        Some(of) => scene.branches.get(of).filter(|b| !b.gone).map(|b| (b.timeline, b.lsn))?,
    };
    let lsn = {
        let primary = scene.postgres.primary.lock();
        let model = &primary.generator.model;
        let floor = if of.is_some() { most } else { model.base() };
        // Of a branch that nobody writes to only its own first LSN can be had; of the root any that has a version.
        let version = model.version_number(pick)?.lsn;
        version.max(floor).min(most).max(model.base())
    };
    let mut ids = scene.cluster.source.stream(&format!("branch-{number}"));
    let branch = Branch {
        timeline: TimelineId::generate(&mut ids),
        ancestor,
        lsn,
        confirmed: false,
        asked: false,
        gone: false,
        open: 0,
        last: scene.now(),
    };
    scene.branches.0.lock().insert(number, branch);
    Some(branch)
}

/// Asks once for a branch, or with `other` for one of its id at another LSN. Gives whether the answer was what it has to be in the end.
async fn request(scene: &Scene, number: u32, other: Option<Lsn>) -> bool {
    let Some(before) = scene.branches.get(number) else { return true };
    if !before.confirmed && scene.branches.is_gone(before.ancestor) {
        // What it was to be made of never came to be.
        scene.branches.change(number, |b| b.gone = true);
        return true;
    }
    let begun = scene.now();
    // Another request that may have been at work at some time while this one was.
    let busy = before.open > 0 || begun.since(before.last) < AT_WORK;
    scene.branches.change(number, |b| b.open += 1);
    let body = json!({
        "new_timeline_id": before.timeline.to_string(),
        "ancestor_timeline_id": before.ancestor.to_string(),
        "ancestor_start_lsn": other.unwrap_or(before.lsn).to_string(),
    });
    // Where the tenant moves, a second request at a time goes to the node that it has left, or will come to.
    let host = if scene.plan.moves() && other.is_none() && before.open % 2 == 1 { scene.other_node() } else { scene.home() };
    let answer = call_at(scene, host, Method::POST, &format!("/v1/tenant/{}/timeline", scene.tenant), Some(body)).await;
    let now = scene.now();
    scene.branches.change(number, |b| {
        b.open -= 1;
        if answer.is_err() {
            b.last = now.after(ANSWER_LIMIT);
        } else {
            b.last = b.last.max(now);
        }
    });
    let Ok(answer) = answer else { return false };
    scene.count(&format!("branch-{}", answer.status));
    match (answer.status, other) {
        (201, None) => {
            check(scene, &before, &answer.body);
            // Refused for a cutoff that a crash took back, and made by another request.
            scene.branches.change(number, |b| (b.gone, b.confirmed) = (b.gone && b.confirmed, true));
            true
        }
        (201, Some(lsn)) => {
            scene.judge.violated("CR-3", format!("branch {number} is at {}, a request for {lsn} was answered with 201", before.lsn));
            true
        }
        (409, Some(_)) => true,
        (406, Some(_)) if scene.plan.knobs.pageserver.gc.period_ms > 0 => true,
        // Its history has gone before it came to be.
        (406, None) if !before.confirmed && before.ancestor == scene.timeline && before.lsn < scene.progress.lock().gc_cutoff => {
            scene.branches.change(number, |b| b.gone = true);
            true
        }
        // What is known of the cutoff may be older than the answer.
        (406, None) if scene.plan.knobs.pageserver.gc.period_ms > 0 => false,
        (409, None) => {
            if before.confirmed && !busy {
                scene.judge.violated("CR-1", format!("branch {number} was there, and is refused now: {}", answer.body));
            }
            if !before.confirmed && !busy {
                scene.judge.violated("CR-2", format!("branch {number} is refused, though nothing is at work: {}", answer.body));
            }
            false
        }
        (400 | 401 | 403 | 405..=408, _) => {
            scene.judge.violated("CR-4", format!("branch {number} at {} is refused with {}: {}", before.lsn, answer.status, answer.body));
            true
        }
        // Its ancestor may not be there yet, the node may wait for the LSN or for the store.
        _ => other.is_some(),
    }
}

fn check(scene: &Scene, branch: &Branch, body: &serde_json::Value) {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_string();
    let (id, ancestor, lsn) = (text("timeline_id"), text("ancestor_timeline_id"), text("ancestor_lsn"));
    if id != branch.timeline.to_string() || ancestor != branch.ancestor.to_string() || lsn != branch.lsn.to_string() {
        let wanted = format!("{} of {} at {}", branch.timeline, branch.ancestor, branch.lsn);
        scene.judge.violated("CR-4", format!("asked for {wanted}, was given {id} of {ancestor} at {lsn}"));
    }
}

/// Waits until every branch is there, and holds the list of timelines against them. Gives false if that failed.
pub async fn settled(scene: &Scene) -> bool {
    let numbers: Vec<u32> = scene.branches.0.lock().iter().filter(|(_, b)| !b.gone).map(|(number, _)| *number).collect();
    if numbers.is_empty() {
        return true;
    }
    let inner = scene.clone();
    let (send, receive) = tokio::sync::oneshot::channel();
    scene.client.tasks.spawn("settle", async move {
        let _ = send.send(settle(&inner, numbers).await);
    });
    receive.await.unwrap_or(false)
}

async fn settle(scene: &Scene, numbers: Vec<u32>) -> bool {
    let deadline = scene.now().after(SETTLE_LIMIT);
    for number in numbers {
        while !request(scene, number, None).await {
            if scene.judge.verdict().is_some() {
                return false;
            }
            if scene.now() > deadline {
                scene.judge.violated("CR-5", format!("branch {number} cannot be created within {SETTLE_LIMIT:?} after the last fault"));
                return false;
            }
            scene.client.clock.sleep(PAUSE).await;
        }
    }
    let life = scene.cluster.disk(PAGESERVER).incarnation();
    let Ok(list) = call(scene, Method::GET, &format!("/v1/tenant/{}/timeline", scene.tenant), None).await else { return true };
    let ids: Vec<String> = list.body.as_array().into_iter().flatten().filter_map(|t| t["timeline_id"].as_str().map(String::from)).collect();
    let unique: BTreeSet<String> = ids.iter().cloned().collect();
    let wanted: BTreeSet<String> =
        scene.branches.0.lock().values().filter(|b| !b.gone).map(|b| b.timeline).chain([scene.timeline]).map(|t| t.to_string()).collect();
    // Given up by who asked for it, and perhaps made all the same by a request without an answer.
    let given_up = |id: &String| scene.branches.0.lock().values().any(|b| b.gone && !b.confirmed && b.timeline.to_string() == *id);
    let (ids, unique): (Vec<String>, BTreeSet<String>) =
        (ids.into_iter().filter(|id| !given_up(id)).collect(), unique.into_iter().filter(|id| !given_up(id)).collect());
    if list.status == 200 && life == scene.cluster.disk(PAGESERVER).incarnation() && (unique != wanted || ids.len() != wanted.len()) {
        scene.judge.violated("CR-5", format!("the timelines are {ids:?}, but {wanted:?} were asked for"));
    }
    scene.count("settled");
    scene.judge.verdict().is_none()
}
