//! Two nodes and one tenant: the one that was superseded confirms nothing, and takes nothing away.

use super::error::ChangeError;
use super::{CreateError, CreateSpec, Origin, Registry, Tenant};
use crate::config::TenantOverrides;
use crate::io_abstraction::Env;
use crate::remote::path;
use crate::timeline::testing::{self, TENANT, TIMELINE};
use crate::types::TimelineId;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const BRANCH: TimelineId = TimelineId([9; 16]);

/// A node on the storage of `env` that takes over whatever is there.
async fn node(env: &Env, directory: &Path) -> (Arc<Registry>, Arc<Tenant>) {
    let registry = Registry::new(testing::shared(env, directory, |_| {}));
    for tenant in registry.load_all(true).await.unwrap() {
        tenant.settled().await;
    }
    let tenant = registry.tenant(TENANT).unwrap();
    (registry, tenant)
}

/// Two nodes that both believe to have the tenant with its one timeline; the second is right.
async fn two(env: &Env, directories: &[tempfile::TempDir; 2]) -> [(Arc<Registry>, Arc<Tenant>); 2] {
    let shared = testing::shared(env, directories[0].path(), |_| {});
    let index = testing::root_index(&shared);
    let layer = index.layer_metadata.keys().next().unwrap().parse().unwrap();
    let home = crate::timeline::Timeline::directory(&shared.config, TENANT, TIMELINE);
    shared.remote.upload_layer(TENANT, TIMELINE, &layer, &home).await.unwrap();
    shared.remote.put_index(&mut crate::remote::StoredIndex::unknown(TENANT, TIMELINE), &index).await.unwrap();
    [node(env, directories[0].path()).await, node(env, directories[1].path()).await]
}

fn settings(distance: u64) -> TenantOverrides {
    let map = serde_json::Map::from_iter([("checkpoint_distance".to_string(), distance.into())]);
    TenantOverrides::parse(map, &Default::default()).unwrap()
}

fn directories() -> [tempfile::TempDir; 2] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn a_superseded_node_confirms_nothing() {
    let (env, directories) = (testing::memory_env(), directories());
    let [(old, tenant), (new, successor)] = two(&env, &directories).await;
    let spec = CreateSpec { timeline: BRANCH, origin: Origin::Branch { ancestor: TIMELINE, lsn: None, pg_version: None } };
    assert!(matches!(old.create_timeline(TENANT, &spec).await, Err(CreateError::Stale(TENANT))));
    assert!(tenant.timeline(BRANCH).is_err());
    assert!(matches!(old.set_overrides(&tenant, settings(8192)).await, Err(ChangeError::Superseded(TENANT))));
    assert!(matches!(old.delete_timeline(TENANT, TIMELINE).await, Err(ChangeError::Superseded(TENANT))));
    assert!(matches!(old.delete_tenant(TENANT).await, Err(ChangeError::Superseded(TENANT))));
    // Its successor has all of it, and makes the same branch.
    new.create_timeline(TENANT, &spec).await.unwrap();
    assert_eq!(successor.timelines().len(), 2);
    new.set_overrides(&successor, settings(16384)).await.unwrap();
    new.delete_timeline(TENANT, BRANCH).await.unwrap();
    for registry in [old, new] {
        registry.shutdown(false).await;
    }
}

/// A deletion that is under way when another node takes over is that node's: what it made since under the same id stays.
#[tokio::test]
async fn a_deletion_ends_where_another_node_took_over() {
    let (env, directories) = (testing::memory_env(), directories());
    let [(old, tenant), (new, _)] = two(&env, &directories).await;
    let attachment = tenant.attachment().unwrap().clone();
    let (prefix, mark) = (path::timeline(TENANT, TIMELINE), path::index(TENANT, TIMELINE, attachment.generation()));
    assert!(!old.remove_objects("the timeline", &attachment, (&prefix, &mark), &CancellationToken::new()).await);
    let left = new.shared.remote.list_objects(&path::timeline(TENANT, TIMELINE)).await.unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
    for registry in [old, new] {
        registry.shutdown(false).await;
    }
}
