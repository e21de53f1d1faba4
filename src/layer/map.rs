//! Which layer to read next for a key below an LSN.

use super::name::{LayerKind, LayerName};
use crate::types::{Key, Lsn};
use std::sync::Arc;

/// Something with a layer's name: a remote or resident layer.
pub trait Named {
    fn name(&self) -> &LayerName;
}

/// The historic layers of one timeline.
#[derive(Debug)]
pub struct LayerMap<L> {
    /// Newest first by the end of their LSN range.
    layers: Vec<Arc<L>>,
    /// Ascending; every key is in exactly one. A wide layer is in many.
    columns: Vec<Arc<Column<L>>>,
}

/// The keys between two edges of layers: within it all keys have the same layers.
#[derive(Debug)]
struct Column<L> {
    start: Key,
    /// Ascending by LSN.
    images: Vec<Arc<L>>,
    /// Ascending by end; each with the lowest start among itself and all behind it.
    deltas: Vec<(Lsn, Arc<L>)>,
}

impl<L> Clone for Column<L> {
    fn clone(&self) -> Column<L> {
        Column { start: self.start, images: self.images.clone(), deltas: self.deltas.clone() }
    }
}

impl<L> Clone for LayerMap<L> {
    fn clone(&self) -> LayerMap<L> {
        LayerMap { layers: self.layers.clone(), columns: self.columns.clone() }
    }
}

impl<L> Default for LayerMap<L> {
    fn default() -> LayerMap<L> {
        let whole = Column { start: Key::MIN, images: Vec::new(), deltas: Vec::new() };
        LayerMap { layers: Vec::new(), columns: vec![Arc::new(whole)] }
    }
}

/// Newest first; of layers that end together an image is newer than a delta, for it includes what the delta says.
fn order(name: &LayerName) -> (Lsn, bool, Lsn, Key) {
    (name.lsns.end, name.kind == LayerKind::Image, name.lsns.start, name.keys.start)
}

impl<L: Named> Column<L> {
    fn insert(&mut self, layer: &Arc<L>) {
        let lsns = &layer.name().lsns;
        match layer.name().kind {
            LayerKind::Image => {
                let at = self.images.partition_point(|l| l.name().lsns.start < lsns.start);
                self.images.insert(at, layer.clone());
            }
            LayerKind::Delta => {
                let at = self.deltas.partition_point(|(_, l)| l.name().lsns.end < lsns.end);
                let behind = self.deltas.get(at).map_or(Lsn::MAX, |(lowest, _)| *lowest);
                self.deltas.insert(at, (behind.min(lsns.start), layer.clone()));
                self.deltas[..at].iter_mut().for_each(|(lowest, _)| *lowest = (*lowest).min(lsns.start));
            }
        }
    }

    /// The newest image below `lsn_end`.
    fn image(&self, lsn_end: Lsn) -> Option<&Arc<L>> {
        let newer = self.images.partition_point(|l| l.name().lsns.start < lsn_end);
        self.images[..newer].last()
    }

    /// A delta with the newest versions below `lsn_end`.
    fn delta(&self, lsn_end: Lsn) -> Option<&Arc<L>> {
        let around = self.deltas.partition_point(|(_, l)| l.name().lsns.end < lsn_end);
        let (older, newer) = self.deltas.split_at(around);
        let reaching = newer.iter().take_while(|(lowest, _)| *lowest < lsn_end).find(|(_, l)| l.name().lsns.start < lsn_end);
        reaching.or(older.last()).map(|(_, layer)| layer)
    }
}

impl<L: Named> LayerMap<L> {
    /// Adds a layer.
    ///
    /// Panics: the map has a layer of this name, which would mean that history was written twice.
    pub fn insert(&mut self, layer: Arc<L>) {
        let key = order(layer.name());
        let at = self.layers.partition_point(|l| order(l.name()) > key);
        let taken = self.layers.iter().skip(at).take_while(|l| order(l.name()) == key).any(|l| l.name() == layer.name());
        assert!(!taken, "layer {} is in the map already", layer.name());
        let first = self.edge(layer.name().keys.start);
        let end = self.edge(layer.name().keys.end);
        for column in &mut self.columns[first..end] {
            Arc::make_mut(column).insert(&layer);
        }
        self.layers.insert(at, layer);
    }

    /// The column that begins at `key`, split off if need be.
    fn edge(&mut self, key: Key) -> usize {
        let at = self.columns.partition_point(|c| c.start < key);
        if self.columns.get(at).is_none_or(|c| c.start != key) {
            let split = Column { start: key, ..Column::clone(&self.columns[at - 1]) };
            self.columns.insert(at, Arc::new(split));
        }
        at
    }

