//! WAL segment files in a directory, or named one by one.

use crate::io_abstraction::disk::{Disk, DiskFile, FileOps, OpenMode};
use crate::pg::xlog::page::{PageHeader, PageHeaderError, segment_size_is_valid};
use crate::types::Lsn;
use crate::types::lsn::{WAL_LONG_HEADER, parse_segment_file_name};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Why the files are not a stretch of WAL.
#[derive(Debug, thiserror::Error)]
pub enum WalFilesError {
    #[error("no WAL segment in {0}: expected files named like 000000010000000000000001")]
    NoSegment(String),
    #[error("{0} is not named like a WAL segment (000000010000000000000001)")]
    Name(PathBuf),
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} does not begin with the header of a WAL segment: {error}")]
    Header { path: PathBuf, error: PageHeaderError },
    #[error("the WAL segment that holds {0} is missing")]
    Missing(Lsn),
}

/// Segments by number; of several timelines the newest.
pub struct WalFiles<'d> {
    disk: &'d dyn Disk,
    paths: BTreeMap<u64, PathBuf>,
    segment_size: u64,
    open: Option<(u64, DiskFile)>,
}

impl<'d> WalFiles<'d> {
    /// Looks at `paths`: directories are searched for segments, files must be segments.
    pub fn find(disk: &'d dyn Disk, paths: &[PathBuf]) -> Result<WalFiles<'d>, WalFilesError> {
        let mut named: Vec<(String, PathBuf)> = Vec::new();
        for path in paths {
            match disk.list(path) {
                Ok(entries) => {
                    let files = entries.into_iter().filter(|entry| !entry.is_dir && is_segment_name(&entry.name));
                    named.extend(files.map(|entry| (entry.name.clone(), path.join(entry.name))));
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_segment_name(name));
                    named.push((name.ok_or(WalFilesError::Name(path.clone()))?.to_string(), path.clone()));
                }
                Err(source) => return Err(WalFilesError::Read { path: path.clone(), source }),
            }
        }
        // By name is by timeline first: of two files for one segment the newer timeline's is kept.
        named.sort();
        let shown = || paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let (_, first) = named.first().ok_or_else(|| WalFilesError::NoSegment(shown()))?;
        let segment_size = segment_size_of(disk, first)?;
        let files = named.into_iter().filter_map(|(name, path)| Some((parse_segment_file_name(&name, segment_size)?.1, path)));
        Ok(WalFiles { disk, paths: files.collect(), segment_size, open: None })
    }

    pub fn segment_size(&self) -> u64 {
        self.segment_size
    }

    /// Start of the first segment.
    pub fn start(&self) -> Lsn {
        Lsn(self.paths.keys().next().copied().unwrap_or_default().saturating_mul(self.segment_size))
    }

    /// End of the last segment.
    pub fn end(&self) -> Lsn {
        Lsn(self.paths.keys().next_back().map_or(0, |number| number + 1).saturating_mul(self.segment_size))
    }

    /// Up to `len` bytes from `at` on, all of one segment; none behind the end of a short file.
    pub fn read(&mut self, at: Lsn, len: usize) -> Result<Vec<u8>, WalFilesError> {
        let number = at.segment_number(self.segment_size);
        let path = self.paths.get(&number).ok_or(WalFilesError::Missing(at))?;
        let failed = |source| WalFilesError::Read { path: path.clone(), source };
        let file = match &self.open {
            Some((open, file)) if *open == number => file.clone(),
            _ => self.disk.open(path, OpenMode::Read).map_err(failed)?,
        };
        let offset = at.segment_offset(self.segment_size);
        let mut bytes = vec![0; (self.segment_size - offset).min(len as u64) as usize];
        let read = file.read_at(offset, &mut bytes).map_err(failed)?;
        bytes.truncate(read);
        self.open = Some((number, file));
        Ok(bytes)
    }

    /// Whether WAL goes on in the segment after the one with `at`. A recycled file does not count: it still carries the address it had before.
    pub fn goes_on_after(&self, at: Lsn) -> bool {
        let next = at.segment_number(self.segment_size) + 1;
        let header = self.paths.get(&next).and_then(|path| long_header(self.disk, path).ok());
        header.is_some_and(|header| header.page_addr.segment_number(self.segment_size) == next)
    }
}

fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn long_header(disk: &dyn Disk, path: &Path) -> Result<PageHeader, WalFilesError> {
    let failed = |source| WalFilesError::Read { path: path.to_path_buf(), source };
    let mut bytes = [0; WAL_LONG_HEADER as usize];
    let read = disk.open(path, OpenMode::Read).map_err(failed)?.read_at(0, &mut bytes).map_err(failed)?;
    let header = PageHeader::decode(bytes.get(..read).unwrap_or_default());
    header.map_err(|error| WalFilesError::Header { path: path.to_path_buf(), error })
}

fn segment_size_of(disk: &dyn Disk, path: &Path) -> Result<u64, WalFilesError> {
    let size = long_header(disk, path)?.long.map(|long| u64::from(long.segment_size)).filter(|size| segment_size_is_valid(*size));
    size.ok_or(WalFilesError::Header { path: path.to_path_buf(), error: PageHeaderError::Form })
}
