//! Durability: what a standby reported to the primary must hold, whatever happens to it.
//!
//! - `DU-1`: a reported flush position never moves back. A new stream may begin at the end of the last whole record below
//!   it, since part of a record is of no use; only the loss of the machine takes it back to the reported apply position.
//! - `DU-2`: a stream is asked for from there or later (the page it lies on is compared again, and may be asked for).
//! - `DU-3`: nothing is reported that was not sent; apply <= flush <= write.

use super::Judge;
use palimpsest::types::Lsn;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
struct Reported {
    /// The highest position that any stream reached.
    sent: Lsn,
    /// What remote storage holds, whoever said so.
    apply: Lsn,
    reports: u64,
    /// By the machine's address.
    standbys: BTreeMap<String, Standby>,
}

/// What one machine reported.
#[derive(Default)]
struct Standby {
    flush: Lsn,
    apply: Lsn,
    /// Streams so far.
    streams: u64,
    /// The newest connection that began one.
    connection: u64,
    /// Streams up to this one belong to a machine that is lost; what they reported as flushed counts no more.
    lost: u64,
}

/// The oracle. Fed by the walsender and by the harness.
#[derive(Clone)]
pub struct Durability {
    judge: Judge,
    reported: Arc<Mutex<Reported>>,
}

impl Durability {
    /// `base` is the LSN at which the standby was imported: it has everything below.
    pub fn new(judge: Judge, base: Lsn) -> Durability {
        Durability { judge, reported: Arc::new(Mutex::new(Reported { sent: base, ..Reported::default() })) }
    }

    /// A stream sends up to here. Its connection may break before any word of it comes back.
    pub fn on_sent(&self, upto: Lsn) {
        let mut reported = self.reported.lock();
        reported.sent = reported.sent.max(upto);
    }

    /// A status message came on a stream of this machine. 0 means that the standby says nothing about that position. Messages of
    /// earlier streams may still be under way when a later one begins. `zeros_end` gives the end of the zeros in the WAL from an LSN
    /// on: a standby that has a record but for zeros at its end has it all, for its files are zeros where nothing was written.
    pub fn on_status(
        &self,
        (machine, stream): (&str, u64),
        sent: Lsn,
        (write, flush, apply): (Lsn, Lsn, Lsn),
        zeros_end: impl Fn(Lsn) -> Lsn,
    ) {
        let mut reported = self.reported.lock();
        reported.reports += 1;
        let sent = sent.max(reported.sent);
        reported.sent = sent;
        let known = zeros_end(sent);
        if write > known || flush > known || apply > known {
            self.judge.violated("DU-3", format!("reported write={write} flush={flush} apply={apply}, but only {sent} was sent"));
        }
        if (flush.is_valid() && flush > write) || (apply.is_valid() && flush.is_valid() && apply > flush) {
            self.judge.violated("DU-3", format!("reported write={write} flush={flush} apply={apply}: out of order"));
        }
        reported.apply = reported.apply.max(apply);
        let standby = reported.standbys.entry(machine.to_string()).or_default();
        let latest = stream == standby.streams;
        if latest && flush.is_valid() && flush < standby.flush {
            self.judge.violated("DU-1", format!("flush was reported at {} and now at {flush}", standby.flush));
        }
        if latest && apply.is_valid() && apply < standby.apply {
            self.judge.violated("DU-1", format!("apply was reported at {} and now at {apply}", standby.apply));
        }
        standby.apply = standby.apply.max(apply);
        let promised = if stream > standby.lost { flush } else { apply };
        standby.flush = standby.flush.max(promised);
    }

    /// The stream is asked for from `start` by this machine, on the connection of this number. `record_end` gives the end of the last
    /// whole record at or below an LSN. Gives the stream's number; 0 if the connection was given up for a newer one already, whose
    /// request came first.
    pub fn on_start(&self, (machine, connection): (&str, u64), start: Lsn, record_end: impl Fn(Lsn) -> Lsn) -> u64 {
        let mut reported = self.reported.lock();
        let apply = reported.apply;
        let standby = reported.standbys.entry(machine.to_string()).or_default();
        if connection < standby.connection {
            return 0;
        }
        standby.connection = connection;
        standby.streams += 1;
        // A machine that is new to this, or lost what it had, has all from remote storage: what any of them reported as applied.
        let stored = if standby.lost == standby.streams - 1 { apply } else { standby.apply };
        standby.flush = record_end(standby.flush).max(stored);
        // At the end of a page that page is the one to compare.
        if start < standby.flush.saturating_sub(1).page_start() {
            let flush = standby.flush;
            self.judge
                .violated("DU-2", format!("flush was reported at {flush}, but the stream is asked for from {start}: that WAL is lost"));
        }
        standby.streams
    }

