//! `cargo sim check`: the same seed in two processes must give the same digest.

use crate::worlds::{self, Ask, Backend};
use crate::{Failure, RunArgs};
use sim_core::report::Report;
use std::ops::Range;

/// Events between two stored digests, as `sim_core::trace` counts them.
const CHECKPOINT_EVENTS: u64 = sim_core::trace::CHECKPOINT_EVENTS;
/// Lines shown before the first difference.
const CONTEXT: usize = 20;

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let seeds = args.seeds(0..20);
    for loaded in worlds::scenarios(args.scenario.as_deref())? {
        for world in worlds::worlds(&loaded.scenario, args.world.as_deref())? {
            let backend = worlds::build(&world, args.planted.is_some())?;
            for seed in seeds.clone() {
                let ask = Ask { checkpoints: true, ..Ask::new(&loaded, args, seed..seed + 1) };
                let (first, second) = (backend.one(&ask)?.0, backend.one(&ask)?.0);
                if first.digest != second.digest || first.events != second.events {
                    return difference(&backend, ask, &first, &second);
                }
            }
            let count = seeds.end - seeds.start;
            println!("{} in {world}: {count} seeds, each twice in processes of their own: no difference", loaded.scenario.name);
        }
    }
    Ok(())
}

/// Events in which the first difference lies.
fn window(first: &Report, second: &Report) -> Range<u64> {
    let same = first.checkpoints.iter().zip(&second.checkpoints).take_while(|(a, b)| a == b).count() as u64;
    same * CHECKPOINT_EVENTS..(same + 1) * CHECKPOINT_EVENTS
}

fn difference(backend: &Backend, ask: Ask, first: &Report, second: &Report) -> Result<(), Failure> {
    println!("NONDETERMINISM scenario {} world {} seed {}", first.scenario, first.world, first.seed);
    println!("digests {} ({} events) and {} ({} events)", first.digest, first.events, second.digest, second.events);
    let ask = Ask { trace: Some(window(first, second)), ..ask };
    let (a, b) = (backend.one(&ask)?.1, backend.one(&ask)?.1);
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    match a.iter().zip(&b).position(|(a, b)| a != b).or((a.len() != b.len()).then_some(a.len().min(b.len()))) {
        None => println!("two further runs were equal in that window: run it again"),
        Some(at) => {
            a[at.saturating_sub(CONTEXT)..at].iter().for_each(|line| println!("    {line}"));
            println!("  < {}", a.get(at).unwrap_or(&"(the run ended)"));
            println!("  > {}", b.get(at).unwrap_or(&"(the run ended)"));
        }
    }
    println!("repeat with: cargo sim check --world {} --scenario {} --seed {}", first.world, first.scenario, first.seed);
    Err(Failure::Nondeterministic)
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
