//! Plans from bytes, for fuzzing and properties: any bytes give a plan that a node has to survive.
//!
//! Bounded: at most 3 s, [`OPS_MAX`] operations and [`FAULTS_MAX`] faults, each within the run; what else is drawn stays within what
//! scenarios have. The same bytes give the same plan. A byte changed in an operation changes no knob and no fault.

use super::{
    CompactionKnobs, Fault, FaultKind, Files, GcKnobs, Knobs, LinkFault, NetworkKnobs, Op, OpKind, PageserverKnobs, Peer, Plan, ReadKind,
    WalsenderKnobs, WorkloadKnobs,
};
use crate::disk::CrashKind;
use crate::postgres::generator::Weights;
use crate::scenario::{Between, Network, Pageserver, Walsender, Workload};
use arbitrary::{Arbitrary, Result, Unstructured};

const RUN_MS_MAX: u64 = 3_000;
const OPS_MAX: usize = 40;
const FAULTS_MAX: u32 = 8;
const READERS_MAX: u32 = 2;
/// Longest fault, and longest time that a process stays down.
const EPISODE_MS_MAX: u64 = 2_000;
const HEAL_MS: u64 = 300_000;
/// Longest time the primary stays away: longer than an acknowledged LSN may take to become readable.
const AWAY_MS: Between = Between { min: 4_000, max: 8_000 };

impl Plan {
    /// The plan that the bytes stand for. What is missing at their end is as small as can be.
    pub fn from_bytes(bytes: &[u8]) -> Plan {
        Plan::arbitrary(&mut Unstructured::new(bytes)).unwrap_or_else(|error| panic!("a plan can be made of any bytes: {error}"))
    }
}

impl<'a> Arbitrary<'a> for Plan {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Plan> {
        let seed = u.arbitrary()?;
        let mut knobs = knobs(u)?;
        let faults = faults(u, knobs.run_ms)?;
        let ops = ops(u, &knobs)?;
        // Last: what bytes from before there was compaction say stays as it was.
        knobs.pageserver.compaction = compaction(u)?;
        Ok(Plan { scenario: "arbitrary".to_string(), seed, knobs, ops, faults })
    }
}

fn within(u: &mut Unstructured<'_>, range: Between) -> Result<u64> {
    u.int_in_range(range.min..=range.max)
}

fn within_u32(u: &mut Unstructured<'_>, range: Between) -> Result<u32> {
    within(u, range).map(|value| value as u32)
}

fn up_to(u: &mut Unstructured<'_>, most: u64) -> Result<u64> {
    within(u, Between { min: 0, max: most })
}

fn ppm(u: &mut Unstructured<'_>, most: u32) -> Result<u32> {
    u.int_in_range(0..=most)
}

fn knobs(u: &mut Unstructured<'_>) -> Result<Knobs> {
    Ok(Knobs {
        run_ms: within(u, Between { min: 200, max: RUN_MS_MAX })?,
        heal_ms: HEAL_MS,
        final_wipe: u.arbitrary()?,
        hostile: false,
        audit_versions: within(u, Between { min: 20, max: 100 })?,
        readers: u.int_in_range(1..=READERS_MAX)?,
        workload: workload(u)?,
        walsender: walsender(u)?,
        network: network(u)?,
        pageserver: pageserver(u)?,
    })
}

fn workload(u: &mut Unstructured<'_>) -> Result<WorkloadKnobs> {
    let ranges = Workload::default();
    let mut weights = Weights::default();
    for weight in [&mut weights.delete, &mut weights.lock, &mut weights.page_image, &mut weights.drop, &mut weights.truncate] {
        if u.ratio(1, 4)? {
            *weight = 0;
        }
    }
    Ok(WorkloadKnobs {
        relations_max: within_u32(u, ranges.relations_max)?,
        tuple_bytes_max: within_u32(u, ranges.tuple_bytes_max)?,
        transaction_records_max: within_u32(u, ranges.transaction_records_max)?,
        checkpoint_steps: within_u32(u, ranges.checkpoint_steps)?,
        full_page_writes: u.arbitrary()?,
        weights,
    })
}

