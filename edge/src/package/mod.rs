//! What the npm package calls: the core, told in texts and answering in JSON.
//!
//! The modules of the package (`edge/npm`) see to what Rust takes for granted, that arguments have their types, and make objects of
//! what is answered here. They decide nothing. As in the Worker, JavaScript carries a decision from one call of Rust to the next.
//!
//! [`told`] has the forms of what is answered, [`by_name`] what is done without a request.

mod by_name;
mod told;

use std::cell::RefCell;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::rc::Rc;

use js_sys::{Function, Promise, RangeError, TypeError};
use wasm_bindgen::prelude::*;
use web_sys::Headers;

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::by_name::Call;
use tollgate_shared::client_ip;
use tollgate_shared::config::{KeyPart, MAX_QUOTA};
use tollgate_shared::exchange::{Decision, LimitError, Verify};
use tollgate_shared::policy::{Limit, Policy};
use tollgate_shared::store::StoreError;
use tollgate_shared::time::Timestamp;

use crate::after::{self, Host};
use crate::answers;
use crate::guard::{Asking, Asleep, Decided, Guard, Next};
use crate::head::RequestHead;
use crate::host::{self, Level, Line, Road, log};
use crate::settings::{self, Settings};
use crate::store::{CallReport, came, resumption_time};
use crate::tickets::{self, FOR_THE_STORE, Tickets, ticket};
use by_name::{Acting, Wanted};
use told::{Limited, Refusal, Told, text};

/// A guard, as JavaScript holds it. What begins with a ticket goes on with what began elsewhere, and belongs to no guard.
#[wasm_bindgen]
#[derive(Clone, Debug)]
pub struct Core {
    desk: Rc<Desk>,
}

#[wasm_bindgen]
impl Core {
    /// Reads a policy and settings from JSON.
    ///
    /// # Errors
    /// Everything that is wrong with either, a line for each.
    #[wasm_bindgen(constructor)]
    pub fn new(policy: &str, settings: &str) -> Result<Self, JsError> {
        let settings = Settings::from_json(settings);
        let variables = match &settings {
            Ok(settings) => &settings.variables,
            Err(refused) => &refused.variables,
        };
        // Errors name the policy, because settings may be wrong too.
        let policy = settings::policy("policy", policy, &|name| variables.get(name));
        let (policy, settings) = match (policy, settings) {
            (Ok(policy), Ok(settings)) => (policy, settings),
            (policy, settings) => {
                let beside = settings.err().map(|refused| refused.errors);
                let errors = policy.err().into_iter().chain(beside).flatten();
                let lines: Vec<String> = errors.map(|error| error.to_string()).collect();
                return Err(JsError::new(&lines.join("\n")));
            }
        };
        let store = settings.store.as_ref();
        let (url, authorization) =
            store.map_or(("", ""), |store| (store.url.as_str(), store.authorization.as_str()));
        let road = Road::new(Resume.into(), url, authorization);
        let guard = Guard::new(policy, settings);
        if guard.store().is_none() {
            log(Level::Warn, &Line { message: NO_STORE });
        }
        Ok(Self { desk: Rc::new(Desk { guard, road }) })
    }

    /// Where those wait who ask.
    #[wasm_bindgen(getter)]
    pub fn road(&self) -> JsValue {
        JsValue::from(&self.desk.road)
    }

    /// The decision about a request that no policy is asked about: why, in a word.
    pub fn refused(why: &str) -> String {
        Told::refused(&match why {
            "ambiguous-path" => answer::ambiguous_path(),
            "invalid-header" => answers::invalid_field(),
            "incomplete" => answers::incomplete(),
            _ => answers::invalid_url(),
        })
    }

