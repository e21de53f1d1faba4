//! One small run per scenario, told and compared with `snapshots/simulation/net`: a change of behaviour shows in review.

use crate::run::run;
use sim_core::plan::Plan;
use sim_core::scenario::Scenario;
use sim_core::story;
use std::path::Path;

fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Scenario::folder(Path::new("../../scenarios")).expect("the tests of a package run in its folder");
    scenarios.retain(|scenario| scenario.worlds.iter().any(|world| world == "net"));
    scenarios
}

#[test]
fn every_scenario_has_the_story_that_was_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/simulation/net");
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

#[test]
fn a_warning_where_nothing_should_fail_is_a_violation() {
    let mut plan = Plan::sample(&scenarios()[0]).calm();
    // No scenario says so: a network so slow that an answer sometimes takes longer than the node waits for one.
    plan.knobs.network.latency_ms_max = 3_000;
    plan.knobs.network.tick_ms = 50;
    plan.knobs.walsender.keepalive_ms = 500;
    plan.knobs.pageserver.idle_timeout_ms = 2_000;
    plan.knobs.final_wipe = false;
    plan.ops.clear();
    let violation = run(plan, 0..0, None).report.violation.expect("the node warns");
    assert!(violation.oracle == "LG-1" && violation.detail.contains("palimpsest::wal::receiver: WAL stream ended"), "{violation:?}");
}
