//! Small plans made of bytes: those that fuzzing keeps, and a few at random, the same ones each time.

use crate::run::must_pass;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sim_core::plan::Plan;
use std::collections::BTreeSet;
use std::mem::discriminant;
use std::path::PathBuf;

const CORPUS: &str = "../../fuzz/corpus/plan";

#[expect(clippy::disallowed_methods, reason = "the corpus is read before anything is simulated")]
fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(CORPUS).expect("the tests of a package run in its folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a name can be read").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (std::fs::read(&path).expect("a file can be read"), path);
    paths.into_iter().map(read).map(|(bytes, path)| (path, bytes)).collect()
}

#[test]
fn the_corpus_passes() {
    let (mut faults, mut ops) = (BTreeSet::new(), BTreeSet::new());
    for (path, bytes) in corpus() {
        println!("{}", path.display());
        must_pass(&bytes);
        let plan = Plan::from_bytes(&bytes);
        faults.extend(plan.faults.iter().map(|fault| format!("{:?}", discriminant(&fault.kind))));
        ops.extend(plan.ops.iter().map(|op| format!("{:?}", discriminant(&op.kind))));
    }
    // What it is worth committing for: every kind of operation, nearly every kind of fault.
    assert!(faults.len() >= 12 && ops.len() == 5, "{faults:?} {ops:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn small_plans_pass_and_repeat_themselves(bytes in prop::collection::vec(any::<u8>(), 100..600)) {
        let (first, second) = (must_pass(&bytes), must_pass(&bytes));
        prop_assert_eq!((first.digest, first.events), (second.digest, second.events));
    }
}
