//! Programs of the machine.

use crate::io_abstraction::process::{Child, Command, Output, Process, Signal};
use async_trait::async_trait;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

pub struct HostProcess;

/// User and group of an account, from the system's database.
struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

fn account(user: &str) -> io::Result<Account> {
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let missing =
        || io::Error::new(io::ErrorKind::NotFound, format!("user \"{user}\" does not exist on this machine: set run_as to one that does"));
    let line = passwd.lines().find(|l| l.split(':').next() == Some(user)).ok_or_else(missing)?;
    let field = |i: usize| line.split(':').nth(i).unwrap_or_default();
    let number = |i: usize| field(i).parse().map_err(|_| missing());
    Ok(Account { uid: number(2)?, gid: number(3)?, home: field(5).to_string() })
}

fn build(command: &Command) -> io::Result<tokio::process::Command> {
    let mut built = tokio::process::Command::new(&command.program);
    built.args(&command.args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        built.env("PATH", path);
    }
    if let Some(user) = command.run_as.as_deref().filter(|_| rustix::process::geteuid().is_root()) {
        let account = account(user)?;
        built.uid(account.uid).gid(account.gid).env("HOME", &account.home).env("USER", user).current_dir("/");
    }
    built.envs(command.env.iter().map(|(k, v)| (k, v)));
    if let Some(dir) = &command.working_dir {
        built.current_dir(dir);
    }
    Ok(built)
}

#[async_trait]
impl Process for HostProcess {
    async fn run(&self, command: Command) -> io::Result<Output> {
        let output = build(&command)?.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await?;
        Ok(Output { code: output.status.code(), stdout: output.stdout, stderr: output.stderr })
    }

    async fn spawn(&self, command: Command) -> io::Result<Box<dyn Child>> {
        let mut built = build(&command)?;
        match &command.log_file {
            Some(path) => {
                let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
                built.stdout(log.try_clone()?).stderr(log);
            }
            None => _ = built.stdout(Stdio::null()).stderr(Stdio::null()),
        }
        // A group of its own: an interrupt typed at the terminal reaches the node only, which stops its children in order.
        built.process_group(0);
        let child = built.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the program ended at once"))?;
        Ok(Box::new(HostChild { child, pid }))
    }

    async fn give_to(&self, user: &str, path: &Path) -> io::Result<()> {
        if !self.is_root() {
            return Ok(());
        }
        let account = account(user)?;
        let path = path.to_path_buf();
        let work = move || give_tree(&path, account.uid, account.gid);
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn user_exists(&self, user: &str) -> bool {
        account(user).is_ok()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

fn give_tree(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_tree(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

struct HostChild {
    child: tokio::process::Child,
    pid: u32,
}

#[async_trait]
impl Child for HostChild {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        use rustix::process::{Pid, Signal as S, kill_process};
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let signal = match signal {
            Signal::Terminate => S::TERM,
            Signal::Interrupt => S::INT,
            Signal::Quit => S::QUIT,
            Signal::Kill => S::KILL,
            Signal::Hangup => S::HUP,
        };
        Ok(kill_process(pid, signal)?)
    }

    async fn wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.wait().await?.code())
    }
}
