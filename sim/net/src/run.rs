//! One run in this world, from a plan to its report.

use crate::driver::isolated;
use sim_core::backend::{self, Done};
use sim_core::plan::Plan;
use sim_core::probe::Planted;
use std::ops::Range;

/// Runs a plan.
pub fn run(plan: Plan, window: Range<u64>, planted: Planted) -> Done {
    let (seed, network) = (plan.seed, plan.knobs.network.clone());
    backend::simulate("net", plan, window, planted, |body| isolated(seed, &network, move |world| body(world)))
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
    fn a_run_does_not_depend_on_what_ran_before_it() {
        let text = include_str!("../../../scenarios/connection_storm.toml");
        let scenario = Scenario::parse(Path::new("connection_storm.toml"), text).expect("parses");
        // Its crash cuts off a crowd of clients: the order in which the machine's tasks are dropped shows.
        let digest = || run(Plan::expand(&scenario, 7), 0..0, None).report.digest;
        let first = digest();
        for seed in 0..3 {
            // Each takes another number of the process-wide ones that tokio gives out.
            run(Plan { faults: Vec::new(), ..Plan::expand(&scenario, seed).calm() }, 0..0, None);
            assert_eq!(digest(), first, "after seed {seed}");
        }
    }
}
