//! The commands of guards that are not limits, argument by argument, and what is made of the replies.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod support;

use serde_json::{Value, json};
use support::{id, response, span};
use tollgate_shared::circuit_breaker::{BreakerState, CircuitBreaker, Force, Trip};
use tollgate_shared::idempotency::MAX_RESPONSE;
use tollgate_shared::key::Key;
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::script::{CIRCUIT_BREAKER, IDEMPOTENCY, LEASE, REVOKE, Script};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::revocation::{Reach, Revocation};
use tollgate_shared::store::{Op, Outcome, Probe, StoreError};
use tollgate_shared::time::Timestamp;

#[test]
fn commands_are_written_argument_by_argument() {
    let (a, b) = ("0a".repeat(16), "0b".repeat(16));
    let counted = CircuitBreaker::new(Trip::Failures(5), span(1001), 2, span(3000), 4, span(500)).unwrap();
    let trip = Trip::Ratio { percent: 50, min_volume: 20 };
    let ratio = CircuitBreaker::new(trip, span(8000), 1, span(3000), 1, span(500)).unwrap();
    let report = |breaker, probe| Op::Report {
        key: key(),
        breaker,
        reporter: id(10),
        successes: 7,
        failures: 1,
        probe,
    };
    let probe = Some(Probe { generation: 77, holder: id(11) });
    for (op, script, arguments) in [
        (acquire(), LEASE, json!(["a", a, 1000, 1])),
        (Op::Extend { key: key(), holder: id(10), lease: span(1000) }, LEASE, json!(["e", a, 1000])),
        (Op::Release { key: key(), holder: id(10) }, LEASE, json!(["r", a])),
        (reserve(), IDEMPOTENCY, json!(["s", a, 1000, b])),
        (keep(&[0xfb, 0xff, 0xfe, 0]), IDEMPOTENCY, json!(["k", a, 1000, "+//+AA=="])),
        (keep(b""), IDEMPOTENCY, json!(["k", a, 1000, ""])),
        (Op::Abandon { key: key(), holder: id(10) }, IDEMPOTENCY, json!(["a", a])),
        (Op::View { key: key(), breaker: counted }, CIRCUIT_BREAKER, json!(["v", 4, 500])),
        (
            Op::Probe { key: key(), breaker: counted, holder: id(11) },
            CIRCUIT_BREAKER,
            json!(["p", 4, 500, b]),
        ),
        (report(counted, None), CIRCUIT_BREAKER, json!(["r", 4, 500, 3000, 126, 5, 0, 2, a, 7, 1, ""])),
        (report(ratio, probe), CIRCUIT_BREAKER, json!(["r", 1, 500, 3000, 1000, 20, 50, 1, a, 7, 1, b, 77])),
        (force(counted, Force::Open(span(9))), CIRCUIT_BREAKER, json!(["f", 4, 500, 9, 126])),
        (force(counted, Force::Closed), CIRCUIT_BREAKER, json!(["f", 4, 500, 0, 126])),
        (revoke(7000, 0), REVOKE, json!([1000, 12_000, 5000, 8000])),
        (revoke(7000, 15_000), REVOKE, json!([1000, 15_000, 5000, 8000])),
        (revoke(u64::MAX, 0), REVOKE, json!([1000, (1_u64 << 53) - 1, 5000, (1_u64 << 53) - 1])),
    ] {
        assert_eq!(Script::of(&op), Some(&script));
        for (clock, now) in [(Clock::Store, json!("")), (Clock::Host(Timestamp::from_millis(5)), json!(5))] {
            let mut expected = vec![json!("EVALSHA"), json!(script.sha1), json!(1), json!(KEY), now];
            expected.extend(arguments.as_array().unwrap().iter().cloned());
            let body: Value = serde_json::from_str(&Pipeline::new(vec![[op.clone()]]).body(clock)).unwrap();
            assert_eq!(body, json!([expected]));
        }
    }
}

