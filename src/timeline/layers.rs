//! The layers of a timeline at one moment. Immutable: readers hold a snapshot, writers swap in a new one.

use super::layer::Layer;
use crate::layer::{LayerMap, MemoryLayer};
use std::sync::Arc;

pub struct LayerSet {
    /// Takes new versions.
    pub open: Arc<MemoryLayer>,
    /// Wait for their flush, oldest first.
    pub frozen: Vec<Arc<MemoryLayer>>,
    pub historic: Arc<LayerMap<Layer>>,
}

impl LayerSet {
    /// In-memory layers, newest first.
    pub fn memory(&self) -> impl Iterator<Item = &Arc<MemoryLayer>> {
        std::iter::once(&self.open).chain(self.frozen.iter().rev())
    }

    /// Memory in bytes held by in-memory layers.
    pub fn memory_bytes(&self) -> usize {
        self.memory().map(|l| l.memory_bytes()).sum()
    }
}
