//! Circuit breakers: an upstream that fails is left alone for a while, by all replicas at once.
//!
//! A wrong *allow* sends one more request to an upstream that is down; a wrong *deny* refuses what an upstream
//! would have served. One instance with a broken network must not cut everybody off, so a breaker may ask that several
//! *reporters* have seen failures before it trips.
//!
//! ```text
//!                 enough failures, volume and reporters
//!         closed ─────────────────────────────────────▶ open
//!           ▲                                           │  ▲
//!  as many  │                             its time ends │  │ a probe failed
//!  successes as probes                                  ▼  │
//!           └──────────────────────────────────────── half-open ── probes: at most so many at once
//! ```
//!
//! Calls that are no probes count in a closed breaker only, those of the last eight slices of time. A failed probe opens the
//! breaker again at once. Each time it opens or closes begins a new *generation*, whose number only grows, and reports of probes
//! of an older one are ignored. A breaker that has been half-open for a day without closing is closed.
//!
//! Bounded: eight slices, the 32 reporters that saw failures last, 16 probes.
//!
//! A breaker or probe that ends later than it can, because the clock was ahead when it began, is moved: it ends as late from now
//! as it was meant to last. Slices that are further ahead than all of them together count for nothing.
//!
//! Words: the moment until which it is open, zero for closed; the generation; then for a closed one the width of a slice, how many
//! slices there are, each with its number, successes and failures, and reporters, each with the number of the slice in which it saw
//! its latest failure, and its name (two words); otherwise the successes of probes, for how long it was opened in milliseconds, and
//! probes, each with the moment it ends and its holder (two words).
//! `scripts/circuit_breaker.lua` says the same in Lua.

use alloc::vec::Vec;

use crate::id::{Holder, Id, Reporter};
use crate::lease::next;
use crate::store::Probe;
use crate::time::Span;

/// When a circuit breaker trips, and how it finds its way back.
///
/// Bounds: failures and volume are 1 to 1,000,000, percent 1 to 100, reporters 1 to 32, probes 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    trip: Trip,
    within: Span,
    reporters: u32,
    open_for: Span,
    probes: u32,
    probe: Span,
}

/// How many failures are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// So many within the time.
    Failures(u32),
    /// So large a part of all calls within the time, once these are enough to tell.
    Ratio {
        /// Failures of a hundred calls.
        percent: u32,
        /// How many calls there must be.
        min_volume: u32,
    },
}

/// Why numbers do not make a [`CircuitBreaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreakerError {
    /// The field at fault: `failures`, `ratio`, `min_volume`, `reporters` or `probes`.
    pub field: &'static str,
    /// The largest value it may have; the smallest is 1.
    pub at_most: u32,
}

impl CircuitBreaker {
    /// A breaker that opens for `open_for` when `trip` is reached `within` a time, counted in eighths, and as many
    /// `reporters` have seen a failure in it; that lets `probes` calls through then, each for at most `probe`, and closes
    /// when all of them succeed.
    ///
    /// `probe` must be longer than a call may take: whoever has not reported by then is taken for dead, and another
    /// may probe in its place.
    ///
    /// # Errors
    /// The field that is zero or too large.
    pub fn new(
        trip: Trip,
        within: Span,
        reporters: u32,
        open_for: Span,
        probes: u32,
        probe: Span,
    ) -> Result<Self, CircuitBreakerError> {
        let trips = match trip {
            Trip::Failures(failures) => [("failures", failures, MAX_COUNT); 2],
            Trip::Ratio { percent, min_volume } => {
                [("ratio", percent, 100), ("min_volume", min_volume, MAX_COUNT)]
            }
        };
        let others = [("reporters", reporters, MAX_REPORTERS), ("probes", probes, MAX_PROBES)];
        for (field, value, at_most) in trips.into_iter().chain(others) {
            if value == 0 || value > at_most {
                return Err(CircuitBreakerError { field, at_most });
            }
        }
        Ok(Self { trip, within, reporters, open_for, probes, probe })
    }

    /// How many failures are too many.
    pub const fn trip(&self) -> Trip {
        self.trip
    }

    /// The time within which they are.
    pub const fn within(&self) -> Span {
        self.within
    }

