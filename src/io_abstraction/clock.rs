//! Time. Monotonic and wall-clock time are different types: leases and timeouts use the first, persisted stamps the second.

use crate::types::timestamp::POSTGRES_EPOCH_UNIX_SECONDS;
use futures::future::BoxFuture;
use std::future::Future;
use std::time::Duration;

/// Nanoseconds on a clock that never goes back. Means nothing after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(pub u64);

/// Microseconds since 1970-01-01 UTC. May jump in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wall(pub i64);

impl Mono {
    pub fn after(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Wall {
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Microseconds since PostgreSQL's epoch, the unit of `TimestampTz`.
    pub fn postgres_micros(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000)
    }
}

/// The node's clocks.
///
/// `mono` never decreases within one incarnation. `sleep_until` completes at or after the given instant, never before;
/// dropping the future cancels it. Nothing here fails.
pub trait Clock: Send + Sync {
    fn mono(&self) -> Mono;
    fn wall(&self) -> Wall;
    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()>;
}

/// The time ran out before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out after {0:?}")]
pub struct Elapsed(pub Duration);

/// What follows from [`Clock`].
pub trait ClockExt {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs `future` for at most `limit`.
    fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T> + Send) -> impl Future<Output = Result<T, Elapsed>> + Send;
}

impl ClockExt for dyn Clock {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.mono().after(duration))
    }

    fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T> + Send) -> impl Future<Output = Result<T, Elapsed>> + Send {
        let sleep = self.sleep(limit);
        async move {
            let mut sleep = sleep;
            let mut future = std::pin::pin!(future);
            std::future::poll_fn(move |cx| {
                if let std::task::Poll::Ready(value) = future.as_mut().poll(cx) {
                    return std::task::Poll::Ready(Ok(value));
                }
                sleep.as_mut().poll(cx).map(|()| Err(Elapsed(limit)))
            })
            .await
        }
    }
}
