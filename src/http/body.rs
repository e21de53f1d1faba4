//! Bodies of requests, whole before a handler sees them: bounded in size and in time.
//!
//! In: a request as it comes in. Out: the same with its body in memory, or 413 (too large), 408 (too slow), 400 (cut off).

use super::status::refusal;
use crate::io_abstraction::{Clock, ClockExt as _};
use crate::limits::HTTP_BODY_MAX;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, EXPECT, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::middleware::Next;
use http_body_util::BodyExt as _;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are read of a body, to be answered: most clients write all of it before they read, and a connection that is closed
/// under them takes the answer along.
const READ_MAX: usize = 16 * HTTP_BODY_MAX;

/// How long a client may take for its body.
#[derive(Clone)]
pub(super) struct Patience {
    pub clock: Arc<dyn Clock>,
    pub limit: Duration,
}

enum Refused {
    TooLarge,
    CutOff,
}

/// Passes the request on once its body is here.
pub(super) async fn read(State(patience): State<Patience>, request: Request, next: Next) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, Body::empty())).await;
    }
    // Who asks before sending is told before sending.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let read = match announced > HTTP_BODY_MAX && parts.headers.contains_key(EXPECT) {
        true => Ok(Err(Refused::TooLarge)),
        false => patience.clock.timeout(patience.limit, whole(body)).await,
    };
    match read {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(Refused::TooLarge)) => {
            last(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {HTTP_BODY_MAX} bytes: send less"))
        }
        Ok(Err(Refused::CutOff)) => last(StatusCode::BAD_REQUEST, "Bad request: the body ends early".to_string()),
        Err(elapsed) => last(StatusCode::REQUEST_TIMEOUT, format!("the body did not come in {:?}: send it again", elapsed.0)),
    }
}

/// What is left of the body would be taken for the next request, so there is none on this connection.
fn last(status: StatusCode, message: String) -> Response<Body> {
    let mut response = refusal(status, message);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn whole(mut body: Body) -> Result<Bytes, Refused> {
    let (mut bytes, mut count) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refused::CutOff)?.into_data() else { continue };
        count += data.len();
        match (count <= HTTP_BODY_MAX, count <= READ_MAX) {
            (true, _) => bytes.extend_from_slice(&data),
            (false, true) => bytes = Vec::new(),
            (false, false) => return Err(Refused::TooLarge),
        }
    }
    if count > HTTP_BODY_MAX { Err(Refused::TooLarge) } else { Ok(bytes.into()) }
}
