//! Text as the store's answers to one call, and to the one after it.
//!
//! ```text
//! lib                                      ─ who shares the call: see [`members`]
//! 200 [{"error":"NOSCRIPT"}]               ─ status and body
//! 200 [{"result":[1800000000000,1,0,0]}]                 ─ the same, if the store is asked again
//! ```

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_shared::circuit_breaker::{BreakerState, CircuitBreaker, Force, Trip};
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Call, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::idempotency::StoredResponse;
use tollgate_shared::key::Key;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::rate_limit::Retry;
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::{Clock, Pipeline, Script};
use tollgate_shared::revocation::{Reach, Revocation};
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Op, Outcome, Probe, StoreError};
use tollgate_shared::time::{Span, Timestamp};

use crate::check;
use crate::head::Head;
use crate::request::RICH;

/// Lets the store answer as `data` says.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(3, |b| *b == b'\n');
    let mut local = Local::with_store(check::memory(), Remembered::at_most(4), 2, Id::default());
    let members = members(lines.next().unwrap_or_default(), &mut local);
    let sizes: Vec<usize> = members.iter().map(|member| member.as_ref().len()).collect();
    let ops: Vec<Op> = members.iter().flat_map(|member| member.as_ref()).cloned().collect();
    let mut open: Vec<usize> = (0..ops.len()).collect();
    let mut answered: Vec<Option<Reply>> = vec![None; ops.len()];
    let mut pipeline = Pipeline::new(members);
    let (mut rounds, mut whole) = (0, None);
    loop {
        body(&pipeline, &ops, &open, rounds > 0);
        let (status, body) = answer(lines.next().unwrap_or_default());
        let progress = pipeline.receive(status, body);
        rounds += 1;
        let replies = serde_json::from_slice::<Vec<Reply>>(body).ok();
        match replies.filter(|replies| status == 200 && replies.len() == open.len()) {
            Some(replies) => open.iter().zip(replies).for_each(|(op, reply)| answered[*op] = Some(reply)),
            None => open.iter().for_each(|op| answered[*op] = None),
        }
        if status != 200 {
            whole = Some(status);
        }
        if progress == Progress::Done {
            break;
        }
        assert_eq!((rounds, status), (1, 200), "only scripts that are unknown are sent again, once");
        open.retain(|op| answered[*op].as_ref().is_some_and(Reply::is_noscript));
        assert!(!open.is_empty(), "nothing to ask again");
    }
    let failure = pipeline.failure().cloned();
    let finished: Vec<(Member, Outcomes)> = pipeline.finish().collect();
    assert!(finished.iter().map(|(_, outcomes)| outcomes.len()).eq(sizes), "an outcome for each operation");
    let outcomes = || finished.iter().flat_map(|(_, outcomes)| outcomes);
    for ((op, outcome), answered) in ops.iter().zip(outcomes()).zip(&answered) {
        is_what_was_answered(op, outcome, answered.as_ref(), whole);
    }
    assert_eq!(failure.is_some(), !ops.is_empty() && outcomes().all(Result::is_err));
    let now = NOW.plus(7);
    for (member, outcomes) in finished {
        let Member::Call(call) = member else { continue };
        let mut decision = check::decision_of(call.resume(&mut local, outcomes, now), &mut local, now);
        check::decision(&POLICY, &decision, now, false);
        check::ops(&POLICY, "tg", &decision.settle());
    }
}

enum Member {
    Call(Call),
    Ops(Vec<Op>),
}

impl AsRef<[Op]> for Member {
    fn as_ref(&self) -> &[Op] {
        match self {
            Self::Call(call) => call.batch(),
            Self::Ops(ops) => ops,
        }
    }
}

/// A member for each letter: `l`, `i`, `b` and `v` are requests that take the routes `login`, `items`, `beta` and `v1`, and
/// capitals give back what these would charge. `k`, `d`, `c` and `r` are all operations on a lock, an idempotency key, a
/// circuit breaker and a revocation; `f` forgets what is kept.
fn members(letters: &[u8], local: &mut Local<HeapShards>) -> Vec<Member> {
    let requests = letters.iter().take(MEMBERS).filter_map(|letter| {
        if let Some(ops) = guards(*letter) {
            return Some(Member::Ops(ops));
        }
        let head = match letter.to_ascii_lowercase() {
            b'l' => Head::new("POST", "/auth/login?user=7", ""),
            b'i' => Head::new("GET", "/v1/a/items", "a.tenants.example.com")
                .with("x-plan", b"gold")
                .with("x-cost", b"3"),
            b'b' => Head::new("GET", "/v1/a", "").with("x-beta", b"1").with("cookie", b"session=\"\\"),
            b'v' => Head::new("GET", "/v1/a?a+b=1", ""),
            _ => return None,
        };
        let Step::Call(call) = begin(&POLICY, local, &head, NOW) else { panic!("these routes have limits") };
        if letter.is_ascii_lowercase() {
            return Some(Member::Call(call));
        }
        let refund = |op: &Op| Op::Refund { checks: op.checks().to_vec(), at: NOW };
        Some(Member::Ops(call.batch().iter().map(refund).collect()))
    });
    requests.collect()
}

