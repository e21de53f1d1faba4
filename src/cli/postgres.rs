//! `pal postgres`: the stock servers of this machine.

use super::client::command_env;
use super::output::{CommandError, Outcome, OutputArgs, cell, print, table};
use super::progress::Progress;
use super::timeline::parse_version;
use crate::pg::version::PgVersion;
use crate::postgres::{Binaries, binaries, install};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const EXAMPLES: &str = "\
Servers are looked for in [postgres.versions] of the configuration, /usr/lib/postgresql, PATH and the cache
that `install` fills: ~/.cache/palimpsest, or /var/cache/palimpsest for root.

Examples:
  pal postgres list
  pal postgres install 17";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PostgresArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub verb: PostgresVerb,
}

#[derive(Debug, clap::Subcommand)]
pub enum PostgresVerb {
    /// Fetch a server with npm into the cache, and print where its programs are.
    Install {
        /// Major version, 14 to 18.
        #[arg(value_name = "MAJOR", value_parser = parse_version)]
        major: PgVersion,
    },
    /// List the servers that are found here.
    List,
}

pub async fn run(args: &PostgresArgs) -> Outcome {
    let env = command_env()?;
    match args.verb {
        PostgresVerb::Install { major } => {
            let waiting = Progress::spinner(format!("installing PostgreSQL {major}"));
            let installed = install::install(&env, major).await.map_err(CommandError::new)?;
            drop(waiting);
            if args.output.is_json() {
                return args.output.print(&value(&installed), |_| String::new());
            }
            print(&format!("{}\n", installed.bin_dir.display()))
        }
        PostgresVerb::List => {
            let found = binaries::find_all(&env, &BTreeMap::new()).await.map_err(CommandError::new)?;
            let found = Value::Array(found.iter().map(value).collect());
            args.output.print(&found, |found| {
                let row = |server: &Value| ["major", "version", "bin_dir"].map(|field| cell(server, field)).to_vec();
                table(&["MAJOR", "VERSION", "PROGRAMS"], &found.as_array().into_iter().flatten().map(row).collect::<Vec<_>>())
            })
        }
    }
}

fn value(binaries: &Binaries) -> Value {
    json!({ "major": binaries.version.major(), "version": binaries.full_version, "bin_dir": binaries.bin_dir })
}