    /// Decides about a request: a text, or the promise of one; or nothing, if the first 64 Ki bytes of its `body` are needed. Its `url` is as
    /// [`Road`] writes it.
    ///
    /// What is left to do behind the answer is a promise that `behind` is called with.
    ///
    /// # Errors
    /// `ip` is no address.
    pub fn check(
        &self,
        method: String,
        url: String,
        headers: Headers,
        ip: Option<String>,
        behind: Function,
        body: Option<Vec<u8>>,
    ) -> Result<JsValue, TypeError> {
        let peer = ip.map(|ip| client_ip::parse_entry(ip.as_bytes()).ok_or(ip)).transpose();
        // What stands there instead may be about a person, and errors end up in logs.
        let peer = peer.map_err(|_| {
            TypeError::new("ip: found a text that is no IP address, expected one, or nothing")
        })?;
        let is_read = body.is_some();
        let asked = Asked { method, url, headers, peer, body: body.unwrap_or_default() };
        if !is_read && self.desk.guard.policy().reads_body(&asked.head()) {
            return Ok(JsValue::UNDEFINED);
        }
        let began = host::now();
        let next = self.desk.guard.begin(&asked.head(), began);
        Ok(Deciding { desk: Rc::clone(&self.desk), began, asked: Some(asked), behind }.carry_on(next))
    }

    /// Decides about one limit, for the subject that `values` name; without `cost`, for what a request usually costs. A text,
    /// or the promise of one.
    ///
    /// # Errors
    /// There is no such limit, its key takes other values, or the cost is too large.
    #[allow(clippy::needless_pass_by_value, reason = "JavaScript gives away what it passes")]
    pub fn limit(
        &self,
        name: &str,
        values: Vec<String>,
        cost: Option<f64>,
        behind: Function,
    ) -> Result<JsValue, RangeError> {
        let (desk, began, cost) = (Rc::clone(&self.desk), host::now(), cost.map(host::whole));
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let next = desk.guard.begin_limit(name, &values, cost.and_then(NonZeroU64::new), began);
        let next = next.map_err(|error| {
            RangeError::new(&match error {
                LimitError::Unknown => unknown(desk.guard.policy(), name),
                LimitError::Values => other_values(desk.guard.policy(), name, values.len()),
                LimitError::Cost => {
                    format!("cost: found `{}`, expected at most {MAX_QUOTA}", cost.unwrap_or_default())
                }
            })
        })?;
        Ok(Deciding { desk, began, asked: None, behind }.carry_on(next))
    }

    /// Does something by name: a text, or the promise of one. `time` is a lease, or how long a breaker is open.
    ///
    /// # Errors
    /// It does not fit the policy, or cannot be read.
    #[allow(clippy::needless_pass_by_value, reason = "JavaScript gives away what it passes")]
    pub fn act(
        &self,
        what: &str,
        name: &str,
        values: Vec<String>,
        holder: Option<String>,
        time: Option<String>,
        behind: Function,
    ) -> Result<JsValue, RangeError> {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let (holder, time) = (holder.as_deref(), time.as_deref());
        by_name::begin(&self.desk, &Wanted { what, name, values: &values, holder, time }, behind)
    }
}

/// What goes on with what waited. What is null has been forgotten, because its thread stood still for longer than anybody waits; then
/// JavaScript begins anew.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Resume;

#[wasm_bindgen]
impl Resume {
    /// The store answered who waits with this ticket, or did not: then `failure` is the name of the error that came instead.
    pub fn came(ticket: u32, status: u16, body: &str, failure: Option<String>) -> JsValue {
        let came = came(status, body, failure);
        match tickets::take(&WAITING, ticket) {
            Some(Waiting::Store(deciding, asking)) => {
                let next = deciding.desk.guard.came(asking, came);
                deciding.carry_on(next)
            }
            Some(Waiting::Action(acting, asking)) => acting.came(asking, came),
            None => JsValue::NULL,
        }
    }

    /// The platform has verified the signature for who waits with this ticket.
    pub fn verified(ticket: u32, holds: bool) -> JsValue {
        let Some(Elsewhere::Signature(deciding, verify, asked)) = tickets::take(&ELSEWHERE, ticket) else {
            return JsValue::NULL;
        };
        let next =
            deciding.desk.guard.verified(verify, &asked.head(), holds, resumption_time(deciding.began));
        Deciding { asked: Some(asked), ..deciding }.carry_on(next)
    }

    /// Who waits with this ticket has slept.
    pub fn woken(ticket: u32) -> JsValue {
        let Some(Elsewhere::Lock(deciding, asleep)) = tickets::take(&ELSEWHERE, ticket) else {
            return JsValue::NULL;
        };
        let next = deciding.desk.guard.woken(asleep);
        deciding.carry_on(next)
    }