fn walsender(u: &mut Unstructured<'_>) -> Result<WalsenderKnobs> {
    let ranges = Walsender::default();
    Ok(WalsenderKnobs {
        chunk_bytes_max: within_u32(u, ranges.chunk_bytes_max)?,
        stall_ppm: within_u32(u, ranges.stall_ppm)?,
        stall_ms_max: within(u, ranges.stall_ms_max)?,
        keepalive_ms: within(u, ranges.keepalive_ms)?,
        reset_ppm: ppm(u, 30_000)?,
        repeat_ppm: ppm(u, 50_000)?,
    })
}

fn network(u: &mut Unstructured<'_>) -> Result<NetworkKnobs> {
    let ranges = Network::default();
    Ok(NetworkKnobs {
        latency_ms_min: ranges.latency_ms.min,
        latency_ms_max: within(u, ranges.latency_ms)?,
        tick_ms: ranges.tick_ms,
        segment_bytes: within_u32(u, ranges.segment_bytes)?,
    })
}

fn pageserver(u: &mut Unstructured<'_>) -> Result<PageserverKnobs> {
    let ranges = Pageserver::default();
    Ok(PageserverKnobs {
        checkpoint_distance: within(u, ranges.checkpoint_distance)?,
        checkpoint_timeout_ms: within(u, ranges.checkpoint_timeout_ms)?,
        open_layer_bytes_max: within(u, ranges.open_layer_bytes_max)?,
        block_cache_bytes: within(u, ranges.block_cache_bytes)?,
        wait_lsn_timeout_ms: within(u, ranges.wait_lsn_timeout_ms)?,
        idle_timeout_ms: within(u, ranges.idle_timeout_ms)?,
        wal_log_keep_bytes: within(u, ranges.wal_log_keep_bytes)?,
        compaction_target_size: within(u, ranges.compaction_target_size)?,
        compaction: CompactionKnobs::default(),
        gc: GcKnobs::default(),
        redo_child: u.arbitrary()?,
        buggify_ppm: ppm(u, 200_000)?,
        redo_fault_ppm: within_u32(u, ranges.redo_fault_ppm)?,
    })
}

fn compaction(u: &mut Unstructured<'_>) -> Result<CompactionKnobs> {
    let ranges = Pageserver::default();
    Ok(CompactionKnobs {
        period_ms: within(u, ranges.compaction_period_ms)?,
        threshold: within(u, ranges.compaction_threshold)?,
        image_threshold: within(u, ranges.image_creation_threshold)?,
    })
}

fn faults(u: &mut Unstructured<'_>, run_ms: u64) -> Result<Vec<Fault>> {
    let count = u.int_in_range(0..=FAULTS_MAX)?;
    let mut at_ms = 0;
    (0..count)
        .map(|id| {
            at_ms = (at_ms + up_to(u, run_ms / 2)?).min(run_ms - 1);
            Ok(Fault { id, at_ms, kind: fault(u)? })
        })
        .collect()
}

fn fault(u: &mut Unstructured<'_>) -> Result<FaultKind> {
    let kind = u.int_in_range(0..=14_u8)?;
    let for_ms = within(u, Between { min: 10, max: EPISODE_MS_MAX })?;
    Ok(match kind {
        0 => {
            let kind = *u.choose(&[CrashKind::PowerLoss, CrashKind::ProcessCrash, CrashKind::Wipe])?;
            let primary_away_ms = if u.ratio(1, 4)? { within(u, AWAY_MS)? } else { 0 };
            FaultKind::Crash { kind, down_ms: for_ms, primary_away_ms }
        }
        1 => FaultKind::GracefulStop { down_ms: for_ms },
        2 => FaultKind::Freeze { for_ms },
        3 => FaultKind::ClockJump { by_ms: u.int_in_range(-86_400_000..=86_400_000)? },
        4 => FaultKind::StoreErrors { for_ms, before_ppm: ppm(u, 700_000)?, after_ppm: ppm(u, 500_000)?, silent_ppm: ppm(u, 20_000)? },
        5 => FaultKind::StoreOutage { for_ms },
        6 => FaultKind::StoreThrottle { for_ms },
        7 => FaultKind::StoreConflicts { for_ms },
        8 => FaultKind::Link { peer: Peer::arbitrary(u)?, how: LinkFault::arbitrary(u)?, for_ms },
        9 => FaultKind::Refuse { for_ms },
        10 => FaultKind::Reset,
        11 => FaultKind::DiskErrors {
            for_ms,
            read_ppm: ppm(u, 60_000)?,
            write_ppm: ppm(u, 60_000)?,
            sync_ppm: ppm(u, 600_000)?,
            budget: u.int_in_range(1..=12)?,
            files: Files::arbitrary(u)?,
        },
        12 => FaultKind::DiskFull { for_ms, left_bytes: up_to(u, 40_000_000)? },
        13 => FaultKind::DiskStall { for_ms },
        _ => FaultKind::BitRot { pick: u.arbitrary()? },
    })
}

