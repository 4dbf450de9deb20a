//! A filter that does nothing, written with the SDK: what `cargo xtask bench` measures Tollgate against.
#![allow(unsafe_code, reason = "the SDK's macro exports the entry point with an unsafe attribute")]
#![allow(missing_docs, reason = "the macro writes the function")]

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

struct Root;
struct Http;

impl Context for Root {}
impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _context: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http))
    }
}

impl Context for Http {}
impl HttpContext for Http {}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root) });
}}
