//! The operator: creates tenant and timeline, makes the node follow the primary, and watches what it says of itself.
//!
//! - `OP-1`: a timeline whose creation was confirmed is never unknown to a node that answers, once it had time to load.
//! - `OP-2`: `disk_consistent_lsn <= last_record_lsn`, and the remotely consistent LSN never moves back.

use super::{CLIENT, PAGESERVER, PRIMARY, Scene};
use crate::client::http::{Answer, NoAnswer, request};
use crate::event;
use crate::node;
use hyper::Method;
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::types::Lsn;
use serde_json::json;
use std::time::Duration;

/// Where the cluster to import lies on the pageserver's disk.
pub const IMPORT_DIR: &str = "/import/data";
const PERIOD: Duration = Duration::from_millis(250);
pub const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A node that answers must know its timelines after this long without store faults.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// What is known about the node.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The import was confirmed.
    pub imported: bool,
    /// The WAL source was accepted.
    pub following: bool,
    pub last_record: Lsn,
    pub disk_consistent: Lsn,
    /// What is told to the primary.
    pub remote_consistent: Lsn,
    pub gc_cutoff: Lsn,
    /// The tenant is off the node by a request; counts how often.
    pub away: u64,
    pub is_away: bool,
    /// Incarnation that gave these.
    pub incarnation: u64,
    /// Since when the timeline is unknown to a node that answers.
    unknown_since: Option<Mono>,
    /// The store has had no faults since then.
    pub store_calm_since: Option<Mono>,
    pub receiver_status: String,
}

/// Runs for the whole run on the clients' host.
pub async fn operate(scene: Scene) {
    loop {
        // An answer that did not come is asked for again.
        let _ = look(&scene).await;
        scene.client.clock.sleep(PERIOD).await;
    }
}

/// Asks the node that the tenant is on.
pub async fn call(scene: &Scene, method: Method, path: &str, body: Option<serde_json::Value>) -> Result<Answer, NoAnswer> {
    call_at(scene, scene.home(), method, path, body).await
}

pub async fn call_at(scene: &Scene, host: &str, method: Method, path: &str, body: Option<serde_json::Value>) -> Result<Answer, NoAnswer> {
    let label = if host == PAGESERVER { format!("{method} {path}") } else { format!("{method} {host} {path}") };
    let answer = request(&scene.client, &node::http_address(host), method, path, body, ANSWER_LIMIT).await;
    match &answer {
        Ok(answer) => {
            scene.count(&format!("http-{}", answer.status));
            event!(scene.cluster.host_trace(CLIENT), "reply", "request={label} status={} body={}", answer.status, shown(answer));
        }
        Err(error) => {
            scene.count("http-unknown");
            event!(scene.cluster.host_trace(CLIENT), "reply", "request={label} status=unknown why={error}");
        }
    }
    answer
}

/// Errors in full, information in short.
fn shown(answer: &Answer) -> String {
    match answer.status {
        200 | 201 => format!(
            "last_record={} disk={} remote={}",
            answer.body["last_record_lsn"], answer.body["disk_consistent_lsn"], answer.body["remote_consistent_lsn"]
        ),
        _ => answer.body.to_string(),
    }
}

async fn look(scene: &Scene) -> Result<(), NoAnswer> {
    let timeline = format!("/v1/tenant/{}/timeline/{}", scene.tenant, scene.timeline);
    let incarnation = scene.cluster.disk(scene.home()).incarnation();
    let away = scene.progress.lock().away;
    let answer = call(scene, Method::GET, &timeline, None).await?;
    let known = scene.progress.lock().clone();
    match answer.status {
        // It was taken off meanwhile: the answer tells of a time before.
        _ if away != known.away => {}
        200 => {
            scene.progress.lock().unknown_since = None;
            scene.progress.lock().imported = true;
            note(scene, &answer.body, incarnation);
            if answer.body["wal_source_connstr"].is_null() {
                follow(scene, &timeline).await?;
            } else {
                scene.progress.lock().following = true;
            }
        }
        404 if known.imported => unknown(scene),
        404 => {
            let body = json!({ "new_tenant_id": scene.tenant.to_string() });
            call(scene, Method::POST, "/v1/tenant", Some(body)).await?;
            let body = json!({ "directory": IMPORT_DIR });
            let answer = call(scene, Method::PUT, &format!("{timeline}/import"), Some(body)).await?;
            if answer.status == 201 {
                scene.progress.lock().imported = true;
            }
        }
        _ => {}
    }
    Ok(())
}

async fn follow(scene: &Scene, timeline: &str) -> Result<(), NoAnswer> {
    let connstr = format!("host={PRIMARY} port={} user=postgres", crate::postgres::walsender::PORT);
    let answer = call(scene, Method::PUT, &format!("{timeline}/wal_source"), Some(json!({ "connstr": connstr }))).await?;
    if (200..300).contains(&answer.status) {
        scene.progress.lock().following = true;
    }
    Ok(())
}

fn unknown(scene: &Scene) {
    let now = scene.now();
    let mut progress = scene.progress.lock();
    if progress.is_away {
        progress.unknown_since = None;
        return;
    }
    let since = *progress.unknown_since.get_or_insert(now);
    let calm = progress.store_calm_since;
    if calm.is_some_and(|calm| now.since(since.max(calm)) > LOAD_LIMIT) {
        scene.judge.violated("OP-1", format!("the timeline was imported and confirmed, but is unknown since {} ms", since.0 / 1_000_000));
    }
}

fn note(scene: &Scene, body: &serde_json::Value, incarnation: u64) {
    let lsn = |key: &str| body[key].as_str().and_then(|text| text.parse::<Lsn>().ok()).unwrap_or(Lsn::INVALID);
    let (last, disk, remote) = (lsn("last_record_lsn"), lsn("disk_consistent_lsn"), lsn("remote_consistent_lsn_visible"));
    let projected = lsn("remote_consistent_lsn");
    let mut progress = scene.progress.lock();
    if disk > last {
        scene.judge.violated("OP-2", format!("disk_consistent_lsn {disk} is beyond last_record_lsn {last}"));
    }
    if last > scene.postgres.end() {
        scene.judge.violated("OP-2", format!("last_record_lsn {last} is beyond the end of the WAL {}", scene.postgres.end()));
    }
    if remote > projected {
        scene.judge.violated("OP-2", format!("remote_consistent_lsn_visible {remote} is beyond remote_consistent_lsn {projected}"));
    }
    if remote < progress.remote_consistent {
        scene.judge.violated("OP-2", format!("remote_consistent_lsn went back from {} to {remote}", progress.remote_consistent));
    }
    if progress.incarnation == incarnation && last < progress.last_record {
        scene.judge.violated("OP-2", format!("last_record_lsn went back from {} to {last} within one life", progress.last_record));
    }
    progress.incarnation = incarnation;
    progress.last_record = last;
    progress.disk_consistent = disk;
    progress.gc_cutoff = progress.gc_cutoff.max(lsn("latest_gc_cutoff_lsn"));
    progress.remote_consistent = remote;
    progress.receiver_status = body["walreceiver_status"].as_str().unwrap_or_default().to_string();
}