fn guards(letter: u8) -> Option<Vec<Op>> {
    let key = || Key::from_stored(KEY);
    let [holder, other] = [1, 2].map(|n| Id::from_bytes([n; 16]));
    let lease = Span::from_millis(30_000)?;
    let breaker = CircuitBreaker::new(Trip::Failures(5), lease, 2, lease, 3, lease).ok()?;
    let report =
        |probe| Op::Report { key: key(), breaker, reporter: other, successes: 1, failures: 2, probe };
    Some(match letter {
        b'k' => vec![
            Op::Acquire { key: key(), holder, lease, fenced: true },
            Op::Extend { key: key(), holder, lease },
            Op::Release { key: key(), holder },
        ],
        b'd' => vec![
            Op::Reserve { key: key(), holder, fingerprint: other, lease },
            Op::Keep { key: key(), holder, ttl: lease, response: StoredResponse::new(vec![0, 255, 7])? },
            Op::Abandon { key: key(), holder },
        ],
        b'c' => vec![
            Op::View { key: key(), breaker },
            Op::Probe { key: key(), breaker, holder },
            report(None),
            report(Some(Probe { generation: 7, holder })),
            Op::Force { key: key(), breaker, to: Force::Closed },
        ],
        b'r' => {
            vec![Op::IsRevoked { key: key() }, Op::Revoke { key: key(), ttl: lease, reach: Reach::default() }]
        }
        b'f' => vec![Op::Reset { key: key() }],
        _ => return None,
    })
}

fn answer(line: &[u8]) -> (u16, &[u8]) {
    let space = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let status = std::str::from_utf8(&line[..space]).ok().and_then(|status| status.parse().ok());
    (status.unwrap_or(200), line.get(space + 1..).unwrap_or_default())
}

/// What is sent is JSON: a command for each operation still open, in order.
fn body(pipeline: &Pipeline<Member>, ops: &[Op], open: &[usize], by_text: bool) {
    for clock in [Clock::Store, Clock::Host(NOW)] {
        let commands: Vec<Vec<Value>> = serde_json::from_str(&pipeline.body(clock)).expect("a body is JSON");
        assert_eq!(commands.len(), open.len());
        for (command, op) in commands.iter().zip(open) {
            let op = &ops[*op];
            let Some(script) = Script::of(op) else {
                let verb = if matches!(op, Op::Reset { .. }) { "DEL" } else { "GETEX" };
                assert_eq!(command, &[verb, KEY]);
                continue;
            };
            let (verb, named) = if by_text { ("EVAL", script.text) } else { ("EVALSHA", script.sha1) };
            assert_eq!((command[0].as_str(), command[1].as_str()), (Some(verb), Some(named)));
            let keys = match op.checks() {
                [] => vec![op.key().expect("an operation has a key").as_str()],
                checks => checks.iter().map(|check| check.key.as_str()).collect(),
            };
            assert_eq!(command[2], keys.len());
            assert_eq!(command[3..3 + keys.len()], keys);
        }
    }
}

