//! `pal`: parses arguments, builds the real environment, runs the command.

use clap::Parser as _;
use palimpsest::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
