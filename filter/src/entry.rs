//! What the host calls first.
#![allow(unsafe_code, reason = "the SDK's macro exports the entry point with an unsafe attribute")]
#![allow(missing_docs, reason = "the macro writes the function")]

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

use crate::root::Root;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| -> Box<dyn RootContext> { Box::new(Root::new(id)) });
}}
