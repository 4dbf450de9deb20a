//! What waits outside of wasm, by tickets.
//!
//! JavaScript holds the ticket and hands it back with what came, once. Tickets are numbered there, so that one of a wasm that
//! panicked finds nothing here.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::thread::LocalKey;

use tollgate_shared::time::Timestamp;

use crate::host;

/// Whatever waits until its ticket comes back.
///
/// Where the runtime ends a request because its client has left, no ticket comes. So what has waited for longer than `longest` is
/// forgotten, and so is the oldest of more than [`MOST`].
pub(crate) struct Tickets<T> {
    /// Milliseconds.
    longest: u64,
    waiting: Waiting,
    of: PhantomData<T>,
}

/// By their tickets, the smallest first. What waits is boxed: there is one list for all that may, which makes the Worker smaller.
struct Waiting(Vec<(u32, Timestamp, Box<dyn Any>)>);

impl<T: 'static> Tickets<T> {
    pub(crate) const fn new(longest: u64) -> Self {
        Self { longest, waiting: Waiting(Vec::new()), of: PhantomData }
    }

    /// Whether one more may wait without another being forgotten.
    pub(crate) fn has_room(&mut self, now: Timestamp) -> bool {
        self.waiting.has_room(self.longest, now)
    }

    /// Keeps something until its ticket comes back.
    pub(crate) fn keep(&mut self, ticket: u32, what: T, now: Timestamp) {
        self.waiting.keep(ticket, Box::new(what), self.longest, now);
    }

    /// What waits with `ticket`, and goes on waiting.
    pub(crate) fn get(&mut self, ticket: u32) -> Option<&mut T> {
        let place = self.waiting.place(ticket).ok()?;
        self.waiting.0.get_mut(place)?.2.downcast_mut()
    }

    /// What waits with `ticket`.
    pub(crate) fn take(&mut self, ticket: u32) -> Option<T> {
        self.waiting.take(ticket)?.downcast().ok().map(|what| *what)
    }
}

impl Waiting {
    fn place(&self, ticket: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ticket, |(ticket, ..)| *ticket)
    }

    fn has_room(&mut self, longest: u64, now: Timestamp) -> bool {
        let late = self.0.iter().take_while(|(_, since, _)| since.plus(longest) <= now).count();
        self.0.drain(..late);
        self.0.len() < MOST
    }

    fn keep(&mut self, ticket: u32, what: Box<dyn Any>, longest: u64, now: Timestamp) {
        if !self.has_room(longest, now) {
            self.0.remove(0);
        }
        match self.place(ticket) {
            Ok(place) => _ = self.0.get_mut(place).map(|waits| *waits = (ticket, now, what)),
            Err(place) => self.0.insert(place, (ticket, now, what)),
        }
    }

    fn take(&mut self, ticket: u32) -> Option<Box<dyn Any>> {
        self.place(ticket).ok().map(|place| self.0.remove(place).2)
    }
}

impl<T> fmt::Debug for Tickets<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} waiting)", self.waiting.0.len())
    }
}

/// A thread's tickets, as statics hold them.
pub(crate) type Shelf<T> = LocalKey<RefCell<Tickets<T>>>;

/// Whether one more may wait without another being forgotten. Whoever decides does without what it would have waited for if not.
pub(crate) fn has_room<T: 'static>(shelf: &'static Shelf<T>) -> bool {
    shelf.with_borrow_mut(|all| all.has_room(host::now()))
}

/// Keeps something until its ticket comes back.
pub(crate) fn keep<T: 'static>(shelf: &'static Shelf<T>, ticket: u32, what: T) {
    shelf.with_borrow_mut(|all| all.keep(ticket, what, host::now()));
}

/// What waits with `ticket`.
pub(crate) fn take<T: 'static>(shelf: &'static Shelf<T>, ticket: u32) -> Option<T> {
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
        for ticket in 0..=most {
            assert_eq!(tickets.has_room(at(0)), ticket < most, "{ticket}");
            tickets.keep(ticket, (), at(0));
        }
        assert_eq!((tickets.take(0), tickets.take(1), tickets.take(most)), (None, Some(()), Some(())));
        assert_eq!(tickets.waiting.0.len(), MOST - 2);
    }
}