#[test]
fn a_revocation_is_asked_for_where_writes_go() {
    let mut pipeline = Pipeline::new(vec![[is_revoked(), acquire()]]);
    let body = |pipeline: &Pipeline<_>| serde_json::from_str::<Value>(&pipeline.body(Clock::Store)).unwrap();
    assert_eq!(body(&pipeline)[0], json!(["GETEX", KEY]));
    // It has its answer when the other operation's script has to be sent.
    let progress = pipeline.receive(200, br#"[{"result":null},{"error":"NOSCRIPT No matching script."}]"#);
    assert_eq!(progress, Progress::Again);
    assert_eq!(body(&pipeline).as_array().unwrap().len(), 1);
    assert_eq!(body(&pipeline)[0][1], LEASE.text);
    assert_eq!(pipeline.receive(200, br#"[{"result":[0,7]}]"#), Progress::Done);
    let outcomes: Vec<_> = pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect();
    assert_eq!(outcomes, [Ok(Outcome::Revoked(None)), Ok(Outcome::Acquired { fence: 7 })]);
}

#[test]
fn what_is_reset_is_deleted() {
    let pipeline = Pipeline::new(vec![[reset()]]);
    assert_eq!(Script::of(&reset()), None);
    assert_eq!(pipeline.body(Clock::Store), format!(r#"[["DEL","{KEY}"]]"#));
}

#[test]
fn replies_are_read() {
    let breaker = breaker();
    let [extend, release] = [
        Op::Extend { key: key(), holder: id(10), lease: span(1000) },
        Op::Release { key: key(), holder: id(10) },
    ];
    let abandon = Op::Abandon { key: key(), holder: id(10) };
    let (view, probe) = (Op::View { key: key(), breaker }, Op::Probe { key: key(), breaker, holder: id(10) });
    let state = |state, generation| Outcome::Breaker { state, generation };
    let half_open = BreakerState::HalfOpen { free: 0, for_ms: 9 };
    for (op, result, expected) in [
        (acquire(), json!([0, 1_700_000_000_000_u64]), Outcome::Acquired { fence: 1_700_000_000_000 }),
        (acquire(), json!([1, 9]), Outcome::Held { for_ms: 9 }),
        (extend.clone(), json!([0, 0]), Outcome::Acquired { fence: 0 }),
        (extend, json!([1]), Outcome::Lost),
        (release.clone(), json!([0]), Outcome::Released),
        (release, json!([1]), Outcome::Lost),
        (reserve(), json!([0, 7]), Outcome::Reserved { fence: 7 }),
        (reserve(), json!([1, 9]), Outcome::InProgress { for_ms: 9 }),
        (reserve(), json!([2]), Outcome::Mismatch),
        (reserve(), json!("+//+AA=="), Outcome::Replay(response(&[0xfb, 0xff, 0xfe, 0]))),
        (reserve(), json!(""), Outcome::Replay(response(b""))),
        (keep(b"x"), json!([0]), Outcome::Kept),
        (keep(b"x"), json!([1]), Outcome::Lost),
        (abandon.clone(), json!([0]), Outcome::Released),
        (abandon, json!([1]), Outcome::Lost),
        (view.clone(), json!([0]), state(BreakerState::Closed, 0)),
        (view.clone(), json!([1, 9, 7]), state(BreakerState::Open { for_ms: 9 }, 7)),
        (view, json!([2, 0, 9, 7]), state(half_open, 7)),
        (probe.clone(), json!([3, 7]), Outcome::Probing { generation: 7 }),
        (probe, json!([2, 0, 9, 7]), state(half_open, 7)),
        (
            is_revoked(),
            json!("5 6"),
            Outcome::Revoked(Some(Revocation {
                before: Timestamp::from_millis(5),
                until: Timestamp::from_millis(6),
            })),
        ),
        (revoke(7000, 0), json!([0, 12_000]), Outcome::RevokedUpTo(Timestamp::from_millis(12_000))),
        (reset(), json!(0), Outcome::Reset),
        (reset(), json!(1), Outcome::Reset),
    ] {
        assert_eq!(outcome(&op, &result.to_string()), Ok(expected), "{op:?}: {result}");
    }
    // Some encoders escape a slash.
    assert_eq!(outcome(&reserve(), r#""+\/\/+AA==""#), Ok(Outcome::Replay(response(&[0xfb, 0xff, 0xfe, 0]))));
}

#[test]
fn replies_of_another_form_are_garbage() {
    let breaker = breaker();
    let ops = [
        acquire(),
        Op::Release { key: key(), holder: id(10) },
        reserve(),
        keep(b"x"),
        Op::View { key: key(), breaker },
        Op::Probe { key: key(), breaker, holder: id(10) },
        force(breaker, Force::Closed),
        is_revoked(),
        revoke(7000, 0),
        reset(),
    ];
    // Each is read by at most the operations named.
    for (result, by) in [
        ("[]", &[][..]),
        ("[4]", &[]),
        ("[-1]", &[]),
        ("[0,-1]", &[]),
        ("[1,-1]", &[]),
        ("[1,-1,7]", &[]),
        ("[1,1,-7]", &[]),
        ("[2,1,-1,7]", &[]),
        ("[3,-7]", &[]),
        ("[3,7]", &[5]),
        ("[0,7,7]", &[]),
        ("[2,0,9,7,7]", &[]),
        (r#""""#, &[2]),
        (r#""OK""#, &[]),
        (r#""A===""#, &[]),
        (r#""AA""#, &[]),
        (r#""AAAA AAAA""#, &[]),
        (r#""5""#, &[]),
        (r#""-5 6""#, &[]),
        (r#""5.5 6""#, &[]),
        (r#""99999999999999999999 6""#, &[]),
        ("null", &[7]),
        ("0", &[9]),
        ("1", &[9]),
        // These are no answer to anything.
        ("7", &[]),
        ("-1", &[]),
        ("18446744073709551615", &[]),
        ("true", &[]),
        ("1.5", &[]),
        ("{}", &[]),
        ("[1.5]", &[]),
        ("[null]", &[]),
        ("[[0]]", &[]),
        (r#"["0"]"#, &[]),
        ("[99999999999999999999]", &[]),
    ] {
        for (number, op) in ops.iter().enumerate() {
            let outcome = outcome(op, result);
            assert_eq!(outcome.is_ok(), by.contains(&number), "{result} to {op:?}: {outcome:?}");
            assert!(outcome.is_ok() || outcome == Err(StoreError::Garbage));
        }
    }
}

#[test]
fn a_response_beyond_the_bound_is_garbage() {
    let base64 = |bytes: usize| format!("\"{}\"", "AAAA".repeat(bytes / 3) + ["", "AA==", "AAA="][bytes % 3]);
    let Ok(Outcome::Replay(largest)) = outcome(&reserve(), &base64(MAX_RESPONSE)) else {
        panic!("the largest is read")
    };
    assert_eq!(largest.as_bytes(), vec![0; MAX_RESPONSE]);
    for more in [1, 2, 3, 1000] {
        assert_eq!(outcome(&reserve(), &base64(MAX_RESPONSE + more)), Err(StoreError::Garbage));
    }
}

fn outcome(op: &Op, result: &str) -> Result<Outcome, StoreError> {
    let mut pipeline = Pipeline::new(vec![[op.clone()]]);
    assert_eq!(pipeline.receive(200, format!(r#"[{{"result":{result}}}]"#).as_bytes()), Progress::Done);
    pipeline.finish().next().unwrap().1.remove(0)
}

fn acquire() -> Op {
    Op::Acquire { key: key(), holder: id(10), lease: span(1000), fenced: true }
}

fn reserve() -> Op {
    Op::Reserve { key: key(), holder: id(10), fingerprint: id(11), lease: span(1000) }
}

fn keep(bytes: &[u8]) -> Op {
    Op::Keep { key: key(), holder: id(10), ttl: span(1000), response: response(bytes) }
}

fn breaker() -> CircuitBreaker {
    CircuitBreaker::new(Trip::Failures(5), span(1000), 2, span(3000), 4, span(500)).unwrap()
}

fn force(breaker: CircuitBreaker, to: Force) -> Op {
    Op::Force { key: key(), breaker, to }
}

fn revoke(now: u64, issued: u64) -> Op {
    let [now, issued] = [now, issued].map(Timestamp::from_millis);
    Op::Revoke { key: key(), ttl: span(1000), reach: Reach { now, leeway: 5000, issued } }
}

fn is_revoked() -> Op {
    Op::IsRevoked { key: key() }
}

fn reset() -> Op {
    Op::Reset { key: key() }
}

fn key() -> Key {
    Key::from_stored(KEY)
}

const KEY: &str = "tg:{t}:one";
