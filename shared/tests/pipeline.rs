//! A call to the store that several members share: what is sent, and how the answer is split again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{check, quota};
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Check, Retry, Standing};
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::script::{RATE_LIMIT, REFUND};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::{Op, Outcome, StoreError};
use tollgate_shared::time::Timestamp;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_body_is_one_json_command_for_each_operation(members in members(), now in any::<Option<u64>>()) {
        let clock = now.map_or(Clock::Store, |now| Clock::Host(Timestamp::from_millis(now)));
        let ops: Vec<&Op> = members.iter().flatten().collect();
        let commands = commands(&Pipeline::new(members.clone()), clock);
        prop_assert_eq!(commands.len(), ops.len());
        for (op, command) in ops.iter().zip(commands) {
            let (script, at) = match op {
                Op::RateLimit(_) => (RATE_LIMIT, None),
                Op::Refund { at, .. } => (REFUND, Some(json!(at.as_millis()))),
                op => panic!("not one of these: {op:?}"),
            };
            let keys = op.checks().iter().map(|check| json!(check.key.as_str()));
            let mut expected = vec![json!("EVALSHA"), json!(script.sha1), json!(op.checks().len())];
            expected.extend(keys);
            expected.push(now.map_or(json!(""), |now| json!(now)));
            expected.extend(at);
            for check in op.checks() {
                let letter = check.quota.algorithm().letter();
                let letter = if check.enforced { letter.to_owned() } else { letter.to_uppercase() };
                let quota = &check.quota;
                expected.push(json!(letter));
                expected.extend([quota.limit(), quota.window(), quota.capacity(), check.cost].map(|n| json!(n)));
            }
            prop_assert_eq!(command, expected);
        }
    }

    /// The store may have forgotten any of the scripts, and refuse any of the operations in either round.
    #[test]
    fn everybody_gets_the_outcome_of_his_own_operations(
        members in members(),
        fates in vec(prop_oneof![Just(Fate::Done), Just(Fate::Unknown), Just(Fate::Refused), Just(Fate::Garbage)], 64),
    ) {
        let ops: Vec<Op> = members.iter().flatten().cloned().collect();
        let fates: Vec<Fate> = fates.iter().copied().cycle().take(ops.len()).collect();
        let number = |command: &Value| ops.iter().position(|op| op.checks()[0].key.as_str() == command[3]).unwrap();
        let mut pipeline = Pipeline::new(members.clone());

        let first = commands(&pipeline, Clock::Store);
        let replies: Vec<Value> = (0..first.len()).map(|n| fates[n].reply(n, &ops[n])).collect();
        let progress = pipeline.receive(200, json!(replies).to_string().as_bytes());
        let unknown: Vec<usize> = (0..ops.len()).filter(|n| fates[*n] == Fate::Unknown).collect();
        if !unknown.is_empty() {
            prop_assert_eq!(progress, Progress::Again);
            let second = commands(&pipeline, Clock::Store);
            let asked: Vec<usize> = second.iter().map(|command| number(&json!(command))).collect();
            prop_assert_eq!(&asked, &unknown, "only what was not run, in the same order");
            for (command, n) in second.iter().zip(&asked) {
                let script = if matches!(ops[*n], Op::RateLimit(_)) { RATE_LIMIT } else { REFUND };
                prop_assert_eq!((&command[0], &command[1]), (&json!("EVAL"), &json!(script.text)));
                prop_assert_eq!(&command[2..], &first[*n][2..], "with the same arguments");
            }
            let replies: Vec<Value> = asked.iter().map(|n| Fate::Done.reply(*n, &ops[*n])).collect();
            prop_assert_eq!(pipeline.receive(200, json!(replies).to_string().as_bytes()), Progress::Done);
        } else {
            prop_assert_eq!(progress, Progress::Done);
        }

        let mut n = 0;
        for ((member, outcomes), expected) in pipeline.finish().zip(&members) {
            prop_assert_eq!(&member, expected);
            prop_assert_eq!(outcomes.len(), member.len());
            for (op, outcome) in member.iter().zip(outcomes) {
                prop_assert_eq!(outcome, fates[n].outcome(n, op));
                n += 1;
            }
        }
        prop_assert_eq!(n, ops.len());
    }

    #[test]
    fn a_script_unknown_even_by_its_text_is_an_error(members in members()) {
        let asked = members.iter().flatten().count();
        let unknown = json!(vec![json!({ "error": "NOSCRIPT No matching script." }); asked]).to_string();
        let mut pipeline = Pipeline::new(members);
        prop_assert_eq!(pipeline.receive(200, unknown.as_bytes()), Progress::Again);
        prop_assert_eq!(pipeline.receive(200, unknown.as_bytes()), Progress::Done);
        prop_assert_eq!(pipeline.failure().map(StoreError::kind), Some("refused"));
    }

    /// An answer that cannot be matched with what was asked says nothing about anything.
    #[test]
    fn an_answer_of_another_length_or_form_is_an_error_for_everybody(members in members(), by in 1..3_usize) {
        let ops: Vec<&Op> = members.iter().flatten().collect();
        let good: Vec<Value> = ops.iter().enumerate().map(|(n, op)| Fate::Done.reply(n, op)).collect();
        let short = json!(good[by.min(good.len())..]).to_string();
        let long = json!(good.iter().chain(&good[..by.min(good.len())]).collect::<Vec<_>>()).to_string();
        let mut odd = good.clone();
        odd[by % good.len()] = json!({ "result": { "what": 1 } });
        let odd = json!(odd).to_string();
        let cut = json!(good).to_string();
        let cut = &cut[..cut.len() - by];
        let garbage = StoreError::Garbage;
        for (status, body, error) in [
            (200, short.as_str(), &garbage),
            (200, &long, &garbage),
            (200, cut, &garbage),
            (200, &odd, &garbage),
            (200, "", &garbage),
            (200, "null", &garbage),
            (200, r#"{"error":"ERR no"}"#, &garbage),
            (200, "<html></html>", &garbage),
            (401, &json!(good).to_string(), &StoreError::Status(401)),
            (500, "", &StoreError::Status(500)),
        ] {
            let mut pipeline = Pipeline::new(members.clone());
            prop_assert_eq!(pipeline.receive(status, body.as_bytes()), Progress::Done);
            prop_assert_eq!(pipeline.failure(), Some(error), "{}", body);
            for (_, outcomes) in pipeline.finish() {
                prop_assert!(outcomes.iter().all(|outcome| outcome.as_ref() == Err(error)), "{}: {:?}", body, outcomes);
            }
        }
    }

    /// A second round that fails leaves alone what the first one answered.
    #[test]
    fn a_failed_second_round_is_an_error_only_for_those_in_it(members in members(), first in any::<bool>()) {
        let ops: Vec<&Op> = members.iter().flatten().collect();
        prop_assume!(ops.len() > 1);
        let unknown = |n: usize| (n == 0) == first;
        let replies: Vec<Value> = ops
            .iter()
            .enumerate()
            .map(|(n, op)| if unknown(n) { Fate::Unknown.reply(n, op) } else { Fate::Done.reply(n, op) })
            .collect();
        let mut pipeline = Pipeline::new(members.clone());
        prop_assert_eq!(pipeline.receive(200, json!(replies).to_string().as_bytes()), Progress::Again);
        prop_assert_eq!(pipeline.failure(), None);
        pipeline.fail(&StoreError::Timeout);
        prop_assert_eq!(pipeline.failure(), None, "some were answered");
        let outcomes: Outcomes = pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let expected = if unknown(n) { Err(StoreError::Timeout) } else { Fate::Done.outcome(n, ops[n]) };
            prop_assert_eq!(outcome, expected);
        }
    }
}

