//! Readers: ask for pages, sizes and transaction status at LSNs of their choice, and hold each answer against the model.
//!
//! - `PG-1`: a page is byte for byte what it was at the LSN asked for.
//! - `PG-2`: so are relation sizes and existence.
//! - `PG-3`: so is the commit log.
//!
//! An error or a broken connection is *unknown*, never wrong: only the audit requires an answer.

use super::Scene;
use crate::client::pages::{Answer, PageStream, ReadAt, Request};
use crate::event;
use crate::node;
use crate::oracle::pages::{PageModel, digest, zero_digest};
use crate::plan::{OpKind, ReadKind};
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use palimpsest::types::{Lsn, PAGE_SIZE, SlruKind, TimelineId};
use rand_core::Rng as _;
use std::time::Duration;

const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A question with its version.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    pub timeline: TimelineId,
    pub request: Request,
    pub at: ReadAt,
}

pub fn start(scene: &Scene, start: Mono) {
    for number in 0..scene.plan.knobs.readers {
        let inner = scene.clone();
        scene.client.tasks.spawn(&format!("reader-{number}"), async move { reader(inner, number, start).await });
    }
}

async fn reader(scene: Scene, number: u32, start: Mono) {
    let mut stream = None;
    for op in &scene.plan.ops {
        let at = start.after(Duration::from_millis(op.at_ms));
        match op.kind {
            OpKind::Read { reader, what, pick } if reader == number => {
                scene.client.clock.sleep_until(at).await;
                if let Some(question) = choose(&scene, what, pick) {
                    say(&scene, op.id, number, question);
                    let outcome = ask(&scene, &mut stream, question).await;
                    scene.count(outcome);
                    event!(scene.client_trace(), "reply", "id={} outcome={outcome}", op.id);
                }
            }
            OpKind::Burst { reader, requests, pause_ms, pick } if reader == number => {
                scene.client.clock.sleep_until(at).await;
                let mut rng = scene.cluster.source.stream(&format!("burst-{}-{pick}", op.id));
                let questions: Vec<Question> =
                    (0..requests).filter_map(|_| choose(&scene, ReadKind::PageAtVersion, rng.next_u64())).collect();
                event!(scene.client_trace(), "op", "id={} reader={number} burst={}", op.id, questions.len());
                let outcome = burst(&scene, &mut stream, &questions, Duration::from_millis(pause_ms)).await;
                scene.count(outcome);
                event!(scene.client_trace(), "reply", "id={} outcome={outcome}", op.id);
            }
            _ => continue,
        }
        if stream.is_none() {
            scene.client.clock.sleep(CONNECT_PAUSE).await;
        }
    }
}

fn say(scene: &Scene, id: u32, reader: u32, question: Question) {
    let Question { request, at, timeline } = question;
    let (lsn, since) = (at.request_lsn, at.not_modified_since);
    if timeline == scene.timeline {
        event!(scene.client_trace(), "op", "id={id} reader={reader} ask={request:?} lsn={lsn} since={since}");
    } else {
        event!(scene.client_trace(), "op", "id={id} reader={reader} timeline={timeline} ask={request:?} lsn={lsn} since={since}");
    }
}

/// An open stream, and the timeline it is for.
pub type Open = (TimelineId, PageStream);

async fn open(scene: &Scene, stream: &mut Option<Open>, timeline: TimelineId) -> std::io::Result<PageStream> {
    match stream.take() {
        Some((of, open)) if of == timeline => Ok(open),
        _ => PageStream::open(&scene.client, &node::pages_address(scene.home()), scene.tenant, timeline).await,
    }
}

/// Asks many things of the root timeline at once, and reads the answers only after a pause.
async fn burst(scene: &Scene, stream: &mut Option<Open>, questions: &[Question], pause: Duration) -> &'static str {
    let attempt = async {
        let mut open = open(scene, stream, scene.timeline).await?;
        let asked: Vec<_> = questions.iter().map(|question| open.request(question.request, question.at)).collect();
        open.flush().await?;
        scene.client.clock.sleep(pause).await;
        for (question, asked) in questions.iter().zip(&asked) {
            let answer = open.answer(asked).await?;
            if verdict(scene, *question, &answer) == "read-wrong" {
                return Ok((open, "read-wrong"));
            }
        }
        Ok::<_, std::io::Error>((open, "burst-ok"))
    };
    match scene.client.clock.timeout(ANSWER_LIMIT * 2, attempt).await {
        Err(_) => "burst-timeout",
        Ok(Err(_)) => "burst-unknown",
        Ok(Ok((open, outcome))) => {
            *stream = Some((scene.timeline, open));
            outcome
        }
    }
}

impl Scene {
    pub(super) fn client_trace(&self) -> crate::trace::HostTrace {
        self.cluster.host_trace(super::CLIENT)
    }
}

/// Asks once and judges the answer. Gives the outcome's name; the stream is gone if its connection broke.
pub async fn ask(scene: &Scene, stream: &mut Option<Open>, question: Question) -> &'static str {
    let attempt = async {
        let mut open = open(scene, stream, question.timeline).await?;
        let answer = open.ask(question.request, question.at).await?;
        Ok::<_, std::io::Error>((open, answer))
    };
    match scene.client.clock.timeout(ANSWER_LIMIT, attempt).await {
        Err(_) => "read-timeout",
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            event!(scene.client_trace(), "reply", "broken={error}");
            "read-unknown"
        }
        Ok(Err(_)) => "read-unknown",
        Ok(Ok((open, answer))) => {
            *stream = Some((question.timeline, open));
            verdict(scene, question, &answer)
        }
    }
}

