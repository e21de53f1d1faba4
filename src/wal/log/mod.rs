//! The WAL log of a timeline: the raw stream on the local disk, in PostgreSQL's own segment files.
//!
//! Invariants
//! - WL-1: an LSN is reported durable only after everything below it (down to the log's start) was synced.
//! - WL-2: durable bytes are never changed, except those of a record that another history ended; bytes behind the durable end may
//!   be overwritten, and so may those below the first record whose checksum was seen when the log was opened.
//! - WL-3: a file that failed to sync is never written again: a new one takes its place.
//!
//! Files are named by (TLI, segment number); the file `timelines` tells which TLI's file holds what. The log starts at the timeline's disk-consistent LSN and ends where
//! valid records end; what follows the last whole record is asked for again.

mod recover;
#[cfg(test)]
mod tests;

use crate::io_abstraction::Env;
use crate::io_abstraction::disk::{DiskFile, FileOps as _, OpenMode, TEMPORARY_SUFFIX, write_file_durably};
use crate::remote::index::TliSwitch;
use crate::timeline::PgTimeline;
use crate::types::Lsn;
use crate::types::lsn::{WAL_PAGE_SIZE, parse_segment_file_name, segment_file_name};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::Notify;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("WAL log {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "WAL log {path}: only {available} bytes of disk are free and {reserve} are reserved; nothing is acknowledged until space is freed"
    )]
    NearlyFull { path: PathBuf, available: u64, reserve: u64 },
    #[error(
        "WAL log {path}: it holds {held} bytes that remote storage does not have yet, and wal_log_bytes_max is {cap}; nothing is acknowledged until uploads go on, or the setting is raised"
    )]
    Full { path: PathBuf, held: u64, cap: u64 },
    #[error("WAL log {path}: bytes for {expected} are due but bytes for {got} came")]
    Gap { path: PathBuf, expected: Lsn, got: Lsn },
    #[error("WAL log {path}: the stream differs at {at} from what was received before, up to {ours}: another history")]
    Differs { path: PathBuf, at: Lsn, ours: Lsn },
    #[error("WAL log {path}: {lsn} is not in the log, which starts at {start}")]
    Trimmed { path: PathBuf, lsn: Lsn, start: Lsn },
    #[error("WAL log {path}: a sync failed; what was not durable will be received again")]
    Failed { path: PathBuf },
}

impl LogError {
    /// What is on the disk cannot be used, however often it is read.
    pub fn is_damage(&self) -> bool {
        matches!(self, LogError::Io { error, .. } if error.kind() == io::ErrorKind::InvalidData)
    }
}

#[derive(Clone)]
struct OpenSegment {
    number: u64,
    tli: u32,
    file: DiskFile,
}

struct State {
    /// First LSN that can be read.
    start: Lsn,
    /// Below it, down to the start, bytes are as a crash may have left them: no checksum covers them.
    vouched: Lsn,
    /// End of what was written.
    written: Lsn,
    /// End of what is durable.
    durable: Lsn,
    pg_timeline: PgTimeline,
    current: Option<OpenSegment>,
    /// Written to since the last sync.
    dirty: Vec<OpenSegment>,
    names_changed: bool,
    failed: bool,
    /// The last segment that was wanted was refused because of the cap.
    full: bool,
    /// How often bytes were taken back: a sync that began before says nothing about what came after.
    cuts: u64,
}

impl State {
    /// The next write looks for its file anew; the one before is still to be synced.
    fn close_segment(&mut self) {
        let current = self.current.take();
        self.dirty.extend(current);
    }

    /// What was received from `end` on does not count any more; false if there is nothing.
    fn take_back(&mut self, end: Lsn) -> bool {
        if end >= self.written {
            return false;
        }
        self.written = end;
        self.durable = self.durable.min(end);
        self.close_segment();
        self.cuts += 1;
        true
    }
}

pub struct WalLog {
    env: Env,
    directory: PathBuf,
    segment_size: u64,
    reserve: u64,
    cap: u64,
    state: Mutex<State>,
    /// Held while files are synced or replaced: a sync whose caller is gone may still run.
    syncing: Mutex<()>,
    grown: Notify,
    cut: Notify,
}

/// Name of the file with the TLI and its history: newer than the index in remote storage, and needed to find the newest WAL.
const TIMELINES: &str = "timelines";
/// What to open a log with.
pub struct LogStart {
    /// The node's data directory.
    pub root: PathBuf,
    pub directory: PathBuf,
    pub segment_size: u64,
    /// Free disk space in bytes that is not touched.
    pub reserve: u64,
    /// Bytes that the log may hold before it takes no more.
    pub cap: u64,
    /// The timeline's disk-consistent LSN: below it the log is not needed.
    pub from: Lsn,
    pub pg_timeline: PgTimeline,
}

