//! What to compact next: a function of the layers' names and sizes and the settings.

use crate::config::TenantConfig;
use crate::layer::map::Named;
use crate::layer::{LayerKind, LayerMap, LayerName};
use crate::types::{Key, Lsn};
use std::ops::Range;

/// Input of one merge in bytes, in checkpoint distances.
const MERGE_DISTANCES: u64 = 10;
/// Layers that are open for one merge: each holds a block in memory.
const MERGE_LAYERS_MAX: usize = 64;

/// What the choice depends on besides the layers.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Layers of level 0 that start a merge.
    pub compaction_threshold: usize,
    /// Deltas over an image that call for the next one.
    pub image_creation_threshold: usize,
    /// Bytes that one merge reads, or little more.
    pub merge_bytes_max: u64,
    /// Size at which a merged layer is cut.
    pub layer_bytes: u64,
    /// Size of the part of the key space that one image layer covers, in bytes before compression.
    pub part_bytes: u64,
}

impl Settings {
    pub fn of(config: &TenantConfig) -> Settings {
        Settings {
            compaction_threshold: config.compaction_threshold as usize,
            image_creation_threshold: config.image_creation_threshold as usize,
            merge_bytes_max: config.checkpoint_distance.saturating_mul(MERGE_DISTANCES),
            layer_bytes: config.checkpoint_distance,
            part_bytes: config.compaction_target_size,
        }
    }
}

/// The layers of level 0 to merge now, oldest first: at least two, whose LSNs follow each other with no other delta between.
/// `layers` are all of the timeline, in any order, with their sizes.
pub fn merge<'a>(layers: impl Iterator<Item = (&'a LayerName, u64)>, settings: &Settings) -> Option<Vec<LayerName>> {
    let deltas = layers.filter(|(name, _)| name.kind == LayerKind::Delta);
    let (mut level0, others): (Vec<_>, Vec<_>) = deltas.partition(|(name, _)| name.is_level0());
    if level0.len() < settings.compaction_threshold {
        return None;
    }
    level0.sort_by_key(|(name, _)| (name.lsns.start, name.lsns.end));
    // A layer in memory that had nothing was never written: gaps are fine, unless something else was put there.
    let follows = |before: &LayerName, next: &LayerName| {
        let gap = before.lsns.end..next.lsns.start;
        gap.start <= gap.end && !others.iter().any(|(name, _)| name.lsns.start < gap.end && gap.start < name.lsns.end)
    };
    let runs = level0.chunk_by(|(before, _), (next, _)| follows(before, next));
    let oldest = runs.into_iter().find(|run| run.len() > 1)?;
    let mut bytes = 0;
    let within = oldest.iter().enumerate().take_while(|(place, (_, size))| {
        bytes += size;
        *place < 2 || (bytes <= settings.merge_bytes_max && *place < MERGE_LAYERS_MAX)
    });
    Some(within.map(|(_, (name, _))| (*name).clone()).collect())
}

/// Whether an image at `lsn` would say more than the newest one for some key in `keys`.
pub fn has_deltas<L: Named>(map: &LayerMap<L>, keys: &Range<Key>, lsn: Lsn) -> bool {
    map.stacks(keys, Lsn(lsn.0 + 1)).any(|stack| stack.deltas > 0)
}

/// Whether so many deltas lie on the newest image of some key in `keys` that another image at `lsn` is due.
pub fn needs_image<L: Named>(map: &LayerMap<L>, keys: &Range<Key>, lsn: Lsn, settings: &Settings) -> bool {
    map.stacks(keys, Lsn(lsn.0 + 1)).any(|stack| stack.deltas >= settings.image_creation_threshold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SETTINGS: Settings =
        Settings { compaction_threshold: 3, image_creation_threshold: 2, merge_bytes_max: 100, layer_bytes: 10, part_bytes: 10 };

    fn key(n: u32) -> Key {
        Key { field6: n, ..Key::MIN }
    }

    fn level0(lsns: Range<u64>) -> LayerName {
        LayerName::delta(Key::MIN..Key::MAX, Lsn(lsns.start)..Lsn(lsns.end))
    }

    fn level1(keys: Range<u32>, lsns: Range<u64>) -> LayerName {
        LayerName::delta(key(keys.start)..key(keys.end), Lsn(lsns.start)..Lsn(lsns.end))
    }

    fn merged(layers: &[(LayerName, u64)]) -> String {
        let chosen = merge(layers.iter().map(|(name, size)| (name, *size)), &SETTINGS).unwrap_or_default();
        chosen.iter().map(|name| format!("{}-{} ", name.lsns.start.0, name.lsns.end.0)).collect()
    }

    #[test]
    fn the_oldest_run_within_the_bound_is_merged() {
        let all = |sizes: &[u64]| (0..).zip(sizes).map(|(n, size)| (level0(n * 10..n * 10 + 10), *size)).collect::<Vec<_>>();
        let with = |mut layers: Vec<(LayerName, u64)>, more: LayerName| {
            layers.insert(0, (more, 1));
            layers
        };
        for (layers, want) in [
            (all(&[1, 1]), ""),
            (all(&[1, 1, 1]), "0-10 10-20 20-30 "),
            (all(&[50, 50, 1]), "0-10 10-20 "),
            (all(&[500, 500, 1]), "0-10 10-20 "),
            (with(all(&[1, 1, 1]), level0(35..40)), "0-10 10-20 20-30 35-40 "),
            (with(all(&[1, 1, 1]), level1(0..5, 30..35)), "0-10 10-20 20-30 "),
            (with(with(all(&[1]), level1(0..5, 10..30)), level0(30..40)), ""),
            (with(with(with(all(&[1]), level1(0..5, 10..30)), level0(40..50)), level0(30..40)), "30-40 40-50 "),
            (with(all(&[1, 1]), LayerName::image(Key::MIN..Key::MAX, Lsn(12))), ""),
        ] {
            assert_eq!(merged(&layers), want, "{layers:?}");
        }
        let many = all(&[0; 100]);
        assert_eq!(merged(&many).split_whitespace().count(), MERGE_LAYERS_MAX);
    }

    struct Fixture(LayerName);

    impl Named for Fixture {
        fn name(&self) -> &LayerName {
            &self.0
        }
    }

    #[test]
    fn an_image_is_due_where_the_stack_is_high() {
        let mut map = LayerMap::default();
        let due = |map: &LayerMap<Fixture>, keys: Range<u32>, lsn| needs_image(map, &(key(keys.start)..key(keys.end)), Lsn(lsn), &SETTINGS);
        for name in [level1(0..10, 1..10), level1(0..10, 10..20), level0(20..30), level0(30..40)] {
            map.insert(Arc::new(Fixture(name)));
        }
        assert!(due(&map, 0..10, 39) && due(&map, 9..20, 39) && !due(&map, 0..10, 9) && !due(&map, 10..20, 39));
        assert!(needs_image(&map, &(Key::MIN..Key::MAX), Lsn(39), &SETTINGS), "as a whole level 0 counts");
        map.insert(Arc::new(Fixture(LayerName::image(key(0)..key(10), Lsn(19)))));
        assert!(!due(&map, 0..10, 39));
    }
}
