//! Which layers nobody can need any more: a function of the layer map, the cutoffs and the branch points.

use crate::layer::map::Named;
use crate::layer::{LayerKind, LayerMap, LayerName};
use crate::types::{Key, Lsn};
use std::ops::Range;

/// Below which LSN history may go, for each reason to keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutoffs {
    /// `gc_horizon` bytes of WAL below the last record.
    pub horizon: Lsn,
    /// What was current `pitr_interval` ago.
    pub pitr: Lsn,
}

impl Cutoffs {
    /// Whatever keeps more history wins.
    pub fn effective(self) -> Lsn {
        self.horizon.min(self.pitr)
    }
}

/// What a pass of garbage collection found: layers, each counted once, at the first reason to keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcCounts {
    pub layers_total: u64,
    pub layers_needed_by_cutoff: u64,
    pub layers_needed_by_pitr: u64,
    pub layers_needed_by_branches: u64,
    /// Nothing newer has all of its keys.
    pub layers_not_updated: u64,
    pub layers_removed: u64,
}

/// What to remove, and what would need images before it could be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub remove: Vec<LayerName>,
    pub not_updated: Vec<Range<Key>>,
    pub counts: GcCounts,
}

/// Chooses among the layers of one timeline. `branch_points` are the LSNs at which its branches read it.
///
/// Invariant GC-1: every LSN from the effective cutoff on, and every branch point, reads as before.
pub fn choose<L: Named>(map: &LayerMap<L>, cutoffs: Cutoffs, branch_points: &[Lsn]) -> Chosen {
    let mut chosen = Chosen::default();
    let newest_branch = branch_points.iter().max();
    for layer in map.iter() {
        let name = layer.name();
        let counts = &mut chosen.counts;
        counts.layers_total += 1;
        if name.lsns.end > cutoffs.horizon {
            counts.layers_needed_by_cutoff += 1;
        } else if name.lsns.end > cutoffs.pitr {
            counts.layers_needed_by_pitr += 1;
        } else if newest_branch.is_some_and(|lsn| *lsn >= name.lsns.start) {
            counts.layers_needed_by_branches += 1;
        } else if !is_covered(map, name, cutoffs.effective()) {
            counts.layers_not_updated += 1;
            chosen.not_updated.push(name.keys.clone());
        } else {
            counts.layers_removed += 1;
            chosen.remove.push(name.clone());
        }
    }
    chosen
}

/// Whether for each key of the layer an image at or below the cutoff says all that the layer does.
fn is_covered<L: Named>(map: &LayerMap<L>, name: &LayerName, cutoff: Lsn) -> bool {
    // An image at the LSN of a delta's last version has it.
    let least = match name.kind {
        LayerKind::Delta => Lsn(name.lsns.end.0.saturating_sub(1)),
        LayerKind::Image => name.lsns.end,
    };
    map.stacks(&name.keys, Lsn(cutoff.0.saturating_add(1))).all(|stack| stack.image.is_some_and(|image| image >= least))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Bare(LayerName);

    impl Named for Bare {
        fn name(&self) -> &LayerName {
            &self.0
        }
    }

    fn key(n: u32) -> Key {
        Key { field6: n, ..Key::MIN }
    }

    /// Parts of the key space are tens of `n`; `d` is a delta, `i` an image.
    fn map(layers: &[(char, Range<u32>, Range<u64>)]) -> LayerMap<Bare> {
        let mut map = LayerMap::default();
        for (kind, keys, lsns) in layers {
            let keys = key(keys.start)..key(keys.end);
            map.insert(Arc::new(Bare(match kind {
                'd' => LayerName::delta(keys, Lsn(lsns.start)..Lsn(lsns.end)),
                _ => LayerName::image(keys, Lsn(lsns.start)),
            })));
        }
        map
    }

    fn removed(layers: &[(char, Range<u32>, Range<u64>)], cutoffs: (u64, u64), branches: &[u64]) -> (Vec<u64>, GcCounts) {
        let cutoffs = Cutoffs { horizon: Lsn(cutoffs.0), pitr: Lsn(cutoffs.1) };
        let branches: Vec<Lsn> = branches.iter().map(|lsn| Lsn(*lsn)).collect();
        let chosen = choose(&map(layers), cutoffs, &branches);
        let mut starts: Vec<u64> = chosen.remove.iter().map(|name| name.lsns.start.0).collect();
        starts.sort_unstable();
        (starts, chosen.counts)
    }

    #[test]
    fn only_what_an_image_at_or_below_the_cutoff_repeats_may_go() {
        let layers = [('i', 0..100, 10..11), ('d', 0..100, 11..50), ('i', 0..100, 49..50), ('d', 0..100, 50..90), ('i', 0..100, 89..90)];
        let at = |cutoff| removed(&layers, (cutoff, cutoff), &[]).0;
        assert_eq!(at(9), [0; 0]);
        assert_eq!(at(48), [0; 0], "the image at 49 is above");
        assert_eq!(at(49), [10], "reads at 49 take the image, but the delta reaches beyond it");
        assert_eq!(at(50), [10, 11]);
        assert_eq!(at(88), [10, 11]);
        assert_eq!(at(89), [10, 11, 49]);
        assert_eq!(at(90), [10, 11, 49, 50], "the newest image stays");
        assert_eq!(at(1000), [10, 11, 49, 50]);
    }

    #[test]
    fn each_reason_is_counted_once() {
        let layers = [
            ('d', 0..100, 10..20),
            ('d', 0..100, 20..30),
            ('d', 0..50, 30..40),
            ('d', 50..100, 30..40),
            ('i', 0..50, 39..40),
            ('d', 0..100, 40..60),
            ('d', 0..100, 60..80),
        ];
        let (gone, counts) = removed(&layers, (70, 59), &[15]);
        assert_eq!(gone, [30]);
        let expected = GcCounts {
            layers_total: 7,
            layers_needed_by_cutoff: 1,
            layers_needed_by_pitr: 1,
            layers_needed_by_branches: 1,
            layers_not_updated: 3,
            layers_removed: 1,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_branch_keeps_all_layers_that_begin_at_or_below_it() {
        let layers = [('d', 0..100, 10..20), ('d', 0..100, 20..30), ('i', 0..100, 29..30)];
        assert_eq!(removed(&layers, (99, 99), &[]).0, [10, 20]);
        assert_eq!(removed(&layers, (99, 99), &[19]).0, [20]);
        assert_eq!(removed(&layers, (99, 99), &[5, 20]).0, [0; 0]);
    }

    #[test]
    fn keys_without_an_image_keep_a_wide_layer() {
        let layers = [('d', 0..100, 10..20), ('i', 0..50, 25..26), ('i', 60..100, 25..26)];
        assert_eq!(removed(&layers, (99, 99), &[]).0, [0; 0]);
        let layers = [('d', 0..100, 10..20), ('i', 0..50, 25..26), ('i', 50..100, 19..20)];
        assert_eq!(removed(&layers, (99, 99), &[]).0, [10]);
    }
}
