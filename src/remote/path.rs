//! Object names. `<g>` is `-` and the generation of the writer in 8 hex digits.
//!
//! | object | name |
//! | --- | --- |
//! | layer | `tenants/<t>/timelines/<tl>/<layer name><g>` |
//! | index | `tenants/<t>/timelines/<tl>/index_part.json<g>` |
//! | manifest of a tenant | `tenants/<t>/tenant-manifest.json<g>` |

use crate::layer::LayerName;
use crate::types::{Generation, TenantId, TimelineId};
use object_store::path::Path;

const INDEX: &str = "index_part.json";
const MANIFEST: &str = "tenant-manifest.json";

pub fn tenants() -> Path {
    Path::from("tenants")
}

pub fn tenant(tenant: TenantId) -> Path {
    Path::from(format!("tenants/{tenant}"))
}

pub fn timelines(tenant: TenantId) -> Path {
    Path::from(format!("tenants/{tenant}/timelines"))
}

pub fn timeline(tenant: TenantId, timeline: TimelineId) -> Path {
    Path::from(format!("tenants/{tenant}/timelines/{timeline}"))
}

pub fn layer(tenant: TenantId, timeline: TimelineId, name: &LayerName, generation: Generation) -> Path {
    Path::from(format!("tenants/{tenant}/timelines/{timeline}/{name}{}", generation.suffix()))
}

pub fn index(tenant: TenantId, timeline: TimelineId, generation: Generation) -> Path {
    Path::from(format!("tenants/{tenant}/timelines/{timeline}/{INDEX}{}", generation.suffix()))
}

pub fn manifest(tenant: TenantId, generation: Generation) -> Path {
    Path::from(format!("tenants/{tenant}/{MANIFEST}{}", generation.suffix()))
}

/// The generation of an index object.
pub fn index_generation(path: &Path) -> Option<Generation> {
    generation_of(path, INDEX)
}

/// The generation of a manifest object.
pub fn manifest_generation(path: &Path) -> Option<Generation> {
    generation_of(path, MANIFEST)
}

fn generation_of(path: &Path, stem: &str) -> Option<Generation> {
    let (name, generation) = Generation::split_suffix(path.filename()?)?;
    (name == stem).then_some(generation)
}
