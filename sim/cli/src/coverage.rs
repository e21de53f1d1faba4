//! `cargo sim coverage`: what a sweep reaches. A mark of the product that no run reaches, or a fault that never strikes, is a
//! hole in the simulation, and fails.

#![expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Build};
use crate::sweep::print_failure;
use crate::worlds::{self, Loaded};
use crate::{CoverageArgs, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the harness counts when a fault of a family strikes.
const STRIKES: [(&str, &str); 20] = [
    ("power_loss", "crash-power-loss"),
    ("process_crash", "crash-process"),
    ("wipe", "crash-wipe"),
    ("graceful_stop", "stopped"),
    ("freeze", "frozen"),
    ("clock_jump", "clock-jump"),
    ("store_errors", "store-errors"),
    ("store_outage", "store-outage"),
    ("store_throttle", "store-throttled"),
    ("store_conflicts", "store-conflicts"),
    ("hold", "link-held"),
    ("partition", "link-lost"),
    ("one_way", "link-one-way"),
    ("refuse", "refusing"),
    ("reset", "connection-reset"),
    ("disk_errors", "disk-errors"),
    ("disk_hostile", "disk-hostile"),
    ("disk_full", "disk-full"),
    ("disk_stall", "disk-stall"),
    ("bit_rot", "bit-rot"),
];
/// Families that a world does not have.
const NOT_THERE: [(&str, &str); 2] = [("sched", "partition"), ("sched", "one_way")];
/// Fewer seeds say nothing about what is never reached.
const SEEDS_FOR_VERDICT: u64 = 500;

/// Counts by (scenario, world).
type Counts = BTreeMap<(String, String), BTreeMap<String, u64>>;

pub fn run(args: &CoverageArgs) -> Result<(), Failure> {
    let seeds = args.run.seeds(0..SEEDS_FOR_VERDICT);
    let scenarios = worlds::scenarios(args.run.scenario.as_deref())?;
    let backends = backend::build(Build::default())?;
    let mut counts = Counts::new();
    let mut failed = 0;
    for loaded in &scenarios {
        for world in worlds::worlds(&loaded.scenario, args.run.world.as_deref())? {
            let ask = Ask::new(loaded, &args.run, seeds.clone());
            let of = counts.entry((loaded.scenario.name.clone(), world.clone())).or_default();
            backends.of(&world)?.sweep(&ask, args.run.jobs, |report| {
                if report.violation.is_some() {
                    failed += 1;
                    print_failure(&report, &ask);
                }
                for (what, count) in report.counts {
                    *of.entry(what).or_default() += count;
                }
                Ok(true)
            })?;
        }
    }
    let marks = marks_in_source(&worlds::root().join("src"))?;
    let unreached = unreached(&marks, &counts);
    let dead = dead_faults(&scenarios, &counts)?;
    if args.run.json {
        let by: Vec<_> = counts.iter().map(|((s, w), c)| serde_json::json!({ "scenario": s, "world": w, "counts": c })).collect();
        println!(
            "{}",
            serde_json::json!({ "seeds": seeds.end - seeds.start, "coverage": by, "unreached": unreached, "dead": dead, "failed": failed })
        );
    } else {
        print(&counts);
        println!("{} marks in the product, {} never reached: {}", marks.len(), unreached.len(), unreached.join(", "));
        println!("{} faults of a scenario and world never struck: {}", dead.len(), dead.join(", "));
        println!("{failed} runs failed");
    }
    let whole = args.run.scenario.is_none() && args.run.world.is_none() && seeds.end - seeds.start >= SEEDS_FOR_VERDICT;
    if failed > 0 || whole && !(unreached.is_empty() && dead.is_empty()) { Err(Failure::Violated) } else { Ok(()) }
}

fn print(counts: &Counts) {
    let names: BTreeSet<&String> = counts.values().flat_map(|of| of.keys()).collect();
    let columns: Vec<&(String, String)> = counts.keys().collect();
    for (number, (scenario, world)) in columns.iter().enumerate() {
        println!("{:>3} {scenario} in {world}", number + 1);
    }
    let head: String = (1..=columns.len()).map(|number| format!("{number:>9}")).collect();
    println!("{:<40}{head}", "");
    for name in names {
        let row: String = columns
            .iter()
            .map(|column| counts[*column].get(name).map_or_else(|| format!("{:>9}", "."), |count| format!("{count:>9}")))
            .collect();
        println!("{name:<40}{row}");
    }
}

/// Marks that no run reached.
fn unreached(marks: &BTreeSet<String>, counts: &Counts) -> Vec<String> {
    let reached = |mark: &String| counts.values().any(|of| of.contains_key(&format!("mark:{mark}")));
    marks.iter().filter(|mark| !reached(mark)).cloned().collect()
}

/// Faults that a scenario has and that never struck there in a world.
fn dead_faults(scenarios: &[Loaded], counts: &Counts) -> Result<Vec<String>, Failure> {
    let mut dead = Vec::new();
    for loaded in scenarios {
        for family in loaded.families()? {
            let strike = STRIKES.iter().find(|(name, _)| *name == family).map(|(_, strike)| *strike);
            let strike =
                strike.ok_or_else(|| Failure::Harness(format!("nothing is known to count the fault \"{family}\": add it to STRIKES")))?;
            for ((scenario, world), of) in counts {
                let there = !NOT_THERE.contains(&(world.as_str(), family.as_str()));
                if *scenario == loaded.scenario.name && there && !of.contains_key(strike) {
                    dead.push(format!("{family} of {scenario} in {world}"));
                }
            }
        }
    }
    Ok(dead)
}

/// The marks and the `buggify!` sites of the product, as its source names them.
fn marks_in_source(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut marks = BTreeSet::new();
    let failed = |error: std::io::Error| Failure::Harness(format!("read the source in {}: {error}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            marks.extend(marks_in_source(&path)?);
        } else if path.extension().is_some_and(|x| x == "rs") {
            marks.extend(marks_in(&std::fs::read_to_string(&path).map_err(failed)?));
        }
    }
    Ok(marks)
}

fn marks_in(text: &str) -> BTreeSet<String> {
    // What stands in a file's tests is no mark of the product.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut marks = BTreeSet::new();
    for call in ["probe.mark(\"", "buggify!("] {
        for rest in code.split(call).skip(1) {
            let name = if call.ends_with('"') {
                Some(rest)
            } else {
                rest.split_once('"').filter(|(env, _)| !env.contains(')')).map(|(_, name)| name)
            };
            marks.extend(name.and_then(|name| name.split_once('"')).map(|(name, _)| name.to_string()));
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_the_source() {
        let text = "env.probe.mark(\"retry\");\nif crate::buggify!(self.env, \"early-roll\") {}\nmacro_rules! buggify {}\n#[cfg(test)] mod tests { probe.mark(\"no\") }";
        assert_eq!(marks_in(text).into_iter().collect::<Vec<_>>(), ["early-roll", "retry"]);
    }

    #[test]
    fn what_no_run_reached_is_told() {
        let reached = BTreeMap::from([("mark:a".to_string(), 1)]);
        let counts = Counts::from([(("s".to_string(), "w".to_string()), reached)]);
        assert_eq!(unreached(&BTreeSet::from(["a".to_string(), "b".to_string()]), &counts), ["b"]);
    }
}
