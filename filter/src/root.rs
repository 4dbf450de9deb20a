//! The root context: configuration, and the events of a worker thread.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::commit::Committer;
use crate::config::Plugin;
use crate::host;
use crate::http::Http;
use crate::metrics::Metrics;

/// The plugin on one worker thread.
pub(crate) struct Root {
    id: u32,
    committer: Option<Rc<RefCell<Committer>>>,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, committer: None }
    }

    fn with(&self, event: impl FnOnce(&mut Committer)) {
        if let Some(committer) = &self.committer {
            event(&mut committer.borrow_mut());
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, call: u32, fields: usize, body_size: usize, _trailers: usize) {
        self.with(|committer| committer.answered(call, fields, body_size, host::now()));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let json = host::configuration(size);
        match Plugin::from_json(&json, |name| std::env::var(name).ok()) {
            Ok(Plugin { policy, store, denials }) => {
                if store.is_none() {
                    log::warn!("no store is configured: limits hold for this Envoy alone, in its memory");
                }
                let metrics = Metrics::define(&policy);
                let committer = Committer::new(self.id, policy, store, denials, metrics);
                self.committer = Some(Rc::new(RefCell::new(committer)));
                true
            }
            Err(errors) => {
                for error in errors {
                    log::error!("configuration: {error}");
                }
                false
            }
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        self.with(|committer| committer.awake(queue, host::now()));
    }

    fn on_tick(&mut self) {
        self.with(|committer| committer.tick(host::now()));
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http::new(context, self.committer.clone())))
    }
}
