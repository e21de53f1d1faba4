//! One run in this world, from a plan to its report.

use crate::runtime::isolated;
use crate::world::MadWorld;
use sim_core::backend::{self, Done};
use sim_core::plan::Plan;
use sim_core::probe::Planted;
use sim_core::report::Report;
use std::ops::Range;

/// Runs a plan.
pub fn run(plan: Plan, window: Range<u64>, planted: Planted) -> Done {
    let seed = plan.seed;
    backend::simulate("sched", plan, window, planted, |body| isolated(seed, move || body(MadWorld::new())))
}

/// Runs the plan that the bytes stand for.
///
/// Panics: with the plan, if an oracle objects. `cargo sim run --world sched --scenario smoke --plan FILE` runs it again.
pub fn must_pass(bytes: &[u8]) -> Report {
    let plan = Plan::from_bytes(bytes);
    let report = run(plan.clone(), 0..0, None).report;
    if let Some(violation) = &report.violation {
        let last = report.recent.join("\n");
        panic!("{}\n{last}\nviolated {}: {}", plan.print(), violation.oracle, violation.detail);
    }
    report
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