    /// All layers, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<L>> {
        self.layers.iter()
    }

    pub fn len(&self) -> usize {
        self.layers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The next layer to look into for `key`, reading versions below `lsn_end`, and the bound for the search after it.
    ///
    /// An image hides everything older. A delta that starts at or above the next older image is read whole before it.
    pub fn search(&self, key: Key, lsn_end: Lsn) -> Option<(Arc<L>, Lsn)> {
        // The first column begins at the lowest key.
        let column = &self.columns[self.columns.partition_point(|c| c.start <= key) - 1];
        match (column.image(lsn_end), column.delta(lsn_end)) {
            (None, None) => None,
            (Some(image), None) => Some((image.clone(), image.name().lsns.start)),
            (None, Some(delta)) => Some((delta.clone(), delta.name().lsns.start)),
            (Some(image), Some(delta)) => {
                let (image_lsn, delta_name) = (image.name().lsns.start, delta.name());
                // The delta's newest readable version is at most its end - 1: an image at or above that wins.
                if Lsn(image_lsn.0 + 1) >= delta_name.lsns.end.min(lsn_end) {
                    Some((image.clone(), image_lsn))
                } else {
                    Some((delta.clone(), delta_name.lsns.start.max(Lsn(image_lsn.0 + 1))))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture(LayerName);

    impl Named for Fixture {
        fn name(&self) -> &LayerName {
            &self.0
        }
    }

    fn key(n: u32) -> Key {
        Key { field6: n, ..Key::MIN }
    }

    /// `D0-10@10-20` is a delta of keys 0..10 and LSNs 10..20, `I0-10@20` an image.
    fn parse(text: &str) -> LayerName {
        let (keys, lsns) = text[1..].split_once('@').unwrap();
        let (a, b) = keys.split_once('-').unwrap();
        let keys = key(a.parse().unwrap())..key(b.parse().unwrap());
        match lsns.split_once('-') {
            Some((a, b)) => LayerName::delta(keys, Lsn(a.parse().unwrap())..Lsn(b.parse().unwrap())),
            None => LayerName::image(keys, Lsn(lsns.parse().unwrap())),
        }
    }

    /// Follows a search for `key` at `lsn` (inclusive) down to the first image, as `name@bound` steps.
    fn walk(layers: &str, k: u32, lsn: u64) -> String {
        let mut map = LayerMap::default();
        layers.split_whitespace().for_each(|l| map.insert(Arc::new(Fixture(parse(l)))));
        let mut steps = Vec::new();
        let mut end = Lsn(lsn + 1);
        while let Some((layer, next)) = map.search(key(k), end) {
            let text = layers.split_whitespace().find(|l| parse(l) == layer.0).unwrap();
            steps.push(text.to_string());
            if layer.0.kind == LayerKind::Image {
                break;
            }
            assert!(next < end, "the search goes down");
            end = next;
        }
        steps.join(" ")
    }

    #[test]
    fn visible_layers() {
        for (layers, k, lsn, want) in [
            ("D0-10@10-20 I0-10@20", 3, 25, "I0-10@20"),
            ("D0-10@10-20", 3, 15, "D0-10@10-20"),
            ("D0-10@10-20", 11, 15, ""),
            ("D0-10@10-20", 3, 9, ""),
            ("I0-10@9 D0-10@10-20 D0-10@20-30", 3, 25, "D0-10@20-30 D0-10@10-20 I0-10@9"),
            ("I0-10@9 I0-10@20 D0-10@10-21 D0-10@21-30", 3, 25, "D0-10@21-30 I0-10@20"),
            ("I0-10@9 I0-10@15 D0-10@10-21", 3, 20, "D0-10@10-21 I0-10@15"),
            ("I0-10@9 I0-10@15 D0-10@10-21", 3, 15, "I0-10@15"),
            ("I0-10@9 I0-10@15 D0-10@10-21", 3, 14, "D0-10@10-21 I0-10@9"),
            ("I0-5@9 I5-10@12 D0-10@10-21", 3, 14, "D0-10@10-21 I0-5@9"),
            ("I0-5@9 I5-10@12 D0-10@10-21", 7, 14, "D0-10@10-21 I5-10@12"),
            ("I0-5@9 I5-10@12 D0-10@10-21", 7, 12, "I5-10@12"),
        ] {
            assert_eq!(walk(layers, k, lsn), want, "{layers} key {k} at {lsn}");
        }
    }

    /// What the search must find, by looking at every layer.
    fn by_looking_at_all(layers: &[LayerName], key: Key, lsn_end: Lsn) -> Option<(LayerName, Lsn)> {
        let covering = || layers.iter().filter(|l| l.keys.contains(&key) && l.lsns.start < lsn_end);
        let image = covering().filter(|l| l.kind == LayerKind::Image).max_by_key(|l| l.lsns.start);
        let delta_end = |l: &LayerName| l.lsns.end.min(lsn_end);
        let delta = covering().filter(|l| l.kind == LayerKind::Delta).max_by_key(|l| delta_end(l));
        match (image, delta) {
            (Some(image), Some(delta)) if image.lsns.end < delta_end(delta) => Some((delta.clone(), delta.lsns.start.max(image.lsns.end))),
            (Some(image), _) => Some((image.clone(), image.lsns.start)),
            (None, delta) => delta.map(|delta| (delta.clone(), delta.lsns.start)),
        }
    }

    proptest::proptest! {
        #[test]
        fn a_search_misses_nothing(
            deltas in proptest::collection::vec((1u64..6, 0u32..2), 0..8),
            images in proptest::collection::btree_set((1u64..40, 0u32..2), 0..8),
            k in 0u32..4,
            lsn_end in 1u64..45,
        ) {
            // Deltas of one half of the keys follow each other; images are anywhere.
            let half = |half: u32| key(half * 2)..key(half * 2 + 2);
            let mut ends = [1u64; 2];
            let mut names: Vec<LayerName> = Vec::new();
            for (length, of) in deltas {
                let start = ends[of as usize];
                ends[of as usize] += length;
                names.push(LayerName::delta(half(of), Lsn(start)..Lsn(start + length)));
            }
            names.extend(images.into_iter().map(|(lsn, of)| LayerName::image(half(of), Lsn(lsn))));
            let mut map = LayerMap::default();
            names.iter().for_each(|name| map.insert(Arc::new(Fixture(name.clone()))));
            let found = map.search(key(k), Lsn(lsn_end)).map(|(layer, floor)| (layer.0.clone(), floor));
            proptest::prop_assert_eq!(found, by_looking_at_all(&names, key(k), Lsn(lsn_end)));
        }
    }
}
