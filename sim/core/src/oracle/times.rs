//! The commits of the generated WAL in order: what a time or an LSN must be answered with.

use palimpsest::types::Lsn;
use palimpsest::types::timestamp::PgTimestamp;

/// End and time of each commit, ascending in both.
#[derive(Debug, Default)]
pub struct CommitTimes(Vec<(Lsn, PgTimestamp)>);

/// An answer of `get_lsn_by_timestamp`; the LSN of `past` and `nodata` is not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Present(Lsn),
    /// The last record, at or above this LSN.
    Future(Lsn),
    Past,
    NoData,
}

impl CommitTimes {
    /// Panics: not later than the one before.
    pub fn add(&mut self, end: Lsn, time: PgTimestamp) {
        assert!(self.0.last().is_none_or(|last| *last < (end, time) && last.1 < time), "commits come in order");
        self.0.push((end, time));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, number: usize) -> Option<(Lsn, PgTimestamp)> {
        self.0.get(number).copied()
    }

    /// The time of the newest commit at or below `lsn`.
    pub fn newest(&self, lsn: Lsn) -> Option<PgTimestamp> {
        let behind = self.0.partition_point(|(end, _)| *end <= lsn);
        self.0[..behind].last().map(|(_, time)| *time)
    }

    /// Where a branch begins that leaves out every commit from `time` on.
    pub fn lsn_of(&self, time: PgTimestamp) -> Expected {
        let before = self.0.partition_point(|(_, commit)| *commit < time);
        match (self.0.first(), self.0.get(before), self.0.last()) {
            (_, Some((first, _)), _) if before > 0 => Expected::Present(Lsn(first.0 - 8)),
            (_, Some(_), _) => Expected::Past,
            (_, None, Some((last, _))) => Expected::Future(*last),
            _ => Expected::NoData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let mut times = CommitTimes::default();
        assert_eq!((times.lsn_of(PgTimestamp(5)), times.newest(Lsn(80))), (Expected::NoData, None));
        times.add(Lsn(80), PgTimestamp(10));
        times.add(Lsn(160), PgTimestamp(20));
        for (time, want) in [
            (9, Expected::Past),
            (10, Expected::Past),
            (11, Expected::Present(Lsn(152))),
            (20, Expected::Present(Lsn(152))),
            (21, Expected::Future(Lsn(160))),
        ] {
            assert_eq!(times.lsn_of(PgTimestamp(time)), want, "{time}");
        }
        for (lsn, want) in [(79, None), (80, Some(10)), (159, Some(10)), (160, Some(20)), (900, Some(20))] {
            assert_eq!(times.newest(Lsn(lsn)), want.map(PgTimestamp), "{lsn}");
        }
    }
}
