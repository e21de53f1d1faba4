//! Asking over HTTP: one connection for each request, everything bounded in time and size.

use super::answer::{self, AnswerError, Assigned};
use crate::config::{Config, ConfigError, UpcallUrl};
use crate::io_abstraction::{Address, BoxStream, ClockExt as _, Env, rng};
use crate::replication::{ConnStr, ReplicationError, SslMode, tls};
use crate::types::{Generation, TenantId};
use bytes::Bytes;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Limit of one request, from the connection to the last byte of the answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Largest answer taken: some 200,000 tenants.
pub(super) const ANSWER_MAX: usize = 16 << 20;
/// Tenants that one request asks for.
const ASK_TOGETHER: usize = 4096;
/// Tries without an answer before the log warns.
const QUIET_TRIES: u32 = 3;
/// First and longest pause between two tries of a start.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// No answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    #[error("no control plane is at {url} ({source}): start it, or set control_plane_api to where it is")]
    Connect {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("control plane {url}: {source}; control_plane_api_ca has to be the certificate that has signed its own, or is it")]
    Tls {
        url: String,
        #[source]
        source: ReplicationError,
    },
    #[error("the connection to the control plane broke at POST {url}: {source}")]
    Broken {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the control plane gave no answer to POST {url} within {after:?}")]
    TimedOut { url: String, after: Duration },
    #[error("the control plane answered POST {url} with status {status}: {}{said}", advice(*status))]
    Refused { url: String, status: u16, said: String },
    #[error(
        "the answer of the control plane to POST {url} cannot be used: {error}; look whether control_plane_api is the URL of its upcalls"
    )]
    Answer { url: String, error: AnswerError },
}

/// A sentence about what to do.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "control_plane_api_token is not the token that it wants; ",
        404 | 405 => "control_plane_api is not the URL of its upcalls; ",
        _ => "",
    }
}

/// The control plane, as one node asks it.
#[derive(Clone)]
pub struct ControlPlane {
    env: Env,
    url: UpcallUrl,
    node: u64,
    authorization: Option<HeaderValue>,
    /// Certificates that the control plane's is checked against.
    ca: Option<PathBuf>,
}

impl ControlPlane {
    /// `None`: this node has no control plane.
    pub fn new(env: &Env, config: &Config) -> Result<Option<ControlPlane>, ConfigError> {
        let Some(url) = config.control_plane()? else { return Ok(None) };
        let header = |token: &crate::config::Secret| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| ConfigError::Invalid {
                key: "control_plane_api_token",
                value: "***".to_string(),
                reason: "the token holds characters that no token has",
            })?;
            value.set_sensitive(true);
            Ok(value)
        };
        let authorization = config.control_plane_api_token.as_ref().map(header).transpose()?;
        let (node, ca) = (config.id, config.control_plane_api_ca.clone());
        Ok(Some(ControlPlane { env: env.clone(), url, node, authorization, ca }))
    }

    /// Which tenants this node has from now on, asked until there is an answer. Each try may use up generations.
    pub async fn assigned(&self) -> BTreeMap<TenantId, Assigned> {
        let mut jitter = self.env.rng.stream("re-attach-backoff");
        let mut attempt = 0;
        loop {
            let error = match self.re_attach().await {
                Ok(assigned) => return assigned,
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= QUIET_TRIES {
                tracing::warn!(attempt, %error, "the node waits for the control plane to say which tenants it has");
            }
            let grown = (PAUSE * 2u32.saturating_pow(attempt.min(16))).min(PAUSE_MAX).as_millis() as u64;
            let pause = Duration::from_millis(grown / 2 + rng::below(&mut jitter, grown / 2 + 1));
            self.env.clock.sleep(pause).await;
        }
    }

    /// One try of the same.
    pub async fn re_attach(&self) -> Result<BTreeMap<TenantId, Assigned>, ControlPlaneError> {
        let bytes = self.post("re-attach", answer::re_attach_request(self.node)).await?;
        answer::re_attached(&bytes).map_err(|error| self.unusable("re-attach", error))
    }

    /// Those of the attachments that are the newest of their tenants; one try. An error says nothing of any.
    pub async fn validate(&self, attachments: &[(TenantId, Generation)]) -> Result<BTreeSet<TenantId>, ControlPlaneError> {
        let mut valid = BTreeSet::new();
        for asked in attachments.chunks(ASK_TOGETHER) {
            let bytes = self.post("validate", answer::validate_request(asked)).await?;
            valid.append(&mut answer::validated(asked, &bytes).map_err(|error| self.unusable("validate", error))?);
        }
        Ok(valid)
    }

    fn url_of(&self, call: &str) -> String {
        format!("{}/{call}", self.url)
    }

    fn unusable(&self, call: &str, error: AnswerError) -> ControlPlaneError {
        ControlPlaneError::Answer { url: self.url_of(call), error }
    }

    async fn post(&self, call: &str, body: Vec<u8>) -> Result<Bytes, ControlPlaneError> {
        let timed_out = |_| ControlPlaneError::TimedOut { url: self.url_of(call), after: LIMIT };
        let (status, bytes) = self.env.clock.timeout(LIMIT, self.exchange(call, body)).await.map_err(timed_out)??;
        if status != 200 {
            let said = answer::shown(&String::from_utf8_lossy(&bytes));
            return Err(ControlPlaneError::Refused { url: self.url_of(call), status, said });
        }
        Ok(bytes)
    }

    async fn connect(&self) -> Result<BoxStream, ControlPlaneError> {
        let url = || self.url.to_string();
        let connected = self.env.net.connect(&self.url.address).await;
        let stream = connected.map_err(|source| ControlPlaneError::Connect { url: url(), source })?;
        let (true, Address::Tcp { host, .. }) = (self.url.tls, &self.url.address) else { return Ok(stream) };
        let connstr = ConnStr { host: host.clone(), ssl_mode: SslMode::VerifyFull, ssl_root_cert: self.ca.clone(), ..ConnStr::default() };
        let encrypted = tls::encrypt(&self.env, &connstr, &self.url.address.to_string(), stream).await;
        encrypted.map_err(|source| ControlPlaneError::Tls { url: url(), source })
    }

    /// One request on a connection of its own: status and body.
    async fn exchange(&self, call: &str, body: Vec<u8>) -> Result<(u16, Bytes), ControlPlaneError> {
        let broken = |source| ControlPlaneError::Broken { url: self.url_of(call), source };
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/{call}", self.url.path))
            .header(HOST, self.url.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("the URL was checked with the settings");
        let answered = std::pin::pin!(async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            match Limited::new(response.into_body(), ANSWER_MAX).collect().await {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(self.unusable(call, AnswerError::TooLong(ANSWER_MAX))),
                Err(error) => Err(match error.downcast::<hyper::Error>() {
                    Ok(source) => broken(*source),
                    Err(other) => self.unusable(call, AnswerError::Malformed(answer::shown(&other.to_string()))),
                }),
            }
        });
        // Not a task of its own: whoever gives up on the answer has closed the connection.
        match select(answered, std::pin::pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, answered)) => answered.await,
        }
    }
}
