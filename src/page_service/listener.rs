//! Accepts page service connections, one task each.

use super::connection::{Connection, ConnectionError};
use crate::auth::Guard;
use crate::io_abstraction::{ClockExt as _, Env, Listener};
use crate::tenant::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause after the listener failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: u32 = 4096;
/// How long the connections have for their last words.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Accepts until cancelled; connections end with it.
pub async fn run(env: Env, mut listener: Box<dyn Listener>, registry: Arc<Registry>, guard: Guard, cancel: CancellationToken) {
    let guard = Arc::new(guard);
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX as usize));
    let accept = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = Connection::new(env.clone(), registry.clone(), guard.clone(), stream);
                    let cancel = cancel.clone();
                    env.tasks.spawn("page-connection", async move {
                        match connection.run(&cancel).await {
                            Ok(()) => {}
                            Err(error @ (ConnectionError::Stuck | ConnectionError::Refused { .. })) => {
                                tracing::info!(%peer, %error, "page service connection closed");
                            }
                            Err(error) => tracing::debug!(%peer, %error, "page service connection ended"),
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a page service connection");
                    env.clock.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(accept).await;
    // All slots are free when the last connection is gone. What a client does not take by then it does not get.
    let _ = env.clock.timeout(FAREWELL_LIMIT, slots.acquire_many(CONNECTIONS_MAX)).await;
}
