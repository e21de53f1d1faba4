//! `pal wal stats`: what kinds of records a stretch of WAL holds.
//!
//! In: segment files through the disk seam. Out: the table of `pg_waldump --stats=record`, or one JSON object.

use super::wal_files::{WalFiles, WalFilesError};
use crate::io_abstraction::Disk;
use crate::pg::xlog::stats::{Collector, StatsError, StatsReport};
use crate::pg::xlog::stream::WalError;
use crate::types::Lsn;
use bytes::Bytes;
use std::path::PathBuf;

/// Bytes read at a time: few enough that the buffer stays in the cache and comes from the heap, not from fresh pages of the system.
const PIECE: usize = 64 << 10;

/// Counts WAL records and their bytes by kind, with the totals of pg_waldump --stats=record.
#[derive(Debug, Clone, clap::Args)]
pub struct WalStatsArgs {
    /// WAL segments, or directories that hold them (pg_wal, an archive).
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Count from the first record at or after this [default: the first record of the first segment].
    #[arg(long, value_name = "LSN")]
    pub start: Option<Lsn>,
    /// Count no record that reaches beyond this [default: the end of the WAL].
    #[arg(long, value_name = "LSN")]
    pub end: Option<Lsn>,
}

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum WalStatsError {
    #[error(transparent)]
    Files(#[from] WalFilesError),
    #[error(transparent)]
    Stats(#[from] StatsError),
    #[error("the files hold WAL from {start} to {end}, not {wanted}")]
    Outside { start: Lsn, end: Lsn, wanted: Lsn },
    #[error("WAL is damaged, and goes on after that: {0}")]
    Damaged(WalError),
    #[error("WAL ends before {wanted}: {error}")]
    EndsEarly { wanted: Lsn, error: WalError },
}

/// Counts what `args` ask for.
///
/// Errors: files that are missing or no WAL; damage that is not the end of the WAL.
pub fn collect(args: &WalStatsArgs, disk: &dyn Disk) -> Result<StatsReport, WalStatsError> {
    let mut files = WalFiles::find(disk, &args.paths)?;
    let (first, last) = (files.start(), files.end());
    let start = args.start.unwrap_or(first);
    if let Some(wanted) = [Some(start), args.end].into_iter().flatten().find(|at| *at < first || *at > last) {
        return Err(WalStatsError::Outside { start: first, end: last, wanted });
    }
    let mut collector = Collector::new(start, args.end, files.segment_size())?;
    let mut at = start;
    while let Some(needed) = collector.needs().filter(|needed| *needed < last) {
        at = needed;
        let bytes = files.read(at, PIECE)?;
        if bytes.is_empty() {
            // A file that is shorter than a segment.
            if args.end.is_some() || files.goes_on_after(at) {
                return Err(WalFilesError::Missing(at).into());
            }
            break;
        }
        collector.push(at, Bytes::from(bytes))?;
    }
    if let Some(error) = collector.stopped() {
        if let Some(wanted) = args.end {
            return Err(WalStatsError::EndsEarly { wanted, error: error.clone() });
        }
        if files.goes_on_after(at) {
            return Err(WalStatsError::Damaged(error.clone()));
        }
    }
    Ok(collector.finish())
}

/// What the command prints.
pub fn print(report: &StatsReport, json: bool) -> Result<String, serde_json::Error> {
    if json {
        return Ok(serde_json::to_string(report)? + "\n");
    }
    Ok(report.to_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_abstraction::disk::{FileOps, OpenMode};
    use crate::io_abstraction::real;
    use crate::pg::version::PgVersion;
    use crate::pg::xlog::synthesize::{RecordBuilder, WalIdentity, WalWriter};
    use crate::types::lsn::segment_file_name;
    use std::sync::Arc;

    const SEG: u64 = 1 << 20;

    struct Fixture {
        disk: Arc<dyn Disk>,
        dir: tempfile::TempDir,
        writer: WalWriter,
    }

    impl Fixture {
        /// 3000 records of 1034 bytes in segments 2 to 4, and a recycled segment 5.
        fn new() -> Fixture {
            let identity = WalIdentity { version: PgVersion::V16, system_id: 9, tli: 1, segment_size: SEG };
            let mut writer = WalWriter::new(identity, Lsn(2 * SEG), Lsn(0));
            for _ in 0..2900 {
                writer.append(&RecordBuilder::new(20, 0).main(vec![1; 1005]));
            }
            let fixture = Fixture { disk: real::file_system(), dir: tempfile::tempdir().unwrap(), writer };
            for number in 2..=4 {
                fixture.write(1, number, &fixture.writer.segment(number));
            }
            fixture.write(1, 5, &fixture.writer.segment(2));
            fixture
        }

        fn write(&self, tli: u32, number: u64, bytes: &[u8]) {
            let path = self.path(tli, number);
            self.disk.open(&path, OpenMode::CreateTruncate).unwrap().write_at(0, bytes).unwrap();
        }

        fn path(&self, tli: u32, number: u64) -> PathBuf {
            self.dir.path().join(segment_file_name(tli, number, SEG))
        }

        fn stats(&self, paths: &[PathBuf], start: Option<Lsn>, end: Option<Lsn>) -> Result<StatsReport, WalStatsError> {
            let args = WalStatsArgs { paths: paths.to_vec(), json: false, start, end };
            collect(&args, &*self.disk)
        }

        fn dir(&self) -> [PathBuf; 1] {
            [self.dir.path().to_path_buf()]
        }
    }

    #[test]
    fn directories_and_files() {
        let f = Fixture::new();
        let all = f.stats(&f.dir(), None, None).unwrap();
        assert_eq!((all.total.count, all.total.record_bytes), (2900, 2900 * 1034));
        assert_eq!((all.start, all.end), (Lsn(2 * SEG + 40), f.writer.end()));
        assert!(all.stopped.is_some());
        let parts: Vec<u64> = (2..=4).map(|n| f.stats(&[f.path(1, n)], None, None).unwrap().total.count).collect();
        // The two records that cross a segment boundary are whole in none of the files.
        assert_eq!(parts.iter().sum::<u64>(), 2898);
        let two = f.stats(&[f.path(1, 3), f.path(1, 2)], None, None).unwrap();
        assert_eq!(two.total.count, parts[0] + parts[1] + 1);
        let json: serde_json::Value = serde_json::from_str(&print(&all, true).unwrap()).unwrap();
        assert_eq!(json["records"][0]["rmgr"], "Generic");
        assert_eq!(json["total"]["count"], 2900);
        assert_eq!(json["start"], "0/200028");
    }

    #[test]
    fn bad_input_is_told() {
        let f = Fixture::new();
        let text = |result: Result<StatsReport, WalStatsError>| result.unwrap_err().to_string();
        assert!(text(f.stats(&f.dir(), Some(Lsn(SEG)), None)).contains("not 0/100000"));
        assert!(text(f.stats(&f.dir(), None, Some(Lsn(5 * SEG)))).contains("WAL ends before 0/500000"));
        assert!(text(f.stats(&[f.dir.path().join("none")], None, None)).contains("read "));
        assert!(text(f.stats(&[f.path(1, 2), f.path(1, 4)], None, None)).contains("holds 0/300000 is missing"));
        let mut damaged = f.writer.segment(3);
        damaged[5000] ^= 1;
        f.write(1, 3, &damaged);
        assert!(text(f.stats(&f.dir(), None, None)).contains("damaged"));
        let empty = tempfile::tempdir().unwrap();
        assert!(text(f.stats(&[empty.path().to_path_buf()], None, None)).contains("no WAL segment"));
        f.write(1, 1, &[0; 100]);
        assert!(text(f.stats(&f.dir(), None, None)).contains("does not begin with"));
    }

    #[test]
    fn newer_timelines_win() {
        let f = Fixture::new();
        f.write(2, 4, &vec![0; SEG as usize]);
        let report = f.stats(&f.dir(), None, None).unwrap();
        assert_eq!(report.end.segment_number(SEG), 3);
    }
}
