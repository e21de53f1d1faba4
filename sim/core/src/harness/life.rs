//! Changes what the node has of the tenant, one thing after the other, as a client does that knows only what it was answered:
//! it asks again until it is done.
//!
//! - `LC-1`: a tenant that was taken off the node, or ignored, comes back when it is attached, or loaded, within the bound.
//! - `LC-2`: settings that were confirmed are the settings, also after restarts and on another machine.
//! - `LC-3`: a deletion that was confirmed ends, and what was deleted stays away (held by `CR-5`).
//! - `LC-4`: a node that was superseded confirms no settings.

use super::operator::{call, call_at};
use super::{PAGESERVER, Scene};
use crate::client::http::Answer;
use crate::event;
use crate::plan::{OpKind, TenantOp};
use hyper::Method;
use object_store::path::Path as ObjectPath;
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::remote::path;
use palimpsest::types::{Generation, Lsn};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(200);
/// Time for one change, once the faults are over.
const LIMIT: Duration = Duration::from_secs(300);
/// A node that lost the tenant goes on for up to twice as long before anybody tells it.
const ZOMBIE_MS_MAX: u64 = 3_000;

/// What the actor knows.
#[derive(Clone, Default)]
pub struct Life {
    /// Nothing is under way, and nothing will be.
    done: Arc<AtomicBool>,
    /// Settings that were confirmed last.
    settings: Arc<Mutex<Option<Value>>>,
}

pub fn start(scene: &Scene, start: Mono) {
    let ops: Vec<_> = scene.plan.ops.iter().filter(|op| matches!(op.kind, OpKind::Tenant { .. })).cloned().collect();
    if ops.is_empty() {
        scene.life.done.store(true, Ordering::Relaxed);
        return;
    }
    let inner = scene.clone();
    scene.client.tasks.spawn("life", async move {
        for op in ops {
            let OpKind::Tenant { what, pick } = op.kind else { continue };
            inner.client.clock.sleep_until(start.after(Duration::from_millis(op.at_ms))).await;
            event!(inner.client_trace(), "op", "id={} tenant={what:?}", op.id);
            match what {
                TenantOp::Detach => detach(&inner).await,
                TenantOp::Ignore => ignore(&inner).await,
                TenantOp::Settings => settings(&inner, pick).await,
                TenantOp::DeleteBranch => delete_branch(&inner, pick).await,
                TenantOp::Move => move_away(&inner, pick).await,
            }
            inner.count(&format!("tenant-{what:?}"));
        }
        if inner.home() != PAGESERVER {
            move_away(&inner, 0).await;
        }
        inner.life.done.store(true, Ordering::Relaxed);
    });
}

/// Waits until all changes are made. Gives false if that failed.
pub async fn settled(scene: &Scene) -> bool {
    let done = || scene.life.done.load(Ordering::Relaxed);
    if !scene.wait_until(LIMIT, done).await {
        if scene.judge.verdict().is_none() {
            scene.judge.violated("LC-1", format!("a change of the tenant does not end within {LIMIT:?} after the last fault"));
        }
        return false;
    }
    let confirmed = scene.life.settings.lock().clone();
    let Some(confirmed) = confirmed else { return true };
    let inner = scene.clone();
    let (send, receive) = tokio::sync::oneshot::channel();
    scene.client.tasks.spawn("look-at-settings", async move {
        let answer = until(&inner, Method::GET, &of_tenant(&inner, "config"), None, |answer| answer.status == 200).await;
        let _ = send.send(answer);
    });
    let found = receive.await.ok().flatten().map(|answer| answer.body["tenant_specific_overrides"].clone());
    if let Some(found) = found.filter(|found| *found != confirmed) {
        scene.judge.violated("LC-2", format!("the settings {confirmed} were confirmed, the tenant has {found}"));
    }
    scene.judge.verdict().is_none()
}

fn of_tenant(scene: &Scene, what: &str) -> String {
    format!("/v1/tenant/{}/{what}", scene.tenant)
}