    /// Whatever a standby held only locally is gone, rightly: its machine was lost, or the tenant was taken off it.
    pub fn machine_lost(&self) {
        let mut reported = self.reported.lock();
        for standby in reported.standbys.values_mut() {
            standby.lost = standby.streams;
            standby.flush = standby.apply;
        }
    }

    /// The highest flush position that the standby has to hold.
    pub fn flushed(&self) -> Lsn {
        self.reported.lock().standbys.values().map(|standby| standby.flush).max().unwrap_or(Lsn::INVALID)
    }

    pub fn applied(&self) -> Lsn {
        self.reported.lock().apply
    }

    pub fn reports(&self) -> u64 {
        self.reported.lock().reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::StillClock;
    use crate::trace::Trace;

    const ONE: &str = "10.0.0.2";

    fn check(story: impl FnOnce(&Durability), expected: Option<&str>) {
        let judge = Judge::new(Trace::new(Arc::new(StillClock), 0..0).host("oracle", 0));
        let durability = Durability::new(judge.clone(), Lsn(8));
        assert_eq!(durability.on_start((ONE, 1), Lsn(0), |lsn| lsn), 1);
        story(&durability);
        assert_eq!(judge.verdict().map(|v| v.oracle).as_deref(), expected);
    }

    #[test]
    fn promises_are_held_against_the_standby() {
        let at = |n: u64| Lsn(n);
        let page = 8192 * 10;
        check(|d| d.on_status((ONE, 1), at(100), (at(90), at(80), at(0)), Lsn::align8), None);
        check(|d| d.on_status((ONE, 1), at(100), (at(105), at(80), at(0)), Lsn::align8), Some("DU-3"));
        check(|d| d.on_status((ONE, 1), at(100), (at(90), at(95), at(0)), Lsn::align8), Some("DU-3"));
        check(|d| d.on_status((ONE, 1), at(99), (at(104), at(104), at(0)), Lsn::align8), None);
        check(
            |d| {
                d.on_status((ONE, 1), at(100), (at(90), at(80), at(8)), Lsn::align8);
                d.on_status((ONE, 1), at(100), (at(90), at(79), at(8)), Lsn::align8);
            },
            Some("DU-1"),
        );
        check(
            |d| {
                d.on_start((ONE, 3), at(0), |lsn| lsn);
                d.on_status((ONE, 2), at(page), (at(page), at(page), at(0)), Lsn::align8);
                assert_eq!(d.on_start((ONE, 2), at(0), |lsn| lsn), 0);
            },
            None,
        );
        check(
            |d| {
                d.on_sent(at(100));
                d.on_start((ONE, 1), at(0), |lsn| lsn);
                d.on_status((ONE, 2), at(50), (at(100), at(100), at(0)), Lsn::align8);
            },
            None,
        );
        check(
            |d| {
                d.on_status((ONE, 1), at(page + 500), (at(page + 400), at(page + 300), at(0)), Lsn::align8);
                d.on_start((ONE, 1), at(page), |lsn| lsn);
            },
            None,
        );
        check(
            |d| {
                d.on_status((ONE, 1), at(page + 500), (at(page + 400), at(page), at(0)), Lsn::align8);
                d.on_start((ONE, 1), at(page - 8192), |lsn| lsn);
            },
            None,
        );
        check(
            |d| {
                d.on_status((ONE, 1), at(page + 500), (at(page + 400), at(page + 300), at(0)), Lsn::align8);
                d.on_start((ONE, 1), at(page - 8), |lsn| lsn);
            },
            Some("DU-2"),
        );
        check(
            |d| {
                d.on_status((ONE, 1), at(100), (at(90), at(80), at(8)), Lsn::align8);
                assert_eq!(d.on_start((ONE, 1), at(0), |lsn| lsn), 2);
                d.on_status((ONE, 1), at(100), (at(90), at(70), at(8)), Lsn::align8);
            },
            None,
        );
        check(
            |d| {
                d.on_status((ONE, 1), at(page * 9), (at(page * 8), at(page * 7), at(page * 2)), Lsn::align8);
                d.machine_lost();
                d.on_start((ONE, 1), at(page * 2), |lsn| lsn);
            },
            None,
        );
        // Another machine has to hold what is in remote storage, but not what the first one had of its own.
        let two = |start: Lsn| {
            move |d: &Durability| {
                d.on_status((ONE, 1), at(page * 9), (at(page * 8), at(page * 7), at(page * 2)), Lsn::align8);
                assert_eq!(d.on_start(("10.0.0.4", 2), start, |lsn| lsn), 1);
                d.on_status((ONE, 1), at(page * 9), (at(page * 8), at(page * 7), at(page * 2)), Lsn::align8);
            }
        };
        check(two(at(page * 2)), None);
        check(two(at(page)), Some("DU-2"));
    }
}
