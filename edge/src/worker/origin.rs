//! Requests on their way to the origin, and answers on their way back.

use std::time::Duration;

use js_sys::Promise;
use wasm_bindgen::JsValue;
use web_sys::{Request, Response};

use tollgate_shared::answer::{self, Answer, Fields};
use tollgate_shared::config::ConfigError;
use tollgate_shared::exchange::Admission;
use tollgate_shared::time::Span;

use super::{Core, Incoming};
use crate::after::Due;
use crate::answers;
use crate::host::Road;
use crate::settings::{StoreSettings, base_url, quoted};
use crate::store::Post;

/// What is guarded, and where requests wait for it and for the store: outside of wasm.
#[derive(Debug)]
pub(super) struct Origin {
    front: js::Front,
}

impl Origin {
    /// Reads its variables. Failures become data points in `dataset`, if there is one.
    pub(super) fn new(
        url: Option<String>,
        timeout: Option<&str>,
        store: Option<&StoreSettings>,
        dataset: Option<&JsValue>,
    ) -> Result<Self, Vec<ConfigError>> {
        let (base, timeout) = match (base(url), patience(timeout)) {
            (Ok(base), Ok(timeout)) => (base, timeout),
            (base, timeout) => return Err(base.err().into_iter().chain(timeout.err()).collect()),
        };
        let patience = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let (store, authorization) =
            store.map_or(("", ""), |store| (store.url.as_str(), store.authorization.as_str()));
        let dataset = dataset.cloned().unwrap_or(JsValue::UNDEFINED);
        let front = js::Front::new(Core, &base, patience, store, authorization, &dataset);
        for (kind, answer) in failures() {
            front.failing(kind, answer.status, &lines(&answer.headers), &answer.body);
        }
        Ok(Self { front })
    }

    /// Sends `request` on, as it is but for its host and what the admission says, and adds header fields to the answer; bodies
    /// stream both ways. The promise of a response.
    pub(super) fn forward(&self, request: &Request, fields: &Fields, onward: Option<&str>) -> Promise {
        self.front.forward(request, &lines(fields), onward)
    }

    /// The same where something is left to do with the answer.
    pub(super) fn forward_and_complete(
        &self,
        request: &Request,
        fields: &Fields,
        onward: Option<&str>,
        due: Due,
        context: &JsValue,
    ) -> Promise {
        let Due { ticket, lasts, confirms } = due;
        self.front.complete(request, &lines(fields), onward, ticket, lasts, confirms, context)
    }

    /// Asks the store, and has who waits with `ticket` go on with what comes: the promise of a response.
    pub(super) fn ask(&self, ticket: u32, from: &Incoming, post: &Post) -> Promise {
        let Incoming { request, env, context } = from;
        self.front.ask(ticket, &post.body, post.patience, request, env, context)
    }

    /// Reads the first bytes of the body, at most so many, and begins anew: the promise of a response.
    pub(super) fn read(&self, request: &Request, env: &JsValue, context: &JsValue, most: usize) -> Promise {
        self.front.read(request, env, context, most)
    }

    /// Where the store is asked, and signatures are verified.
    pub(super) fn road(&self) -> &Road {
        &self.front
    }
}

/// What paths are put behind.
fn base(url: Option<String>) -> Result<String, ConfigError> {
    let expected = "the URL of what is guarded, such as `https://app.example.com`";
    let url = url.ok_or_else(|| ConfigError::new("ORIGIN_URL", "nothing", expected))?;
    base_url(&url).ok_or_else(|| ConfigError::new("ORIGIN_URL", quoted(&url), expected))
}

/// How long the origin may take to begin its answer.
fn patience(timeout: Option<&str>) -> Result<Duration, ConfigError> {
    let Some(text) = timeout else { return Ok(DEFAULT_TIMEOUT) };
    let span = Span::parse(text).map(|span| Duration::from_millis(span.as_millis()));
    span.filter(|span| *span <= MAX_TIMEOUT).ok_or_else(|| {
        let expected = "a duration such as `30s`, at most `1h`";
        ConfigError::new("TOLLGATE_ORIGIN_TIMEOUT", format!("`{text}`"), expected)
    })
}

