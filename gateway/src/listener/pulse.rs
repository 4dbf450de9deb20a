//! Whether a client connection still gets anywhere.
//!
//! A client that does not read would hold its answers in memory for as long as it likes, and over HTTP/2 it can do that with
//! some answers while others flow. So time is cut into spans, everything that waits to be written is counted in the span of its
//! last progress, and what is left in a span that is two behind has not moved for a whole one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// What a connection is doing.
#[derive(Debug)]
pub(crate) struct Pulse {
    patience: Patience,
    /// The number of the span that is under way, and its beginning.
    span: Cell<u64>,
    begun: Cell<Instant>,
    /// Pieces of answers that wait to be written, by the span of their last progress.
    waiting: [Cell<usize>; SPANS],
    /// The span in which the socket took nothing for the first time.
    blocked: Cell<Option<u64>>,
    /// Requests that are not answered yet.
    requests: Cell<usize>,
    /// Since when there has been none, as far as somebody looked.
    idle: Cell<Option<Instant>>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To read something of an answer.
    pub(crate) write: Duration,
    /// To ask for something.
    pub(crate) idle: Duration,
}

/// What has to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Alive,
    /// It was idle for too long: it may end in peace.
    Idle,
    /// The client does not read: it ends now.
    Stuck,
}

impl Pulse {
    pub(crate) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            patience,
            span: Cell::new(0),
            begun: Cell::new(now),
            waiting: Default::default(),
            blocked: Cell::new(None),
            requests: Cell::new(0),
            idle: Cell::new(Some(now)),
        }
    }

    /// How often [`check`](Self::check) wants to be asked.
    pub(crate) fn interval(&self) -> Duration {
        self.patience.write.min(self.patience.idle)
    }

    /// Looks back at what has happened.
    pub(crate) fn check(&self, now: Instant) -> Verdict {
        if now.duration_since(self.begun.get()) >= self.patience.write {
            let span = self.span.get() + 1;
            self.span.set(span);
            self.begun.set(now);
            let old = span.saturating_sub(2);
            let left = span >= 2 && self.place(old).is_some_and(|waiting| waiting.get() > 0);
            if left || self.blocked.get().is_some_and(|blocked| blocked <= old && span >= 2) {
                return Verdict::Stuck;
            }
        }
        if self.requests.get() > 0 {
            return Verdict::Alive;
        }
        let since = self.idle.get().unwrap_or(now);
        self.idle.set(Some(since));
        if now.duration_since(since) >= self.patience.idle { Verdict::Idle } else { Verdict::Alive }
    }

    /// Notes whether the socket takes bytes.
    pub(super) fn wrote(&self, blocked: bool) {
        match (blocked, self.blocked.get()) {
            (true, None) => self.blocked.set(Some(self.span.get())),
            (false, Some(_)) => self.blocked.set(None),
            _ => {}
        }
    }

    fn place(&self, span: u64) -> Option<&Cell<usize>> {
        self.waiting.get((span % SPANS as u64) as usize)
    }

    fn count(&self, span: u64, more: bool) {
        if let Some(place) = self.place(span) {
            place.set(if more { place.get() + 1 } else { place.get().saturating_sub(1) });
        }
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Underway(Rc<Pulse>);

impl Underway {
    pub(crate) fn new(pulse: Rc<Pulse>) -> Self {
        pulse.requests.set(pulse.requests.get() + 1);
        pulse.idle.set(None);
        Self(pulse)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
    }
}

/// Something that waits to be written.
#[derive(Debug)]
pub(crate) struct Waiting {
    pulse: Rc<Pulse>,
    span: Cell<u64>,
}

impl Waiting {
    pub(crate) fn new(pulse: Rc<Pulse>) -> Self {
        let span = pulse.span.get();
        pulse.count(span, true);
        Self { pulse, span: Cell::new(span) }
    }

    /// Notes that some of it was written.
    pub(crate) fn progress(&self) {
        let span = self.pulse.span.get();
        if span != self.span.get() {
            self.pulse.count(self.span.replace(span), false);
            self.pulse.count(span, true);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pulse.count(self.span.get(), false);
    }
}

/// The one under way, the one before, and the one that is looked at.
const SPANS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(1000);

    fn pulse() -> (Rc<Pulse>, Instant) {
        let pulse = Rc::new(Pulse::new(Patience { write: WRITE, idle: IDLE }));
        let begun = pulse.begun.get();
        (pulse, begun)
    }

    #[test]
    fn what_waits_for_more_than_a_span_is_stuck_and_what_moves_is_not() {
        let (pulse, begun) = pulse();
        let (moving, written) = (Waiting::new(Rc::clone(&pulse)), Waiting::new(Rc::clone(&pulse)));
        drop(written);
        for turn in 1..20 {
            moving.progress();
            assert_eq!(pulse.check(begun + WRITE * turn), Verdict::Alive, "{turn}");
        }
        let (pulse, begun) = self::pulse();
        let (moving, _stuck) = (Waiting::new(Rc::clone(&pulse)), Waiting::new(Rc::clone(&pulse)));
        assert_eq!(pulse.check(begun + WRITE), Verdict::Alive);
        moving.progress();
        assert_eq!(pulse.check(begun + WRITE + WRITE / 2), Verdict::Alive);
        assert_eq!(pulse.check(begun + WRITE * 2), Verdict::Stuck);
    }

    #[test]
    fn a_socket_that_takes_nothing_for_more_than_a_span_is_stuck() {
        let (pulse, begun) = pulse();
        for turn in 1..10 {
            pulse.wrote(true);
            pulse.wrote(false);
            pulse.wrote(true);
            pulse.wrote(false);
            assert_eq!(pulse.check(begun + WRITE * turn), Verdict::Alive);
        }
        pulse.wrote(true);
        assert_eq!(pulse.check(begun + WRITE * 10), Verdict::Alive);
        pulse.wrote(true);
        assert_eq!(pulse.check(begun + WRITE * 11), Verdict::Stuck);
    }

    #[test]
    fn a_connection_is_idle_only_without_requests() {
        let (pulse, begun) = pulse();
        let request = Underway::new(Rc::clone(&pulse));
        assert_eq!(pulse.check(begun + IDLE * 2), Verdict::Alive);
        drop(request);
        assert_eq!(pulse.check(begun + IDLE * 3), Verdict::Alive);
        assert_eq!(pulse.check(begun + IDLE * 4 - WRITE), Verdict::Alive);
        assert_eq!(pulse.check(begun + IDLE * 4), Verdict::Idle);
        // One that never asked for anything.
        let (pulse, begun) = self::pulse();
        assert_eq!(pulse.check(begun + IDLE - WRITE), Verdict::Alive);
        assert_eq!(pulse.check(begun + IDLE), Verdict::Idle);
    }
}
