//! The end of the last ingested record, and those who wait for it.

use crate::types::Lsn;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// The timeline shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

#[derive(Default)]
struct State {
    last: Lsn,
    prev: Lsn,
    closed: bool,
    next_waiter: u64,
    waiters: BTreeMap<(Lsn, u64), oneshot::Sender<()>>,
}

pub struct LastRecord(Mutex<State>);

impl LastRecord {
    pub fn new(last: Lsn, prev: Lsn) -> LastRecord {
        LastRecord(Mutex::new(State { last, prev, ..State::default() }))
    }

    pub fn lsn(&self) -> Lsn {
        self.0.lock().last
    }

    /// End and start of the last record; start 0 if unknown.
    pub fn lsn_and_prev(&self) -> (Lsn, Lsn) {
        let state = self.0.lock();
        (state.last, state.prev)
    }

    /// Publishes a record end and wakes those who wait for it or for less.
    ///
    /// Panics: a step back, which would let a reader see less than before (TL-1).
    pub fn advance(&self, last: Lsn, prev: Lsn) {
        let due = {
            let mut state = self.0.lock();
            assert!(last >= state.last, "last_record_lsn goes back from {} to {last}", state.last);
            assert!(last.0.is_multiple_of(8), "{last} is not the end of a record");
            state.last = last;
            state.prev = prev;
            let later = state.waiters.split_off(&(Lsn(last.0 + 1), 0));
            std::mem::replace(&mut state.waiters, later)
        };
        for waiter in due.into_values() {
            // The waiter may have run out of time.
            let _ = waiter.send(());
        }
    }

    /// Completes when `lsn` is ingested. Dropping the future stops waiting.
    pub async fn wait_for(&self, lsn: Lsn) -> Result<(), Closed> {
        let waiting = {
            let mut state = self.0.lock();
            if state.last >= lsn {
                return Ok(());
            }
            if state.closed {
                return Err(Closed);
            }
            let (sender, waiting) = oneshot::channel();
            let number = state.next_waiter;
            state.next_waiter += 1;
            state.waiters.retain(|_, waiter| !waiter.is_closed());
            state.waiters.insert((lsn, number), sender);
            waiting
        };
        waiting.await.map_err(|_| Closed)
    }

    /// Turns everybody away.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.waiters.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn waiters_wake_at_their_lsn() {
        let last = LastRecord::new(Lsn(8), Lsn(0));
        let mut early = Box::pin(last.wait_for(Lsn(16)));
        let mut late = Box::pin(last.wait_for(Lsn(32)));
        assert_eq!(last.wait_for(Lsn(8)).now_or_never(), Some(Ok(())));
        assert_eq!((&mut early).now_or_never(), None);
        assert_eq!((&mut late).now_or_never(), None);
        last.advance(Lsn(24), Lsn(8));
        assert_eq!((&mut early).now_or_never(), Some(Ok(())));
        assert_eq!((&mut late).now_or_never(), None);
        last.close();
        assert_eq!((&mut late).now_or_never(), Some(Err(Closed)));
        assert_eq!(last.wait_for(Lsn(99)).now_or_never(), Some(Err(Closed)));
        assert_eq!(last.lsn_and_prev(), (Lsn(24), Lsn(8)));
    }
}