    /// How many instances must have seen one.
    pub const fn reporters(&self) -> u32 {
        self.reporters
    }

    /// For how long it opens.
    pub const fn open_for(&self) -> Span {
        self.open_for
    }

    /// How many probes there may be at once, and must succeed.
    pub const fn probes(&self) -> u32 {
        self.probes
    }

    /// How long a probe may take.
    pub const fn probe(&self) -> Span {
        self.probe
    }

    /// The same breaker, for one instance that hears of no other.
    pub(crate) fn alone(self) -> Self {
        Self { reporters: 1, ..self }
    }

    /// Whether it makes a difference how many calls succeeded.
    pub(crate) fn counts_successes(&self) -> bool {
        matches!(self.trip, Trip::Ratio { .. })
    }

    /// Milliseconds of a slice.
    pub(crate) fn width(&self) -> u64 {
        self.within.as_millis().div_ceil(SLICES)
    }

    /// The failures, or else the calls, without which it does not trip; and how many of a hundred calls must fail, zero if
    /// their number is all that counts.
    pub(crate) fn enough(&self) -> [u32; 2] {
        match self.trip {
            Trip::Failures(failures) => [failures, 0],
            Trip::Ratio { percent, min_volume } => [min_volume, percent],
        }
    }
}

/// What a circuit breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them through.
    Closed,
    /// Rejects them.
    Open {
        /// Milliseconds until it is half-open.
        for_ms: u64,
    },
    /// Lets probes through, and rejects other calls.
    HalfOpen {
        /// How many more probes may begin now.
        free: u64,
        /// Milliseconds until one may begin if no probe reports before; zero while some are free.
        for_ms: u64,
    },
}

/// What somebody sets a circuit breaker to by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Rejects calls for this time, then is half-open.
    Open(Span),
    /// Lets calls through, and forgets what was counted.
    Closed,
}

/// What is remembered of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breaker {
    generation: u64,
    phase: Phase,
    moved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Closed(Counts),
    /// Half-open once `until` has passed.
    Open {
        until: u64,
        /// Of probes of this generation; fewer than it takes to close.
        successes: u64,
        /// For how long it was opened, in milliseconds.
        span: u64,
        /// Those under way: the moment each is given up, and its holder.
        probes: Vec<Entry>,
    },
}

/// What was counted in the last slices of time, the current one included; all in order of the slices' numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Number, successes, failures.
    slices: Vec<Entry>,
    /// Number of the slice in which one saw its latest failure, and who.
    reporters: Vec<Entry>,
}

/// When, and two words that are a name or counts.
type Entry = [u64; 3];

impl Breaker {
    /// The breaker that `words` were written by; a closed one for what cannot be read.
    pub(crate) fn load(breaker: &CircuitBreaker, words: &[u64], now: u64) -> Self {
        let (until, generation, third, rest) = match words {
            [until, generation, third, rest @ ..] => (*until, *generation, *third, rest),
            _ => (0, 0, 0, &[][..]),
        };
        let mut moved = false;
        let mut at_most = |end: &mut u64, span: u64| {
            let latest = now.saturating_add(span);
            moved |= *end > latest;
            *end = latest.min(*end);
        };
        let phase = if until > 0 && until.saturating_add(HALF_OPEN) > now {
            // Otherwise a smaller number of probes would leave none to close it.
            let successes = third.min(u64::from(breaker.probes.saturating_sub(1)));
            let (span, rest) = rest.split_first().map_or((0, rest), |(span, rest)| (*span, rest));
            let (mut until, mut probes) = (until, entries(rest, MAX_PROBES.into()));
            at_most(&mut until, span);
            probes.iter_mut().for_each(|[end, ..]| at_most(end, breaker.probe.as_millis()));
            forget(&mut probes, now.saturating_add(1));
            Phase::Open { until, successes, span, probes }
        } else if let (0, [slices, rest @ ..]) = (until, rest)
            && third == breaker.width()
        {
            let mut slices = entries(rest, (*slices).min(SLICES));
            let rest = rest.get(slices.as_flattened().len()..).unwrap_or_default();
            let mut reporters = entries(rest, MAX_REPORTERS.into());
            let latest = (now / breaker.width()).saturating_add(SLICES);
            slices.retain(|[number, ..]| *number <= latest);
            reporters.retain(|[number, ..]| *number <= latest);
            Phase::Closed(Counts { slices, reporters })
        } else {
            // Slices of another width were counted before the policy changed.
            Phase::Closed(Counts::default())
        };
        Self { generation, phase, moved }
    }

