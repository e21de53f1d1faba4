//! One HTTP request over the network seam.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use palimpsest::io_abstraction::{Address, ClockExt as _, Env};
use std::time::Duration;

/// Status and parsed body of an answer; `Null` if the body is not JSON.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: serde_json::Value,
}

/// Why there is no answer: the outcome of the request is unknown.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(hyper::Error),
    #[error("no answer in time")]
    Timeout,
}

/// Sends one request on a connection of its own.
pub async fn request(
    env: &Env,
    address: &Address,
    method: Method,
    path: &str,
    body: Option<serde_json::Value>,
    limit: Duration,
) -> Result<Answer, NoAnswer> {
    let attempt = async {
        let stream = env.net.connect(address).await.map_err(NoAnswer::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(NoAnswer::Broken)?;
        let task = env.tasks.spawn("http-client", async move {
            // An error here is the request's error too.
            let _ = connection.await;
        });
        let bytes = body.map_or_else(Bytes::new, |json| Bytes::from(json.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(bytes))
            .expect("the parts of the request are valid");
        let answer = async {
            let response = sender.send_request(request).await.map_err(NoAnswer::Broken)?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.map_err(NoAnswer::Broken)?.to_bytes();
            Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null) })
        };
        let answer = answer.await;
        task.abort();
        answer
    };
    env.clock.timeout(limit, attempt).await.unwrap_or(Err(NoAnswer::Timeout))
}
