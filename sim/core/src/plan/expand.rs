//! From a scenario and a seed to explicit operations and faults.

use super::{
    Fault, FaultKind, Files, Knobs, LinkFault, Op, OpKind, Peer, READ_KINDS, ReadKind, TENANT_OPS, TenantOp, chance, draw, draw_log,
};
use crate::disk::CrashKind;
use crate::scenario::{Between, Faults, Scenario};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{DetRng, RngSource};
use rand_core::Rng as _;

/// Calls `each` at random times of the run, with so much between two on average.
fn at_times(rng: &mut DetRng, knobs: &Knobs, pause: u64, mut each: impl FnMut(&mut DetRng, u64)) {
    let mut at = 0;
    while at < knobs.run_ms {
        each(rng, at);
        at += 1 + below(rng, 2 * pause);
    }
}

pub fn ops(scenario: &Scenario, knobs: &Knobs, source: &RngSource) -> Vec<Op> {
    let mut kinds = Vec::new();
    let w = &scenario.workload;
    let mut rng = source.stream("wal-ops");
    let pause = draw(&mut rng, w.step_every_ms);
    at_times(&mut rng, knobs, pause, |rng, at| kinds.push((at, OpKind::Wal { steps: draw(rng, w.steps_per_burst) as u32 })));
    let branches = draw(&mut source.stream("branches"), w.branches) as u32;
    for reader in 0..knobs.readers {
        let mut rng = source.stream(&format!("reader-{reader}"));
        let pause = draw(&mut rng, w.read_every_ms);
        at_times(&mut rng, knobs, pause, |rng, at| {
            // Pages are asked for more often than the rest, and of branches where there are some.
            let what = match READ_KINDS[below(rng, 12) as usize % READ_KINDS.len()] {
                ReadKind::OnBranch if branches == 0 => ReadKind::PageAnywhere,
                what => what,
            };
            let (pick, requests, pause_ms) = (rng.next_u64(), draw_log(rng, w.burst_requests) as u32, draw_log(rng, w.burst_pause_ms));
            let burst = chance(rng, w.burst_chance);
            kinds.push((at, if burst { OpKind::Burst { reader, requests, pause_ms, pick } } else { OpKind::Read { reader, what, pick } }));
        });
    }
    kinds.extend(branch_ops(scenario, knobs, source, branches));
    if w.storm_clients.max > 0 {
        let mut rng = source.stream("storms");
        let pause = draw(&mut rng, w.storm_every_ms);
        at_times(&mut rng, knobs, pause, |rng, at| {
            kinds.push((at, OpKind::Storm { clients: draw_log(rng, w.storm_clients) as u32, pick: rng.next_u64() }));
        });
    }
    if w.tenant_ops.max > 0 {
        let mut rng = source.stream("tenant-ops");
        let count = draw(&mut rng, w.tenant_ops);
        kinds.extend((0..count).map(|_| {
            let what = TENANT_OPS[below(&mut rng, TENANT_OPS.len() as u64) as usize];
            (below(&mut rng, knobs.run_ms.max(1)), OpKind::Tenant { what, pick: rng.next_u64() })
        }));
    }
    if w.moves.max > 0 {
        let mut rng = source.stream("moves");
        let count = draw(&mut rng, w.moves);
        kinds.extend((0..count).map(|_| {
            let kind = OpKind::Tenant { what: TenantOp::Move, pick: rng.next_u64() };
            (below(&mut rng, knobs.run_ms.max(1)), kind)
        }));
    }
    kinds.sort_by_key(|(at, _)| *at);
    kinds.into_iter().enumerate().map(|(id, (at_ms, kind))| Op { id: id as u32, at_ms, kind }).collect()
}

fn branch_ops(scenario: &Scenario, knobs: &Knobs, source: &RngSource, branches: u32) -> Vec<(u64, OpKind)> {
    let w = &scenario.workload;
    let mut rng = source.stream("branch-ops");
    let mut at = 0;
    let mut ops = Vec::new();
    for branch in 0..branches {
        at += draw(&mut rng, w.branch_every_ms);
        let of = (branch > 0 && chance(&mut rng, 60)).then(|| below(&mut rng, u64::from(branch)) as u32);
        let parallel = draw(&mut rng, w.branch_repeats) as u32;
        let again = draw(&mut rng, w.branch_repeats) as u32;
        ops.push((at % knobs.run_ms.max(1), OpKind::Branch { branch, of, parallel, again, pick: rng.next_u64() }));
    }
    ops
}

pub fn faults(scenario: &Scenario, knobs: &Knobs, source: &RngSource) -> Vec<Fault> {
    let f = &scenario.faults;
    // Swarm: each seed has some families only. Each has a stream of its own, so that a new one changes no other.
    let has = |name: &str, percent: u64| chance(&mut source.stream(&format!("family-{name}")), percent);
    let enabled: Vec<&str> = families(f).into_iter().filter(|(name, percent)| has(name, *percent)).map(|(name, _)| name).collect();
    let mut faults = Vec::new();
    if enabled.is_empty() {
        return faults;
    }
    let away = has("primary_away", f.primary_away.chance);
    let mut rng = source.stream("faults");
    let pause = draw(&mut rng, f.every_ms).max(1);
    let mut at = below(&mut rng, 2 * pause);
    while at < knobs.run_ms {
        let family = enabled[below(&mut rng, enabled.len() as u64) as usize];
        let kind = one(f, family, away, &mut source.stream(&format!("fault-{}", faults.len())));
        faults.push(Fault { id: faults.len() as u32, at_ms: at, kind });
        at += 1 + below(&mut rng, 2 * pause);
    }
    faults
}

