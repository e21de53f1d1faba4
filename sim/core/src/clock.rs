//! A host's clock around its world's: the wall clock jumps, the monotonic one never does.

use futures::future::BoxFuture;
use palimpsest::io_abstraction::{Clock, Mono, Wall};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Microseconds that a host's wall clock is off. Shared by all lives of the host.
pub type WallOffset = Arc<AtomicI64>;

pub struct HostClock {
    pub inner: Arc<dyn Clock>,
    pub offset: WallOffset,
}

impl Clock for HostClock {
    fn mono(&self) -> Mono {
        self.inner.mono()
    }

    fn wall(&self) -> Wall {
        Wall(self.inner.wall().0.saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        self.inner.sleep_until(at)
    }
}
