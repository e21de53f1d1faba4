//! `pal import`: a stopped data directory becomes a root timeline.

use super::client::{EndpointArgs, command_env};
use super::output::{CommandError, Outcome, OutputArgs};
use super::progress::Progress;
use super::timeline::{TimelineOf, get_text};
use hyper::Method;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The server must have been stopped cleanly (pg_ctl stop -m fast), and the directory must be on the machine
of the palimpsest server, readable for its user. It is only read.

Example:
  pal import --tenant $T --timeline 9c2d6c1e8f504a7bb36c0f5d1e2a7788 /var/lib/postgresql/15/main";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub of: TimelineOf,
    /// Data directory of a cleanly stopped server of PostgreSQL 14 to 18.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

pub async fn run(args: &ImportArgs) -> Outcome {
    let env = command_env()?;
    let directory = std::path::absolute(&args.dir).map_err(|e| CommandError::new(format!("{}: {e}", args.dir.display())))?;
    let waiting = Progress::spinner(format!("importing {}", directory.display()));
    let api = args.endpoint.client(&env)?;
    let info = api.change(Method::PUT, &format!("{}/import", args.of.path()), Some(json!({ "directory": directory }))).await?;
    drop(waiting);
    args.output.print(&info, get_text)
}
