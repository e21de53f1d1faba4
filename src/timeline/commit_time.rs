//! Which commits are before which LSN. Each page of pg_xact carries the time of the newest commit on it, so at any LSN the
//! newest commit before it is the maximum over the pages; the search halves the LSNs between two bounds.

use super::read::GET_TOGETHER;
use super::{ReadError, Timeline};
use crate::redo::split_value;
use crate::types::timestamp::PgTimestamp;
use crate::types::{Key, Lsn, SlruKind};
use std::collections::BTreeSet;

/// What is known of a time. Each comes with an LSN to branch at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeKind {
    /// The LSN is the last before which every commit is earlier than the time.
    Present,
    /// No commit is as late as the time: the LSN is that of the last record.
    Future,
    /// The time is before all commits that are kept: the LSN is the first that can be read.
    Past,
    /// There is no commit at all: the LSN is the first that can be read.
    NoData,
}

/// LSNs are multiples of this.
const STEP: u64 = 8;

impl Timeline {
    /// The time of the newest commit at or below `lsn`; `None` if there is none.
    pub async fn newest_commit(&self, lsn: Lsn) -> Result<Option<PgTimestamp>, ReadError> {
        let pages = self.pg_xact_pages(lsn).await?;
        Ok(self.commit_times(&pages, lsn).await?.into_iter().flatten().max())
    }

    /// The LSN at which every commit before `time` is visible and none at or after it, as far as clocks did not go back.
    pub async fn lsn_of_time(&self, time: PgTimestamp) -> Result<(TimeKind, Lsn), ReadError> {
        let (first, last) = (self.gc_cutoff_lsn().max(self.ancestor_lsn()), self.last_record.lsn());
        let Some(newest) = self.newest_commit(last).await? else { return Ok((TimeKind::NoData, first)) };
        if newest < time {
            return Ok((TimeKind::Future, Lsn(last.0 / STEP * STEP)));
        }
        let mut too_old = BTreeSet::new();
        // Below `low` there is no such commit; at `high` there is one.
        let (mut low, mut high) = (first.0 / STEP, last.0.div_ceil(STEP));
        while low < high {
            let middle = low.midpoint(high);
            if self.has_commit_since(time, Lsn(middle * STEP), &mut too_old).await? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let steps_back = if crate::planted!(self.shared.env, "time-lets-commit-in") { 0 } else { 1 };
        let before = Lsn(low.saturating_sub(steps_back) * STEP);
        let is_kept = before >= first && self.newest_commit(before).await?.is_some();
        Ok(if is_kept { (TimeKind::Present, before) } else { (TimeKind::Past, first) })
    }

    /// Whether a commit at or below `lsn` is at or after `time`.
    ///
    /// The time of a page only grows: where there is such a commit, pages that are too old then need not be looked at below.
    async fn has_commit_since(&self, time: PgTimestamp, lsn: Lsn, too_old: &mut BTreeSet<Key>) -> Result<bool, ReadError> {
        let mut pages = self.pg_xact_pages(lsn).await?;
        pages.retain(|page| !too_old.contains(page));
        // The newest transactions are on the last pages.
        for pages in pages.rchunks(GET_TOGETHER) {
            let times = self.commit_times(pages, lsn).await?;
            if times.iter().flatten().any(|found| *found >= time) {
                let is_old = |found: &Option<PgTimestamp>| found.is_some_and(|found| found < time);
                too_old.extend(pages.iter().zip(&times).filter(|(_, found)| is_old(found)).map(|(page, _)| *page));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keys of the pages of pg_xact at `lsn`.
    async fn pg_xact_pages(&self, lsn: Lsn) -> Result<Vec<Key>, ReadError> {
        let mut pages = Vec::new();
        for segment in self.slru_segments(SlruKind::Clog, lsn).await?.0 {
            let first = segment.saturating_mul(SlruKind::PAGES_PER_SEGMENT);
            let size = self.slru_segment_size(SlruKind::Clog, segment, lsn).await?.min(SlruKind::PAGES_PER_SEGMENT);
            pages.extend((0..size).map(|page| Key::slru_page(SlruKind::Clog, first.saturating_add(page))));
        }
        Ok(pages)
    }

    /// For each page the time of its newest commit at `lsn`; `None` also for a page that did not exist yet.
    async fn commit_times(&self, pages: &[Key], lsn: Lsn) -> Result<Vec<Option<PgTimestamp>>, ReadError> {
        let wanted: Vec<(Key, Lsn)> = pages.iter().map(|key| (*key, lsn)).collect();
        let time = |page: Result<bytes::Bytes, ReadError>| match page {
            Ok(page) => Ok(split_value(&page).and_then(|(_, time)| time).map(PgTimestamp)),
            Err(ReadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        self.get_many(&wanted).await.into_iter().map(time).collect()
    }
}
