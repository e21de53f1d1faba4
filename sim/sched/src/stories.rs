//! One small run per scenario, told and compared with `snapshots/simulation/sched`: a change of behaviour shows in review.

use crate::run::run;
use sim_core::plan::Plan;
use sim_core::scenario::Scenario;
use sim_core::story;
use std::path::Path;

fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Scenario::folder(Path::new("../../scenarios")).expect("the tests of a package run in its folder");
    scenarios.retain(|scenario| scenario.worlds.iter().any(|world| world == "sched"));
    scenarios
}

#[test]
fn every_scenario_has_the_story_that_was_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/simulation/sched");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for scenario in scenarios() {
        let plan = Plan::sample(&scenario);
        let head = format!("{}, seed {}: {}", scenario.name, plan.seed, scenario.summary);
        let done = run(plan, 0..u64::MAX, None);
        assert_eq!(done.report.violation, None, "{head}: {:#?}", done.report.recent);
        let story = format!("{head}\n\n{}", story::tell(&done.text));
        settings.bind(|| insta::assert_snapshot!(scenario.name.as_str(), story));
    }
}

#[test]
fn nothing_is_warned_of_where_nothing_fails() {
    for scenario in scenarios() {
        let report = run(Plan::sample(&scenario).calm(), 0..0, None).report;
        assert_eq!((report.violation, report.counts.get("log-warnings")), (None, Some(&0)), "{}", scenario.name);
    }
}
