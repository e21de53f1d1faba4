//! Eviction under pressure: which layers leave the local disk so that so many bytes become free.
//!
//! ```text
//! candidates of all tenants -> choose (pure): beyond each tenant's minimum, then the least recently read of all -> evict
//! ```

use super::registry::Registry;
use crate::io_abstraction::Mono;
use crate::timeline::{Layer, Timeline};
use crate::types::TenantId;
use serde::Serialize;
use std::sync::Arc;

/// A layer that could leave.
#[derive(Clone)]
pub struct Candidate {
    pub tenant: TenantId,
    timeline: Arc<Timeline>,
    layer: Arc<Layer>,
}

/// What the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weight {
    bytes: u64,
    accessed: Mono,
    /// Within what its tenant keeps at least.
    kept: bool,
}

/// What one run was to do and did, in the form of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finished {
    before: Usage,
    planned: Planned,
    assumed: Assumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Usage {
    config: Target,
    freed_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Target {
    evict_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Planned {
    respecting_tenant_min_resident_size: Usage,
    fallback_to_global_lru: Option<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Assumed {
    projected_after: Usage,
    failed: Failed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Failed {
    file_sizes: u64,
    count: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Evicted {
    NoPressure,
    Finished(Finished),
}

/// The places of the layers to evict, in order, and how many bytes of them respect the tenants' minimum.
fn choose(weights: &[Weight], target: u64) -> (Vec<usize>, u64) {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|place| (weights[*place].kept, weights[*place].accessed, *place));
    let (mut chosen, mut freed, mut respecting) = (Vec::new(), 0, 0);
    for place in order {
        if freed >= target {
            break;
        }
        freed += weights[place].bytes;
        respecting += if weights[place].kept { 0 } else { weights[place].bytes };
        chosen.push(place);
    }
    (chosen, respecting)
}

/// Which layers of one tenant are within what it keeps: the most recently read, up to `least` bytes.
fn kept(layers: &[(u64, Mono)], least: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|place| (std::cmp::Reverse(layers[*place].1), *place));
    let mut kept = vec![false; layers.len()];
    let mut sum = 0;
    for place in order {
        sum += layers[place].0;
        if sum > least {
            break;
        }
        kept[place] = true;
    }
    kept
}

impl Registry {
    /// Frees about `target` bytes of the local disk. Runs come one after the other.
    pub async fn evict(&self, target: u64) -> Evicted {
        let _alone = self.evictions.lock().await;
        if target == 0 {
            return Evicted::NoPressure;
        }
        let (candidates, weights) = self.candidates();
        let (chosen, respecting) = choose(&weights, target);
        let planned: u64 = chosen.iter().map(|place| weights[*place].bytes).sum();
        if planned > respecting {
            tracing::warn!(target, respecting, "the tenants' minimal sizes leave too little: evicting the least recently read of all");
        }
        let (mut freed, mut failed) = (0, Failed::default());
        for place in chosen {
            let Candidate { timeline, layer, .. } = &candidates[place];
            let resident = self.shared.env.clock.mono().since(layer.arrival());
            match layer.evict(timeline).await {
                Ok(true) => {
                    freed += layer.meta.file_size;
                    timeline.note_eviction(resident);
                }
                // It went by itself.
                Ok(false) => freed += layer.meta.file_size,
                Err(error) => {
                    tracing::warn!(layer = %layer.name, %error, "could not evict the layer");
                    failed = Failed { file_sizes: failed.file_sizes + layer.meta.file_size, count: failed.count + 1 };
                }
            }
        }
        let usage = |freed_bytes| Usage { config: Target { evict_bytes: target }, freed_bytes };
        Evicted::Finished(Finished {
            before: usage(0),
            planned: Planned {
                respecting_tenant_min_resident_size: usage(respecting),
                fallback_to_global_lru: (planned > respecting).then(|| usage(planned)),
            },
            assumed: Assumed { projected_after: usage(freed), failed },
        })
    }

    /// Resident layers of all tenants that serve.
    fn candidates(&self) -> (Vec<Candidate>, Vec<Weight>) {
        let (mut candidates, mut weights) = (Vec::new(), Vec::new());
        for tenant in self.tenants().into_iter().filter(|tenant| tenant.check_active().is_ok()) {
            let mut own = Vec::new();
            for handle in tenant.timelines() {
                let resident = handle.timeline.evictable().into_iter().filter(|layer| layer.is_resident());
                own.extend(resident.map(|layer| Candidate { tenant: tenant.id, timeline: handle.timeline.clone(), layer }));
            }
            let sizes: Vec<(u64, Mono)> = own.iter().map(|c| (c.layer.meta.file_size, c.layer.last_access())).collect();
            let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
            let least = tenant.attachment().and_then(|a| a.settings().min_resident_size_override).unwrap_or(largest);
            let kept = kept(&sizes, least);
            weights.extend(sizes.iter().zip(kept).map(|((bytes, accessed), kept)| Weight { bytes: *bytes, accessed: *accessed, kept }));
            candidates.extend(own);
        }
        (candidates, weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(bytes: u64, accessed: u64, kept: bool) -> Weight {
        Weight { bytes, accessed: Mono(accessed), kept }
    }

    #[test]
    fn the_least_recently_read_beyond_the_minimum_goes_first() {
        let weights = [weight(10, 5, false), weight(20, 1, true), weight(30, 3, false), weight(40, 9, false), weight(50, 0, true)];
        assert_eq!(choose(&weights, 0), (vec![], 0));
        assert_eq!(choose(&weights, 1), (vec![2], 30));
        assert_eq!(choose(&weights, 40), (vec![2, 0], 40));
        assert_eq!(choose(&weights, 41), (vec![2, 0, 3], 80));
        assert_eq!(choose(&weights, 81), (vec![2, 0, 3, 4], 80));
        assert_eq!(choose(&weights, u64::MAX), (vec![2, 0, 3, 4, 1], 80));
    }

    #[test]
    fn a_tenant_keeps_what_it_read_last() {
        let layers = [(10, Mono(1)), (20, Mono(3)), (30, Mono(2))];
        assert_eq!(kept(&layers, 0), [false, false, false]);
        assert_eq!(kept(&layers, 20), [false, true, false]);
        assert_eq!(kept(&layers, 49), [false, true, false]);
        assert_eq!(kept(&layers, 60), [true, true, true]);
    }
}
