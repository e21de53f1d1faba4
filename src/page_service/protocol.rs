//! What is said on a page-service connection: commands, pagestream requests and responses. Pure.
//!
//! In: text of a query, bytes of a CopyData message. Out: a [`Command`], a [`Request`]; and the bytes of a response.
//! Invariants: a request is taken only if every byte of it makes sense; a response is exactly as long as its version says.
//! Source: reference of the page service, sections 2 to 4.
//!
//! Request: `tag u8`, header, body. All numbers are big-endian; a relation is `spc u32, db u32, rel u32, fork u8`.
//!
//! | version | header |
//! |---|---|
//! | V1 | `latest u8`, `lsn u64` |
//! | V2 | `request_lsn u64`, `not_modified_since u64` |
//! | V3 | `reqid u64`, `request_lsn u64`, `not_modified_since u64` |
//!
//! A V3 response repeats header and body of its request before the payload; V1 and V2 carry the payload alone.

use crate::export::Form;
use crate::pg::wire::ColumnType;
use crate::types::id::ParseIdError;
use crate::types::lsn::ParseLsnError;
use crate::types::{Fork, Lsn, PAGE_SIZE, RelTag, SlruKind, TenantId, TimelineId};
use bytes::{Buf, BufMut, BytesMut};

const EXISTS: u8 = 0;
const NBLOCKS: u8 = 1;
const GET_PAGE: u8 = 2;
const DB_SIZE: u8 = 3;
const GET_SLRU_SEGMENT: u8 = 4;
/// Between the tag of a request and that of its response.
const RESPONSE_OFFSET: u8 = 100;
const ERROR_RESPONSE: u8 = 103;

/// Longest request in bytes: a V3 GetPage.
pub const REQUEST_LEN_MAX: usize = 42;

/// A query that is none of ours. The connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error(
        "unknown command \"{0}\": expected pagestream, pagestream_v2, pagestream_v3, basebackup, fullbackup, get_last_record_rlsn, show or set"
    )]
    Unknown(String),
    #[error("{command} needs {what}: {usage}")]
    Missing { command: &'static str, what: &'static str, usage: &'static str },
    #[error("{command} does not take \"{word}\": {usage}")]
    Unexpected { command: &'static str, word: String, usage: &'static str },
    #[error("{command}: {source}")]
    Id { command: &'static str, source: ParseIdError },
    #[error("{command}: {source}")]
    Lsn { command: &'static str, source: ParseLsnError },
}

impl CommandError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            CommandError::Unknown(_) | CommandError::Missing { .. } | CommandError::Unexpected { .. } => "42601",
            CommandError::Id { .. } | CommandError::Lsn { .. } => "22023",
        }
    }
}

/// Version of the pagestream protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PagestreamVersion {
    V1,
    V2,
    V3,
}

/// A command of the page service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Pagestream {
        version: PagestreamVersion,
        tenant: TenantId,
        timeline: TimelineId,
    },
    /// `lsn` is `None` for the latest.
    BaseBackup {
        tenant: TenantId,
        timeline: TimelineId,
        lsn: Option<Lsn>,
        gzip: bool,
        replica: bool,
    },
    /// `prev_lsn` is taken and not needed: the first record may have no predecessor.
    FullBackup {
        tenant: TenantId,
        timeline: TimelineId,
        lsn: Option<Lsn>,
        prev_lsn: Option<Lsn>,
        form: Form,
    },
    GetLastRecordRlsn {
        tenant: TenantId,
        timeline: TimelineId,
    },
    Show {
        tenant: TenantId,
    },
    /// Accepted and ignored: drivers send it on connect.
    Set,
}

impl Command {
    /// Reads the text of a query that may be empty.
    pub fn parse_query(query: &str) -> Result<Option<Command>, CommandError> {
        let empty = query.trim().trim_end_matches(';').is_empty();
        if empty { Ok(None) } else { Command::parse(query).map(Some) }
    }

    /// The tenant that it is about; `None` for one that is about nobody.
    pub fn tenant(&self) -> Option<TenantId> {
        match *self {
            Command::Pagestream { tenant, .. }
            | Command::BaseBackup { tenant, .. }
            | Command::FullBackup { tenant, .. }
            | Command::GetLastRecordRlsn { tenant, .. }
            | Command::Show { tenant } => Some(tenant),
            Command::Set => None,
        }
    }

