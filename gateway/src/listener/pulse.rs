//! Whether a client connection still gets anywhere.
//!
//! A client that does not read would hold its answers in memory for as long as it likes, and over HTTP/2 it can do that with
//! some answers while others flow. So time is cut into spans, everything that waits to be written is counted in the span of its
//! last progress, and what is left in a span that is two behind has not moved for a whole one.
//!
//! A client that begins and does not go on would hold a connection. So the head of a request has its own bound, from its first
//! byte, or from the beginning of the connection; and a client that has shown no token may not be idle for longer than that.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Waker};
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
    /// Since when the head of a request has been coming.
    head: Cell<Option<Instant>>,
    /// Whether some of the next request has come while one was under way.
    ahead: Cell<bool>,
    /// Whether the client was let in.
    trusted: Cell<bool>,
    /// Bodies of requests that are being read.
    bodies: Cell<usize>,
    /// Whether a body was left before its end.
    left: Cell<bool>,
    /// Whether an answer goes on for as long as the client is there.
    streams: Cell<bool>,
    /// Whether the client has said all it has to say, which waits to be heard.
    ended: Cell<bool>,
    /// Whether that is heard whatever is under way.
    cut_off: Cell<bool>,
    /// Told when it may be heard.
    ending: Ending,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To read something of an answer.
    pub(crate) write: Duration,
    /// To ask for something.
    pub(crate) idle: Duration,
    /// For the head of a request.
    pub(crate) head: Duration,
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
    /// The head of a request does not come: it ends now.
    Slow,
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
            head: Cell::new(Some(now)),
            ahead: Cell::new(false),
            trusted: Cell::new(false),
            bodies: Cell::new(0),
            left: Cell::new(false),
            streams: Cell::new(false),
            ended: Cell::new(false),
            cut_off: Cell::new(false),
            ending: Ending::default(),
        }
    }

    /// How often [`check`](Self::check) wants to be asked.
    pub(crate) fn interval(&self) -> Duration {
        self.patience.write.min(self.patience.idle).min(self.patience.head / 4)
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
        if self.head.get().is_some_and(|since| now.duration_since(since) >= self.patience.head) {
            return Verdict::Slow;
        }
        let Patience { idle, head, .. } = self.patience;
        let patience = if self.trusted.get() { idle } else { idle.min(head) };
        let since = self.idle.get().unwrap_or(now);
        self.idle.set(Some(since));
        if now.duration_since(since) >= patience { Verdict::Idle } else { Verdict::Alive }
    }

    /// The client may be idle for as long as clients may.
    pub(crate) fn trust(&self) {
        self.trusted.set(true);
    }

    /// An answer goes on until the client leaves.
    pub(crate) fn stream(&self) {
        self.streams.set(true);
        self.hear_the_end();
    }

    /// Whether a body was left before its end, since this was asked last: nothing that follows it can be read.
    pub(crate) fn take_left(&self) -> bool {
        self.left.take()
    }

    /// Notes that the client said something over HTTP/1. `true` while that may belong to a head.
    pub(super) fn heard(&self) -> bool {
        if self.requests.get() == 0 {
            if self.head.get().is_none() {
                self.head.set(Some(Instant::now()));
            }
        } else if self.bodies.get() == 0 {
            self.ahead.set(true);
        } else {
            return false;
        }
        true
    }

    /// Whether the end of what the client says has to wait: it may have closed its half and wait for its answer. A body that
    /// ends too early, and a client that leaves a stream, are heard at once.
    pub(super) fn ending_waits(&self, cx: &Context<'_>) -> bool {
        let waits = self.requests.get() > 0 && !self.streams.get() && !self.cut_off.get();
        if waits {
            self.ending.0.set(Some(cx.waker().clone()));
            if !self.ended.replace(true) {
                // Those that read a body look again, and say whether there is some left.
                cx.waker().wake_by_ref();
            }
        }
        waits
    }

    /// A body has not come to its end, and nothing of it is there. When the end was read, all that was before it has been
    /// handed on, so then there will be no more.
    fn body_waits(&self) {
        if self.ended.get() {
            self.cut_off.set(true);
            self.hear_the_end();
        }
    }

    fn hear_the_end(&self) {
        if let Some(waker) = self.ending.0.take() {
            waker.wake();
        }
    }

    /// Whether all requests are answered, and the answers written.
    pub(super) fn is_between_requests(&self) -> bool {
        self.requests.get() == 0
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

/// Who waits until the end of what the client says may be heard.
#[derive(Default)]
struct Ending(Cell<Option<Waker>>);

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Underway(Rc<Pulse>);

impl Underway {
    pub(crate) fn new(pulse: Rc<Pulse>) -> Self {
        pulse.requests.set(pulse.requests.get() + 1);
        pulse.idle.set(None);
        pulse.head.set(None);
        pulse.ahead.set(false);
        Self(pulse)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let requests = self.0.requests.get().saturating_sub(1);
        self.0.requests.set(requests);
        if requests == 0 {
            if self.0.ahead.take() {
                self.0.head.set(Some(Instant::now()));
            }
            self.0.hear_the_end();
        }
    }
}

/// The body of a request that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    pulse: Rc<Pulse>,
    ended: bool,
}

