//! A host with a control path and a memory in the place of its store, whose every answer is held against the description.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tollgate_shared::answer::{self, Answer};
use tollgate_shared::config::store::Remembered;
use tollgate_shared::control::{Control, Found, Step};
use tollgate_shared::exchange::{self, Decision};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::description::{self, Answered, Status};

pub(crate) struct Host {
    pub(crate) control: Control,
    pub(crate) policy: Arc<Policy>,
    pub(crate) local: Local<HeapShards>,
    /// What performs operations in its place; without one, the memory of the host does.
    store: Option<Memory<HeapShards>>,
    /// What every call to the store fails with.
    pub(crate) failure: Option<StoreError>,
    pub(crate) now: Timestamp,
    /// Method, path and status of every answer of the control path.
    pub(crate) seen: RefCell<BTreeSet<Status>>,
}

impl Host {
    pub(crate) fn new(policy: &Value) -> Self {
        let store = Memory::new(HeapShards::default(), HeapShards::COUNT);
        Self::of(policy, Some(store), |memory| {
            Local::with_store(memory, Remembered::at_most(100), 1, Id::from_bytes([1; 16]))
        })
    }

    pub(crate) fn without_store(policy: &Value) -> Self {
        Self::of(policy, None, |memory| {
            Local::without_store(memory, Remembered::at_most(100), Id::from_bytes([1; 16]))
        })
    }

    fn of(
        policy: &Value,
        store: Option<Memory<HeapShards>>,
        local: fn(Memory<HeapShards>) -> Local<HeapShards>,
    ) -> Self {
        let memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
        let variables = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
        let surroundings = Surroundings { variables: &variables, in_front: None, fetches: false };
        let policy = Policy::from_json_in(&surroundings, "", policy.to_string().as_bytes()).unwrap();
        Self {
            control: Control::new(None, TOKEN).unwrap(),
            policy: Arc::new(policy),
            local: local(memory),
            store,
            failure: None,
            now: Timestamp::from_millis(1_800_000_000_000),
            seen: RefCell::default(),
        }
    }

    /// Has the control path do something that it can, with the token.
    pub(crate) fn act(&mut self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        json_of(&answer)
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send(&Head::new("POST", &format!("/.tollgate/{path}")).authorized(), body.to_string().as_bytes())
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(&Head::new("GET", &format!("/.tollgate/{path}")).authorized(), b"")
    }

    /// What the control path answers.
    pub(crate) fn send(&mut self, head: &Head, body: &[u8]) -> Answer {
        let found = self.control.find(head).unwrap_or_else(|| panic!("{head:?} is for the upstream"));
        let answer = match found {
            Found::Answer(answer) => answer,
            Found::Asked(asked) => {
                let body = if asked.takes_body() { body } else { b"" };
                match asked.begin(&self.policy, &mut self.local, body, self.now) {
                    Step::Answer(answer) => answer,
                    Step::Call(call) => {
                        let outcomes = self.perform(call.batch());
                        self.now = self.now.plus(3);
                        let (answer, settle) = call.resume(&mut self.local, outcomes, self.now);
                        let failure = self.failure.take();
                        self.perform(&settle);
                        self.failure = failure;
                        answer
                    }
                }
            }
        };
        let path = head.target.strip_prefix("/.tollgate").unwrap().to_owned();
        Answered {
            method: &head.method,
            path: &path,
            status: answer.status,
            header: &|name| answer.headers.get(name),
            body: &answer.body,
        }
        .is_described();
        self.seen.borrow_mut().insert((head.method.clone(), path, answer.status));
        answer
    }

    /// The store performs operations even if its answer is lost then.
    fn perform(&mut self, ops: &[Op]) -> Outcomes {
        let store = self.store.as_mut().unwrap_or(self.local.memory());
        let outcomes: Outcomes = ops.iter().map(|op| store.perform(op, self.now)).collect();
        match &self.failure {
            None => self.local.store_answered(),
            Some(_) => self.local.store_failed(self.now),
        }
        outcomes.into_iter().map(|outcome| self.failure.clone().map_or(outcome, Err)).collect()
    }

    /// The status that a client gets who asks for something behind the host.
    pub(crate) fn visit(&mut self, head: &Head) -> u16 {
        let policy = Arc::clone(&self.policy);
        let mut step = exchange::begin(&policy, &mut self.local, head, self.now);
        let mut decision = loop {
            step = match step {
                exchange::Step::Decide(decision) => break decision,
                exchange::Step::Call(call) => {
                    let outcomes = self.perform(call.batch());
                    call.resume(&mut self.local, outcomes, self.now)
                }
                exchange::Step::Verify(_) | exchange::Step::FetchKeys | exchange::Step::Later(_) => {
                    panic!("the core verifies, has its keys, and nobody waits")
                }
            };
        };
        let ops = decision.settle();
        self.perform(&ops);
        match decision {
            Decision::Deny(denial) => answer::denial(&policy, &denial, self.now).status,
            Decision::Allow(mut admission) => {
                if let Some(completion) = admission.completion() {
                    let ops = completion.ended(&mut self.local, self.now);
                    self.perform(&ops);
                }
                200
            }
        }
    }
}

/// A request, of which field lines may repeat.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), fields: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    pub(crate) fn authorized(self) -> Self {
        self.with("authorization", &format!("Bearer {TOKEN}"))
    }
}

impl Request for Head {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.method.as_bytes());
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.target.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        self.fields.iter().filter(|(own, _)| own == name).for_each(|(_, value)| read(value.as_bytes()));
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, 1]))
    }
}

/// A token of Ada's that the policy lets in.
pub(crate) fn token(claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let input = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

pub(crate) fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

pub(crate) fn code_of(answer: &Answer) -> (u16, String) {
    (answer.status, json_of(answer)["error"]["code"].as_str().unwrap().to_owned())
}

/// A policy with one of everything, whose tokens live for an hour at most.
pub(crate) fn policy() -> Value {
    let mut policy = description::policy();
    policy["jwt"]["max_lifetime"] = json!("1h");
    policy
}

pub(crate) const TOKEN: &str = "correct-horse-battery-staple";
const SECRET: &str = "a secret of thirty-two bytes, or more";
