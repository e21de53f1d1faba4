//! One small run per scenario of a world: what reviews read, and what must be quiet where nothing fails.

use crate::backend::Run;
use crate::plan::Plan;
use crate::scenario::Scenario;
use crate::story;
use std::path::Path;

/// The scenarios of a world. Panics: `folder` does not hold them.
pub fn scenarios(folder: &Path, world: &str) -> Vec<Scenario> {
    let mut scenarios = Scenario::folder(folder).expect("a folder of scenarios");
    scenarios.retain(|scenario| scenario.worlds.iter().any(|w| w == world));
    scenarios
}

/// Runs the sample and tells its story. Panics: an oracle was violated.
pub fn told(scenario: &Scenario, run: Run) -> String {
    let plan = Plan::sample(scenario);
    let head = format!("{}, seed {}: {}", scenario.name, plan.seed, scenario.summary);
    let done = run(plan, 0..u64::MAX, None);
    assert_eq!(done.report.violation, None, "{head}: {:#?}", done.report.recent);
    format!("{head}\n\n{}", story::tell(&done.text))
}

/// Runs the sample without faults. Panics: an oracle was violated, or the log has a warning.
pub fn must_be_quiet(scenario: &Scenario, run: Run) {
    let report = run(Plan::sample(scenario).calm(), 0..0, None).report;
    assert_eq!((report.violation, report.counts.get("log-warnings")), (None, Some(&0)), "{}", scenario.name);
}
