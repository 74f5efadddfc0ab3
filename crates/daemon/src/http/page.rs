//! The dashboard page: files in the binary, so that it needs no build step and no other host.
//!
//! It holds nothing but what is in these files; what it shows it asks of the API, as anybody might.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, body::Body};

/// Scripts, styles and data from here only, nothing inline, no plugin, no frame around it; and no script may turn
/// text into markup (<https://www.w3.org/TR/trusted-types/>), since the strings of devices are anybody's.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        ($path, $kind, include_str!(concat!("page/", $name)))
    };
}

/// Path, type and text of each file.
const FILES: &[(&str, &str, &str)] = &[
    file!("/", "text/html; charset=utf-8", "index.html"),
    file!("/page/style.css", "text/css; charset=utf-8", "style.css"),
    file!("/page/main.js", SCRIPT, "main.js"),
    file!("/page/store.js", SCRIPT, "store.js"),
    file!("/page/feed.js", SCRIPT, "feed.js"),
    file!("/page/access.js", SCRIPT, "access.js"),
    file!("/page/dom.js", SCRIPT, "dom.js"),
    file!("/page/words.js", SCRIPT, "words.js"),
    file!("/page/tree.js", SCRIPT, "tree.js"),
    file!("/page/events.js", SCRIPT, "events.js"),
    file!("/page/details.js", SCRIPT, "details.js"),
    file!("/page/descriptors.js", SCRIPT, "descriptors.js"),
    file!("/page/charts.js", SCRIPT, "charts.js"),
    file!("/page/rates.js", SCRIPT, "rates.js"),
    file!("/page/status.js", SCRIPT, "status.js"),
    file!("/page/latency.js", SCRIPT, "latency.js"),
    file!("/page/plugins.js", SCRIPT, "plugins.js"),
];

/// Routes to all files of the page.
pub(super) fn add_to<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    FILES.iter().fold(router, |router, &(path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    (headers, Body::from(text))
}
