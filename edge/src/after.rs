//! What is left to do after a decision: what a refused request was charged is given back, and the answer to one that was let
//! through is told to guards which have to know of it.
//!
//! ```text
//! answered ─┬───────────────────────────────────────┬─▶ another answer in its place
//!           └─▶ host.js: tell ─▶ told, of a logout ─┘   │
//!                                                       ├─▶ it goes; operations behind it
//!                                                       └─▶ it goes: fields, piece …, ended; operations behind each
//! ```
//!
//! Completions wait outside of wasm, so another request's panic loses them. Then what is held ends by its time, but an answer which
//! the store had to confirm does not go.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use js_sys::Promise;
use serde::Serialize;
use wasm_bindgen::{JsCast as _, JsValue};

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::exchange::{Before, Completion, Revoking};
use tollgate_shared::store::{Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::guard::Guard;
use crate::host::Road;
use crate::store::{Answered, CallReport, Came, Question, Store, resumption_time};
use crate::tickets::{self, FOR_THE_STORE, Tickets, ticket};

/// Whoever runs a guard.
pub(crate) trait Host {
    fn guard(&self) -> &Guard;
    /// What waits for the store waits there.
    fn road(&self) -> &Road;
    /// Takes down a call to the store.
    fn called(&self, call: &CallReport);
    /// Keeps the runtime from ending what belongs to a request before `promise` is settled.
    fn wait_until(&self, context: &JsValue, promise: &Promise);
    /// An answer of ours, as JavaScript takes it.
    fn answer(&self, answer: &Answer) -> JsValue;
}

/// Not what is in it: a table of functions would hold the code for that.
impl fmt::Debug for dyn Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// What is left to do with an answer that goes to the client, as JavaScript is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing = 0,
    /// [`ended`] is to be told.
    End = 1,
    /// [`fields`] and [`piece`], too.
    All = 2,
}

/// What is due when the upstream has answered: JavaScript hands [`answered`] the ticket.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Due {
    pub(crate) ticket: u32,
    /// Whether something may be left to do at the end of the answer.
    pub(crate) lasts: bool,
    /// Whether the answer goes only if guards say so.
    pub(crate) confirms: bool,
}

/// A completion, until its ticket comes back.
#[derive(Debug)]
struct Pending {
    host: Rc<dyn Host>,
    completion: Completion,
    began: Timestamp,
}

/// Something that the store is told.
#[derive(Debug)]
struct Telling {
    /// Of the answer that waits, if one does.
    ticket: u32,
    host: Rc<dyn Host>,
    store: Rc<Store>,
    question: Question,
    /// An answer that waits until the store knows.
    answer: Option<(Revoking, Pending, u16)>,
}

thread_local! {
    static PENDING: RefCell<Tickets<Pending>> = const { RefCell::new(Tickets::new(LONGEST_ANSWER)) };
    static TELLING: RefCell<Tickets<Telling>> = const { RefCell::new(Tickets::new(FOR_THE_STORE)) };
}

/// Keeps what is left to do with an answer.
pub(crate) fn keep(host: Rc<dyn Host>, completion: Completion, began: Timestamp) -> Due {
    let due = Due { ticket: ticket(), lasts: completion.lasts(), confirms: completion.confirms() };
    let pending = Pending { host, completion, began };
    tickets::keep(&PENDING, due.ticket, pending);
    due
}

/// The upstream has answered, or the host in its place: what is left to do, as a number, or else another answer; or the promise of one of
/// these. `None` if the ticket is of a wasm that is no more, and the answer was to be confirmed.
pub(crate) fn answered(ticket: u32, status: u16, confirms: bool, context: &JsValue) -> Option<JsValue> {
    let Some(mut pending) = tickets::take(&PENDING, ticket) else {
        return (!confirms).then(|| Left::Nothing.into());
    };
    let (host, now) = (Rc::clone(&pending.host), resumption_time(pending.began));
    let before = pending.completion.before_answer(&mut host.guard().local(), status, now);
    Some(match before {
        Before::Pass => pending.passes(ticket, true, status, context),
        Before::Fail => pending.passes(ticket, false, status, context),
        Before::Ask(revoking) => match host.guard().store() {
            Some(store) => {
                let question = Question::new(revoking.as_ref().to_vec(), pending.began, None);
                let (store, answer) = (Rc::clone(store), Some((revoking, pending, status)));
                Telling { ticket, host, store, question, answer }.send(context)
            }
            // Where there is no store, the memory has been told; nobody comes here.
            None => pending.passes(ticket, false, status, context),
        },
    })
}

/// Nobody has answered, or the host has because of the client: nothing of it is the upstream's doing.
pub(crate) fn abandoned(ticket: u32, context: &JsValue) {
    let Some(Pending { host, mut completion, began }) = tickets::take(&PENDING, ticket) else { return };
    let now = resumption_time(began);
    let mut ops = completion.abandoned(&mut host.guard().local(), now);
    ops.extend(completion.ended(&mut host.guard().local(), now));
    tell(&host, ops, began, context);
}

