//! The Cloudflare Worker: guards a request, sends it on to the origin, and adds header fields to the answer.
//!
//! JavaScript carries a request from one call of Rust to the next, because a future of Rust's costs the runtime more than all
//! of the decision:
//!
//! ```text
//! Core::fetch ─▶ begin ─┬─▶ refused, or sent on                 host.js: forward ─▶ Core::answered, where something is due
//!                       ├─▶ host.js: verify ─▶ Core::verified ─▶ as after begin
//!                       ├─▶ host.js: sleep ─▶ Core::woken ─▶ as after begin
//!                       ├─▶ host.js: fetchKeys ─▶ Core::fetched ─▶ begin
//!                       └─▶ host.js: ask ─▶ Core::came ─┬─▶ refused, or sent on
//!                                                       └─▶ ask once more: with the text of the script, or to claim something
//! ```
//!
//! `entry.js` is what the runtime loads. It is an object with a function: the class that `worker-build` makes costs an object and
//! two proxies with each request.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`control`] | the control path |
//! | [`instance`] | what an isolate makes of its variables, once |
//! | [`metrics`] | data points for Analytics Engine |
//! | [`origin`] | requests on their way to the origin, and answers |
//! | [`panics`] | that wasm starts anew after one |

mod control;
mod instance;
mod metrics;
mod origin;
mod panics;

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::{Array, Promise};
use wasm_bindgen::intern;
use wasm_bindgen::prelude::*;
use web_sys::Request;

use tollgate_shared::answer;
use tollgate_shared::client_ip;
use tollgate_shared::control::Call;
use tollgate_shared::exchange::{Decision, Verify};
use tollgate_shared::request::MAX_BODY;
use tollgate_shared::store::StoreError;
use tollgate_shared::time::Timestamp;

use crate::after::{self, Host};
use crate::answers;
use crate::guard::{Asking, Asleep, Decided, Next};
use crate::head::RequestHead;
use crate::host;
use crate::store::{came, resumption_time};
use crate::tickets::{self, FOR_THE_STORE, Tickets, ticket};
use instance::Instance;

/// What JavaScript calls. Nothing is made of it but one value, by which JavaScript knows the class: an object of wasm for each request
/// would cost the runtime a finalizer.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Core;

#[wasm_bindgen]
impl Core {
    /// A request has come. Returns a response, or the promise of one.
    pub fn fetch(request: Request, env: JsValue, context: JsValue) -> JsValue {
        let incoming = Incoming { request, env, context };
        let answered = incoming.read(|head| {
            let is_head = head.method() == "HEAD";
            let instance = match Instance::get(&incoming.env) {
                Ok(instance) => instance,
                // Without a policy nothing is known of limits, so nobody passes.
                Err(refusal) => return origin::answer(&refusal, is_head).into(),
            };
            if let Some(answer) = control::begin(&instance, &incoming, head) {
                return answer;
            }
            let body = match incoming.body(&instance, head) {
                Ok(body) => body,
                Err(read) => return read.into(),
            };
            let (head, began) = (head.with_body(&body), time(head));
            let next = instance.guard.begin(&head, began);
            Guarded { instance, began, is_head, body }.carry_on(&incoming, next)
        });
        answered.unwrap_or_else(|| incoming.invalid())
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
        let (incoming, came) = (Incoming { request, env, context }, came(status, body, failure));
        match tickets::take(&WAITING, ticket) {
            Some(Waiting::Store(guarded, asking)) => {
                let next = guarded.instance.guard.came(asking, came);
                guarded.carry_on(&incoming, next)
            }
            Some(Waiting::Control(asked, asking)) => asked.came(&incoming, asking, came),
            None => incoming.begins_anew(),
        }
    }

    /// The platform has verified the signature for who waits with this ticket. Returns a response, or the promise of one.
    pub fn verified(ticket: u32, holds: bool, carried: &Array) -> JsValue {
        let incoming = Incoming::carried(carried);
        let Some(Elsewhere::Signature(guarded, verify)) = tickets::take(&ELSEWHERE, ticket) else {
            return incoming.begins_anew();
        };
        let now = resumption_time(guarded.began);
        let guard = &guarded.instance.guard;
        let next = incoming.read(|head| guard.verified(verify, &head.with_body(&guarded.body), holds, now));
        next.map_or_else(|| incoming.invalid(), |next| guarded.carry_on(&incoming, next))
    }

    /// Who waits with this ticket has slept. Returns a response, or the promise of one.
    pub fn woken(ticket: u32, carried: &Array) -> JsValue {
        let incoming = Incoming::carried(carried);
        match tickets::take(&ELSEWHERE, ticket) {
            Some(Elsewhere::Lock(guarded, asleep)) => {
                let next = guarded.instance.guard.woken(asleep);
                guarded.carry_on(&incoming, next)
            }
            _ => incoming.begins_anew(),
        }
    }

