//! The pagestream: requests in, answers out in the same order. Answers gather while more requests are at hand.

use super::connection::{CommandFailure, Connection, ConnectionError, Outcome, sqlstate};
use super::protocol::{Answer, PagestreamVersion, Question, Request, RequestHeader};
use crate::io_abstraction::tasks::yield_now;
use crate::pg::wire::{self, CopyDirection, Frontend};
use crate::timeline::{ReadError, Timeline};
use crate::types::{Fork, Lsn};
use bytes::{Bytes, BytesMut};

/// Answers that gather before they are sent although more requests are at hand.
const GATHER_BYTES: usize = 256 << 10;

/// Message type of CopyData.
const COPY_DATA: u8 = b'd';

/// What goes back for one request.
enum Reply {
    Exists(bool),
    Nblocks(u32),
    Page(Bytes),
    DbSize(i64),
    SlruSegment(Vec<u8>),
    Error(String),
}

/// Why a request has no answer: said in-band, or the stream ends.
enum Refusal {
    InBand(String),
    ShuttingDown(String),
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        match error {
            ReadError::ShuttingDown(_) => Refusal::ShuttingDown(error.to_string()),
            other => Refusal::InBand(other.to_string()),
        }
    }
}

impl Connection {
    /// Serves requests until the client leaves the mode.
    pub(super) async fn pagestream(&mut self, version: PagestreamVersion, timeline: &Timeline) -> Outcome<()> {
        wire::put_copy_response(&mut self.output, CopyDirection::Both, false);
        self.flush().await?;
        loop {
            let message = match wire::take_frontend(&mut self.input, crate::limits::PAGE_SERVICE_MESSAGE_MAX)? {
                Some(message) if self.output.len() < GATHER_BYTES && !crate::buggify!(self.env, "answer-alone") => message,
                Some(message) => {
                    self.flush().await?;
                    message
                }
                None => {
                    self.flush().await?;
                    match self.message().await? {
                        Some(message) => message,
                        None => return Err(ConnectionError::Ended("the client left the pagestream".to_string())),
                    }
                }
            };
            let bytes = match message {
                Frontend::CopyData(bytes) => bytes,
                Frontend::Terminate => return Err(ConnectionError::Ended("the client terminated".to_string())),
                Frontend::CopyDone => {
                    wire::put_copy_done(&mut self.output);
                    wire::put_command_complete(&mut self.output, "COPY 0");
                    return Ok(Ok(()));
                }
                Frontend::CopyFail(why) => {
                    return Ok(Err(CommandFailure::new(sqlstate::QUERY_CANCELED, format!("the client ended the pagestream: {why}"))));
                }
                // An extended query has a Sync behind its Execute.
                Frontend::Flush | Frontend::Sync => continue,
                _ => return Ok(Err(CommandFailure::new(sqlstate::PROTOCOL_VIOLATION, "only CopyData is expected in a pagestream"))),
            };
            let request = match Request::decode(version, &bytes) {
                Ok(request) => request,
                Err(error) => return Ok(Err(CommandFailure::new(error.sqlstate(), error))),
            };
            if request.header.not_modified_since > timeline.last_record.lsn() {
                // It will wait for WAL; the answers before it need not.
                self.flush().await?;
            }
            if crate::buggify!(self.env, "answer-after-others") {
                yield_now().await;
            }
            let reply = match answer(timeline, &request).await {
                Ok(reply) => reply,
                Err(Refusal::InBand(message)) => Reply::Error(message),
                Err(Refusal::ShuttingDown(message)) => return Ok(Err(CommandFailure::new(sqlstate::ADMIN_SHUTDOWN, message))),
            };
            wire::put_message(&mut self.output, COPY_DATA, |out| put_reply(&request, version, &reply, out));
        }
    }
}

fn put_reply(request: &Request, version: PagestreamVersion, reply: &Reply, out: &mut BytesMut) {
    let answer = match reply {
        Reply::Exists(exists) => Answer::Exists(*exists),
        Reply::Nblocks(blocks) => Answer::Nblocks(*blocks),
        Reply::Page(page) => match page.as_ref().try_into() {
            Ok(page) => Answer::Page(page),
            Err(_) => Answer::Error("the page does not have 8192 bytes"),
        },
        Reply::DbSize(bytes) => Answer::DbSize(*bytes),
        Reply::SlruSegment(pages) => Answer::SlruSegment(pages),
        Reply::Error(message) => Answer::Error(message),
    };
    request.put_response(version, &answer, out);
}

/// The LSN to read at: see page-service reference, section 5.
async fn read_lsn(timeline: &Timeline, header: &RequestHeader) -> Result<Lsn, Refusal> {
    let refuse = |message: String| Err(Refusal::InBand(message));
    let (wanted, since) = (header.request_lsn, header.not_modified_since);
    if wanted < since {
        return refuse(format!("invalid request: request LSN {wanted} is below not_modified_since {since}"));
    }
    if !wanted.is_valid() {
        return refuse("invalid LSN(0) in request".to_string());
    }
    timeline.check_cutoff(wanted)?;
    let last = timeline.last_record.lsn();
    if since > last {
        timeline.wait_lsn(since).await?;
        return Ok(since);
    }
    Ok(last.min(wanted))
}

async fn answer(timeline: &Timeline, request: &Request) -> Result<Reply, Refusal> {
    let lsn = read_lsn(timeline, &request.header).await?;
    Ok(match request.question {
        Question::Exists { rel } if rel.rel == 0 => return Err(Refusal::InBand("invalid request: relation 0".to_string())),
        Question::Exists { rel } => Reply::Exists(timeline.rel_exists(rel, lsn).await?),
        Question::Nblocks { rel } => match timeline.rel_size(rel, lsn).await? {
            Some(blocks) => Reply::Nblocks(blocks),
            // PostgreSQL asks for the size of maps before it creates them.
            None if matches!(rel.fork, Fork::Fsm | Fork::Vm) => Reply::Nblocks(0),
            None => return Err(Refusal::InBand(format!("relation {rel} does not exist at {lsn}"))),
        },
        Question::GetPage { rel, block } => {
            let page = timeline.rel_block(rel, block, lsn).await?;
            Reply::Page(if crate::planted!(timeline.shared.env, "canary") { with_a_flipped_bit(&page) } else { page })
        }
        Question::DbSize { db } => Reply::DbSize(i64::try_from(timeline.db_size(db, lsn).await?).unwrap_or(i64::MAX)),
        Question::GetSlruSegment { kind, segment } => Reply::SlruSegment(timeline.slru_segment(kind, segment, lsn).await?),
    })
}

/// What the planted bug `canary` answers.
fn with_a_flipped_bit(page: &[u8]) -> Bytes {
    let mut page = page.to_vec();
    page.last_mut().into_iter().for_each(|byte| *byte ^= 1);
    page.into()
}
