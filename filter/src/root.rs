//! The root context: configuration, and the events of a worker thread.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::commit::Committer;
use crate::config::Plugin;
use crate::host;
use crate::http::Http;
use crate::thread::Thread;

/// The plugin on one worker thread.
pub(crate) struct Root {
    id: u32,
    thread: Option<Rc<Thread>>,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, thread: None }
    }

    fn with(&self, event: impl FnOnce(&mut Committer)) {
        if let Some(thread) = &self.thread {
            thread.with(event);
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
        let plugin = match Plugin::from_json(&json, &|name| std::env::var(name).ok()) {
            Ok(plugin) => plugin,
            Err(errors) => {
                for error in errors {
                    log::error!("configuration: {error}");
                }
                return false;
            }
        };
        let Some(id) = host::draw_id() else {
            log::error!("the host gives no random numbers");
            return false;
        };
        if plugin.store.is_none() {
            log::warn!("no store is configured: limits and guards hold for this Envoy alone, in its memory");
        }
        self.thread = Some(Rc::new(Thread::new(Committer::new(self.id, plugin, id))));
        true
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
        Some(Box::new(Http::new(context, self.thread.clone())))
    }
}
