//! One request and its response.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use tollgate_shared::answer;
use tollgate_shared::exchange::{self, Decision, Step};

use crate::commit::{Committer, Slot};
use crate::host::{self, RequestHead};

/// A request that passes the filter.
pub(crate) struct Http {
    context: u32,
    committer: Option<Rc<RefCell<Committer>>>,
    slot: Rc<Slot>,
}

impl Http {
    pub(crate) fn new(context: u32, committer: Option<Rc<RefCell<Committer>>>) -> Self {
        Self { context, committer, slot: Rc::default() }
    }
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _fields: usize, _end_of_stream: bool) -> Action {
        // Without configuration nothing is known of limits, so nobody passes.
        let Some(committer) = &self.committer else {
            host::refuse(&unconfigured(), false);
            return Action::Pause;
        };
        let committer = &mut *committer.borrow_mut();
        let request = RequestHead::fetch();
        let now = request.time();
        self.slot.grpc.set(request.is_grpc());
        let step = exchange::begin(&committer.policy, &mut committer.local, &request, now);
        let decision = match step {
            Step::Decide(decision) => Some(decision),
            Step::Call(call) => committer.submit(self.context, call, &self.slot),
        };
        let Some(mut decision) = decision else { return Action::Pause };
        committer.metrics.decided(&decision);
        let action = match &decision {
            Decision::Allow(report) => {
                self.slot.fields.replace(answer::fields(&committer.policy, report, now));
                Action::Continue
            }
            Decision::Deny(denial) => {
                host::refuse(&answer::denial(&committer.policy, denial, now), self.slot.grpc.get());
                Action::Pause
            }
        };
        committer.settle(&mut decision, now);
        action
    }

    fn on_http_response_headers(&mut self, _fields: usize, _end_of_stream: bool) -> Action {
        host::set_response_fields(&self.slot.fields.take());
        Action::Continue
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.slot.gone.set(true);
    }
}

fn unconfigured() -> answer::Answer {
    answer::Answer {
        status: 500,
        headers: answer::Fields::default(),
        body: "tollgate is not configured\n".to_owned(),
    }
}