    /// Keys of tokens have been fetched for who waits with this ticket, or have not: then `failure` says why.
    pub fn fetched(ticket: u32, document: Option<Vec<u8>>, failure: Option<String>) -> JsValue {
        let Some(Elsewhere::Keys(deciding, asked)) = tickets::take(&ELSEWHERE, ticket) else {
            return JsValue::NULL;
        };
        let began = resumption_time(deciding.began);
        let fetched = host::fetched(document, failure);
        let next = deciding.desk.guard.keys_fetched(fetched, &asked.head(), began);
        Deciding { began, asked: Some(asked), ..deciding }.carry_on(next)
    }

    /// The upstream has answered a request of which something is due. Returns another one, as a text, in the place of that, or what is left to do
    /// with it, or the promise of one of these: 1 says that [`Resume::ended`] is to be called, 2 that [`Resume::fields`] and [`Resume::piece`] are, too.
    pub fn answered(ticket: u32, status: u16, confirms: bool, behind: &JsValue) -> JsValue {
        after::answered(ticket, status, confirms, behind).unwrap_or_else(not_revoked)
    }

    /// The answer in the place of one of the upstream's that is none, as a text.
    pub fn unreachable() -> String {
        text(&Refusal::new(&answers::unreachable()))
    }

    /// The upstream has not answered a request of which something is due, and that is because of the client.
    pub fn abandoned(ticket: u32, behind: &JsValue) {
        after::abandoned(ticket, behind);
    }

    /// The header fields of the answer, as lines of names and values in turn.
    pub fn fields(ticket: u32, lines: &str) {
        after::fields(ticket, lines);
    }

    /// A piece of the answer's body.
    pub fn piece(ticket: u32, piece: &[u8]) {
        after::piece(ticket, piece);
    }

    /// The store has been told something, or has not. Returns what [`Resume::answered`] promised.
    pub fn told(ticket: u32, status: u16, body: &str, failure: Option<String>, behind: &JsValue) -> JsValue {
        after::told(ticket, came(status, body, failure), behind).unwrap_or_else(not_revoked)
    }

    /// The end of the answer has left, and it was `whole`, or nobody wants the rest. Returns the promise of an end, if there is something
    /// to wait for.
    pub fn ended(ticket: u32, whole: bool, behind: &JsValue) -> JsValue {
        after::ended(ticket, whole, behind)
    }
}

/// A guard, and where those wait who ask it.
#[derive(Debug)]
struct Desk {
    guard: Guard,
    road: Road,
}

impl Host for Desk {
    fn guard(&self) -> &Guard {
        &self.guard
    }

    fn road(&self) -> &Road {
        &self.road
    }

    fn called(&self, _: &CallReport) {}

    fn wait_until(&self, behind: &JsValue, promise: &Promise) {
        // It throws nothing: it is ours.
        let _ = behind.unchecked_ref::<Function>().call1(&JsValue::UNDEFINED, promise);
    }

    fn answer(&self, answer: &Answer) -> JsValue {
        text(&Refusal::new(answer)).into()
    }
}

/// What is asked about a request.
#[derive(Debug)]
struct Asked {
    method: String,
    url: String,
    headers: Headers,
    peer: Option<IpAddr>,
    body: Vec<u8>,
}

impl Asked {
    fn head(&self) -> RequestHead<'_> {
        RequestHead::new(&self.method, &self.url, &self.headers, self.peer).with_body(&self.body)
    }
}

/// What waits for the store.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are decisions")]
enum Waiting {
    /// A decision.
    Store(Deciding, Asking),
    /// What was to be done by name.
    Action(Acting, Asking<Call>),
}

/// What waits for something else. It has a shelf of its own, so that a slow store takes no room here.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all wait for a signature")]
enum Elsewhere {
    /// Until the platform has verified a signature.
    Signature(Deciding, Verify, Asked),
    /// Until it asks for a lock once more.
    Lock(Deciding, Asleep),
    /// Until keys of tokens have been fetched.
    Keys(Deciding, Asked),
}

thread_local! {
    static WAITING: RefCell<Tickets<Waiting>> = const { RefCell::new(Tickets::new(FOR_THE_STORE)) };
    static ELSEWHERE: RefCell<Tickets<Elsewhere>> = const { RefCell::new(Tickets::new(FOR_THE_STORE)) };
}

