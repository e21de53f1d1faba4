//! `pal token`: a signed statement of what its bearer may do.

use super::client::command_env;
use super::output::{CommandError, Exit, Outcome, print};
use crate::auth::{Claims, Permission, SigningKey, token};
use crate::io_abstraction::{Wall, real};
use crate::types::TenantId;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
The token goes to standard output. `pal` takes it from PAL_TOKEN, other programs send it as
  Authorization: Bearer TOKEN      to the management API
  the password                     to the page service
Whoever has it may use it until it expires; a server forgets it early only when the public key is taken away.

Examples:
  export PAL_TOKEN=$(pal token --key auth_private_key.pem --ttl 8h)
  pal token --key auth_private_key.pem --scope tenant --tenant $T";

/// What the bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// Everything.
    Pageserverapi,
    /// What concerns one tenant.
    Tenant,
}

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct TokenArgs {
    /// Private key in PEM, as `pal keygen` writes it.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// What the bearer may do [default: `tenant` with --tenant, else `pageserverapi`].
    #[arg(long, value_enum, value_name = "SCOPE")]
    pub scope: Option<Scope>,
    /// Tenant id of the scope `tenant`, 32 hexadecimal digits.
    #[arg(long, value_name = "T", required_if_eq("scope", "tenant"))]
    pub tenant: Option<TenantId>,
    /// How long it is valid, as in 20m, 8h, 30days [default: for ever].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
    /// Print token, scope, tenant and end as JSON.
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &TokenArgs) -> Outcome {
    real::block_on(async {
        let env = command_env()?;
        let claims = claims(args, env.clock.wall())?;
        let key = SigningKey::load(&*env.disk, &args.key).map_err(|error| CommandError::with(Exit::Invalid, error))?;
        let text = token::encode(&claims, &key);
        if !args.json {
            return print(&format!("{text}\n"));
        }
        let (scope, tenant) = match claims.permission {
            Permission::Everything => ("pageserverapi", None),
            Permission::Tenant(tenant) => ("tenant", Some(tenant)),
        };
        let value = json!({ "token": text, "scope": scope, "tenant_id": tenant, "exp": claims.expires });
        print(&format!("{value}\n"))
    })
}

fn claims(args: &TokenArgs, now: Wall) -> Result<Claims, CommandError> {
    let permission = match (args.scope, args.tenant) {
        (None | Some(Scope::Tenant), Some(tenant)) => Permission::Tenant(tenant),
        (None | Some(Scope::Pageserverapi), None) => Permission::Everything,
        (Some(Scope::Tenant), None) => return Err(CommandError::with(Exit::Invalid, "--scope tenant needs --tenant T")),
        (Some(Scope::Pageserverapi), Some(_)) => {
            let message = "--scope pageserverapi is for every tenant: leave out --tenant, or use --scope tenant";
            return Err(CommandError::with(Exit::Invalid, message));
        }
    };
    let seconds = |ttl: Duration| i64::try_from(ttl.as_secs()).ok().and_then(|ttl| now.unix_seconds().checked_add(ttl));
    let expires = match args.ttl {
        None => None,
        Some(ttl) if ttl < Duration::from_secs(1) => return Err(CommandError::with(Exit::Invalid, "--ttl: at least 1s")),
        Some(ttl) => Some(seconds(ttl).ok_or_else(|| CommandError::with(Exit::Invalid, "--ttl: too long; leave it out for ever"))?),
    };
    Ok(Claims { permission, expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_from_arguments() {
        let tenant = TenantId([1; 16]);
        let made = |scope, tenant, ttl: Option<Duration>| {
            let args = TokenArgs { key: PathBuf::new(), scope, tenant, ttl, json: false };
            claims(&args, Wall(5_000_000)).map_err(|e| e.exit)
        };
        let all = |expires| Ok(Claims { permission: Permission::Everything, expires });
        let one = Ok(Claims { permission: Permission::Tenant(tenant), expires: None });
        let ttl = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((made(None, None, None), made(Some(Scope::Pageserverapi), None, ttl(60))), (all(None), all(Some(65))));
        assert_eq!((made(None, Some(tenant), None), made(Some(Scope::Tenant), Some(tenant), None)), (one, one));
        for (scope, tenant, ttl) in [
            (Some(Scope::Tenant), None, None),
            (Some(Scope::Pageserverapi), Some(tenant), None),
            (None, None, ttl(0)),
            (None, None, ttl(u64::MAX)),
        ] {
            assert_eq!(made(scope, tenant, ttl), Err(Exit::Invalid));
        }
    }
}
