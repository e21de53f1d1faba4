//! The crash at a counted operation, from the start of the run on: so the setup is crashed as well, which has no other faults.

use super::{PAGESERVER, Scene};
use crate::plan::FaultKind;
use palimpsest::io_abstraction::ClockExt as _;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(1);

/// Sets the fuse if the plan has one, and brings the node back after it.
pub fn light(scene: &Scene) {
    let crash = scene.plan.faults.iter().find_map(|fault| match fault.kind {
        FaultKind::CrashAt { operation, kind, down_ms } => Some((operation, kind, down_ms)),
        _ => None,
    });
    let fuse = scene.cluster.disk(PAGESERVER).fuse();
    fuse.set(crash.map_or(0, |(operation, ..)| operation));
    let Some((_, kind, down_ms)) = crash else { return };
    let inner = scene.clone();
    scene.client.tasks.spawn("fuse", async move {
        while !fuse.blown() {
            inner.client.clock.sleep(LOOK).await;
        }
        if inner.crash_node(kind) {
            inner.count("crash-at-operation");
        }
        fuse.renew();
        inner.client.clock.sleep(Duration::from_millis(down_ms)).await;
        if !inner.progress.lock().imported {
            inner.restore_data_dir();
        }
        inner.start_node();
    });
}
