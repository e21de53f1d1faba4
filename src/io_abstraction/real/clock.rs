//! The machine's clocks.

use crate::io_abstraction::clock::{Clock, Mono, Wall};
use futures::future::BoxFuture;
use std::time::{Duration, Instant, SystemTime};

pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn start() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn mono(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> Wall {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Wall(micros(since)),
            Err(before) => Wall(-micros(before.duration())),
        }
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        let at = tokio::time::Instant::from_std(self.start + Duration::from_nanos(at.0.min(u64::MAX / 4)));
        Box::pin(tokio::time::sleep_until(at))
    }
}
