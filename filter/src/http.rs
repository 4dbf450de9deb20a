//! One request and its response.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use tollgate_shared::answer;

use crate::commit::Committer;
use crate::exports;
use crate::host;
use crate::queue::{Slot, Stage};
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
    fn on_http_request_headers(&mut self, _fields: usize, end_of_stream: bool) -> Action {
        self.slot.is_whole.set(end_of_stream);
        self.decide(|committer, slot| committer.arrived(slot, !end_of_stream))
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.slot.is_whole.set(end_of_stream);
        self.request_body(size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _fields: usize) -> Action {
        self.slot.is_whole.set(true);
        self.request_body(0, true)
    }

    fn on_http_response_headers(&mut self, _fields: usize, end_of_stream: bool) -> Action {
        host::set_response_fields(&self.slot.fields.take());
        let (Some(thread), true) = (&self.thread, self.slot.is_completion_due()) else {
            return Action::Continue;
        };
        let status = host::response_status();
        if status < 200 && status != SWITCHING_PROTOCOLS {
            return Action::Continue;
        }
        let stage = thread.with(|committer| {
            if host::is_answered_because_of_the_client(status) {
                committer.abandoned(&self.slot);
                Stage::Passes
            } else {
                committer.responded(&self.slot, status)
            }
        });
        self.slot.response.set(stage.unwrap_or_default());
        self.response_body(0, end_of_stream)
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.response_body(size, end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _fields: usize) -> Action {
        self.response_body(0, true)
    }
}

impl Http {
    /// `size` bytes of the body are in the host's buffer, enough to go on or not yet.
    fn request_body(&self, size: usize, end_of_stream: bool) -> Action {
        match self.slot.request.get() {
            Stage::Gathers(most) if end_of_stream || size >= most => self.decide(Committer::gathered),
            stage => action(stage),
        }
    }

    fn decide(&self, begin: impl FnOnce(&mut Committer, &Rc<Slot>) -> Stage) -> Action {
        let thread = self.thread.as_ref();
        let stage = thread.and_then(|thread| thread.with(|committer| begin(committer, &self.slot)));
        // Without configuration nothing is known of limits, so nobody passes.
        let stage = stage.unwrap_or_else(|| {
            host::answer(&unconfigured(), false);
            Stage::Waits
        });
        self.slot.request.set(stage);
        action(stage)
    }

    /// The next `size` bytes of the answer's body have come. Of an answer that waits, the host would count its first ones again; none of
    /// those is taken down, because no route has both a logout and idempotency.
    fn response_body(&self, size: usize, end_of_stream: bool) -> Action {
        if let Some(completion) = self.slot.completion.borrow_mut().as_mut().filter(|c| c.records()) {
            completion.record_body(&host::response_body(size));
            if end_of_stream {
                completion.record_end();
            }
        }
        action(self.slot.response.get())
    }
}

fn action(stage: Stage) -> Action {
    if stage == Stage::Waits {
        exports::holds_back();
    }
    if stage == Stage::Passes { Action::Continue } else { Action::Pause }
}

/// The host drops a request when its answer has left, and when its client or its upstream is gone.
impl Drop for Http {
    fn drop(&mut self) {
        self.slot.gone.set(true);
        if let (Some(thread), Some(completion)) = (&self.thread, self.slot.completion.take()) {
            thread.ended(completion, &self.slot);
        }
    }
}

fn unconfigured() -> answer::Answer {
    answer::Answer {
        status: 500,
        headers: answer::Fields::default(),
        body: b"tollgate is not configured\n".to_vec(),
    }
}

/// The only status below 200 that is an answer.
const SWITCHING_PROTOCOLS: u16 = 101;
