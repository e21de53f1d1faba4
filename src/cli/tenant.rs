//! `pal tenant`: sets of timelines that share history.

use super::client::{EndpointArgs, command_env};
use super::output::{CommandError, Outcome, OutputArgs, cell, details, print, size_cell, table};
use super::progress::Progress;
use crate::io_abstraction::ClockExt as _;
use crate::types::TenantId;
use hyper::Method;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Pause between two looks at what takes its time.
const POLL: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  T=$(pal tenant create)
  pal tenant create --id 3f1c0a52b8e24d0c9a6be1f7d2c45a10
  pal tenant list -o json
  pal tenant config $T pitr_interval=7days gc_horizon=1000000
  pal tenant detach $T && pal tenant attach $T";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TenantArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub verb: TenantVerb,
}

#[derive(Debug, clap::Subcommand)]
pub enum TenantVerb {
    /// Create an empty tenant and print its id.
    Create {
        /// Id of the new tenant, 32 hexadecimal digits [default: a random one].
        #[arg(long, value_name = "T")]
        id: Option<TenantId>,
    },
    /// List all tenants.
    List,
    /// Show one tenant.
    Get {
        #[arg(value_name = "T")]
        id: TenantId,
    },
    /// Show a tenant's settings, or give it others of its own, in place of all that it had.
    Config {
        #[arg(value_name = "T")]
        id: TenantId,
        /// Settings of the tenant, such as gc_horizon=1000000 or pitr_interval=7days.
        #[arg(value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, Value)>,
        /// Take all settings of its own away.
        #[arg(long, conflicts_with = "settings")]
        clear: bool,
    },
    /// Serve a tenant that remote storage has; waits until it is active.
    Attach {
        #[arg(value_name = "T")]
        id: TenantId,
        /// Settings of its own, in place of those that it had.
        #[arg(value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, Value)>,
    },
    /// Take a tenant off the server; remote storage keeps it.
    Detach {
        #[arg(value_name = "T")]
        id: TenantId,
        /// Also if it is ignored.
        #[arg(long)]
        ignored: bool,
    },
    /// Delete a tenant with all its timelines, for good; waits until it is gone.
    Delete {
        #[arg(value_name = "T")]
        id: TenantId,
    },
}

/// `key=value`; a value that is JSON is that, any other is text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is not KEY=VALUE"))?;
    Ok((key.to_string(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}

pub async fn run(args: &TenantArgs) -> Outcome {
    let env = command_env()?;
    let api = args.endpoint.client(&env)?;
    match &args.verb {
        TenantVerb::Create { id } => {
            let id = id.unwrap_or_else(|| TenantId::generate(&mut env.rng.stream("tenant id")));
            api.change(Method::POST, "/v1/tenant", Some(json!({ "new_tenant_id": id }))).await?;
            if args.output.is_json() { args.output.print(&json!({ "id": id }), |_| String::new()) } else { print(&format!("{id}\n")) }
        }
        TenantVerb::List => args.output.print(&api.get("/v1/tenant").await?, list_text),
        TenantVerb::Get { id } => args.output.print(&api.get(&format!("/v1/tenant/{id}")).await?, get_text),
        TenantVerb::Config { id, settings, clear } => {
            if *clear || !settings.is_empty() {
                let mut body: Map<String, Value> = settings.iter().cloned().collect();
                body.insert("tenant_id".to_string(), json!(id));
                api.change(Method::PUT, "/v1/tenant/config", Some(Value::Object(body))).await?;
            }
            args.output.print(&api.get(&format!("/v1/tenant/{id}/config")).await?, settings_text)
        }
        TenantVerb::Attach { id, settings } => {
            let config: Map<String, Value> = settings.iter().cloned().collect();
            let path = format!("/v1/tenant/{id}");
            api.change(Method::POST, &format!("{path}/attach"), Some(json!({ "config": config }))).await?;
            let progress = Progress::spinner(format!("attaching tenant {id}"));
            let tenant = loop {
                let tenant = api.get(&path).await?;
                match tenant["attachment_status"]["slug"].as_str() {
                    Some("attached") => break tenant,
                    Some("failed") => {
                        let reason = tenant["attachment_status"]["data"]["reason"].as_str().unwrap_or("no reason is told");
                        return Err(CommandError::new(format!("tenant {id} was not attached: {reason}; detach it, then attach it again")));
                    }
                    _ => env.clock.sleep(POLL).await,
                }
            };
            drop(progress);
            args.output.print(&tenant, get_text)
        }
        TenantVerb::Detach { id, ignored } => {
            api.change(Method::POST, &format!("/v1/tenant/{id}/detach?detach_ignored={ignored}"), None).await?;
            args.output.print(&json!({ "id": id }), |_| format!("tenant {id} is detached\n"))
        }
        TenantVerb::Delete { id } => {
            let path = format!("/v1/tenant/{id}");
            api.change(Method::DELETE, &path, None).await?;
            api.wait_until_gone(&path, &format!("deleting tenant {id}")).await?;
            args.output.print(&json!({ "id": id }), |_| format!("tenant {id} is deleted\n"))
        }
    }
}

/// Each setting with its value, and whether it is the tenant's own.
fn settings_text(settings: &Value) -> String {
    let own = &settings["tenant_specific_overrides"];
    let row = |(key, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        vec![key.clone(), text, if own.get(key).is_some() { "tenant" } else { "server" }.to_string()]
    };
    table(&["SETTING", "VALUE", "FROM"], &settings["effective_config"].as_object().into_iter().flatten().map(row).collect::<Vec<_>>())
}

fn state(tenant: &Value) -> String {
    tenant.get("state").map_or_else(|| "-".to_string(), |state| cell(state, "slug"))
}

fn list_text(tenants: &Value) -> String {
    let row = |tenant: &Value| vec![cell(tenant, "id"), state(tenant)];
    table(&["TENANT", "STATE"], &tenants.as_array().into_iter().flatten().map(row).collect::<Vec<_>>())
}

fn get_text(tenant: &Value) -> String {
    details(&[("tenant", cell(tenant, "id")), ("state", state(tenant)), ("size", size_cell(tenant, "current_physical_size"))])
}
