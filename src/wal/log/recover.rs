//! What a log has at the start: where its whole records end, and which bytes nobody can vouch for.

use super::{LogError, LogStart, State, TIMELINES, WalLog};
use crate::io_abstraction::Env;
use crate::io_abstraction::disk::{DiskFile, FileOps as _, create_dir_durably, read_file};
use crate::pg::xlog::stream::StreamDecoder;
use crate::timeline::PgTimeline;
use crate::types::Lsn;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

/// Whether what is found is written again before it is synced. A process that ended after a failed sync leaves pages that the
/// system shows and counts as clean, but that are not on the disk: another sync alone would succeed and change nothing (WL-3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewrite {
    Yes,
    No,
}

/// What is read at a time at the start, for each timeline that is opened: most logs end soon.
const RECOVER_BYTES: usize = 128 << 10;

impl WalLog {
    /// Opens or creates the log and finds its end: the end of the last whole record. Blocks.
    pub fn open(env: &Env, start: LogStart) -> Result<Arc<WalLog>, LogError> {
        let failed = |error| LogError::Io { path: start.directory.clone(), error };
        create_dir_durably(&*env.disk, &start.root, &start.directory).map_err(failed)?;
        let pg_timeline = newest_pg_timeline(env, &start).map_err(failed)?;
        let log = WalLog {
            env: env.clone(),
            directory: start.directory.clone(),
            segment_size: start.segment_size,
            reserve: start.reserve,
            cap: start.cap,
            state: Mutex::new(State {
                start: start.from.page_start(),
                vouched: start.from.page_start(),
                written: start.from.page_start(),
                durable: start.from.page_start(),
                pg_timeline,
                current: None,
                dirty: Vec::new(),
                names_changed: false,
                failed: false,
                full: false,
                cuts: 0,
            }),
            syncing: Mutex::new(()),
            grown: Notify::new(),
            cut: Notify::new(),
        };
        let end = log.recover(start.from, Lsn::MAX, Rewrite::Yes).map_err(failed)?;
        let vouched = log.first_vouched(start.from).map_err(failed)?;
        {
            let mut state = log.state.lock();
            // Without a whole record behind `from` its page is asked for again from its first byte.
            let end = if end > start.from { end } else { start.from.page_start() };
            (state.written, state.durable, state.vouched) = (end, end, vouched);
        }
        Ok(Arc::new(log))
    }

    /// Follows records from `from` to the last whole one below `until`, makes them durable, and gives its end.
    fn recover(&self, from: Lsn, until: Lsn, rewrite: Rewrite) -> io::Result<Lsn> {
        let Ok(mut decoder) = StreamDecoder::new(from, None, self.segment_size) else { return Ok(from) };
        let mut at = from.page_start();
        let mut buffer = vec![0; RECOVER_BYTES];
        let mut touched: Vec<DiskFile> = Vec::new();
        'files: loop {
            let (tli, number) = (self.part(at).0, at.segment_number(self.segment_size));
            let Some(file) = self.open_existing(tli, number)? else { break };
            touched.push(file.clone());
            while (self.part(at).0, at.segment_number(self.segment_size)) == (tli, number) {
                let left = self.part(at).1.min(buffer.len()).min(usize::try_from(until.distance_from(at)).unwrap_or(usize::MAX));
                let read = file.read_at(at.segment_offset(self.segment_size), &mut buffer[..left])?;
                // Feeding starts at the page, so that its header is checked too.
                if read == 0 || decoder.feed(at, &buffer[..read]).is_err() {
                    break 'files;
                }
                if rewrite == Rewrite::Yes && !crate::planted!(self.env, "cached-wal-trusted") {
                    file.write_at(at.segment_offset(self.segment_size), &buffer[..read])?;
                }
                loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'files,
                    }
                }
                at = Lsn(at.0 + read as u64);
            }
        }
        touched.iter().try_for_each(|file| file.sync_data())?;
        self.env.disk.sync_dir(&self.directory)?;
        Ok(decoder.last_end().max(from))
    }

    /// Where the records begin that lead up to `from` on its page without a gap: `from` itself if they do not. Checksums say nothing of
    /// what lies before, and a power loss may have taken sectors of it that were never synced, though later ones stayed.
    fn first_vouched(&self, from: Lsn) -> io::Result<Lsn> {
        let page = from.page_start();
        let Ok(mut decoder) = StreamDecoder::seek(page, None, self.segment_size) else { return Ok(from) };
        let Some(file) = self.open_existing(self.part(page).0, page.segment_number(self.segment_size))? else { return Ok(from) };
        let mut bytes = vec![0; from.distance_from(page) as usize];
        let read = file.read_at(page.segment_offset(self.segment_size), &mut bytes)?;
        let mut first = None;
        if read == bytes.len() && decoder.feed(page, &bytes).is_ok() {
            while let Ok(Some((span, _))) = decoder.next() {
                first.get_or_insert(span.start);
            }
        }
        Ok(first.filter(|_| decoder.last_end() == from).unwrap_or(from))
    }

    /// End of the last whole record that was received. `from` is the end of one. Blocks.
    pub fn last_whole_record(&self, from: Lsn) -> Result<Lsn, LogError> {
        self.recover(from, self.written_lsn(), Rewrite::No).map_err(|e| self.io_error(e))
    }
}

/// What the log says of PostgreSQL's timeline, if it followed a switch that the index does not know yet.
fn newest_pg_timeline(env: &Env, start: &LogStart) -> io::Result<PgTimeline> {
    let stored = match read_file(&*env.disk, &start.directory.join(TIMELINES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(start.pg_timeline.clone()),
        other => {
            let damaged =
                |e: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, format!("the file {TIMELINES} is damaged: {e}"));
            serde_json::from_slice::<PgTimeline>(&other?).map_err(damaged)?
        }
    };
    let newer = stored.history.len() > start.pg_timeline.history.len();
    Ok(if newer { stored } else { start.pg_timeline.clone() })
}
