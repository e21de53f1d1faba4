//! One small run per scenario, told and compared with `snapshots/simulation/net`: a change of behaviour shows in review.

use crate::run::run;
use sim_core::plan::Plan;
use sim_core::samples;
use sim_core::scenario::Scenario;
use std::path::Path;

fn scenarios() -> Vec<Scenario> {
    samples::scenarios(Path::new("../../scenarios"), "net")
}

#[test]
fn every_scenario_has_the_story_that_was_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/simulation/net");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for scenario in scenarios() {
        settings.bind(|| insta::assert_snapshot!(scenario.name.as_str(), samples::told(&scenario, run)));
    }
}

#[test]
fn nothing_is_warned_of_where_nothing_fails() {
    scenarios().iter().for_each(|scenario| samples::must_be_quiet(scenario, run));
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
