//! A clock for unit tests of this crate.

use futures::future::BoxFuture;
use palimpsest::io_abstraction::{Clock, Mono, Wall};

/// Time that stands still; every sleep ends at once.
pub struct StillClock;

impl Clock for StillClock {
    fn mono(&self) -> Mono {
        Mono(0)
    }

    fn wall(&self) -> Wall {
        Wall(1_767_225_600_000_000)
    }

    fn sleep_until(&self, _at: Mono) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}
