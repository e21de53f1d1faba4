//! A plan as the shrinker sees it: lists of entries, and numbers that may become smaller.
//!
//! It knows no kind of fault or operation by name, so that new ones shrink too.

use crate::Failure;
use serde_json::Value;
use std::collections::BTreeSet;

/// A plan's JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan(Value);

/// The two lists of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Faults,
    Ops,
}

impl List {
    fn key(self) -> &'static str {
        match self {
            List::Faults => "faults",
            List::Ops => "ops",
        }
    }
}

impl Plan {
    pub fn parse(text: &str) -> Result<Plan, Failure> {
        let value: Value = serde_json::from_str(text).map_err(|error| Failure::Harness(format!("the plan cannot be read: {error}")))?;
        Ok(Plan(value))
    }

    /// The text of a plan file: one line per entry.
    pub fn print(&self) -> String {
        let entries = |list: List| {
            let lines: Vec<String> = self.list(list).iter().map(Value::to_string).collect();
            if lines.is_empty() { "[]".to_string() } else { format!("[\n  {}\n]", lines.join(",\n  ")) }
        };
        format!(
            "{{\n\"scenario\": {},\n\"seed\": {},\n\"knobs\": {},\n\"faults\": {},\n\"ops\": {}\n}}",
            self.0["scenario"],
            self.0["seed"],
            self.0["knobs"],
            entries(List::Faults),
            entries(List::Ops)
        )
    }

    fn list(&self, list: List) -> &[Value] {
        self.0[list.key()].as_array().map_or(&[], Vec::as_slice)
    }

    pub fn faults(&self) -> &[Value] {
        self.list(List::Faults)
    }

    pub fn ops(&self) -> &[Value] {
        self.list(List::Ops)
    }

    pub fn len(&self, list: List) -> usize {
        self.list(list).len()
    }

    pub fn run_ms(&self) -> u64 {
        self.0["knobs"]["run_ms"].as_u64().unwrap_or(0)
    }

    /// Without the entries for which `drop` says so; `None` if that changes nothing.
    fn without(&self, list: List, drop: impl Fn(usize, &Value) -> bool) -> Option<Plan> {
        let kept: Vec<Value> =
            self.list(list).iter().enumerate().filter(|(index, entry)| !drop(*index, entry)).map(|(_, entry)| entry.clone()).collect();
        if kept.len() == self.len(list) {
            return None;
        }
        let mut smaller = self.clone();
        smaller.0[list.key()] = Value::Array(kept);
        Some(smaller)
    }

    /// Without the entries numbered `from..to`.
    pub fn without_range(&self, list: List, from: usize, to: usize) -> Option<Plan> {
        self.without(list, |index, _| (from..to).contains(&index))
    }

    /// One plan for each kind of entry, without all of that kind; the kind of a client's operation has its client.
    pub fn without_kinds(&self, list: List) -> Vec<Plan> {
        let kinds: BTreeSet<String> = self.list(list).iter().map(kind).collect();
        kinds.iter().filter_map(|wanted| self.without(list, |_, entry| kind(entry) == *wanted)).collect()
    }

    /// Ends earlier: without what would begin after `run_ms`.
    pub fn shorter(&self, run_ms: u64) -> Option<Plan> {
        if run_ms >= self.run_ms() {
            return None;
        }
        let late = |_: usize, entry: &Value| entry["at_ms"].as_u64().is_some_and(|at| at > run_ms);
        let mut smaller = self.clone();
        for list in [List::Faults, List::Ops] {
            smaller = smaller.without(list, late).unwrap_or(smaller);
        }
        smaller.0["knobs"]["run_ms"] = run_ms.into();
        Some(smaller)
    }

    /// When the last entry begins.
    pub fn last_ms(&self) -> u64 {
        let all = self.faults().iter().chain(self.ops());
        all.filter_map(|entry| entry["at_ms"].as_u64()).max().unwrap_or(0)
    }

    /// Places of numbers inside the faults that can become smaller.
    pub fn numbers(&self) -> Vec<(usize, String)> {
        let mut places = Vec::new();
        for (index, fault) in self.faults().iter().enumerate() {
            for fields in fault["kind"].as_object().into_iter().flat_map(|kind| kind.values()) {
                let numbers = fields.as_object().into_iter().flatten().filter(|(_, value)| value.as_u64().is_some_and(|n| n > 0));
                places.extend(numbers.map(|(name, _)| (index, name.clone())));
            }
        }
        places
    }

    /// With a number of a fault halved, or 0.
    pub fn lower(&self, (index, name): &(usize, String), zero: bool) -> Option<Plan> {
        let mut smaller = self.clone();
        let kind = smaller.0["faults"].get_mut(*index)?["kind"].as_object_mut()?;
        let value = kind.values_mut().next()?.get_mut(name)?;
        let now = value.as_u64().filter(|n| *n > 0)?;
        *value = if zero { 0 } else { now / 2 }.into();
        Some(smaller)
    }
}

/// The name of what an entry does, with the number of the client that does it.
fn kind(entry: &Value) -> String {
    let kind = &entry["kind"];
    match kind.as_object().and_then(|kind| kind.iter().next()) {
        Some((name, fields)) => format!("{name} {}", fields["reader"]),
        None => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"scenario":"s","seed":1,"knobs":{"run_ms":1000},
        "faults":[{"id":0,"at_ms":10,"kind":{"freeze":{"for_ms":9}}},{"id":1,"at_ms":500,"kind":"reset"},{"id":2,"at_ms":900,"kind":{"freeze":{"for_ms":4}}}],
        "ops":[{"id":0,"at_ms":5,"kind":{"wal":{"steps":3}}},{"id":1,"at_ms":6,"kind":{"read":{"reader":0,"pick":1}}},{"id":2,"at_ms":7,"kind":{"read":{"reader":1,"pick":1}}}]}"#;

    fn plan() -> Plan {
        Plan::parse(PLAN).ok().expect("is JSON")
    }

    fn ids(plan: &Plan, list: List) -> Vec<u64> {
        plan.list(list).iter().map(|entry| entry["id"].as_u64().expect("has an id")).collect()
    }

    #[test]
    fn lists_lose_kinds_and_ranges() {
        let of = |list| plan().without_kinds(list).iter().map(|p| ids(p, list)).collect::<Vec<_>>();
        assert_eq!(of(List::Faults), [vec![0, 2], vec![1]]);
        assert_eq!(of(List::Ops), [vec![0, 2], vec![0, 1], vec![1, 2]]);
        assert_eq!(plan().without_range(List::Faults, 0, 2).map(|p| ids(&p, List::Faults)), Some(vec![2]));
        assert_eq!(plan().without_range(List::Faults, 3, 4), None);
    }

    #[test]
    fn time_and_numbers_become_smaller() {
        let short = plan().shorter(600).expect("is shorter");
        assert_eq!((ids(&short, List::Faults), short.run_ms(), plan().last_ms()), (vec![0, 1], 600, 900));
        assert_eq!(plan().shorter(1000), None);
        assert_eq!(plan().numbers(), [(0, "for_ms".to_string()), (2, "for_ms".to_string())]);
        let lower = plan().lower(&(0, "for_ms".to_string()), false).expect("a number");
        assert_eq!(lower.faults()[0]["kind"]["freeze"]["for_ms"], 4);
        assert_eq!(plan().lower(&(1, "for_ms".to_string()), true), None);
    }

    #[test]
    fn what_is_printed_is_the_plan() {
        assert_eq!(Plan::parse(&plan().print()).ok(), Some(plan()));
    }
}
