//! Serves the router on streams of the Net seam, one task per connection.

#![expect(clippy::disallowed_types, reason = "hyper's timer speaks Instant; the time in it comes from the Clock seam")]

use super::stall::StallLimit;
use crate::io_abstraction::{BoxStream, ClockExt as _, Env, Listener, Mono};
use crate::tls::TlsServer;
use axum::Router;
use futures::future::BoxFuture;
use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pause after the listener failed, as it does when there are no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 512;

/// Accepts until cancelled; then ends open connections. A client may take `patience` for the header of a request, and for each step
/// in which it takes what it is sent.
pub async fn run(
    env: Env,
    mut listener: Box<dyn Listener>,
    tls: Option<TlsServer>,
    router: Router,
    patience: Duration,
    cancel: CancellationToken,
) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (env, tls, router, cancel) = (env.clone(), tls.clone(), router.clone(), cancel.clone());
                    let serving = env.clone();
                    env.tasks.spawn("http-connection", async move {
                        match tls {
                            None => serve(&serving, stream, router, patience, cancel).await,
                            Some(tls) => match cancel.run_until_cancelled(tls.accept(stream)).await {
                                Some(Ok(stream)) => serve(&serving, stream, router, patience, cancel).await,
                                Some(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake of an HTTP client failed"),
                                None => {}
                            },
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept an HTTP connection");
                    env.clock.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(accept).await;
}

async fn serve(env: &Env, stream: BoxStream, router: Router, patience: Duration, cancel: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(EnvTimer(env.clone())).header_read_timeout(patience).auto_date_header(false);
    let stream = StallLimit::new(stream, env.clock.clone(), patience);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // A connection that breaks is its client's business.
    let _ = cancel.run_until_cancelled(connection).await;
}

/// hyper's timer on the Clock seam.
struct EnvTimer(Env);

struct EnvSleep(BoxFuture<'static, ()>);

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// The sleeping future is only ever polled through `&mut`.
struct SyncSleep(parking_lot::Mutex<EnvSleep>);

impl Future for SyncSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut *self.0.lock()).poll(cx)
    }
}

impl Sleep for SyncSleep {}

impl Timer for EnvTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(SyncSleep(parking_lot::Mutex::new(EnvSleep(self.0.clock.sleep(duration)))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    /// hyper computes deadlines from this; only differences matter, so any fixed origin serves.
    fn now(&self) -> Instant {
        let Mono(nanos) = self.0.clock.mono();
        *ORIGIN + Duration::from_nanos(nanos)
    }
}

/// Only differences to it matter.
static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
