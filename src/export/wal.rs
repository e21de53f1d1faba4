//! Real WAL in an export: reading the log, finding the checkpoint a replica starts from.

use crate::pg::control::CheckPoint;
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::Record;
use crate::pg::xlog::stream::{StreamDecoder, WalError};
use crate::types::Lsn;
use std::io;

/// WAL is read in pieces of this size.
const READ_BYTES: usize = 1 << 20;
/// Checkpoint opcodes of resource manager 0: at shutdown and while running.
const CHECKPOINT_OPCODES: [u8; 2] = [0x00, 0x10];

/// The raw WAL of a timeline. Blocks: called through `Tasks::blocking`.
pub trait WalSource: Send + Sync {
    /// First LSN that can be read.
    fn start_lsn(&self) -> Lsn;

    /// Reads bytes from `lsn`, at most up to the segment's end; 0 where the WAL ends.
    fn read(&self, lsn: Lsn, buffer: &mut [u8]) -> io::Result<usize>;
}

/// The newest checkpoint that ends at or below `lsn` and whose redo position is in the log.
pub fn last_checkpoint(source: &dyn WalSource, version: PgVersion, segment_size: u64, lsn: Lsn) -> io::Result<Option<(Lsn, CheckPoint)>> {
    let log_start = source.start_lsn();
    let mut start = log_start;
    loop {
        match scan(source, version, segment_size, (log_start, start), lsn)? {
            Scan::Done(found) => return Ok(found),
            // The log begins in the middle of a record.
            Scan::StartInside(reaches) if reaches > start => start = reaches,
            Scan::StartInside(_) => return Ok(None),
        }
    }
}

enum Scan {
    Done(Option<(Lsn, CheckPoint)>),
    StartInside(Lsn),
}

fn scan(source: &dyn WalSource, version: PgVersion, segment_size: u64, (log_start, start): (Lsn, Lsn), lsn: Lsn) -> io::Result<Scan> {
    let invalid = |error: WalError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut decoder = StreamDecoder::new(start, Some(version), segment_size).map_err(invalid)?;
    let mut at = start.page_start().max(log_start);
    let mut buffer = vec![0; READ_BYTES];
    let mut found = None;
    loop {
        let read = source.read(at, &mut buffer)?;
        if read == 0 {
            return Ok(Scan::Done(found));
        }
        decoder.feed(at, buffer.get(..read).unwrap_or_default()).map_err(invalid)?;
        at = Lsn(at.0 + read as u64);
        loop {
            match decoder.next() {
                Ok(None) => break,
                Ok(Some((span, _))) if span.end > lsn => return Ok(Scan::Done(found)),
                Ok(Some((span, bytes))) => {
                    if let Some(point) = checkpoint(bytes, version).filter(|point| point.redo >= log_start) {
                        found = Some((span.start, point));
                    }
                }
                Err(WalError::StartInsideRecord { reaches, .. }) => return Ok(Scan::StartInside(reaches)),
                // The bytes behind the last whole record of the log.
                Err(error) if error.may_be_end_of_wal() => return Ok(Scan::Done(found)),
                Err(error) => return Err(invalid(error)),
            }
        }
    }
}

fn checkpoint(bytes: &[u8], version: PgVersion) -> Option<CheckPoint> {
    // rmgr and info of the header: most records are something else.
    let (info, rmid) = (*bytes.get(16)?, *bytes.get(17)?);
    if rmid != 0 || !CHECKPOINT_OPCODES.contains(&(info & 0xF0)) {
        return None;
    }
    CheckPoint::decode(Record::decode(bytes, version).ok()?.main, version)
}

/// Copies `from..to` of the log to where it belongs in a segment that starts at `base`; what the log does not have stays as it was.
pub fn copy(source: &dyn WalSource, base: Lsn, (from, to): (Lsn, Lsn), segment: &mut [u8]) -> io::Result<()> {
    let mut at = from.max(source.start_lsn());
    while at < to {
        let range = at.distance_from(base) as usize..to.distance_from(base) as usize;
        let Some(room) = segment.get_mut(range) else { return Err(io::ErrorKind::InvalidInput.into()) };
        match source.read(at, room)? {
            0 => return Ok(()),
            read => at = Lsn(at.0 + read as u64),
        }
    }
    Ok(())
}
