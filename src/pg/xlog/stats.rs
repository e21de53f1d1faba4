//! Counts records and their bytes by kind, as `pg_waldump --stats=record` does.
//!
//! In: runs of WAL bytes in order. Out: a [`StatsReport`]. A record's size is its length without page images; its FPI size is the length of the images as they are stored. A
//! record counts if it starts at or after the start and all of it lies below the end.
//!
//! Source: PostgreSQL 15 `pg_waldump.c`.

use crate::pg::rmgr::id;
use crate::pg::rmgr::names::{record_name, rmgr_name};
use crate::pg::version::PgVersion;
use crate::pg::xlog::record::{Record, RecordError};
use crate::pg::xlog::stream::{StreamDecoder, WalError};
use crate::types::Lsn;
use bytes::Bytes;
use std::fmt::Write as _;

/// What was counted of one kind of record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    pub count: u64,
    /// Bytes without page images.
    pub record_bytes: u64,
    /// Bytes of page images.
    pub fpi_bytes: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.count += other.count;
        self.record_bytes += other.record_bytes;
        self.fpi_bytes += other.fpi_bytes;
    }

    pub fn combined_bytes(&self) -> u64 {
        self.record_bytes + self.fpi_bytes
    }
}

/// Counts by resource manager and opcode.
#[derive(Clone)]
pub struct WalStats {
    /// Index: rmid * 16 + high nibble of info.
    counts: Vec<Count>,
}

impl Default for WalStats {
    fn default() -> WalStats {
        WalStats { counts: vec![Count::default(); 256 * 16] }
    }
}

impl WalStats {
    #[inline]
    pub fn add(&mut self, record: &Record<'_>) {
        let fpi_bytes: u64 = record.blocks.iter().filter_map(|block| block.image.as_ref()).map(|image| image.bytes.len() as u64).sum();
        // The top bit of a transaction record only says that it has an xinfo word.
        let mask = if record.header.rmid == id::XACT { 0x70 } else { 0xF0 };
        let index = usize::from(record.header.rmid) * 16 + usize::from((record.header.info & mask) >> 4);
        if let Some(count) = self.counts.get_mut(index) {
            count.add(Count { count: 1, record_bytes: u64::from(record.header.tot_len) - fpi_bytes, fpi_bytes });
        }
    }

    /// The kinds that occurred, by number.
    pub fn rows(&self, version: PgVersion) -> Vec<StatsRow> {
        let used = self.counts.iter().enumerate().filter(|(_, count)| count.count > 0);
        used.map(|(index, count)| {
            let (rmid, info) = ((index / 16) as u8, (index % 16 * 16) as u8);
            StatsRow { rmgr: rmgr_name(rmid).into_owned(), record: record_name(rmid, info, version).into_owned(), count: *count }
        })
        .collect()
    }

    pub fn total(&self) -> Count {
        let mut total = Count::default();
        self.counts.iter().for_each(|count| total.add(*count));
        total
    }
}

/// One kind of record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StatsRow {
    pub rmgr: String,
    pub record: String,
    #[serde(flatten)]
    pub count: Count,
}

/// Everything that was counted between two positions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StatsReport {
    /// Start of the first record counted.
    pub start: Lsn,
    /// End of the last record counted.
    pub end: Lsn,
    pub records: Vec<StatsRow>,
    pub total: Count,
    /// What was found at the end of the WAL, if that was reached.
    pub stopped: Option<String>,
}

/// Why counting failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatsError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error("WAL record at {at} does not decode: {error}")]
    Record { at: Lsn, error: RecordError },
}

/// Takes WAL in, counts.
pub struct Collector {
    decoder: StreamDecoder,
    start: Lsn,
    end: Lsn,
    /// First record counted, end of the last one.
    counted: Option<(Lsn, Lsn)>,
    stats: WalStats,
    stopped: Option<WalError>,
}

impl Collector {
    /// Counts the records from `start` (any position: counting begins with the next record) up to `end`. The first bytes pushed must be those of
    /// [`Collector::needs`].
    pub fn new(start: Lsn, end: Option<Lsn>, segment_size: u64) -> Result<Collector, StatsError> {
        let decoder = StreamDecoder::seek(start, None, segment_size)?;
        Ok(Collector { decoder, start, end: end.unwrap_or(Lsn::MAX), counted: None, stats: WalStats::default(), stopped: None })
    }

