//! TLS towards a server, by `sslmode`.
//!
//! In: a connected stream and the connection string. Out: an encrypted stream. `require` accepts any certificate, as libpq
//! does, yet the server still proves that it owns the key of the one it shows; `verify-ca` checks who signed it, `verify-full`
//! the host name as well. Roots come only from `sslrootcert`.

use super::connstr::{ConnStr, SslMode};
use super::error::ReplicationError;
use crate::io_abstraction::{BoxStream, Env, disk};
use crate::tls::ClockTime;
use std::fmt;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Encrypts `stream` as the connection string demands.
pub async fn encrypt(env: &Env, connstr: &ConnStr, server: &str, stream: BoxStream) -> Result<BoxStream, ReplicationError> {
    let config = client_config(env, connstr)?;
    let failed = |source| ReplicationError::Tls { server: server.to_string(), source };
    let name = ServerName::try_from(connstr.host.clone()).map_err(|e| failed(std::io::Error::other(e)))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(connected))
}

/// Finds mistakes of the connection string before a socket is opened.
pub(super) fn check_settings(env: &Env, connstr: &ConnStr) -> Result<(), ReplicationError> {
    client_config(env, connstr).map(|_| ())
}

fn client_config(env: &Env, connstr: &ConnStr) -> Result<ClientConfig, ReplicationError> {
    let provider = Arc::new(ring::default_provider());
    let roots = load_roots(env, connstr)?;
    let trust = match (connstr.ssl_mode, roots) {
        (SslMode::VerifyFull, Some(roots)) => Trust::Signed { by: roots, check_name: true },
        (SslMode::VerifyCa | SslMode::Require, Some(roots)) => Trust::Signed { by: roots, check_name: false },
        (SslMode::VerifyFull | SslMode::VerifyCa, None) => {
            return Err(ReplicationError::RootCertMissing { mode: connstr.ssl_mode.name() });
        }
        _ => Trust::Anything,
    };
    let verifier = Verifier::new(trust, provider.clone())
        .map_err(|why| ReplicationError::RootCert { path: connstr.ssl_root_cert.clone().unwrap_or_default(), why })?;
    let time = Arc::new(ClockTime(env.clock.clone()));
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .expect("the ring provider supports TLS 1.2 and 1.3");
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn load_roots(env: &Env, connstr: &ConnStr) -> Result<Option<Vec<CertificateDer<'static>>>, ReplicationError> {
    let Some(path) = &connstr.ssl_root_cert else { return Ok(None) };
    let wrong = |why: String| ReplicationError::RootCert { path: path.clone(), why };
    let pem = disk::read_file(env.disk.as_ref(), path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|e| wrong(format!("is not a PEM file: {e}")))?;
    if certificates.is_empty() {
        return Err(wrong("holds no PEM certificate".to_string()));
    }
    Ok(Some(certificates))
}

enum Trust {
    Anything,
    Signed { by: Vec<CertificateDer<'static>>, check_name: bool },
}

struct Verifier {
    trust: Trust,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        let chain = match &trust {
            Trust::Anything => None,
            Trust::Signed { by, .. } => {
                let mut roots = RootCertStore::empty();
                for certificate in by {
                    roots.add(certificate.clone()).map_err(|e| e.to_string())?;
                }
                let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
                Some(built.map_err(|e| e.to_string())?)
            }
        };
        Ok(Verifier { trust, chain, provider })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (Trust::Signed { by, check_name }, Some(chain)) = (&self.trust, &self.chain) else {
            return Ok(ServerCertVerified::assertion());
        };
        // A self-signed server certificate that is its own root: the path builder would refuse a CA as end of the chain.
        if by.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if *check_name {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is checked before the name, so this error means that the chain is good.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if !check_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