#[test]
fn keys_need_no_escape_but_get_it() {
    let odd = "tg:{\"\\\n\u{1}\u{7f}é😀\u{2028}}";
    let op = Op::RateLimit(vec![Check { key: Key::from_stored(odd), ..plain_check() }]);
    let commands = commands(&Pipeline::new(vec![vec![op]]), Clock::Store);
    assert_eq!(commands[0][3], odd);
}

#[test]
fn a_pipeline_of_nobody_asks_nothing() {
    let mut pipeline = Pipeline::<Vec<Op>>::new(Vec::new());
    assert_eq!(pipeline.body(Clock::Store), "[]");
    assert_eq!(pipeline.receive(200, b"[]"), Progress::Done);
    assert_eq!(pipeline.failure(), None);
    assert_eq!(pipeline.finish().count(), 0);
}

#[test]
fn a_member_without_operations_gets_none() {
    let op = || Op::RateLimit(vec![plain_check()]);
    let mut pipeline = Pipeline::new(vec![vec![], vec![op()], vec![], vec![op(), op()]]);
    pipeline.receive(200, br#"[{"result":[1,0,0]},{"result":[2,0,0]},{"error":"OOM command not allowed"}]"#);
    let outcomes: Vec<Outcomes> = pipeline.finish().map(|(_, outcomes)| outcomes).collect();
    let lengths: Vec<usize> = outcomes.iter().map(Vec::len).collect();
    assert_eq!(lengths, [0, 1, 0, 2]);
    assert_eq!(outcomes[3][1].as_ref().unwrap_err().to_string(), "the store refused the operation (OOM)");
}

fn plain_check() -> Check {
    use tollgate_shared::rate_limit::{Algorithm, Quota};
    use tollgate_shared::time::Span;
    check(Quota::new(Algorithm::Gcra, 10, Span::from_millis(1000).unwrap(), 5).unwrap(), 0, 1)
}

/// What becomes of an operation in the first round.
/// What the store's clock says.
const NOW: u64 = 1_800_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// The script is not known; it is done in the second round.
    Unknown,
    Refused,
    Garbage,
}

