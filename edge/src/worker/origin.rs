//! Requests on their way to the origin, and answers on their way back.

use std::time::Duration;

use wasm_bindgen::JsValue;
use web_sys::{Request, Response};

use tollgate_shared::answer::{self, Answer, Fields};
use tollgate_shared::config::ConfigError;
use tollgate_shared::time::Span;

use crate::settings::{base_url, quoted};

/// What is guarded.
#[derive(Debug)]
pub(super) struct Origin {
    origin: js::Origin,
}

impl Origin {
    /// Reads its variables. Failures become data points in `dataset`, if there is one.
    pub(super) fn new(
        url: Option<String>,
        timeout: Option<&str>,
        dataset: Option<&JsValue>,
    ) -> Result<Self, ConfigError> {
        let expected = "the URL of what is guarded, such as `https://app.example.com`";
        let url = url.ok_or_else(|| ConfigError::new("ORIGIN_URL", "nothing", expected))?;
        let Some(base) = base_url(&url) else {
            return Err(ConfigError::new("ORIGIN_URL", quoted(&url), expected));
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
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let origin = js::Origin::new(base, millis, dataset.unwrap_or(&JsValue::UNDEFINED));
        for (kind, answer) in failures() {
            origin.tell(kind, answer.status, &lines(&answer.headers), &answer.body);
        }
        Ok(Self { origin })
    }

    /// Sends `request` on, as it is but for its host, and adds header fields to the answer; bodies stream both ways. What is returned
    /// is a promise of the response: the runtime waits for it, and nothing in here does.
    pub(super) fn forward(&self, request: &Request, target: &str, fields: &Fields) -> Response {
        self.origin.forward(request, target, &lines(fields))
    }
}

/// What clients are told when there is no answer, by a word for it in metrics.
fn failures() -> [(&'static str, Answer); 2] {
    let unreachable = answer::problem(
        502,
        "Bad Gateway",
        "The origin cannot be reached, or broke the connection before it answered.",
        "ORIGIN_UNREACHABLE",
    );
    let detail = "The origin did not answer in time.";
    let timeout = answer::problem(504, "Gateway Timeout", detail, "ORIGIN_TIMEOUT");
    [("unreachable", unreachable), ("timeout", timeout)]
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
        #[derive(Debug)]
        pub(super) type Origin;

        #[wasm_bindgen(constructor)]
        pub(super) fn new(base: &str, ms: u32, dataset: &JsValue) -> Origin;
        #[wasm_bindgen(method)]
        pub(super) fn tell(this: &Origin, kind: &str, status: u16, fields: &str, body: &str);
        /// In truth a promise of a response. Whoever is given one instead of a value waits for it.
        #[wasm_bindgen(method)]
        pub(super) fn forward(this: &Origin, request: &Request, target: &str, fields: &str) -> Response;

        pub(super) fn answer(status: u16, fields: &str, body: &str, head: bool) -> Response;
    }
}
