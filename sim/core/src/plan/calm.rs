//! Plans in which nothing fails: what is logged as a warning there is logged without need.

use super::{OpKind, Plan, TenantOp};

/// The primary is silent for so much less than the node waits for a word from it.
const MARGIN_MS: u64 = 1_000;

impl Plan {
    /// Nothing fails in a run of this plan: no fault, no misbehaving child, no unusual path of the product, no connection that the primary
    /// ends, leaves silent or says things on twice, no node that the tenant was taken from without its knowledge. The loss of the machine at the end is none: nothing is at work then.
    pub fn is_calm(&self) -> bool {
        let (walsender, pageserver) = (&self.knobs.walsender, &self.knobs.pageserver);
        let unusual = [walsender.reset_ppm, walsender.repeat_ppm, walsender.stall_ppm, pageserver.buggify_ppm, pageserver.redo_fault_ppm];
        let heard_of = walsender.keepalive_ms + MARGIN_MS <= pageserver.idle_timeout_ms;
        self.faults.is_empty() && !self.moves() && heard_of && unusual.iter().all(|ppm| *ppm == 0)
    }

    /// The same operations without anything that fails.
    pub fn calm(mut self) -> Plan {
        let (walsender, pageserver) = (&mut self.knobs.walsender, &mut self.knobs.pageserver);
        for ppm in [
            &mut walsender.reset_ppm,
            &mut walsender.repeat_ppm,
            &mut walsender.stall_ppm,
            &mut pageserver.buggify_ppm,
            &mut pageserver.redo_fault_ppm,
        ] {
            *ppm = 0;
        }
        pageserver.idle_timeout_ms = pageserver.idle_timeout_ms.max(walsender.keepalive_ms + MARGIN_MS);
        self.faults.clear();
        self.ops.retain(|op| !matches!(op.kind, OpKind::Tenant { what: TenantOp::Move, .. }));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use std::path::Path;

    #[test]
    fn a_plan_is_calm_without_its_faults() {
        let text = include_str!("../../../../scenarios/wal_source.toml");
        let scenario = Scenario::parse(Path::new("wal_source.toml"), text).expect("is right");
        let plan = Plan::expand(&scenario, 3);
        let calm = plan.clone().calm();
        assert!(!plan.is_calm() && calm.is_calm());
        assert_eq!(calm.ops, plan.ops);
        let mut silent = calm;
        silent.knobs.walsender.keepalive_ms = silent.knobs.pageserver.idle_timeout_ms;
        assert!(!silent.is_calm());
    }
}
