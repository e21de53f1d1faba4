//! Errors to statuses, all of it. Bodies are `{"msg": "<prefix><message>"}`.

use crate::tenant::error::ChangeError;
use crate::tenant::size::SizeError;
use crate::tenant::{CreateError, Kind, LookupError};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    pub kind: Kind,
    pub message: String,
}

impl ApiError {
    pub fn new(kind: Kind, message: impl std::fmt::Display) -> ApiError {
        ApiError { kind, message: message.to_string() }
    }

    pub fn bad_request(message: impl std::fmt::Display) -> ApiError {
        ApiError::new(Kind::BadRequest, message)
    }
}

pub fn status(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::BadRequest => (StatusCode::BAD_REQUEST, "Bad request: "),
        Kind::Unauthorized => (StatusCode::UNAUTHORIZED, ""),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "Forbidden: "),
        Kind::NotFound => (StatusCode::NOT_FOUND, "NotFound: "),
        Kind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "Not acceptable: "),
        Kind::Conflict => (StatusCode::CONFLICT, "Conflict: "),
        Kind::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "Precondition failed: "),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, ""),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, prefix) = status(self.kind);
        if self.kind == Kind::Internal {
            tracing::error!(error = %self.message, "request failed");
        }
        refusal(status, format_args!("{prefix}{}", self.message))
    }
}

/// An answer whose status no kind of error has.
pub(super) fn refusal(status: StatusCode, message: impl std::fmt::Display) -> Response {
    (status, Json(serde_json::json!({ "msg": message.to_string() }))).into_response()
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> ApiError {
        ApiError::new(error.kind(), error)
    }
}

impl From<SizeError> for ApiError {
    fn from(error: SizeError) -> ApiError {
        ApiError::new(error.kind(), error)
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> ApiError {
        ApiError::new(error.kind(), error)
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> ApiError {
        ApiError::new(error.kind(), error)
    }
}