    /// Columns of the row that it answers with; none if it answers otherwise.
    pub fn columns(&self) -> &'static [(&'static str, ColumnType)] {
        use ColumnType::{Int8, Text};
        match self {
            Command::Show { .. } => &[("checkpoint_distance", Int8), ("checkpoint_timeout", Int8), ("compaction_target_size", Int8)],
            Command::GetLastRecordRlsn { .. } => &[("prev_lsn", Text), ("last_lsn", Text)],
            Command::Pagestream { .. } | Command::BaseBackup { .. } | Command::FullBackup { .. } | Command::Set => &[],
        }
    }

    /// Reads the text of a query. The first word may be in any case, words are separated by white space, one `;` may end it.
    pub fn parse(query: &str) -> Result<Command, CommandError> {
        let text = query.trim();
        let text = text.strip_suffix(';').unwrap_or(text);
        let mut words = text.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match first.to_ascii_lowercase().as_str() {
            "set" => Ok(Command::Set),
            "pagestream" => pagestream(PagestreamVersion::V1, Words { command: "pagestream", usage: "pagestream TENANT TIMELINE", words }),
            "pagestream_v2" => {
                pagestream(PagestreamVersion::V2, Words { command: "pagestream_v2", usage: "pagestream_v2 TENANT TIMELINE", words })
            }
            "pagestream_v3" => {
                pagestream(PagestreamVersion::V3, Words { command: "pagestream_v3", usage: "pagestream_v3 TENANT TIMELINE", words })
            }
            "basebackup" => {
                base_backup(Words { command: "basebackup", usage: "basebackup TENANT TIMELINE [LSN|latest] [--gzip] [--replica]", words })
            }
            "fullbackup" => full_backup(Words {
                command: "fullbackup",
                usage: "fullbackup TENANT TIMELINE [LSN] [PREV_LSN] [--as fresh|first-node|replica|reseed]",
                words,
            }),
            "get_last_record_rlsn" => {
                let mut words = Words { command: "get_last_record_rlsn", usage: "get_last_record_rlsn TENANT TIMELINE", words };
                let (tenant, timeline) = words.ids()?;
                words.end()?;
                Ok(Command::GetLastRecordRlsn { tenant, timeline })
            }
            "show" => {
                let mut words = Words { command: "show", usage: "show TENANT", words };
                let tenant = words.tenant()?;
                words.end()?;
                Ok(Command::Show { tenant })
            }
            _ => Err(CommandError::Unknown(first.chars().take(64).collect())),
        }
    }
}

fn pagestream(version: PagestreamVersion, mut words: Words<'_>) -> Result<Command, CommandError> {
    let (tenant, timeline) = words.ids()?;
    words.end()?;
    Ok(Command::Pagestream { version, tenant, timeline })
}

fn base_backup(mut words: Words<'_>) -> Result<Command, CommandError> {
    let (tenant, timeline) = words.ids()?;
    let (mut lsn, mut gzip, mut replica) = (None, false, false);
    let mut first = true;
    while let Some(word) = words.words.next() {
        match word {
            "--gzip" if !gzip => gzip = true,
            "--replica" if !replica => replica = true,
            "latest" if first => {}
            _ if word.starts_with("--") || !first => return Err(words.unexpected(word)),
            _ => lsn = Some(words.lsn(word)?),
        }
        first = false;
    }
    Ok(Command::BaseBackup { tenant, timeline, lsn, gzip, replica })
}

fn full_backup(mut words: Words<'_>) -> Result<Command, CommandError> {
    let (tenant, timeline) = words.ids()?;
    let (mut lsns, mut form) = ([None, None], None);
    let mut given = 0;
    while let Some(word) = words.words.next() {
        match word {
            "--as" if form.is_none() => {
                let (command, usage) = (words.command, words.usage);
                let name = words.words.next().ok_or(CommandError::Missing { command, what: "what the cluster is for", usage })?;
                form = Some(parse_form(name).ok_or_else(|| words.unexpected(name))?);
            }
            _ if word.starts_with("--") => return Err(words.unexpected(word)),
            _ => {
                let lsn = words.lsn(word)?;
                *lsns.get_mut(given).ok_or_else(|| words.unexpected(word))? = Some(lsn);
                given += 1;
            }
        }
    }
    let [lsn, prev_lsn] = lsns;
    Ok(Command::FullBackup { tenant, timeline, lsn, prev_lsn, form: form.unwrap_or(Form::Fresh) })
}

fn parse_form(name: &str) -> Option<Form> {
    Some(match name {
        "fresh" => Form::Fresh,
        "first-node" => Form::FirstNode,
        "replica" => Form::Replica,
        "reseed" => Form::Reseed,
        _ => return None,
    })
}

/// The words after a command's name.
struct Words<'a> {
    command: &'static str,
    usage: &'static str,
    words: std::str::SplitAsciiWhitespace<'a>,
}

