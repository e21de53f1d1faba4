//! TLS of our own listeners.
//!
//! In: a certificate chain and its key in PEM, and accepted streams. Out: encrypted streams. Invariant: a client that does not
//! finish its handshake is dropped after [`HANDSHAKE_LIMIT`].

use crate::io_abstraction::disk::read_file;
use crate::io_abstraction::{BoxStream, Clock, ClockExt as _, Disk, Env};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::{self, ServerConfig};

/// How long a client may take for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} is no {what} in PEM: {reason}")]
    Pem { path: PathBuf, what: &'static str, reason: String },
    #[error("the certificate {cert} and the key {key} cannot be used together: {error}")]
    Pair { cert: PathBuf, key: PathBuf, error: rustls::Error },
}

/// Our side of TLS. Cheap to clone.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServer")
    }
}

impl TlsServer {
    /// Reads the certificate chain, the node's own first, and the key.
    pub fn load(env: &Env, cert: &Path, key: &Path) -> Result<TlsServer, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&*env.disk, cert)?).collect();
        let wrong = |path: &Path, what, reason: String| TlsError::Pem { path: path.to_path_buf(), what, reason };
        let chain = chain.map_err(|e| wrong(cert, "certificate", e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong(cert, "certificate", "it holds none".to_string()));
        }
        let secret = PrivateKeyDer::from_pem_slice(&read(&*env.disk, key)?).map_err(|e| wrong(key, "private key", e.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(env.clock.clone())))
            .with_safe_default_protocol_versions()
            .expect("the ring provider supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|error| TlsError::Pair { cert: cert.to_path_buf(), key: key.to_path_buf(), error })?;
        Ok(TlsServer { acceptor: TlsAcceptor::from(Arc::new(config)), clock: env.clock.clone() })
    }

    /// Does the handshake with a client.
    pub async fn accept(&self, stream: BoxStream) -> io::Result<BoxStream> {
        let accepted = self.clock.timeout(HANDSHAKE_LIMIT, self.acceptor.accept(stream)).await;
        let accepted = accepted.map_err(|elapsed| io::Error::new(io::ErrorKind::TimedOut, elapsed))??;
        Ok(Box::new(accepted))
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, TlsError> {
    read_file(disk, path).map_err(|error| TlsError::Read { path: path.to_path_buf(), error })
}

/// The node's wall clock for certificate validity.
pub struct ClockTime(pub Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.wall().unix_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_abstraction::{disk::write_file_durably, real};
    use object_store::memory::InMemory;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn files_that_cannot_be_used_are_named() {
        let env = real::env(Arc::new(InMemory::new())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            write_file_durably(&*env.disk, &path, text.as_bytes()).unwrap();
            path
        };
        let (own, other) = (certify(), certify());
        let (cert, key) = (file("cert.pem", &own.0), file("key.pem", &own.1));
        TlsServer::load(&env, &cert, &key).unwrap();
        let (other_key, garbage) = (file("other.pem", &other.1), file("garbage.pem", "-----BEGIN CERTIFICATE-----\n%\n"));
        let (absent, empty) = (directory.path().join("absent.pem"), file("empty.pem", ""));
        for (cert, key, part) in [
            (&cert, &other_key, "cannot be used together"),
            (&absent, &key, "absent.pem"),
            (&cert, &absent, "absent.pem"),
            (&garbage, &key, "garbage.pem is no certificate"),
            (&key, &key, "it holds none"),
            (&cert, &empty, "empty.pem is no private key"),
            (&cert, &cert, "cert.pem is no private key"),
        ] {
            let error = TlsServer::load(&env, cert, key).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("BEGIN"), "{error}");
        }
    }

    fn certify() -> (String, String) {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
        (certified.cert.pem(), certified.signing_key.serialize_pem())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_handshake_is_dropped() {
        let env = real::env(Arc::new(InMemory::new())).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let (cert_text, key_text) = certify();
        for (path, text) in [(&cert, cert_text), (&key, key_text)] {
            write_file_durably(&*env.disk, path, text.as_bytes()).unwrap();
        }
        let server = TlsServer::load(&env, &cert, &key).unwrap();
        let (mut client, stream) = tokio::io::duplex(64);
        let error = server.accept(Box::new(stream)).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "hung up");
    }
}
