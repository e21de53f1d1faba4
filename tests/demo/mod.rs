//! `pal demo`: it matches, and it leaves nothing behind.

use crate::pal::{command, pal};
use crate::support::Place;
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::io_abstraction::process::{Command, Signal};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// A directory for the demo's own, which its servers can reach.
fn scratch(place: &Place) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = place.path("tmp");
    place.env.disk.create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

#[tokio::test]
async fn everything_matches() {
    let place = Place::new().await;
    let dir = scratch(&place);
    let said = pal(&place, &["demo", "--json"], &[("TMPDIR", dir.to_str().unwrap())]).await;
    let last = said.out.lines().last().unwrap_or_else(|| panic!("{said:?}"));
    let report: Value = serde_json::from_str(last).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(report["postgres"], place.binaries.full_version.as_str());
    let steps = report["steps"].as_array().unwrap();
    assert!(steps.len() > 12 && steps.iter().all(|s| s["name"].is_string() && s["ms"].is_u64() && s["detail"].is_string()), "{report}");
    let then = steps.iter().find(|s| s["name"] == "compare the branch with what was true then").unwrap();
    assert!(then["detail"].as_str().unwrap().contains("the dropped one too"), "{then}");
    assert!(place.env.disk.list(&dir).unwrap().is_empty(), "the directory is removed");
}

#[tokio::test]
async fn an_interrupt_leaves_nothing() {
    let place = Place::new().await;
    let dir = scratch(&place);
    let log = place.path("demo.log");
    let command = Command { log_file: Some(log.clone()), ..command(&place, &["demo"], &[("TMPDIR", dir.to_str().unwrap())]) };
    let mut child = place.env.process.spawn(command).await.unwrap();
    // Servers run once this step is told.
    let give_up = place.env.clock.mono().after(LIMIT);
    let told = || String::from_utf8(palimpsest::io_abstraction::disk::read_file(&*place.env.disk, &log).unwrap_or_default()).unwrap();
    while !told().contains("boot a stock server") {
        assert!(place.env.clock.mono() < give_up, "{}", told());
        place.env.clock.sleep(Duration::from_millis(20)).await;
    }
    child.signal(Signal::Interrupt).unwrap();
    let code = place.env.clock.timeout(LIMIT, child.wait()).await.expect("it stops").unwrap();
    assert_eq!(code, Some(130), "{}", told());
    assert!(told().contains("stopped by SIGINT"), "{}", told());
    assert!(place.env.disk.list(&dir).unwrap().is_empty(), "the directory is removed");
}
