//! Rebuilds values for the store: in this process, or page records through children behind pipes.
//!
//! A child serves one request at a time. One that answers wrongly, late or not at all is killed, and the request is made again
//! on a fresh one. Records that concern a page without naming it, and SLRU pages, are applied here in either mode: the
//! pipe's protocol has no words for them.

use super::pipe::{self, BlockTag};
use super::{ApplyContext, RedoError, replay};
use crate::config::RedoMode;
use crate::io_abstraction::{ClockExt as _, Env, RedoChild};
use crate::layer::Reconstruct;
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::Record;
use crate::types::key::KeyKind;
use crate::types::{Fork, Key, Lsn, PAGE_SIZE, ZERO_PAGE};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// Tries of one request, each on a child of its own.
const TRIES: u32 = 3;
/// Children at work at a time.
const CHILDREN_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum RedoFailure {
    #[error(transparent)]
    Redo(#[from] RedoError),
    #[error("start a redo child: {0}")]
    Spawn(io::Error),
    #[error("the redo child did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the redo child ended without an answer ({0}); its message is in the log")]
    Ended(io::Error),
}

/// What a request takes apart from its records, and for each record besides its bytes; a little more.
const REQUEST_BYTES: usize = PAGE_SIZE + 128;
const REQUEST_RECORD_BYTES: usize = 16;

/// Children that fit one context are interchangeable.
type Kind = (PgVersion, bool);

pub struct RedoExecutor {
    env: Env,
    mode: RedoMode,
    limit: Duration,
    idle: Mutex<BTreeMap<Kind, Vec<RedoChild>>>,
    slots: Semaphore,
}

impl RedoExecutor {
    pub fn new(env: &Env, mode: RedoMode, limit: Duration) -> RedoExecutor {
        RedoExecutor { env: env.clone(), mode, limit, idle: Mutex::default(), slots: Semaphore::new(CHILDREN_MAX) }
    }

    pub fn mode(&self) -> RedoMode {
        self.mode
    }

    /// Applies the collected records to their base.
    pub async fn rebuild(&self, context: &ApplyContext, key: Key, found: &Reconstruct) -> Result<Bytes, RedoFailure> {
        // An empty image stands for a page of zeros.
        let base = found.base_bytes().map(|base| if base.is_empty() { Bytes::from_static(&ZERO_PAGE) } else { base });
        match (self.mode, key.kind()) {
            (RedoMode::Child, Some(KeyKind::RelBlock { rel, block })) => {
                self.through_children(context, (key, BlockTag { rel, block }), base, found).await
            }
            _ => Ok(Bytes::from(replay(context, key, base.as_deref(), found.records())?)),
        }
    }

    /// As [`RedoExecutor::rebuild`] for several keys; a child gets all its requests at once.
    pub async fn rebuild_many(&self, context: &ApplyContext, chains: &[(Key, Reconstruct)]) -> Vec<Result<Bytes, RedoFailure>> {
        let mut answers = match self.mode {
            RedoMode::Child if chains.len() > 1 => self.ask_many(context, chains).await,
            _ => Vec::new(),
        };
        answers.resize(chains.len(), None);
        let mut values = Vec::with_capacity(chains.len());
        for ((key, found), answer) in chains.iter().zip(answers) {
            values.push(match answer {
                Some(page) => Ok(page),
                None => self.rebuild(context, *key, found).await,
            });
        }
        values
    }

    /// One exchange for the chains that a child can do. If it fails, nothing is known: each is asked for alone, and tells what is wrong.
    async fn ask_many(&self, context: &ApplyContext, chains: &[(Key, Reconstruct)]) -> Vec<Option<Bytes>> {
        let (mut request, mut asked) = (Vec::new(), Vec::new());
        for (place, (key, found)) in chains.iter().enumerate() {
            let Some(KeyKind::RelBlock { rel, block }) = key.kind().filter(|_| found.record_count() > 0) else { continue };
            let base = found.base().map(|base| if base.is_empty() { &ZERO_PAGE[..] } else { base });
            let base = base.map(|base| base.try_into());
            if rel.fork == Fork::Vm || matches!(base, Some(Err(_))) {
                continue;
            }
            pipe::encode_request(BlockTag { rel, block }, base.and_then(Result::ok), found.records(), &mut request);
            asked.push(place);
        }
        let mut answers = vec![None; chains.len()];
        match self.exchange((context.version, context.page_lsn_on_visible), &request, asked.len()).await {
            Ok(pages) => asked.into_iter().zip(pages).for_each(|(place, page)| answers[place] = Some(page)),
            Err(failure) => tracing::debug!(error = %failure, "a redo child failed at several pages, each is asked for again"),
        }
        answers
    }

    /// Hands runs of records that name the block to a child, and applies the others here.
    async fn through_children(
        &self,
        context: &ApplyContext,
        (key, tag): (Key, BlockTag),
        mut page: Option<Bytes>,
        found: &Reconstruct,
    ) -> Result<Bytes, RedoFailure> {
        let mut run: Vec<(Lsn, &[u8])> = Vec::new();
        let mut records = found.records().peekable();
        while let Some((lsn, record)) = records.next() {
            // Of relation blocks only those of a visibility map are changed by records that do not name them.
            let named = tag.rel.fork != Fork::Vm || names_block(record, tag, context.version);
            if named {
                run.push((lsn, record));
            }
            if !run.is_empty() && (!named || records.peek().is_none()) {
                page = Some(self.ask(context, tag, page.as_deref(), &run).await?);
                run.clear();
            }
            if !named {
                page = Some(replay(context, key, page.as_deref(), [(lsn, record)])?.into());
            }
        }
        Ok(page.unwrap_or_default())
    }

    async fn ask(&self, context: &ApplyContext, tag: BlockTag, base: Option<&[u8]>, run: &[(Lsn, &[u8])]) -> Result<Bytes, RedoFailure> {
        let base: Option<&[u8; PAGE_SIZE]> = base.and_then(|base| base.try_into().ok());
        let mut request =
            Vec::with_capacity(REQUEST_BYTES + run.iter().map(|(_, record)| record.len() + REQUEST_RECORD_BYTES).sum::<usize>());
        pipe::encode_request(tag, base, run.iter().copied(), &mut request);
        let kind = (context.version, context.page_lsn_on_visible);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.exchange(kind, &request, 1).await {
                Ok(mut pages) => return Ok(pages.pop().unwrap_or_default()),
                Err(failure) if tries == TRIES => return Err(self.explain(context, tag, base, run, failure)),
                Err(failure) => {
                    self.env.probe.mark("redo-child-retry");
                    tracing::warn!(error = %failure, "redo child failed, will ask another one");
                }
            }
        }
    }

    /// A child ends without words that the caller sees: the same work done here says what is wrong with the records.
    fn explain(
        &self,
        context: &ApplyContext,
        tag: BlockTag,
        base: Option<&[u8; PAGE_SIZE]>,
        run: &[(Lsn, &[u8])],
        failure: RedoFailure,
    ) -> RedoFailure {
        let key = Key::rel_block(tag.rel, tag.block);
        match replay(context, key, base.map(|b| b.as_slice()), run.iter().copied()) {
            Err(error) => error.into(),
            Ok(_) => failure,
        }
    }

    /// Sends requests to one child and takes its answers, a page each, while it still sends: a pipe holds few of them.
    async fn exchange(&self, kind: Kind, requests: &[u8], count: usize) -> Result<Vec<Bytes>, RedoFailure> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let idle = self.idle.lock().get_mut(&kind).and_then(Vec::pop);
        let mut child = match idle {
            Some(child) => child,
            None => self.env.redo.spawn(kind.0, kind.1).map_err(RedoFailure::Spawn)?,
        };
        let (input, output) = (&mut child.input, &mut child.output);
        let send = async {
            input.write_all(requests).await?;
            input.flush().await
        };
        let receive = async {
            let mut pages = BytesMut::zeroed(count * PAGE_SIZE);
            output.read_exact(&mut pages).await?;
            io::Result::Ok(pages.freeze())
        };
        match self.env.clock.timeout(self.limit, futures::future::try_join(send, receive)).await {
            Ok(Ok(((), pages))) => {
                if crate::buggify!(self.env, "redo-child-given-up") {
                    child.control.kill().await;
                } else {
                    self.idle.lock().entry(kind).or_default().push(child);
                }
                Ok((0..count).map(|n| pages.slice(n * PAGE_SIZE..(n + 1) * PAGE_SIZE)).collect())
            }
            Err(_) if crate::planted!(self.env, "redo-child-reused") => {
                self.idle.lock().entry(kind).or_default().push(child);
                Err(RedoFailure::TimedOut(self.limit))
            }
            outcome => {
                child.control.kill().await;
                Err(match outcome {
                    Ok(Err(error)) => RedoFailure::Ended(error),
                    _ => RedoFailure::TimedOut(self.limit),
                })
            }
        }
    }

    /// Ends all children.
    pub async fn shutdown(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for child in idle.into_values().flatten() {
            child.control.kill().await;
        }
    }
}

/// Whether the record has a block reference to this block.
fn names_block(record: &[u8], tag: BlockTag, version: PgVersion) -> bool {
    Record::decode(record, version).is_ok_and(|r| r.blocks.iter().any(|b| b.rel == tag.rel && b.block == tag.block))
}
