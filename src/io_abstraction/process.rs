//! Other programs: PostgreSQL's own tools and servers.

use async_trait::async_trait;
use std::io;
use std::path::PathBuf;

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The whole environment: nothing is inherited but `PATH`.
    pub env: Vec<(String, String)>,
    /// User to run as; takes effect only when the node itself runs as root.
    pub run_as: Option<String>,
    /// File that takes standard output and error of a spawned program.
    pub log_file: Option<PathBuf>,
    pub working_dir: Option<PathBuf>,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Quit,
    Kill,
    Hangup,
}

/// Runs programs on this machine.
///
/// `run` waits for the end; dropping its future kills the program. A spawned child ends with the node (its handle kills it
/// when dropped) unless it is detached. Files given to another user must be reachable for that user: see `give_to`.
#[async_trait]
pub trait Process: Send + Sync {
    async fn run(&self, command: Command) -> io::Result<Output>;
    async fn spawn(&self, command: Command) -> io::Result<Box<dyn Child>>;

    /// Makes `user` the owner of a directory tree; nothing happens when the node does not run as root.
    async fn give_to(&self, user: &str, path: &std::path::Path) -> io::Result<()>;

    /// Finds out whether the node runs as root, where servers refuse to start.
    fn is_root(&self) -> bool;

    /// Whether such a user exists on this machine.
    fn user_exists(&self, user: &str) -> bool;

    /// A variable of the node's environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// A running program.
#[async_trait]
pub trait Child: Send + Sync {
    fn pid(&self) -> u32;
    fn signal(&self, signal: Signal) -> io::Result<()>;
    /// Waits for the end; may be called again afterwards.
    async fn wait(&mut self) -> io::Result<Option<i32>>;
}
