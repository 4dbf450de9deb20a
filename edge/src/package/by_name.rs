//! What programs do with a limit, a lock, a mark, a breaker or a revocation, by its name in the
//! policy, as [`tollgate_shared::by_name`] describes it.

use std::rc::Rc;

use js_sys::{Function, RangeError};
use serde_json::{Value, json};
use wasm_bindgen::JsValue;

use tollgate_shared::by_name::{self, Action, ActionError, Call, Done, Ended, Revoked, Step};
use tollgate_shared::circuit_breaker::{BreakerState, Force};
use tollgate_shared::id::Holder;
use tollgate_shared::store::StoreError;
use tollgate_shared::time::{Span, Timestamp};

use super::{Desk, WAITING, Waiting};
use crate::after::{self, Host};
use crate::guard::{Asking, Heard};
use crate::host;
use crate::store::Came;
use crate::tickets::{self, ticket};

/// What JavaScript says is to be done.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The name of the [`Action`], in a word.
    pub(super) what: &'a str,
    pub(super) name: &'a str,
    pub(super) values: &'a [&'a str],
    pub(super) holder: Option<&'a str>,
    /// A lease, or how long a breaker is open.
    pub(super) time: Option<&'a str>,
}

/// Something that is being done.
#[derive(Debug)]
pub(super) struct Acting {
    desk: Rc<Desk>,
    began: Timestamp,
    behind: Function,
}

/// Does it: a text, or the promise of one.
///
/// # Errors
/// It does not fit the policy, or cannot be read.
pub(super) fn begin(desk: &Rc<Desk>, wanted: &Wanted<'_>, behind: Function) -> Result<JsValue, RangeError> {
    let (action, began) = (wanted.action()?, host::now());
    let guard = &desk.guard;
    let step = by_name::begin(guard.policy(), &mut guard.local(), &action, began);
    let step = step.map_err(|error| refused(&error))?;
    let acting = Acting { desk: Rc::clone(desk), began, behind };
    Ok(match step {
        Step::Done(ended) => acting.ended(ended),
        Step::Call(call) => match guard.ask(call, began) {
            Some(asking) => acting.ask(asking),
            // Where there is no store, the memory has done it; nobody comes here.
            None => JsValue::UNDEFINED,
        },
    })
}

impl<'a> Wanted<'a> {
    fn action(&self) -> Result<Action<'a>, RangeError> {
        let Self { what, name, values: key, holder, time } = *self;
        let holder = holder.map(|text| Holder::parse(text).ok_or_else(|| wrong("holder", HOLDER)));
        let time = time.map(|text| Span::parse(text).ok_or_else(|| wrong("lease", DURATION)));
        let (holder, lease) = (holder.transpose()?, time.transpose()?);
        let issuer = key.first().copied();
        Ok(match (what, holder, lease) {
            ("acquire", holder, lease) => Action::Acquire { name, key, holder, lease },
            ("extend", Some(holder), lease) => Action::Extend { name, key, holder, lease },
            ("release", Some(holder), _) => Action::Release { name, key, holder },
            ("mark", holder, _) => Action::Mark { name, key, holder },
            ("standing", ..) => Action::InspectLimit { name, key },
            ("reset", ..) => Action::ResetLimit { name, key },
            ("forget", ..) => Action::Forget { name, key },
            ("inspect", ..) => Action::InspectBreaker { name },
            ("open", _, Some(time)) => Action::SetBreaker { name, to: Force::Open(time) },
            ("close", ..) => Action::SetBreaker { name, to: Force::Closed },
            ("token", ..) => Action::Revoke(Revoked::Token(name)),
            ("jti", ..) => Action::Revoke(Revoked::Id { issuer, id: name }),
            ("subject", ..) => Action::Revoke(Revoked::Subject { issuer, subject: name }),
            _ => return Err(RangeError::new("what: found something that the package does not ask for")),
        })
    }
}

impl Acting {
    /// Goes on with what came from the store.
    pub(super) fn came(self, asking: Asking<Call>, came: Came<'_>) -> JsValue {
        match self.desk.guard.heard(asking, came) {
            Err(asking) => self.ask(asking),
            Ok(Heard { call, outcomes, now, .. }) => {
                let ended = call.resume(&mut self.desk.guard.local(), outcomes, now);
                self.ended(ended)
            }
        }
    }

    fn ask(self, asking: Asking<Call>) -> JsValue {
        let Some(post) = asking.post() else { return self.came(asking, Err(StoreError::Timeout)) };
        if !tickets::has_room(&WAITING) {
            return self.came(asking, Err(StoreError::Busy));
        }
        let (ticket, desk) = (ticket(), Rc::clone(&self.desk));
        tickets::keep(&WAITING, ticket, Waiting::Action(self, asking));
        desk.road.ask(ticket, &post.body, post.patience).into()
    }

    fn ended(self, ended: Ended) -> JsValue {
        let Self { desk, began, behind } = self;
        let mut told = told(&ended.result);
        ended.tell_when_everywhere(&mut told);
        let host: Rc<dyn Host> = desk;
        after::tell(&host, ended.settle, began, &behind);
        told.to_string().into()
    }
}

/// As the package's modules are told.
fn told(result: &Result<Done, StoreError>) -> Value {
    match result {
        Ok(Done::Acquired { holder, fence, for_ms }) => {
            json!({ "acquired": true, "holder": holder.to_string(), "fence": fence, "forMs": for_ms })
        }
        Ok(Done::Held { for_ms }) => json!({ "acquired": false, "forMs": for_ms }),
        Ok(Done::Lost) => json!({ "acquired": false }),
        Ok(Done::Released | Done::Reset) => json!({ "acquired": true }),
        Ok(Done::Revoked { for_ms, new_from: None }) => json!({ "forMs": for_ms }),
        Ok(Done::Revoked { for_ms, new_from }) => json!({ "forMs": for_ms, "newTokensFrom": new_from }),
        Ok(Done::Breaker { state, generation }) => {
            let (state, for_ms, free) = match *state {
                BreakerState::Closed => ("closed", 0, 0),
                BreakerState::Open { for_ms } => ("open", for_ms, 0),
                BreakerState::HalfOpen { free, for_ms } => ("half_open", for_ms, free),
            };
            json!({ "state": state, "generation": generation, "forMs": for_ms, "freeProbes": free })
        }
        Ok(Done::Counter { limit, remaining, reset_ms }) => {
            json!({ "limit": limit, "remaining": remaining, "resetAfterMs": reset_ms })
        }
        Err(error) => json!({ "failure": error.to_string(), "asked": error.was_asked() }),
    }
}

/// Texts are not shown: they may be about a person, and errors end up in logs.
fn refused(error: &ActionError) -> RangeError {
    let place = match error {
        ActionError::Unknown(_) => "name",
        ActionError::Values(_) => "key",
        ActionError::Token(_) => "token",
        ActionError::Issuer => "issuer",
        ActionError::NothingRevocable | ActionError::Unbounded => "policy",
    };
    RangeError::new(&format!("{place}: {error}"))
}

fn wrong(place: &str, expected: &str) -> RangeError {
    RangeError::new(&format!("{place}: found a text that is none, expected {expected}"))
}

const HOLDER: &str = "32 hexadecimal digits";
const DURATION: &str = "a duration such as `30s`, 1ms to 366d";
