//! What all answers have in common: the version header, lengths, digests.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header, response};
use axum::response::Response;

use super::error::{Code, Refusal};

/// The header by which clients of Docker's time know a registry.
pub(super) const VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");

pub(super) fn builder(status: StatusCode) -> response::Builder {
    Response::builder().status(status)
}

/// The header that names the digest of the content.
pub(super) fn digest_header() -> HeaderName {
    HeaderName::from_static("docker-content-digest")
}

/// 202 with nothing to say.
pub(super) fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

pub(super) fn json(body: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// An answer that cannot be written down in HTTP: names and types were checked when they came, so it
/// takes a directory that was altered by hand.
pub(super) fn unwritable(error: axum::http::Error) -> Refusal {
    Refusal::new(Code::Unknown, format!("the answer cannot be written: {error}"))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
