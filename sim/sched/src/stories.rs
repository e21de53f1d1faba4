//! One small run per scenario, told and compared with `snapshots/simulation/sched`: a change of behaviour shows in review.

use crate::run::run;
use sim_core::samples;
use sim_core::scenario::Scenario;
use std::path::Path;

fn scenarios() -> Vec<Scenario> {
    samples::scenarios(Path::new("../../scenarios"), "sched")
}

#[test]
fn every_scenario_has_the_story_that_was_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/simulation/sched");
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