/// Asks until `done` says so of an answer; `None` when the run is over.
async fn until(scene: &Scene, method: Method, path: &str, body: Option<Value>, done: impl Fn(&Answer) -> bool) -> Option<Answer> {
    until_at(scene, scene.home(), method, path, body, done).await
}

async fn until_at(
    scene: &Scene,
    host: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
    done: impl Fn(&Answer) -> bool,
) -> Option<Answer> {
    while scene.judge.verdict().is_none() {
        if let Ok(answer) = call_at(scene, host, method.clone(), path, body.clone()).await
            && done(&answer)
        {
            return Some(answer);
        }
        scene.client.clock.sleep(PAUSE).await;
    }
    None
}

/// What the operator sees from here on is another time.
fn set_away(scene: &Scene, away: bool) {
    let mut progress = scene.progress.lock();
    (progress.is_away, progress.away) = (away, progress.away + 1);
}

async fn detach(scene: &Scene) {
    set_away(scene, true);
    // 404: it was an earlier request that did it, without an answer.
    if until(scene, Method::POST, &of_tenant(scene, "detach"), None, |answer| matches!(answer.status, 200 | 404)).await.is_none() {
        return;
    }
    // The WAL log went with it. Remote storage and the primary have it all.
    scene.postgres.durability.machine_lost();
    set_away(scene, true);
    scene.progress.lock().last_record = Lsn::INVALID;
    attach_again(scene).await;
    set_away(scene, false);
}

async fn attach_again(scene: &Scene) {
    let config = scene.life.settings.lock().clone().unwrap_or_else(|| json!({}));
    attached(scene, "attach", Some(json!({ "config": config }))).await;
}

async fn ignore(scene: &Scene) {
    set_away(scene, true);
    if until(scene, Method::POST, &of_tenant(scene, "ignore"), None, |answer| matches!(answer.status, 200 | 404)).await.is_none() {
        return;
    }
    set_away(scene, true);
    scene.progress.lock().last_record = Lsn::INVALID;
    attached(scene, "load", None).await;
    set_away(scene, false);
}

/// The polling contract: 202 and 409 mean to look; a tenant that is missing, to ask again; one that failed, to detach first.
async fn attached(scene: &Scene, how: &str, body: Option<Value>) {
    let tenant = format!("/v1/tenant/{}", scene.tenant);
    while scene.judge.verdict().is_none() {
        let asked = call(scene, Method::POST, &of_tenant(scene, how), body.clone()).await;
        if !asked.is_ok_and(|answer| matches!(answer.status, 202 | 409)) {
            scene.client.clock.sleep(PAUSE).await;
            continue;
        }
        let settled = |answer: &Answer| match answer.status {
            200 => answer.body["attachment_status"]["slug"] != "maybe" && answer.body["state"]["slug"] != "Loading",
            status => status == 404,
        };
        let Some(answer) = until(scene, Method::GET, &tenant, None, settled).await else { return };
        match answer.body["attachment_status"]["slug"].as_str() {
            Some("attached") => return,
            Some(_) => {
                scene.count("attach-failed");
                let again = if how == "load" { "ignore" } else { "detach" };
                until(scene, Method::POST, &of_tenant(scene, again), None, |answer| matches!(answer.status, 200 | 404)).await;
            }
            None => {}
        }
    }
}

/// The other node attaches the tenant, and clients go there. The one before is not told, and detaches it after a while.
async fn move_away(scene: &Scene, pick: u64) {
    let (old, new) = (scene.home(), scene.other_node());
    event!(scene.client_trace(), "op", "move from={old} to={new}");
    set_away(scene, true);
    *scene.home.lock() = new;
    scene.progress.lock().last_record = Lsn::INVALID;
    attach_again(scene).await;
    set_away(scene, false);
    scene.client.clock.sleep(Duration::from_millis(pick % ZOMBIE_MS_MAX)).await;
    if pick % 2 == 1 {
        settings_at_stale(scene, old, pick).await;
    }
    scene.client.clock.sleep(Duration::from_millis((pick >> 32) % ZOMBIE_MS_MAX)).await;
    until_at(scene, old, Method::POST, &of_tenant(scene, "detach"), None, |answer| matches!(answer.status, 200 | 404)).await;
    scene.postgres.durability.machine_lost();
    // Without a control plane a node that starts takes its tenants back.
    if newest_at_home(scene).await.is_none() {
        scene.count("taken-back");
        detach(scene).await;
    }
}

