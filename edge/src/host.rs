//! What every host asks its runtime for.
//!
//! The calls are JavaScript, in `host.js`: one crossing each, where the same through bindings would be a dozen.

use js_sys::Promise;
use serde::Serialize;
use wasm_bindgen::JsValue;

use tollgate_shared::exchange::Verify;
use tollgate_shared::jwt::{Jwks, JwtPolicy, MAX_JWKS_BYTES, MAX_JWKS_WAIT};
use tollgate_shared::store::StoreError;
use tollgate_shared::time::Timestamp;

use crate::guard::Guard;

/// The runtime's clock. Where Workers are deployed it stands still between two calls to the outside.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(whole(js_sys::Date::now()))
}

/// What the name of an error means that came instead of an answer.
pub(crate) fn store_error(name: &str) -> StoreError {
    match name {
        "TimeoutError" | "AbortError" => StoreError::Timeout,
        // The answer is too large.
        "RangeError" => StoreError::Garbage,
        _ => StoreError::Unreachable,
    }
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

/// A line of the log that says nothing more.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) message: &'a str,
}

/// Writes a line of JSON to the log.
pub(crate) fn log(level: Level, fields: &impl Serialize) {
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    js::log(level, &serde_json::to_string(fields).unwrap_or_default());
}

/// A number of JavaScript's that is a whole one: nothing below zero, and the end of the range above it.
pub(crate) fn whole(number: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
    let whole = number as u64;
    whole
}

/// Has the platform verify a signature: the promise of what comes of it. The core is handed `carried` again with that.
pub(crate) fn verify(road: &Road, guard: &Guard, ticket: u32, verify: &Verify, carried: &JsValue) -> Promise {
    let local = guard.local();
    let questions = verify.questions(&local);
    // All are about one signature, with keys of its algorithm.
    let first = questions.first();
    let algorithm = first.and_then(|it| it.key().algorithm().web_crypto());
    let jwks: Vec<String> = questions.iter().filter_map(|it| Some(it.key().public()?.jwk())).collect();
    road.verify(
        ticket,
        &jwks.join("\n"),
        algorithm.map_or("", |algorithm| algorithm.name),
        algorithm.and_then(|algorithm| algorithm.hash),
        algorithm.and_then(|algorithm| algorithm.named_curve),
        first.map_or(&[], |it| it.signing_input()),
        first.map_or(&[], |it| it.signature()),
        carried,
    )
}

/// Has the keys of tokens fetched: the promise of what comes of it. The core is handed `carried` again with that.
pub(crate) fn fetch_keys(road: &Road, guard: &Guard, ticket: u32, carried: &JsValue) -> Promise {
    let url = guard.policy().jwt().and_then(JwtPolicy::jwks).map_or("", Jwks::url);
    let patience = u32::try_from(MAX_JWKS_WAIT).unwrap_or(u32::MAX);
    road.fetch_keys(ticket, url, MAX_JWKS_BYTES + 1, patience, carried)
}

/// What JavaScript says was fetched: a document, or why there is none.
pub(crate) fn fetched(document: Option<Vec<u8>>, failure: Option<String>) -> Result<Vec<u8>, String> {
    document.ok_or_else(|| failure.unwrap_or_default())
}

/// A URL for HTTP as `fetch` reads it, without credentials and fragment; `None` if it is none.
pub(crate) fn serialized(url: &str) -> Option<String> {
    js::serialized(url)
}

pub(crate) use js::Road;

mod js {
    use js_sys::Promise;
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        /// Where those wait who wait for the store, for a signature, or for keys.
        #[derive(Debug)]
        pub(crate) type Road;

        /// `core` is of the class that is told what came.
        #[wasm_bindgen(constructor)]
        pub(crate) fn new(core: JsValue, store: &str, authorization: &str) -> Road;
        /// Asks the store: the promise of what becomes of who waits with the ticket.
        #[wasm_bindgen(method)]
        pub(crate) fn ask(this: &Road, ticket: u32, body: &str, ms: u32) -> Promise;
        /// Posts to the store what nobody decides by.
        #[wasm_bindgen(method)]
        pub(crate) fn tell(this: &Road, ticket: u32, body: &str, ms: u32, context: &JsValue) -> Promise;
        /// Has who waits with the ticket go on after so many milliseconds, handed `carried` again: the promise of what becomes of it.
        #[wasm_bindgen(method)]
        pub(crate) fn sleep(this: &Road, ticket: u32, ms: u32, carried: &JsValue) -> Promise;
        #[wasm_bindgen(method)]
        #[allow(clippy::too_many_arguments, reason = "each crosses as it is")]
        pub(super) fn verify(
            this: &Road,
            ticket: u32,
            jwks: &str,
            algorithm: &str,
            hash: Option<&str>,
            curve: Option<&str>,
            signed: &[u8],
            signature: &[u8],
            carried: &JsValue,
        ) -> Promise;

        #[wasm_bindgen(method, js_name = fetchKeys)]
        pub(super) fn fetch_keys(
            this: &Road,
            ticket: u32,
            url: &str,
            most: usize,
            ms: u32,
            carried: &JsValue,
        ) -> Promise;

        pub(super) fn log(level: &str, line: &str);
        pub(super) fn serialized(url: &str) -> Option<String>;
    }
}