impl Words<'_> {
    fn tenant(&mut self) -> Result<TenantId, CommandError> {
        let (command, usage) = (self.command, self.usage);
        let word = self.words.next().ok_or(CommandError::Missing { command, what: "a tenant id", usage })?;
        word.parse().map_err(|source| CommandError::Id { command, source })
    }

    fn ids(&mut self) -> Result<(TenantId, TimelineId), CommandError> {
        let (command, usage) = (self.command, self.usage);
        let tenant = self.tenant()?;
        let word = self.words.next().ok_or(CommandError::Missing { command, what: "a timeline id", usage })?;
        let timeline = word.parse().map_err(|source| CommandError::Id { command, source })?;
        Ok((tenant, timeline))
    }

    fn lsn(&self, word: &str) -> Result<Lsn, CommandError> {
        word.parse().map_err(|source| CommandError::Lsn { command: self.command, source })
    }

    fn unexpected(&self, word: &str) -> CommandError {
        CommandError::Unexpected { command: self.command, word: word.chars().take(64).collect(), usage: self.usage }
    }

    fn end(&mut self) -> Result<(), CommandError> {
        self.words.next().map_or(Ok(()), |word| Err(self.unexpected(word)))
    }
}

/// Bytes that are no pagestream request. The pagestream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("pagestream request with unknown tag {0}")]
    Tag(u8),
    #[error("pagestream request with tag {tag} is cut short at {len} bytes")]
    Truncated { tag: u8, len: usize },
    #[error("pagestream request with tag {tag} has {extra} bytes too many")]
    Trailing { tag: u8, extra: usize },
    #[error("pagestream request for fork {0}, which does not exist")]
    Fork(u8),
    #[error("pagestream request for SLRU kind {0}, which does not exist")]
    SlruKind(u8),
    #[error("empty pagestream request")]
    Empty,
}

impl RequestError {
    pub fn sqlstate(&self) -> &'static str {
        "08P01"
    }
}

/// Which state of the timeline a request wants: the newest that is at most `request_lsn`, where the client knows that nothing it
/// asks for changed after `not_modified_since`.
///
/// V1 fits in: `latest` is (`Lsn::MAX`, `lsn`), otherwise both are `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestHeader {
    /// The client's number of the request; 0 before V3.
    pub reqid: u64,
    pub request_lsn: Lsn,
    pub not_modified_since: Lsn,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Exists { rel: RelTag },
    Nblocks { rel: RelTag },
    GetPage { rel: RelTag, block: u32 },
    DbSize { db: u32 },
    GetSlruSegment { kind: SlruKind, segment: u32 },
}

/// One pagestream request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub header: RequestHeader,
    pub question: Question,
}

