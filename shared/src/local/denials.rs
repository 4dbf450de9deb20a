//! Denials that are known without asking again.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::config::store::Remembered;
use crate::key::Key;
use crate::rate_limit::{Retry, Standing};
use crate::time::{Timestamp, Validity};

/// Denials that the store has spoken and that hold until a time it named. At most as many as the constructor says;
/// the one that ends first makes room for another.
///
/// A wrong hit would refuse a request that the store admits. It cannot happen by time: a denial counts
/// from before its call left, and a clock that is set back to before that moment ends it. It can when
/// another instance resets a counter, when its quota is raised, or when what filled it is given back.
/// So a denial is believed for no longer than the constructor says, and one whose counter may be given
/// something back for no longer than [`REFUNDABLE`] milliseconds.
#[derive(Debug)]
pub(crate) struct Denials {
    at_most: usize,
    /// Milliseconds for which a denial is believed at most.
    max_age: u64,
    by_key: BTreeMap<Key, Entry>,
    by_end: BTreeSet<(Timestamp, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// For how long it is remembered.
    valid: Validity,
    /// When the cost is admitted.
    admitted: Timestamp,
    /// A smaller cost might be admitted now, and a larger one not yet when this one is.
    cost: u64,
    remaining: u64,
    reset: Timestamp,
}

impl Denials {
    pub(super) fn new(remembered: Remembered) -> Self {
        let Remembered { at_most, denials_for } = remembered;
        Self { at_most, max_age: denials_for.as_millis(), by_key: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// Milliseconds for which another instance with the same settings may go on refusing after a
    /// counter was reset.
    pub(crate) const fn max_age(&self) -> u64 {
        if self.at_most == 0 { 0 } else { self.max_age }
    }

    /// How the counter stands if it is known to refuse `cost` now.
    pub(crate) fn find(&mut self, key: &Key, cost: u64, now: Timestamp) -> Option<Standing> {
        let entry = self.by_key.get(key)?;
        if !entry.valid.covers(now) {
            self.forget(key);
            return None;
        }
        (cost == entry.cost).then(|| Standing {
            remaining: entry.remaining,
            reset: entry.reset.since(now),
            retry: Retry::After(entry.admitted.since(now)),
        })
    }

    /// Forgets that anything was refused.
    pub(crate) fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.by_end.remove(&(entry.valid.until(), key.clone()));
        }
    }

    /// Remembers that `cost` was refused as of `asked`, when the call had not left yet; not for long if what filled
    /// the counter may be given back.
    pub(crate) fn remember(
        &mut self,
        key: Key,
        cost: u64,
        standing: &Standing,
        refundable: bool,
        asked: Timestamp,
    ) {
        let Retry::After(millis) = standing.retry else { return };
        if self.at_most == 0 {
            return;
        }
        let max_age = if refundable { self.max_age.min(REFUNDABLE) } else { self.max_age };
        let entry = Entry {
            valid: Validity::new(asked, millis.min(max_age)),
            admitted: asked.plus(millis),
            cost,
            remaining: standing.remaining,
            reset: asked.plus(standing.reset),
        };
        if let Some(old) = self.by_key.insert(key.clone(), entry) {
            self.by_end.remove(&(old.valid.until(), key.clone()));
        } else if self.by_key.len() > self.at_most
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.by_key.remove(&first);
        }
        self.by_end.insert((entry.valid.until(), key));
    }
}

/// Milliseconds for which the denial of a counter that may be refunded is remembered.
const REFUNDABLE: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;
    use crate::config::store::remembered;
    use crate::time::Span;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn refused(retry: u64) -> Standing {
        Standing { remaining: 1, reset: retry, retry: Retry::After(retry) }
    }

    fn key(n: usize) -> Key {
        Key::from_stored(&format!("{n}"))
    }

    #[test]
    fn a_denial_holds_until_its_time_for_the_same_cost() {
        let mut denials = Denials::new(Remembered::at_most(10));
        denials.remember(key(1), 2, &refused(100), false, at(1000));
        assert_eq!(denials.find(&key(1), 2, at(1099)).map(|s| s.retry), Some(Retry::After(1)));
        assert_eq!(denials.find(&key(1), 3, at(1000)), None, "it would be told too early a time");
        assert_eq!(denials.find(&key(1), 1, at(1000)), None);
        assert_eq!(denials.find(&key(1), 2, at(1100)), None);
        assert!(denials.by_key.is_empty() && denials.by_end.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_ends_a_denial() {
        let mut denials = Denials::new(Remembered::at_most(10));
        denials.remember(key(1), 1, &refused(1000), false, at(60_000));
        assert!(denials.find(&key(1), 1, at(60_000)).is_some());
        assert_eq!(denials.find(&key(1), 1, at(50_000)), None);
        assert!(denials.by_key.is_empty() && denials.by_end.is_empty());
    }

    #[test]
    fn a_denial_is_believed_for_a_second_unless_told_otherwise() {
        for (told, refundable, millis) in
            [(None, false, 1000), (Some(5000), false, 5000), (Some(5000), true, 1000), (Some(30), true, 30)]
        {
            let mut denials = Denials::new(remembered(Some(10), told.and_then(Span::from_millis)));
            denials.remember(key(1), 1, &refused(86_400_000), refundable, at(0));
            let known = denials.find(&key(1), 1, at(millis - 1)).unwrap();
            assert_eq!(
                known.retry,
                Retry::After(86_400_000 - (millis - 1)),
                "the client is told the whole time"
            );
            assert_eq!(denials.find(&key(1), 1, at(millis)), None, "{told:?}");
        }
    }

    #[test]
    fn a_full_cache_forgets_what_ends_first() {
        let mut denials = Denials::new(Remembered::at_most(2));
        for (n, retry) in [(1, 300), (2, 100), (3, 200), (3, 250)] {
            denials.remember(key(n), 1, &refused(retry), false, at(0));
        }
        assert_eq!((denials.by_key.len(), denials.by_end.len()), (2, 2));
        assert_eq!(denials.find(&key(2), 1, at(1)), None);
        assert!(denials.find(&key(1), 1, at(1)).is_some() && denials.find(&key(3), 1, at(1)).is_some());
    }
}
