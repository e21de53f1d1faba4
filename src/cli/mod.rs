//! The program's commands: arguments and what each prints. They reach the outside only through what `real` gives them.

pub mod access;
pub mod client;
pub mod demo;
pub mod export;
pub mod import;
pub mod keygen;
pub mod output;
pub mod postgres;
pub mod progress;
pub mod serve;
pub mod tenant;
pub mod timeline;
pub mod token;
pub mod unpack;
pub mod wal;
pub mod wal_files;
pub mod wal_redo;
pub mod wal_stats;
pub mod wal_verify;

use crate::io_abstraction::real;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps the whole history of PostgreSQL clusters: any page at any LSN, and branches that stock servers boot on.
#[derive(Debug, Parser)]
#[command(name = "pal", version, about, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  pal demo                         everything once, on a real PostgreSQL, in a temporary directory
  pal serve -D /var/lib/palimpsest

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 denied, 6 timed out, 7 invalid input,
8 no server there, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on a real PostgreSQL: follow its WAL, branch at an earlier moment, boot a server there, compare.
    Demo(demo::DemoArgs),
    /// Run the server: page service and management API.
    Serve(serve::ServeArgs),
    /// Create, list and show tenants.
    Tenant(tenant::TenantArgs),
    /// Create, list and show timelines; follow a primary's WAL.
    Timeline(timeline::TimelineArgs),
    /// Make a timeline from a stopped data directory.
    Import(import::ImportArgs),
    /// Write a data directory that a stock server starts on, as it was at any LSN.
    Export(export::ExportArgs),
    /// Make a pair of keys: a private one that signs tokens, a public one for the server.
    Keygen(keygen::KeygenArgs),
    /// Sign a token that a server with the public key accepts.
    Token(token::TokenArgs),
    /// Look into WAL files.
    Wal(wal::WalArgs),
    /// Find and install stock PostgreSQL servers.
    Postgres(postgres::PostgresArgs),
    /// Apply WAL records to pages, read from standard input (used by the server itself).
    #[command(hide = true)]
    WalRedo(wal_redo::WalRedoArgs),
}

impl Command {
    /// Whether errors are wanted as JSON too.
    fn json(&self) -> bool {
        match self {
            Command::Demo(args) => args.json,
            Command::Tenant(args) => args.output.is_json(),
            Command::Timeline(args) => args.output.is_json(),
            Command::Import(args) => args.output.is_json(),
            Command::Export(args) => args.json,
            Command::Keygen(args) => args.json,
            Command::Token(args) => args.json,
            Command::Wal(args) => args.verb.json(),
            Command::Postgres(args) => args.output.is_json(),
            Command::Serve(_) | Command::WalRedo(_) => false,
        }
    }
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let json = cli.command.json();
    let outcome = match cli.command {
        Command::Demo(args) => real::block_on(demo::run(&args)),
        Command::Serve(args) => serve::run(args),
        Command::Tenant(args) => real::block_on(tenant::run(&args)),
        Command::Timeline(args) => real::block_on(timeline::run(&args)),
        Command::Import(args) => real::block_on(import::run(&args)),
        Command::Export(args) => real::block_on(export::run(&args)),
        Command::Keygen(args) => keygen::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Wal(args) => wal::run(&args),
        Command::Postgres(args) => real::block_on(postgres::run(&args)),
        Command::WalRedo(args) => return wal_redo::run(&args),
    };
    outcome.unwrap_or_else(|error| error.report(json))
}

/// Where the data directory is, and which settings hold.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Data directory.
    #[arg(short = 'D', long = "data-dir", value_name = "DIR", default_value = "./.palimpsest")]
    pub data_dir: PathBuf,
    /// Settings in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, as in the file; may be repeated and wins over the file.
    #[arg(short = 'c', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
