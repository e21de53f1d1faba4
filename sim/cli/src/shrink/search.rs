//! The search for the smallest plan that still fails: faults first, then operations, time, numbers.
//!
//! Whole kinds go first, then halves of a list, quarters, single entries. What is taken out of a plan changes nothing else in it,
//! so each step is judged on its own.

use super::candidates::{List, Plan};
use crate::Failure;

pub struct Search {
    /// Runs in all.
    pub runs_max: usize,
    /// Candidates that are tried at a time.
    pub jobs: usize,
}

pub struct Outcome {
    pub plan: Plan,
    pub runs: usize,
}

/// Whether a plan still fails; the number tells apart what is tried at the same time.
pub trait Fails: Fn(&Plan, usize) -> Result<bool, Failure> + Sync {}
impl<F: Fn(&Plan, usize) -> Result<bool, Failure> + Sync> Fails for F {}

struct State<'a, F> {
    best: Plan,
    runs: usize,
    search: &'a Search,
    fails: &'a F,
    progress: &'a mut dyn FnMut(String),
}

impl Search {
    /// Gives the smallest plan found within the bound on runs. `plan` itself fails.
    pub fn smallest(&self, plan: Plan, fails: &impl Fails, progress: &mut dyn FnMut(String)) -> Result<Outcome, Failure> {
        let mut state = State { best: plan, runs: 0, search: self, fails, progress };
        // Half of the runs for the faults: they are what somebody reads.
        state.list(List::Faults, self.runs_max / 2)?;
        state.time()?;
        state.list(List::Ops, self.runs_max * 4 / 5)?;
        state.time()?;
        state.list(List::Faults, self.runs_max * 9 / 10)?;
        state.numbers()?;
        Ok(Outcome { plan: state.best, runs: state.runs })
    }
}

impl<F: Fails> State<'_, F> {
    /// Takes the first of the candidates that still fails. `None`: none of them, or no runs are left.
    fn first(&mut self, candidates: &[Plan]) -> Result<Option<usize>, Failure> {
        let mut from = 0;
        for group in candidates.chunks(self.search.jobs.max(1)) {
            if self.runs + group.len() > self.search.runs_max {
                return Ok(None);
            }
            self.runs += group.len();
            let fails = self.fails;
            let tried: Vec<Result<bool, Failure>> = std::thread::scope(|scope| {
                let running: Vec<_> = group.iter().enumerate().map(|(slot, plan)| scope.spawn(move || fails(plan, slot))).collect();
                running
                    .into_iter()
                    .map(|run| run.join().unwrap_or_else(|_| Err(Failure::Harness("a run of the shrinker panicked".to_string()))))
                    .collect()
            });
            for (at, failed) in tried.into_iter().enumerate() {
                if failed? {
                    self.best = group[at].clone();
                    let (faults, ops) = (self.best.faults().len(), self.best.ops().len());
                    (self.progress)(format!("run {:>3}: {faults} faults, {ops} operations, {} ms", self.runs, self.best.run_ms()));
                    return Ok(Some(from + at));
                }
            }
            from += group.len();
        }
        Ok(None)
    }

    /// Makes a list shorter until no single entry can go, or `runs` are used up.
    fn list(&mut self, list: List, runs: usize) -> Result<(), Failure> {
        while self.runs < runs && self.first(&self.best.without_kinds(list))?.is_some() {}
        let mut size = self.best.len(list).div_ceil(2);
        let mut at = 0;
        while size > 0 && self.runs < runs {
            let len = self.best.len(list);
            if at >= len {
                (size, at) = (if size == 1 { 0 } else { size.div_ceil(2) }, 0);
                continue;
            }
            // As many neighbours as can be tried at a time.
            let starts: Vec<usize> = (at..len).step_by(size).take(self.search.jobs.max(1)).collect();
            let candidates: Vec<Plan> = starts.iter().filter_map(|from| self.best.without_range(list, *from, from + size)).collect();
            at = match self.first(&candidates)? {
                Some(index) => starts[index],
                None => starts.last().map_or(len, |last| last + size),
            };
        }
        Ok(())
    }

    /// Ends the run right after what is left, or earlier.
    fn time(&mut self) -> Result<(), Failure> {
        if let Some(shorter) = self.best.shorter(self.best.last_ms() + 1) {
            self.first(&[shorter])?;
        }
        while let Some(shorter) = self.best.shorter(self.best.run_ms() / 2) {
            if self.first(&[shorter])?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Lowers each number of each fault.
    fn numbers(&mut self) -> Result<(), Failure> {
        for place in self.best.numbers() {
            if let Some(zero) = self.best.lower(&place, true)
                && self.first(&[zero])?.is_some()
            {
                continue;
            }
            while let Some(lower) = self.best.lower(&place, false) {
                if self.first(&[lower])?.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(faults: usize, ops: usize) -> Plan {
        let fault = |id| format!(r#"{{"id":{id},"at_ms":{},"kind":{{"k{}":{{"for_ms":100}}}}}}"#, id * 10, id % 4);
        let op = |id| format!(r#"{{"id":{id},"at_ms":{},"kind":{{"read":{{"reader":{}}}}}}}"#, id * 3, id % 3);
        let list = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(",");
        let text = format!(
            r#"{{"scenario":"s","seed":1,"knobs":{{"run_ms":9000}},"faults":[{}],"ops":[{}]}}"#,
            list(faults, &fault),
            list(ops, &op)
        );
        Plan::parse(&text).ok().expect("is JSON")
    }

    fn has(plan: &Plan, id: u64) -> bool {
        plan.faults().iter().any(|fault| fault["id"] == id)
    }

    #[test]
    fn two_faults_that_fail_together_are_found_among_many() {
        let search = Search { runs_max: 200, jobs: 2 };
        // Needs faults 5 and 22 and some operation of reader 1, and time until fault 22.
        let fails = |plan: &Plan, _: usize| {
            let read = plan.ops().iter().any(|op| op["kind"]["read"]["reader"] == 1);
            Ok(has(plan, 5) && has(plan, 22) && read && plan.run_ms() > 220)
        };
        let outcome = search.smallest(plan(30, 60), &fails, &mut |_| {}).ok().expect("no run breaks");
        assert_eq!((outcome.plan.faults().len(), outcome.plan.ops().len()), (2, 1));
        assert!(outcome.plan.run_ms() < 442 && outcome.runs <= 200, "{} ms, {} runs", outcome.plan.run_ms(), outcome.runs);
        assert!(outcome.plan.numbers().is_empty());
    }

    #[test]
    fn the_bound_on_runs_holds_and_a_plan_that_cannot_shrink_stays() {
        let all = plan(12, 5);
        let fails = |candidate: &Plan, _: usize| Ok(*candidate == plan(12, 5));
        let outcome = Search { runs_max: 20, jobs: 3 }.smallest(all.clone(), &fails, &mut |_| {}).ok().expect("no run breaks");
        assert!(outcome.plan == all && outcome.runs <= 20);
    }
}
