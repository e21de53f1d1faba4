//! The redo child as a process: this executable with the hidden command `wal-redo`.

use crate::io_abstraction::redo::{RedoChild, RedoControl, RedoSpawner};
use crate::pg::version::PgVersion;
use futures::future::BoxFuture;
use std::io;
use std::process::Stdio;
use tokio::process::Command;

/// What a pipe to or from a child should hold: Linux gives this much to anybody (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;

pub struct ChildSpawner;

struct Control(tokio::process::Child);

impl RedoControl for Control {
    fn kill(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The child may be gone already, which is what is wanted.
            let _ = self.0.kill().await;
        })
    }
}

impl RedoSpawner for ChildSpawner {
    fn spawn(&self, version: PgVersion, hint_bits_logged: bool) -> io::Result<RedoChild> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["wal-redo", "--pg-version", &version.to_string()])
            .args((!hint_bits_logged).then_some("--no-hint-bits"))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pipe = |what| io::Error::other(format!("the redo child has no {what}"));
        let input = child.stdin.take().ok_or_else(|| pipe("input"))?;
        let output = child.stdout.take().ok_or_else(|| pipe("output"))?;
        // A request of many pages in few wake-ups. The system may allow less; then it stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE_BYTES);
        let _ = rustix::pipe::fcntl_setpipe_size(&output, PIPE_BYTES);
        Ok(RedoChild { input: Box::new(input), output: Box::new(output), control: Box::new(Control(child)) })
    }
}
