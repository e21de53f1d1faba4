//! Who may do what: tokens, the keys that verify them, and what stands before each listener.
//!
//! ```text
//! pal keygen -> keys (private, public)      pal token -> token (signed with the private key)
//! listener -> Guard: TLS, then Auth::verify(token) -> Permission -> asked before every request and command
//! ```
//!
//! Invariant TK-1: a permission comes from nothing but a token whose signature a key of the newest loaded set verifies and whose
//! time has not passed, or from a listener whose settings say that it trusts everybody.

pub mod guard;
pub mod keys;
pub mod token;

pub use guard::{Guard, GuardError, Guards};
pub use keys::{KeyError, KeySet, SigningKey};
pub use token::{Claims, TokenError};

use crate::io_abstraction::{Clock, Disk, Env, Tasks};
use crate::types::TenantId;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Everything, on every tenant and on the node itself.
    Everything,
    /// What concerns this tenant and nothing else.
    Tenant(TenantId),
}

impl Permission {
    /// Whether it is enough for something that concerns `tenant`, or for `None` the node as a whole.
    pub fn covers(self, tenant: Option<TenantId>) -> bool {
        match self {
            Permission::Everything => true,
            Permission::Tenant(own) => tenant == Some(own),
        }
    }
}

/// Verifies tokens with keys that may be exchanged while it runs.
pub struct Auth {
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    tasks: Tasks,
    path: PathBuf,
    keys: Mutex<Arc<KeySet>>,
    /// Two loads at a time could end with the older keys.
    loading: tokio::sync::Mutex<()>,
    refused: IntCounterVec,
}

impl Auth {
    /// Loads the keys of a file or directory.
    pub fn load(env: &Env, path: &Path) -> Result<Auth, KeyError> {
        let keys = KeySet::load(&*env.disk, path)?;
        tracing::info!(path = %path.display(), keys = keys.len(), "keys for tokens loaded");
        let refused = Opts::new("palimpsest_auth_refused_total", "Requests, connections and commands refused for their token");
        let refused = IntCounterVec::new(refused, &["listener"]).expect("name and label are valid");
        // A second node of one environment, which has its figures already, counts on its own.
        let _ = env.metrics.register(Box::new(refused.clone()));
        Ok(Auth {
            clock: env.clock.clone(),
            disk: env.disk.clone(),
            tasks: env.tasks.clone(),
            path: path.to_path_buf(),
            keys: Mutex::new(Arc::new(keys)),
            loading: tokio::sync::Mutex::default(),
            refused,
        })
    }

    /// Loads the keys again. Errors: the keys stay as they were.
    pub async fn reload(&self) -> Result<(), KeyError> {
        let _alone = self.loading.lock().await;
        let (disk, path) = (self.disk.clone(), self.path.clone());
        let keys = self.tasks.blocking("load-auth-keys", move || KeySet::load(&*disk, &path)).await?;
        tracing::info!(path = %self.path.display(), keys = keys.len(), "keys for tokens loaded");
        *self.keys.lock() = Arc::new(keys);
        Ok(())
    }

    /// What the bearer of this token may do now.
    pub fn verify(&self, text: &str) -> Result<Permission, TokenError> {
        let keys = self.keys.lock().clone();
        token::verify(text, &keys, self.clock.wall()).map(|claims| claims.permission)
    }

    /// Counts a refusal.
    pub fn count_refusal(&self, listener: &str) {
        self.refused.with_label_values(&[listener]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_abstraction::{disk::write_file_durably, real};

    const TENANT: TenantId = TenantId([7; 16]);

    #[test]
    fn permissions() {
        let other = TenantId([8; 16]);
        for (permission, node, own, others) in
            [(Permission::Everything, true, true, true), (Permission::Tenant(TENANT), false, true, false)]
        {
            let covers = [None, Some(TENANT), Some(other)].map(|wanted| permission.covers(wanted));
            assert_eq!(covers, [node, own, others], "{permission:?}");
        }
    }

    #[tokio::test]
    async fn keys_are_exchanged_whole_or_not_at_all() {
        let env = real::env(Arc::new(object_store::memory::InMemory::new())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| write_file_durably(&*env.disk, &directory.path().join(name), text.as_bytes()).unwrap();
        let (old, new) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        write("old.pem", &old.public_pem());
        let auth = Auth::load(&env, directory.path()).unwrap();
        let claims = Claims { permission: Permission::Tenant(TENANT), expires: None };
        let (by_old, by_new) = (token::encode(&claims, &old), token::encode(&claims, &new));
        let valid = || [&by_old, &by_new].map(|text| auth.verify(text).is_ok());
        assert_eq!((valid(), auth.verify(&by_old).unwrap()), ([true, false], Permission::Tenant(TENANT)));

        write("new.pem", &new.public_pem());
        assert_eq!(valid(), [true, false], "not before it is asked for");
        auth.reload().await.unwrap();
        assert_eq!(valid(), [true, true]);

        write("new.pem", "garbage");
        assert!(auth.reload().await.unwrap_err().to_string().contains("new.pem"));
        assert_eq!(valid(), [true, true], "the keys stay");

        env.disk.unlink(&directory.path().join("old.pem")).unwrap();
        write("new.pem", &new.public_pem());
        auth.reload().await.unwrap();
        assert_eq!(valid(), [false, true]);
    }
}
