//! What the host calls in the place of the SDK's functions, whose answers know only two of the host's: that a message goes on, and that it
//! stops. Where Envoy is told to let filters wait for bodies, *stops* means that all which follows has to fit into its buffer, or
//! is refused with 413. A message that waits for the store is to stop with all that follows it, and its sender with it.
//!
//! `cargo xtask build` gives them the names that the host looks for.
#![allow(unsafe_code, reason = "functions are exported under their names with an unsafe attribute")]

use std::cell::Cell;

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// The message whose event this is waits, and so does all that follows it.
pub(crate) fn holds_back() {
    WAITS.set(true);
}

#[unsafe(no_mangle)]
extern "C" fn tollgate_on_request_headers(context: u32, fields: u32, end_of_stream: bool) -> u32 {
    answered(STOP_ALL_ITERATION_AND_WATERMARK, || {
        sdk::proxy_on_request_headers(context, fields, end_of_stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn tollgate_on_request_body(context: u32, size: u32, end_of_stream: bool) -> u32 {
    answered(STOP_ITERATION_AND_WATERMARK, || sdk::proxy_on_request_body(context, size, end_of_stream))
}

#[unsafe(no_mangle)]
extern "C" fn tollgate_on_response_headers(context: u32, fields: u32, end_of_stream: bool) -> u32 {
    answered(STOP_ALL_ITERATION_AND_WATERMARK, || {
        sdk::proxy_on_response_headers(context, fields, end_of_stream)
    })
}

/// What the SDK answers, or else that the message is held back.
fn answered(held_back: u32, event: impl FnOnce() -> u32) -> u32 {
    // Events that are answered by the SDK alone may have left it set.
    WAITS.set(false);
    let action = event();
    if WAITS.take() { held_back } else { action }
}

/// Of a message's head, as the host numbers what filters answer.
const STOP_ALL_ITERATION_AND_WATERMARK: u32 = 4;
/// Of its body.
const STOP_ITERATION_AND_WATERMARK: u32 = 2;

mod sdk {
    unsafe extern "C" {
        pub(super) safe fn proxy_on_request_headers(context: u32, fields: u32, end_of_stream: bool) -> u32;
        pub(super) safe fn proxy_on_request_body(context: u32, size: u32, end_of_stream: bool) -> u32;
        pub(super) safe fn proxy_on_response_headers(context: u32, fields: u32, end_of_stream: bool) -> u32;
    }
}