fn families(f: &Faults) -> [(&'static str, u64); 20] {
    [
        ("power_loss", f.power_loss.chance),
        ("process_crash", f.process_crash.chance),
        ("wipe", f.wipe.chance),
        ("graceful_stop", f.graceful_stop.chance),
        ("freeze", f.freeze.chance),
        ("clock_jump", f.clock_jump.chance),
        ("store_errors", f.store_errors.chance),
        ("store_outage", f.store_outage.chance),
        ("store_throttle", f.store_throttle.chance),
        ("store_conflicts", f.store_conflicts.chance),
        ("hold", f.hold.chance),
        ("partition", f.partition.chance),
        ("one_way", f.one_way.chance),
        ("refuse", f.refuse.chance),
        ("reset", f.reset.chance),
        ("disk_errors", f.disk_errors.chance),
        ("disk_full", f.disk_full.chance),
        ("disk_stall", f.disk_stall.chance),
        ("bit_rot", f.bit_rot.chance),
        ("disk_hostile", f.disk_hostile.chance),
    ]
}

/// One fault of a family. What is drawn for one is independent of all others.
fn one(f: &Faults, family: &str, away: bool, r: &mut DetRng) -> FaultKind {
    let crash = |r: &mut DetRng, kind, down: Between| {
        let primary_away_ms = if away && chance(r, 40) { draw(r, f.primary_away.for_ms) } else { 0 };
        FaultKind::Crash { kind, down_ms: draw(r, down), primary_away_ms }
    };
    match family {
        "power_loss" => crash(r, CrashKind::PowerLoss, f.power_loss.for_ms),
        "process_crash" => crash(r, CrashKind::ProcessCrash, f.process_crash.for_ms),
        "wipe" => crash(r, CrashKind::Wipe, f.wipe.for_ms),
        "graceful_stop" => FaultKind::GracefulStop { down_ms: draw(r, f.graceful_stop.for_ms) },
        "freeze" => FaultKind::Freeze { for_ms: draw_log(r, f.freeze.for_ms) },
        "clock_jump" => {
            let by = draw_log(r, f.clock_jump.for_ms) as i64;
            FaultKind::ClockJump { by_ms: if chance(r, 50) { by } else { -by } }
        }
        "store_errors" => FaultKind::StoreErrors {
            for_ms: draw(r, f.store_errors.for_ms),
            before_ppm: draw(r, f.store_errors.before_ppm) as u32,
            after_ppm: draw(r, f.store_errors.after_ppm) as u32,
            silent_ppm: draw(r, f.store_errors.silent_ppm) as u32,
        },
        "store_outage" => FaultKind::StoreOutage { for_ms: draw(r, f.store_outage.for_ms) },
        "store_throttle" => FaultKind::StoreThrottle { for_ms: draw(r, f.store_throttle.for_ms) },
        "store_conflicts" => FaultKind::StoreConflicts { for_ms: draw(r, f.store_conflicts.for_ms) },
        "hold" => FaultKind::Link { peer: peer(r), how: LinkFault::Hold, for_ms: draw(r, f.hold.for_ms) },
        "partition" => FaultKind::Link { peer: peer(r), how: LinkFault::Lost, for_ms: draw(r, f.partition.for_ms) },
        "one_way" => {
            let how = if chance(r, 50) { LinkFault::LostTo } else { LinkFault::LostFrom };
            FaultKind::Link { peer: peer(r), how, for_ms: draw(r, f.one_way.for_ms) }
        }
        "refuse" => FaultKind::Refuse { for_ms: draw(r, f.refuse.for_ms) },
        "disk_errors" => FaultKind::DiskErrors {
            for_ms: draw(r, f.disk_errors.for_ms),
            read_ppm: draw_log(r, f.disk_errors.read_ppm) as u32,
            write_ppm: draw_log(r, f.disk_errors.write_ppm) as u32,
            sync_ppm: draw_log(r, f.disk_errors.sync_ppm) as u32,
            budget: draw(r, f.disk_errors.budget) as u32,
            files: [Files::All, Files::WalLog, Files::Layers][below(r, 3) as usize],
        },
        "disk_hostile" => FaultKind::DiskHostile {
            for_ms: draw(r, f.disk_hostile.for_ms),
            read_ppm: draw_log(r, f.disk_hostile.read_ppm) as u32,
            write_ppm: draw_log(r, f.disk_hostile.write_ppm) as u32,
            sync_ppm: draw_log(r, f.disk_hostile.sync_ppm) as u32,
            budget: draw(r, f.disk_hostile.budget) as u32,
            files: [Files::WalLog, Files::Layers][below(r, 2) as usize],
        },
        "disk_full" => FaultKind::DiskFull { for_ms: draw(r, f.disk_full.for_ms), left_bytes: draw_log(r, f.disk_full.left_bytes) },
        "disk_stall" => FaultKind::DiskStall { for_ms: draw(r, f.disk_stall.for_ms) },
        "bit_rot" => FaultKind::BitRot { pick: r.next_u64() },
        _ => FaultKind::Reset,
    }
}

fn peer(r: &mut DetRng) -> Peer {
    if chance(r, 70) { Peer::Primary } else { Peer::Clients }
}