/// Nothing was made up: an outcome is what the answer says, and errors stay errors.
fn is_what_was_answered(
    op: &Op,
    outcome: &Result<Outcome, StoreError>,
    answered: Option<&Reply>,
    whole: Option<u16>,
) {
    let result = answered.map(|reply| &reply.result);
    let integers = || result.and_then(Value::as_array).expect("an array");
    match (op, outcome) {
        (Op::RateLimit(checks), Ok(Outcome::RateLimit { at, standings })) => {
            assert_eq!(standings.len(), checks.len());
            let said = standings.iter().flat_map(|standing| {
                let retry = match standing.retry {
                    Retry::Now => 0,
                    Retry::Never => -1,
                    Retry::After(millis) => i64::try_from(millis).expect("it was read from one"),
                };
                [standing.remaining as i64, standing.reset as i64, retry]
            });
            let said = std::iter::once(at.as_millis() as i64).chain(said);
            assert!(said.map(Some).eq(integers().iter().map(Value::as_i64)), "{outcome:?}");
        }
        (Op::Refund { .. }, Ok(Outcome::Refunded)) => {
            assert!(integers().iter().all(|number| number.as_i64().is_some()));
        }
        (Op::IsRevoked { .. }, Ok(Outcome::Revoked(Some(Revocation { before, until })))) => {
            let text = result.and_then(Value::as_str).expect("a text");
            let said: Vec<u64> = text.splitn(2, ' ').filter_map(|number| number.parse().ok()).collect();
            assert_eq!(said, [before.as_millis(), until.as_millis()]);
        }
        (Op::Reset { .. }, Ok(Outcome::Reset)) => {
            assert!(result.is_some_and(|result| *result == 0 || *result == 1), "{result:?}");
        }
        (_, Ok(outcome)) => assert_eq!(guard_said(op, outcome), *result.expect("a result"), "{outcome:?}"),
        (_, Err(StoreError::Status(status))) => assert_eq!(Some(*status), whole),
        (_, Err(StoreError::Unreachable | StoreError::Timeout)) => {
            assert!(whole.is_some_and(|status| status != 200), "{whole:?}");
        }
        (_, Err(StoreError::Refused(code))) => {
            let text = answered.and_then(|reply| reply.error.as_ref()).expect("an error");
            assert!(code.as_str() == "?" || text.starts_with(code.as_str()), "{text}");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'?'));
        }
        (_, Err(StoreError::Garbage)) => {}
        (_, Err(error)) => panic!("{error:?} comes from elsewhere"),
    }
}

/// The only result that is read as this outcome.
fn guard_said(op: &Op, outcome: &Outcome) -> Value {
    match (op, outcome) {
        (Op::Acquire { .. } | Op::Extend { .. }, Outcome::Acquired { fence }) => json!([0, fence]),
        (Op::Acquire { .. }, Outcome::Held { for_ms }) => json!([1, for_ms]),
        (Op::Reserve { .. }, Outcome::Reserved { fence }) => json!([0, fence]),
        (Op::Reserve { .. }, Outcome::InProgress { for_ms }) => json!([1, for_ms]),
        (Op::Reserve { .. }, Outcome::Mismatch) => json!([2]),
        (Op::Reserve { .. }, Outcome::Replay(response)) => base64(response),
        (Op::Release { .. } | Op::Abandon { .. }, Outcome::Released) => json!([0]),
        (Op::Keep { .. }, Outcome::Kept) => json!([0]),
        (Op::Revoke { .. }, Outcome::RevokedUpTo(before)) => json!([0, before.as_millis()]),
        (Op::Extend { .. } | Op::Release { .. } | Op::Keep { .. } | Op::Abandon { .. }, Outcome::Lost) => {
            json!([1])
        }
        (Op::Probe { .. }, Outcome::Probing { generation }) => json!([3, generation]),
        (
            Op::View { .. } | Op::Probe { .. } | Op::Report { .. } | Op::Force { .. },
            Outcome::Breaker { state, generation },
        ) => match state {
            BreakerState::Closed => json!([0]),
            BreakerState::Open { for_ms } => json!([1, for_ms, generation]),
            BreakerState::HalfOpen { free, for_ms } => json!([2, free, for_ms, generation]),
        },
        (Op::IsRevoked { .. }, Outcome::Revoked(None)) => Value::Null,
        _ => panic!("{outcome:?} of {op:?}"),
    }
}

/// As it stands in the command that keeps it.
fn base64(response: &StoredResponse) -> Value {
    let (key, lease) = (Key::from_stored(KEY), Span::from_millis(1).expect("a millisecond"));
    let keep = Op::Keep { key, holder: Id::default(), ttl: lease, response: response.clone() };
    let commands: Vec<Vec<Value>> =
        serde_json::from_str(&Pipeline::new(vec![[keep]]).body(Clock::Store)).expect("a body is JSON");
    commands[0].last().expect("an argument").clone()
}

/// An element of an answer.
#[derive(Clone, Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    result: Value,
    error: Option<String>,
}

impl Reply {
    fn is_noscript(&self) -> bool {
        self.result.is_null() && self.error.as_ref().is_some_and(|text| text.starts_with("NOSCRIPT"))
    }
}

static POLICY: LazyLock<Arc<Policy>> =
    LazyLock::new(|| Arc::new(Policy::from_json(RICH).expect("rich.json is a policy")));

/// What guards that are not limits are asked about.
const KEY: &str = "tg:{t}:one";
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// Members of one call.
const MEMBERS: usize = 8;
