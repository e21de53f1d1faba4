//! What stands before each listener, made from the settings: TLS and tokens.

use super::keys::KeyError;
use super::{Auth, Permission};
use crate::config::{AuthType, Config, PageTls};
use crate::io_abstraction::Env;
use crate::tls::{TlsError, TlsServer};
use std::sync::Arc;

/// Keys or certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("authentication: {0}")]
    Keys(#[from] KeyError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
}

/// What a client of one listener has to get past. The default lets everybody in.
#[derive(Clone, Default)]
pub struct Guard {
    pub tls: Option<TlsServer>,
    /// Clients without TLS are turned away.
    pub tls_required: bool,
    /// Verifies tokens; `None`: everybody may do everything.
    pub auth: Option<Arc<Auth>>,
}

impl Guard {
    /// What somebody may do who has shown nothing yet.
    pub fn first_permission(&self) -> Option<Permission> {
        self.auth.is_none().then_some(Permission::Everything)
    }
}

/// Both listeners.
#[derive(Clone, Default)]
pub struct Guards {
    pub http: Guard,
    pub pages: Guard,
    /// Keys that can be loaded again; `None`: no listener asks for tokens.
    pub keys: Option<Arc<Auth>>,
}

impl Guards {
    /// Loads keys and certificates.
    pub fn load(env: &Env, config: &Config) -> Result<Guards, GuardError> {
        let mut keys = None;
        if config.needs_keys() {
            let path = config.auth_validation_public_key_path.as_ref().ok_or(KeyError::NoPath)?;
            keys = Some(Arc::new(Auth::load(env, path)?));
        }
        let tls = match (&config.ssl_cert_file, &config.ssl_key_file) {
            (Some(cert), Some(key)) => Some(TlsServer::load(env, cert, key)?),
            _ => None,
        };
        let guard = |auth: AuthType, tls_required: bool| Guard {
            tls_required: tls.is_some() && tls_required,
            tls: tls.clone(),
            auth: keys.clone().filter(|_| auth == AuthType::Jwt),
        };
        let (http, pages) = (guard(config.http_auth_type, true), guard(config.pg_auth_type, config.pg_tls == PageTls::Require));
        Ok(Guards { http, pages, keys })
    }
}