    /// Keys of tokens have been fetched for who waits with this ticket, or have not: then `failure` says why. Returns a response, or the
    /// promise of one.
    pub fn fetched(
        ticket: u32,
        document: Option<Vec<u8>>,
        failure: Option<String>,
        carried: &Array,
    ) -> JsValue {
        let incoming = Incoming::carried(carried);
        let Some(Elsewhere::Keys(guarded)) = tickets::take(&ELSEWHERE, ticket) else {
            return incoming.begins_anew();
        };
        let (guard, began) = (&guarded.instance.guard, resumption_time(guarded.began));
        let fetched = host::fetched(document, failure);
        let next = incoming.read(|head| guard.keys_fetched(fetched, &head.with_body(&guarded.body), began));
        let guarded = Guarded { began, ..guarded };
        next.map_or_else(|| incoming.invalid(), |next| guarded.carry_on(&incoming, next))
    }

    /// The origin has answered a request of which something is due. Returns another response in the place of that, or what is left to do
    /// with it, or the promise of one of these: 1 says that [`Core::ended`] is to be called, 2 that [`Core::fields`] and [`Core::piece`] are, too.
    pub fn answered(ticket: u32, status: u16, confirms: bool, context: &JsValue) -> JsValue {
        after::answered(ticket, status, confirms, context).unwrap_or_else(not_revoked)
    }

    /// The origin has not answered a request of which something is due, and that is because of the client.
    pub fn abandoned(ticket: u32, context: &JsValue) {
        after::abandoned(ticket, context);
    }

    /// The header fields of the answer, as lines of names and values in turn.
    pub fn fields(ticket: u32, lines: &str) {
        after::fields(ticket, lines);
    }

    /// A piece of the answer's body.
    pub fn piece(ticket: u32, piece: &[u8]) {
        after::piece(ticket, piece);
    }

    /// The store has been told something, or has not: as for [`Core::came`]. Returns what [`Core::answered`] promised.
    pub fn told(ticket: u32, status: u16, body: &str, failure: Option<String>, context: &JsValue) -> JsValue {
        let told = after::told(ticket, came(status, body, failure), context);
        told.unwrap_or_else(not_revoked)
    }

    /// The end of the answer has left, and it was `whole`, or nobody wants the rest. Returns the promise of an end, if there is something
    /// to wait for.
    pub fn ended(ticket: u32, whole: bool, context: &JsValue) -> JsValue {
        after::ended(ticket, whole, context)
    }
}

/// A request, as the runtime gave it.
#[derive(Debug)]
struct Incoming {
    request: Request,
    env: JsValue,
    context: JsValue,
}

impl Incoming {
    /// What JavaScript carried for who waited.
    fn carried(carried: &Array) -> Self {
        let [request, env, context] = [0, 1, 2].map(|place| carried.get(place));
        Self { request: request.unchecked_into(), env, context }
    }

    /// [`Incoming::carried`] will have it again.
    fn carry(&self) -> Array {
        Array::of3(&self.request, &self.env, &self.context)
    }

    /// Another request panicked, and what waited is of a wasm that is no more. This request has not left yet.
    fn begins_anew(self) -> JsValue {
        Core::fetch(self.request, self.env, self.context)
    }

