//! Background work of a timeline that comes again and again, as the tenant's settings of the moment say.

use super::Timeline;
use crate::config::TenantConfig;
use crate::io_abstraction::ClockExt as _;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest wait after passes that failed, where the period is not longer itself.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// Does `pass` after each period until cancelled, with growing pauses while it fails; `period` gives none while it is off.
pub(super) async fn run<Pass, Error: Display>(
    timeline: Arc<Timeline>,
    cancel: CancellationToken,
    what: &'static str,
    period: fn(&TenantConfig) -> Option<Duration>,
    mut pass: impl FnMut(Arc<Timeline>) -> Pass,
) where
    Pass: Future<Output = Result<(), Error>>,
{
    let clock = timeline.shared.env.clock.clone();
    let work = async {
        let mut failures = 0;
        loop {
            let settings = timeline.settings();
            let changed = timeline.attachment.other_settings(&settings);
            let Some(period) = period(&settings) else {
                changed.await;
                continue;
            };
            let wait = period.saturating_mul(2u32.saturating_pow(failures)).min(BACKOFF_MAX.max(period));
            if clock.timeout(wait, changed).await.is_ok() {
                continue;
            }
            match pass(timeline.clone()).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(timeline = %timeline.identity.timeline, %error, "{what} failed, will try again");
                }
            }
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// A setting of zero is off.
pub(super) fn unless_zero(period: Duration) -> Option<Duration> {
    (!period.is_zero()).then_some(period)
}
