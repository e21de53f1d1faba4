//! Accepts page service connections, one task each.

use super::connection::Connection;
use crate::io_abstraction::{ClockExt as _, Env, Listener};
use crate::tenant::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause after the listener failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Accepts until cancelled; connections end with it.
pub async fn run(env: Env, mut listener: Box<dyn Listener>, registry: Arc<Registry>, cancel: CancellationToken) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = Connection::new(env.clone(), registry.clone(), stream);
                    let cancel = cancel.clone();
                    env.tasks.spawn("page-connection", async move {
                        if let Some(Err(error)) = cancel.run_until_cancelled(connection.run()).await {
                            tracing::debug!(%peer, %error, "page service connection ended");
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
}
