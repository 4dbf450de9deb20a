//! The Cloudflare Worker: guards a request, sends it on to the origin, and adds header fields to the answer.
//!
//! JavaScript carries a request from one call of Rust to the next, because a future of Rust's costs the runtime more than all
//! of the decision:
//!
//! ```text
//! Core::fetch ─▶ begin ─┬─▶ refused, or sent on                 host.js: forward
//!                       └─▶ host.js: ask ─▶ Core::came ─┬─▶ refused, or sent on
//!                                                       └─▶ ask once more, with the text of the script
//! ```
//!
//! `entry.js` is what the runtime loads. It is an object with a function: the class that `worker-build` makes costs an object and
//! two proxies with each request.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`instance`] | what an isolate makes of its variables, once |
//! | [`health`] | the control path: whether it lives, and how the store is |
//! | [`metrics`] | data points for Analytics Engine |
//! | [`origin`] | requests on their way to the origin, and answers |
//! | [`waiting`] | requests that wait for the store |

mod health;
mod instance;
mod metrics;
mod origin;
mod waiting;

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

use crate::guard::{Decided, Next};
use crate::head::RequestHead;
use crate::host;
use instance::Instance;
use waiting::Waiting;

/// What JavaScript calls. Nothing is made of it but one value, by which JavaScript knows the class: an object of wasm for each request
/// would cost the runtime a finalizer.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Core;

#[wasm_bindgen]
impl Core {
    /// A request has come. Returns a response, or the promise of one.
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
            let answered =
                async move { Ok(origin::answer(&control.answer(&instance).await, is_head).into()) };
            return future_to_promise(answered).into();
        }
        let began = time(&headers);
        let next = instance.guard.begin(&head, began);
        Guarded { instance, began, is_head }.carry_on(&Incoming { request, env, context }, next)
    }

    /// Has wasm start anew, if a panic made that necessary.
    pub fn wake() {}

    /// The store answered who waits with this ticket, or did not: then `failure` is the name of the error that came instead. Returns a
    /// response, or the promise of one.
    pub fn came(
        ticket: u32,
        status: u16,
        body: &str,
        failure: Option<String>,
        request: Request,
        env: JsValue,
        context: JsValue,
    ) -> JsValue {
        let Some(Waiting { guarded, asking }) = waiting::take(ticket) else {
            // Another request panicked, and what waited is of a wasm that is no more. This request has not left yet: it begins anew.
            return Self::fetch(request, env, context);
        };
        let came = match failure {
            None => Ok((status, body.as_bytes())),
            Some(error) => Err(host::store_error(&error)),
        };
        let next = guarded.instance.guard.came(asking, came);
        guarded.carry_on(&Incoming { request, env, context }, next)
    }
}

/// A request, as the runtime gave it.
#[derive(Debug)]
struct Incoming {
    request: Request,
    env: JsValue,
    context: JsValue,
}

/// A request that is being decided about.
#[derive(Debug)]
struct Guarded {
    instance: Rc<Instance>,
    began: Timestamp,
    is_head: bool,
}

impl Guarded {
    fn carry_on(self, incoming: &Incoming, mut next: Next) -> JsValue {
        loop {
            let asking = match next {
                Next::Decided(decided) => return self.decided(incoming, decided),
                Next::Ask(asking) => asking,
            };
            match asking.post() {
                Some(post) => {
                    let instance = Rc::clone(&self.instance);
                    let ticket = waiting::keep(Waiting { guarded: self, asking });
                    return instance.origin.ask(ticket, incoming, &post).into();
                }
                None => next = self.instance.guard.came(asking, Err(StoreError::Timeout)),
            }
        }
    }

    fn decided(self, incoming: &Incoming, decided: Decided) -> JsValue {
        let Decided { mut decision, at, call } = decided;
        let policy = self.instance.guard.policy();
        self.instance.metrics.decided(policy, &decision, call.as_ref());
        self.settle(incoming, &mut decision);
        match &decision {
            Decision::Deny(denial) => {
                origin::answer(&answer::denial(policy, denial, at), self.is_head).into()
            }
            Decision::Allow(report) => {
                let fields = answer::fields(policy, report, at);
                self.instance.origin.forward(&incoming.request, &fields).into()
            }
        }
    }

    /// What a decision leaves to tell the store is told behind the answer.
    fn settle(&self, incoming: &Incoming, decision: &mut Decision) {
        let ops = decision.settle();
        if !ops.is_empty() {
            let (instance, began) = (Rc::clone(&self.instance), self.began);
            let context = Context::new(incoming.context.clone().unchecked_into());
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
