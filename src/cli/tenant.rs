//! `pal tenant`: sets of timelines that share history.

use super::client::{EndpointArgs, command_env};
use super::output::{Outcome, OutputArgs, cell, details, print, size_cell, table};
use crate::types::TenantId;
use hyper::Method;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  T=$(pal tenant create)
  pal tenant create --id 3f1c0a52b8e24d0c9a6be1f7d2c45a10
  pal tenant list -o json";

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
    }
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
