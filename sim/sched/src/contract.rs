//! The contract suite on this world's seams, under several schedules.

use crate::runtime::isolated;
use crate::world::MadWorld;
use sim_core::contract::machine::{self, Check};

fn run(seed: u64, check: Check) -> Result<u64, String> {
    isolated(seed, move || async move { machine::run(MadWorld::new(), seed, check).await })
}

#[test]
fn the_contract_holds() {
    for (name, check) in machine::ALL {
        for seed in 0..20 {
            run(seed, check).unwrap_or_else(|panic| panic!("{name}, seed {seed}: {panic}"));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (name, check) in machine::ALL {
        assert_eq!(run(1, check), run(1, check), "{name}");
    }
    let (_, net) = machine::ALL[1];
    assert_ne!(run(1, net), run(2, net));
}
