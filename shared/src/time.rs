//! Moments and spans.
//!
//! A moment is a [`Timestamp`]: whole milliseconds since the Unix epoch, given by the host. A span is written
//! `"250ms"`, `"60s"`, `"15m"`, `"1h"` or `"1d"` in a policy and is a [`Span`], whole milliseconds too, because the
//! store counts in milliseconds and nothing in a decision may round twice.

use core::fmt;

use crate::config::Text;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `millis` milliseconds later, or the last representable one.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// The time for which something is believed: from the moment it became known, for so many milliseconds.
///
/// A clock that is set back to before that moment ends it: how much of the time has passed is unknown then, and asking again is
/// always possible. Within its time, setting the clock back can at most double it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    from: Timestamp,
    until: Timestamp,
}

impl Validity {
    /// From `from` on, for `millis` milliseconds.
    pub const fn new(from: Timestamp, millis: u64) -> Self {
        Self { from, until: from.plus(millis) }
    }

    /// Whether it is believed at `now`.
    pub fn covers(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// The moment it ends.
    pub const fn until(&self) -> Timestamp {
        self.until
    }
}

/// The end of something that was begun for a time, by a clock that may be set back before it ends.
///
/// What ends later than it can was begun by a clock that was ahead, or the clock is behind now. It lasts for as long from the moment
/// when that was noticed as it was begun for. The end itself is kept: a clock that was behind for a moment only finds it as it was.
/// Clocks that differ by no more than a minute are taken for equal, and what they disagree about lasts for as much longer.
///
/// One clock that is set back and forward again cannot be told from time that passes: if it is set back behind the beginning, asked, and
/// set forward, the term is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Term {
    until: u64,
    span: u64,
    noticed: u64,
    changed: bool,
}

impl Term {
    /// What `words` say at `now`.
    pub(crate) fn load([until, span, noticed]: [u64; 3], now: u64) -> Self {
        let is_news = is_too_late(until, span, now) && !(1..=now).contains(&noticed);
        Self { until, span, noticed: if is_news { now } else { noticed }, changed: is_news }
    }

    /// The moment it ends, for how long it was begun, and since when it has seemed to end too late.
    pub(crate) const fn words(&self) -> [u64; 3] {
        [self.until, self.span, self.noticed]
    }

    /// Whether it has to be kept as it is now, even if nothing else changes it: otherwise it would be noticed each time that it
    /// ends too late, and it would never end.
    pub(crate) const fn has_changed(&self) -> bool {
        self.changed
    }

    /// When it ends.
    pub(crate) fn end(&self, now: u64) -> u64 {
        if is_too_late(self.until, self.span, now) {
            let noticed = if self.noticed == 0 { now } else { self.noticed };
            noticed.saturating_add(self.span)
        } else {
            self.until
        }
    }

    /// The latest moment that has to do with it: none later than that needs to know of it.
    pub(crate) fn latest(&self, now: u64) -> u64 {
        self.until.max(self.end(now))
    }

    /// Makes it end then, earlier or later than it would have.
    pub(crate) fn set(&mut self, until: u64, now: u64) {
        (self.until, self.span, self.noticed) = (until, until.saturating_sub(now), 0);
    }

    /// Makes it end no earlier than that.
    pub(crate) fn prolong(&mut self, until: u64, now: u64) {
        self.set(self.end(now).max(until), now);
    }

    /// Ends it now.
    pub(crate) fn cancel(&mut self) {
        self.until = 0;
    }
}

/// Whether what was begun for `span` milliseconds ends later than it can, by more than clocks differ.
fn is_too_late(until: u64, span: u64, now: u64) -> bool {
    until > now.saturating_add(span).saturating_add(CLOCKS_DIFFER)
}

/// By how many milliseconds the clocks of hosts may differ: a minute.
pub(crate) const CLOCKS_DIFFER: u64 = 60_000;

/// A length of time in whole milliseconds, at least one and at most 366 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// The longest span a policy may name.
    pub const MAX: Self = Self(366 * 24 * 60 * 60 * 1000);

    /// A span of `millis` milliseconds; `None` outside 1 ms ..= 366 days.
    pub const fn from_millis(millis: u64) -> Option<Self> {
        if millis == 0 || millis > Self::MAX.0 { None } else { Some(Self(millis)) }
    }

    /// Whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Reads `"250ms"`, `"60s"`, `"15m"`, `"1h"`, `"1d"`: digits and one unit, nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        let unit: u64 = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        Self::from_millis(number.parse::<u64>().ok()?.checked_mul(unit)?)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().rev().find(|(_, unit)| self.0.is_multiple_of(*unit));
        let (name, unit) = fits.copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text {
            expected: "a duration from 1ms to 366d such as \"250ms\", \"60s\", \"15m\", \"1h\" or \"1d\"",
            parse: Self::parse,
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Span {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "description": "A duration from 1ms to 366d such as \"250ms\", \"60s\", \"15m\", \"1h\" or \"1d\"."
        })
    }
}

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60 * 1000), ("h", 60 * 60 * 1000), ("d", 24 * 60 * 60 * 1000)];

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_clock_that_is_set_back_ends_what_is_believed() {
        let validity = Validity::new(Timestamp::from_millis(1000), 500);
        let covers = |millis| validity.covers(Timestamp::from_millis(millis));
        assert_eq!([999, 1000, 1499, 1500].map(covers), [false, true, true, false]);
        assert!(!Validity::default().covers(Timestamp::default()));
    }

    #[test]
    fn a_term_ends_when_it_was_to_end_unless_clocks_differ_by_more_than_a_minute() {
        let mut term = Term::default();
        term.set(100_000, 90_000);
        for (now, end) in [(90_000, 100_000), (30_000, 100_000), (29_999, 39_999), (90_000, 100_000)] {
            assert_eq!(term.end(now), end, "at {now}");
        }
        // From when that is noticed, it counts.
        let behind = Term::load(term.words(), 29_999);
        assert!(behind.has_changed());
        assert_eq!([behind.end(29_999), behind.end(30_000)], [39_999, 100_000]);
        assert!(!Term::load(term.words(), 30_000).has_changed());
        assert_eq!(behind.latest(29_999), 100_000);
    }

    #[test]
    fn spans_read_and_print() {
        for (text, millis) in [("250ms", 250), ("60s", 60_000), ("15m", 900_000), ("1h", 3_600_000)] {
            assert_eq!(Span::parse(text).map(Span::as_millis), Some(millis));
        }
        assert_eq!(Span::parse("1d").unwrap().to_string(), "1d");
        assert_eq!(Span::parse("60s").unwrap().to_string(), "1m");
        assert_eq!(Span::parse("1500ms").unwrap().to_string(), "1500ms");
    }

    #[test]
    fn spans_refuse_what_is_not_one() {
        for text in
            ["", "0s", "60", "s", "60 s", "-1s", "+1s", "1.5s", "1w", "367d", "99999999999999999999s", "1ſ"]
        {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
