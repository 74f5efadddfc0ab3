//! The token that those who ask for devices and events may have to show (RFC 6750).
//!
//! Only ever in a header: in a URL it would be in logs and histories, and a cookie is sent along with requests that
//! any other page makes a browser send.

use autoweave_usb_stream::Secret;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::problem::Problem;

const SCHEME: &str = "Bearer ";

/// Whether the `Authorization` of a request is `token`. Takes as long whichever character differs.
pub(super) fn is_in(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
    let Some((scheme, shown)) = value.as_bytes().split_at_checked(SCHEME.len()) else { return false };
    scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && shown.ct_eq(token.expose().as_bytes()).into()
}

/// The answer to a request without it.
pub(super) fn refusal() -> Response {
    let detail = "this daemon asks for the token of its monitoring.token: `Authorization: Bearer TOKEN`";
    let mut refusal = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
}
