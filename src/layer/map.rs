//! Which layer to read next for a key below an LSN.

use super::name::{LayerKind, LayerName};
use crate::types::{Key, Lsn};
use std::ops::Range;
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

/// How far the search for one key has come: what is still to be read lies below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below {
    /// Versions below this.
    pub end: Lsn,
    /// Images below this. Lower than `end` where an image has no value of the key: what deltas say at its LSN is still to be read.
    images: Lsn,
}

impl Below {
    pub fn new(end: Lsn) -> Below {
        Below { end, images: end }
    }

    /// What is left when `layer` was read down to `floor` and gave no base.
    pub fn after(self, layer: &LayerName, floor: Lsn) -> Below {
        match layer.kind {
            LayerKind::Delta => Below { end: floor, images: self.images.min(floor) },
            LayerKind::Image => Below { end: self.end.min(Lsn(floor.0 + 1)), images: floor },
        }
    }
}

/// What lies on the newest image of some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    pub keys: Range<Key>,
    /// LSN of that image.
    pub image: Option<Lsn>,
    /// Deltas with versions above it.
    pub deltas: usize,
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

    fn remove(&mut self, name: &LayerName) {
        self.images.retain(|l| l.name() != name);
        self.deltas.retain(|(_, l)| l.name() != name);
        let mut behind = Lsn::MAX;
        for (lowest, layer) in self.deltas.iter_mut().rev() {
            behind = behind.min(layer.name().lsns.start);
            *lowest = behind;
        }
    }

    /// Whether both have the same layers, so that no edge is needed between them.
    fn has_layers_of(&self, other: &Column<L>) -> bool {
        let deltas = |column: &Column<L>| column.deltas.iter().map(|(_, l)| Arc::as_ptr(l)).collect::<Vec<_>>();
        let images = |column: &Column<L>| column.images.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        images(self) == images(other) && deltas(self) == deltas(other)
    }

    /// Deltas that have versions above the newest image and below `lsn_end`.
    fn stack(&self, keys: Range<Key>, lsn_end: Lsn, with_level0: bool) -> Stack {
        let image = self.image(lsn_end).map(|l| l.name().lsns.start);
        let above = image.map_or(Lsn(0), |lsn| Lsn(lsn.0 + 1));
        let counts = |name: &LayerName| name.lsns.end > above && name.lsns.start < lsn_end && (with_level0 || !name.is_level0());
        Stack { keys, image, deltas: self.deltas.iter().filter(|(_, l)| counts(l.name())).count() }
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

    /// Takes a layer out. `None`: there is none of this name.
    pub fn remove(&mut self, name: &LayerName) -> Option<Arc<L>> {
        let key = order(name);
        let first = self.layers.partition_point(|l| order(l.name()) > key);
        let equal = self.layers.iter().skip(first).take_while(|l| order(l.name()) == key).position(|l| l.name() == name)?;
        let layer = self.layers.remove(first + equal);
        let (first, end) = (self.edge(name.keys.start), self.edge(name.keys.end));
        for column in &mut self.columns[first..end] {
            Arc::make_mut(column).remove(name);
        }
        self.join(end);
        self.join(first);
        Some(layer)
    }

    /// Puts layers in the place of others that say the same.
    ///
    /// Panics: one of `old` is not in the map, or one of `new` is and stays.
    pub fn replace(&mut self, old: &[LayerName], new: impl IntoIterator<Item = Arc<L>>) {
        for name in old {
            assert!(self.remove(name).is_some(), "layer {name} is not in the map");
        }
        new.into_iter().for_each(|layer| self.insert(layer));
    }

    /// Takes the edge between a column and the one before it away, if nothing begins or ends there any more.
    fn join(&mut self, at: usize) {
        let before = at.checked_sub(1).and_then(|before| self.columns.get(before));
        if before.zip(self.columns.get(at)).is_some_and(|(before, column)| before.has_layers_of(column)) {
            self.columns.remove(at);
        }
    }

    /// Whether this very layer is in the map.
    pub fn contains(&self, layer: &Arc<L>) -> bool {
        self.layers.iter().any(|other| Arc::ptr_eq(other, layer))
    }

    /// What lies on the newest image below `lsn_end`, for all parts of `keys` that differ in their layers. Deltas of level 0, whose
    /// number says nothing of a part, count only for the whole.
    pub fn stacks<'m>(&'m self, keys: &Range<Key>, lsn_end: Lsn) -> impl Iterator<Item = Stack> + use<'m, L> {
        let with_level0 = *keys == (Key::MIN..Key::MAX);
        let first = self.columns.partition_point(|c| c.start <= keys.start).saturating_sub(1);
        let ends = self.columns.iter().skip(first + 1).map(|c| c.start).chain([Key::MAX]);
        let keys = keys.clone();
        let columns = self.columns.iter().skip(first).zip(ends).take_while(move |(column, _)| column.start < keys.end);
        columns.map(move |(column, end)| column.stack(column.start..end, lsn_end, with_level0))
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

    /// The next layer to look into for `key`, and the LSN down to which: see [`Below::after`] for the search after it.
    ///
    /// An image hides everything older, if it has the key. A delta that starts at or above the next older image is read whole
    /// before it.
    pub fn search(&self, key: Key, below: Below) -> Option<(Arc<L>, Lsn)> {
        let lsn_end = below.end;
        // The first column begins at the lowest key.
        let column = &self.columns[self.columns.partition_point(|c| c.start <= key) - 1];
        match (column.image(below.images), column.delta(lsn_end)) {
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

    /// Follows a search for `key` at `lsn` (inclusive) down to the first image, or to the end if no image has the key.
    fn walk(layers: &str, k: u32, lsn: u64, past_images: bool) -> String {
        let mut map = LayerMap::default();
        layers.split_whitespace().for_each(|l| map.insert(Arc::new(Fixture(parse(l)))));
        let mut steps = Vec::new();
        let mut below = Below::new(Lsn(lsn + 1));
        while let Some((layer, floor)) = map.search(key(k), below) {
            let text = layers.split_whitespace().find(|l| parse(l) == layer.0).unwrap();
            steps.push(text.to_string());
            if layer.0.kind == LayerKind::Image && !past_images {
                break;
            }
            let next = below.after(&layer.0, floor);
            assert!(next.end < below.end || next.images < below.images, "the search goes down");
            below = next;
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
            assert_eq!(walk(layers, k, lsn, false), want, "{layers} key {k} at {lsn}");
        }
    }

    #[test]
    fn an_image_without_the_key_hides_nothing() {
        for (layers, lsn, want) in [
            ("D0-10@10-21 I0-10@20", 25, "I0-10@20 D0-10@10-21"),
            ("D0-10@10-31 I0-10@20", 25, "D0-10@10-31 I0-10@20 D0-10@10-31"),
            ("I0-10@9 I0-10@20 D0-10@10-21 D0-10@21-30", 29, "D0-10@21-30 I0-10@20 D0-10@10-21 I0-10@9"),
            ("I0-10@9 I0-10@20", 25, "I0-10@20 I0-10@9"),
        ] {
            assert_eq!(walk(layers, 3, lsn, true), want, "{layers} at {lsn}");
        }
    }

    fn map_of<'a>(layers: impl IntoIterator<Item = &'a LayerName>) -> LayerMap<Fixture> {
        let mut map = LayerMap::default();
        layers.into_iter().for_each(|name| map.insert(Arc::new(Fixture(name.clone()))));
        map
    }

    #[test]
    fn stacks_on_images() {
        let whole = "D@1-20 D@20-30";
        let parts = "D0-10@30-40 D0-5@40-50 D5-10@40-50 I0-5@39 D5-8@50-60";
        let mut names: Vec<LayerName> = parts.split_whitespace().map(parse).collect();
        for lsns in whole.split_whitespace() {
            names.push(LayerName::delta(Key::MIN..Key::MAX, parse(&lsns.replace('D', "D0-1")).lsns));
        }
        let map = map_of(&names);
        let of = |keys: Range<u32>, lsn_end| {
            let stacks = map.stacks(&(key(keys.start)..key(keys.end)), Lsn(lsn_end));
            stacks.map(|s| (s.image.map_or(0, |l| l.0), s.deltas)).collect::<Vec<_>>()
        };
        assert_eq!(of(0..5, 60), [(39, 1)]);
        assert_eq!(of(0..5, 39), [(0, 1)]);
        assert_eq!(of(5..10, 60), [(0, 3), (0, 2)]);
        assert_eq!(of(6..7, 60), [(0, 3)]);
        let all: Vec<_> = map.stacks(&(Key::MIN..Key::MAX), Lsn(60)).map(|s| s.deltas).collect();
        assert_eq!(all, [1, 5, 4, 2]);
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
            let map = map_of(&names);
            let found = map.search(key(k), Below::new(Lsn(lsn_end))).map(|(layer, floor)| (layer.0.clone(), floor));
            proptest::prop_assert_eq!(found, by_looking_at_all(&names, key(k), Lsn(lsn_end)));
        }

        #[test]
        fn what_was_removed_leaves_no_trace(
            layers in proptest::collection::btree_set((0u32..6, 1u32..4, 1u64..20, 0u64..8), 0..12),
            gone in proptest::collection::vec(proptest::prelude::any::<bool>(), 12),
            order in proptest::prelude::any::<u64>(),
        ) {
            let name = |(from, keys, lsn, lsns): (u32, u32, u64, u64)| match lsns {
                0 => LayerName::image(key(from)..key(from + keys), Lsn(lsn)),
                _ => LayerName::delta(key(from)..key(from + keys), Lsn(lsn)..Lsn(lsn + lsns)),
            };
            let names: Vec<LayerName> = layers.into_iter().map(name).collect();
            let (out, kept): (Vec<_>, Vec<_>) = names.iter().zip(gone).partition(|(_, gone)| *gone);
            let mut out: Vec<LayerName> = out.into_iter().map(|(name, _)| name.clone()).collect();
            let mut map = map_of(&names);
            let turn = order as usize % out.len().max(1);
            out.rotate_left(turn);
            map.replace(&out, []);
            let want = map_of(kept.iter().map(|(name, _)| *name));
            proptest::prop_assert_eq!(map.columns.iter().map(|c| c.start).collect::<Vec<_>>(), want.columns.iter().map(|c| c.start).collect::<Vec<_>>());
            let names = |map: &LayerMap<Fixture>| map.layers.iter().map(|l| l.0.clone()).collect::<Vec<_>>();
            proptest::prop_assert_eq!(names(&map), names(&want));
            for (a, b) in map.columns.iter().zip(&want.columns) {
                let lowest = |c: &Column<Fixture>| c.deltas.iter().map(|(lowest, l)| (*lowest, l.0.lsns.end)).collect::<Vec<_>>();
                proptest::prop_assert_eq!(lowest(a), lowest(b));
                proptest::prop_assert_eq!(a.images.len(), b.images.len());
            }
            proptest::prop_assert!(out.iter().all(|name| map.remove(name).is_none()));
        }
    }
}
