//! Is this a cleanly stopped cluster, and where does its WAL end? Reads pg_control, pg_wal and the files that tell otherwise.

use super::{ImportError, authentication_nonce};
use crate::io_abstraction::disk::{Disk, FileOps as _, OpenMode, read_file};
use crate::pg::control::{CHECKPOINT_LEN, ClusterState, ControlFile};
use crate::pg::xlog::page::PageHeader;
use crate::pg::xlog::record::Record;
use crate::pg::xlog::stream::{RecordSpan, StreamDecoder, WalError};
use crate::remote::index::TliSwitch;
use crate::types::Lsn;
use crate::types::lsn::segment_file_name;
use std::io;
use std::path::{Path, PathBuf};

/// WAL is read in pieces of this size.
const READ_BYTES: usize = 1 << 20;
/// Opcode of a shutdown checkpoint, in the high nibble of a record of resource manager 0.
const CHECKPOINT_SHUTDOWN: u8 = 0x00;

/// A cluster that is fit for import.
pub struct Stopped {
    pub control: ControlFile,
    /// As it was read, to see whether it changed meanwhile.
    raw_control: Vec<u8>,
    /// Start of the shutdown checkpoint record.
    pub checkpoint: Lsn,
    /// End of it.
    pub lsn: Lsn,
    pub tli: u32,
    pub tli_history: Vec<TliSwitch>,
}

impl Stopped {
    /// Makes the cluster another one, with a history of its own that begins with PostgreSQL's timeline 1.
    pub fn adopt(&mut self, system_identifier: u64) {
        self.control.system_id = system_identifier;
        self.control.mock_authentication_nonce = authentication_nonce(system_identifier);
        self.tli = 1;
        self.tli_history.clear();
        self.control.checkpoint_copy.tli = 1;
        self.control.checkpoint_copy.prev_tli = 1;
    }
}

fn control_path(directory: &Path) -> PathBuf {
    directory.join("global").join("pg_control")
}

/// Opens a data directory.
pub fn open(disk: &dyn Disk, directory: &Path) -> Result<Stopped, ImportError> {
    let path = control_path(directory);
    let raw_control =
        read_file(disk, &path).map_err(|error| ImportError::NotADataDirectory { directory: directory.to_path_buf(), error })?;
    let control = ControlFile::decode(&raw_control).map_err(|error| ImportError::Control { path, error })?;
    let exists = |name: &str| disk.open(&directory.join(name), OpenMode::Read).is_ok();
    if exists("postmaster.pid") {
        return Err(ImportError::Running { path: directory.join("postmaster.pid") });
    }
    if exists("backup_label") {
        return Err(ImportError::Backup { path: directory.join("backup_label") });
    }
    let stopped = || directory.to_path_buf();
    let state = match control.state {
        ClusterState::ShutDown => None,
        ClusterState::ShutDownInRecovery => return Err(ImportError::Standby { directory: stopped() }),
        ClusterState::StartingUp => Some("starting up"),
        ClusterState::ShuttingDown => Some("shutting down"),
        ClusterState::InCrashRecovery => Some("in crash recovery"),
        ClusterState::InArchiveRecovery => Some("in archive recovery"),
        ClusterState::InProduction => Some("in production"),
    };
    if let Some(state) = state {
        return Err(ImportError::NotStopped { directory: stopped(), state });
    }
    let span = shutdown_checkpoint(disk, directory, &control)?;
    let tli = control.checkpoint_copy.tli;
    let tli_history = history(disk, directory, tli)?;
    Ok(Stopped { raw_control, checkpoint: span.start, lsn: span.end, tli, tli_history, control })
}

/// Fails if a server used the directory since it was opened.
pub fn check_unchanged(disk: &dyn Disk, directory: &Path, stopped: &Stopped) -> Result<(), ImportError> {
    let path = control_path(directory);
    let now = read_file(disk, &path).map_err(ImportError::io(&path))?;
    let running = disk.open(&directory.join("postmaster.pid"), OpenMode::Read).is_ok();
    if now != stopped.raw_control || running {
        return Err(ImportError::Changed { directory: directory.to_path_buf() });
    }
    Ok(())
}