/// What a response answers. Every question has its own; `Error` goes with all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    Exists(bool),
    Nblocks(u32),
    Page(&'a [u8; PAGE_SIZE]),
    /// Size in bytes.
    DbSize(i64),
    /// Whole pages.
    SlruSegment(&'a [u8]),
    Error(&'a str),
}

impl Request {
    /// Reads the content of one CopyData message.
    pub fn decode(version: PagestreamVersion, message: &[u8]) -> Result<Request, RequestError> {
        let (&tag, mut rest) = message.split_first().ok_or(RequestError::Empty)?;
        if tag > GET_SLRU_SEGMENT || (tag == GET_SLRU_SEGMENT && version == PagestreamVersion::V1) {
            return Err(RequestError::Tag(tag));
        }
        let short = |_| RequestError::Truncated { tag, len: message.len() };
        let header = take_header(version, &mut rest).map_err(short)?;
        let question = match tag {
            EXISTS => Question::Exists { rel: take_rel(&mut rest).map_err(short)?.check()? },
            NBLOCKS => Question::Nblocks { rel: take_rel(&mut rest).map_err(short)?.check()? },
            GET_PAGE => {
                let rel = take_rel(&mut rest).map_err(short)?;
                let block = rest.try_get_u32().map_err(short)?;
                Question::GetPage { rel: rel.check()?, block }
            }
            DB_SIZE => Question::DbSize { db: rest.try_get_u32().map_err(short)? },
            _ => {
                let kind = rest.try_get_u8().map_err(short)?;
                let segment = rest.try_get_u32().map_err(short)?;
                Question::GetSlruSegment { kind: SlruKind::from_number(kind).ok_or(RequestError::SlruKind(kind))?, segment }
            }
        };
        match rest.len() {
            0 => Ok(Request { header, question }),
            extra => Err(RequestError::Trailing { tag, extra }),
        }
    }

    /// Appends the request as a client sends it.
    pub fn encode(&self, version: PagestreamVersion, out: &mut BytesMut) {
        out.put_u8(self.question.tag());
        match version {
            PagestreamVersion::V1 => {
                out.put_u8(u8::from(self.header.request_lsn == Lsn::MAX));
                out.put_u64(self.header.not_modified_since.0);
            }
            PagestreamVersion::V2 => put_lsns(out, &self.header),
            PagestreamVersion::V3 => {
                out.put_u64(self.header.reqid);
                put_lsns(out, &self.header);
            }
        }
        self.question.put_body(out);
    }

    /// Appends the response to this request. Panics if the answer is to another question: that is our own mistake.
    pub fn put_response(&self, version: PagestreamVersion, answer: &Answer<'_>, out: &mut BytesMut) {
        let error = matches!(answer, Answer::Error(_));
        assert!(error || answer.fits(&self.question), "{answer:?} is no answer to {:?}", self.question);
        out.put_u8(if error { ERROR_RESPONSE } else { self.question.response_tag() });
        if version == PagestreamVersion::V3 {
            out.put_u64(self.header.reqid);
            put_lsns(out, &self.header);
            if !error {
                self.question.put_body(out);
            }
        }
        match answer {
            Answer::Exists(exists) => out.put_u8(u8::from(*exists)),
            Answer::Nblocks(blocks) => out.put_u32(*blocks),
            Answer::Page(page) => out.put_slice(page.as_slice()),
            Answer::DbSize(bytes) => out.put_i64(*bytes),
            Answer::SlruSegment(pages) => {
                assert!(pages.len() % PAGE_SIZE == 0, "an SLRU segment consists of whole pages, not {} bytes", pages.len());
                out.put_u32((pages.len() / PAGE_SIZE) as u32);
                out.put_slice(pages);
            }
            Answer::Error(message) => {
                // A zero byte would end the message early.
                out.extend(message.bytes().map(|b| if b == 0 { b'?' } else { b }));
                out.put_u8(0);
            }
        }
    }
}

impl Question {
    fn tag(&self) -> u8 {
        match self {
            Question::Exists { .. } => EXISTS,
            Question::Nblocks { .. } => NBLOCKS,
            Question::GetPage { .. } => GET_PAGE,
            Question::DbSize { .. } => DB_SIZE,
            Question::GetSlruSegment { .. } => GET_SLRU_SEGMENT,
        }
    }

    /// 103 is the error: what comes after it is shifted by one.
    fn response_tag(&self) -> u8 {
        let tag = self.tag() + RESPONSE_OFFSET;
        if tag >= ERROR_RESPONSE { tag + 1 } else { tag }
    }

    fn put_body(&self, out: &mut BytesMut) {
        match *self {
            Question::Exists { rel } | Question::Nblocks { rel } => put_rel(out, rel),
            Question::GetPage { rel, block } => {
                put_rel(out, rel);
                out.put_u32(block);
            }
            Question::DbSize { db } => out.put_u32(db),
            Question::GetSlruSegment { kind, segment } => {
                out.put_u8(kind as u8);
                out.put_u32(segment);
            }
        }
    }
}

impl Answer<'_> {
    fn fits(&self, question: &Question) -> bool {
        matches!(
            (self, question),
            (Answer::Exists(_), Question::Exists { .. })
                | (Answer::Nblocks(_), Question::Nblocks { .. })
                | (Answer::Page(_), Question::GetPage { .. })
                | (Answer::DbSize(_), Question::DbSize { .. })
                | (Answer::SlruSegment(_), Question::GetSlruSegment { .. })
        )
    }
}

fn take_header(version: PagestreamVersion, rest: &mut &[u8]) -> Result<RequestHeader, bytes::TryGetError> {
    if version == PagestreamVersion::V1 {
        let latest = rest.try_get_u8()? != 0;
        let lsn = Lsn(rest.try_get_u64()?);
        return Ok(RequestHeader { reqid: 0, request_lsn: if latest { Lsn::MAX } else { lsn }, not_modified_since: lsn });
    }
    let reqid = if version == PagestreamVersion::V3 { rest.try_get_u64()? } else { 0 };
    Ok(RequestHeader { reqid, request_lsn: Lsn(rest.try_get_u64()?), not_modified_since: Lsn(rest.try_get_u64()?) })
}

fn put_lsns(out: &mut BytesMut, header: &RequestHeader) {
    out.put_u64(header.request_lsn.0);
    out.put_u64(header.not_modified_since.0);
}

/// A relation whose fork number is still to be checked.
struct RawRel {
    spc: u32,
    db: u32,
    rel: u32,
    fork: u8,
}

impl RawRel {
    fn check(self) -> Result<RelTag, RequestError> {
        let fork = Fork::from_number(self.fork).ok_or(RequestError::Fork(self.fork))?;
        Ok(RelTag { spc: self.spc, db: self.db, rel: self.rel, fork })
    }
}

fn take_rel(rest: &mut &[u8]) -> Result<RawRel, bytes::TryGetError> {
    Ok(RawRel { spc: rest.try_get_u32()?, db: rest.try_get_u32()?, rel: rest.try_get_u32()?, fork: rest.try_get_u8()? })
}

fn put_rel(out: &mut BytesMut, rel: RelTag) {
    out.put_u32(rel.spc);
    out.put_u32(rel.db);
    out.put_u32(rel.rel);
    out.put_u8(rel.fork as u8);
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
