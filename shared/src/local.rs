//! What a host remembers between requests. Everything here has a bound that its constructor states.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;

use subtle::ConstantTimeEq as _;

use crate::circuit_breaker::BreakerState;
use crate::config::ConfigError;
use crate::id::{Holder, Id, Reporter};
use crate::jwt::{Bearer, KeySet, Token};
use crate::key::{Digest, Key};
use crate::policy::Policy;
use crate::rate_limit::{Retry, Standing};
use crate::store::memory::Shards;
use crate::store::{Memory, Op};
use crate::time::Timestamp;

/// What a host remembers between requests: denials, the store's health, the memory to fall back on.
#[derive(Debug)]
pub struct Local<S> {
    pub(crate) denials: Denials,
    /// `None` without a store: then the memory is the store.
    pub(crate) store: Option<StoreHealth>,
    pub(crate) memory: Memory<S>,
    pub(crate) instances: u32,
    /// The name of this instance, among all that share a store.
    pub(crate) id: Id,
    holders: u64,
    /// What breakers did when they were asked last.
    pub(crate) breakers: Views,
    /// Bearers of tokens whose signature holds.
    pub(crate) bearers: Bearers,
    /// Keys that were fetched.
    pub(crate) keys: FetchedKeys,
    /// Tokens that were not revoked when that was asked last, for as long as the policy says.
    pub(crate) unrevoked: Recent,
}

impl<S: Shards> Local<S> {
    /// Without a store: the memory decides, for this instance alone.
    ///
    /// `id` is drawn at random, its first half once for all threads of an instance; and `remembered` is how many denials are remembered at most, and how many tokens; zero for none.
    pub fn without_store(memory: Memory<S>, remembered: usize, id: Id) -> Self {
        Self {
            denials: Denials::new(remembered),
            store: None,
            memory,
            instances: 1,
            id,
            holders: 0,
            breakers: Views::default(),
            bearers: Bearers::new(remembered),
            keys: FetchedKeys::default(),
            unrevoked: Recent::new(remembered),
        }
    }

    /// With a store: the memory stands in while it fails, with a share of each quota that is one of `instances`.
    ///
    /// No two that share the store may have one `id`: it is drawn at random. For `remembered` see [`Local::without_store`].
    pub fn with_store(memory: Memory<S>, remembered: usize, instances: u32, id: Id) -> Self {
        Self { store: Some(StoreHealth::default()), instances, ..Self::without_store(memory, remembered, id) }
    }

    /// The name of this instance for breakers, which count instances and not their threads.
    pub(crate) fn reporter(&self) -> Reporter {
        let [instance, _] = self.id.words();
        Reporter::from_words([instance, 0])
    }

    /// A name that no other request has, of this instance or of another.
    pub(crate) fn next_holder(&mut self) -> Holder {
        self.holders = self.holders.wrapping_add(1);
        let [first, second] = self.id.words();
        Holder::from_words([first, second.wrapping_add(self.holders)])
    }

    /// Takes up keys that were fetched for [`Step::FetchKeys`](crate::exchange::Step::FetchKeys): the body of the answer, or
    /// `None` if there was none with status 200. Whoever waits for them begins his decision anew.
    ///
    /// # Errors
    /// What is wrong with the document; the keys stay as they were.
    pub fn keys_fetched(
        &mut self,
        policy: &Policy,
        document: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(), ConfigError> {
        self.keys.is_asked = false;
        let (Some(document), Some(jwt)) = (document, policy.jwt()) else { return Ok(()) };
        let set = KeySet::from_jwks(document, jwt.algorithms())?;
        self.keys.set = Some(set);
        self.keys.fetched = now;
        // Who signed with a key that is gone is not believed any longer.
        let digest = Digest::of_parts(&[document]);
        if self.keys.document.replace(digest) != Some(digest) {
            self.bearers.clear();
        }
        Ok(())
    }

    /// The embedded memory, for what a decision leaves to settle where there is no store.
    pub fn memory(&mut self) -> &mut Memory<S> {
        &mut self.memory
    }

    /// Tells that a call to the store was answered.
    pub fn store_answered(&mut self) {
        if let Some(health) = &mut self.store {
            health.answered();
        }
    }

    /// Tells that a call to the store failed as a whole.
    pub fn store_failed(&mut self, now: Timestamp) {
        if let Some(health) = &mut self.store {
            health.failed(now);
        }
    }

    /// Notes what somebody has changed in the store by hand, so that nothing that is known here contradicts it.
    pub(crate) fn changed(&mut self, op: &Op, now: Timestamp) {
        match op {
            Op::Reset { key } => self.denials.forget(key),
            Op::Revoke { .. } => self.unrevoked.clear(),
            _ => {}
        }
        if self.store.is_some() {
            // Nothing can be done about a memory that is too busy.
            let _ = self.memory.perform(op, now);
        }
    }

    /// Whether the store is being left alone because it failed too often.
    pub fn store_is_open(&self) -> bool {
        self.store.as_ref().is_some_and(|health| health.state != Health::Closed)
    }
}

/// A circuit breaker around the store, so that a dead store costs nothing per request.
///
/// ```text
///            3 failures in a row                pause over: one request probes
///  Closed ──────────────────────▶ Open(until) ─────────────────────────────▶ Probing(until)
///    ▲                              ▲   ▲                                       │  │
///    │ answered                     │   └──── failed: pause doubles, 10 s at most ┘  │
///    └──────────────────────────────┴── (from any state)          answered ◀────────┘
/// ```
///
/// A probe that nobody reports back on is given up after 5 s.
#[derive(Debug)]
pub(crate) struct StoreHealth {
    state: Health,
    failures: u32,
    pause: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Closed,
    Open(Timestamp),
    Probing(Timestamp),
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self { state: Health::Closed, failures: 0, pause: FIRST_PAUSE }
    }
}

