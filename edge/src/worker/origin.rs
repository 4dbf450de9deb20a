//! Requests on their way to the origin, and answers on their way back.

use std::time::Duration;

use js_sys::Promise;
use wasm_bindgen::closure::Closure;
use web_sys::{Request, Response};

use tollgate_shared::answer::{self, Answer, Fields};
use tollgate_shared::config::ConfigError;
use tollgate_shared::time::Span;

use super::Waiting;
use super::metrics::Metrics;
use crate::settings::base_url;
use crate::store::{Post, Store};

/// What is guarded.
#[derive(Debug)]
pub(super) struct Origin {
    /// Without a slash at its end.
    base: String,
    /// Milliseconds within which an answer has to begin.
    timeout: u32,
}

/// Why an origin has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// No connection, or it broke before the answer began.
    Unreachable,
    /// The answer did not begin in time.
    Timeout,
}

impl Error {
    /// A word for metrics and logs.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
        }
    }

    fn answer(self) -> Answer {
        match self {
            Self::Unreachable => {
                let detail = "The origin cannot be reached, or broke the connection before it answered.";
                answer::problem(502, "Bad Gateway", detail, "ORIGIN_UNREACHABLE")
            }
            Self::Timeout => {
                let detail = "The origin did not answer in time.";
                answer::problem(504, "Gateway Timeout", detail, "ORIGIN_TIMEOUT")
            }
        }
    }
}

impl Origin {
    /// Reads its variables.
    pub(super) fn new(url: Option<String>, timeout: Option<&str>) -> Result<Self, ConfigError> {
        let expected = "the URL of what is guarded, such as `https://app.example.com`";
        let url = url.ok_or_else(|| ConfigError::new("ORIGIN_URL", "nothing", expected))?;
        let Some(base) = base_url(&url) else {
            return Err(ConfigError::new("ORIGIN_URL", format!("`{url}`"), expected));
        };
        let timeout = match timeout {
            None => DEFAULT_TIMEOUT,
            Some(text) => {
                let span = Span::parse(text).map(|span| Duration::from_millis(span.as_millis()));
                span.filter(|span| *span <= MAX_TIMEOUT).ok_or_else(|| {
                    let expected = "a duration such as `30s`, at most `1h`";
                    ConfigError::new("TOLLGATE_ORIGIN_TIMEOUT", format!("`{text}`"), expected)
                })?
            }
        };
        Ok(Self { base: base.to_owned(), timeout: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX) })
    }

    /// Tells JavaScript what stays the same for all requests.
    pub(super) fn prepare(&self, store: Option<&Store>, metrics: Metrics) {
        let answer = move |error: String, fields: String, is_head: bool| {
            let error = match error.as_str() {
                "TimeoutError" | "AbortError" => Error::Timeout,
                _ => Error::Unreachable,
            };
            metrics.origin_failed(error);
            let Answer { status, headers, body } = error.answer();
            js::answer(status, &(lines(&headers) + &fields), &body, is_head)
        };
        let lost = Closure::<dyn Fn(String, String, bool) -> Response>::new(answer).into_js_value();
        let (url, authorization) = store.map_or(("", ""), |store| (store.url(), store.authorization()));
        js::prepare(&self.base, self.timeout, url, authorization, &lost);
    }
}

/// Sends `request` on, as it is but for its host; bodies stream both ways. The promise of its answer with more header
/// fields, or of one that says that there is none.
pub(super) fn forward(request: &Request, fields: &Fields) -> Promise {
    js::forward(request, &lines(fields))
}

/// Asks the store, and has `waiting` go on with what comes: the promise of a response.
pub(super) fn ask(waiting: Waiting, post: &Post) -> Promise {
    js::ask(waiting, &post.body, post.patience)
}

/// A response of our own; to a `HEAD` request without its body.
pub(super) fn answer(answer: &Answer, is_head: bool) -> Response {
    js::answer(answer.status, &lines(&answer.headers), &answer.body, is_head)
}

/// Header fields as lines, names and values in turn: neither can hold a line's end.
fn lines(fields: &Fields) -> String {
    let mut lines = String::new();
    for (name, value) in fields.iter() {
        for text in [name, "\n", value, "\n"] {
            lines.push_str(text);
        }
    }
    lines
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

mod js {
    use js_sys::Promise;
    use wasm_bindgen::prelude::*;
    use web_sys::{Request, Response};

    use crate::worker::Waiting;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        pub(super) fn prepare(base: &str, patience: u32, url: &str, authorization: &str, lost: &JsValue);
        pub(super) fn ask(waiting: Waiting, body: &str, ms: u32) -> Promise;
        pub(super) fn forward(request: &Request, fields: &str) -> Promise;
        pub(super) fn answer(status: u16, fields: &str, body: &str, head: bool) -> Response;
    }
}