    /// Whether it has to be kept as it is now, even if nothing else changes it.
    pub(crate) fn was_moved(&self) -> bool {
        self.moved
    }

    pub(crate) fn words(&self, breaker: &CircuitBreaker) -> Vec<u64> {
        let mut words = Vec::new();
        match &self.phase {
            Phase::Closed(Counts { slices, reporters }) => {
                words.extend_from_slice(&[0, self.generation, breaker.width(), slices.len() as u64]);
                words.extend_from_slice(slices.as_flattened());
                words.extend_from_slice(reporters.as_flattened());
            }
            Phase::Open { until, successes, span, probes } => {
                words.extend_from_slice(&[*until, self.generation, *successes, *span]);
                words.extend_from_slice(probes.as_flattened());
            }
        }
        words
    }

    /// What it does with calls, and its generation.
    pub(crate) fn view(&self, breaker: &CircuitBreaker, now: u64) -> (BreakerState, u64) {
        match &self.phase {
            Phase::Closed(_) => (BreakerState::Closed, 0),
            Phase::Open { until, .. } if *until > now => {
                (BreakerState::Open { for_ms: until.saturating_sub(now) }, self.generation)
            }
            Phase::Open { successes, probes, .. } => {
                let taken = successes.saturating_add(probes.len() as u64);
                let free = u64::from(breaker.probes).saturating_sub(taken);
                let first = probes.iter().map(|[end, ..]| end.saturating_sub(now)).min();
                let for_ms = if free == 0 { first.unwrap_or(0) } else { 0 };
                (BreakerState::HalfOpen { free, for_ms }, self.generation)
            }
        }
    }

    /// Begins a probe: its generation; `None` unless one is free. A holder that asks again has its probe still.
    pub(crate) fn probe(&mut self, breaker: &CircuitBreaker, holder: Holder, now: u64) -> Option<u64> {
        let (state, generation) = self.view(breaker, now);
        let (BreakerState::HalfOpen { free, .. }, Phase::Open { probes, .. }) = (state, &mut self.phase)
        else {
            return None;
        };
        let ends = now.saturating_add(breaker.probe.as_millis());
        if let Some([end, ..]) = find(probes, holder).and_then(|own| probes.get_mut(own)) {
            *end = ends.max(*end);
        } else if free > 0 {
            probes.push(entry(ends, holder));
        } else {
            return None;
        }
        Some(generation)
    }

    /// Takes in what became of calls; says whether anything changed.
    pub(crate) fn report(
        &mut self,
        breaker: &CircuitBreaker,
        reporter: Reporter,
        [successes, failures]: [u32; 2],
        probe: Option<Probe>,
        now: u64,
    ) -> bool {
        match (&mut self.phase, probe) {
            (Phase::Closed(counts), None) => {
                let counts_successes = matches!(breaker.trip, Trip::Ratio { .. });
                if failures == 0 && !(successes > 0 && counts_successes) {
                    return false;
                }
                counts.add(reporter, [successes, failures], now / breaker.width());
                if counts.trip(breaker) {
                    self.open(breaker.open_for, now);
                }
            }
            (Phase::Open { successes: passed, probes, .. }, Some(probe))
                if probe.generation == self.generation =>
            {
                if failures > 0 {
                    // However late: it says that the upstream fails.
                    self.open(breaker.open_for, now);
                } else if let Some(own) = find(probes, probe.holder) {
                    probes.remove(own);
                    *passed += u64::from(successes > 0);
                    if *passed >= u64::from(breaker.probes) {
                        self.close(now);
                    }
                } else {
                    return false;
                }
            }
            _ => return false,
        }
        true
    }

    /// Does as somebody says.
    pub(crate) fn force(&mut self, to: Force, now: u64) {
        match to {
            Force::Open(span) => self.open(span, now),
            Force::Closed => self.close(now),
        }
    }

