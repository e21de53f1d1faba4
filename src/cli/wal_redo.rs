//! `pal wal-redo`: the child that applies records to pages, requests on standard input, pages on standard output.

use crate::pg::version::PgVersion;
use crate::redo::ApplyContext;
use crate::redo::child::run_child;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct WalRedoArgs {
    /// Major version of the cluster whose WAL comes.
    #[arg(long)]
    pub pg_version: u32,
    /// The cluster has neither data checksums nor wal_log_hints.
    #[arg(long)]
    pub no_hint_bits: bool,
}

pub fn run(args: &WalRedoArgs) -> ExitCode {
    let outcome = PgVersion::try_from(args.pg_version).map_err(|e| e.to_string()).and_then(|version| {
        let context = ApplyContext { page_lsn_on_visible: !args.no_hint_bits, ..ApplyContext::new(version) };
        run_child(std::io::stdin().lock(), std::io::stdout().lock(), context).map_err(|e| e.to_string())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pal wal-redo: {message}");
            ExitCode::FAILURE
        }
    }
}
