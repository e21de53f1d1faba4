//! `pal export`: a bootable base backup from the page service, as a data directory or as a tar.

use super::client::{PageServer, PageServiceArgs, command_env, connect_pages, pages_error};
use super::output::{CommandError, Exit, Outcome, human_bytes, print};
use super::progress::Progress;
use super::timeline::TimelineOf;
use super::unpack::{self, UnpackError, Unpacked};
use crate::io_abstraction::{Env, real};
use crate::postgres::hand_over;
use crate::types::{Lsn, TenantId, TimelineId};
use bytes::{Buf as _, Bytes};
use serde_json::json;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the page service may take before the first byte and between two: it may wait for WAL first.
const SILENCE: Duration = Duration::from_secs(300);
/// Pieces of the backup between network and disk.
const PIECES_AHEAD: usize = 16;

const EXAMPLES: &str = "\
The backup needs no WAL and no recovery settings: start a stock server on the directory. A replica follows
its primary once primary_conninfo is set. Tablespaces come out as plain directories under pg_tblspc.

Examples:
  pal export --tenant $T --timeline $TL -o ./data && postgres -D ./data
  pal export --tenant $T --timeline $TL --lsn 0/1A2B3C8 -o ./then
  pal export --tenant $T --timeline $TL -o - | ssh host 'tar -x -C /srv/pg/data'";

/// What the cluster is to be; decides its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A cluster of its own, with a new system identifier.
    Fresh,
    /// The first server of this timeline: its WAL can be followed.
    FirstNode,
    /// A standby of the primary that this timeline follows.
    Replica,
    /// The next primary of this timeline, after all of its servers were lost.
    Reseed,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Form::Fresh => "fresh",
            Form::FirstNode => "first-node",
            Form::Replica => "replica",
            Form::Reseed => "reseed",
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    #[command(flatten)]
    pub page_service: PageServiceArgs,
    #[command(flatten)]
    pub of: TimelineOf,
    /// State to export; an LSN that has not arrived yet is waited for [default: the last record].
    #[arg(long, value_name = "LSN")]
    pub lsn: Option<Lsn>,
    /// What the cluster is to be.
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t = Form::Fresh)]
    pub form: Form,
    /// Directory to fill, empty or absent; `-` writes a tar to standard output.
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Do not wait until the files are on disk.
    #[arg(long)]
    pub no_sync: bool,
    /// Print what was written as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    pub tenant: TenantId,
    pub timeline: TimelineId,
    pub lsn: Option<Lsn>,
    pub form: Form,
}

impl Backup {
    /// The page service's command.
    fn command(&self) -> String {
        let mut command = format!("fullbackup {} {}", self.tenant, self.timeline);
        if let Some(lsn) = self.lsn {
            command.push_str(&format!(" {lsn}"));
        }
        if self.form != Form::Fresh {
            command.push_str(&format!(" --as {}", self.form.name()));
        }
        command
    }
}

pub async fn run(args: &ExportArgs) -> Outcome {
    let env = command_env()?;
    let backup = Backup { tenant: args.of.tenant, timeline: args.of.timeline, lsn: args.lsn, form: args.form };
    let server = &args.page_service.server();
    if args.output.as_os_str() == "-" {
        if args.json {
            return Err(CommandError::with(Exit::Invalid, "--json and -o - would both write to standard output"));
        }
        return to_stdout(&env, server, &backup).await;
    }
    let directory = std::path::absolute(&args.output).map_err(CommandError::new)?;
    let progress = Progress::stream(format!("exporting to {}", directory.display()));
    let work = to_directory(&env, server, &backup, &directory, !args.no_sync, &progress, async { real::termination().await });
    let made = work.await?;
    drop(progress);
    if args.json {
        let lsn = args.lsn.map(|lsn| lsn.to_string());
        let value = json!({
            "tenant_id": backup.tenant, "timeline_id": backup.timeline, "lsn": lsn, "as": backup.form.name(),
            "directory": directory, "files": made.files, "bytes": made.bytes,
        });
        return print(&format!("{value}\n"));
    }
    print(&format!("{}: {} files, {}\n", directory.display(), made.files, human_bytes(made.bytes)))
}

