//! Group commit: what waits for the store leaves in shared calls, and each member is told what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tollgate_shared::config::store::StoreClock;
use tollgate_shared::control::Control;
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::config::{Plugin, Store};
use crate::exchange::Told;
use crate::host;
use crate::keys::Keys;
use crate::later::Sleeper;
use crate::metrics::Metrics;
use crate::queue::{Member, Queue};
use crate::shards::{self, SharedShards};

/// What commits the requests of one worker thread.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) root: u32,
    pub(crate) policy: Arc<Policy>,
    pub(crate) local: Local<SharedShards>,
    pub(crate) metrics: Metrics,
    store: Option<Store>,
    pub(crate) control: Option<Control>,
    /// `None` where the policy has all keys in it.
    pub(crate) keys: Option<Keys>,
    pub(crate) read_bodies: bool,
    pub(crate) queue: Queue,
    pub(crate) sleepers: Vec<Sleeper>,
    calls: BTreeMap<u32, Sent>,
    /// How many members the latest call carried.
    latest: usize,
    /// Decided, but not told yet.
    pub(crate) decided: VecDeque<Told>,
    /// Rings the root; `None` where nothing is asked of anybody.
    bell: Option<u32>,
    rung: bool,
    ticking: bool,
    fallback: bool,
}

/// A call under way.
#[derive(Debug)]
struct Sent {
    pipeline: Pipeline<Member>,
    at: Timestamp,
    /// When the member that waited longest has waited enough.
    deadline: Timestamp,
}

impl Committer {
    /// `id` is drawn at random.
    pub(crate) fn new(root: u32, plugin: Plugin, id: Id) -> Self {
        let Plugin { policy, store, control, jwks, read_bodies, remembered } = plugin;
        let memory = Memory::new(SharedShards::create(), shards::COUNT);
        let local = match &store {
            Some(store) => Local::with_store(memory, remembered, store.replicas, id),
            None => Local::without_store(memory, remembered, id),
        };
        let asks = store.is_some() || jwks.is_some();
        let bell = if asks { host::register_bell(id) } else { None };
        Self {
            root,
            metrics: Metrics::define(&policy),
            policy: Arc::new(policy),
            local,
            store,
            control,
            keys: jwks.map(Keys::new),
            read_bodies,
            queue: Queue::default(),
            sleepers: Vec::new(),
            calls: BTreeMap::new(),
            latest: 0,
            decided: VecDeque::new(),
            bell,
            rung: false,
            ticking: false,
            fallback: false,
        }
    }

    /// Whether somebody who queues now is heard: there is room, and the root will wake.
    pub(crate) fn has_room(&mut self) -> bool {
        !self.queue.is_full() && self.ring()
    }

    /// Queues what nobody waits for.
    pub(crate) fn settle(&mut self, ops: Vec<Op>, now: Timestamp) {
        if ops.is_empty() {
            return;
        }
        if self.store.is_none() {
            for op in &ops {
                let _ = self.local.memory().perform(op, now);
            }
        } else if !self.queue.is_full() && !self.local.store_is_open() {
            self.queue.push(Member::Settle { ops, at: now });
            self.ring();
        }
    }

    /// Has the root woken at the next turn; whether it will be.
    pub(crate) fn ring(&mut self) -> bool {
        self.rung = self.rung || self.bell.is_some_and(host::ring);
        self.rung
    }

    /// The bell rang: every request of the last turn has queued.
    pub(crate) fn awake(&mut self, bell: u32, now: Timestamp) {
        host::silence(bell);
        self.rung = false;
        self.tell();
        self.fetch_keys();
        self.send(now);
        host::enter(self.root);
    }

    /// Sends what is queued, as far as calls may be under way.
    ///
    /// While one is, the next waits until half as many have gathered as the latest carried, or the call comes back: under load
    /// calls stay few and full, and a lone request never waits for others.
    fn send(&mut self, now: Timestamp) {
        while let Some(store) = &self.store {
            let gathered = self.calls.is_empty() || self.queue.len() >= self.latest / 2;
            if self.queue.is_empty() || self.calls.len() >= store.calls_in_flight || !gathered {
                break;
            }
            let timeout = millis(store.timeout);
            let (members, abandoned) = self.queue.take(store.batch);
            self.metrics.abandoned(abandoned);
            let oldest = members.iter().filter_map(Member::waiting).map(|waiting| waiting.queued).min();
            if !members.is_empty() {
                self.post(Pipeline::new(members), oldest.unwrap_or(now).plus(timeout), now);
            }
        }
        self.watch();
    }

