//! The steps of the demo, in order. Every one reaches the pageserver as any client would: by HTTP and by the page service.

use super::super::access::AccessArgs;
use super::super::client::PageServer;
use super::super::export::{Backup, Form, to_directory};
use super::super::output::{CommandError, cell, human_bytes};
use super::super::progress::Progress;
use super::load::{self, CLIENTS, DROPPED, Figures, text};
use super::report::Report;
use super::stage::{Role, Stage};
use crate::io_abstraction::ClockExt as _;
use crate::io_abstraction::process::Command;
use crate::pg::version::PgVersion;
use crate::postgres::{Binaries, SqlClient, binaries};
use crate::types::Lsn;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long WAL may take from a server to the pageserver.
const WAL_LIMIT: Duration = Duration::from_secs(60);
const WAL_POLL: Duration = Duration::from_millis(20);
/// Rounds of load before the branch point and after it.
const ROUNDS_BEFORE: u32 = 40;
const ROUNDS_AFTER: u32 = 20;

type Step<T> = Result<(T, String), CommandError>;

pub async fn all(stage: &mut Stage, report: &mut Report, version: PgVersion) -> Result<(), CommandError> {
    let binaries = report.step("find PostgreSQL", find(stage, version)).await?;
    report.postgres = binaries.full_version.clone();
    report.step("start a pageserver", start_node(stage, &binaries)).await?;
    report.step("create a tenant and a root timeline", create_root(stage, version)).await?;
    report.step("boot a stock server on the root", boot(stage, Role::Primary, None, &binaries)).await?;
    report.step("follow its WAL", follow(stage, Role::Primary)).await?;
    report.step("load", write(stage, 0..ROUNDS_BEFORE, true)).await?;
    let (then, at) = report.step("remember this moment", remember(stage)).await?;
    report.step("more load, a table dropped, another truncated", diverge(stage)).await?;
    let now = report.step("look at the primary", look(stage, Role::Primary)).await?;
    report.step("wait until the pageserver has its WAL", catch_up(stage, Role::Primary)).await?;
    report.step("branch at the remembered moment", branch(stage, at)).await?;
    report.step("boot a second stock server on the branch", boot(stage, Role::Branch, Some(at), &binaries)).await?;
    report.step("follow the branch's WAL", follow(stage, Role::Branch)).await?;
    report.step("compare the branch with what was true then", compare(stage, Role::Branch, &then)).await?;
    report.step("check every index of the branch (amcheck)", check_indexes(stage)).await?;
    report.step("check every page of the branch (pg_checksums)", check_pages(stage, &binaries)).await?;
    report.step("write on the branch, which goes its own way", write_on_branch(stage)).await?;
    report.step("compare the primary with what is true now", compare(stage, Role::Primary, &now)).await?;
    Ok(())
}

async fn sql(stage: &Stage, role: Role) -> Result<SqlClient, CommandError> {
    stage.server(role)?.sql().await.map_err(CommandError::new)
}

async fn find(stage: &Stage, version: PgVersion) -> Step<Binaries> {
    let found = binaries::find_or_install(&stage.env, &BTreeMap::new(), version).await.map_err(CommandError::new)?;
    let detail = format!("{} in {}", found.full_version, found.bin_dir.display());
    Ok((found, detail))
}

async fn start_node(stage: &mut Stage, binaries: &Binaries) -> Step<()> {
    stage.start_node(binaries).await?;
    let node = stage.node()?;
    Ok(((), format!("http {}, pages {}", node.http_address(), node.pages_address())))
}

fn path(stage: &Stage, role: Role) -> String {
    format!("/v1/tenant/{}/timeline/{}", stage.tenant, stage.timeline(role))
}

async fn create_root(stage: &Stage, version: PgVersion) -> Step<()> {
    let api = stage.api()?;
    api.change(Method::POST, "/v1/tenant", Some(json!({ "new_tenant_id": stage.tenant }))).await?;
    let body = json!({ "new_timeline_id": stage.root, "pg_version": version.major() });
    let info = api.change(Method::POST, &format!("/v1/tenant/{}/timeline", stage.tenant), Some(body)).await?;
    Ok(((), format!("timeline {} from initdb, at {}", stage.root, cell(&info, "last_record_lsn"))))
}

