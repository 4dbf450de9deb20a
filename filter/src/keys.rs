//! Keys of tokens, fetched once for all requests of a worker thread that wait for them.
//!
//! The core says when. As with the store, only the root calls: a request waits here and rings.

use std::mem;
use std::rc::Rc;

use tollgate_shared::jwt::MAX_JWKS_BYTES;

use crate::commit::Committer;
use crate::config::Jwks;
use crate::host;
use crate::queue::Slot;

/// Where keys are fetched, and who waits for them.
#[derive(Debug)]
pub(crate) struct Keys {
    jwks: Jwks,
    waiting: Vec<Rc<Slot>>,
    /// The call under way.
    call: Option<u32>,
}

impl Keys {
    pub(crate) fn new(jwks: Jwks) -> Self {
        Self { jwks, waiting: Vec::new(), call: None }
    }
}

impl Committer {
    /// Has a request wait until keys have come, or will not; whether it does.
    pub(crate) fn await_keys(&mut self, slot: &Rc<Slot>) -> bool {
        let is_heard = self.ring();
        let Some(keys) = self.keys.as_mut().filter(|_| is_heard) else { return false };
        if keys.waiting.len() >= MOST {
            let all = keys.waiting.len();
            keys.waiting.retain(|slot| !slot.gone.get());
            self.metrics.abandoned(all - keys.waiting.len());
        }
        let has_room = keys.waiting.len() < MOST;
        if has_room {
            keys.waiting.push(Rc::clone(slot));
        }
        has_room
    }

    /// Asks for keys, if somebody waits for them and they are not on their way.
    pub(crate) fn fetch_keys(&mut self) {
        let Some(keys) = self.keys.as_mut().filter(|keys| keys.call.is_none() && !keys.waiting.is_empty())
        else {
            return;
        };
        // Calls that belonged to a request would die with it.
        host::enter(self.root);
        let Jwks { endpoint, path, timeout } = &keys.jwks;
        keys.call = host::get(&endpoint.cluster, &endpoint.authority, path, *timeout);
        if keys.call.is_none() {
            self.take_up(None);
        }
    }

    /// Call number `number` came back; without header fields if it failed.
    pub(crate) fn keys_answered(&mut self, number: u32, fields: usize, body_size: usize) {
        let Some(keys) = self.keys.as_mut().filter(|keys| keys.call == Some(number)) else { return };
        keys.call = None;
        let (status, body) =
            if fields == 0 { (0, Vec::new()) } else { host::response(body_size.min(MAX_JWKS_BYTES + 1)) };
        self.take_up((status == 200).then_some(&body));
        host::enter(self.root);
    }

    fn take_up(&mut self, document: Option<&[u8]>) {
        let waiting = self.keys.as_mut().map(|keys| mem::take(&mut keys.waiting)).unwrap_or_default();
        let latest = waiting.iter().map(|slot| slot.began.get()).max();
        let now = host::resumption_time(latest.unwrap_or_default());
        if let Err(error) = self.local.keys_fetched(&self.policy, document, now) {
            log::warn!("jwt.jwks: {error}; the keys stay as they were");
        } else if document.is_none() {
            log::warn!("jwt.jwks: no answer with status 200; the keys stay as they were");
        }
        self.begin_anew(waiting, now);
    }
}

/// Most requests that wait for keys on one worker thread; what comes beyond them is decided as if there were none to fetch.
const MOST: usize = 1024;
