//! `pal timeline`: branches of a tenant's history, and the servers whose WAL they follow.

use super::client::{ApiClient, EndpointArgs, command_env};
use super::output::{CommandError, Exit, Outcome, OutputArgs, cell, details, print, size_cell, table};
use super::progress::Progress;
use crate::pg::version::PgVersion;
use crate::types::timestamp::PgTimestamp;
use crate::types::{Lsn, TenantId, TimelineId};
use hyper::Method;
use serde_json::{Value, json};
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  A fresh cluster, and what a stock server needs to continue it:
    TL=$(pal timeline create --tenant $T --pg-version 15)
    pal export --tenant $T --timeline $TL --as first-node -o /srv/pg/data

  Follow that server's WAL (it needs wal_level=replica or higher):
    pal timeline follow --tenant $T --timeline $TL 'host=127.0.0.1 port=5432 user=postgres'

  A branch of how things were at an LSN, and before a moment:
    pal timeline create --tenant $T --ancestor $TL --at 0/1A2B3C8
    pal timeline create --tenant $T --ancestor $TL --at 2026-11-21T18:30:00Z";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TimelineArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub verb: TimelineVerb,
}

/// One timeline of one tenant.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct TimelineOf {
    /// Tenant id, 32 hexadecimal digits.
    #[arg(long, value_name = "T")]
    pub tenant: TenantId,
    /// Timeline id, 32 hexadecimal digits.
    #[arg(long, value_name = "TL")]
    pub timeline: TimelineId,
}

