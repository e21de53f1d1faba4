//! The manifest of a tenant: its settings, and in which generation it is attached.
//!
//! Invariants
//! - RM-5: nothing of a tenant is written before the manifest of the writer's generation is stored. It is created, so that of two
//!   nodes one has the generation, and whoever reads an index has told the node before of it.
//! - RM-6: an object is deleted, and an LSN is told as remotely consistent, only after a look at the manifests that is later than
//!   the index it follows from, and that found no newer generation.

use super::client::{RemoteClient, RemoteError};
use super::path;
use crate::io_abstraction::rng;
use crate::types::{Generation, TenantId};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore as _, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Version of the content. Readers accept fields they do not know.
pub const MANIFEST_VERSION: u32 = 1;
/// Tries to store a manifest whose outcome was not learnt.
const CLAIM_TRIES: u32 = 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub tenant_id: TenantId,
    /// Who stored it, in random digits: a repeated try knows its own.
    #[serde(default)]
    pub claim: String,
    /// Settings that the tenant has of its own.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The tenant is being deleted; whoever attaches it goes on with that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

/// The stored manifest of an attachment; what the next one takes the place of.
#[derive(Debug)]
pub struct StoredManifest {
    pub content: Manifest,
    mode: Option<PutMode>,
}

impl StoredManifest {
    /// One that is in remote storage, as it was read; the next write looks at it again.
    pub fn found(content: Manifest) -> StoredManifest {
        StoredManifest { content, mode: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("another node attached tenant {tenant} in generation {}", generation.0)]
    Taken { tenant: TenantId, generation: Generation },
}

impl RemoteClient {
    /// Generations in which the tenant was attached, ascending, as far as their manifests are still there.
    pub async fn attachments(&self, tenant: TenantId) -> Result<Vec<Generation>, RemoteError> {
        let objects = self.list_beside(&path::tenant(tenant)).await?;
        let mut generations: Vec<Generation> = objects.iter().filter_map(path::manifest_generation).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// The manifest of the newest generation; `None`: remote storage does not know the tenant.
    pub async fn newest_manifest(&self, tenant: TenantId) -> Result<Option<(Generation, Manifest)>, RemoteError> {
        let Some(generation) = self.attachments(tenant).await?.pop() else { return Ok(None) };
        let path = path::manifest(tenant, generation);
        let bytes = self.get(&path).await?;
        let manifest = serde_json::from_slice(&bytes).map_err(|error| RemoteError::Manifest { path: path.to_string(), error })?;
        Ok(Some((generation, manifest)))
    }

    /// Attaches the tenant in this client's generation, which nobody has yet.
    pub async fn claim(&self, tenant: TenantId, settings: Map<String, Value>, deleting: bool) -> Result<StoredManifest, ClaimError> {
        let mut random = self.env.rng.stream(&format!("claim {tenant} {}", self.generation().0));
        let claim = format!("{:016x}{:016x}", rng::below(&mut random, u64::MAX), rng::below(&mut random, u64::MAX));
        let content = Manifest { version: MANIFEST_VERSION, tenant_id: tenant, claim, settings, deleting };
        let (path, taken) = (path::manifest(tenant, self.generation()), ClaimError::Taken { tenant, generation: self.generation() });
        let mut attempt = 0;
        loop {
            let error = match self.put_as(&path, encode(&content), PutMode::Create).await {
                Ok(mode) => return Ok(StoredManifest { content, mode: Some(mode) }),
                Err(error) => error,
            };
            attempt += 1;
            // A try before may have got through without an answer.
            match self.get(&path).await {
                Ok(bytes) => match serde_json::from_slice::<Manifest>(&bytes) {
                    Ok(stored) if stored.claim == content.claim => return Ok(StoredManifest { content, mode: None }),
                    _ => return Err(taken),
                },
                Err(_) if attempt < CLAIM_TRIES => self.back_off(attempt, &mut random).await,
                Err(_) => return Err(error.into()),
            }
        }
    }

    /// Changes the manifest of this generation. An error leaves it unknown which of the two is stored.
    pub async fn put_manifest(&self, stored: &mut StoredManifest, content: Manifest) -> Result<(), RemoteError> {
        let path = path::manifest(content.tenant_id, self.generation());
        let mode = match stored.mode.take() {
            Some(mode) => mode,
            None => self.mode_of(&path).await?,
        };
        // Only its owner writes it: one that is gone was removed by a newer attachment.
        if mode == PutMode::Create {
            return Err(RemoteError::NotFound { path: path.to_string() });
        }
        stored.mode = Some(self.put_as(&path, encode(&content), mode).await?);
        stored.content = content;
        Ok(())
    }

    /// Stores an object as `mode` says; gives how the next write will find it.
    pub(super) async fn put_as(&self, path: &ObjectPath, bytes: Vec<u8>, mode: PutMode) -> Result<PutMode, RemoteError> {
        let payload = PutPayload::from_bytes(bytes.into());
        let result = self.limited("put", path, self.env.store.put_opts(path, payload, mode.into())).await?;
        Ok(PutMode::Update(result.into()))
    }
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    serde_json::to_vec_pretty(manifest).expect("a manifest is plain data")
}
