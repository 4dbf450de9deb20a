//! Requests on their way to the origin, and answers on their way back.

use std::time::Duration;

use wasm_bindgen::JsCast as _;
use web_sys::{Request, Response};

use tollgate_shared::answer::{Answer, Fields};
use tollgate_shared::config::ConfigError;
use tollgate_shared::time::Span;

use crate::host;
use crate::settings::base_url;

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

    /// Sends `request` on, as it is but for its host; bodies stream both ways.
    pub(super) async fn forward(&self, request: &Request, target: &str) -> Result<Response, Error> {
        let url = format!("{}{}{target}", self.base, if target.starts_with('/') { "" } else { "/" });
        let came = js::forward(request, &url, self.timeout).await.map_err(|error| {
            match host::name(&error).as_deref() {
                Some("TimeoutError" | "AbortError") => Error::Timeout,
                _ => Error::Unreachable,
            }
        })?;
        came.dyn_into().map_err(|_| Error::Unreachable)
    }
}

/// The same response with more header fields.
pub(super) fn extended(response: Response, fields: &Fields) -> Response {
    if fields.iter().next().is_none() { response } else { js::extended(&response, &lines(fields)) }
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
    use wasm_bindgen::prelude::*;
    use web_sys::{Request, Response};

    #[wasm_bindgen(module = "/src/worker/host.js")]
    extern "C" {
        #[wasm_bindgen(catch)]
        pub(super) async fn forward(request: &Request, url: &str, ms: u32) -> Result<JsValue, JsValue>;
        pub(super) fn extended(response: &Response, fields: &str) -> Response;
        pub(super) fn answer(status: u16, fields: &str, body: &str, head: bool) -> Response;
    }
}
