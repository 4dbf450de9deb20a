//! What guards promise to a fleet: several instances share a store, requests are under way at once, and any of them may die at any
//! point, with its call to the store performed or not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use sha2::Sha256;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Before, Call, Completion, Decision, Later, Reason, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, StoreError};
use tollgate_shared::time::Timestamp;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_promised_holds_whatever_dies(events in prop::collection::vec(event(), 1..120)) {
        let mut fleet = Fleet::new();
        for event in events {
            fleet.take(&event);
        }
    }
}

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// A request comes to an instance.
    Comes { instance: usize, kind: Kind, subject: u8 },
    /// The store performs the call of a request that waits, and the answer gets there, or does not.
    Performed { of: prop::sample::Index, answer: Fate },
    /// A request that waits for a lock asks for it again, or is given up.
    Wakes { of: prop::sample::Index, gives_up: bool },
    /// The upstream answers a request.
    Answered { of: prop::sample::Index, status: u16 },
    /// A request that is being served, or waits, dies with its client or its instance.
    Dies { of: prop::sample::Index, told: bool },
    /// Time passes.
    Passes(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Lock,
    /// A duplicate that would wait for the lock.
    Job,
    Dedup,
    Order,
    Logout,
    Api,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    /// The store has performed it, and nobody hears of it.
    Lost,
    /// The store has not.
    Unsent,
}

fn event() -> impl Strategy<Value = Event> {
    let kind =
        prop::sample::select(vec![Kind::Lock, Kind::Job, Kind::Dedup, Kind::Order, Kind::Logout, Kind::Api]);
    let fate = prop_oneof![8 => Just(Fate::Arrives), 1 => Just(Fate::Lost), 1 => Just(Fate::Unsent)];
    let any_of = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0..3_usize, kind, 0..2_u8).prop_map(|(instance, kind, subject)| Event::Comes { instance, kind, subject }),
        6 => (any_of(), fate).prop_map(|(of, answer)| Event::Performed { of, answer }),
        2 => (any_of(), prop::bool::weighted(0.1)).prop_map(|(of, gives_up)| Event::Wakes { of, gives_up }),
        3 => (any_of(), prop::sample::select(vec![200, 204, 409, 500])).prop_map(|(of, status)| Event::Answered { of, status }),
        1 => (any_of(), any::<bool>()).prop_map(|(of, told)| Event::Dies { of, told }),
        1 => prop_oneof![Just(1), Just(500), Just(LEASE - 1), Just(LEASE), Just(TTL)].prop_map(Event::Passes),
    ]
}

/// Some instances and their store.
struct Fleet {
    instances: Vec<Local<HeapShards>>,
    store: Memory<HeapShards>,
    now: Timestamp,
    waiting: Vec<Waiting<Call>>,
    later: Vec<Waiting<Later>>,
    served: Vec<Served>,
    /// When the first of each dedup key was let through.
    firsts: BTreeMap<u8, Timestamp>,
    /// The same of jobs.
    jobs: BTreeMap<u8, Timestamp>,
    /// Tokens whose logout was acknowledged.
    out: Vec<u8>,
    /// Orders that were answered with what is kept, and when.
    answered: BTreeMap<u8, Timestamp>,
}

struct Waiting<C> {
    instance: usize,
    kind: Kind,
    subject: u8,
    call: C,
    since: Timestamp,
}

/// A request at the upstream.
struct Served {
    instance: usize,
    kind: Kind,
    subject: u8,
    since: Timestamp,
    completion: Option<Completion>,
}