/// Exports the role's timeline as its first server and starts that.
async fn boot(stage: &mut Stage, role: Role, lsn: Option<Lsn>, binaries: &Binaries) -> Step<()> {
    let backup = Backup { tenant: stage.tenant, timeline: stage.timeline(role), lsn, form: Form::FirstNode };
    let server = PageServer { address: stage.node()?.pages_address().clone(), access: AccessArgs::default() };
    let progress = Progress::stream("exporting");
    // The files live for a minute: no need to wait for the disk.
    let made = to_directory(&stage.env, &server, &backup, &stage.data_dir(role), false, &progress, std::future::pending()).await?;
    drop(progress);
    stage.start_server(role, binaries).await?;
    Ok(((), format!("{} files, {} exported over the page service", made.files, human_bytes(made.bytes))))
}

async fn follow(stage: &Stage, role: Role) -> Step<()> {
    let source = stage.server(role)?.conn_str();
    let body = json!({ "connstr": source.to_string() });
    stage.api()?.change(Method::PUT, &format!("{}/wal_source", path(stage, role)), Some(body)).await?;
    Ok(((), "physical replication, acknowledged when durable".to_string()))
}

/// Clients write at the same time, each on its own connection.
async fn write(stage: &Stage, rounds: std::ops::Range<u32>, first: bool) -> Step<()> {
    let mut main = sql(stage, Role::Primary).await?;
    let before = wal_position(&mut main).await?;
    if first {
        load::set_up(&mut main).await?;
    }
    let client = |number| {
        let rounds = rounds.clone();
        async move {
            let mut sql = sql(stage, Role::Primary).await?;
            load::run_client(&mut sql, number, rounds).await?;
            sql.close().await;
            Ok::<_, CommandError>(())
        }
    };
    futures::future::try_join_all((0..CLIENTS).map(client)).await?;
    let wal = wal_position(&mut main).await?.distance_from(before);
    main.close().await;
    Ok(((), format!("{CLIENTS} clients, {} rounds each, {} of WAL", rounds.len(), human_bytes(wal))))
}

async fn wal_position(sql: &mut SqlClient) -> Result<Lsn, CommandError> {
    text(sql, "SELECT pg_current_wal_flush_lsn()").await?.parse().map_err(CommandError::new)
}

/// Figures and the LSN at which they hold.
async fn remember(stage: &Stage) -> Step<(Figures, Lsn)> {
    let mut sql = sql(stage, Role::Primary).await?;
    let figures = Figures::take(&mut sql).await?;
    let at = wal_position(&mut sql).await?;
    sql.close().await;
    let detail = format!("LSN {at}, {} rows in {} tables", figures.row_count(), figures.rows.len());
    Ok(((figures, at), detail))
}

async fn diverge(stage: &Stage) -> Step<()> {
    let (_, detail) = write(stage, ROUNDS_BEFORE..ROUNDS_BEFORE + ROUNDS_AFTER, false).await?;
    let mut sql = sql(stage, Role::Primary).await?;
    load::diverge(&mut sql).await?;
    sql.close().await;
    Ok(((), detail))
}

async fn look(stage: &Stage, role: Role) -> Step<Figures> {
    let mut sql = sql(stage, role).await?;
    let figures = Figures::take(&mut sql).await?;
    sql.close().await;
    let detail = format!("{} rows in {} tables", figures.row_count(), figures.rows.len());
    Ok((figures, detail))
}

/// Waits until the role's timeline holds all that its server has flushed.
async fn catch_up(stage: &Stage, role: Role) -> Step<()> {
    let mut sql = sql(stage, role).await?;
    let target = wal_position(&mut sql).await?;
    sql.close().await;
    let (api, clock) = (stage.api()?, &stage.env.clock);
    let give_up = clock.mono().after(WAL_LIMIT);
    loop {
        let info = api.get(&path(stage, role)).await?;
        let reached = lsn(&info, "last_record_lsn")?;
        if reached >= target {
            return Ok(((), format!("up to {reached}")));
        }
        if clock.mono() > give_up {
            let status = cell(&info, "walreceiver_status");
            return Err(CommandError::new(format!(
                "the pageserver stands at {reached} and the server at {target} after {WAL_LIMIT:?}; receiver: {status}"
            )));
        }
        clock.sleep(WAL_POLL).await;
    }
}

