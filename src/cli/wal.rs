//! `pal wal`: looking into WAL files.

use super::output::{CommandError, Exit, Outcome, print};
use super::progress::Progress;
use super::wal_stats::{self, WalStatsArgs, WalStatsError};
use super::wal_verify::{self, WalVerifyArgs, WalVerifyError};
use crate::io_abstraction::disk::{Disk, DiskFile, FileOps as _, OpenMode};
use crate::io_abstraction::real;
use std::io;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct WalArgs {
    #[command(subcommand)]
    pub verb: WalVerb,
}

#[derive(Debug, clap::Subcommand)]
pub enum WalVerb {
    /// Count records and their bytes by kind, with the totals of `pg_waldump --stats=record`.
    #[command(after_help = STATS_HELP)]
    Stats(WalStatsArgs),
    /// Check the redo routines against WAL that carries its own page images.
    #[command(after_help = VERIFY_HELP)]
    Verify(WalVerifyArgs),
}

const STATS_HELP: &str = "\
Examples:
  pal wal stats /var/lib/postgresql/15/main/pg_wal
  pal wal stats 000000010000000000000003 000000010000000000000004 --json";

const VERIFY_HELP: &str = "\
The WAL must come from a server that ran with wal_consistency_checking=all. Every record is applied to the pages
that the ones before it made, and the result is compared with the image in the record. A first segment that
begins inside a record is read from the first record that begins in it.

Exit codes: 0 all equal, 1 a mismatch (or the WAL cannot be read), 3 a record that no routine handles,
7 no WAL in the directory.

Examples:
  pal wal verify /var/lib/postgresql/15/main/pg_wal
  pal wal verify ./archive --start 0/2000028 --end 0/9000000 --json";

impl WalVerb {
    pub fn json(&self) -> bool {
        match self {
            WalVerb::Stats(args) => args.json,
            WalVerb::Verify(args) => args.json,
        }
    }
}

pub fn run(args: &WalArgs) -> Outcome {
    let disk = real::file_system();
    match &args.verb {
        WalVerb::Stats(args) => stats(&*disk, args),
        WalVerb::Verify(args) => verify(&*disk, args),
    }
}

fn stats(disk: &dyn Disk, args: &WalStatsArgs) -> Outcome {
    let counting = Progress::spinner("counting");
    let report = wal_stats::collect(args, disk).map_err(|error| match error {
        WalStatsError::Files(_) | WalStatsError::Outside { .. } => CommandError::with(Exit::Invalid, error),
        other => CommandError::new(other),
    })?;
    drop(counting);
    print(&wal_stats::print(&report, args.json).map_err(CommandError::new)?)
}

fn verify(disk: &dyn Disk, args: &WalVerifyArgs) -> Outcome {
    let unreadable = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::Invalid } else { Exit::Failed };
        CommandError::with(exit, format!("directory {}: {error}", args.dir.display()))
    };
    let entries = disk.list(&args.dir).map_err(unreadable)?;
    let files: Vec<_> = entries.into_iter().filter(|entry| !entry.is_dir).collect();
    let progress = Progress::bytes("verifying", files.iter().map(|file| file.len).sum());
    // Segments are read from front to back: the last opened one is nearly always the next one asked for.
    let mut last: Option<(String, DiskFile)> = None;
    let mut read = |name: &str, offset: u64, len: usize| {
        let file = match &last {
            Some((opened, file)) if opened == name => file.clone(),
            _ => disk.open(&args.dir.join(name), OpenMode::Read)?,
        };
        last = Some((name.to_string(), file.clone()));
        let mut bytes = vec![0; len];
        let read = file.read_at(offset, &mut bytes)?;
        bytes.truncate(read);
        progress.add(read as u64);
        Ok(bytes)
    };
    let outcome = wal_verify::run(args, files.iter().map(|file| file.name.clone()), &mut read).map_err(|error| match error {
        WalVerifyError::NoSegment => CommandError::with(Exit::Invalid, format!("{}: {error}", args.dir.display())),
        other => CommandError::new(other),
    })?;
    drop(progress);
    let mut text = outcome.print(args.json).map_err(CommandError::new)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    print(&text)?;
    Ok(ExitCode::from(outcome.exit_code()))
}