    /// What `read` makes of its head; `None` if it has no URL.
    fn read<T>(&self, read: impl FnOnce(&RequestHead<'_>) -> T) -> Option<T> {
        // Not as it was sent: `fetch` would read that in another way.
        let url = origin::url(&self.request)?;
        let (method, headers) = (self.request.method(), self.request.headers());
        // Cloudflare writes this field, whatever a client sends.
        let peer = headers.get(intern("cf-connecting-ip")).ok().flatten();
        let peer = peer.and_then(|address| client_ip::parse_entry(address.as_bytes()));
        Some(read(&RequestHead::new(&method, &url, &headers, peer)))
    }

    /// The answer to a request whose host and path make no URL.
    fn invalid(&self) -> JsValue {
        origin::answer(&answers::invalid_url(), self.request.method() == "HEAD").into()
    }

    /// What a decision has to know of the body; or the promise of a response, if that is still to be read.
    fn body(&self, instance: &Instance, head: &RequestHead<'_>) -> Result<Vec<u8>, Promise> {
        if instance.guard.policy().reads_body(head) { self.begun(instance, MAX_BODY) } else { Ok(Vec::new()) }
    }

    /// The first bytes of the body, at most so many; or the promise of a response, if they are still to be read.
    fn begun(&self, instance: &Instance, most: usize) -> Result<Vec<u8>, Promise> {
        let Self { request, env, context } = self;
        origin::begun(request).ok_or_else(|| instance.origin.read(request, env, context, most))
    }
}

/// A request that waits for the store.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are decided about")]
enum Waiting {
    /// One that is decided about.
    Store(Guarded, Asking),
    /// One of the control path.
    Control(control::Asked, Asking<Call>),
}

/// A request that waits for something else. It has a shelf of its own, so that a slow store takes no room here.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all wait for a signature")]
enum Elsewhere {
    /// Until the platform has verified a signature.
    Signature(Guarded, Verify),
    /// Until it asks for a lock once more.
    Lock(Guarded, Asleep),
    /// Until keys of tokens have been fetched.
    Keys(Guarded),
}

thread_local! {
    static WAITING: RefCell<Tickets<Waiting>> = const { RefCell::new(Tickets::new(FOR_THE_STORE)) };
    static ELSEWHERE: RefCell<Tickets<Elsewhere>> = const { RefCell::new(Tickets::new(FOR_THE_STORE)) };
}

/// A request that is being decided about.
#[derive(Debug)]
struct Guarded {
    instance: Rc<Instance>,
    began: Timestamp,
    is_head: bool,
    /// As much of it as was read.
    body: Vec<u8>,
}

impl Guarded {
    fn carry_on(self, incoming: &Incoming, mut next: Next) -> JsValue {
        let instance = Rc::clone(&self.instance);
        loop {
            match next {
                Next::Decided(decided) => return self.decided(incoming, decided),
                Next::Verify(verify) => {
                    let (ticket, road) = (ticket(), instance.origin.road());
                    let promise = host::verify(road, &instance.guard, ticket, &verify, &incoming.carry());
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Signature(self, verify));
                    return promise.into();
                }
                Next::FetchKeys => {
                    let (ticket, road) = (ticket(), instance.origin.road());
                    let promise = host::fetch_keys(road, &instance.guard, ticket, &incoming.carry());
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Keys(self));
                    return promise.into();
                }
                Next::Sleep(asleep) => {
                    let ticket = ticket();
                    let promise = instance.origin.road().sleep(ticket, asleep.ms(), &incoming.carry());
                    // It goes on if the client leaves: nobody but itself gives back what it holds.
                    instance.wait_until(&incoming.context, &promise);
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Lock(self, asleep));
                    return promise.into();
                }
                Next::Ask(asking) => match asking.post() {
                    Some(post) if tickets::has_room(&WAITING) => {
                        let ticket = ticket();
                        let promise = instance.origin.ask(ticket, incoming, &post);
                        if asking.call().claims() {
                            instance.wait_until(&incoming.context, &promise);
                        }
                        tickets::keep(&WAITING, ticket, Waiting::Store(self, asking));
                        return promise.into();
                    }
                    Some(_) => next = instance.guard.came(asking, Err(StoreError::Busy)),
                    None => next = instance.guard.came(asking, Err(StoreError::Timeout)),
                },
            }
        }
    }

    fn decided(self, incoming: &Incoming, decided: Decided) -> JsValue {
        let Self { instance, began, is_head, .. } = self;
        let Incoming { request, context, .. } = incoming;
        let Decided { mut decision, at, calls } = decided;
        let policy = instance.guard.policy();
        instance.metrics.decided(policy, &decision, &calls);
        let refunds = decision.settle();
        let host: Rc<dyn Host> = Rc::clone(&instance) as _;
        after::tell(&host, refunds, began, context);
        match &mut decision {
            Decision::Deny(denial) => origin::answer(&answer::denial(policy, denial, at), is_head).into(),
            Decision::Allow(admission) => {
                let fields = answer::fields(policy, admission.report(), at);
                let onward = origin::onward(admission);
                let Some(completion) = admission.completion() else {
                    return instance.origin.forward(request, &fields, onward.as_deref()).into();
                };
                let due = after::keep(Rc::clone(&host), completion, began);
                let answered =
                    instance.origin.forward_and_complete(request, &fields, onward.as_deref(), due, context);
                // If the client leaves, the origin's answer is waited for all the same: until then, what the request holds is in use.
                host.wait_until(context, &answered);
                answered.into()
            }
        }
    }
}

/// Where what waited for the store to know of a logout is of a wasm that is no more.
fn not_revoked() -> JsValue {
    origin::answer(&answer::not_revoked(), false).into()
}

/// The time of the request; of tests' choosing if the Worker was built for that.
fn time(head: &RequestHead<'_>) -> Timestamp {
    if cfg!(feature = "test-clock") {
        assert!(head.field("x-tollgate-test-panic").is_none(), "a test asked for this");
        if let Some(millis) = head.field("x-tollgate-test-now").and_then(|text| text.parse().ok()) {
            return Timestamp::from_millis(millis);
        }
    }
    host::now()
}
