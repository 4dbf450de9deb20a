//! The Cloudflare Worker: guards a request, sends it on to the origin, and adds header fields to the answer.
//!
//! JavaScript carries a request from one call of Rust to the next, because a future of Rust's costs the runtime more than all
//! of the decision:
//!
//! ```text
//! fetch ─▶ begin ─┬─▶ refused, or sent on                    host.js: forward
//!                 └─▶ host.js: ask ─▶ Waiting::came ─┬─▶ refused, or sent on
//!                                                    └─▶ ask once more, with the text of the script
//! ```
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`instance`] | what an isolate makes of its variables, once |
//! | [`health`] | the control path: whether it lives, and how the store is |
//! | [`metrics`] | data points for Analytics Engine |
//! | [`origin`] | requests on their way to the origin, and answers |

mod health;
mod instance;
mod metrics;
mod origin;

use std::rc::Rc;

use wasm_bindgen::intern;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::{Headers, Request};
use worker::Context;

use tollgate_shared::answer;
use tollgate_shared::client_ip;
use tollgate_shared::exchange::Decision;
use tollgate_shared::store::StoreError;
use tollgate_shared::time::Timestamp;

use crate::guard::{Asking, Decided, Next};
use crate::head::RequestHead;
use crate::host;
use instance::Instance;

/// What the runtime calls with each request: the same as `#[worker::event(fetch)]` exports, but that it need not be a future.
/// It returns a response, or the promise of one.
#[wasm_bindgen]
#[allow(unreachable_pub, reason = "JavaScript reaches it")]
pub fn fetch(request: Request, env: JsValue, context: JsValue) -> JsValue {
    let (method, url, headers) = (request.method(), request.url(), request.headers());
    let is_head = method == "HEAD";
    let instance = match Instance::get(env.unchecked_ref()) {
        Ok(instance) => instance,
        // Without a policy nothing is known of limits, so nobody passes.
        Err(refusal) => return origin::answer(&refusal, is_head).into(),
    };
    // Cloudflare writes this field, whatever a client sends.
    let peer = headers.get(intern("cf-connecting-ip")).ok().flatten();
    let peer = peer.and_then(|address| client_ip::parse_entry(address.as_bytes()));
    let head = RequestHead::new(&method, &url, &headers, peer);
    if let Some(control) = health::Control::of(&instance, &method, &head) {
        let instance = Rc::clone(&instance);
        let answered = async move { Ok(origin::answer(&control.answer(&instance).await, is_head).into()) };
        return future_to_promise(answered).into();
    }
    let began = time(&headers);
    let next = instance.guard.begin(&head, began);
    Guarded { instance, incoming: Incoming { request, env, context }, began, is_head }.carry_on(next)
}

/// A request, as the runtime gave it.
#[derive(Clone, Debug)]
struct Incoming {
    request: Request,
    env: JsValue,
    context: JsValue,
}

/// A request that is being decided about.
#[derive(Debug)]
struct Guarded {
    instance: Rc<Instance>,
    incoming: Incoming,
    began: Timestamp,
    is_head: bool,
}

/// A request that waits for the store. JavaScript hands it what came, once.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Waiting {
    guarded: Guarded,
    asking: Asking,
}

#[wasm_bindgen]
impl Waiting {
    /// Has wasm start anew, if a panic made that necessary.
    pub fn wake() {}

    /// Begins with a request once more: what waited with it is of a wasm that is no more.
    pub fn begin(request: Request, env: JsValue, context: JsValue) -> JsValue {
        fetch(request, env, context)
    }

    /// The store answered. Returns a response, or the promise of one.
    pub fn came(self, status: u16, body: &str) -> JsValue {
        self.carry_on(Ok((status, body.as_bytes())))
    }

    /// It did not; `error` is the name of the error that came instead.
    pub fn failed(self, error: &str) -> JsValue {
        self.carry_on(Err(host::store_error(error)))
    }

    fn carry_on(self, came: Result<(u16, &[u8]), StoreError>) -> JsValue {
        let Self { guarded, asking } = self;
        let next = guarded.instance.guard.came(asking, came);
        guarded.carry_on(next)
    }
}

impl Guarded {
    fn carry_on(self, mut next: Next) -> JsValue {
        loop {
            let asking = match next {
                Next::Decided(decided) => return self.decided(decided),
                Next::Ask(asking) => asking,
            };
            match asking.post() {
                Some(post) => {
                    let (instance, from) = (Rc::clone(&self.instance), self.incoming.clone());
                    return instance.origin.ask(Waiting { guarded: self, asking }, &from, &post).into();
                }
                None => next = self.instance.guard.came(asking, Err(StoreError::Timeout)),
            }
        }
    }

    fn decided(self, decided: Decided) -> JsValue {
        let Decided { mut decision, at, call } = decided;
        let policy = self.instance.guard.policy();
        self.instance.metrics.decided(policy, &decision, call.as_ref());
        self.settle(&mut decision);
        match &decision {
            Decision::Deny(denial) => {
                origin::answer(&answer::denial(policy, denial, at), self.is_head).into()
            }
            Decision::Allow(report) => {
                let fields = answer::fields(policy, report, at);
                self.instance.origin.forward(&self.incoming.request, &fields).into()
            }
        }
    }

    /// What a decision leaves to tell the store is told behind the answer.
    fn settle(&self, decision: &mut Decision) {
        let ops = decision.settle();
        if !ops.is_empty() {
            let (instance, began) = (Rc::clone(&self.instance), self.began);
            let context = Context::new(self.incoming.context.clone().unchecked_into());
            context.wait_until(async move {
                if let Some(call) = instance.guard.settle(ops, began).await {
                    instance.metrics.called(&call);
                }
            });
        }
    }
}

/// The time of the request; of tests' choosing if the Worker was built for that.
fn time(headers: &Headers) -> Timestamp {
    if cfg!(feature = "test-clock") {
        let chosen = |name| headers.get(name).ok().flatten();
        assert!(chosen("x-tollgate-test-panic").is_none(), "a test asked for this");
        if let Some(millis) = chosen("x-tollgate-test-now").and_then(|text| text.parse().ok()) {
            return Timestamp::from_millis(millis);
        }
    }
    host::now()
}
