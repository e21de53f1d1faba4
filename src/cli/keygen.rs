//! `pal keygen`: a pair of Ed25519 keys in PEM files.

use super::output::{CommandError, Exit, Outcome, print};
use crate::auth::{SigningKey, keys};
use crate::io_abstraction::disk::{FileOps as _, OpenMode};
use crate::io_abstraction::{Disk, real};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// Signs tokens.
const PRIVATE: &str = "auth_private_key.pem";
/// Verifies them.
const PUBLIC: &str = "auth_public_key.pem";

const HELP: &str = "\
Writes DIR/auth_private_key.pem, readable for its owner only, and DIR/auth_public_key.pem. The private key
signs tokens (pal token) and is nothing for the server's machine; the server gets the public one:
  pal serve -c 'http_auth_type=\"NeonJWT\"' -c 'pg_auth_type=\"NeonJWT\"' \\
            -c 'auth_validation_public_key_path=\"/etc/palimpsest/auth_public_key.pem\"'

Other programs can use the keys too: they are as `openssl genpkey -algorithm ed25519` writes them.

Examples:
  pal keygen -o ~/palimpsest-keys
  pal keygen -o . --json | jq -r .public_key";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct KeygenArgs {
    /// Directory for the two files; it is made if needed, and keys that are there are never replaced.
    #[arg(short = 'o', long = "output", value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    /// Print the names of the files as JSON.
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &KeygenArgs) -> Outcome {
    let disk = real::file_system();
    let directory = std::path::absolute(&args.output).map_err(CommandError::new)?;
    let (private, public) = (directory.join(PRIVATE), directory.join(PUBLIC));
    disk.create_dir_all(&directory).map_err(|error| failed("make the directory", &directory, &error))?;
    if disk.open(&public, OpenMode::Read).is_ok() {
        return Err(failed("write", &public, &io::ErrorKind::AlreadyExists.into()));
    }
    let seed = real::entropy().map_err(|e| CommandError::new(format!("the machine gives no randomness for a key: {e}")))?;
    real::write_private(&private, keys::private_pem(&seed).as_bytes()).map_err(|error| failed("write", &private, &error))?;
    let written = write_public(&*disk, &public, &SigningKey::from_seed(&seed).public_pem());
    if let Err(error) = written {
        // A private key alone is of no use, and would be in the way of the next attempt.
        let _ = disk.unlink(&private);
        return Err(failed("write", &public, &error));
    }
    if args.json {
        let value = json!({ "private_key": private, "public_key": public });
        return print(&format!("{value}\n"));
    }
    print(&format!("private key  {}\npublic key   {}\n", private.display(), public.display()))
}

fn write_public(disk: &dyn Disk, path: &Path, text: &str) -> io::Result<()> {
    let file = disk.open(path, OpenMode::CreateNew)?;
    file.write_at(0, text.as_bytes())?;
    file.sync_data()
}

fn failed(what: &str, path: &Path, error: &io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::AlreadyExists {
        let message = format!("{} exists already: choose another directory, or move that key away", path.display());
        return CommandError::with(Exit::Conflict, message);
    }
    CommandError::new(format!("{what} {}: {error}", path.display()))
}
