//! `cargo sim speed`: simulated time against processor time, one process at a time.

#![expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]

use crate::backend::{self, Ask, Build};
use crate::worlds;
use crate::{Failure, RunArgs};

/// Simulated seconds per second of a core that each world must reach.
const BOUNDS: [(&str, f64); 2] = [("net", 50.0), ("sched", 300.0)];
/// The scenario for which the bounds are given.
const SCENARIO: &str = "create_retry";

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let backends = backend::build(Build::default())?;
    let mut missed = false;
    if !args.json {
        println!("{:<20} {:<6} {:>6} {:>12} {:>10} {:>8} {:>8}", "scenario", "world", "runs", "simulated s", "CPU s", "ratio", "bound");
    }
    for loaded in worlds::scenarios(Some(args.scenario.as_deref().unwrap_or(SCENARIO)))? {
        for world in worlds::worlds(&loaded.scenario, args.world.as_deref())? {
            let (mut simulated_ms, mut runs) = (0, 0);
            let before = cpu_of_ended_children()?;
            backends.of(&world)?.sweep(&Ask::new(&loaded, args, args.seeds(0..40)), 1, |report| {
                (simulated_ms, runs) = (simulated_ms + report.simulated_ms, runs + 1);
                Ok(true)
            })?;
            let (simulated, cpu) = (simulated_ms as f64 / 1000.0, cpu_of_ended_children()? - before);
            let bound = BOUNDS.iter().find(|(name, _)| *name == world).map_or(0.0, |(_, bound)| *bound);
            let (name, ratio) = (&loaded.scenario.name, simulated / cpu);
            missed |= ratio < bound && *name == SCENARIO;
            if args.json {
                let line = serde_json::json!({ "scenario": name, "world": world, "runs": runs, "simulated_seconds": simulated, "cpu_seconds": cpu, "ratio": ratio, "bound": bound });
                println!("{line}");
            } else {
                println!("{name:<20} {world:<6} {runs:>6} {simulated:>12.1} {cpu:>10.2} {ratio:>8.0} {:>8}", format!(">= {bound}"));
            }
        }
    }
    if missed { Err(Failure::Violated) } else { Ok(()) }
}

/// Processor seconds of all processes that this one has waited for.
fn cpu_of_ended_children() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(|error| Failure::Harness(format!("read /proc/self/stat: {error}")))?;
    // The name of the program, in brackets, may hold anything. Behind it cutime and cstime are the fields 16 and 17, in ticks of
    // 10 ms (proc_pid_stat(5); the kernel gives user space 100 ticks a second on every platform that is supported).
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(13).take(2));
    let ticks: Option<u64> = fields.and_then(|fields| fields.map(|field| field.parse::<u64>().ok()).sum());
    ticks.map(|ticks| ticks as f64 / 100.0).ok_or_else(|| Failure::Harness(format!("/proc/self/stat is odd: {text}")))
}