async fn to_stdout(env: &Env, server: &PageServer, backup: &Backup) -> Outcome {
    if io::stdout().is_terminal() {
        return Err(CommandError::with(Exit::Invalid, "a tar is nothing for a terminal: redirect standard output, or name a directory"));
    }
    let progress = Progress::stream("exporting");
    let mut connection = connect_pages(env, server).await?;
    let mut copy = connection.copy_out(&backup.command(), SILENCE).await.map_err(pages_error)?;
    while let Some(piece) = copy.next().await.map_err(pages_error)? {
        let mut out = io::stdout().lock();
        out.write_all(&piece).map_err(|e| CommandError::new(format!("write to standard output: {e}")))?;
        progress.add(piece.len() as u64);
    }
    io::stdout().flush().map_err(|e| CommandError::new(format!("write to standard output: {e}")))?;
    connection.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Fills `directory`, which must be empty or absent, and makes it private to its owner. When `stop` completes first, or on an
/// error, what was written is removed again.
pub async fn to_directory(
    env: &Env,
    server: &PageServer,
    backup: &Backup,
    directory: &Path,
    sync: bool,
    progress: &Progress,
    stop: impl Future<Output = &'static str>,
) -> Result<Unpacked, CommandError> {
    let unpack_failed = |error: UnpackError| {
        let exit = if matches!(error, UnpackError::NotEmpty { .. }) { Exit::Conflict } else { Exit::Failed };
        CommandError::with(exit, error)
    };
    let made = unpack::prepare(&*env.disk, directory).map_err(unpack_failed)?;
    let outcome = tokio::select! {
        biased;
        signal = stop => Err(CommandError::interrupted(signal)),
        outcome = fetch(env, server, backup, directory, sync, progress) => outcome,
    };
    let outcome = match outcome {
        Ok(unpacking) => unpacking.map_err(unpack_failed),
        Err(error) => Err(error),
    };
    let outcome = match outcome {
        Ok(unpacked) => hand_over(env, None, directory).await.map(|()| unpacked).map_err(CommandError::new),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        let (disk, path) = (env.disk.clone(), directory.to_path_buf());
        let cleared = env.tasks.blocking("discard-export", move || unpack::discard(&*disk, &path, made)).await;
        if let Err(error) = cleared {
            eprintln!("pal: what was written to {} could not be removed: {error}", directory.display());
        }
    }
    outcome
}

/// The outer error is the connection's, the inner one the disk's or the tar's.
async fn fetch(
    env: &Env,
    server: &PageServer,
    backup: &Backup,
    directory: &Path,
    sync: bool,
    progress: &Progress,
) -> Result<Result<Unpacked, UnpackError>, CommandError> {
    let mut connection = connect_pages(env, server).await?;
    let mut copy = connection.copy_out(&backup.command(), SILENCE).await.map_err(pages_error)?;
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let (done, unpacked) = oneshot::channel();
    let (disk, tasks, path) = (env.disk.clone(), env.tasks.clone(), directory.to_path_buf());
    env.tasks.spawn("unpack", async move {
        let pieces = Pieces { receiver, current: Bytes::new() };
        // Nobody waits for it when the export was stopped.
        let _ = done.send(tasks.blocking("unpack", move || unpack::unpack(&*disk, &path, pieces, sync)).await);
    });
    let mut failure = None;
    loop {
        match copy.next().await {
            Ok(Some(piece)) => {
                progress.add(piece.len() as u64);
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                failure = Some(pages_error(error));
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacked.await.map_err(|_| CommandError::new("the export was stopped"))?;
    failure.map_or(Ok(unpacked), Err)
}

/// Pieces of a stream as something to read, for a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let len = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let (tenant, timeline) = (TenantId([1; 16]), TimelineId([2; 16]));
        let backup = |lsn, form| Backup { tenant, timeline, lsn, form }.command();
        assert_eq!(backup(None, Form::Fresh), format!("fullbackup {tenant} {timeline}"));
        assert_eq!(backup(Some(Lsn(16)), Form::FirstNode), format!("fullbackup {tenant} {timeline} 0/10 --as first-node"));
    }
}