/// Nothing may be confirmed by a node that has lost the tenant to another.
async fn settings_at_stale(scene: &Scene, host: &str, pick: u64) {
    let Some(before) = newest_at_home(scene).await else { return };
    let body = json!({ "tenant_id": scene.tenant.to_string(), "checkpoint_distance": 8192 + pick % 1000 });
    let answer = call_at(scene, host, Method::PUT, "/v1/tenant/config", Some(body)).await;
    scene.count("stale-asked");
    let was_stale = newest_at_home(scene).await == Some(before);
    if was_stale && answer.is_ok_and(|answer| answer.status == 200) {
        scene.judge.violated("LC-4", format!("{host} confirmed settings of a tenant that another node has in a newer generation"));
    }
}

/// The generation in which clients have the tenant, if it is the newest.
async fn newest_at_home(scene: &Scene) -> Option<Generation> {
    let known = |answer: &Answer| answer.status == 200 && answer.body["generation"].is_u64();
    let here = until(scene, Method::GET, &format!("/v1/tenant/{}", scene.tenant), None, known).await?.body["generation"].as_u64();
    let manifests = path::tenant(scene.tenant);
    let objects = scene.cluster.store.snapshot(scene.now());
    let names = objects.keys().filter(|name| name.starts_with(manifests.as_ref())).map(|name| ObjectPath::from(name.as_str()));
    let newest = names.filter_map(|name| path::manifest_generation(&name)).max()?;
    (here == Some(u64::from(newest.0))).then_some(newest)
}

async fn settings(scene: &Scene, pick: u64) {
    let settings = json!({ "checkpoint_distance": 8192 + pick % 100_000, "compaction_threshold": 2 + pick % 5 });
    let mut body = settings.clone();
    body["tenant_id"] = json!(scene.tenant.to_string());
    let confirmed = until(scene, Method::PUT, "/v1/tenant/config", Some(body), |answer| answer.status == 200).await;
    if confirmed.is_some() {
        *scene.life.settings.lock() = Some(settings);
    }
}

async fn delete_branch(scene: &Scene, pick: u64) {
    let Some((number, branch)) = scene.branches.take_leaf(pick) else { return };
    event!(scene.client_trace(), "op", "delete branch={number} timeline={}", branch.timeline);
    let timeline = of_tenant(scene, &format!("timeline/{}", branch.timeline));
    let Some(asked) = until(scene, Method::DELETE, &timeline, None, |answer| matches!(answer.status, 202 | 404 | 409 | 412)).await else {
        return;
    };
    if asked.status == 412 {
        // Somebody branched from it meanwhile.
        scene.count("delete-refused");
        return scene.branches.put_back(number);
    }
    // A try without an answer may have marked it, or not: asked for again as long as it is there.
    let gone = |answer: &Answer| answer.status == 404;
    while scene.judge.verdict().is_none() {
        match call(scene, Method::GET, &timeline, None).await {
            Ok(answer) if gone(&answer) => return scene.count("deleted"),
            Ok(answer) if answer.status == 200 && answer.body["state"] == "Active" => {
                if asked.status == 202 {
                    scene.judge.violated("LC-3", format!("the deletion of branch {number} was confirmed, and it serves: {}", answer.body));
                }
                // An error is asked for again just below.
                let _ = call(scene, Method::DELETE, &timeline, None).await;
            }
            _ => {}
        }
        scene.client.clock.sleep(PAUSE).await;
    }
}