/// The header fields of the answer: alternating names and values, one in each line.
pub(crate) fn fields(ticket: u32, lines: &str) {
    with(ticket, |completion| {
        let mut lines = lines.split('\n');
        while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
            // What stands for bytes that are no text is not what was sent: such an answer is not kept.
            let is_text = !value.contains(char::REPLACEMENT_CHARACTER);
            completion.record_field(name, if is_text { value.as_bytes() } else { NO_TEXT });
        }
    });
}

/// A piece of its body.
pub(crate) fn piece(ticket: u32, piece: &[u8]) {
    with(ticket, |completion| completion.record_body(piece));
}

/// The last byte of the answer has left, and it was `whole`; or the client has left, or the upstream. What is left to wait for, if
/// anything.
pub(crate) fn ended(ticket: u32, whole: bool, context: &JsValue) -> JsValue {
    let Some(Pending { host, mut completion, began }) = tickets::take(&PENDING, ticket) else {
        return JsValue::UNDEFINED;
    };
    if whole {
        completion.record_end();
    }
    let ops = completion.ended(&mut host.guard().local(), resumption_time(began));
    send(host, ops, began, context).unwrap_or_default()
}

fn with(ticket: u32, act: impl FnOnce(&mut Completion)) {
    PENDING.with_borrow_mut(|all| all.get(ticket).map(|pending| act(&mut pending.completion)));
}

/// Tells the store what nobody waits for.
pub(crate) fn tell(host: &Rc<dyn Host>, ops: Vec<Op>, began: Timestamp, context: &JsValue) {
    if let Some(promise) = send(Rc::clone(host), ops, began, context) {
        host.wait_until(context, promise.as_ref().unchecked_ref());
    }
}

/// The store has been told, or not: what [`answered`] promised, if an answer waits; `None` if the ticket is of a wasm that is no more.
pub(crate) fn told(ticket: u32, came: Came<'_>, context: &JsValue) -> Option<JsValue> {
    tickets::take(&TELLING, ticket).map(|telling| telling.told(came, context))
}

/// The promise of an end, if there is anything to tell and somebody to tell it.
fn send(host: Rc<dyn Host>, ops: Vec<Op>, began: Timestamp, context: &JsValue) -> Option<JsValue> {
    let guard = host.guard();
    if ops.is_empty() || guard.local().store_is_open() {
        return None;
    }
    let Some(store) = guard.store().map(Rc::clone) else {
        ops.iter().for_each(|op| drop(guard.local().memory().perform(op, began)));
        return None;
    };
    let question = Question::new(ops, began, None);
    Some(Telling { ticket: 0, host, store, question, answer: None }.send(context))
}

impl Telling {
    fn send(self, context: &JsValue) -> JsValue {
        let Some(post) = self.store.post(&self.question) else {
            return self.told(Err(StoreError::Timeout), context);
        };
        if !tickets::has_room(&TELLING) {
            return self.told(Err(StoreError::Busy), context);
        }
        let (ticket, host) = (ticket(), Rc::clone(&self.host));
        tickets::keep(&TELLING, ticket, self);
        host.road().tell(ticket, &post.body, post.patience, context).into()
    }

    fn told(self, came: Came<'_>, context: &JsValue) -> JsValue {
        let Self { ticket, host, store, question, answer } = self;
        let began = question.began();
        match question.answered(came) {
            Answered::Not(question) => Self { ticket, host, store, question, answer }.send(context),
            Answered::With(outcomes, report, _) => {
                let now = resumption_time(began);
                host.guard().note(&report, now);
                host.called(&report);
                let Some((revoking, pending, status)) = answer else { return JsValue::UNDEFINED };
                let passes = revoking.resume(&mut host.guard().local(), outcomes, now);
                pending.passes(ticket, passes, status, context)
            }
        }
    }
}

impl Pending {
    /// Whether the answer goes is known.
    fn passes(mut self, ticket: u32, passes: bool, status: u16, context: &JsValue) -> JsValue {
        let (host, began, now) = (Rc::clone(&self.host), self.began, resumption_time(self.began));
        let mut ops = self.completion.responded(&mut host.guard().local(), status, now);
        let left = match (passes && self.completion.lasts(), self.completion.records()) {
            (false, _) => Left::Nothing,
            (true, false) => Left::End,
            (true, true) => Left::All,
        };
        if left == Left::Nothing {
            ops.extend(self.completion.ended(&mut host.guard().local(), now));
        } else {
            tickets::keep(&PENDING, ticket, self);
        }
        tell(&host, ops, began, context);
        if passes { left.into() } else { host.answer(&answer::not_revoked()) }
    }
}

impl From<Left> for JsValue {
    fn from(left: Left) -> Self {
        Self::from(left as u8)
    }
}

/// No UTF-8.
const NO_TEXT: &[u8] = b"\xff";

/// Milliseconds after which an answer that nobody was told the end of is forgotten: as long as an origin may take to begin, and
/// longer than a lease should be.
const LONGEST_ANSWER: u64 = 3_600_000;
