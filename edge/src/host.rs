//! What every host asks its runtime for.
//!
//! The calls are JavaScript, in `host.js`: one crossing each, where the same through bindings would be a dozen.

use js_sys::{Array, Reflect};
use serde::Serialize;
use wasm_bindgen::JsValue;

use tollgate_shared::store::StoreError;
use tollgate_shared::time::Timestamp;

/// The runtime's clock. Where Workers are deployed it stands still between two calls to the outside.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(whole(js_sys::Date::now()))
}

/// Posts `body` to the store, and waits at most `millis` for status and answer.
pub(crate) async fn post(
    url: &str,
    authorization: &str,
    body: &str,
    millis: u32,
) -> Result<(u16, String), StoreError> {
    let came = js::post(url, authorization, body, millis).await;
    let came = came.map_err(|error| store_error(&name(&error).unwrap_or_default()))?;
    let came = Array::from(&came);
    let status = came.get(0).as_f64().map_or(0, whole);
    Ok((u16::try_from(status).unwrap_or(0), came.get(1).as_string().unwrap_or_default()))
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

fn name(error: &JsValue) -> Option<String> {
    Reflect::get(error, &JsValue::from_str("name")).ok()?.as_string()
}

/// A number of JavaScript's that is a whole one: nothing below zero, and the end of the range above it.
pub(crate) fn whole(number: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
    let whole = number as u64;
    whole
}

mod js {
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        #[wasm_bindgen(catch)]
        pub(super) async fn post(
            url: &str,
            authorization: &str,
            body: &str,
            ms: u32,
        ) -> Result<JsValue, JsValue>;
        pub(super) fn log(level: &str, line: &str);
    }
}