fn lsn(info: &Value, field: &str) -> Result<Lsn, CommandError> {
    cell(info, field).parse().map_err(CommandError::new)
}

async fn branch(stage: &Stage, at: Lsn) -> Step<()> {
    let body = json!({ "new_timeline_id": stage.branch, "ancestor_timeline_id": stage.root, "ancestor_start_lsn": at });
    let info = stage.api()?.change(Method::POST, &format!("/v1/tenant/{}/timeline", stage.tenant), Some(body)).await?;
    Ok(((), format!("timeline {} at {}", stage.branch, cell(&info, "ancestor_lsn"))))
}

async fn compare(stage: &Stage, role: Role, want: &Figures) -> Step<()> {
    let mut sql = sql(stage, role).await?;
    let found = Figures::take(&mut sql).await?;
    want.compare(&found)?;
    // A sequence is logged ahead of its use; it must never give a number twice.
    let (last, next) = ("SELECT coalesce(max(id), 0) FROM transfers", "SELECT nextval('transfers_id_seq')");
    let (last, next) = (text(&mut sql, last).await?, text(&mut sql, next).await?);
    if next.parse::<i64>().ok() <= last.parse::<i64>().ok() {
        return Err(CommandError::new(format!("the sequence of transfers gave {next} after {last}")));
    }
    sql.close().await;
    let dropped = if found.rows.contains_key(DROPPED) { ", the dropped one too" } else { "" };
    Ok(((), format!("{} rows in {} tables{dropped}", found.row_count(), found.rows.len())))
}

async fn check_indexes(stage: &Stage) -> Step<()> {
    let mut sql = sql(stage, Role::Branch).await?;
    sql.set_limit(WAL_LIMIT);
    let there = text(&mut sql, "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'").await?;
    if there == "0" {
        return Ok(((), "left out: this installation has no amcheck".to_string()));
    }
    sql.execute("CREATE EXTENSION IF NOT EXISTS amcheck").await.map_err(CommandError::new)?;
    let checked = "SELECT count(*) FROM (SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid \
                   JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND i.indisready AND i.indisvalid AND c.relpersistence = 'p' OFFSET 0) checked";
    let count = text(&mut sql, checked).await?;
    sql.close().await;
    Ok(((), format!("{count} indexes, with all their rows")))
}

/// `pg_checksums` wants a stopped server; the branch starts again afterwards.
async fn check_pages(stage: &mut Stage, binaries: &Binaries) -> Step<()> {
    let Some(program) = binaries.tool(&stage.env, "pg_checksums") else {
        return Ok(((), "left out: this installation has no pg_checksums".to_string()));
    };
    stage.stop_server(Role::Branch).await?;
    let args = vec!["--check".to_string(), "-D".to_string(), stage.data_dir(Role::Branch).display().to_string()];
    let command = Command { program, args, run_as: stage.run_as.clone(), ..Command::default() };
    let output = stage.env.process.run(command).await.map_err(|e| CommandError::new(format!("run pg_checksums: {e}")))?;
    if !output.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(CommandError::new(format!("pg_checksums found damage: {}", said.trim())));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let blocks = said.lines().find_map(|line| line.strip_prefix("Blocks scanned:")).unwrap_or_default().trim().to_string();
    stage.start_server(Role::Branch, binaries).await?;
    // It has a socket of a new name.
    follow(stage, Role::Branch).await?;
    Ok(((), format!("{blocks} blocks, no bad checksum")))
}

/// The branch lives on by itself: it is written to, and its timeline follows.
async fn write_on_branch(stage: &Stage) -> Step<()> {
    let mut sql = sql(stage, Role::Branch).await?;
    sql.execute("UPDATE drafts SET body = 'written on the branch'; DELETE FROM accounts WHERE id NOT IN (SELECT account FROM transfers)")
        .await
        .map_err(CommandError::new)?;
    sql.close().await;
    let ((), reached) = catch_up(stage, Role::Branch).await?;
    Ok(((), format!("its timeline has its WAL {reached}")))
}