    /// The moment from which it means nothing.
    pub(crate) fn expires(&self, breaker: &CircuitBreaker, now: u64) -> u64 {
        match &self.phase {
            Phase::Closed(_) => now.saturating_add(SLICES * breaker.width()).saturating_add(GENERATION_KEPT),
            Phase::Open { until, .. } => until.saturating_add(HALF_OPEN),
        }
    }

    fn open(&mut self, span: Span, now: u64) {
        let span = span.as_millis();
        let until = now.saturating_add(span);
        self.turn(Phase::Open { until, successes: 0, span, probes: Vec::new() }, now);
    }

    fn close(&mut self, now: u64) {
        self.turn(Phase::Closed(Counts::default()), now);
    }

    fn turn(&mut self, phase: Phase, now: u64) {
        *self = Self { generation: next(self.generation, now), phase, moved: false };
    }
}

impl Counts {
    /// Counts in slice number `current`, or in the latest there is if the clock was set back, and forgets older ones.
    fn add(&mut self, reporter: Reporter, [successes, failures]: [u32; 2], current: u64) {
        let current = self.slices.iter().fold(current, |latest, [number, ..]| latest.max(*number));
        let oldest = current.saturating_sub(SLICES - 1);
        forget(&mut self.slices, oldest);
        forget(&mut self.reporters, oldest);
        let [_, succeeded, failed] =
            self.slices.pop_if(|[number, ..]| *number == current).unwrap_or_default();
        let add = |sum: u64, more: u32| sum.saturating_add(u64::from(more)).min(MOST);
        self.slices.push([current, add(succeeded, successes), add(failed, failures)]);
        if failures > 0 {
            let leaves = find(&self.reporters, reporter).or((self.reporters.len() >= REPORTERS).then_some(0));
            if let Some(leaves) = leaves {
                self.reporters.remove(leaves);
            }
            self.reporters.push(entry(current, reporter));
        }
    }

    /// Whether failures, volume and reporters are all enough.
    fn trip(&self, breaker: &CircuitBreaker) -> bool {
        let (mut calls, mut failures) = (0_u64, 0_u64);
        for [_, succeeded, failed] in &self.slices {
            failures = failures.saturating_add(*failed);
            calls = calls.saturating_add(*succeeded).saturating_add(*failed);
        }
        let [least, percent] = breaker.enough().map(u64::from);
        let volume = if percent == 0 { failures } else { calls };
        volume >= least
            && failures.saturating_mul(100) >= calls.saturating_mul(percent)
            && self.reporters.len() as u64 >= u64::from(breaker.reporters)
    }
}

/// The first entries of `words`, at most so many.
fn entries(words: &[u64], at_most: u64) -> Vec<Entry> {
    let entries = words.as_chunks().0;
    let at_most = usize::try_from(at_most).unwrap_or(0).min(entries.len());
    entries.get(..at_most).unwrap_or_default().to_vec()
}

/// Leaves those that begin with `least` or more.
fn forget(entries: &mut Vec<Entry>, least: u64) {
    entries.retain(|[when, ..]| *when >= least);
}

fn entry(when: u64, who: Id) -> Entry {
    let [first, second] = who.words();
    [when, first, second]
}

fn find(entries: &[Entry], who: Id) -> Option<usize> {
    entries.iter().position(|[_, first, second]| [*first, *second] == who.words())
}

