//! The redo child as a task behind in-memory pipes: the product's own child loop, request by request, and its ways to fail.
//!
//! A child can stall for ever, answer late, end in the middle of an answer, or end without one. Killing it takes a moment.

use crate::event;
use crate::held::{Hold, Ledger};
use crate::trace::HostTrace;
use futures::future::BoxFuture;
use palimpsest::io_abstraction::redo::RedoControl;
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{Clock, ClockExt as _, DetRng, RedoChild, RedoSpawner, RngSource, Task, Tasks};
use palimpsest::pg::version::PgVersion;
use palimpsest::redo::ApplyContext;
use palimpsest::redo::child::run_child;
use palimpsest::redo::pipe::{self, MESSAGE_HEADER};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Bytes that a pipe holds, as Linux pipes do.
const PIPE_BYTES: usize = 64 << 10;

/// Chance, in parts per million of requests, that a child misbehaves. Shared by all hosts, changed during a run.
pub type RedoFaults = Arc<AtomicU32>;

/// Starts children on one host.
pub struct SimRedo {
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    rng: RngSource,
    trace: HostTrace,
    held: Ledger,
    faults: RedoFaults,
    started: AtomicU64,
}

impl SimRedo {
    pub fn new(tasks: Tasks, clock: Arc<dyn Clock>, rng: &RngSource, (trace, held): (HostTrace, Ledger), faults: RedoFaults) -> SimRedo {
        SimRedo { tasks, clock, rng: rng.child("redo"), trace, held, faults, started: AtomicU64::new(0) }
    }
}

struct Child {
    number: u64,
    ctx: ApplyContext,
    clock: Arc<dyn Clock>,
    rng: DetRng,
    trace: HostTrace,
    faults: RedoFaults,
}

struct Control {
    task: Option<Task>,
    clock: Arc<dyn Clock>,
    reaping: Duration,
    _not_reaped: Hold,
}

impl RedoControl for Control {
    fn kill(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(task) = self.task.take() {
                task.abort();
                self.clock.sleep(self.reaping).await;
                task.join().await;
            }
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl RedoSpawner for SimRedo {
    fn spawn(&self, version: PgVersion, hint_bits_logged: bool) -> io::Result<RedoChild> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        event!(self.trace, "redo", "op=spawn child={number} version={version}");
        let mut rng = self.rng.stream(&format!("child-{number}"));
        let reaping = Duration::from_micros(below(&mut rng, 5_000));
        let (input, child_input) = tokio::io::duplex(PIPE_BYTES);
        let (child_output, output) = tokio::io::duplex(PIPE_BYTES);
        let ctx = ApplyContext { page_lsn_on_visible: hint_bits_logged, ..ApplyContext::new(version) };
        let child = Child { number, ctx, clock: self.clock.clone(), rng, trace: self.trace.clone(), faults: self.faults.clone() };
        let task = self.tasks.spawn("redo-child", async move {
            // The process ends with its loop; how, its parent sees from the pipes.
            let _ = child.serve(child_input, child_output).await;
        });
        let control =
            Control { task: Some(task), clock: self.clock.clone(), reaping, _not_reaped: self.held.hold(&format!("redo child {number}")) };
        Ok(RedoChild { input: Box::new(input), output: Box::new(output), control: Box::new(control) })
    }
}

impl Child {
    async fn serve(mut self, mut input: DuplexStream, mut output: DuplexStream) -> io::Result<()> {
        loop {
            let Some(request) = read_request(&mut input).await? else { return Ok(()) };
            self.clock.sleep(Duration::from_micros(below(&mut self.rng, 300))).await;
            let mut answer = Vec::new();
            if let Err(error) = run_child(&request[..], &mut answer, self.ctx) {
                event!(self.trace, "redo", "op=refuse child={} error={error}", self.number);
                return Ok(());
            }
            let misbehaves = below(&mut self.rng, 1_000_000) < u64::from(self.faults.load(Ordering::Relaxed));
            let how = if misbehaves { below(&mut self.rng, 4) } else { u64::MAX };
            if misbehaves {
                event!(self.trace, "redo", "op=misbehave child={} how={how}", self.number);
            }
            match how {
                0 => return std::future::pending().await,
                1 => return Ok(()),
                2 => {
                    output.write_all(&answer[..answer.len() / 3]).await?;
                    return Ok(());
                }
                3 => self.clock.sleep(Duration::from_millis(below(&mut self.rng, 4_000))).await,
                _ => {}
            }
            output.write_all(&answer).await?;
            output.flush().await?;
        }
    }
}

/// Reads messages up to the one that asks for an answer. `None` at the end of the input.
async fn read_request(input: &mut DuplexStream) -> io::Result<Option<Vec<u8>>> {
    let mut request = Vec::new();
    loop {
        let mut head = [0; MESSAGE_HEADER];
        if request.is_empty() {
            match input.read(&mut head[..1]).await? {
                0 => return Ok(None),
                _ => input.read_exact(&mut head[1..]).await?,
            };
        } else {
            input.read_exact(&mut head).await?;
        }
        let (kind, len) = pipe::decode_head(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let start = request.len();
        request.extend_from_slice(&head);
        request.resize(start + MESSAGE_HEADER + len, 0);
        input.read_exact(&mut request[start + MESSAGE_HEADER..]).await?;
        if kind == b'G' || kind == b'H' {
            return Ok(Some(request));
        }
    }
}