/// Operations as long as there are bytes.
fn ops(u: &mut Unstructured<'_>, knobs: &Knobs) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    let (mut at_ms, mut branches) = (0, 0);
    while ops.len() < OPS_MAX && !u.is_empty() {
        at_ms = (at_ms + up_to(u, knobs.run_ms / 8)?).min(knobs.run_ms - 1);
        ops.push(Op { id: ops.len() as u32, at_ms, kind: op(u, knobs, &mut branches)? });
    }
    Ok(ops)
}

fn op(u: &mut Unstructured<'_>, knobs: &Knobs, branches: &mut u32) -> Result<OpKind> {
    let ranges = Workload::default();
    let reader = |u: &mut Unstructured<'_>| u.int_in_range(0..=knobs.readers - 1);
    // WAL and reads come more often than the rest.
    Ok(match u.int_in_range(0..=10_u8)? {
        0..=3 => OpKind::Wal { steps: within_u32(u, ranges.steps_per_burst)? },
        4..=7 => {
            let (reader, what, pick) = (reader(u)?, ReadKind::arbitrary(u)?, u.arbitrary()?);
            let what = if *branches == 0 && what == ReadKind::OnBranch { ReadKind::PageAnywhere } else { what };
            OpKind::Read { reader, what, pick }
        }
        8 => OpKind::Burst {
            reader: reader(u)?,
            requests: u.int_in_range(1..=40)?,
            pause_ms: up_to(u, EPISODE_MS_MAX)?,
            pick: u.arbitrary()?,
        },
        9 => OpKind::Storm { clients: u.int_in_range(1..=16)?, pick: u.arbitrary()? },
        _ => {
            let branch = *branches;
            *branches += 1;
            let of = if branch > 0 && u.arbitrary()? { Some(u.int_in_range(0..=branch - 1)?) } else { None };
            let (parallel, again) = (within_u32(u, ranges.branch_repeats)?, within_u32(u, ranges.branch_repeats)?);
            OpKind::Branch { branch, of, parallel, again, pick: u.arbitrary()? }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_a_bounded_plan_that_survives_its_file(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let plan = Plan::from_bytes(&bytes);
            let run_ms = plan.knobs.run_ms;
            prop_assert!((200..=RUN_MS_MAX).contains(&run_ms) && plan.ops.len() <= OPS_MAX && plan.faults.len() <= FAULTS_MAX as usize);
            prop_assert!(plan.ops.iter().enumerate().all(|(n, op)| op.id as usize == n && op.at_ms < run_ms));
            prop_assert!(plan.faults.iter().enumerate().all(|(n, fault)| fault.id as usize == n && fault.at_ms < run_ms));
            prop_assert!(plan.ops.windows(2).all(|two| two[0].at_ms <= two[1].at_ms));
            prop_assert_eq!(&Plan::parse(Path::new("any.plan"), &plan.print()).expect("is read"), &plan);
            prop_assert_eq!(Plan::from_bytes(&bytes), plan);
        }
    }

    #[test]
    fn no_bytes_are_the_smallest_plan() {
        let plan = Plan::from_bytes(&[]);
        assert_eq!((plan.knobs.run_ms, plan.ops.len(), plan.faults.len()), (200, 0, 0));
    }
}
