//! A stream of turmoil's, made to behave as one of Linux in four things.
//!
//! - Writes are cut into segments, so that its buffer, which turmoil counts in segments, is one of bytes.
//! - A writer that waits for room learns of a reset. turmoil wakes readers only, so a waiting writer looks for it too.
//! - The end of the stream is sent when there is room for it: turmoil loses one that finds the buffer full.
//! - Shutting down twice is fine.

use parking_lot::Mutex;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// Longest time that the kernel keeps what a closed socket did not get rid of.
const LINGER: Duration = Duration::from_secs(60);

pub struct TurStream {
    /// Present until the stream is dropped.
    inner: Option<TcpStream>,
    segment_bytes: usize,
    closed: bool,
    wakers: Arc<Both>,
}

/// Wakes whoever waits to read and whoever waits to write: turmoil remembers one of them only.
#[derive(Default)]
struct Both(Mutex<[Option<Waker>; 2]>);

const READER: usize = 0;
const WRITER: usize = 1;

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *self.0.lock());
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl TurStream {
    pub fn new(inner: TcpStream, segment_bytes: usize) -> TurStream {
        TurStream { inner: Some(inner), segment_bytes, closed: false, wakers: Arc::default() }
    }

    fn inner(&mut self) -> &mut TcpStream {
        self.inner.as_mut().expect("present until the stream is dropped")
    }

    fn waker(&self, side: usize, cx: &Context<'_>) -> Waker {
        self.wakers.0.lock()[side] = Some(cx.waker().clone());
        Waker::from(self.wakers.clone())
    }

    /// A writer that has to wait: an error if the peer reset the connection.
    fn reset_while_waiting(&mut self, cx: &Context<'_>) -> Poll<io::Error> {
        let waker = self.waker(WRITER, cx);
        let mut byte = [0];
        match self.inner().poll_peek(&mut Context::from_waker(&waker), &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

fn has_room(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    pin!(stream.writable()).poll(cx)
}

impl AsyncRead for TurStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let waker = self.waker(READER, cx);
        Pin::new(self.inner()).poll_read(&mut Context::from_waker(&waker), buf)
    }
}

impl AsyncWrite for TurStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let portion = &buf[..buf.len().min(self.segment_bytes)];
        match Pin::new(self.inner()).poll_write(cx, portion) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.reset_while_waiting(cx).map(Err),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        if has_room(self.inner(), cx).is_pending() {
            return self.reset_while_waiting(cx).map(Err);
        }
        self.closed = true;
        ready!(Pin::new(self.inner()).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for TurStream {
    #[expect(clippy::disallowed_methods, reason = "the kernel's part: it goes on after the program closed its socket")]
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let full = !self.closed && has_room(&inner, &mut Context::from_waker(Waker::noop())).is_pending();
        if full && tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(async move {
                // Room, or never: the peer may be gone.
                let _ = tokio::time::timeout(LINGER, inner.writable()).await;
                drop(inner);
            });
        }
    }
}
