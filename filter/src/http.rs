//! One request and its response.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use tollgate_shared::answer;

use crate::host;
use crate::queue::Slot;
use crate::thread::Thread;

/// A request that passes the filter.
pub(crate) struct Http {
    thread: Option<Rc<Thread>>,
    slot: Rc<Slot>,
}

impl Http {
    pub(crate) fn new(context: u32, thread: Option<Rc<Thread>>) -> Self {
        Self { thread, slot: Rc::new(Slot { context, ..Slot::default() }) }
    }
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _fields: usize, _end_of_stream: bool) -> Action {
        let action =
            self.thread.as_ref().and_then(|thread| thread.with(|committer| committer.begin(&self.slot)));
        // Without configuration nothing is known of limits, so nobody passes.
        action.unwrap_or_else(|| {
            host::refuse(&unconfigured(), false);
            Action::Pause
        })
    }

    fn on_http_response_headers(&mut self, _fields: usize, _end_of_stream: bool) -> Action {
        host::set_response_fields(&self.slot.fields.take());
        let (Some(thread), true) = (&self.thread, self.slot.is_completion_due()) else {
            return Action::Continue;
        };
        let status = host::response_status();
        if status < 200 && status != SWITCHING_PROTOCOLS {
            return Action::Continue;
        }
        thread.with(|committer| committer.responded(&self.slot, status)).unwrap_or(Action::Continue)
    }
}

/// The host drops a request when its answer has left, and when its client or its upstream is gone.
impl Drop for Http {
    fn drop(&mut self) {
        self.slot.gone.set(true);
        if let (Some(thread), Some(completion)) = (&self.thread, self.slot.completion.take()) {
            thread.ended(completion, self.slot.began.get());
        }
    }
}

fn unconfigured() -> answer::Answer {
    answer::Answer {
        status: 500,
        headers: answer::Fields::default(),
        body: "tollgate is not configured\n".to_owned(),
    }
}

/// The only status below 200 that is an answer.
const SWITCHING_PROTOCOLS: u16 = 101;
