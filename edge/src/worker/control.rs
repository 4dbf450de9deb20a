//! The [control path](tollgate_shared::control), there only where a control token is configured.

use std::rc::Rc;

use wasm_bindgen::JsValue;

use tollgate_shared::answer::Answer;
use tollgate_shared::config::ConfigError;
use tollgate_shared::control::{Call, Control, Found, MAX_BODY, Step};
use tollgate_shared::store::StoreError;

use super::instance::{Instance, text};
use super::{Incoming, Waiting, origin, time};
use crate::after::{self, Host};
use crate::guard::{Asking, Heard};
use crate::head::RequestHead;
use crate::store::Came;
use crate::tickets::{self, ticket};

/// The control path that variables open, if they do.
///
/// # Errors
/// Everything that is wrong with them, by their names.
pub(super) fn opened(env: &JsValue) -> Result<Option<Control>, Vec<ConfigError>> {
    let (prefix, token) = (text(env, PREFIX), text(env, TOKEN));
    let control = |prefix: Option<&str>, token: &str| {
        Control::new(prefix, token).map_err(|mut error| {
            error.path = if error.path == "control.prefix" { PREFIX } else { TOKEN }.to_owned();
            error
        })
    };
    let opened = match (&token, &prefix) {
        (None, None) => return Ok(None),
        (None, Some(_)) => Err(ConfigError::new(TOKEN, "nothing", format!("it, where {PREFIX} is set"))),
        (Some(token), _) => control(None, token),
    };
    let prefixed =
        control(prefix.as_deref(), token.as_deref().filter(|_| opened.is_ok()).unwrap_or(ANY_TOKEN));
    match (opened, prefixed) {
        (Ok(_), Ok(control)) => Ok(Some(control)),
        (opened, prefixed) => Err(opened.err().into_iter().chain(prefixed.err()).collect()),
    }
}

/// A request of the control path, once it is known what it asks for.
#[derive(Debug)]
pub(super) struct Asked {
    instance: Rc<Instance>,
    is_head: bool,
}

/// What a request is answered with, or the promise of that; `None` for all that have nothing to do with the control path.
pub(super) fn begin(instance: &Rc<Instance>, incoming: &Incoming, head: &RequestHead<'_>) -> Option<JsValue> {
    let found = instance.control.as_ref()?.find(head)?;
    let this = Asked { instance: Rc::clone(instance), is_head: head.method() == "HEAD" };
    let asked = match found {
        Found::Answer(answer) => return Some(this.answer(&answer)),
        Found::Asked(asked) => asked,
    };
    let body = if asked.takes_body() { incoming.begun(instance, MAX_BODY + 1) } else { Ok(Vec::new()) };
    let body = match body {
        Ok(body) => body,
        Err(read) => return Some(read.into()),
    };
    let (guard, now) = (&instance.guard, time(head));
    let step = asked.begin(guard.policy(), &mut guard.local(), &body, now);
    Some(match step {
        Step::Answer(answer) => this.answer(&answer),
        Step::Call(call) => match guard.ask(call, now) {
            Some(asking) => this.ask(incoming, asking),
            // Where there is no store, the memory has answered; nobody comes here.
            None => JsValue::UNDEFINED,
        },
    })
}

impl Asked {
    /// Goes on with what came from the store.
    pub(super) fn came(self, incoming: &Incoming, asking: Asking<Call>, came: Came<'_>) -> JsValue {
        let Heard { call, outcomes, calls, now, .. } = match self.instance.guard.heard(asking, came) {
            Ok(heard) => heard,
            Err(asking) => return self.ask(incoming, asking),
        };
        calls.iter().for_each(|call| self.instance.called(call));
        let (answer, settle) = call.resume(&mut self.instance.guard.local(), outcomes, now);
        let host: Rc<dyn Host> = Rc::clone(&self.instance) as _;
        after::tell(&host, settle, now, &incoming.context);
        self.answer(&answer)
    }

    fn ask(self, incoming: &Incoming, asking: Asking<Call>) -> JsValue {
        let Some(post) = asking.post() else {
            return self.came(incoming, asking, Err(StoreError::Timeout));
        };
        if !tickets::has_room(&super::WAITING) {
            return self.came(incoming, asking, Err(StoreError::Busy));
        }
        let (ticket, instance) = (ticket(), Rc::clone(&self.instance));
        tickets::keep(&super::WAITING, ticket, Waiting::Control(self, asking));
        instance.origin.ask(ticket, incoming, &post).into()
    }

    fn answer(&self, answer: &Answer) -> JsValue {
        origin::answer(answer, self.is_head).into()
    }
}

const TOKEN: &str = "TOLLGATE_CONTROL_TOKEN";
const PREFIX: &str = "TOLLGATE_CONTROL_PREFIX";
/// In the place of one that is wrong, so that what is wrong beside it is found. It opens nothing.
const ANY_TOKEN: &str = "0123456789abcdef";
