//! `pal wal verify DIR`: the redo oracles over a directory of WAL segments with check images.
//!
//! In: the names of the directory's files and a way to read pieces of them, so that any disk can stand behind it. Out: a
//! report and an exit code: 0 clean, 1 a mismatch, 3 a record without a redo routine. WAL that cannot be read is an error.

use crate::pg::version::PgVersion;
use crate::pg::xlog::page::PageHeader;
use crate::pg::xlog::record::RecordError;
use crate::pg::xlog::stream::{StreamDecoder, WalError};
use crate::redo::verify::{Report, Verifier};
use crate::types::Lsn;
use crate::types::lsn::{WAL_LONG_HEADER, WAL_SEGMENT_SIZE, parse_segment_file_name};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Bytes read at a time.
const PIECE: u64 = 4 << 20;

/// Checks our redo against WAL made with `wal_consistency_checking=all`.
#[derive(Debug, Clone, clap::Args)]
pub struct WalVerifyArgs {
    /// Directory of WAL segments (`pg_wal` or an archive).
    pub dir: PathBuf,
    /// Start of the first record [default: the first record that begins in the first segment].
    #[arg(long)]
    pub start: Option<Lsn>,
    /// Stop before the first record that ends beyond this [default: end of the WAL].
    #[arg(long)]
    pub end: Option<Lsn>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum WalVerifyError {
    #[error("no WAL segment is in the directory; give the directory that holds files named like 000000010000000000000001")]
    NoSegment,
    #[error("WAL segment {name} cannot be read: {source}")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("WAL segment {name} does not start with a valid page header")]
    Header { name: String },
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error("no WAL segment of the directory holds the start {start}: the first one there is {first}")]
    Start { start: Lsn, first: String },
    #[error("record ending at {lsn} does not decode: {source}")]
    Record {
        lsn: Lsn,
        #[source]
        source: RecordError,
    },
    #[error("WAL ends at {at}, before the wanted end {wanted}: {reason}")]
    EndsEarly { at: Lsn, wanted: Lsn, reason: String },
    #[error("the WAL segment that holds {at} is missing or cut short, and there are later ones")]
    Gap { at: Lsn },
    #[error("there is no whole record at or after {start}: {reason}")]
    NoRecord { start: Lsn, reason: String },
}

/// What was found, and how far it went.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Outcome {
    /// Start of the first record.
    pub start: Lsn,
    /// End of the last record.
    pub end: Lsn,
    /// What was found at the end of the WAL, if that was reached.
    pub stopped: Option<String>,
    #[serde(flatten)]
    pub report: Report,
}

impl Outcome {
    /// 1 on any mismatch, else 3 on anything unhandled, else 0.
    pub fn exit_code(&self) -> u8 {
        let total = self.report.total();
        match (total.mismatched, total.unhandled) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }

    /// What the command prints.
    pub fn print(&self, json: bool) -> Result<String, serde_json::Error> {
        if json {
            return serde_json::to_string(self);
        }
        let total = self.report.total();
        Ok(format!(
            "{}{} records from {} to {}: {} steps compared, {} mismatched, {} unhandled, {} skipped\n",
            self.report.to_text(),
            self.report.records,
            self.start,
            self.end,
            total.compared,
            total.mismatched,
            total.unhandled,
            total.skipped,
        ))
    }
}

/// Reads `len` bytes at `offset` of a file of the directory; fewer only at its end.
pub type ReadPiece<'r> = dyn FnMut(&str, u64, usize) -> io::Result<Vec<u8>> + 'r;

/// The segments of the newest PostgreSQL timeline of each position, without a gap, in order.
struct Segments {
    /// Segment number -> file name.
    files: BTreeMap<u64, String>,
    size: u64,
    version: PgVersion,
}

impl Segments {
    fn find(names: impl IntoIterator<Item = String>, read: &mut ReadPiece<'_>) -> Result<Segments, WalVerifyError> {
        let mut names: Vec<String> =
            names.into_iter().filter(|n| parse_segment_file_name(n, WAL_SEGMENT_SIZE << 6).is_some() || n.len() == 24).collect();
        names.sort();
        let first = names.first().ok_or(WalVerifyError::NoSegment)?.clone();
        let head = read_at(read, &first, 0, WAL_LONG_HEADER as usize)?;
        let header = PageHeader::decode(&head).ok().and_then(|header| header.version().zip(header.long));
        let (version, long) = header.ok_or(WalVerifyError::Header { name: first })?;
        let size = u64::from(long.segment_size);
        let mut files = BTreeMap::new();
        for name in names {
            // Names are sorted by timeline: the newest one wins.
            if let Some((_, number)) = parse_segment_file_name(&name, size) {
                files.insert(number, name);
            }
        }
        Ok(Segments { files, size, version })
    }

