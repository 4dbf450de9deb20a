//! Group commit: requests that wait, calls under way, and what becomes of their members.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tollgate_shared::answer::{self, Fields};
use tollgate_shared::config::store::StoreClock;
use tollgate_shared::exchange::{Call, Decision, Step};
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::{Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::config::Store;
use crate::host;
use crate::metrics::Metrics;
use crate::shards::SharedShards;

/// What one worker thread shares between its root and its requests.
#[derive(Debug)]
pub(crate) struct Committer {
    root: u32,
    pub(crate) policy: Arc<Policy>,
    pub(crate) local: Local<SharedShards>,
    pub(crate) metrics: Metrics,
    store: Option<Store>,
    queue: VecDeque<Member>,
    calls: BTreeMap<u32, Sent>,
    /// How many operations the latest call carried.
    latest: usize,
    /// Decided, but not told yet.
    decided: VecDeque<Decided>,
    /// Rings the root; `None` without a store.
    bell: Option<u32>,
    rung: bool,
    ticking: bool,
    fallback: bool,
}

/// What a request's context and the queue both know of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The context is gone: its client has left.
    pub(crate) gone: Cell<bool>,
    /// A refusal is told in gRPC's words.
    pub(crate) grpc: Cell<bool>,
    /// Header fields for the response.
    pub(crate) fields: RefCell<Fields>,
}

/// Somebody whose operations wait for the store.
#[derive(Debug)]
enum Member {
    /// A paused request, waiting since `queued` by the host's clock.
    Request { context: u32, call: Call, slot: Rc<Slot>, queued: Timestamp },
    /// Operations that nobody waits for, left over by a decision made at `at`.
    Settle { ops: Vec<Op>, at: Timestamp },
}

impl AsRef<[Op]> for Member {
    fn as_ref(&self) -> &[Op] {
        match self {
            Self::Request { call, .. } => call.batch(),
            Self::Settle { ops, .. } => ops,
        }
    }
}

/// A paused request whose decision is made.
#[derive(Debug)]
struct Decided {
    context: u32,
    slot: Rc<Slot>,
    decision: Decision,
    at: Timestamp,
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
    pub(crate) fn new(
        root: u32,
        policy: Policy,
        store: Option<Store>,
        denials: usize,
        metrics: Metrics,
    ) -> Self {
        let memory = tollgate_shared::store::Memory::new(SharedShards::create(), crate::shards::COUNT);
        let local = match &store {
            Some(store) => Local::with_store(memory, denials, store.replicas),
            None => Local::without_store(memory, denials),
        };
        let bell = store.as_ref().and_then(|_| host::register_bell());
        Self {
            root,
            policy: Arc::new(policy),
            local,
            metrics,
            store,
            queue: VecDeque::new(),
            calls: BTreeMap::new(),
            latest: 0,
            decided: VecDeque::new(),
            bell,
            rung: false,
            ticking: false,
            fallback: false,
        }
    }

    /// Queues the request of `context`. It is resumed or refused later, by way of the root.
    ///
    /// Gives the decision back at once when the request cannot wait: the queue is full, or the root cannot be woken.
    pub(crate) fn submit(&mut self, context: u32, call: Call, slot: &Rc<Slot>) -> Option<Decision> {
        if self.queue.len() >= MAX_QUEUE || !self.ring() {
            return Some(self.fall_back(call, &StoreError::Busy));
        }
        // Only a clock of the tests' choosing differs from the host's.
        let queued = if cfg!(feature = "test-clock") { host::now() } else { call.began() };
        self.queue.push_back(Member::Request { context, call, slot: Rc::clone(slot), queued });
        None
    }

    /// Queues what a decision leaves to tell the store.
    pub(crate) fn settle(&mut self, decision: &mut Decision, now: Timestamp) {
        let ops = decision.settle();
        if ops.is_empty() {
            return;
        }
        if self.store.is_none() {
            for op in &ops {
                let _ = self.local.memory().perform(op, now);
            }
        } else if self.queue.len() < MAX_QUEUE && !self.local.store_is_open() {
            self.queue.push_back(Member::Settle { ops, at: now });
            self.ring();
        }
    }

    /// Has the root woken at the next turn; whether it will be.
    fn ring(&mut self) -> bool {
        self.rung = self.rung || self.bell.is_some_and(host::ring);
        self.rung
    }

    /// The bell rang: every request of the last turn has queued.
    pub(crate) fn awake(&mut self, bell: u32, now: Timestamp) {
        host::silence(bell);
        self.rung = false;
        self.tell();
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
            let (batch, timeout) = (store.batch, millis(store.timeout));
            let mut members = Vec::with_capacity(self.queue.len().min(batch));
            let mut operations = 0;
            while let Some(member) = self.queue.pop_front() {
                match &member {
                    Member::Request { slot, .. } if slot.gone.get() => {
                        self.metrics.abandoned();
                        continue;
                    }
                    _ => {}
                }
                operations += member.as_ref().len();
                members.push(member);
                if operations >= batch {
                    break;
                }
            }
            let waiting = members.iter().filter(|member| matches!(member, Member::Request { .. }));
            let oldest = waiting.map(Member::queued).min().unwrap_or(now);
            if !members.is_empty() {
                self.post(Pipeline::new(members), oldest.plus(timeout), now);
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
                self.latest = pipeline.members().iter().map(|member| member.as_ref().len()).sum();
                self.metrics.called(self.latest);
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
        let Some(Sent { mut pipeline, at, deadline }) = self.calls.remove(&number) else { return };
        self.metrics.answered(now.since(at));
        let progress = if fields == 0 {
            // The host does not say why; a call that ran out its time was not cut off.
            let in_time = now < deadline;
            pipeline.fail(if in_time { &StoreError::Unreachable } else { &StoreError::Timeout })
        } else {
            let (status, body) = host::response(body_size);
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
                log::warn!("{error}; limits follow on_store_error");
                self.local.store_failed(now);
            }
        }
        self.note_fallback();
        for (member, outcomes) in pipeline.finish() {
            let Member::Request { context, call, slot, .. } = member else { continue };
            let decision = self.resume(call, outcomes, now);
            self.decided.push_back(Decided { context, slot, decision, at: now });
        }
        self.tell();
    }