/// Reads the WAL from the last checkpoint on: that record must be there, be what pg_control says, and be the last one.
fn shutdown_checkpoint(disk: &dyn Disk, directory: &Path, control: &ControlFile) -> Result<RecordSpan, ImportError> {
    let (at, wal) = (control.checkpoint, directory.join("pg_wal"));
    let missing = |reason| ImportError::NoCheckpoint { directory: wal.clone(), lsn: at, reason };
    let failed = |error| ImportError::Wal { directory: wal.clone(), lsn: at, error };
    let segment_size = u64::from(control.wal_segment_size);
    if at.record_start(segment_size) != at {
        return Err(missing("no record can start there"));
    }
    let decoder = StreamDecoder::new(at, Some(control.version()), segment_size).map_err(failed)?;
    let mut decoder = decoder.with_system_id(control.system_id);
    let mut reader = SegmentReader {
        disk,
        directory: &wal,
        tli: control.checkpoint_copy.tli,
        segment_size,
        at: Lsn(at.0 - at.segment_offset(segment_size)),
    };
    // The decoder passes over what lies below the record, and only a segment's first page names the cluster.
    let Some((page, first)) = reader.read()? else { return Err(missing("the segment file is absent or too short")) };
    let header = PageHeader::decode(&first).and_then(|header| header.validate(page, segment_size).map(|()| header));
    let header = header.map_err(|error| failed(WalError::Page { page, error }))?;
    if header.long.is_none_or(|long| long.system_id != control.system_id) {
        return Err(missing("the segment file is another cluster's"));
    }
    reader.at = at.page_start();
    let span = match next_record(&mut decoder, &mut reader)? {
        Next::Record(span, bytes) => {
            check_checkpoint(&bytes, control).map_err(missing)?;
            span
        }
        Next::Invalid(error) => return Err(failed(error)),
        Next::EndOfFiles => return Err(missing("the segment file is absent or too short")),
    };
    match next_record(&mut decoder, &mut reader)? {
        Next::Record(next, _) => Err(ImportError::WalGoesOn { directory: wal, lsn: next.start }),
        Next::Invalid(error) if !error.may_be_end_of_wal() => Err(failed(error)),
        Next::Invalid(_) | Next::EndOfFiles => Ok(span),
    }
}

fn check_checkpoint(bytes: &[u8], control: &ControlFile) -> Result<(), &'static str> {
    let record = Record::decode(bytes, control.version()).map_err(|_| "the record there does not decode")?;
    if record.header.rmid != 0 || record.header.info & 0xF0 != CHECKPOINT_SHUTDOWN || record.main.len() != CHECKPOINT_LEN {
        return Err("the record there is no shutdown checkpoint");
    }
    let point = crate::pg::control::CheckPoint::decode(record.main, control.version());
    if point.as_ref() == Some(&control.checkpoint_copy) { Ok(()) } else { Err("the record there differs from pg_control's copy") }
}

struct SegmentReader<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    tli: u32,
    segment_size: u64,
    at: Lsn,
}

impl SegmentReader<'_> {
    /// The next bytes; none where files end.
    fn read(&mut self) -> Result<Option<(Lsn, Vec<u8>)>, ImportError> {
        let path = self.directory.join(segment_file_name(self.tli, self.at.segment_number(self.segment_size), self.segment_size));
        let file = match self.disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImportError::Io { path, error }),
        };
        let offset = self.at.segment_offset(self.segment_size);
        let mut bytes = vec![0; usize::try_from(self.segment_size - offset).unwrap_or(READ_BYTES).min(READ_BYTES)];
        let read = file.read_at(offset, &mut bytes).map_err(ImportError::io(&path))?;
        bytes.truncate(read);
        let lsn = self.at;
        self.at = Lsn(lsn.0 + read as u64);
        Ok((read > 0).then_some((lsn, bytes)))
    }
}

enum Next {
    Record(RecordSpan, Vec<u8>),
    Invalid(WalError),
    EndOfFiles,
}

fn next_record(decoder: &mut StreamDecoder, reader: &mut SegmentReader<'_>) -> Result<Next, ImportError> {
    loop {
        match decoder.next() {
            Ok(Some((span, bytes))) => return Ok(Next::Record(span, bytes.to_vec())),
            Ok(None) => {}
            Err(error) => return Ok(Next::Invalid(error)),
        }
        let Some((lsn, bytes)) = reader.read()? else { return Ok(Next::EndOfFiles) };
        if let Err(error) = decoder.feed(lsn, &bytes) {
            return Ok(Next::Invalid(error));
        }
    }
}

/// Reads the history file of a TLI: lines of "tli, end LSN, reason". TLI 1 has none.
fn history(disk: &dyn Disk, directory: &Path, tli: u32) -> Result<Vec<TliSwitch>, ImportError> {
    if tli <= 1 {
        return Ok(Vec::new());
    }
    let path = directory.join("pg_wal").join(format!("{tli:08X}.history"));
    let bytes = match read_file(disk, &path) {
        Ok(bytes) => bytes,
        // Recovery can do without it too, when nobody asks for WAL of earlier TLIs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImportError::Io { path, error }),
    };
    parse_history(&String::from_utf8_lossy(&bytes)).ok_or_else(|| ImportError::file(&path, "is not a timeline history"))
}

fn parse_history(text: &str) -> Option<Vec<TliSwitch>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        Some(TliSwitch { tli: words.next()?.parse().ok()?, end: words.next()?.parse().ok()? })
    };
    let switches: Option<Vec<TliSwitch>> = lines.map(parse).collect();
    switches.filter(|s| s.windows(2).all(|w| w[0].tli < w[1].tli && w[0].end <= w[1].end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files() {
        let switch = |tli, end| TliSwitch { tli, end: Lsn(end) };
        let text = "1\t0/3000158\tno recovery target specified\n\n# comment\n2\t0/5000000\tx y\n";
        assert_eq!(parse_history(text), Some(vec![switch(1, 0x300_0158), switch(2, 0x500_0000)]));
        assert_eq!(parse_history(""), Some(vec![]));
        for bad in ["1", "x 0/1", "1 0", "2 0/1\n1 0/2", "1 0/2\n2 0/1"] {
            assert_eq!(parse_history(bad), None, "{bad}");
        }
    }
}
