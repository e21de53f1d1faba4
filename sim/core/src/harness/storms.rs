//! Crowds of clients: they connect at once, ask one thing each, and go without a word. Some never say anything.

use super::readers::{self, choose};
use super::{PAGESERVER, Scene};
use crate::event;
use crate::node;
use crate::plan::{OpKind, ReadKind};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{ClockExt as _, Mono};
use rand_core::Rng as _;
use std::time::Duration;

/// Longest time that a silent client stays.
const SILENCE_MS: u64 = 3_000;

pub fn start(scene: &Scene, start: Mono) {
    let inner = scene.clone();
    scene.client.tasks.spawn("storms", async move {
        for op in &inner.plan.ops {
            if let OpKind::Storm { clients, pick } = op.kind {
                inner.client.clock.sleep_until(start.after(Duration::from_millis(op.at_ms))).await;
                event!(inner.client_trace(), "op", "id={} storm={clients}", op.id);
                inner.count("storm");
                for number in 0..clients {
                    let (scene, id) = (inner.clone(), op.id);
                    inner.client.tasks.spawn(&format!("storm-{id}-{number}"), async move {
                        let outcome = visit(&scene, pick, u64::from(number)).await;
                        event!(scene.client_trace(), "reply", "id={id} visit={number} outcome={outcome}");
                    });
                }
            }
        }
    });
}

/// Gives the outcome's name.
async fn visit(scene: &Scene, pick: u64, number: u64) -> &'static str {
    let mut rng = scene.cluster.source.stream(&format!("visit-{pick}-{number}"));
    if below(&mut rng, 5) == 0 {
        let connected = scene.client.net.connect(&node::pages_address(PAGESERVER)).await;
        scene.client.clock.sleep(Duration::from_millis(below(&mut rng, SILENCE_MS))).await;
        drop(connected);
        return "silent";
    }
    let Some(question) = choose(scene, ReadKind::PageAtVersion, rng.next_u64()) else { return "nothing-to-ask" };
    let outcome = readers::ask(scene, &mut None, question).await;
    scene.count(&format!("storm-{outcome}"));
    outcome
}
