//! `cargo sim check`: the same seed in two processes must give the same digest, and pass.

use crate::backend::{self, Ask, Backend, Backends, Build};
use crate::diff;
use crate::sweep::print_failure;
use crate::worlds;
use crate::{CheckArgs, Failure};
use sim_core::report::{CHECKPOINT_EVENTS, Report};
use std::collections::BTreeMap;
use std::ops::Range;

/// Seeds per process in the second run: other ones than in the first, so that what a run leaves in its process shows too.
const SECOND_BATCH: u64 = 7;

/// What both runs of a seed came from.
struct Pair<'a> {
    first: &'a Backend,
    second: &'a Backend,
}

pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let run = &args.run;
    let seeds = run.seeds(0..20);
    let release = Build { planted: run.planted.is_some(), debug: false };
    let scenarios = worlds::scenarios(run.scenario.as_deref())?;
    let first = backend::build(release)?;
    let debug: Option<Backends> = args.debug.then(|| backend::build(Build { debug: true, ..release })).transpose()?;
    let (mut pairs, mut failed) = (0, 0);
    for loaded in &scenarios {
        for world in worlds::worlds(&loaded.scenario, run.world.as_deref())? {
            let pair = Pair { first: first.of(&world)?, second: debug.as_ref().unwrap_or(&first).of(&world)? };
            let ask = Ask { checkpoints: true, ..Ask::new(loaded, run, seeds.clone()) };
            failed += compare(&pair, &ask, run.jobs)?;
            pairs += seeds.end - seeds.start;
            let how = if args.debug { "once optimised and once not" } else { "in two processes" };
            println!("{:<20} {world:<6} {:>4} seeds, each {how}: no difference", loaded.scenario.name, seeds.end - seeds.start);
        }
    }
    println!("{pairs} seeds run twice: 0 differences, {failed} failed");
    if failed > 0 { Err(Failure::Violated) } else { Ok(()) }
}

/// Runs the seeds twice; gives how many failed.
fn compare(pair: &Pair<'_>, ask: &Ask, jobs: usize) -> Result<u64, Failure> {
    let mut first = BTreeMap::new();
    pair.first.sweep(ask, jobs, |report| {
        first.insert(report.seed, report);
        Ok(true)
    })?;
    let mut failed = 0;
    let again = Ask { batch: SECOND_BATCH, ..ask.clone() };
    pair.second.sweep(&again, jobs, |report| {
        let before = first.get(&report.seed).ok_or_else(|| Failure::Harness(format!("seed {} ran once only", report.seed)))?;
        if (&before.digest, before.events) != (&report.digest, report.events) {
            return Err(difference(pair, ask, before, &report));
        }
        if report.violation.is_some() {
            failed += 1;
            print_failure(&report, ask);
        }
        Ok(true)
    })?;
    Ok(failed)
}

/// Events in which the first difference lies.
fn window(first: &Report, second: &Report) -> Range<u64> {
    let same = first.checkpoints.iter().zip(&second.checkpoints).take_while(|(a, b)| a == b).count() as u64;
    same * CHECKPOINT_EVENTS..(same + 1) * CHECKPOINT_EVENTS
}

/// Shows where two runs part.
fn difference(pair: &Pair<'_>, ask: &Ask, first: &Report, second: &Report) -> Failure {
    println!("NONDETERMINISM scenario {} world {} seed {}", first.scenario, first.world, first.seed);
    println!("digests {} ({} events) and {} ({} events)", first.digest, first.events, second.digest, second.events);
    let ask = Ask { seeds: first.seed..first.seed + 1, trace: Some(window(first, second)), ..ask.clone() };
    match (pair.first.one(&ask), pair.second.one(&ask)) {
        (Ok((_, a)), Ok((_, b))) => {
            if !diff::print(&a, &b) {
                println!("two further runs were equal in that window: run it again");
            }
        }
        (Err(failure), _) | (_, Err(failure)) => return failure,
    }
    println!("repeat with: cargo sim check --world {} --scenario {} --seed {}", first.world, first.scenario, first.seed);
    Failure::Nondeterministic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checkpoints: &[&str]) -> Report {
        Report {
            scenario: "s".into(),
            world: "w".into(),
            seed: 1,
            digest: String::new(),
            events: 0,
            simulated_ms: 0,
            violation: None,
            counts: Default::default(),
            checkpoints: checkpoints.iter().map(ToString::to_string).collect(),
            recent: Vec::new(),
        }
    }

    #[test]
    fn the_window_begins_at_the_last_equal_checkpoint() {
        assert_eq!(window(&report(&["a", "b", "c"]), &report(&["a", "b", "x"])), 2048..3072);
        assert_eq!(window(&report(&["a"]), &report(&["x"])), 0..1024);
        assert_eq!(window(&report(&["a"]), &report(&["a"])), 1024..2048);
    }
}
