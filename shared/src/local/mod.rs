//! What a host remembers between requests. Everything here has a bound that its constructor states.

pub(crate) mod breakers;
mod denials;
mod health;
mod tokens;

use crate::config::ConfigError;
use crate::config::store::Remembered;
use crate::id::{Holder, Id, Reporter};
use crate::policy::Policy;
use crate::store::memory::Shards;
use crate::store::{Memory, Op};
use crate::time::Timestamp;

use breakers::Breakers;
pub(crate) use breakers::View;
use denials::Denials;
use health::StoreHealth;
use tokens::{Bearers, FetchedKeys, Recent};

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
    pub(crate) breakers: Breakers,
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
    /// `id` is drawn at random, its first half once for all threads of an instance.
    pub fn without_store(memory: Memory<S>, remembered: Remembered, id: Id) -> Self {
        Self {
            denials: Denials::new(remembered),
            store: None,
            memory,
            instances: 1,
            id,
            holders: 0,
            breakers: Breakers::default(),
            bearers: Bearers::new(remembered.at_most),
            keys: FetchedKeys::default(),
            unrevoked: Recent::new(remembered.at_most),
        }
    }

    /// With a store: the memory stands in while it fails, with a share of each quota that is one of `instances`.
    ///
    /// No two that share the store may have one `id`: it is drawn at random.
    pub fn with_store(memory: Memory<S>, remembered: Remembered, instances: u32, id: Id) -> Self {
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
        // Who signed with a key that is gone is not believed any longer.
        if self.keys.fetched(policy.jwt(), document, now)? {
            self.bearers.clear();
        }
        Ok(())
    }

    /// Forgets keys that could not be fetched again for a day, and who was known by them.
    pub(crate) fn forget_old_keys(&mut self, refresh_millis: u64, now: Timestamp) {
        if self.keys.forget_old(refresh_millis, now) {
            self.bearers.clear();
        }
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

    /// Notes what has been changed in the store, so that nothing that is known here contradicts it.
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
        self.store.as_ref().is_some_and(|health| health.is_open())
    }
}
