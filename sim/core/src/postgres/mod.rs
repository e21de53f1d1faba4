//! A simulated primary: generated WAL with its model, a stopped data directory to import, and a walsender.

pub mod datadir;
pub mod generator;
pub mod heap;
pub mod walsender;
mod wire;

pub use generator::{Generator, WorkloadKnobs};

#[cfg(test)]
mod tests;

use crate::oracle::durability::Durability;
use palimpsest::types::Lsn;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A physical replication slot: WAL is kept from here on, once it is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    pub restart_lsn: Option<Lsn>,
}

/// The state of the primary.
pub struct Primary {
    pub generator: Generator,
    pub slots: BTreeMap<String, Slot>,
}

/// The primary, shared between generator, walsenders, readers and harness.
#[derive(Clone)]
pub struct SimPostgres {
    pub primary: Arc<Mutex<Primary>>,
    /// End of flushed WAL.
    flushed: watch::Sender<Lsn>,
    /// Walsenders no longer dawdle.
    calm: Arc<AtomicBool>,
    pub durability: Durability,
}

impl SimPostgres {
    pub fn new(generator: Generator, durability: Durability) -> SimPostgres {
        let (flushed, _) = watch::channel(generator.end());
        SimPostgres {
            primary: Arc::new(Mutex::new(Primary { generator, slots: BTreeMap::new() })),
            flushed,
            calm: Arc::default(),
            durability,
        }
    }

    /// Writes the next records.
    pub fn step(&self) -> Lsn {
        let mut primary = self.primary.lock();
        let end = primary.generator.step();
        primary.discard_wal();
        drop(primary);
        self.flushed.send_replace(end);
        end
    }

    /// End of flushed WAL.
    pub fn end(&self) -> Lsn {
        *self.flushed.borrow()
    }

    /// End of the zeros that begin at `from`, which is `from` if there are none.
    pub fn zeros_end(&self, from: Lsn) -> Lsn {
        let primary = self.primary.lock();
        let writer = &primary.generator.writer;
        let rest = writer.bytes(from..writer.end()).unwrap_or_default();
        Lsn(from.0 + rest.iter().take_while(|byte| **byte == 0).count() as u64)
    }

    /// From now on walsenders send as fast as a stock server does.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.flushed.subscribe()
    }
}

impl Primary {
    /// First position whose WAL is still there.
    pub fn kept_from(&self) -> Lsn {
        self.generator.writer.kept_from()
    }

    /// Removes WAL that no slot needs, page by page: a stock server removes whole segments, later than this. Without a slot
    /// everything stays.
    fn discard_wal(&mut self) {
        let needed = self.slots.values().map(|slot| slot.restart_lsn.unwrap_or(Lsn::INVALID)).min();
        if let Some(lsn) = needed.map(Lsn::page_start).filter(|lsn| *lsn > self.kept_from()) {
            self.generator.writer.discard_before(lsn);
        }
    }
}