    /// Tells requests what became of them, a few in each event.
    ///
    /// The host resumes them one inside the other when the event ends: what the first one's response causes, such as our own
    /// look at its header fields, resumes the second. A whole batch at once would pile up on the host's stack.
    fn tell(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(Decided { context, slot, decision, at }) = self.decided.pop_front() else { return };
            self.release(context, &slot, decision, at);
        }
        while !self.decided.is_empty() && !self.ring() {
            // Nobody will wake us: better deep than never.
            if let Some(Decided { context, slot, decision, at }) = self.decided.pop_front() {
                self.release(context, &slot, decision, at);
            }
        }
    }

    /// Time passes: who has waited long enough in the queue is decided without the store.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let Some(timeout) = self.store.as_ref().map(|store| millis(store.timeout)) else { return };
        let late = |member: &Member| member.queued().plus(timeout) <= now;
        while self.queue.front().is_some_and(late) {
            if let Some(Member::Request { context, call, slot, .. }) = self.queue.pop_front() {
                let decision = self.fall_back(call, &StoreError::Timeout);
                self.decided.push_back(Decided { context, slot, decision, at: now });
            }
        }
        self.tell();
        host::enter(self.root);
        if self.queue.is_empty() {
            self.ticking = false;
            host::tick(Duration::ZERO);
        }
    }

    /// Ticks while somebody waits for a call that cannot be sent yet, and once more.
    fn watch(&mut self) {
        if !self.ticking && !self.queue.is_empty() {
            self.ticking = true;
            host::tick(TICK);
        }
    }

    fn release(&mut self, context: u32, slot: &Slot, mut decision: Decision, now: Timestamp) {
        let there = !slot.gone.get() && self.answer(context, slot, &decision, now);
        if !there {
            self.metrics.abandoned();
        }
        self.settle(&mut decision, now);
    }

    /// Lets a request go on or refuses it; `false` when it is gone.
    fn answer(&self, context: u32, slot: &Slot, decision: &Decision, now: Timestamp) -> bool {
        self.metrics.decided(decision);
        match decision {
            Decision::Allow(report) => {
                slot.fields.replace(answer::fields(&self.policy, report, now));
                host::release(context, None, false)
            }
            Decision::Deny(denial) => {
                host::release(context, Some(&answer::denial(&self.policy, denial, now)), slot.grpc.get())
            }
        }
    }

    fn fall_back(&mut self, call: Call, error: &StoreError) -> Decision {
        let now = host::resumption_time(call.began());
        let outcomes = all_failed(&call, error);
        self.resume(call, outcomes, now)
    }

    fn resume(&mut self, call: Call, outcomes: Outcomes, now: Timestamp) -> Decision {
        let mut step = call.resume(&mut self.local, outcomes, now);
        loop {
            match step {
                Step::Decide(decision) => return decision,
                // Limits need one call; a second stage would queue again here.
                Step::Call(call) => {
                    let outcomes = all_failed(&call, &StoreError::Busy);
                    step = call.resume(&mut self.local, outcomes, now);
                }
            }
        }
    }

    fn note_fallback(&mut self) {
        let active = self.local.store_is_open();
        if active != self.fallback {
            self.fallback = active;
            self.metrics.fallback(active);
            if active {
                log::error!(
                    "the store failed repeatedly and is left alone for now; limits follow on_store_error"
                );
            } else {
                log::info!("the store answers again");
            }
        }
    }
}

impl Member {
    fn queued(&self) -> Timestamp {
        match self {
            Self::Request { queued, .. } => *queued,
            Self::Settle { at, .. } => *at,
        }
    }

    fn began(&self) -> Timestamp {
        match self {
            Self::Request { call, .. } => call.began(),
            Self::Settle { at, .. } => *at,
        }
    }
}

/// The outcomes of a call that failed as a whole.
fn all_failed(call: &Call, error: &StoreError) -> Outcomes {
    call.batch().iter().map(|_| Err(error.clone())).collect()
}

fn resumption_time(pipeline: &Pipeline<Member>) -> Timestamp {
    let began = pipeline.members().iter().map(Member::began).max();
    host::resumption_time(began.unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Most requests that wait on one worker thread; more are decided as if the store had failed.
const MAX_QUEUE: usize = 8192;
/// Most requests that are told in one event.
const AT_ONCE: usize = 8;
/// How exactly the waiting time in the queue is kept.
const TICK: Duration = Duration::from_millis(5);
