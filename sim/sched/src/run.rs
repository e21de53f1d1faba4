//! One run in this world, from a plan to its report.

use crate::runtime::isolated;
use crate::world::MadWorld;
use palimpsest::io_abstraction::RngSource;
use parking_lot::Mutex;
use sim_core::backend::{self, Done};
use sim_core::harness;
use sim_core::plan::Plan;
use sim_core::probe::Planted;
use sim_core::trace::Trace;
use sim_core::world::{Cluster, World as _};
use std::ops::Range;
use std::sync::Arc;

/// Runs a plan.
pub fn run(plan: Plan, window: Range<u64>, planted: Planted) -> Done {
    let (scenario, seed) = (plan.scenario.clone(), plan.seed);
    // The trace outlives a run that panics.
    let kept: Arc<Mutex<Option<Trace>>> = Arc::default();
    let keep = kept.clone();
    let ran = isolated(seed, move || async move {
        let world = MadWorld::new();
        let trace = Trace::new(world.clock(), window);
        *keep.lock() = Some(trace.clone());
        let source = RngSource::new(u128::from(seed)).child(&plan.scenario).child("run");
        let cluster = Cluster::new(world.clone(), trace, source, planted);
        let ran = harness::run(cluster, plan).await;
        (ran, world.clock().mono().0 / 1_000_000)
    });
    let summary = kept.lock().take().map(|trace| trace.summary());
    backend::finish("sched", (scenario, seed), ran, summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim_core::scenario::Scenario;
    use std::path::Path;

    fn smoke(seed: u64) -> Plan {
        let scenario = Scenario::parse(Path::new("smoke.toml"), include_str!("../../../scenarios/smoke.toml")).expect("parses");
        Plan::expand(&scenario, seed)
    }

    #[test]
    fn smoke_passes_and_repeats_itself() {
        let (first, second) = (run(smoke(4), 0..0, None).report, run(smoke(4), 0..0, None).report);
        assert_eq!(first.violation, None, "{:#?}", first.recent);
        assert_eq!((first.digest, first.events), (second.digest, second.events));
        assert!(first.counts.get("audit-ok").is_some_and(|answers| *answers > 100), "{:?}", first.counts);
    }

    #[test]
    fn a_plan_without_its_faults_is_another_run_with_the_same_wal() {
        let plan = smoke(3);
        let calm = Plan { faults: Vec::new(), ..plan.clone() };
        let (with, without) = (run(plan, 0..0, None).report, run(calm, 0..0, None).report);
        assert_eq!((with.violation, without.violation), (None, None));
        assert_eq!(with.counts.get("wal-bytes"), without.counts.get("wal-bytes"));
        assert!(!without.counts.keys().any(|what| what.starts_with("crash-")), "{:?}", without.counts);
    }
}
