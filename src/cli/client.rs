//! How commands reach a running server: the management API over HTTP, and COPY OUT from the page service.
//!
//! In: addresses from the command line or the environment. Out: the server's answers, or an error whose words say what to do.

use super::access::AccessArgs;
use super::output::{CommandError, Exit};
use super::progress::Progress;
use crate::io_abstraction::{Address, BoxStream, ClockExt as _, Env, real};
use crate::replication::{ConnStr, Connection, Mode, ReplicationError, SslMode, tls};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use object_store::memory::InMemory;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Limit of a request that answers from memory.
const SHORT: Duration = Duration::from_secs(30);
/// Limit of a request that makes a cluster, reads a directory or waits for WAL.
const LONG: Duration = Duration::from_secs(3600);
/// Limit of the connection attempt.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest answer taken.
const ANSWER_MAX: usize = 64 << 20;

/// Where the management API is.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointArgs {
    /// Address of the server's management API.
    #[arg(long, env = "PAL_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9898", value_parser = parse_endpoint, global = true)]
    pub endpoint: Endpoint,
    #[command(flatten)]
    pub access: AccessArgs,
}

impl EndpointArgs {
    /// The management API that is meant.
    pub fn client(&self, env: &Env) -> Result<ApiClient, CommandError> {
        let address = &self.endpoint.address;
        let mut client = ApiClient::new(env, address);
        client.authorization = self.access.authorization()?;
        if self.endpoint.tls {
            let ca = self.access.ca.clone();
            let needed =
                || format!("https://{address} needs --ca FILE (PAL_CA): the certificates that have signed the server's, or its own");
            client.ca = Some(ca.ok_or_else(|| CommandError::with(Exit::Invalid, needed()))?);
        }
        Ok(client)
    }
}

/// Where the management API is, and whether it speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    pub address: Address,
}

/// Where the page service is.
#[derive(Debug, Clone, clap::Args)]
pub struct PageServiceArgs {
    /// Address of the server's page service.
    #[arg(long, env = "PAL_PAGE_SERVICE", value_name = "HOST:PORT", default_value = "127.0.0.1:64000", value_parser = parse_host_port)]
    pub page_service: Address,
    #[command(flatten)]
    pub access: AccessArgs,
}

impl PageServiceArgs {
    pub fn server(&self) -> PageServer {
        PageServer { address: self.page_service.clone(), access: self.access.clone() }
    }
}

/// A page service, and how to get in.
#[derive(Debug, Clone)]
pub struct PageServer {
    pub address: Address,
    pub access: AccessArgs,
}

/// The text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("\"{0}\" is not an address: expected HOST:PORT, as in 127.0.0.1:9898")]
    HostPort(String),
    #[error("\"{0}\": only http:// and https:// are spoken here")]
    Scheme(String),
    #[error("\"{0}\": expected http://HOST:PORT or https://HOST:PORT without a path")]
    Path(String),
}

/// Reads `http://HOST:PORT` or `https://HOST:PORT`; without a scheme it is the first.
fn parse_endpoint(text: &str) -> Result<Endpoint, AddressError> {
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(_) => return Err(AddressError::Scheme(text.to_string())),
        None => (false, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(AddressError::Path(text.to_string()));
    }
    let address = parse_host_port(rest).map_err(|_| AddressError::HostPort(text.to_string()))?;
    Ok(Endpoint { tls, address })
}

/// Reads `HOST:PORT`; an IPv6 address stands in brackets.
fn parse_host_port(text: &str) -> Result<Address, AddressError> {
    let bad = || AddressError::HostPort(text.to_string());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = u16::from_str(port).ok().filter(|port| *port != 0).ok_or_else(bad)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match bare {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !valid {
        return Err(bad());
    }
    Ok(Address::tcp(bare.unwrap_or(host), port))
}

/// The environment of a command that has no data directory of its own.
pub fn command_env() -> Result<Env, CommandError> {
    real::env(Arc::new(InMemory::new())).map_err(CommandError::new)
}

/// Pause between two looks at what is being deleted.
const GONE_POLL: Duration = Duration::from_millis(100);

/// No answer, or one that refuses.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no palimpsest server is at {address} ({source}): start one with `pal serve -D DIR`, or name another with {option}")]
    Connect {
        address: Address,
        option: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{source}; --ca (PAL_CA) has to be the certificate that has signed the server's, or its own")]
    Tls {
        #[source]
        source: ReplicationError,
    },
    #[error("--ca {path}: {why}", path = path.display())]
    Ca { path: PathBuf, why: String },
    #[error("{server} has no TLS: leave out --ca (PAL_CA)")]
    NoTls { server: String },
    #[error("the connection to {address} broke: {source}; whether the request was carried out is unknown, ask again")]
    Broken {
        address: Address,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} gave no answer within {after:?}; the request may still be carried out")]
    Timeout { address: Address, after: Duration },
    #[error("{message}{}", advice(*status))]
    Refused { status: u16, message: String },
    #[error("the answer of {address} is not what a palimpsest server says: {why}")]
    Answer { address: Address, why: String },
}

/// A sentence about what to do.
fn advice(status: u16) -> &'static str {
    match status {
        401 => "; give a token with --token (PAL_TOKEN), as `pal token` makes it",
        403 => "; the token (--token, PAL_TOKEN) is not valid there any more, or not for this",
        _ => "",
    }
}

