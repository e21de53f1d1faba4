//! The manifest of a tenant: its settings, and in which generation it is attached.
//!
//! Invariants
//! - RM-5: nothing of a tenant is written before the manifest of the writer's generation is stored. It is created, so that of two
//!   nodes one has the generation, and whoever reads an index has told the node before of it.
//! - RM-6: an object is deleted, and an LSN is told as remotely consistent, only after a look at the manifests that is later than
//!   the index it follows from, and that found no newer generation.
//! - RM-7: a change is confirmed (a creation, a deletion, settings) only after a look at the manifests that is later than the
//!   write it consists of, and that found no newer generation; an attachment reads what its predecessor wrote after its own
//!   manifest is stored. So what was confirmed is never lost to a node that took the tenant over meanwhile.

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
/// Looks at the list of manifests until the newest of them is still there when it is read.
const LIST_TRIES: u32 = 5;
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
    /// The attachment before, until something is changed. While its manifest is there, the claim was perhaps cut off before it was
    /// read for the last time, and what it says counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
}

/// An earlier attachment whose manifest may have been changed while a later one began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    pub generation: Generation,
    /// Its settings count too, not only the mark of its deletion: the later attachment was given none.
    pub settings: bool,
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
        for _ in 0..LIST_TRIES {
            match self.newest_among(tenant, &self.attachments(tenant).await?).await {
                // It was removed since: there is a newer one.
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        Err(RemoteError::NotFound { path: path::tenant(tenant).to_string() })
    }

    /// The manifest of the newest of these generations, which are those that are there, with what it has to take over.
    pub async fn newest_among(&self, tenant: TenantId, present: &[Generation]) -> Result<Option<(Generation, Manifest)>, RemoteError> {
        let Some(&newest) = present.last() else { return Ok(None) };
        let mut manifest = self.manifest(tenant, newest).await?;
        let (mut at, mut next) = (newest, manifest.follows);
        // Each is older than the one before, whatever the objects say.
        while let Some(follows) = next.filter(|follows| follows.generation < at && present.contains(&follows.generation)) {
            let before = match self.manifest(tenant, follows.generation).await {
                // Its successor has read it, and is removing it.
                Err(error) if error.is_not_found() => break,
                other => other?,
            };
            manifest.deleting |= before.deleting;
            if follows.settings {
                manifest.settings = before.settings;
            }
            at = follows.generation;
            next = before.follows.map(|further| Follows { settings: follows.settings && further.settings, ..further });
        }
        Ok(Some((newest, manifest)))
    }

    async fn manifest(&self, tenant: TenantId, generation: Generation) -> Result<Manifest, RemoteError> {
        let path = path::manifest(tenant, generation);
        let bytes = self.get(&path).await?;
        serde_json::from_slice(&bytes).map_err(|error| RemoteError::Manifest { path: path.to_string(), error })
    }

    /// Attaches the tenant in this client's generation, which nobody has yet.
    pub async fn claim(
        &self,
        tenant: TenantId,
        settings: Map<String, Value>,
        deleting: bool,
        follows: Option<Follows>,
    ) -> Result<StoredManifest, ClaimError> {
        let mut random = self.env.rng.stream(&format!("claim {tenant} {}", self.generation().0));
        let claim = format!("{:016x}{:016x}", rng::below(&mut random, u64::MAX), rng::below(&mut random, u64::MAX));
        let content = Manifest { version: MANIFEST_VERSION, tenant_id: tenant, claim, settings, deleting, follows };
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
        let content = Manifest { follows: None, ..content };
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