impl StoreHealth {
    /// Whether a request may ask the store; the one that may after a pause is the probe.
    pub(crate) fn admits(&mut self, now: Timestamp) -> bool {
        match self.state {
            Health::Closed => true,
            Health::Open(until) | Health::Probing(until) if now < until => false,
            Health::Open(_) | Health::Probing(_) => {
                self.state = Health::Probing(now.plus(PROBE_EXPIRES));
                true
            }
        }
    }

    fn answered(&mut self) {
        *self = Self::default();
    }

    fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            Health::Closed if self.failures < FAILURES => {}
            Health::Closed => self.state = Health::Open(now.plus(self.pause)),
            Health::Probing(_) => {
                self.pause = self.pause.saturating_mul(2).min(LAST_PAUSE);
                self.state = Health::Open(now.plus(self.pause));
            }
            // A call sent before the breaker opened.
            Health::Open(_) => {}
        }
    }
}

/// Digests that are remembered until a time. At most as many as the constructor says; of more, some are forgotten.
#[derive(Debug)]
pub(crate) struct Recent {
    at_most: usize,
    until: BTreeMap<Digest, Timestamp>,
}

impl Recent {
    fn new(at_most: usize) -> Self {
        Self { at_most, until: BTreeMap::new() }
    }

    pub(crate) fn has(&self, digest: &Digest, now: Timestamp) -> bool {
        self.until.get(digest).is_some_and(|until| now < *until)
    }

    pub(crate) fn insert(&mut self, digest: Digest, until: Timestamp, now: Timestamp) {
        if self.until.len() >= self.at_most {
            self.until.retain(|_, until| now < *until);
        }
        // Digests are evenly spread, so whoever is first is anybody.
        if self.until.len() >= self.at_most {
            self.until.pop_first();
        }
        if self.at_most > 0 {
            self.until.insert(digest, until);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.until.clear();
    }
}

/// Bearers of tokens whose signature holds: to know one again is to compare bytes. At most as many as the constructor says, and at
/// most [`MAX_BEARERS`] bytes of tokens; of more, somebody is forgotten.
///
/// They are found by the end of their signature, which nobody can guess a byte at a time, and compared in constant time.
#[derive(Debug)]
pub(crate) struct Bearers {
    at_most: usize,
    bytes: usize,
    by_signature: BTreeMap<[u8; 8], Known>,
}

/// A token as it is written, and its bearer.
type Known = (Box<[u8]>, Arc<Bearer>);

impl Bearers {
    fn new(at_most: usize) -> Self {
        Self { at_most, bytes: 0, by_signature: BTreeMap::new() }
    }

    /// The bearer of the token that is written `text`. Whether it has expired is not asked.
    pub(crate) fn find(&self, text: &[u8]) -> Option<Arc<Bearer>> {
        let (known, bearer) = self.by_signature.get(text.last_chunk()?)?;
        is_equal(known, text).then(|| Arc::clone(bearer))
    }

    pub(crate) fn insert(&mut self, text: &[u8], token: Token) -> Arc<Bearer> {
        let bearer = Arc::new(Bearer::from(token));
        let Some(end) = text.last_chunk().filter(|_| self.at_most > 0) else { return bearer };
        while self.by_signature.len() >= self.at_most || self.bytes.saturating_add(text.len()) > MAX_BEARERS {
            // Signatures are evenly spread, so whoever is first is anybody.
            let Some((_, (forgotten, _))) = self.by_signature.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(forgotten.len());
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if let Some((old, _)) = self.by_signature.insert(*end, (text.into(), Arc::clone(&bearer))) {
            self.bytes = self.bytes.saturating_sub(old.len());
        }
        bearer
    }

    fn clear(&mut self) {
        (self.bytes, self.by_signature) = (0, BTreeMap::new());
    }
}

/// Compares in a time that depends on the lengths alone; eight bytes at a time, as tokens are long.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let words = words.iter().zip(other_words).fold(rest.ct_eq(other_rest), |so_far, (one, other)| {
        so_far & u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(*other))
    });
    one.len() == other.len() && words.into()
}