impl From<RequestError> for CommandError {
    fn from(error: RequestError) -> CommandError {
        let exit = match &error {
            RequestError::Connect { .. } => Exit::Unreachable,
            RequestError::Timeout { .. } => Exit::TimedOut,
            RequestError::Refused { status, .. } => match status {
                400 | 406 | 413 | 415 | 422 => Exit::Invalid,
                401 | 403 => Exit::Denied,
                404 => Exit::NotFound,
                409 | 412 => Exit::Conflict,
                _ => Exit::Failed,
            },
            RequestError::Ca { .. } | RequestError::NoTls { .. } => Exit::Invalid,
            RequestError::Tls { .. } | RequestError::Broken { .. } | RequestError::Answer { .. } => Exit::Failed,
        };
        CommandError::with(exit, error)
    }
}

/// Connects to a management API, with TLS if there is a certificate to check the server's against.
async fn connect(env: &Env, address: &Address, ca: Option<&Path>) -> Result<BoxStream, RequestError> {
    let failed = |source| RequestError::Connect { address: address.clone(), option: "--endpoint (PAL_ENDPOINT)", source };
    let attempt = async {
        let stream = env.net.connect(address).await.map_err(failed)?;
        let (Some(ca), Address::Tcp { host, .. }) = (ca, address) else { return Ok(stream) };
        let connstr =
            ConnStr { host: host.clone(), ssl_mode: SslMode::VerifyFull, ssl_root_cert: Some(ca.to_path_buf()), ..ConnStr::default() };
        tls::encrypt(env, &connstr, &address.to_string(), stream).await.map_err(tls_failed)
    };
    env.clock.timeout(CONNECT, attempt).await.unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))
}

fn tls_failed(error: ReplicationError) -> RequestError {
    match error {
        ReplicationError::RootCert { path, why } => RequestError::Ca { path, why },
        ReplicationError::TlsRefused { server, .. } => RequestError::NoTls { server },
        source => RequestError::Tls { source },
    }
}

/// The management API of one server.
#[derive(Clone)]
pub struct ApiClient {
    env: Env,
    address: Address,
    authorization: Option<HeaderValue>,
    /// Certificates that the server's is checked against; `None`: no TLS.
    ca: Option<PathBuf>,
}

impl ApiClient {
    /// Without a token and without TLS.
    pub fn new(env: &Env, address: &Address) -> ApiClient {
        ApiClient { env: env.clone(), address: address.clone(), authorization: None, ca: None }
    }

    pub async fn get(&self, path: &str) -> Result<Value, RequestError> {
        self.send(Method::GET, path, None, SHORT).await
    }