impl WalLog {
    fn open_existing(&self, tli: u32, number: u64) -> io::Result<Option<DiskFile>> {
        match self.env.disk.open(&self.path(tli, number), OpenMode::ReadWrite) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, tli: u32, number: u64) -> PathBuf {
        self.directory.join(segment_file_name(tli, number, self.segment_size))
    }

    fn part(&self, lsn: Lsn) -> (u32, usize) {
        part_of(&self.state.lock().pg_timeline, lsn, self.segment_size)
    }

    /// PostgreSQL's timeline as far as it was followed.
    pub fn pg_timeline(&self) -> PgTimeline {
        self.state.lock().pg_timeline.clone()
    }

    /// Where to ask the stream to begin again: at the start of the last page received, so that histories can be compared. At
    /// the start of a segment at that place: the server may keep nothing below it.
    pub fn resume_lsn(&self) -> Lsn {
        let state = self.state.lock();
        let page = state.written.page_start();
        let nothing_to_compare = page < state.written || page <= state.start || page.segment_offset(self.segment_size) == 0;
        if nothing_to_compare { page } else { page.saturating_sub(WAL_PAGE_SIZE) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn durable_lsn(&self) -> Lsn {
        self.state.lock().durable
    }

    pub fn written_lsn(&self) -> Lsn {
        self.state.lock().written
    }

    pub fn start_lsn(&self) -> Lsn {
        self.state.lock().start
    }

    /// Bytes from the log's start to its end.
    pub fn held_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.written.distance_from(state.start)
    }

    /// Nothing more is taken until the log is trimmed.
    pub fn is_full(&self) -> bool {
        self.state.lock().full
    }

    fn io_error(&self, error: io::Error) -> LogError {
        LogError::Io { path: self.directory.clone(), error }
    }

    /// From `end` on the stream has this TLI. Durable when it returns. Blocks.
    pub fn switch_tli(&self, tli: u32, end: Lsn) -> Result<(), LogError> {
        let mut switched = self.pg_timeline();
        switched.history.push(TliSwitch { tli: switched.tli, end });
        switched.tli = tli;
        let bytes = serde_json::to_vec(&switched).expect("numbers are plain data");
        write_file_durably(&*self.env.disk, &self.directory.join(TIMELINES), &bytes).map_err(|e| self.io_error(e))?;
        let mut state = self.state.lock();
        state.pg_timeline = switched;
        state.close_segment();
        Ok(())
    }

    /// Takes stream bytes for `lsn`. What was received before must be equal; the rest is written behind it, not yet synced.
    pub fn append(&self, lsn: Lsn, bytes: &[u8]) -> Result<(), LogError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(LogError::Failed { path: self.directory.clone() });
        }
        if lsn > state.written {
            return Err(LogError::Gap { path: self.directory.clone(), expected: state.written, got: lsn });
        }
        let known = usize::try_from(state.written.0 - lsn.0).unwrap_or(usize::MAX).min(bytes.len());
        let (old, new) = bytes.split_at(known);
        self.compare(&mut state, lsn, old)?;
        let mut rest = new;
        while !rest.is_empty() {
            let at = state.written;
            let offset = at.segment_offset(self.segment_size);
            let room = part_of(&state.pg_timeline, at, self.segment_size).1;
            let (now, later) = rest.split_at(rest.len().min(room));
            let file = self.segment_for_writing(&mut state, at)?;
            file.write_at(offset, now).map_err(|e| self.io_error(e))?;
            state.written = Lsn(at.0 + now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// WL-2, and histories never mix: what came again must be what came before. What nothing vouches for is not compared, but
    /// written again.
    fn compare(&self, state: &mut State, lsn: Lsn, bytes: &[u8]) -> Result<(), LogError> {
        // Below the log's start there is nothing to compare with.
        let skip = usize::try_from(state.start.0.saturating_sub(lsn.0)).unwrap_or(usize::MAX).min(bytes.len());
        let (mut at, mut bytes) = (Lsn(lsn.0 + skip as u64), &bytes[skip..]);
        while !bytes.is_empty() {
            let offset = at.segment_offset(self.segment_size);
            let (tli, room) = part_of(&state.pg_timeline, at, self.segment_size);
            let len = bytes.len().min(room);
            let file = self.open_existing(tli, at.segment_number(self.segment_size)).map_err(|e| self.io_error(e))?;
            let mut have = vec![0; len];
            if let Some(file) = file {
                file.read_at(offset, &mut have).map_err(|e| self.io_error(e))?;
            }
            if have[..] != bytes[..len] && at < state.vouched {
                let unchecked = usize::try_from(state.vouched.distance_from(at)).unwrap_or(usize::MAX).min(len);
                let file = self.segment_for_writing(state, at)?;
                file.write_at(offset, &bytes[..unchecked]).map_err(|e| self.io_error(e))?;
                have[..unchecked].copy_from_slice(&bytes[..unchecked]);
            }
            if let Some(different) = have.iter().zip(bytes).position(|(a, b)| a != b) {
                let (at, ours) = (Lsn(at.0 + different as u64), state.written);
                return Err(LogError::Differs { path: self.directory.clone(), at, ours });
            }
            at = Lsn(at.0 + len as u64);
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn segment_for_writing(&self, state: &mut State, at: Lsn) -> Result<DiskFile, LogError> {
        let (tli, number) = (part_of(&state.pg_timeline, at, self.segment_size).0, at.segment_number(self.segment_size));
        if let Some(current) = state.current.as_ref().filter(|c| c.number == number && c.tli == tli) {
            return Ok(current.file.clone());
        }
        let file = match self.open_existing(tli, number).map_err(|e| self.io_error(e))? {
            Some(file) => file,
            None => {
                let held = at.distance_from(state.start);
                state.full = held.saturating_add(self.segment_size) > self.cap;
                if state.full {
                    return Err(LogError::Full { path: self.directory.clone(), held, cap: self.cap });
                }
                let space = self.env.disk.space(&self.directory).map_err(|e| self.io_error(e))?;
                if space.available < self.reserve.saturating_add(self.segment_size) {
                    let (available, reserve) = (space.available, self.reserve);
                    return Err(LogError::NearlyFull { path: self.directory.clone(), available, reserve });
                }
                let path = self.path(tli, number);
                let file = self.env.disk.open(&path, OpenMode::CreateNew).map_err(|e| self.io_error(e))?;
                // From here on, for the file stays even if it cannot be made long enough now.
                state.names_changed = true;
                file.set_len(self.segment_size).map_err(|e| self.io_error(e))?;
                file
            }
        };
        let before = state.current.replace(OpenSegment { number, tli, file: file.clone() });
        // Its end was written after the last sync.
        state.dirty.extend(before);
        Ok(file)
    }

    /// Makes everything written so far durable; gives its end. Blocks.
    pub fn sync(&self) -> Result<Lsn, LogError> {
        let _one_at_a_time = self.syncing.lock();
        let (files, names_changed, end, cuts) = {
            let mut state = self.state.lock();
            if state.failed {
                return Err(LogError::Failed { path: self.directory.clone() });
            }
            let current = state.current.clone();
            let files: Vec<DiskFile> = state.dirty.drain(..).chain(current).map(|segment| segment.file).collect();
            (files, std::mem::take(&mut state.names_changed), state.written, state.cuts)
        };
        let result = self
            .sync_files(&files, names_changed)
            .or_else(|e| if crate::planted!(self.env, "sync-error-ignored") { Ok(()) } else { Err(e) });
        let mut state = self.state.lock();
        match result {
            Ok(()) => {
                if state.cuts == cuts {
                    state.durable = state.durable.max(end);
                }
                drop(state);
                self.grown.notify_waiters();
                Ok(end)
            }
            Err(error) => {
                state.failed = true;
                Err(self.io_error(error))
            }
        }
    }

    /// Makes the log usable again after a failed sync: what was not durable is given up, and the last segment gets a new file,
    /// for the old one may never become durable (WL-3). Blocks.
    pub fn heal(&self) -> Result<(), LogError> {
        let _one_at_a_time = self.syncing.lock();
        let mut state = self.state.lock();
        if !state.failed {
            return Ok(());
        }
        state.current = None;
        state.dirty.clear();
        let durable = state.durable;
        let (tli, first) = (part_of(&state.pg_timeline, durable, self.segment_size).0, durable.segment_number(self.segment_size));
        for entry in self.env.disk.list(&self.directory).map_err(|e| self.io_error(e))? {
            let number = parse_segment_file_name(&entry.name, self.segment_size).map(|(_, number)| number);
            if number.is_some_and(|number| number > first) || entry.name.ends_with(TEMPORARY_SUFFIX) {
                self.env.disk.unlink(&self.directory.join(&entry.name)).map_err(|e| self.io_error(e))?;
            }
        }
        self.replace_segment(tli, first, durable.segment_offset(self.segment_size)).map_err(|e| self.io_error(e))?;
        state.written = durable;
        state.failed = false;
        Ok(())
    }

    /// Gives a segment a new file with the first `len` bytes of the old one.
    fn replace_segment(&self, tli: u32, number: u64, len: u64) -> io::Result<()> {
        let Some(old) = self.open_existing(tli, number)? else { return self.env.disk.sync_dir(&self.directory) };
        let path = self.path(tli, number);
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(temporary);
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
        old.read_exact_at(0, &mut bytes)?;
        let file = self.env.disk.open(&temporary, OpenMode::CreateTruncate)?;
        file.write_at(0, &bytes)?;
        file.set_len(self.segment_size)?;
        file.sync_data()?;
        self.env.disk.rename(&temporary, &path)?;
        self.env.disk.sync_dir(&self.directory)
    }

    /// Numbers of the segments that the next sync covers.
    #[cfg(test)]
    fn unsynced_segments(&self) -> Vec<u64> {
        let state = self.state.lock();
        state.dirty.iter().chain(&state.current).map(|segment| segment.number).collect()
    }

    fn sync_files(&self, files: &[DiskFile], names_changed: bool) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync_data())?;
        if names_changed && !crate::planted!(self.env, "log-name-unsynced") {
            self.env.disk.sync_dir(&self.directory)?;
        }
        Ok(())
    }

    /// What follows `end`, the end of the last whole record, was found to be damaged: it is not counted as received any more, as
    /// after a restart. The bytes stay until others come in their place.
    pub fn distrust(&self, end: Lsn) {
        let mut state = self.state.lock();
        // Nobody checked what came before the first record that was read.
        let end = if end.page_start() <= state.start { state.start } else { end };
        if state.take_back(end) {
            drop(state);
            self.cut.notify_waiters();
        }
    }

    /// Another history begins at `end`, with no whole record of ours behind it: what was received of the next one is given up.
    /// A record that never became whole was never acknowledged to mean anything, so this is no change of what is durable.
    pub fn give_up_tail(&self, end: Lsn) {
        if self.state.lock().take_back(end) {
            self.grown.notify_waiters();
        }
    }

    /// How often received bytes were taken back.
    pub fn cuts(&self) -> u64 {
        self.state.lock().cuts
    }

    /// Completes when what was received is not counted any more, the position with it: the stream must begin again.
    pub async fn distrusted(&self) {
        self.cut.notified().await;
    }

    /// Completes when more than `lsn` is durable, or bytes were taken back since there were `cuts` of that.
    pub async fn wait_beyond(&self, lsn: Lsn, cuts: u64) {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            // Registers before looking, so that a growth in between is not missed.
            grown.as_mut().enable();
            if self.durable_lsn() > lsn || self.cuts() != cuts {
                return;
            }
            grown.await;
        }
    }

    /// Reads durable bytes from `lsn`, at most up to the end of a file's part and `buffer`'s length; gives their number.
    pub fn read(&self, lsn: Lsn, buffer: &mut [u8]) -> Result<usize, LogError> {
        let (start, durable, (tli, room)) = {
            let state = self.state.lock();
            (state.start, state.durable, part_of(&state.pg_timeline, lsn, self.segment_size))
        };
        if lsn < start {
            return Err(LogError::Trimmed { path: self.directory.clone(), lsn, start });
        }
        let offset = lsn.segment_offset(self.segment_size);
        let len = usize::try_from(durable.0.saturating_sub(lsn.0)).unwrap_or(usize::MAX).min(room).min(buffer.len());
        if len == 0 {
            return Ok(0);
        }
        let file = self.open_existing(tli, lsn.segment_number(self.segment_size)).map_err(|e| self.io_error(e))?;
        let file = file.ok_or_else(|| LogError::Trimmed { path: self.directory.clone(), lsn, start })?;
        file.read_exact_at(offset, &mut buffer[..len]).map_err(|e| self.io_error(e))?;
        Ok(len)
    }

    /// Removes segments that end at or below `lsn`. Blocks.
    pub fn trim(&self, lsn: Lsn) -> Result<u32, LogError> {
        let keep = lsn.segment_number(self.segment_size);
        let mut removed = 0;
        for entry in self.env.disk.list(&self.directory).map_err(|e| self.io_error(e))? {
            let Some((_, number)) = parse_segment_file_name(&entry.name, self.segment_size) else { continue };
            if number < keep {
                let mut state = self.state.lock();
                state.start = state.start.max(Lsn((number + 1) * self.segment_size));
                drop(state);
                self.env.disk.unlink(&self.directory.join(&entry.name)).map_err(|e| self.io_error(e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The TLI whose file holds `lsn`, and how many bytes from there on are in that file: to the segment's end, or to where the TLI ends.
fn part_of(pg_timeline: &PgTimeline, lsn: Lsn, segment_size: u64) -> (u32, usize) {
    let room = segment_size - lsn.segment_offset(segment_size);
    let (tli, room) = match pg_timeline.history.iter().find(|switch| lsn < switch.end) {
        Some(switch) => (switch.tli, room.min(switch.end.distance_from(lsn))),
        None => (pg_timeline.tli, room),
    };
    (tli, usize::try_from(room).unwrap_or(usize::MAX))
}

impl crate::export::WalSource for WalLog {
    fn start_lsn(&self) -> Lsn {
        self.state.lock().start
    }

    fn read(&self, lsn: Lsn, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(lsn, buffer).map_err(io::Error::other)
    }
}
