//! A plan cut down to what a person reads in a few minutes: a few of each kind of operation, a few faults, three seconds.

use super::{FaultKind, Op, OpKind, Plan};
use crate::scenario::Scenario;
use std::collections::BTreeSet;
use std::mem::{Discriminant, discriminant};

const RUN_MS: u64 = 3_000;
/// Longest fault, and longest time that a process stays down.
const EPISODE_MS: u64 = 1_000;
const FAULTS_MAX: usize = 4;
const AUDIT_VERSIONS: u64 = 20;
/// Seeds that are tried for a plan with several kinds of faults.
const SEEDS: u64 = 50;

impl Plan {
    /// The small plan that stands for a scenario: of the first seed that has most kinds of faults.
    pub fn sample(scenario: &Scenario) -> Plan {
        let plans = (0..SEEDS).map(|seed| Plan::expand(scenario, seed).small());
        let kinds = |plan: &Plan| plan.faults.iter().map(|fault| format!("{:?}", discriminant(&fault.kind))).collect::<BTreeSet<_>>().len();
        // Of equal ones `max_by_key` gives the last.
        plans.rev().max_by_key(kinds).unwrap_or_else(|| Plan::expand(scenario, 0).small())
    }

    /// Entries keep their ids; what is left keeps its order, in a shorter time.
    pub fn small(&self) -> Plan {
        let mut plan = self.clone();
        let run_ms = self.knobs.run_ms.clamp(1, RUN_MS);
        let sooner = |at_ms: u64| at_ms * run_ms / self.knobs.run_ms.max(1);
        plan.knobs.run_ms = run_ms;
        plan.knobs.readers = self.knobs.readers.min(1);
        plan.knobs.audit_versions = self.knobs.audit_versions.min(AUDIT_VERSIONS);
        plan.knobs.walsender.stall_ms_max = self.knobs.walsender.stall_ms_max.min(EPISODE_MS);
        plan.ops = kinds(&self.ops).into_iter().flat_map(|(same, most)| spread(same, most)).collect();
        plan.ops.sort_by_key(|op| op.id);
        plan.faults = spread(self.faults.iter().collect(), FAULTS_MAX);
        plan.ops.iter_mut().for_each(|op| {
            op.at_ms = sooner(op.at_ms);
            shrink(&mut op.kind);
        });
        plan.faults.iter_mut().for_each(|fault| {
            fault.at_ms = sooner(fault.at_ms);
            shorten(&mut fault.kind);
        });
        plan
    }
}

/// The operations by kind, each with how many of them are enough.
fn kinds(ops: &[Op]) -> Vec<(Vec<&Op>, usize)> {
    let mut kinds: Vec<(Discriminant<OpKind>, Vec<&Op>, usize)> = Vec::new();
    for op in ops {
        let most = match &op.kind {
            OpKind::Read { reader: 1.., .. } | OpKind::Burst { reader: 1.., .. } => continue,
            OpKind::Wal { .. } => 10,
            OpKind::Read { .. } => 14,
            OpKind::Burst { .. } | OpKind::Branch { .. } => 4,
            OpKind::Storm { .. } | OpKind::Tenant { .. } => 2,
        };
        match kinds.iter_mut().find(|(kind, ..)| *kind == discriminant(&op.kind)) {
            Some((_, same, _)) => same.push(op),
            None => kinds.push((discriminant(&op.kind), vec![op], most)),
        }
    }
    kinds.into_iter().map(|(_, same, most)| (same, most)).collect()
}

/// At most so many of the entries, from all over the list.
fn spread<T: Clone>(entries: Vec<&T>, most: usize) -> Vec<T> {
    let count = entries.len().min(most);
    (0..count).map(|n| entries[n * entries.len() / count].clone()).collect()
}

fn shrink(kind: &mut OpKind) {
    let least = |number: &mut u32, most: u32| *number = (*number).min(most);
    match kind {
        OpKind::Wal { steps } => least(steps, 8),
        OpKind::Burst { requests, pause_ms, .. } => {
            least(requests, 20);
            *pause_ms = (*pause_ms).min(EPISODE_MS);
        }
        OpKind::Storm { clients, .. } => least(clients, 8),
        OpKind::Read { .. } | OpKind::Branch { .. } | OpKind::Tenant { .. } => {}
    }
}

fn shorten(kind: &mut FaultKind) {
    let cut = |ms: &mut u64| *ms = (*ms).min(EPISODE_MS);
    match kind {
        FaultKind::Crash { down_ms, primary_away_ms, .. } => {
            cut(down_ms);
            cut(primary_away_ms);
        }
        FaultKind::GracefulStop { down_ms } => cut(down_ms),
        FaultKind::Freeze { for_ms }
        | FaultKind::StoreErrors { for_ms, .. }
        | FaultKind::StoreOutage { for_ms }
        | FaultKind::StoreThrottle { for_ms }
        | FaultKind::StoreConflicts { for_ms }
        | FaultKind::Link { for_ms, .. }
        | FaultKind::Refuse { for_ms }
        | FaultKind::DiskErrors { for_ms, .. }
        | FaultKind::DiskFull { for_ms, .. }
        | FaultKind::DiskStall { for_ms } => cut(for_ms),
        // What happens at one moment.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_small_plan_has_a_few_entries_of_the_whole_one() {
        let path = Path::new("connection_storm.toml");
        let scenario = Scenario::parse(path, include_str!("../../../../scenarios/connection_storm.toml")).expect("is right");
        for seed in 0..20 {
            let whole = Plan::expand(&scenario, seed);
            let small = whole.small();
            assert!(small.ops.len() <= 34 && small.faults.len() == whole.faults.len().min(FAULTS_MAX), "{}", small.print());
            assert!(small.ops.iter().all(|op| op.at_ms < RUN_MS && whole.ops.iter().any(|other| other.id == op.id)));
            assert!(small.ops.windows(2).all(|two| two[0].id < two[1].id && two[0].at_ms <= two[1].at_ms));
            assert!(small.faults.iter().all(|fault| fault.at_ms < RUN_MS));
            assert_eq!(small.small(), small);
        }
    }

    #[test]
    fn entries_come_from_all_over_the_list() {
        let of = |count: u64| spread((0..count).collect::<Vec<_>>().iter().collect(), 3);
        assert_eq!((of(10), of(2), of(0)), (vec![0, 3, 6], vec![0, 1], vec![]));
    }
}