/// Keys that were fetched, and when.
#[derive(Debug, Default)]
pub(crate) struct FetchedKeys {
    pub(crate) set: Option<KeySet>,
    fetched: Timestamp,
    /// What they were read from.
    document: Option<Digest>,
    /// When they were asked for last.
    asked: Timestamp,
    /// They are on their way.
    is_asked: bool,
}

impl FetchedKeys {
    /// Whether a request is to wait for keys; `is_known` if one is there for its token. Then only one request in a while has them
    /// refreshed, and the others go by what there is.
    pub(crate) fn are_wanted(&mut self, is_known: bool, refresh_millis: u64, now: Timestamp) -> bool {
        let is_recent = now < self.asked.plus(ASK_AGAIN);
        if is_known && (is_recent || now < self.fetched.plus(refresh_millis)) {
            return false;
        }
        if is_recent {
            return self.is_asked;
        }
        (self.asked, self.is_asked) = (now, true);
        true
    }
}

/// What circuit breakers did when the store was asked last, at most one for each guard of a policy.
///
/// While one is closed, one request in [`FRESH`] milliseconds asks, and the others go by what they know until it has its answer: a
/// breaker that opens is noticed after [`FRESH`] and a round trip, at most twice [`FRESH`].
#[derive(Debug, Default)]
pub(crate) struct Views(BTreeMap<usize, Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Closed; not known any more from this time on.
    closed_until: Timestamp,
    /// Open; not known any more from this time on.
    open_until: Timestamp,
    /// When it is half-open, if nobody sets it by hand.
    half_open_at: Timestamp,
    /// Not to be asked again before this time.
    asked_until: Timestamp,
    /// Of calls, since it was told last.
    successes: u32,
}

/// What is known of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Closed,
    Open {
        for_ms: u64,
    },
    /// It has to be asked, and told of so many successes.
    Unknown {
        successes: u32,
    },
}

impl Views {
    pub(crate) fn view(&mut self, guard: usize, now: Timestamp) -> View {
        let seen = self.0.entry(guard).or_default();
        if now < seen.open_until {
            return View::Open { for_ms: seen.half_open_at.since(now) };
        }
        if now < seen.closed_until && now < seen.asked_until {
            return View::Closed;
        }
        seen.asked_until = now.plus(FRESH);
        View::Unknown { successes: core::mem::take(&mut seen.successes) }
    }

    /// A breaker that was asked at `asked` was in this state.
    pub(crate) fn seen(&mut self, guard: usize, state: BreakerState, asked: Timestamp, now: Timestamp) {
        let seen = self.0.entry(guard).or_default();
        match state {
            BreakerState::Closed => {
                seen.asked_until = asked.plus(FRESH);
                seen.closed_until = asked.plus(2 * FRESH);
                seen.open_until = Timestamp::default();
            }
            BreakerState::Open { for_ms } => {
                (seen.open_until, seen.half_open_at) = (now.plus(for_ms.min(OPEN)), now.plus(for_ms));
                seen.closed_until = Timestamp::default();
            }
            BreakerState::HalfOpen { .. } => seen.closed_until = Timestamp::default(),
        }
    }

    /// Has a breaker asked again, because it was told something: the successes that it was not told of yet.
    pub(crate) fn forget(&mut self, guard: usize) -> u32 {
        self.0.remove(&guard).map_or(0, |seen| seen.successes)
    }

    /// A call succeeded, of which the breaker is told on occasion.
    pub(crate) fn succeeded(&mut self, guard: usize) {
        let seen = self.0.entry(guard).or_default();
        seen.successes = seen.successes.saturating_add(1);
    }
}

