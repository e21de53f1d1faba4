//! Many tenants on one node, and many branches of one timeline.

use crate::os::{Outcome, Scratch, median, resident_memory};
use crate::pal::{Pal, TENANT, TIMELINE};
use crate::report::{Bound, Report};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Resident bytes that an attached idle tenant with one timeline may cost.
const TENANT_BYTES_MAX: f64 = (150_u64 << 10) as f64;
const EMPTY_BYTES_MAX: f64 = (40_u64 << 20) as f64;
const RESTART_MAX: f64 = 5.0;
const LIST_MAX: f64 = 0.2;
/// A block of PostgreSQL's, written and synced: what a branch has to wait for at least.
const SYNCED: [u8; 8192] = [7; 8192];
/// Branches at the beginning and at the end that are compared.
const ENDS: usize = 100;

/// Restart, memory and listing of a node with `count` tenants, each with a fresh cluster.
pub fn idle(scratch: &Scratch, report: &Report, count: usize) -> Outcome<()> {
    let first = scratch.directory("one-tenant")?;
    let pal = Pal::start(&first, &[])?;
    let empty = resident_memory(pal.pid()) as f64;
    pal.create_tenant()?;
    pal.request("POST", &format!("/v1/tenant/{TENANT}/timeline"), Some(json!({ "new_timeline_id": TIMELINE })))?;
    pal.stop()?;
    let data = scratch.directory("tenants")?;
    let one = first.join("remote/tenants").join(TENANT);
    for n in 0..count {
        link_tree(&one, &data.join("remote/tenants").join(format!("{:032x}", n + 1)))?;
    }
    report.add("empty server (bound: 40 MiB)", empty, EMPTY_BYTES_MAX, "bytes", Bound::AtMost(1.0), "resident");
    // The first start takes the tenants over; it is the next ones that count.
    Pal::start(&data, &[])?.stop()?;
    let start = Instant::now();
    let pal = Pal::start(&data, &[])?;
    let took = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let list = pal.request("GET", "/v1/tenant", None)?;
    let listed = start.elapsed().as_secs_f64();
    let active = list.as_array().into_iter().flatten().filter(|tenant| tenant["state"]["slug"] == "Active").count();
    if active != count {
        return Err(format!("{active} of {count} tenants are active after {took:.1} s").into());
    }
    let each = (resident_memory(pal.pid()) as f64 - empty) / count as f64;
    let note = format!("{count} tenants, all active");
    report.add("restart (bound: 5 s)", took, RESTART_MAX, "s", Bound::AtMost(1.0), note.clone());
    report.add("memory of an idle tenant (bound: 150 KiB)", each, TENANT_BYTES_MAX, "bytes", Bound::AtMost(1.0), note.clone());
    report.add("list of tenants (bound: 0.2 s)", listed, LIST_MAX, "s", Bound::AtMost(1.0), note);
    pal.stop()?;
    fs::remove_dir_all(&first)?;
    Ok(fs::remove_dir_all(&data)?)
}

/// The same files under other names: nothing changes a stored object in place.
fn link_tree(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => link_tree(&entry.path(), &target)?,
            false => fs::hard_link(entry.path(), target)?,
        }
    }
    Ok(())
}

/// `count` branches one after the other, each beside a synced write of 8 KiB to the same disk.
pub fn branches(scratch: &Scratch, report: &Report, count: usize) -> Outcome<()> {
    let data = scratch.directory("many-branches")?;
    let pal = Pal::start(&data, &[])?;
    pal.create_tenant()?;
    pal.request("POST", &format!("/v1/tenant/{TENANT}/timeline"), Some(json!({ "new_timeline_id": TIMELINE })))?;
    let mut file = File::create(data.join("synced"))?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for n in 0..count {
        let start = Instant::now();
        file.write_all(&SYNCED)?;
        file.sync_data()?;
        peer.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        pal.branch(TIMELINE, &format!("{:032x}", n + 1))?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let note = format!("{count} branches");
    let ends = ENDS.min(count / 2);
    let (early, late) = (median(ours[..ends].to_vec()), median(ours[count - ends..].to_vec()));
    report.add(
        "branch p50 (peer: synced write of 8 KiB)",
        median(ours.clone()),
        median(peer.clone()),
        "ms",
        Bound::AtMost(3.0),
        note.clone(),
    );
    report.add("branch p99 (peer: the same)", p99(ours), p99(peer), "ms", Bound::AtMost(f64::MAX), note.clone());
    report.add("last branches (peer: first ones)", late, early, "ms", Bound::AtMost(1.5), note);
    pal.stop()?;
    Ok(fs::remove_dir_all(&data)?)
}

fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied().unwrap_or(0.0)
}