    /// Whether WAL goes on in the segment after `at`'s: a recycled file still carries the address it had before.
    fn goes_on_after(&self, at: Lsn, read: &mut ReadPiece<'_>) -> bool {
        let next = at.segment_number(self.size) + 1;
        let head = self.files.get(&next).and_then(|name| read(name, 0, WAL_LONG_HEADER as usize).ok());
        let header = head.and_then(|head| PageHeader::decode(&head).ok());
        header.is_some_and(|header| header.page_addr == Lsn(next * self.size))
    }
}

fn read_at(read: &mut ReadPiece<'_>, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, WalVerifyError> {
    read(name, offset, len).map_err(|source| WalVerifyError::Read { name: name.to_string(), source })
}

/// Runs the oracles over the files called `names`.
///
/// Errors: no segment, a segment that cannot be read, WAL that is damaged before the wanted end.
pub fn run(args: &WalVerifyArgs, names: impl IntoIterator<Item = String>, read: &mut ReadPiece<'_>) -> Result<Outcome, WalVerifyError> {
    let segments = Segments::find(names, read)?;
    let first = *segments.files.keys().next().ok_or(WalVerifyError::NoSegment)?;
    let start = args.start.unwrap_or(Lsn(first * segments.size));
    if !segments.files.contains_key(&start.segment_number(segments.size)) {
        let first = segments.files.first_key_value().map(|(_, name)| name.clone()).unwrap_or_default();
        return Err(WalVerifyError::Start { start, first });
    }
    let decoder = match args.start {
        Some(start) => StreamDecoder::new(start, Some(segments.version), segments.size)?,
        // The segment may begin with the rest of a record.
        None => StreamDecoder::seek(start, Some(segments.version), segments.size)?,
    };
    let mut run = Run { decoder, verifier: Verifier::new(segments.version), first: None, end: args.end };
    let stopped = run.segments(&segments, start.page_start(), read)?;
    let end = run.decoder.last_end();
    match (run.first, args.end, stopped) {
        (_, Some(wanted), Some(reason)) if end < wanted => Err(WalVerifyError::EndsEarly { at: end, wanted, reason }),
        (None, _, Some(reason)) => Err(WalVerifyError::NoRecord { start, reason }),
        (first, _, stopped) => Ok(Outcome { start: first.unwrap_or(start), end, stopped, report: run.verifier.report() }),
    }
}

struct Run {
    decoder: StreamDecoder,
    verifier: Verifier,
    /// Start of the first record.
    first: Option<Lsn>,
    end: Option<Lsn>,
}

impl Run {
    /// Verifies from `at` on; gives what was found at the end of the WAL, if that was reached.
    fn segments(&mut self, segments: &Segments, mut at: Lsn, read: &mut ReadPiece<'_>) -> Result<Option<String>, WalVerifyError> {
        while self.end.is_none_or(|end| self.decoder.last_end() < end) {
            let number = at.segment_number(segments.size);
            let offset = at.segment_offset(segments.size);
            let piece = match segments.files.get(&number) {
                Some(name) => read_at(read, name, offset, PIECE.min(segments.size - offset) as usize)?,
                None => Vec::new(),
            };
            if piece.is_empty() {
                if segments.files.range(number + 1..).next().is_some() {
                    return Err(WalVerifyError::Gap { at });
                }
                return Ok(Some(format!("the files end at {at}")));
            }
            let len = piece.len() as u64;
            self.decoder.feed_bytes(at, Bytes::from(piece))?;
            at = Lsn(at.0 + len);
            match self.records() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(WalVerifyError::Wal(error)) if error.may_be_end_of_wal() && !segments.goes_on_after(at.saturating_sub(1), read) => {
                    return Ok(Some(error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Verifies the records that are whole; false at the end that is wanted.
    fn records(&mut self) -> Result<bool, WalVerifyError> {
        while let Some((span, record)) = self.decoder.next()? {
            if self.end.is_some_and(|end| span.end > end) {
                return Ok(false);
            }
            self.first.get_or_insert(span.start);
            self.verifier.record(span.end, record).map_err(|source| WalVerifyError::Record { lsn: span.end, source })?;
        }
        Ok(true)
    }
}