/// What has been read of the body; `None` if nobody has read it.
pub(super) fn begun(request: &Request) -> Option<Vec<u8>> {
    js::begun(request).map(|begun| begun.to_vec())
}

/// The URL of a request as `fetch` reads it: what is decided on is what is fetched. `None` if it has none.
pub(super) fn url(request: &Request) -> Option<String> {
    js::url(request)
}

/// What clients are told when the origin has not answered, by a word for it. Those of the origin's making are in metrics.
fn failures() -> [(&'static str, Answer); 5] {
    let detail = "The origin did not answer in time.";
    let timeout = answer::problem(504, "Gateway Timeout", detail, "ORIGIN_TIMEOUT");
    let detail = "The body is longer than what is sent on: with GET and HEAD 1 MiB, else 2^53 - 1 bytes.";
    let length = answer::problem(413, "Content Too Large", detail, "REQUEST_TOO_LARGE");
    let detail = "With this method, a body is sent on only if Content-Length says how long it is.";
    let unsized_body = answer::problem(411, "Length Required", detail, "LENGTH_REQUIRED");
    [
        ("unreachable", answers::unreachable()),
        ("timeout", timeout),
        ("incomplete", answers::incomplete()),
        ("length", length),
        ("unsized", unsized_body),
    ]
}

/// A response of our own; to a `HEAD` request without its body.
pub(super) fn answer(answer: &Answer, is_head: bool) -> Response {
    js::answer(answer.status, &lines(&answer.headers), &answer.body, is_head)
}

/// The fields that the origin is to see, or, without a value, not at all; `None` where all are the client's.
pub(super) fn onward(admission: &Admission) -> Option<String> {
    let mut lines = String::new();
    for (name, value) in admission.onward() {
        for text in [name, "\n", value.unwrap_or_default(), "\n"] {
            lines.push_str(text);
        }
    }
    (!lines.is_empty()).then_some(lines)
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
    use js_sys::{Promise, Uint8Array};
    use wasm_bindgen::prelude::*;
    use web_sys::{Request, Response};

    use crate::host::Road;
    use crate::worker::Core;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        #[derive(Debug)]
        #[wasm_bindgen(extends = Road)]
        pub(super) type Front;

        #[wasm_bindgen(constructor)]
        pub(super) fn new(
            core: Core,
            origin: &str,
            patience: u32,
            store: &str,
            authorization: &str,
            dataset: &JsValue,
        ) -> Front;
        #[wasm_bindgen(method)]
        pub(super) fn failing(this: &Front, kind: &str, status: u16, fields: &str, body: &[u8]);
        #[wasm_bindgen(method)]
        pub(super) fn ask(
            this: &Front,
            ticket: u32,
            body: &str,
            ms: u32,
            request: &Request,
            env: &JsValue,
            context: &JsValue,
        ) -> Promise;
        #[wasm_bindgen(method)]
        pub(super) fn read(
            this: &Front,
            request: &Request,
            env: &JsValue,
            context: &JsValue,
            most: usize,
        ) -> Promise;
        #[wasm_bindgen(method)]
        pub(super) fn forward(this: &Front, request: &Request, fields: &str, onward: Option<&str>)
        -> Promise;
        #[wasm_bindgen(method, js_name = forward)]
        #[allow(clippy::too_many_arguments, reason = "each crosses as it is")]
        pub(super) fn complete(
            this: &Front,
            request: &Request,
            fields: &str,
            onward: Option<&str>,
            ticket: u32,
            lasts: bool,
            confirms: bool,
            context: &JsValue,
        ) -> Promise;

        pub(super) fn answer(status: u16, fields: &str, body: &[u8], head: bool) -> Response;
        pub(super) fn begun(request: &Request) -> Option<Uint8Array>;
        pub(super) fn url(request: &Request) -> Option<String>;
    }
}