impl TimelineOf {
    pub fn path(&self) -> String {
        format!("/v1/tenant/{}/timeline/{}", self.tenant, self.timeline)
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum TimelineVerb {
    /// Create a fresh cluster or a branch, and print the timeline's id.
    Create(CreateArgs),
    /// List a tenant's timelines.
    List {
        /// Tenant id, 32 hexadecimal digits.
        #[arg(long, value_name = "T")]
        tenant: TenantId,
    },
    /// Show one timeline.
    Get(TimelineOf),
    /// Stream WAL from a primary into a timeline, now and after restarts.
    Follow {
        #[command(flatten)]
        of: TimelineOf,
        /// How to connect, as libpq reads it: `host=… port=… user=…` or `postgresql://…`.
        #[arg(value_name = "CONNSTR")]
        connstr: String,
    },
    /// Stop streaming into a timeline.
    Unfollow(TimelineOf),
    /// Delete a timeline that has no branches, for good; waits until it is gone.
    Delete(TimelineOf),
}

/// A place in a timeline's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Lsn(Lsn),
    Time(PgTimestamp),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<At, String> {
        if let Ok(lsn) = text.parse() {
            return Ok(At::Lsn(lsn));
        }
        let neither = "is neither an LSN, as in 0/1A2B3C8, nor a time, as in 2026-11-21T18:30:00Z or 2026-11-21T20:30:00+02:00";
        text.parse().map(At::Time).map_err(|_| format!("\"{text}\" {neither}"))
    }
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Tenant id, 32 hexadecimal digits.
    #[arg(long, value_name = "T")]
    pub tenant: TenantId,
    /// Id of the new timeline, 32 hexadecimal digits [default: a random one].
    #[arg(long, value_name = "TL")]
    pub id: Option<TimelineId>,
    /// Branch off this timeline instead of making a fresh cluster.
    #[arg(long, value_name = "TL")]
    pub ancestor: Option<TimelineId>,
    /// Where to branch: an LSN, waited for if it has not arrived yet, or a time in RFC 3339, which leaves out every commit from then
    /// on [default: the ancestor's last record].
    #[arg(long, value_name = "LSN|TIME", requires = "ancestor")]
    pub at: Option<At>,
    /// Major version of a fresh cluster, 14 to 18 [default: 15]; a branch has its ancestor's.
    #[arg(long, value_name = "N", value_parser = parse_version)]
    pub pg_version: Option<PgVersion>,
}

/// Reads a major version.
pub fn parse_version(text: &str) -> Result<PgVersion, String> {
    let major = text.parse::<u32>().map_err(|_| format!("\"{text}\" is not a major version from 14 to 18"))?;
    PgVersion::try_from(major).map_err(|error| error.to_string())
}

pub async fn run(args: &TimelineArgs) -> Outcome {
    let env = command_env()?;
    let api = args.endpoint.client(&env)?;
    match &args.verb {
        TimelineVerb::Create(create) => {
            let id = create.id.unwrap_or_else(|| TimelineId::generate(&mut env.rng.stream("timeline id")));
            let waiting = Progress::spinner(if create.ancestor.is_some() { "branching" } else { "making a cluster" });
            let path = format!("/v1/tenant/{}/timeline", create.tenant);
            let lsn = match (create.at, create.ancestor) {
                (Some(At::Time(time)), Some(ancestor)) => {
                    Some(lsn_of(&api, &TimelineOf { tenant: create.tenant, timeline: ancestor }, time).await?)
                }
                (Some(At::Lsn(lsn)), _) => Some(json!(lsn)),
                _ => None,
            };
            let info = api.change(Method::POST, &path, Some(create_body(create, id, lsn))).await?;
            drop(waiting);
            if args.output.is_json() { args.output.print(&info, get_text) } else { print(&format!("{id}\n")) }
        }
        TimelineVerb::List { tenant } => args.output.print(&api.get(&format!("/v1/tenant/{tenant}/timeline")).await?, list_text),
        TimelineVerb::Get(of) => args.output.print(&api.get(&of.path()).await?, get_text),
        TimelineVerb::Follow { of, connstr } => {
            let body = json!({ "connstr": connstr });
            args.output.print(&api.change(Method::PUT, &format!("{}/wal_source", of.path()), Some(body)).await?, get_text)
        }
        TimelineVerb::Unfollow(of) => {
            args.output.print(&api.change(Method::DELETE, &format!("{}/wal_source", of.path()), None).await?, get_text)
        }
        TimelineVerb::Delete(of) => {
            api.change(Method::DELETE, &of.path(), None).await?;
            api.wait_until_gone(&of.path(), &format!("deleting timeline {}", of.timeline)).await?;
            let gone = json!({ "tenant_id": of.tenant, "timeline_id": of.timeline });
            args.output.print(&gone, |_| format!("timeline {} is deleted\n", of.timeline))
        }
    }
}

/// The LSN before which every commit is earlier than `time`.
async fn lsn_of(api: &ApiClient, of: &TimelineOf, time: PgTimestamp) -> Result<Value, CommandError> {
    let answer = api.get(&format!("{}/get_lsn_by_timestamp?version=2&timestamp={time}", of.path())).await?;
    let why = match answer["kind"].as_str() {
        Some("present" | "future") => return Ok(answer["lsn"].clone()),
        Some("nodata") => "no commit is known there",
        _ => "its first commit that is kept is not before that",
    };
    let first = cell(&answer, "lsn");
    Err(CommandError::with(
        Exit::Invalid,
        format!("timeline {} cannot be branched at {time}: {why}; the first LSN that can be read is {first}", of.timeline),
    ))
}

/// Body of the request: absent fields are left out.
fn create_body(args: &CreateArgs, id: TimelineId, lsn: Option<Value>) -> Value {
    let mut body = json!({ "new_timeline_id": id });
    if let Some(ancestor) = args.ancestor {
        body["ancestor_timeline_id"] = json!(ancestor);
    }
    if let Some(lsn) = lsn {
        body["ancestor_start_lsn"] = lsn;
    }
    if let Some(version) = args.pg_version {
        body["pg_version"] = json!(version.major());
    }
    body
}

fn list_text(timelines: &Value) -> String {
    let row = |timeline: &Value| {
        let fields = ["timeline_id", "ancestor_timeline_id", "ancestor_lsn", "last_record_lsn", "pg_version"];
        let mut row: Vec<String> = fields.iter().map(|field| cell(timeline, field)).collect();
        let status = match timeline.get("reason").and_then(Value::as_str) {
            Some(reason) => format!("Broken: {reason}"),
            None => cell(timeline, "walreceiver_status"),
        };
        row.extend([size_cell(timeline, "current_physical_size"), status]);
        row
    };
    let header = ["TIMELINE", "ANCESTOR", "AT", "LAST RECORD", "PG", "SIZE", "RECEIVER"];
    table(&header, &timelines.as_array().into_iter().flatten().map(row).collect::<Vec<_>>())
}

/// Everything a person wants to know of one timeline.
pub fn get_text(timeline: &Value) -> String {
    let text = |field: &str| cell(timeline, field);
    details(&[
        ("timeline", text("timeline_id")),
        ("tenant", text("tenant_id")),
        ("state", text("state")),
        ("postgres", text("pg_version")),
        ("system identifier", text("system_identifier")),
        ("ancestor", text("ancestor_timeline_id")),
        ("branched at", text("ancestor_lsn")),
        ("first LSN", text("initdb_lsn")),
        ("last record", text("last_record_lsn")),
        ("received", text("last_received_msg_lsn")),
        ("on local disk", text("disk_consistent_lsn")),
        ("in remote storage", text("remote_consistent_lsn")),
        ("readable from", text("latest_gc_cutoff_lsn")),
        ("size", size_cell(timeline, "current_physical_size")),
        ("source", text("wal_source_connstr")),
        ("receiver", text("walreceiver_status")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_hold_what_was_given() {
        let id = TimelineId([1; 16]);
        let args = |ancestor, pg_version| CreateArgs { tenant: TenantId([2; 16]), id: None, ancestor, at: None, pg_version };
        assert_eq!(create_body(&args(None, None), id, None), json!({ "new_timeline_id": id }));
        let branch = create_body(&args(Some(TimelineId([3; 16])), Some(PgVersion::V14)), id, Some(json!(Lsn(0x10))));
        let want =
            json!({ "new_timeline_id": id, "ancestor_timeline_id": TimelineId([3; 16]), "ancestor_start_lsn": "0/10", "pg_version": 14 });
        assert_eq!(branch, want);
    }

    #[test]
    fn places_in_history() {
        assert_eq!("1/A0".parse(), Ok(At::Lsn(Lsn(0x1_0000_00A0))));
        assert_eq!("2000-01-01T01:00:00+01:00".parse(), Ok(At::Time(PgTimestamp(0))));
        assert!("noon".parse::<At>().unwrap_err().contains("neither an LSN"));
    }
}