/// A decision under way.
#[derive(Debug)]
struct Deciding {
    desk: Rc<Desk>,
    began: Timestamp,
    /// `None` if it is about one limit.
    asked: Option<Asked>,
    behind: Function,
}

impl Deciding {
    fn carry_on(mut self, mut next: Next) -> JsValue {
        let desk = Rc::clone(&self.desk);
        loop {
            match next {
                Next::Decided(decided) => return self.decided(decided).into(),
                Next::Verify(verify) => {
                    // A limit alone has no token.
                    let Some(asked) = self.asked.take() else { return JsValue::UNDEFINED };
                    if !tickets::has_room(&ELSEWHERE) {
                        next = desk.guard.verified(verify, &asked.head(), false, resumption_time(self.began));
                        self.asked = Some(asked);
                        continue;
                    }
                    let ticket = ticket();
                    let promise = host::verify(&desk.road, &desk.guard, ticket, &verify, &JsValue::UNDEFINED);
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Signature(self, verify, asked));
                    return promise.into();
                }
                Next::FetchKeys => {
                    let Some(asked) = self.asked.take() else { return JsValue::UNDEFINED };
                    if !tickets::has_room(&ELSEWHERE) {
                        next = desk.guard.without_keys(&asked.head(), resumption_time(self.began));
                        self.asked = Some(asked);
                        continue;
                    }
                    let ticket = ticket();
                    let promise = host::fetch_keys(&desk.road, &desk.guard, ticket, &JsValue::UNDEFINED);
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Keys(self, asked));
                    return promise.into();
                }
                Next::Sleep(asleep) if !tickets::has_room(&ELSEWHERE) => next = desk.guard.gave_up(asleep),
                Next::Sleep(asleep) => {
                    let ticket = ticket();
                    let promise = desk.road.sleep(ticket, asleep.ms(), &JsValue::UNDEFINED);
                    tickets::keep(&ELSEWHERE, ticket, Elsewhere::Lock(self, asleep));
                    return promise.into();
                }
                Next::Ask(asking) => match asking.post() {
                    Some(post) if tickets::has_room(&WAITING) => {
                        let ticket = ticket();
                        tickets::keep(&WAITING, ticket, Waiting::Store(self, asking));
                        return desk.road.ask(ticket, &post.body, post.patience).into();
                    }
                    Some(_) => next = desk.guard.came(asking, Err(StoreError::Busy)),
                    None => next = desk.guard.came(asking, Err(StoreError::Timeout)),
                },
            }
        }
    }

    fn decided(self, mut decided: Decided) -> String {
        let Self { desk, began, asked, behind } = self;
        let host: Rc<dyn Host> = Rc::clone(&desk) as _;
        after::tell(&host, decided.decision.settle(), began, &behind);
        if asked.is_none() {
            return text(&Limited::all(&desk.guard, &decided.decision).first());
        }
        let due = match &mut decided.decision {
            Decision::Allow(admission) => admission.completion().map(|it| after::keep(host, it, began)),
            Decision::Deny(_) => None,
        };
        Told::text(&desk.guard, &decided, due)
    }
}

/// Where nobody knows any more whether the store has heard of a logout.
fn not_revoked() -> JsValue {
    text(&Refusal::new(&answer::not_revoked())).into()
}

fn unknown(policy: &Policy, name: &str) -> String {
    let names: Vec<String> = policy.limits().iter().map(|limit| format!("`{}`", limit.name())).collect();
    let there = if names.is_empty() { "the policy has none".to_owned() } else { names.join(", ") };
    format!("name: found `{name}`, expected a limit of the policy: {there}")
}

fn other_values(policy: &Policy, name: &str, found: usize) -> String {
    let limit = policy.limits().iter().find(|limit| limit.name() == name);
    let parts = limit.map(Limit::key).unwrap_or_default();
    let parts: Vec<String> = parts
        .iter()
        .filter(|part| !matches!(part, KeyPart::Const(_)))
        .map(|part| match part {
            KeyPart::ClientIp => "client_ip (an IP address)".to_owned(),
            part => part.to_string(),
        })
        .collect();
    let expected = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    format!(
        "key: found {found} values, expected one for each part of the key of `{name}` that is no constant: {expected}"
    )
}

const NO_STORE: &str = "no store is configured (`redis`, or UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN): \
                        limits hold for this instance alone, in its memory";