/// Judges an answer. Gives the outcome's name.
fn verdict(scene: &Scene, question: Question, answer: &Answer) -> &'static str {
    let primary = scene.postgres.primary.lock();
    match judge(&primary.generator.model, primary.generator.end(), question, answer) {
        Verdict::Right => "read-ok",
        Verdict::Unknown(why) => {
            event!(scene.client_trace(), "reply", "refused={why}");
            "read-refused"
        }
        Verdict::Wrong(oracle, detail) => {
            let of = if question.timeline == scene.timeline { String::new() } else { format!("timeline {}: ", question.timeline) };
            scene.judge.violated(oracle, of + &detail);
            "read-wrong"
        }
    }
}

enum Verdict {
    Right,
    Unknown(String),
    Wrong(&'static str, String),
}

/// Chooses what to ask from what the model knows now.
pub fn choose(scene: &Scene, what: ReadKind, pick: u64) -> Option<Question> {
    let primary = scene.postgres.primary.lock();
    let model = &primary.generator.model;
    let version = model.version_number(pick)?;
    let (base, end) = (model.base(), primary.generator.end());
    let anywhere = Lsn((base.0 + (pick >> 32) % (end.distance_from(base) + 1)) / 8 * 8).max(base);
    let page = Request::Page(version.rel, version.block);
    let mut timeline = scene.timeline;
    let (request, at) = match what {
        ReadKind::OnBranch => {
            let branch = scene.branches.confirmed(pick >> 16)?;
            timeline = branch.timeline;
            // What the branch has of the page: the version of the branch point or an older one.
            (page, ReadAt::exactly(if pick.is_multiple_of(2) { branch.lsn } else { version.lsn.min(branch.lsn) }))
        }
        ReadKind::PageAtVersion => (page, ReadAt::exactly(version.lsn)),
        ReadKind::PageBeforeVersion => (page, ReadAt::exactly(Lsn(version.lsn.0 - 8).max(base))),
        ReadKind::PageAnywhere => (page, ReadAt::exactly(anywhere)),
        ReadKind::PageLatest => (page, ReadAt::latest(version.lsn)),
        ReadKind::Size => (Request::Size(version.rel), ReadAt::exactly(anywhere)),
        ReadKind::Exists => (Request::Exists(version.rel), ReadAt::exactly(anywhere)),
        ReadKind::TransactionStatus => (Request::Slru(SlruKind::Clog, 0), ReadAt::exactly(anywhere)),
    };
    Some(Question { timeline, request, at })
}

/// Holds an answer against the model.
fn judge(model: &PageModel, end: Lsn, question: Question, answer: &Answer) -> Verdict {
    let Question { request, at, .. } = question;
    // With `latest` the server may have read anywhere from the promised LSN up to now.
    let (from, to) = if at.request_lsn == Lsn::MAX { (at.not_modified_since, end) } else { (at.request_lsn, at.request_lsn) };
    let exact = from == to;
    match (request, answer) {
        // Nobody can ask for pages of a relation that is dropped: any answer will do.
        (Request::Page(rel, _), _) if model.size(rel, from).is_none() || model.size(rel, to).is_none() => Verdict::Right,
        (_, Answer::Error(why)) => Verdict::Unknown(why.clone()),
        (Request::Page(rel, block), Answer::Page(page)) => {
            let found = digest(&page[..]);
            if model.page_between(rel, block, from, to, found) {
                return Verdict::Right;
            }
            let lsn = page.first_chunk::<8>().map_or(Lsn::INVALID, |b| {
                Lsn(u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) << 32 | u64::from(u32::from_le_bytes([b[4], b[5], b[6], b[7]])))
            });
            let known = model.versions(rel, block);
            let which = match known.iter().find(|(_, d)| *d == found) {
                Some((lsn, _)) => format!("the version of {lsn}"),
                None if found == zero_digest() => "all zeros".to_string(),
                None => "no version that ever was".to_string(),
            };
            let expected = model.last_change(rel, block, from);
            let text = format!("{rel:?} block {block} at {from}: expected the version of {expected:?}, got {which} (page LSN {lsn})");
            Verdict::Wrong("PG-1", text)
        }
        (Request::Size(rel), Answer::Size(size)) if exact => match model.size(rel, from) {
            Some(expected) if expected == *size => Verdict::Right,
            expected => Verdict::Wrong("PG-2", format!("{rel:?} at {from}: expected {expected:?} blocks, got {size}")),
        },
        (Request::Exists(rel), Answer::Exists(exists)) if exact => match model.size(rel, from).is_some() {
            expected if expected == *exists => Verdict::Right,
            expected => Verdict::Wrong("PG-2", format!("{rel:?} at {from}: exists should be {expected}, got {exists}")),
        },
        (Request::Slru(SlruKind::Clog, 0), Answer::Slru(bytes)) if exact => {
            let expected = model.clog_page(from);
            match bytes.get(..PAGE_SIZE).is_some_and(|page| *page == expected[..]) {
                true => Verdict::Right,
                false => Verdict::Wrong("PG-3", format!("pg_xact at {from} differs at byte {:?}", first_difference(bytes, &expected[..]))),
            }
        }
        (request, answer) => Verdict::Unknown(format!("{request:?} was answered with {answer:?}")),
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b).or((a.len() != b.len()).then_some(a.len().min(b.len())))
}