/// Denials that the store has spoken and that hold until a time it named. At most as many as the constructor says;
/// the one that ends first makes room for another.
///
/// A wrong hit would refuse a request that the store admits. It cannot happen by time: a denial counts from
/// before its call left. It can when a counter is reset by hand or its quota raised, for at most the rest of the
/// denial; and when what filled a counter is given back, which is why those that may be refunded are asked again after
/// [`REFUNDABLE`] milliseconds.
#[derive(Debug)]
pub(crate) struct Denials {
    at_most: usize,
    by_key: BTreeMap<Key, Entry>,
    by_end: BTreeSet<(Timestamp, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it is forgotten.
    until: Timestamp,
    /// When the cost is admitted.
    admitted: Timestamp,
    /// A smaller cost might be admitted now, and a larger one not yet at `until`.
    cost: u64,
    remaining: u64,
    reset: Timestamp,
}

impl Denials {
    fn new(at_most: usize) -> Self {
        Self { at_most, by_key: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// How the counter stands if it is known to refuse `cost` now.
    pub(crate) fn find(&mut self, key: &Key, cost: u64, now: Timestamp) -> Option<Standing> {
        let entry = self.by_key.get(key)?;
        if entry.until <= now {
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
            self.by_end.remove(&(entry.until, key.clone()));
        }
    }

    /// Remembers that `cost` was refused as of `asked`, when the call had not left yet; not for long if what filled
    /// the counter may be given back.
    pub(crate) fn remember(
        &mut self,
        key: &Key,
        cost: u64,
        standing: &Standing,
        refundable: bool,
        asked: Timestamp,
    ) {
        let Retry::After(millis) = standing.retry else { return };
        if self.at_most == 0 {
            return;
        }
        let entry = Entry {
            until: asked.plus(if refundable { millis.min(REFUNDABLE) } else { millis }),
            admitted: asked.plus(millis),
            cost,
            remaining: standing.remaining,
            reset: asked.plus(standing.reset),
        };
        if let Some(old) = self.by_key.insert(key.clone(), entry) {
            self.by_end.remove(&(old.until, key.clone()));
        } else if self.by_key.len() > self.at_most
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.by_key.remove(&first);
        }
        self.by_end.insert((entry.until, key.clone()));
    }
}

/// Most bytes of tokens that are remembered: 1 MiB.
const MAX_BEARERS: usize = 1 << 20;
/// Milliseconds before keys are fetched once more because one is missing: anybody can make a token that names a key which is not there.
const ASK_AGAIN: u64 = 10_000;
/// Milliseconds for which a breaker that is closed is taken for closed.
const FRESH: u64 = 100;
/// Most milliseconds for which a breaker that is open is taken for open: somebody may close it by hand.
const OPEN: u64 = 1000;
/// Milliseconds for which the denial of a counter that may be refunded is remembered.
const REFUNDABLE: u64 = 1000;
/// Failures in a row that open the breaker.
const FAILURES: u32 = 3;
/// Milliseconds until the first probe.
const FIRST_PAUSE: u64 = 500;
/// The longest pause between probes, in milliseconds.
const LAST_PAUSE: u64 = 10_000;
/// Milliseconds after which a probe that nobody reported back on is given up.
const PROBE_EXPIRES: u64 = 5_000;

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

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
        let mut denials = Denials::new(10);
        denials.remember(&key(1), 2, &refused(100), false, at(1000));
        assert_eq!(denials.find(&key(1), 2, at(1099)).map(|s| s.retry), Some(Retry::After(1)));
        assert_eq!(denials.find(&key(1), 3, at(1000)), None, "it would be told too early a time");
        assert_eq!(denials.find(&key(1), 1, at(1000)), None);
        assert_eq!(denials.find(&key(1), 2, at(1100)), None);
        assert!(denials.by_key.is_empty() && denials.by_end.is_empty());
    }

    #[test]
    fn a_full_cache_forgets_what_ends_first() {
        let mut denials = Denials::new(2);
        for (n, retry) in [(1, 300), (2, 100), (3, 200), (3, 250)] {
            denials.remember(&key(n), 1, &refused(retry), false, at(0));
        }
        assert_eq!((denials.by_key.len(), denials.by_end.len()), (2, 2));
        assert_eq!(denials.find(&key(2), 1, at(1)), None);
        assert!(denials.find(&key(1), 1, at(1)).is_some() && denials.find(&key(3), 1, at(1)).is_some());
    }

    #[test]
    fn tokens_are_equal_to_the_last_byte() {
        let token: std::vec::Vec<u8> = (0..45).collect();
        for length in 0..token.len() {
            let token = &token[..length];
            assert!(is_equal(token, token) && !is_equal(token, &[token, &[0]].concat()));
            for at in 0..length {
                let mut other = token.to_vec();
                other[at] ^= 0x80;
                assert!(!is_equal(token, &other), "{at} of {length}");
            }
        }
    }

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let mut health = StoreHealth::default();
        for _ in 0..FAILURES {
            assert!(health.admits(at(0)));
            health.failed(at(0));
        }
        assert!(!health.admits(at(499)));
        assert!(health.admits(at(500)), "one probe");
        assert!(!health.admits(at(500)), "and no second");
        health.failed(at(550));
        assert!(!health.admits(at(1549)), "the pause doubled");
        assert!(health.admits(at(1550)));
        assert!(health.admits(at(1550 + PROBE_EXPIRES)), "a probe without report is given up");
        health.answered();
        assert!(health.admits(at(7000)) && health.admits(at(7000)));
    }
}