/// The most reporters of failures that are told apart.
pub const MAX_REPORTERS: u32 = 32;
/// The most probes at once.
pub const MAX_PROBES: u32 = 16;
/// The most failures, or calls, that a breaker may wait for.
const MAX_COUNT: u32 = 1_000_000;
const REPORTERS: usize = MAX_REPORTERS as usize;
/// Slices of the time within which is counted.
pub(crate) const SLICES: u64 = 8;
/// What a slice counts at most, so that Lua's numbers stay exact.
const MOST: u64 = 1_000_000_000;
/// For how long a breaker that does not close stays half-open, in milliseconds: a day.
const HALF_OPEN: u64 = 24 * 60 * 60 * 1000;
/// For how long a closed breaker's generation is remembered at least, in milliseconds: clocks step back.
const GENERATION_KEPT: u64 = 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;
    const HOUR: Span = Span::from_millis(3_600_000).unwrap();

    fn span(millis: u64) -> Span {
        Span::from_millis(millis).unwrap()
    }

    fn id(number: u8) -> Id {
        Id::from_bytes([number; 16])
    }

    fn config(trip: Trip, reporters: u32, probes: u32) -> CircuitBreaker {
        CircuitBreaker::new(trip, span(8000), reporters, span(5000), probes, span(1000)).unwrap()
    }

    /// A breaker whose words are written and read between any two steps.
    struct Upstream {
        config: CircuitBreaker,
        words: Vec<u64>,
    }

    impl Upstream {
        fn new(config: CircuitBreaker) -> Self {
            Self { config, words: Vec::new() }
        }

        fn change<T>(&mut self, now: u64, change: impl FnOnce(&mut Breaker, &CircuitBreaker) -> T) -> T {
            let mut breaker = Breaker::load(&self.config, &self.words, now);
            let result = change(&mut breaker, &self.config);
            self.words = breaker.words(&self.config);
            assert!(breaker.expires(&self.config, now) > now);
            let kept = Breaker { moved: false, ..breaker };
            assert_eq!(Breaker::load(&self.config, &self.words, now), kept);
            result
        }

        fn report(&mut self, reporter: u8, counts: [u32; 2], now: u64) -> BreakerState {
            self.change(now, |breaker, config| breaker.report(config, id(reporter), counts, None, now));
            self.view(now)
        }

        fn probe(&mut self, holder: u8, now: u64) -> Option<Probe> {
            let generation = self.change(now, |breaker, config| breaker.probe(config, id(holder), now));
            generation.map(|generation| Probe { generation, holder: id(holder) })
        }

        fn probed(&mut self, probe: Probe, counts: [u32; 2], now: u64) -> BreakerState {
            self.change(now, |breaker, config| breaker.report(config, id(9), counts, Some(probe), now));
            self.view(now)
        }

        fn force(&mut self, to: Force, now: u64) {
            self.change(now, |breaker, _| breaker.force(to, now));
        }

        fn view(&self, now: u64) -> BreakerState {
            Breaker::load(&self.config, &self.words, now).view(&self.config, now).0
        }
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_a_breaker_open_for_no_longer_than_it_opens() {
        let mut upstream = Upstream::new(config(Trip::Failures(1), 1, 1));
        let ahead = START + 86_400_000;
        assert_eq!(upstream.report(1, [0, 1], ahead), BreakerState::Open { for_ms: 5000 });
        assert!(Breaker::load(&upstream.config, &upstream.words, START).was_moved());
        upstream.change(START, |_, _| ());
        assert_eq!(upstream.view(START + 4999), BreakerState::Open { for_ms: 1 });
        // A probe of a clock that is ahead is given up in time, too.
        assert!(upstream.probe(1, ahead).is_some());
        upstream.change(START + 6000, |_, _| ());
        assert!(matches!(upstream.view(START + 6000), BreakerState::HalfOpen { free: 0, for_ms: 1000 }));
        assert!(upstream.probe(2, START + 7000).is_some());
    }

    #[test]
    fn slices_of_a_clock_that_was_ahead_count_for_nothing() {
        let mut upstream = Upstream::new(config(Trip::Failures(2), 1, 1));
        assert_eq!(upstream.report(1, [0, 1], START + 86_400_000), BreakerState::Closed);
        assert_eq!(upstream.report(1, [0, 1], START), BreakerState::Closed);
        assert!(matches!(upstream.report(1, [0, 1], START), BreakerState::Open { .. }));
    }

    #[test]
    fn numbers_are_bounded() {
        let new = |trip, reporters, probes| {
            CircuitBreaker::new(trip, HOUR, reporters, HOUR, probes, HOUR).map_err(|error| error.field)
        };
        let ratio = |percent, min_volume| Trip::Ratio { percent, min_volume };
        assert!(new(Trip::Failures(1_000_000), 32, 16).is_ok());
        assert!(new(ratio(100, 1_000_000), 1, 1).is_ok());
        for (trip, reporters, probes, field) in [
            (Trip::Failures(0), 1, 1, "failures"),
            (Trip::Failures(1_000_001), 1, 1, "failures"),
            (ratio(0, 1), 1, 1, "ratio"),
            (ratio(101, 1), 1, 1, "ratio"),
            (ratio(1, 0), 1, 1, "min_volume"),
            (ratio(1, 1_000_001), 1, 1, "min_volume"),
            (Trip::Failures(1), 0, 1, "reporters"),
            (Trip::Failures(1), 33, 1, "reporters"),
            (Trip::Failures(1), 1, 0, "probes"),
            (Trip::Failures(1), 1, 17, "probes"),
        ] {
            assert_eq!(new(trip, reporters, probes), Err(field), "{trip:?} {reporters} {probes}");
        }
    }

    #[test]
    fn failures_trip_it_within_their_time() {
        let mut upstream = Upstream::new(config(Trip::Failures(3), 1, 1));
        assert_eq!(upstream.report(1, [7, 2], START), BreakerState::Closed);
        // START begins a slice of 1000 ms, and the eighth after it is the last to count it.
        assert_eq!(upstream.report(1, [0, 1], START + 8000), BreakerState::Closed);
        assert_eq!(upstream.report(1, [0, 1], START + 15_999), BreakerState::Closed);
        assert_eq!(upstream.report(1, [0, 1], START + 15_999), BreakerState::Open { for_ms: 5000 });
        assert_eq!(upstream.report(1, [9, 9], START + 20_998), BreakerState::Open { for_ms: 1 });
        assert_eq!(upstream.view(START + 20_999), BreakerState::HalfOpen { free: 1, for_ms: 0 });
    }

    #[test]
    fn a_ratio_trips_it_once_there_are_calls_enough() {
        let mut upstream = Upstream::new(config(Trip::Ratio { percent: 50, min_volume: 10 }, 1, 1));
        assert_eq!(upstream.report(1, [0, 5], START), BreakerState::Closed);
        assert_eq!(upstream.report(1, [4, 0], START), BreakerState::Closed);
        assert_eq!(upstream.report(1, [2, 0], START), BreakerState::Closed, "5 of 11");
        assert_eq!(upstream.report(1, [0, 1], START), BreakerState::Open { for_ms: 5000 }, "6 of 12");
    }

    #[test]
    fn one_reporter_alone_does_not_trip_what_wants_two() {
        let mut upstream = Upstream::new(config(Trip::Failures(3), 2, 1));
        assert_eq!(upstream.report(1, [0, 1000], START), BreakerState::Closed);
        assert_eq!(upstream.report(2, [1000, 0], START), BreakerState::Closed, "it saw no failure");
        assert_eq!(upstream.report(2, [0, 1], START + 1), BreakerState::Open { for_ms: 5000 });
    }

    #[test]
    fn the_oldest_reporter_makes_room() {
        let mut upstream = Upstream::new(config(Trip::Failures(50), 32, 1));
        for reporter in 0..40 {
            upstream.report(reporter, [0, 1], START + if reporter < 8 { 0 } else { 4000 });
        }
        assert_eq!(upstream.words.len(), 4 + 2 * 3 + 32 * 3);
        assert_eq!(upstream.report(39, [0, 18], START + 9000), BreakerState::Open { for_ms: 5000 });
    }

    #[test]
    fn probes_are_few_and_expire() {
        let mut upstream = Upstream::new(config(Trip::Failures(1), 1, 2));
        assert_eq!(upstream.probe(1, START), None, "it is closed");
        upstream.report(1, [0, 1], START);
        assert_eq!(upstream.probe(1, START + 4999), None);
        let first = upstream.probe(1, START + 5000).unwrap();
        assert_eq!(first.generation, START);
        assert_eq!(upstream.view(START + 5000), BreakerState::HalfOpen { free: 1, for_ms: 0 });
        assert_eq!(upstream.probe(1, START + 5100), Some(first), "its answer was lost");
        assert!(upstream.probe(2, START + 5200).is_some());
        assert_eq!(upstream.probe(3, START + 5300), None);
        assert_eq!(upstream.view(START + 5300), BreakerState::HalfOpen { free: 0, for_ms: 800 });
        assert!(upstream.probe(3, START + 6100).is_some(), "the first one is given up");
        assert_eq!(
            upstream.probed(first, [1, 0], START + 6100),
            BreakerState::HalfOpen { free: 0, for_ms: 100 }
        );
    }

    #[test]
    fn it_closes_when_as_many_probes_have_succeeded() {
        let mut upstream = Upstream::new(config(Trip::Failures(1), 1, 2));
        upstream.report(1, [0, 1], START);
        let now = START + 5000;
        let [one, two] = [1, 2].map(|holder| upstream.probe(holder, now).unwrap());
        assert_eq!(
            upstream.probed(one, [0, 0], now),
            BreakerState::HalfOpen { free: 1, for_ms: 0 },
            "called off"
        );
        assert_eq!(upstream.probed(two, [1, 0], now), BreakerState::HalfOpen { free: 1, for_ms: 0 });
        assert_eq!(
            upstream.probed(two, [1, 0], now),
            BreakerState::HalfOpen { free: 1, for_ms: 0 },
            "said twice"
        );
        let three = upstream.probe(3, now).unwrap();
        assert_eq!(upstream.probe(4, now), None, "one more success is all it takes");
        assert_eq!(upstream.probed(three, [1, 0], now), BreakerState::Closed);
        assert_eq!(upstream.report(1, [0, 1], now), BreakerState::Open { for_ms: 5000 });
        assert_eq!(
            upstream.probed(three, [0, 1], now + 1),
            BreakerState::Open { for_ms: 4999 },
            "of an older one"
        );
    }

    #[test]
    fn a_failed_probe_opens_it_again_however_late() {
        let mut upstream = Upstream::new(config(Trip::Failures(1), 1, 2));
        upstream.report(1, [0, 1], START);
        let probe = upstream.probe(1, START + 5000).unwrap();
        assert_eq!(upstream.probed(probe, [3, 1], START + 9000), BreakerState::Open { for_ms: 5000 });
        let next = upstream.probe(1, START + 14_000).unwrap();
        assert_eq!(next.generation, START + 9000);
    }

    #[test]
    fn it_is_set_by_hand() {
        let mut upstream = Upstream::new(config(Trip::Failures(2), 1, 1));
        upstream.report(1, [0, 1], START);
        upstream.force(Force::Open(HOUR), START);
        assert_eq!(upstream.view(START + 1), BreakerState::Open { for_ms: 3_599_999 });
        upstream.force(Force::Closed, START + 2);
        assert_eq!(
            upstream.report(1, [0, 1], START + 3),
            BreakerState::Closed,
            "what was counted is forgotten"
        );
        upstream.force(Force::Open(HOUR), START);
        assert_eq!(
            upstream.probe(1, START + 3_600_000).unwrap().generation,
            START + 3,
            "though the clock went back"
        );
    }

    #[test]
    fn a_day_half_open_closes_it() {
        let mut upstream = Upstream::new(config(Trip::Failures(1), 1, 1));
        upstream.report(1, [0, 1], START);
        let last = START + 5000 + HALF_OPEN - 1;
        assert_eq!(upstream.view(last), BreakerState::HalfOpen { free: 1, for_ms: 0 });
        assert_eq!(upstream.view(last + 1), BreakerState::Closed);
    }

    #[test]
    fn another_policy_takes_over_what_it_understands() {
        let mut upstream = Upstream::new(config(Trip::Failures(3), 1, 3));
        upstream.report(1, [0, 2], START);
        upstream.config = CircuitBreaker { within: span(4000), ..upstream.config };
        assert_eq!(upstream.report(1, [0, 1], START), BreakerState::Closed, "other slices");
        upstream.force(Force::Open(span(1)), START);
        for holder in [1, 2] {
            let probe = upstream.probe(holder, START + 1).unwrap();
            upstream.probed(probe, [1, 0], START + 1);
        }
        upstream.config = CircuitBreaker { probes: 1, ..upstream.config };
        assert_eq!(
            upstream.view(START + 1),
            BreakerState::HalfOpen { free: 1, for_ms: 0 },
            "one more closes it"
        );
    }
}
