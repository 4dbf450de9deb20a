//! Text as what happens to a host with guards of every kind: requests, answers to them, operators, a store that fails.
//!
//! ```text
//! +250 POST /order        ─ milliseconds since what happened before; a request, or one of the control path
//! x-client: one           ─ its field lines
//! ={"id": 1}              ─ its body, line by line
//!                         ─ an empty line, and what happens next
//! +0 ends 0 201           ─ the upstream answers the first of those whom it works for; fields and a body as above
//! +0 leaves 0             ─ its client leaves
//! +0 dies 0               ─ nobody knows of it any more
//! +0 store down           ─ from now on the store cannot be reached; `lost`: its answers get lost; `works`
//! ```
//!
//! Of all who are let through to a lock, one at a time has it.

use std::sync::{Arc, LazyLock};

use tollgate_shared::config::store::Remembered;
use tollgate_shared::control::{Control, DEFAULT_PREFIX, Found, MAX_BODY, Step as ControlStep};
use tollgate_shared::exchange::{Before, Completion, Decision, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::store::{Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};

use crate::check;
use crate::head::Head;

/// Has happen what `data` says.
pub fn run(data: &[u8]) {
    let mut host = Host::new();
    let mut lines = data.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for _ in 0..EVENTS {
        let Some(line) = lines.by_ref().find(|line| !line.is_empty()) else { break };
        host.takes(line, lines.by_ref().take_while(|line| !line.is_empty()));
    }
}

/// A host, its store, and whom the upstream works for.
struct Host {
    policy: Arc<Policy>,
    control: Control,
    local: Local<HeapShards>,
    store: Memory<HeapShards>,
    state: StoreState,
    now: Timestamp,
    served: Vec<Served>,
    /// Locks of whom nobody knows any more.
    left: Vec<Lock>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreState {
    Works,
    /// It is not asked.
    Down,
    /// It is, but nobody hears the answer.
    Lost,
}

/// Somebody who was let through.
struct Served {
    completion: Option<Completion>,
    lock: Option<Lock>,
}

/// A lock, and until when it is held at most.
#[derive(Clone)]
struct Lock(String, Timestamp);

impl Host {
    fn new() -> Self {
        Self {
            policy: Arc::clone(&POLICY),
            control: Control::new(None, TOKEN).expect("a token of ours"),
            local: Local::with_store(check::memory(), Remembered::at_most(4), 2, Id::default()),
            store: check::memory(),
            state: StoreState::Works,
            now: Timestamp::from_millis(1_800_000_000_000),
            served: Vec::new(),
            left: Vec::new(),
        }
    }

    fn takes<'a>(&mut self, line: &[u8], rest: impl Iterator<Item = &'a [u8]>) {
        let mut words = line.splitn(3, |b| *b == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (time, what, which) = (word(), word(), word());
        self.now = self.now.plus(number(time) % LONGEST_WAIT);
        let mut head = Head { method: what.into(), target: which.into(), ..Head::new("", "", "") };
        for line in rest {
            if let Some(body) = line.strip_prefix(b"=") {
                head.body.extend_from_slice(body);
                continue;
            }
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            head.headers.push((name, line.get(colon + 1..).unwrap_or_default().trim_ascii().into()));
        }
        match what {
            b"ends" => self.ends(which, &head),
            b"leaves" => self.leaves(which),
            b"dies" => {
                let of = self.one_of(which);
                self.left.extend(of.and_then(|served| served.lock));
            }
            b"store" => {
                self.state = match which {
                    b"down" => StoreState::Down,
                    b"lost" => StoreState::Lost,
                    _ => StoreState::Works,
                };
            }
            _ => match self.control.find(&head) {
                Some(found) => self.controls(found, &head),
                None => self.asks(&head),
            },
        }
    }

    /// A request for the upstream.
    fn asks(&mut self, head: &Head) {
        let mut lock = None;
        let mut step = begin(&self.policy, &mut self.local, head, self.now);
        let mut decision = loop {
            step = match step {
                Step::Decide(decision) => break decision,
                Step::Call(call) => {
                    let asked = call.batch().iter().find_map(|op| match op {
                        Op::Acquire { key, lease, fenced: true, .. } => {
                            Some((key.as_str().to_owned(), *lease))
                        }
                        _ => None,
                    });
                    lock = asked.or(lock);
                    let outcomes = self.perform(call.batch());
                    if outcomes.iter().all(Result::is_err) {
                        self.local.store_failed(self.now);
                    } else {
                        self.local.store_answered();
                    }
                    call.resume(&mut self.local, outcomes, self.now)
                }
                Step::Later(later) => {
                    assert!((1..=750).contains(&later.after()));
                    self.now = self.now.plus(later.after());
                    later.resume(&mut self.local, self.now)
                }
                step @ (Step::Verify(_) | Step::FetchKeys) => panic!("the core has its keys: {step:?}"),
            };
        };
        check::decision(&self.policy, &decision, self.now, true);
        let ops = decision.settle();
        self.settle(&ops);
        assert!(decision.settle().is_empty(), "settled twice");
        if let Decision::Allow(mut admission) = decision {
            let degraded = admission.report().degraded().next().is_some();
            // Without the store each instance has locks of its own.
            let lock = lock.filter(|_| !degraded).map(|(key, lease)| self.locked(key, lease));
            self.served.push(Served { completion: admission.completion(), lock });
        }
    }

    /// Somebody is let through to a lock.
    fn locked(&mut self, key: String, lease: Span) -> Lock {
        let now = self.now;
        let mut held = self.served.iter().filter_map(|served| served.lock.as_ref()).chain(&self.left);
        assert!(held.all(|Lock(other, until)| *other != key || *until <= now), "two hold {key}");
        Lock(key, now.plus(lease.as_millis()))
    }

    /// The upstream answers.
    fn ends(&mut self, which: &[u8], answer: &Head) {
        let Some(Served { completion: Some(mut completion), .. }) = self.one_of(which) else { return };
        let status = which.split(|b| *b == b' ').nth(1).map(number).and_then(|status| status.try_into().ok());
        let status: u16 = status.filter(|status| (100..600).contains(status)).unwrap_or(200);
        let confirms = completion.confirms();
        let passes = match completion.before_answer(&mut self.local, status, self.now) {
            Before::Pass => true,
            Before::Fail => false,
            Before::Ask(revoking) => {
                let outcomes = self.perform(revoking.as_ref());
                revoking.resume(&mut self.local, outcomes, self.now)
            }
        };
        assert!(passes || confirms, "only what confirms can be refused");
        let ops = completion.responded(&mut self.local, status, self.now);
        self.settle(&ops);
        if completion.records() {
            assert!(completion.lasts());
            // What is kept is given again to the letter, so what is checked of answers has to hold of these.
            let is_plain = |name: &str, value: &[u8]| {
                let once = answer.lines(name).count() == 1;
                let name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
                once && name && !value.is_empty() && value.iter().all(|b| matches!(b, b' '..=b'~'))
            };
            for (name, value) in answer.headers.iter().filter(|(name, value)| is_plain(name, value)) {
                completion.record_field(name, value);
            }
            completion.record_body(&answer.body);
            completion.record_end();
        }
        let ops = completion.ended(&mut self.local, self.now);
        self.settle(&ops);
    }

    fn leaves(&mut self, which: &[u8]) {
        if let Some(Served { completion: Some(completion), .. }) = self.one_of(which) {
            let ops = completion.ended(&mut self.local, self.now);
            self.settle(&ops);
        }
    }

    /// A request of the control path.
    fn controls(&mut self, found: Found, head: &Head) {
        let answer = match found {
            Found::Answer(answer) => answer,
            Found::Asked(asked) => {
                let read = if asked.takes_body() { head.body.len().min(MAX_BODY + 1) } else { 0 };
                match asked.begin(&self.policy, &mut self.local, &head.body[..read], self.now) {
                    ControlStep::Answer(answer) => answer,
                    ControlStep::Call(call) => {
                        let outcomes = self.perform(call.batch());
                        let (answer, ops) = call.resume(&mut self.local, outcomes, self.now);
                        self.settle(&ops);
                        answer
                    }
                }
            }
        };
        check::fields(&answer.headers);
        assert!([200, 400, 401, 404, 405, 409, 413, 422, 503].contains(&answer.status), "{answer:?}");
        let json = serde_json::from_slice::<serde_json::Value>(&answer.body);
        assert!(json.is_ok() || answer.status == 204, "{answer:?}");
        // An operator may take a lock away from its holder, whose name he has to know.
        if head.target.starts_with(format!("{DEFAULT_PREFIX}locks/").as_bytes()) && answer.status == 200 {
            self.served.iter_mut().for_each(|served| served.lock = None);
            self.left.clear();
        }
    }

    /// One of those whom the upstream works for, who is none of them any longer.
    fn one_of(&mut self, which: &[u8]) -> Option<Served> {
        let first = which.split(|b| *b == b' ').next().unwrap_or_default();
        let number = usize::try_from(number(first)).unwrap_or_default().checked_rem(self.served.len())?;
        Some(self.served.swap_remove(number))
    }

    fn perform(&mut self, ops: &[Op]) -> Vec<Result<Outcome, StoreError>> {
        let perform = |op| match self.state {
            StoreState::Works => self.store.perform(op, self.now),
            StoreState::Down => Err(StoreError::Unreachable),
            StoreState::Lost => self.store.perform(op, self.now).and(Err(StoreError::Timeout)),
        };
        ops.iter().map(perform).collect()
    }

    fn settle(&mut self, ops: &[Op]) {
        self.perform(ops);
    }
}

/// The digits of a word.
fn number(word: &[u8]) -> u64 {
    let digits = word.iter().filter(|b| b.is_ascii_digit());
    digits.fold(0, |n: u64, b| (n * 10 + u64::from(b - b'0')) % 1_000_000_000)
}

static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
    let variables = |_: &str| Some(SECRET.to_owned());
    let surroundings = Surroundings { variables: &variables, in_front: None, fetches: false };
    Arc::new(
        Policy::from_json_in(&surroundings, "", include_bytes!("guards.json")).expect("a policy of ours"),
    )
});

/// What seeds sign tokens with.
const SECRET: &str = "a secret of at least 32 bytes for tests";
/// What seeds open the control path with.
const TOKEN: &str = "the-token-of-operators";
const EVENTS: usize = 64;
/// Milliseconds.
const LONGEST_WAIT: u64 = 100_000;