    /// Sends a change and waits until the server has carried it out.
    pub async fn change(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, RequestError> {
        self.send(method, path, body, LONG).await
    }

    /// Polls a path until there is nothing any more.
    pub async fn wait_until_gone(&self, path: &str, what: &str) -> Result<(), RequestError> {
        let _progress = Progress::spinner(what);
        loop {
            match self.get(path).await {
                Err(RequestError::Refused { status: 404, .. }) => return Ok(()),
                // It comes up, or is just being changed.
                Ok(_) | Err(RequestError::Refused { status: 503, .. }) => self.env.clock.sleep(GONE_POLL).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>, limit: Duration) -> Result<Value, RequestError> {
        let attempt = self.exchange(method, path, body);
        let timeout = |_| RequestError::Timeout { address: self.address.clone(), after: limit };
        let (status, bytes) = self.env.clock.timeout(limit, attempt).await.map_err(timeout)??;
        let text = String::from_utf8_lossy(&bytes);
        let json = serde_json::from_slice::<Value>(&bytes);
        if (200..300).contains(&status) {
            return json.map_err(|error| RequestError::Answer { address: self.address.clone(), why: error.to_string() });
        }
        let said = json.ok().and_then(|json| Some(json.get("msg")?.as_str()?.to_string()));
        let message = said
            .unwrap_or_else(|| format!("{} answered with status {status} {}", self.address, text.chars().take(200).collect::<String>()));
        Err(RequestError::Refused { status, message })
    }

    /// One request on a connection of its own: status and body.
    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Bytes), RequestError> {
        let broken = |source: hyper::Error| match source.is_parse() {
            true => {
                let why = "it is not HTTP; if the server has TLS, use https:// with --ca FILE (PAL_CA)".to_string();
                RequestError::Answer { address: self.address.clone(), why }
            }
            false => RequestError::Broken { address: self.address.clone(), source },
        };
        let stream = connect(&self.env, &self.address, self.ca.as_deref()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let task = self.env.tasks.spawn("http-client", async move {
            // Its error is the request's error too.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |json| Bytes::from(json.to_string()));
        let request = request.body(Full::new(bytes)).expect("paths are made of hexadecimal ids and fixed words");
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| RequestError::Answer { address: self.address.clone(), why: error.to_string() })?;
            Ok((status, body.to_bytes()))
        };
        let answer = answer.await;
        task.abort();
        answer
    }
}

/// Connects to a page service.
pub async fn connect_pages(env: &Env, server: &PageServer) -> Result<Connection, CommandError> {
    let (address, access) = (&server.address, &server.access);
    let Address::Tcp { host, port } = address else {
        return Err(CommandError::with(Exit::Invalid, format!("{address}: the page service listens on TCP only")));
    };
    let connstr = ConnStr {
        host: host.clone(),
        port: *port,
        user: "pal".to_string(),
        password: access.token().cloned(),
        ssl_mode: if access.ca.is_some() { SslMode::VerifyFull } else { SslMode::Disable },
        ssl_root_cert: access.ca.clone(),
        connect_timeout: CONNECT,
        ..ConnStr::default()
    };
    Connection::connect(env, &connstr, Mode::Sql).await.map_err(|error| match error {
        ReplicationError::Connect { source, .. } => {
            RequestError::Connect { address: address.clone(), option: "--page-service (PAL_PAGE_SERVICE)", source }.into()
        }
        other => pages_error(other),
    })
}

/// What the page service refuses, with the advice that is right for it.
pub fn pages_error(error: ReplicationError) -> CommandError {
    const TOKEN: &str = "give a token with --token (PAL_TOKEN), as `pal token` makes it";
    match error {
        ReplicationError::PasswordNeeded { server } => CommandError::with(Exit::Denied, format!("{server} asks for a token; {TOKEN}")),
        ReplicationError::Server { server, error, .. } if ["28000", "28P01", "42501"].contains(&error.sqlstate.as_str()) => {
            let advice = if error.message.contains("TLS") { "give its certificate with --ca (PAL_CA)" } else { TOKEN };
            CommandError::with(Exit::Denied, format!("{server} refused: {}; {advice}", error.message))
        }
        error @ (ReplicationError::Tls { .. } | ReplicationError::TlsRefused { .. } | ReplicationError::RootCert { .. }) => {
            tls_failed(error).into()
        }
        other => CommandError::new(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = Address::tcp;
        for (text, want) in [
            ("https://127.0.0.1:9898", Some((true, tcp("127.0.0.1", 9898)))),
            ("http://127.0.0.1:9898", Some((false, tcp("127.0.0.1", 9898)))),
            ("http://pal.example.org:80/", Some((false, tcp("pal.example.org", 80)))),
            ("localhost:1", Some((false, tcp("localhost", 1)))),
            ("http://[::1]:9898", Some((false, tcp("::1", 9898)))),
            ("ftp://127.0.0.1:9898", None),
            ("http://127.0.0.1:9898/v1", None),
            ("http://127.0.0.1", None),
            ("http://:9898", None),
            ("http://h:0", None),
            ("http://h:65536", None),
            ("http://a b:1", None),
            ("http://[x]:1", None),
            ("", None),
        ] {
            assert_eq!(parse_endpoint(text).ok().map(|e| (e.tls, e.address)), want, "{text}");
        }
        assert_eq!(parse_host_port("127.0.0.1:64000"), Ok(tcp("127.0.0.1", 64000)));
        assert!(parse_host_port("http://127.0.0.1:64000").is_err());
    }

    #[test]
    fn statuses_become_exit_codes() {
        for (status, exit) in [
            (400, Exit::Invalid),
            (404, Exit::NotFound),
            (406, Exit::Invalid),
            (409, Exit::Conflict),
            (401, Exit::Denied),
            (503, Exit::Failed),
        ] {
            let error = RequestError::Refused { status, message: "m".to_string() };
            assert_eq!(CommandError::from(error).exit, exit, "{status}");
        }
    }
}
