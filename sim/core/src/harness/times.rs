//! Asks at the end of a run which commit is newest at an LSN, and where the history of a time ends.
//!
//! - `TM-1`: the answers are those of the commits in the WAL.

use super::Scene;
use super::operator::call;
use crate::event;
use crate::oracle::times::{CommitTimes, Expected};
use hyper::Method;
use palimpsest::io_abstraction::rng::below;
use palimpsest::types::Lsn;
use palimpsest::types::timestamp::PgTimestamp;
use serde_json::Value;

/// Commits that are asked for by their time, by a moment before it, and by their LSN.
const ASKED: usize = 3;

enum Question {
    LsnOf(PgTimestamp, Expected),
    TimeOf(Lsn, Option<PgTimestamp>),
}

/// Asks; an answer that does not come is left out, for others wait for what must be answered.
pub async fn ask(scene: &Scene, when: &str) {
    for question in sample(scene, when) {
        let (path, wanted) = match &question {
            Question::LsnOf(time, wanted) => (format!("get_lsn_by_timestamp?version=2&timestamp={time}"), format!("{wanted:?}")),
            Question::TimeOf(lsn, wanted) => (format!("get_timestamp_of_lsn?lsn={lsn}"), format!("{wanted:?}")),
        };
        let path = format!("/v1/tenant/{}/timeline/{}/{path}", scene.tenant, scene.timeline);
        let Ok(answer) = call(scene, Method::GET, &path, None).await else { continue };
        let right = match question {
            Question::LsnOf(_, wanted) if answer.status == 200 => is_place(&answer.body, wanted),
            Question::TimeOf(_, Some(wanted)) if answer.status == 200 => answer.body == Value::String(wanted.to_string()),
            Question::TimeOf(_, None) => answer.status == 404,
            _ => continue,
        };
        scene.count("times-asked");
        if !right {
            scene.judge.violated("TM-1", format!("{when}: {path} should be {wanted} and is {} {}", answer.status, answer.body));
            return;
        }
    }
    event!(scene.trace, "state", "times=\"{when}\"");
}

fn is_place(answer: &Value, wanted: Expected) -> bool {
    let lsn: Option<Lsn> = answer["lsn"].as_str().and_then(|lsn| lsn.parse().ok());
    match (answer["kind"].as_str(), wanted, lsn) {
        (Some("present"), Expected::Present(wanted), Some(lsn)) => lsn == wanted,
        (Some("future"), Expected::Future(last), Some(lsn)) => lsn >= last,
        (Some("past"), Expected::Past, Some(_)) | (Some("nodata"), Expected::NoData, Some(_)) => true,
        _ => false,
    }
}

fn sample(scene: &Scene, when: &str) -> Vec<Question> {
    let mut rng = scene.cluster.source.stream(&format!("times {when}"));
    let primary = scene.postgres.primary.lock();
    let (model, times): (_, &CommitTimes) = (&primary.generator.model, &primary.generator.commits);
    let mut questions = Vec::new();
    let of = |time: PgTimestamp| Question::LsnOf(time, times.lsn_of(time));
    for _ in 0..ASKED {
        let Some((end, time)) = times.get(below(&mut rng, times.len().max(1) as u64) as usize) else { break };
        questions.extend([of(time), of(PgTimestamp(time.0 - 1)), Question::TimeOf(end, times.newest(end))]);
    }
    let last = times.get(times.len().saturating_sub(1)).map_or(PgTimestamp(0), |(_, time)| time);
    questions.extend([of(PgTimestamp(last.0 + 1)), Question::TimeOf(model.base(), times.newest(model.base()))]);
    questions
}
