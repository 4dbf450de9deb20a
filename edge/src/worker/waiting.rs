//! Requests that wait for the store, by their tickets.
//!
//! JavaScript holds the ticket and hands it back with what came, once. Tickets are numbered there, so that one of a wasm that
//! panicked finds nobody here: whose request it is begins anew.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Guarded;
use crate::guard::Asking;
use crate::host;

/// A request that waits for the store.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) guarded: Guarded,
    pub(super) asking: Asking,
}

thread_local! {
    static WAITING: RefCell<BTreeMap<u32, Waiting>> = const { RefCell::new(BTreeMap::new()) };
}

/// Keeps a request until its ticket comes back.
///
/// Where the runtime ends a request because its client has left, no ticket comes. So who has waited longer than anybody may
/// is forgotten: there are at most as many as come within [`LONGEST`].
pub(super) fn keep(waiting: Waiting) -> u32 {
    let (ticket, now) = (js::ticket(), host::now());
    WAITING.with_borrow_mut(|all| {
        while let Some(oldest) = all.first_entry()
            && oldest.get().asking.asked().plus(LONGEST) <= now
        {
            oldest.remove();
        }
        all.insert(ticket, waiting);
    });
    ticket
}

/// Who waits with `ticket`.
pub(super) fn take(ticket: u32) -> Option<Waiting> {
    WAITING.with_borrow_mut(|all| all.remove(&ticket))
}

/// Milliseconds: the longest timeout of a store, and as much again for a thread that was busy.
const LONGEST: u64 = 20_000;

mod js {
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        pub(super) fn ticket() -> u32;
    }
}