impl Fate {
    /// What the store says to operation number `n`.
    fn reply(self, n: usize, op: &Op) -> Value {
        match (self, op) {
            (Self::Done, Op::RateLimit(checks)) => {
                let standings = checks.iter().enumerate().flat_map(|(i, _)| [n + i, 10 * n, n % 2]);
                json!({ "result": std::iter::once(NOW as usize).chain(standings).collect::<Vec<_>>() })
            }
            (Self::Done, _) => json!({ "result": [] }),
            (Self::Unknown, _) => json!({ "error": "NOSCRIPT No matching script. Please use EVAL." }),
            (Self::Refused, _) => json!({ "error": format!("ERR number {n}") }),
            (Self::Garbage, _) => json!({}),
        }
    }

    fn outcome(self, n: usize, op: &Op) -> Result<Outcome, StoreError> {
        match (self, op) {
            (Self::Done | Self::Unknown, Op::RateLimit(checks)) => {
                let standing = |i: usize| Standing {
                    remaining: (n + i) as u64,
                    reset: 10 * n as u64,
                    retry: if n.is_multiple_of(2) { Retry::Now } else { Retry::After(1) },
                };
                let standings = (0..checks.len()).map(standing).collect();
                Ok(Outcome::RateLimit { at: Timestamp::from_millis(NOW), standings })
            }
            (Self::Done | Self::Unknown, _) => Ok(Outcome::Refunded),
            (Self::Refused, _) => Err(StoreError::Refused(tollgate_shared::store::ErrorCode::of("ERR"))),
            (Self::Garbage, _) => Err(StoreError::Garbage),
        }
    }
}

/// Members with operations whose first keys all differ, at least one of them.
fn members() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let checks = vec((quota(), any::<bool>(), 1..10_u64), 1..4);
    let op = (checks, any::<Option<u64>>());
    vec(vec(op, 0..4), 1..5)
        .prop_filter("operations", |members| members.iter().any(|ops| !ops.is_empty()))
        .prop_map(|members| {
            let mut numbers = 0..;
            let mut op = |checks: Vec<(_, bool, u64)>, at: Option<u64>| {
                let mut checks: Vec<Check> = checks
                    .into_iter()
                    .enumerate()
                    .map(|(n, (quota, enforced, cost))| Check { enforced, ..check(quota, n, cost) })
                    .collect();
                checks[0].key = Key::from_stored(&format!("tg:{{{}}}:x", numbers.next().unwrap_or(0)));
                match at {
                    None => Op::RateLimit(checks),
                    Some(at) => Op::Refund { checks, at: Timestamp::from_millis(at) },
                }
            };
            members
                .into_iter()
                .map(|ops| ops.into_iter().map(|(checks, at)| op(checks, at)).collect())
                .collect()
        })
}

fn commands(pipeline: &Pipeline<Vec<Op>>, clock: Clock) -> Vec<Vec<Value>> {
    serde_json::from_str(&pipeline.body(clock)).unwrap()
}