impl Fleet {
    fn new() -> Self {
        let memory = || Memory::new(HeapShards::default(), 8);
        let instance =
            |n: u8| Local::with_store(memory(), Remembered::at_most(100), 3, Id::from_bytes([n; 16]));
        Self {
            instances: (1..=3).map(instance).collect(),
            store: memory(),
            now: Timestamp::from_millis(1_800_057_600_000),
            waiting: Vec::new(),
            later: Vec::new(),
            served: Vec::new(),
            firsts: BTreeMap::new(),
            jobs: BTreeMap::new(),
            out: Vec::new(),
            answered: BTreeMap::new(),
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Comes { instance, kind, subject } => {
                let step = begin(
                    &POLICY,
                    &mut self.instances[*instance],
                    &Head { kind: *kind, subject: *subject },
                    self.now,
                );
                self.goes_on(*instance, *kind, *subject, step);
            }
            Event::Performed { of, answer } if !self.waiting.is_empty() => {
                let Waiting { instance, kind, subject, call, since } =
                    self.waiting.swap_remove(of.index(self.waiting.len()));
                // Hosts wait for the store for so long.
                let answer = if since.plus(TIMEOUT) < self.now { &Fate::Lost } else { answer };
                let perform = |op: &Op| match answer {
                    Fate::Unsent => Err(StoreError::Unreachable),
                    _ => self.store.perform(op, self.now),
                };
                let outcomes: Vec<Result<Outcome, StoreError>> = call.batch().iter().map(perform).collect();
                let heard = match answer {
                    Fate::Lost => call.batch().iter().map(|_| Err(StoreError::Timeout)).collect(),
                    _ => outcomes,
                };
                let step = call.resume(&mut self.instances[instance], heard, self.now);
                self.goes_on(instance, kind, subject, step);
            }
            Event::Wakes { of, gives_up } if !self.later.is_empty() => {
                let Waiting { instance, kind, subject, call: later, .. } =
                    self.later.swap_remove(of.index(self.later.len()));
                let local = &mut self.instances[instance];
                let step = if *gives_up {
                    Step::Decide(later.give_up(local, self.now))
                } else {
                    later.resume(local, self.now)
                };
                self.goes_on(instance, kind, subject, step);
            }
            Event::Answered { of, status } if !self.served.is_empty() => {
                let served = self.served.swap_remove(of.index(self.served.len()));
                self.answers(served, *status);
            }
            Event::Dies { of, told } if !self.served.is_empty() => {
                let served = self.served.swap_remove(of.index(self.served.len()));
                if let (true, Some(completion)) = (*told, served.completion) {
                    let ops = completion.ended(&mut self.instances[served.instance], self.now);
                    self.settle(&ops);
                }
            }
            Event::Passes(millis) => self.now = self.now.plus(*millis),
            _ => {}
        }
    }

    fn goes_on(&mut self, instance: usize, kind: Kind, subject: u8, step: Step) {
        let since = self.now;
        match step {
            Step::Call(call) => self.waiting.push(Waiting { instance, kind, subject, call, since }),
            Step::Later(later) => {
                assert!(kind == Kind::Job && (1..=750).contains(&later.after()), "{later:?}");
                self.later.push(Waiting { instance, kind, subject, call: later, since });
            }
            Step::Verify(_) | Step::FetchKeys => panic!("the core verifies, and has its keys"),
            Step::Decide(mut decision) => {
                let ops = decision.settle();
                self.settle(&ops);
                if let Decision::Allow(admission) = &mut decision {
                    let completion = admission.completion();
                    self.is_let_through(kind, subject);
                    self.served.push(Served { instance, kind, subject, since, completion });
                } else if let Decision::Deny(denial) = &decision {
                    assert_ne!(*denial.reason(), Reason::Limits, "there are none");
                }
            }
        }
    }

    /// A request of this kind may be let through now.
    fn is_let_through(&mut self, kind: Kind, subject: u8) {
        match kind {
            Kind::Lock => {
                let held = |served: &&Served| {
                    served.kind == kind && served.subject == subject && self.now < served.since.plus(LEASE)
                };
                assert_eq!(self.served.iter().filter(held).count(), 0, "two hold one lock");
            }
            Kind::Job => {
                let known = self.jobs.insert(subject, self.now);
                // It is the first since before it waited: as long as it may, for a pause more, and for the store.
                let since = TTL - WAIT - 1000 - TIMEOUT;
                assert!(known.is_none_or(|first| first.plus(since) <= self.now), "two are the first");
                let held = |served: &&Served| served.kind == kind && self.now < served.since.plus(LEASE);
                assert_eq!(self.served.iter().filter(held).count(), 0, "two hold one lock");
            }
            Kind::Dedup => {
                let known = self.firsts.insert(subject, self.now);
                assert!(known.is_none_or(|first| first.plus(TTL) <= self.now), "two are the first");
            }
            Kind::Order => {
                let known = self.answered.get(&subject);
                assert!(known.is_none_or(|at| at.plus(TTL) <= self.now), "it was carried out and answered");
                let held = |served: &&Served| {
                    served.kind == kind && served.subject == subject && self.now < served.since.plus(LEASE)
                };
                assert_eq!(self.served.iter().filter(held).count(), 0, "two are carried out at once");
            }
            Kind::Logout | Kind::Api => assert!(!self.out.contains(&subject), "who is out is let in"),
        }
    }

