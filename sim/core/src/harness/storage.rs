//! What is in remote storage at the end, looked at without the node.
//!
//! - `SW-1`: once a tenant is attached anew and nothing fails, every layer of earlier generations is named by the newest index of
//!   its timeline, and there is one manifest.

use super::{PAGESERVER, Scene};
use palimpsest::io_abstraction::ClockExt as _;
use palimpsest::layer::LayerName;
use palimpsest::remote::{RemoteClient, RemoteError, path};
use palimpsest::types::Generation;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until nothing is left that nobody names.
pub async fn swept(scene: &Scene) {
    let inner = scene.clone();
    let look = async move {
        let remote = RemoteClient::new(&inner.cluster.env(PAGESERVER), Generation(u32::MAX));
        let end = inner.now().after(LIMIT);
        loop {
            let left = match leftovers(&inner, &remote).await {
                Ok(left) if left.is_empty() => return inner.count("swept"),
                Ok(left) => left,
                // Objects go away while they are looked at.
                Err(error) => vec![error.to_string()],
            };
            if inner.judge.verdict().is_some() {
                return;
            }
            if inner.now() > end {
                return inner.judge.violated("SW-1", format!("{LIMIT:?} after the start nobody names {}", left.join(", ")));
            }
            inner.client.clock.sleep(PAUSE).await;
        }
    };
    scene.client.tasks.spawn("look-at-storage", look).join().await;
}

async fn leftovers(scene: &Scene, remote: &RemoteClient) -> Result<Vec<String>, RemoteError> {
    let manifests = remote.attachments(scene.tenant).await?;
    let newest = manifests.last().copied().unwrap_or(Generation::FIRST);
    let mut left: Vec<String> = manifests.iter().filter(|g| **g != newest).map(|g| format!("manifest of generation {}", g.0)).collect();
    for timeline in remote.list_timelines(scene.tenant).await? {
        let objects = remote.list_objects(&path::timeline(scene.tenant, timeline)).await?;
        let index = match remote.index_among(scene.tenant, timeline, &objects).await {
            Err(error) if error.is_not_found() => None,
            other => Some(other?),
        };
        for (name, of) in objects.iter().filter_map(|object| Generation::split_suffix(object.filename()?)) {
            let named = index.as_ref().and_then(|index| index.layer_metadata.get(name)).is_some_and(|meta| meta.generation == of);
            if of < newest && !named && name.parse::<LayerName>().is_ok() {
                left.push(format!("{timeline}/{name}{}", of.suffix()));
            }
        }
    }
    Ok(left)
}
