//! What worker-build puts around a Worker asks of it: to be told of a panic, so that wasm starts anew with the next call.
//!
//! The crate `worker` has the same, and brings a tenth of all of the Worker along: classes for JavaScript, made of Rust's streams.

use std::panic;

use wasm_bindgen::handler;
use wasm_bindgen::prelude::*;

use crate::host::{Level, Line, log};

/// Called as soon as wasm is there.
#[wasm_bindgen(start, private)]
fn start() {
    panic::set_hook(Box::new(|info| {
        log(Level::Error, &Line { message: &format!("Rust panic: {info}") });
        js::STATE.with(|state| state.set_critical_error(true));
    }));
    js::STATE.with(|state| state.set_instance_id(state.instance_id() + 1));
    handler::set_on_abort(handler::schedule_reinit);
}

/// Where worker-build looks for what [`start`] writes.
#[wasm_bindgen(js_name = "__worker_init_state")]
#[allow(unreachable_pub, reason = "what JavaScript calls has to be public")]
pub fn state() -> JsValue {
    js::STATE.with(|state| state.into())
}

mod js {
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(
        inline_js = "export const state = globalThis.__worker_init_state = { criticalError: false, instanceId: 0 };"
    )]
    extern "C" {
        pub(super) type State;

        #[wasm_bindgen(thread_local_v2, js_name = state)]
        pub(super) static STATE: State;

        #[wasm_bindgen(method, setter, js_name = criticalError)]
        pub(super) fn set_critical_error(this: &State, is_over: bool);
        #[wasm_bindgen(method, getter, js_name = instanceId)]
        pub(super) fn instance_id(this: &State) -> u32;
        #[wasm_bindgen(method, setter, js_name = instanceId)]
        pub(super) fn set_instance_id(this: &State, id: u32);
    }
}