    fn post(&mut self, mut pipeline: Pipeline<Member>, deadline: Timestamp, now: Timestamp) {
        let Some(store) = &self.store else { return };
        // A host's clock that is set back must not make anybody wait longer.
        let left = deadline.since(now).min(millis(store.timeout));
        let clock = match store.clock {
            StoreClock::Store => Clock::Store,
            StoreClock::Host => Clock::Host(resumption_time(&pipeline)),
        };
        let endpoint = store.endpoints.choose();
        let call = if left == 0 {
            None
        } else {
            let (authorization, body) = (&store.authorization, pipeline.body(clock));
            let timeout = Duration::from_millis(left);
            // Calls that belonged to a request would die with it.
            host::enter(self.root);
            host::post(&endpoint.cluster, &endpoint.authority, authorization, &body, timeout)
        };
        match call {
            Some(number) => {
                self.latest = pipeline.members().len();
                self.metrics.called(pipeline.members().iter().map(|member| member.as_ref().len()).sum());
                self.calls.insert(number, Sent { pipeline, at: now, deadline });
            }
            None => {
                pipeline.fail(if left == 0 { &StoreError::Timeout } else { &StoreError::Unreachable });
                self.finish(pipeline);
            }
        }
    }

    /// Call number `number` came back; without header fields if it failed.
    pub(crate) fn answered(&mut self, number: u32, fields: usize, body_size: usize, now: Timestamp) {
        let Some(Sent { mut pipeline, at, deadline }) = self.calls.remove(&number) else {
            return self.keys_answered(number, fields, body_size);
        };
        self.metrics.answered(now.since(at));
        let progress = if fields == 0 {
            // The host does not say why; a call that ran out its time was not cut off.
            let in_time = now < deadline;
            pipeline.fail(if in_time { &StoreError::Unreachable } else { &StoreError::Timeout })
        } else {
            let (status, body) = host::response(body_size.min(MAX_RESPONSE));
            pipeline.receive(status, &body)
        };
        match progress {
            Progress::Again => self.post(pipeline, deadline, now),
            Progress::Done => self.finish(pipeline),
        }
        self.send(now);
        host::enter(self.root);
    }

    /// Tells every member of a pipeline what became of it.
    fn finish(&mut self, pipeline: Pipeline<Member>) {
        let now = resumption_time(&pipeline);
        match pipeline.failure() {
            None => self.local.store_answered(),
            Some(error) => {
                self.metrics.failed(error);
                log::warn!("{error}; limits and guards follow on_store_error");
                self.local.store_failed(now);
            }
        }
        self.note_fallback();
        let mut again = Vec::new();
        for (member, outcomes) in pipeline.finish() {
            again.extend(self.go_on(member, outcomes, now));
        }
        self.queue.push_again(again);
        self.tell();
    }

    /// Time passes: who has waited long enough in the queue is decided without the store.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        if let Some(timeout) = self.store.as_ref().map(|store| millis(store.timeout)) {
            for member in self.queue.take_late(timeout, now) {
                self.give_up(member, &StoreError::Timeout);
            }
        }
        // After that: what wakes queues later than `now`, which would look like a clock that was set back.
        self.wake(now);
        self.tell();
        host::enter(self.root);
        if !self.is_watched() {
            self.ticking = false;
            host::tick(Duration::ZERO);
        }
    }

    /// Somebody waits for a call that cannot be sent yet, or for a lock.
    fn is_watched(&self) -> bool {
        !self.queue.is_empty() || !self.sleepers.is_empty()
    }

    /// Ticks while that is so, and once more.
    pub(crate) fn watch(&mut self) {
        if !self.ticking && self.is_watched() {
            self.ticking = true;
            host::tick(TICK);
        }
    }

    fn note_fallback(&mut self) {
        let active = self.local.store_is_open();
        if active != self.fallback {
            self.fallback = active;
            self.metrics.fallback(active);
            if active {
                log::error!(
                    "the store failed repeatedly and is left alone for now; limits and guards follow on_store_error"
                );
            } else {
                log::info!("the store answers again");
            }
        }
    }
}

fn resumption_time(pipeline: &Pipeline<Member>) -> Timestamp {
    let latest = pipeline.members().iter().map(Member::time).max();
    host::resumption_time(latest.unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Most bytes of the store's answer that are read: over a hundred times the largest answer to a full pipeline.
const MAX_RESPONSE: usize = 16 << 20;
/// How exactly the waiting time in the queue is kept.
const TICK: Duration = Duration::from_millis(5);