impl Reading {
    pub(crate) fn new(pulse: Rc<Pulse>) -> Self {
        pulse.bodies.set(pulse.bodies.get() + 1);
        Self { pulse, ended: false }
    }

    /// Nothing of it is there, and it has not ended.
    pub(crate) fn wait(&self) {
        self.pulse.body_waits();
    }

    /// All of it was read.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.pulse.bodies.set(self.pulse.bodies.get().saturating_sub(1));
        if !self.ended {
            self.pulse.left.set(true);
        }
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
    const HEAD: Duration = Duration::from_secs(8);

    fn pulse() -> (Rc<Pulse>, Instant) {
        let pulse = Rc::new(Pulse::new(Patience { write: WRITE, idle: IDLE, head: HEAD }));
        let begun = pulse.begun.get();
        // One that has been let in and answered.
        drop(Underway::new(Rc::clone(&pulse)));
        pulse.idle.set(Some(begun));
        pulse.trust();
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

    #[test]
    fn heads_have_their_time_and_clients_without_a_token_no_more() {
        // From the beginning of the connection.
        let pulse = Rc::new(Pulse::new(Patience { write: WRITE, idle: IDLE, head: HEAD }));
        let begun = pulse.begun.get();
        assert_eq!(pulse.check(begun + HEAD - Duration::from_secs(1)), Verdict::Alive);
        assert_eq!(pulse.check(begun + HEAD), Verdict::Slow);
        // Idle after a request, without a token and with one.
        let request = Underway::new(Rc::clone(&pulse));
        assert_eq!(pulse.check(begun + HEAD * 2), Verdict::Alive);
        drop(request);
        assert_eq!(pulse.check(begun + HEAD * 3), Verdict::Alive);
        assert_eq!(pulse.check(begun + HEAD * 4), Verdict::Idle);
        pulse.trust();
        assert_eq!(pulse.check(begun + HEAD * 4), Verdict::Alive);
        // From the first byte of the next head, also when that came with what was before it.
        assert!(pulse.heard());
        assert_eq!(pulse.check(Instant::now() + HEAD), Verdict::Slow);
        let request = Underway::new(Rc::clone(&pulse));
        let body = Reading::new(Rc::clone(&pulse));
        assert!(!pulse.heard());
        drop(body);
        assert!(pulse.take_left() && !pulse.take_left() && pulse.heard());
        assert_eq!(pulse.check(Instant::now() + HEAD), Verdict::Alive);
        drop(request);
        assert_eq!(pulse.check(Instant::now() + HEAD), Verdict::Slow);
    }
}
