//! What waits outside of wasm, by tickets.
//!
//! JavaScript holds the ticket and hands it back with what came, once. Tickets are numbered there, so that one of a wasm that
//! panicked finds nothing here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::thread::LocalKey;

use tollgate_shared::time::Timestamp;

use crate::host;

/// Whatever waits until its ticket comes back.
///
/// Where the runtime ends a request because its client has left, no ticket comes. So what has waited for longer than `longest` is
/// forgotten, and so is the oldest of more than [`MOST`].
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    /// Milliseconds.
    longest: u64,
    waiting: BTreeMap<u32, (Timestamp, T)>,
}

impl<T> Tickets<T> {
    pub(crate) const fn new(longest: u64) -> Self {
        Self { longest, waiting: BTreeMap::new() }
    }

    /// Keeps something until its ticket comes back.
    pub(crate) fn keep(&mut self, ticket: u32, what: T, now: Timestamp) {
        while let Some(oldest) = self.waiting.first_entry()
            && oldest.get().0.plus(self.longest) <= now
        {
            oldest.remove();
        }
        if self.waiting.len() >= MOST {
            self.waiting.pop_first();
        }
        self.waiting.insert(ticket, (now, what));
    }

    /// What waits with `ticket`, and goes on waiting.
    pub(crate) fn get(&mut self, ticket: u32) -> Option<&mut T> {
        self.waiting.get_mut(&ticket).map(|(_, what)| what)
    }

    /// What waits with `ticket`.
    pub(crate) fn take(&mut self, ticket: u32) -> Option<T> {
        self.waiting.remove(&ticket).map(|(_, what)| what)
    }
}

/// A thread's tickets, as statics hold them.
pub(crate) type Shelf<T> = LocalKey<RefCell<Tickets<T>>>;

/// Keeps something until its ticket comes back.
pub(crate) fn keep<T>(shelf: &'static Shelf<T>, ticket: u32, what: T) {
    shelf.with_borrow_mut(|all| all.keep(ticket, what, host::now()));
}

/// What waits with `ticket`.
pub(crate) fn take<T>(shelf: &'static Shelf<T>, ticket: u32) -> Option<T> {
    shelf.with_borrow_mut(|all| all.take(ticket))
}

/// A number that nothing else has which waits.
pub(crate) fn ticket() -> u32 {
    js::ticket()
}

/// More than an isolate has room to serve at once.
const MOST: usize = 10_000;

/// Milliseconds that something waits for the store, for a signature, or for keys: the longest timeout of a store, and as much again for
/// a thread that was busy.
pub(crate) const FOR_THE_STORE: u64 = 20_000;

mod js {
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        pub(super) fn ticket() -> u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_ticket_is_good_once() {
        let mut tickets = Tickets::new(100);
        tickets.keep(7, "seven", at(0));
        assert_eq!((tickets.take(8), tickets.take(7), tickets.take(7)), (None, Some("seven"), None));
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_in_time() {
        let mut tickets = Tickets::new(100);
        tickets.keep(1, (), at(0));
        tickets.keep(2, (), at(50));
        tickets.keep(3, (), at(100));
        assert_eq!((tickets.take(1), tickets.take(2)), (None, Some(())));
    }

    #[test]
    fn only_so_much_waits() {
        let mut tickets = Tickets::new(100);
        let most = u32::try_from(MOST).unwrap_or_default();
        (0..=most).for_each(|ticket| tickets.keep(ticket, (), at(0)));
        assert_eq!((tickets.take(0), tickets.take(1), tickets.take(most)), (None, Some(()), Some(())));
        assert_eq!(tickets.waiting.len(), MOST - 2);
    }
}