    /// Where the next bytes must start; `None` when nothing more is wanted.
    pub fn needs(&self) -> Option<Lsn> {
        let at = self.decoder.fed_to().unwrap_or(self.start.page_start());
        (self.stopped.is_none() && at < self.end).then_some(at)
    }

    /// What looks like the end of the WAL, if that was reached. Whether it is one or damage is for the caller to know.
    pub fn stopped(&self) -> Option<&WalError> {
        self.stopped.as_ref()
    }

    /// Counts the records in `bytes`, which lie at `lsn`.
    ///
    /// Errors: WAL that is damaged in a way that its end never is.
    pub fn push(&mut self, lsn: Lsn, mut bytes: Bytes) -> Result<(), StatsError> {
        let wanted = self.end.distance_from(lsn).min(bytes.len() as u64);
        bytes.truncate(wanted as usize);
        self.decoder.feed_bytes(lsn, bytes)?;
        let mut version = self.decoder.version();
        loop {
            match self.decoder.next() {
                Ok(Some((span, _))) if span.start < self.start => {}
                Ok(Some((span, bytes))) => {
                    let known = *version.get_or_insert(PgVersion::DEFAULT);
                    let record = Record::decode(bytes, known).map_err(|error| StatsError::Record { at: span.start, error })?;
                    self.stats.add(&record);
                    let first = self.counted.map_or(span.start, |(first, _)| first);
                    self.counted = Some((first, span.end));
                }
                Ok(None) => return Ok(()),
                Err(error) if error.may_be_end_of_wal() => {
                    self.stopped = Some(error);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn finish(self) -> StatsReport {
        let version = self.decoder.version().unwrap_or(PgVersion::DEFAULT);
        let (start, end) = self.counted.unwrap_or((self.start, self.start));
        StatsReport {
            start,
            end,
            records: self.stats.rows(version),
            total: self.stats.total(),
            stopped: self.stopped.map(|e| e.to_string()),
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

impl StatsReport {
    /// The table that `pg_waldump --stats=record` prints.
    pub fn to_text(&self) -> String {
        let mut out = format!("WAL statistics between {} and {}:\n", self.start, self.end);
        let heading = |out: &mut String, c: [&str; 6]| {
            let [kind, count, pct, record, fpi, combined] = c;
            let _ = writeln!(out, "{kind:<27} {count:>20} {pct:>8} {record:>20} {pct:>8} {fpi:>20} {pct:>8} {combined:>20} {pct:>8}");
        };
        heading(&mut out, ["Type", "N", "(%)", "Record size", "FPI size", "Combined size"]);
        heading(&mut out, ["----", "-", "---", "-----------", "--------", "-------------"]);
        let total = &self.total;
        for row in &self.records {
            let c = &row.count;
            let cell = |part: u64, whole: u64| format!("{part:>20} ({:6.2})", percent(part, whole));
            let _ = writeln!(
                out,
                "{:<27} {} {} {} {}",
                format!("{}/{}", row.rmgr, row.record),
                cell(c.count, total.count),
                cell(c.record_bytes, total.record_bytes),
                cell(c.fpi_bytes, total.fpi_bytes),
                cell(c.combined_bytes(), total.combined_bytes()),
            );
        }
        let dashes = "--------";
        let _ = writeln!(out, "{:<27} {dashes:>20} {:8} {dashes:>20} {:8} {dashes:>20} {:8} {dashes:>20}", "", "", "", "");
        let share = |part: u64| format!("[{:.2}%]", percent(part, total.combined_bytes()));
        let _ = writeln!(
            out,
            "{:<27} {:>20} {:<9}{:>20} {:<9}{:>20} {:<9}{:>20} {:<6}",
            "Total",
            total.count,
            "",
            total.record_bytes,
            share(total.record_bytes),
            total.fpi_bytes,
            share(total.fpi_bytes),
            total.combined_bytes(),
            "[100%]",
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::xlog::synthesize::{BlockSpec, ImageSpec, RecordBuilder, WalIdentity, WalWriter};
    use crate::types::lsn::WAL_SEGMENT_SIZE;
    use crate::types::{Fork, PAGE_SIZE, RelTag};

    const SEG: u64 = WAL_SEGMENT_SIZE;

    fn sample() -> (WalWriter, Vec<Lsn>) {
        let identity = WalIdentity { version: PgVersion::V15, system_id: 1, tli: 1, segment_size: SEG };
        let mut writer = WalWriter::new(identity, Lsn(SEG), Lsn(0));
        let rel = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
        let image = ImageSpec::of_page(&[1; PAGE_SIZE], true);
        let records = [
            RecordBuilder::new(10, 0x80).block(BlockSpec::new(0, rel, 0).will_init().data([0; 30])).main([0; 3]),
            RecordBuilder::new(10, 0x00).block(BlockSpec::new(0, rel, 0).image(image)).main([0; 3]),
            RecordBuilder::new(1, 0x80).main([0; 12]),
            RecordBuilder::new(1, 0x00).main([0; 8]),
            RecordBuilder::new(200, 0x30).main([0; 8]),
        ];
        let starts = records.iter().map(|record| writer.append(record).start).collect();
        (writer, starts)
    }

    fn collect(start: Lsn, end: Option<Lsn>) -> StatsReport {
        let (writer, _) = sample();
        let mut collector = Collector::new(start, end, SEG).unwrap();
        let bytes = writer.bytes(Lsn(SEG)..writer.end()).unwrap();
        while let Some(at) = collector.needs().filter(|at| *at < writer.end()) {
            let skip = at.distance_from(Lsn(SEG)) as usize;
            let piece = &bytes[skip..bytes.len().min(skip + 100)];
            collector.push(at, Bytes::copy_from_slice(piece)).unwrap();
        }
        collector.finish()
    }

    fn kinds(report: &StatsReport) -> Vec<(String, u64, u64, u64)> {
        report
            .records
            .iter()
            .map(|r| (format!("{}/{}", r.rmgr, r.record), r.count.count, r.count.record_bytes, r.count.fpi_bytes))
            .collect()
    }

    #[test]
    fn counts() {
        let (writer, starts) = sample();
        let report = collect(Lsn(SEG), None);
        let want = [
            ("Transaction/COMMIT", 2, 38 + 34, 0),
            ("Heap/INSERT", 1, 24 + 20 + 5 + 2 + 3, 8192),
            ("Heap/INSERT+INIT", 1, 24 + 20 + 30 + 2 + 3, 0),
            ("custom200/UNKNOWN (30)", 1, 34, 0),
        ];
        assert_eq!(kinds(&report), want.map(|(kind, count, record, fpi)| (kind.to_string(), count, record, fpi)));
        assert_eq!(report.total, Count { count: 5, record_bytes: 72 + 54 + 79 + 34, fpi_bytes: 8192 });
        assert_eq!((report.start, report.end, report.stopped), (starts[0], writer.end(), None));
    }

    #[test]
    fn ranges() {
        let (_, starts) = sample();
        for (start, end, count) in [
            (starts[0], None, 5),
            (starts[1], None, 4),
            (Lsn(starts[1].0 + 1), None, 3),
            (starts[1], Some(starts[3]), 2),
            // Padding does not belong to the record.
            (starts[0], Some(Lsn(starts[1].0 - 1)), 1),
            (starts[0], Some(Lsn(starts[0].0 + 78)), 0),
        ] {
            assert_eq!(collect(start, end).total.count, count, "{start} to {end:?}");
        }
    }

    #[test]
    fn the_end_of_wal_is_told() {
        let (writer, _) = sample();
        let mut collector = Collector::new(Lsn(SEG), None, SEG).unwrap();
        collector.push(Lsn(SEG), Bytes::from(writer.segment(1))).unwrap();
        assert_eq!(collector.needs(), None);
        assert_eq!(collector.stopped(), Some(&WalError::ZeroLength { at: writer.end() }));
        assert_eq!(collector.finish().total.count, 5);
    }

    #[test]
    fn table() {
        let text = collect(Lsn(SEG), None).to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[3],
            "Transaction/COMMIT                             2 ( 40.00)                   72 ( 30.13)                    0 (  0.00)                   72 (  0.85)"
        );
        assert_eq!(
            lines[8],
            "Total                                          5                           239 [2.83%]                  8192 [97.17%]                 8431 [100%]"
        );
    }
}