    fn answers(&mut self, served: Served, status: u16) {
        let Served { instance, kind, subject, since, completion } = served;
        let Some(mut completion) = completion else { return };
        let local = &mut self.instances[instance];
        let acknowledged = match completion.before_answer(local, status, self.now) {
            Before::Pass | Before::Fail => false,
            Before::Ask(revoking) => {
                let outcomes: Vec<_> =
                    revoking.as_ref().iter().map(|op| self.store.perform(op, self.now)).collect();
                revoking.resume(local, outcomes, self.now)
            }
        };
        if acknowledged {
            self.out.push(subject);
        }
        let ops = completion.responded(local, status, self.now);
        if completion.records() {
            completion.record_body(b"answer");
            completion.record_end();
            // What comes after the lease has ended may be another one's to answer.
            if kind == Kind::Order && self.now < since.plus(LEASE) {
                self.answered.insert(subject, self.now);
            }
        }
        self.settle(&ops);
        let ops = completion.ended(&mut self.instances[instance], self.now);
        self.settle(&ops);
    }

    fn settle(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| drop(self.store.perform(op, self.now)));
    }
}

struct Head {
    kind: Kind,
    subject: u8,
}

impl Request for Head {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"POST");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(match self.kind {
            Kind::Lock => b"/lock",
            Kind::Job => b"/job",
            Kind::Dedup => b"/dedup",
            Kind::Order => b"/order",
            Kind::Logout => b"/logout",
            Kind::Api => b"/api",
        });
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        match name {
            "x-subject" | "idempotency-key" => read(self.subject.to_string().as_bytes()),
            "authorization" => read(format!("Bearer {}", TOKENS[usize::from(self.subject)]).as_bytes()),
            _ => {}
        }
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }
}

static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
    let policy = r#"{
        "jwt": { "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "SECRET" } }] },
        "routes": [
            { "name": "lock", "match": { "path": "/lock" }, "lock": { "key": ["header:x-subject"], "lease": "2s" } },
            { "name": "job", "match": { "path": "/job" },
              "dedup": { "key": ["header:x-subject"], "ttl": "10s", "on_store_error": "deny" },
              "lock": { "key": ["const:all"], "lease": "2s", "wait": "3s" } },
            { "name": "dedup", "match": { "path": "/dedup" },
              "dedup": { "key": ["header:x-subject"], "ttl": "10s", "on_store_error": "deny" } },
            { "name": "order", "match": { "path": "/order" },
              "idempotency": { "key": ["const:all"], "ttl": "10s", "lease": "2s" } },
            { "name": "logout", "match": { "path": "/logout" }, "revocation": {}, "revokes": "token" },
            { "name": "api", "match": { "path": "/api" }, "revocation": {} } ] }"#;
    let variables = |_: &str| Some(SECRET.to_owned());
    let surroundings = Surroundings { variables: &variables, in_front: None, fetches: false };
    Arc::new(Policy::from_json_in(&surroundings, "", policy.as_bytes()).unwrap())
});

/// One for each subject, valid for ten years of which a revocation is kept for one.
static TOKENS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = |subject: u8| {
        let claims = format!(r#"{{"jti":"{subject}","exp":1800400000}}"#);
        let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(&claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    };
    (0..2).map(token).collect()
});

const SECRET: &str = "a secret of at least 32 bytes for tests";
/// Milliseconds of locks and reservations.
const LEASE: u64 = 2000;
/// Milliseconds that an answer of the store is waited for.
const TIMEOUT: u64 = 1000;
/// Milliseconds that a job waits for its lock.
const WAIT: u64 = 3000;
/// Milliseconds of marks and answers.
const TTL: u64 = 10_000;
