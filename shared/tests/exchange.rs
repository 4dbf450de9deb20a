//! A decision from beginning to end, where two requests are under way at once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use tollgate_shared::circuit_breaker::BreakerState;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::config::{ConfigError, VerifiedBy};
use tollgate_shared::exchange::{
    Before, Call, Decision, LimitError, Reason, Ruling, Source, Step, begin, begin_limit,
};
use tollgate_shared::id::Id;
use tollgate_shared::jwt::TokenError;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::rate_limit::Retry;
use tollgate_shared::request::Request;
use tollgate_shared::revocation::Reach;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};

/// A counter is full for a moment because a request charged it that another limit then refuses. Whoever was refused
/// in that moment must not be kept out for the rest of the day.
#[test]
fn a_denial_that_a_refund_takes_back_is_soon_forgotten() {
    let mut host = Host::new(
        r#"{ "default": { "rate_limits": [
            { "name": "user", "algorithm": "fixed_window", "quota": 1, "window": "1d", "key": ["header:x-user"] },
            { "name": "ip", "algorithm": "fixed_window", "quota": 1, "window": "1d", "key": ["client_ip"] } ] } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000 + 3_600_000);
    let request = |user, last| Head { user, ip: IpAddr::from([192, 0, 2, last]) };

    let other = host.call(&request("other", 1), now);
    assert!(matches!(host.finish(other, now), Decision::Allow(_)));

    // The user's request from the address that is used up, and before it is decided, one from another address.
    let first = host.call(&request("user", 1), now);
    let outcomes = host.perform(&first, now);
    let second = host.call(&request("user", 2), now);
    let Decision::Deny(denial) = host.finish(second, now) else { panic!("the user's counter is full") };
    let hour = 3_600_000;
    assert_eq!(denial.report().verdicts[0].standing.unwrap().retry, Retry::After(23 * hour));
    let Step::Decide(mut refused) = first.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    assert!(matches!(refused, Decision::Deny(_)), "the address is used up");
    host.settle(&mut refused, now.plus(1));

    // It is remembered for a moment, with the time that the store had named.
    let Step::Decide(remembered) = host.begin(&request("user", 2), now.plus(999)) else {
        panic!("remembered")
    };
    assert_eq!(remembered.report().verdicts[0].source, Source::Denials);
    assert_eq!(remembered.report().verdicts[0].standing.unwrap().retry, Retry::After(23 * hour - 999));
    let later = now.plus(1000);
    let third = host.call(&request("user", 2), later);
    assert!(matches!(host.finish(third, later), Decision::Allow(_)));
}

#[test]
fn an_outcome_that_is_missing_is_a_failed_one() {
    let mut host = Host::new(
        r#"{ "default": { "rate_limits": [
            { "name": "a", "algorithm": "fixed_window", "quota": 9, "window": "1d", "key": ["client_ip"], "on_store_error": "deny" },
            { "name": "b", "algorithm": "fixed_window", "quota": 9, "window": "1d", "key": ["const:b"], "on_store_error": "allow" } ] } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000);
    let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
    let outcomes: Vec<_> = host.perform(&call, now).into_iter().take(1).collect();
    let Step::Decide(decision) = call.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    assert_eq!(decision.report().degraded().count(), 1);
}

/// The common route costs one round trip, whatever screens it, and a breaker that is closed is not asked each time.
#[test]
fn a_route_with_revocation_two_limits_and_a_breaker_asks_once() {
    let limit = |name: &str, key: &str| {
        format!(
            r#"{{ "name": "{name}", "algorithm": "gcra", "quota": 100, "window": "1m", "key": ["{key}"] }}"#
        )
    };
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "verified_by": "envoy", "max_lifetime": "365d" }},
              "default": {{ "revocation": {{}}, "rate_limits": [{}, {}],
                "circuit_breaker": {{ "failures": 5, "within": "60s", "open_for": "30s" }} }} }}"#,
        limit("user", "claim:sub"),
        limit("ip", "client_ip"),
    ));
    let mut now = Timestamp::from_millis(1_800_057_600_000);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
        sizes.push(call.batch().len());
        assert!(matches!(host.finish(call, now), Decision::Allow(_)));
        now = now.plus(60);
    }
    // Token, subject, two limits of two subjects; and the breaker, once in a tenth of a second.
    assert_eq!(sizes, [5, 4, 5, 4]);
}

/// Guessing at tokens costs a call with the limits that need no claims, until these refuse; from then on it costs nothing.
#[test]
fn a_request_without_a_token_that_holds_is_charged_and_then_known() {
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "verified_by": "envoy" }},
              "default": {{ "token": "required", "revocation": {{}}, "rate_limits": [{}, {}],
                "lock": {{ "key": ["const:all"], "lease": "30s" }} }} }}"#,
        once("user", "claim:sub"),
        once("ip", "client_ip"),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = |user, last| Head { user, ip: IpAddr::from([192, 0, 2, last]) };
    let call = host.call(&ask(FORGER, 1), now);
    assert_eq!(call.batch().len(), 1, "only the limit by address");
    let Decision::Deny(denial) = host.finish(call, now) else { panic!("the token is not verified") };
    assert_eq!(*denial.reason(), Reason::Token(TokenError::Missing));
    let call = host.call(&ask(FORGER, 1), now);
    let Decision::Deny(denial) = host.finish(call, now) else { panic!("the token is not verified") };
    assert_eq!(*denial.reason(), Reason::Limits);
    for user in [FORGER, "x"] {
        let Step::Decide(Decision::Deny(denial)) = host.begin(&ask(user, 1), now) else {
            panic!("remembered")
        };
        assert_eq!(*denial.reason(), Reason::Limits);
        assert_eq!(denial.report().verdicts[0].source, Source::Denials);
        assert!(denial.report().guards.is_empty(), "nobody has looked at the token");
    }
    // Elsewhere, the same token has its quota.
    let call = host.call(&ask("x", 2), now);
    assert_eq!(call.batch().len(), 3, "two limits, and whether it was revoked");
    let outcomes = host.perform(&call, now);
    assert!(matches!(call.resume(&mut host.local, outcomes, now), Step::Call(_)), "and then the lock");
}

/// What was let through because the store could not be asked is not known to be valid: the next request asks.
#[test]
fn what_passed_without_the_store_is_asked_about_again() {
    let mut host = Host::new(
        r#"{ "jwt": { "verified_by": "envoy" },
             "default": { "revocation": { "cache": "1m", "on_store_error": "allow" } } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let call = host.call(&ask, now);
    assert_eq!(call.batch().len(), 1, "{:?}", call.batch());
    host.revoke(&call, 60_000, now);
    let step = call.resume(&mut host.local, [Err(StoreError::Unreachable)], now);
    assert!(matches!(step, Step::Decide(Decision::Allow(_))));
    let call = host.call(&ask, now);
    let Decision::Deny(denial) = host.finish(call, now) else { panic!("it is revoked") };
    assert_eq!(*denial.reason(), Reason::Revoked);
}

/// Requests with a revoked token that are under way at once fill the counter of its owner for a moment. What is remembered of that would
/// keep the owner out for longer.
#[test]
fn a_revoked_token_does_not_keep_its_owner_out() {
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "verified_by": "envoy" }}, "default": {{ "revocation": {{}}, "rate_limits": [{}, {}] }} }}"#,
        once("user", "claim:sub"),
        once("ip", "client_ip"),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = |user, last| Head { user, ip: IpAddr::from([192, 0, 2, last]) };
    let first = host.call(&ask(THIEF, 1), now);
    host.revoke(&first, 60_000, now);
    let outcomes = host.perform(&first, now);
    for (last, reason) in [(1, Reason::Limits), (3, Reason::Revoked)] {
        let call = host.call(&ask(THIEF, last), now);
        let Decision::Deny(denial) = host.finish(call, now) else { panic!("it is revoked") };
        assert_eq!(*denial.reason(), reason);
    }
    let Step::Decide(mut refused) = first.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    host.settle(&mut refused, now);
    let owner = host.call(&ask("x", 2), now);
    assert!(matches!(host.finish(owner, now), Decision::Allow(_)));
}

/// A request that is turned away by what it claims has made its attempt, which its limits go on counting.
#[test]
fn what_a_lock_turns_away_stays_counted() {
    let limit = |name: &str| {
        format!(
            r#"{{ "name": "{name}", "algorithm": "fixed_window", "quota": 2, "window": "1d", "key": ["const:{name}"] }}"#
        )
    };
    let mut host = Host::new(&format!(
        r#"{{ "default": {{ "rate_limits": [{}, {}], "lock": {{ "key": ["const:all"], "lease": "30s" }} }} }}"#,
        limit("a"),
        limit("b"),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let decided = |host: &mut Host| {
        let call = host.call(&ask, now);
        let outcomes = host.perform(&call, now);
        match call.resume(&mut host.local, outcomes, now) {
            Step::Call(claim) => host.finish(claim, now),
            Step::Decide(mut decision) => {
                host.settle(&mut decision, now);
                decision
            }
            step => panic!("{step:?}"),
        }
    };
    let reason = |decision: Decision| match decision {
        Decision::Deny(denial) => Some(*denial.reason()),
        Decision::Allow(_) => None,
    };
    assert_eq!(reason(decided(&mut host)), None, "and it holds the lock");
    assert!(matches!(reason(decided(&mut host)), Some(Reason::Locked { .. })));
    assert_eq!(reason(decided(&mut host)), Some(Reason::Limits), "the second attempt was the last one");
}

/// Two requests find a breaker half-open with one probe free. Who does not get it is refused because of the breaker, and pays nothing.
#[test]
fn who_loses_the_race_for_a_probe_pays_nothing() {
    let mut host = Host::new(
        r#"{ "default": {
            "rate_limits": [{ "name": "all", "algorithm": "fixed_window", "quota": 10, "window": "1d", "key": ["const:all"] }],
            "circuit_breaker": { "failures": 1, "within": "60s", "open_for": "30s" } } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let call = host.call(&ask, now);
    let Decision::Allow(mut admission) = host.finish(call, now) else { panic!("it is closed") };
    for op in admission.completion().unwrap().responded(&mut host.local, 503, now) {
        host.store.perform(&op, now).unwrap();
    }
    let now = now.plus(31_000);
    let mut claims: Vec<Call> = Vec::new();
    for call in [host.call(&ask, now), host.call(&ask, now)] {
        let outcomes = host.perform(&call, now);
        let Step::Call(claim) = call.resume(&mut host.local, outcomes, now) else {
            panic!("a probe is free")
        };
        claims.push(claim);
    }
    let reasons = claims.into_iter().map(|claim| match host.finish(claim, now) {
        Decision::Allow(_) => None,
        Decision::Deny(denial) => Some(*denial.reason()),
    });
    assert!(matches!(reasons.collect::<Vec<_>>()[..], [None, Some(Reason::Open { .. })]));
    let now = now.plus(1000);
    let Step::Call(call) = host.begin(&ask, now) else { panic!("the breaker is asked") };
    let Decision::Deny(denial) = host.finish(call, now) else { panic!("the probe is under way") };
    // The request that tripped it, the probe, and this one for the moment.
    assert_eq!(denial.report().verdicts[0].standing.unwrap().remaining, 7);
}

/// Of a claim whose answer was lost nobody knows whether it was taken. It is given back: at once if the request is refused, and otherwise with
/// its end, but for a mark, which stays. What was never asked is not.
#[test]
fn what_was_perhaps_taken_is_given_back() {
    let guards = [
        r#""lock": { "key": ["const:a"], "lease": "30s", "on_store_error": "MODE" }"#,
        r#""dedup": { "key": ["const:a"], "ttl": "30s", "on_store_error": "MODE" }"#,
        r#""idempotency": { "key": ["const:a"], "on_store_error": "MODE" }"#,
    ];
    let now = Timestamp::from_millis(1_800_057_600_000);
    for (error, is_asked) in [
        (StoreError::Timeout, true),
        (StoreError::Unreachable, true),
        (StoreError::Garbage, true),
        (StoreError::Open, false),
        (StoreError::Busy, false),
    ] {
        for (guard, at_end) in guards.iter().zip([true, false, false]) {
            for (mode, passes) in [("deny", false), ("allow", true)] {
                let policy = format!(r#"{{ "default": {{ {} }} }}"#, guard.replace("MODE", mode));
                let mut host = Host::new(&policy);
                let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
                let step = call.resume(&mut host.local, [Err(error.clone())], now);
                let Step::Decide(mut decision) = step else { panic!("one call") };
                let told = decision.settle().len();
                match decision {
                    Decision::Deny(_) => assert!(!passes && (told == 1) == is_asked, "{error} {guard}"),
                    Decision::Allow(mut admission) => {
                        let ended = admission.completion().map_or(0, |mut completion| {
                            let told = completion.responded(&mut host.local, 500, now).len();
                            told + completion.ended(&mut host.local, now).len()
                        });
                        let abandoned = guard.contains("idempotency");
                        assert!(passes && told == 0, "{error} {guard}");
                        assert_eq!(ended == 1, is_asked && (at_end || abandoned), "{error} {guard}: {ended}");
                    }
                }
            }
        }
    }
}

/// A store that answers one question with the answer to another has not answered: nobody passes by that.
#[test]
fn an_outcome_of_another_kind_is_none() {
    let breaker = r#""circuit_breaker": { "failures": 1, "within": "60s", "open_for": "30s", "on_store_error": "deny" }"#;
    let guards = [
        r#""lock": { "key": ["const:a"], "lease": "30s" }"#,
        r#""dedup": { "key": ["const:a"], "ttl": "30s", "on_store_error": "deny" }"#,
        r#""idempotency": { "key": ["const:a"] }"#,
        r#""revocation": {}"#,
        breaker,
    ];
    let all = [
        Outcome::Refunded,
        Outcome::Acquired { fence: 1 },
        Outcome::Held { for_ms: 1 },
        Outcome::Lost,
        Outcome::Released,
        Outcome::Reserved { fence: 1 },
        Outcome::InProgress { for_ms: 1 },
        Outcome::Mismatch,
        Outcome::Breaker { state: BreakerState::Closed, generation: 0 },
        Outcome::Probing { generation: 1 },
        Outcome::Revoked(None),
        Outcome::RevokedUpTo(Timestamp::default()),
        Outcome::Reset,
    ];
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    for (guard, answers) in guards.iter().zip([2, 2, 3, 1, 1]) {
        let mut kinds = 0;
        for outcome in &all {
            let policy = format!(r#"{{ "jwt": {{ "verified_by": "envoy" }}, "default": {{ {guard} }} }}"#);
            let mut host = Host::new(&policy);
            let call = host.call(&ask, now);
            let Step::Decide(decision) = call.resume(&mut host.local, [Ok(outcome.clone())], now) else {
                panic!("one call: {guard} {outcome:?}")
            };
            match decision {
                Decision::Deny(denial) if matches!(denial.reason(), Reason::Unavailable(_)) => {}
                _ => kinds += 1,
            }
        }
        assert_eq!(kinds, answers, "{guard}");
    }
}

/// What a host has to do with an answer depends on what guards have begun.
#[test]
fn hosts_are_told_what_is_left_to_do() {
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let limit = r#""rate_limits": [{ "name": "a", "algorithm": "gcra", "quota": 9, "window": "1m", "key": ["client_ip"], "count": "failures" }]"#;
    // Whether it confirms, records after a 201, and lasts then.
    for (guard, told) in [
        (limit, [false, false, false]),
        (r#""lock": { "key": ["const:a"], "lease": "30s" }"#, [false, false, true]),
        (r#""idempotency": { "key": ["const:a"] }"#, [false, true, true]),
        (r#""idempotency": { "key": ["const:a"], "statuses": ["200"] }"#, [false, false, false]),
        (r#""revokes": { "what": "token", "when": "success" }, "revocation": {}"#, [true, false, false]),
    ] {
        let policy = format!(r#"{{ "jwt": {{ "verified_by": "envoy" }}, "default": {{ {guard} }} }}"#);
        let mut host = Host::new(&policy);
        let call = host.call(&ask, now);
        let Decision::Allow(mut admission) = host.finish(call, now) else { panic!("it passes: {guard}") };
        let mut completion = admission.completion().unwrap();
        let confirms = completion.confirms();
        completion.responded(&mut host.local, 201, now);
        assert_eq!([confirms, completion.records(), completion.lasts()], told, "{guard}");
    }
}

/// Exactly what was charged is given back: no check that had no room in shadow mode, none that costs nothing, and none of limits that
/// are refused together.
#[test]
fn what_was_charged_is_given_back_and_nothing_else() {
    let limit = |name: &str, key: &str, quota: u32, more: &str| {
        format!(
            r#"{{ "name": "{name}", "algorithm": "fixed_window", "quota": {quota}, "window": "1d", "key": ["{key}"]{more} }}"#
        )
    };
    // The first two and the last two are of one subject each, and refused together.
    let mut host = Host::new(&format!(
        r#"{{ "default": {{ "rate_limits": [{}, {}, {}, {}, {}] }} }}"#,
        limit("shadow", "client_ip", 1, r#", "shadow": true"#),
        limit("free", "client_ip", 9, r#", "cost": { "header": "x-user", "max": 9 }"#),
        limit("paid", "client_ip", 9, ""),
        limit("last", "const:all", 1, ""),
        limit("room", "const:all", 9, ""),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "0", ip: IpAddr::from([192, 0, 2, 1]) };
    let call = host.call(&ask, now);
    assert!(matches!(host.finish(call, now), Decision::Allow(_)));
    let call = host.call(&ask, now);
    let outcomes = host.perform(&call, now);
    let Step::Decide(mut decision) = call.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    assert!(matches!(decision, Decision::Deny(_)));
    let refunds = decision.settle();
    let [Op::Refund { checks, .. }] = &refunds[..] else { panic!("{refunds:?}") };
    let names: Vec<_> = checks.iter().map(|check| check.key.as_str().rsplit(':').next().unwrap()).collect();
    assert_eq!(names, ["paid"]);
}

/// What the store has given is given back to the store, and what the memory has given in its place
/// to the memory. Where the memory was too busy, there is nothing that could stand in for it.
#[test]
fn a_lock_is_given_back_to_whom_it_was_taken_from() {
    let policy =
        r#"{ "default": { "lock": { "key": ["const:a"], "lease": "30s", "on_store_error": "local" } } }"#;
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    for (failure, told) in [(None, 1), (Some(StoreError::Open), 0)] {
        let mut host = Host::new(policy);
        for round in 0..2 {
            let call = host.call(&ask, now);
            let outcomes = match &failure {
                None => host.perform(&call, now),
                Some(error) => Outcomes::from([Err(error.clone())]),
            };
            let step = call.resume(&mut host.local, outcomes, now);
            let Step::Decide(Decision::Allow(mut admission)) = step else {
                panic!("round {round}: {step:?}")
            };
            let ops = admission.completion().unwrap().ended(&mut host.local, now);
            assert_eq!(ops.len(), told, "{failure:?}: {ops:?}");
            for op in ops {
                host.store.perform(&op, now).unwrap();
            }
        }
    }
    let limited = format!(r#"{{ "default": {{ "rate_limits": [{}] }} }}"#, once("all", "const:all"));
    for (policy, reason) in [(policy, Reason::Unavailable(0)), (&limited, Reason::Limits)] {
        let mut host = Host::new(policy);
        let call = host.call(&ask, now);
        let step = call.resume(&mut host.local, [Err(StoreError::Contention)], now);
        let Step::Decide(Decision::Deny(denial)) = step else { panic!("{step:?}") };
        assert_eq!(*denial.reason(), reason);
    }
}

/// Nobody waits for a lock whose request is refused all the same.
#[test]
fn a_duplicate_does_not_wait_for_the_lock_beside_it() {
    let mut host = Host::new(&format!(
        r#"{{ "default": {{ "rate_limits": [{}],
                "dedup": {{ "key": ["const:a"], "ttl": "1m" }},
                "lock": {{ "key": ["const:a"], "lease": "30s", "wait": "5s" }} }} }}"#,
        once("all", "header:x-user")
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    for (user, duplicate) in [("a", false), ("b", true)] {
        let screen = host.call(&Head { user, ip: IpAddr::from([192, 0, 2, 1]) }, now);
        assert_eq!((screen.claims(), screen.began(), screen.as_ref()), (false, now, screen.batch()));
        let outcomes = host.perform(&screen, now);
        let Step::Call(claim) = screen.resume(&mut host.local, outcomes, now) else {
            panic!("it is admitted")
        };
        assert_eq!((claim.claims(), claim.began(), claim.as_ref().len()), (true, now, 2));
        match host.finish(claim, now) {
            Decision::Allow(_) => assert!(!duplicate),
            Decision::Deny(denial) => assert!(duplicate && matches!(denial.reason(), Reason::Duplicate(_))),
        }
    }
}

/// Who waits asks again in a while, and a host that was asleep for too long does not.
#[test]
fn a_lock_is_waited_for_until_patience_ends() {
    let policy = r#"{ "default": { "lock": { "key": ["const:a"], "lease": "30s", "wait": "5s" } } }"#;
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    for (millis, asks) in [(0, true), (5500, true), (5501, false)] {
        let mut host = Host::new(policy);
        let call = host.call(&ask, now);
        assert!(matches!(host.finish(call, now), Decision::Allow(_)));
        let call = host.call(&ask, now);
        let outcomes = host.perform(&call, now);
        let Step::Later(later) = call.resume(&mut host.local, outcomes, now) else { panic!("it is held") };
        assert!((10..=30).contains(&later.after()), "{}", later.after());
        match later.resume(&mut host.local, now.plus(millis)) {
            Step::Call(_) => assert!(asks, "{millis}"),
            Step::Decide(Decision::Deny(denial)) => {
                assert!(!asks && matches!(denial.reason(), Reason::Locked { .. }), "{millis}");
            }
            step => panic!("{step:?}"),
        }
    }
}

/// The store may keep a revocation for longer than it lasts.
#[test]
fn a_revocation_that_is_over_refuses_nobody() {
    let mut host = Host::new(r#"{ "jwt": { "verified_by": "envoy" }, "default": { "revocation": {} } }"#);
    let mut now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let call = host.call(&ask, now);
    assert_eq!(call.batch().len(), 1, "{:?}", call.batch());
    host.revoke(&call, 1000, now);
    for (passed, is_revoked) in [(0, true), (60_999, true), (1, false)] {
        now = now.plus(passed);
        let call = host.call(&ask, now);
        assert_eq!(matches!(host.finish(call, now), Decision::Deny(_)), is_revoked, "{passed}");
    }
}

/// A store that refuses a probe and says that one is free would be asked for ever.
#[test]
fn a_probe_is_asked_for_once() {
    let mut host = Host::new(
        r#"{ "default": { "circuit_breaker": { "failures": 1, "within": "60s", "open_for": "30s" } } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let free = || Outcome::Breaker { state: BreakerState::HalfOpen { free: 1, for_ms: 1000 }, generation: 1 };
    let view = host.call(&ask, now);
    let Step::Call(probe) = view.resume(&mut host.local, [Ok(free())], now) else {
        panic!("a probe is free")
    };
    assert!(matches!(probe.batch(), [Op::Probe { .. }]));
    let Step::Decide(Decision::Deny(denial)) = probe.resume(&mut host.local, [Ok(free())], now) else {
        panic!("it did not get it")
    };
    assert_eq!(*denial.reason(), Reason::Open { for_ms: 0 });
}

/// Successes cost no call of their own: the breaker is told of them with the next question.
#[test]
fn a_breaker_is_told_of_successes_when_it_is_asked_again() {
    let mut host = Host::new(
        r#"{ "default": { "circuit_breaker": { "ratio": 50, "min_volume": 20, "within": "60s", "open_for": "30s" } } }"#,
    );
    let mut now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    for told in [0, 1, 1] {
        let call = host.call(&ask, now);
        match call.batch() {
            [Op::View { .. }] => assert_eq!(told, 0),
            [Op::Report { successes, failures: 0, .. }] => assert_eq!(*successes, told),
            batch => panic!("{batch:?}"),
        }
        let Decision::Allow(mut admission) = host.finish(call, now) else { panic!("it is closed") };
        let ops = admission.completion().unwrap().responded(&mut host.local, 200, now);
        assert!(ops.is_empty(), "{ops:?}");
        now = now.plus(200);
    }
}

/// A breaker counts instances, and threads of one are one.
#[test]
fn threads_of_an_instance_report_as_one() {
    let now = Timestamp::from_millis(1_800_057_600_000);
    let reporter = |id: [[u8; 8]; 2]| {
        let mut host = Host::new(
            r#"{ "default": { "circuit_breaker": { "failures": 1, "reporters": 2, "within": "60s", "open_for": "30s" } } }"#,
        );
        let memory = Memory::new(HeapShards::default(), 1);
        let id = Id::from_bytes(id.concat().try_into().unwrap());
        host.local = Local::with_store(memory, Remembered::at_most(1), 1, id);
        let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
        let Decision::Allow(mut admission) = host.finish(call, now) else { panic!("it is closed") };
        let ops = admission.completion().unwrap().responded(&mut host.local, 503, now);
        let [Op::Report { reporter, failures: 1, .. }] = ops[..] else { panic!("{ops:?}") };
        reporter
    };
    let one = reporter([[1; 8], [1; 8]]);
    assert_eq!(one, reporter([[1; 8], [2; 8]]));
    assert_ne!(one, reporter([[2; 8], [1; 8]]));
}

/// In shadow mode, what would be marked is counted, and the upstream is told of nothing.
#[test]
fn a_duplicate_is_marked_unless_that_is_a_shadow() {
    for (shadow, ruling, told) in [(false, Ruling::Admitted, true), (true, Ruling::ShadowRefused, false)] {
        let mut host = Host::new(&format!(
            r#"{{ "default": {{ "dedup": {{ "key": ["const:a"], "ttl": "30s", "on_duplicate": "mark", "shadow": {shadow} }} }} }}"#
        ));
        let now = Timestamp::from_millis(1_800_057_600_000);
        let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
        for is_first in [true, false] {
            let call = host.call(&ask, now);
            let Decision::Allow(admission) = host.finish(call, now) else { panic!("it is marked at most") };
            let is_told = admission.onward().any(|(_, value)| value == Some("true"));
            assert_eq!(is_told, told && !is_first, "{shadow}");
            if !is_first {
                assert_eq!(admission.report().guards[0].ruling, ruling);
            }
        }
    }
}

/// A request that is refused for what nobody can tell has had no answer that counts, and pays nothing.
#[test]
fn what_was_charged_before_nobody_could_tell_is_given_back() {
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "verified_by": "envoy" }}, "default": {{ "revocation": {{}}, "rate_limits": [{}, {}] }} }}"#,
        once("user", "claim:sub"),
        once("ip", "client_ip"),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let call = host.call(&ask, now);
    let mut outcomes = host.perform(&call, now);
    *outcomes.last_mut().unwrap() = Err(StoreError::Unreachable);
    let Step::Decide(mut refused) = call.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    assert!(matches!(&refused, Decision::Deny(denial) if matches!(denial.reason(), Reason::Unavailable(_))));
    host.settle(&mut refused, now);
    let call = host.call(&ask, now);
    assert!(matches!(host.finish(call, now), Decision::Allow(_)));
    // Somebody whose token holds and whose quota is used up is known, wherever he comes from.
    let elsewhere = Head { user: "x", ip: IpAddr::from([192, 0, 2, 2]) };
    let call = host.call(&elsewhere, now);
    assert!(matches!(host.finish(call, now), Decision::Deny(_)));
    let Step::Decide(remembered) = host.begin(&elsewhere, now) else { panic!("remembered") };
    assert_eq!(remembered.report().verdicts[0].source, Source::Denials);
}

/// Who asks again and again while nobody can tell whether his token holds is counted by what needs no token.
#[test]
fn an_attempt_with_a_token_that_nobody_can_judge_counts() {
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "algorithms": ["ES256"], "jwks": {{ "url": "https://id.example/jwks.json" }}, "from": "header:x-token" }},
              "default": {{ "token": "required", "rate_limits": [{}, {}, {}] }} }}"#,
        once("user", "claim:sub"),
        once("ip", "client_ip"),
        once("all", "const:all"),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    assert!(matches!(host.begin(&ask, now), Step::FetchKeys));
    host.fetched(None, now).unwrap();
    for reason in [Reason::Unavailable(0), Reason::Limits] {
        let call = host.call(&ask, now);
        let Decision::Deny(denial) = host.finish(call, now) else { panic!("there are no keys") };
        assert_eq!(*denial.reason(), reason);
    }
}

/// What is given back is given back once, and nothing is that was not charged.
#[test]
fn a_status_that_does_not_count_is_given_back_once() {
    let counted = |name: &str, key: &str, more: &str| {
        once(name, key).replace('}', &format!(r#", "count": {{ "statuses": ["5xx"] }}{more} }}"#))
    };
    let mut host = Host::new(&format!(
        r#"{{ "jwt": {{ "verified_by": "envoy" }}, "default": {{ "revocation": {{}}, "rate_limits": [{}, {}] }} }}"#,
        counted("user", "claim:sub", "").replace("\"quota\": 1", "\"quota\": 9"),
        counted("shadow", "client_ip", r#", "shadow": true"#),
    ));
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = |user, last| Head { user, ip: IpAddr::from([192, 0, 2, last]) };
    let names = |ops: &[Op]| -> Vec<String> {
        let checks = ops.iter().flat_map(|op| op.checks().iter());
        checks.map(|check| check.key.as_str().rsplit(':').next().unwrap().to_owned()).collect()
    };
    // The thief's token is revoked: our answer is a 401.
    let call = host.call(&ask(THIEF, 1), now);
    host.revoke(&call, 60_000, now);
    let outcomes = host.perform(&call, now);
    let Step::Decide(mut decision) = call.resume(&mut host.local, outcomes, now) else { panic!("one call") };
    let refunds = decision.settle();
    assert_eq!(names(&refunds), ["user", "shadow"]);
    for op in refunds {
        host.store.perform(&op, now).unwrap();
    }
    // A failure fills both counters; what a shadow lets pass beyond that it has not charged.
    let answered = |host: &mut Host, user, last, status| {
        let call = host.call(&ask(user, last), now);
        let Decision::Allow(mut admission) = host.finish(call, now) else { panic!("there is room") };
        let ops = admission.completion().unwrap().responded(&mut host.local, status, now);
        let names = names(&ops);
        for op in ops {
            host.store.perform(&op, now).unwrap();
        }
        names
    };
    assert_eq!(answered(&mut host, "x", 1, 200), ["user", "shadow"]);
    assert_eq!(answered(&mut host, "x", 1, 500), Vec::<String>::new());
    assert_eq!(answered(&mut host, "x", 1, 200), ["user"]);
}

/// Keys are fetched when a token names one that is not there, refreshed from time to time by one request, and kept when a fetch fails.
#[test]
fn keys_are_fetched_when_they_are_wanted() {
    let mut host = Host::new(
        r#"{ "jwt": { "algorithms": ["ES256"], "jwks": { "url": "https://id.example/jwks.json" }, "from": "header:x-token" },
             "default": { "token": "required" } }"#,
    );
    let known = format!(r#"{{ "keys": [{ES256_KEY}] }}"#);
    let mut now = Timestamp::from_millis(1_800_057_600_000);
    let token = Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) };
    let passes = |host: &mut Host, now| matches!(host.begin(&token, now), Step::Decide(Decision::Allow(_)));
    let refused = |host: &mut Host, now| match host.begin(&token, now) {
        Step::Decide(Decision::Deny(denial)) => *denial.reason(),
        step => panic!("{step:?}"),
    };
    let waits = |host: &mut Host, now| matches!(host.begin(&token, now), Step::FetchKeys);

    // Everybody waits for the first keys; if they do not come, nobody can tell, and nobody asks again at once.
    assert!(waits(&mut host, now) && waits(&mut host, now.plus(1)));
    host.fetched(None, now).unwrap();
    assert_eq!(refused(&mut host, now), Reason::Unavailable(0));
    assert_eq!(refused(&mut host, now.plus(9999)), Reason::Unavailable(0));
    now = now.plus(10_000);
    assert!(waits(&mut host, now));
    assert_eq!(host.fetched(Some("{"), now).unwrap_err().found, "what cannot be read");
    now = now.plus(10_000);
    assert!(waits(&mut host, now));
    host.fetched(Some(r#"{ "keys": [] }"#), now).unwrap();
    // Now the key is unknown, and whoever names it gets no more than one fetch in ten seconds.
    assert_eq!(refused(&mut host, now.plus(9999)), Reason::Token(TokenError::UnknownKey));
    now = now.plus(10_000);
    assert!(waits(&mut host, now) && waits(&mut host, now));
    host.fetched(Some(&known), now).unwrap();
    assert!(passes(&mut host, now));
    // Refreshing costs one request a wait, the others none; and a set that cannot be fetched leaves the old one.
    now = now.plus(300_000);
    assert!(waits(&mut host, now) && passes(&mut host, now));
    host.fetched(None, now).unwrap();
    assert!(passes(&mut host, now.plus(9999)));
    now = now.plus(10_000);
    assert!(waits(&mut host, now));
    // A key that is gone is not believed any longer, although the token's signature was known to hold.
    host.fetched(Some(r#"{ "keys": [] }"#), now).unwrap();
    assert_eq!(refused(&mut host, now), Reason::Token(TokenError::UnknownKey));
    // And one that may be gone is not believed for ever, where nobody can tell.
    now = now.plus(10_000);
    let long_ago = Timestamp::from_millis(now.as_millis() - (300_000 + 86_400_000 - 1));
    host.fetched(Some(&known), long_ago).unwrap();
    assert!(waits(&mut host, now) && passes(&mut host, now));
    host.fetched(None, now).unwrap();
    assert!(passes(&mut host, now));
    assert_eq!(refused(&mut host, now.plus(1)), Reason::Unavailable(0));
}

/// What this instance has revoked itself it refuses, even where the store cannot be asked and the policy goes by that; and what it could
/// not revoke, it does not.
#[test]
fn an_instance_knows_what_it_has_revoked_itself() {
    let now = Timestamp::from_millis(1_800_057_600_000);
    let ask = |user| Head { user, ip: IpAddr::from([192, 0, 2, 1]) };
    for (when, works) in [("at_once", true), ("success", true), ("at_once", false), ("success", false)] {
        let mut host = Host::new(&format!(
            r#"{{ "jwt": {{ "verified_by": "envoy" }},
                  "routes": [{{ "name": "logout", "match": {{ "headers": {{ "x-user": "logout" }} }},
                    "revokes": {{ "what": "token", "when": "{when}" }} }}],
                  "default": {{ "revocation": {{ "on_store_error": "local" }} }} }}"#
        ));
        let failed = || [Err(StoreError::Unreachable)];
        let decision = match host.begin(&ask("logout"), now) {
            Step::Decide(decision) => decision,
            Step::Call(call) if works => host.finish(call, now),
            Step::Call(call) => match call.resume(&mut host.local, failed(), now) {
                Step::Decide(decision) => decision,
                step => panic!("one call: {step:?}"),
            },
            step => panic!("{step:?}"),
        };
        let is_out = match decision {
            Decision::Deny(_) => false,
            Decision::Allow(mut admission) => match admission.completion() {
                None => true,
                Some(mut completion) => match completion.before_answer(&mut host.local, 200, now) {
                    Before::Ask(revoking) if works => {
                        let told = revoking.as_ref().iter().map(|op| host.store.perform(op, now));
                        let told: Vec<_> = told.collect();
                        revoking.resume(&mut host.local, told, now)
                    }
                    Before::Ask(revoking) => revoking.resume(&mut host.local, failed(), now),
                    before => panic!("{before:?}"),
                },
            },
        };
        assert_eq!(is_out, works, "{when}");
        let call = host.call(&ask("x"), now);
        let passes = match call.resume(&mut host.local, failed(), now) {
            Step::Decide(Decision::Allow(_)) => true,
            Step::Decide(Decision::Deny(denial)) => {
                assert_eq!(*denial.reason(), Reason::Revoked);
                false
            }
            step => panic!("one call: {step:?}"),
        };
        assert_eq!(passes, !works, "{when}");
    }
}

/// A limit that is asked by its name counts where requests of the same values do.
#[test]
fn a_limit_can_be_asked_by_its_name() {
    let mut host = Host::new(
        r#"{ "default": { "rate_limits": [
            { "name": "other", "algorithm": "fixed_window", "quota": 1, "window": "1d", "key": ["const:all"] },
            { "name": "user", "algorithm": "fixed_window", "quota": 4, "window": "1d", "key": ["header:x-user", "const:a"], "cost": 2 } ] } }"#,
    );
    let now = Timestamp::from_millis(1_800_057_600_000);
    let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
    assert!(matches!(host.finish(call, now), Decision::Allow(_)));
    let ask = |host: &mut Host, values: &[&str], cost| {
        let step = begin_limit(&host.policy, &mut host.local, "user", values, NonZeroU64::new(cost), now)?;
        Ok(match step {
            Step::Decide(decision) => decision,
            Step::Call(call) => host.finish(call, now),
            step => panic!("{step:?}"),
        })
    };
    let standing = |decision: Result<Decision, LimitError>| {
        let Ok(decision) = decision else { panic!("{decision:?}") };
        let [verdict] = decision.report().verdicts[..] else { panic!("{decision:?}") };
        let standing = verdict.standing.unwrap();
        (matches!(decision, Decision::Allow(_)), verdict.limit, standing.remaining, verdict.source)
    };
    assert_eq!(standing(ask(&mut host, &["x"], 1)), (true, 1, 1, Source::Store), "the request cost two");
    assert_eq!(standing(ask(&mut host, &["x"], 0)), (false, 1, 1, Source::Store), "two, as the policy says");
    assert_eq!(standing(ask(&mut host, &["x"], 2)), (false, 1, 1, Source::Denials));
    assert_eq!(standing(ask(&mut host, &["x"], 1)), (true, 1, 0, Source::Store), "which is still there");
    assert_eq!(standing(ask(&mut host, &["y"], 0)), (true, 1, 2, Source::Store));
    assert_eq!(standing(ask(&mut host, &["y"], 1_000_000_000)), (false, 1, 2, Source::Store));
    assert_eq!(ask(&mut host, &["y"], 1_000_000_001).unwrap_err(), LimitError::Cost);
    assert_eq!(ask(&mut host, &[], 0).unwrap_err(), LimitError::Values);
    assert_eq!(ask(&mut host, &["x", "a"], 0).unwrap_err(), LimitError::Values);
    let unknown = begin_limit(&host.policy, &mut host.local, "nobody", &["x"], None, now);
    assert_eq!(unknown.unwrap_err(), LimitError::Unknown);
}

/// A request that its client broke off is no failure, and has no answer that a limit could count. A limit of what succeeds is not led
/// around so: whoever leaves before the answer may have got what it limits.
#[test]
fn what_a_client_breaks_off_is_given_back_unless_success_counts() {
    let limit = |name: &str, count: &str| {
        format!(
            r#"{{ "name": "{name}", "algorithm": "fixed_window", "quota": 100, "window": "1d", "key": ["const:{name}"], "count": {count} }}"#
        )
    };
    let mut host = Host::new(&format!(
        r#"{{ "default": {{ "rate_limits": [{}, {}, {}],
                "circuit_breaker": {{ "failures": 1, "within": "60s", "open_for": "30s" }} }} }}"#,
        limit("failures", r#""failures""#),
        limit("denied", r#"{ "statuses": ["401", "403"] }"#),
        limit("done", r#"{ "statuses": ["2xx"] }"#),
    ));
    let mut now = Timestamp::from_millis(1_800_057_600_000);
    for (round, left) in [[99, 99, 99], [99, 99, 98], [99, 99, 97]].into_iter().enumerate() {
        let call = host.call(&Head { user: "x", ip: IpAddr::from([192, 0, 2, 1]) }, now);
        let decision = host.finish(call, now);
        let Decision::Allow(mut admission) = decision else { panic!("round {round}: {decision:?}") };
        let remaining = admission.report().verdicts.iter().map(|of| of.standing.unwrap().remaining);
        assert_eq!(remaining.collect::<Vec<_>>(), left, "round {round}");
        let mut completion = admission.completion().unwrap();
        let mut ops = completion.abandoned(&mut host.local, now);
        // Once more, and an answer that comes all the same, change nothing.
        ops.extend(completion.abandoned(&mut host.local, now));
        ops.extend(completion.responded(&mut host.local, 502, now));
        ops.extend(completion.ended(&mut host.local, now));
        assert_eq!(ops.len(), 2, "round {round}: two refunds, and no report of a failure: {ops:?}");
        for op in ops {
            host.store.perform(&op, now).unwrap();
        }
        now = now.plus(200);
    }
}

/// A limit of one in a day.
fn once(name: &str, key: &str) -> String {
    format!(
        r#"{{ "name": "{name}", "algorithm": "fixed_window", "quota": 1, "window": "1d", "key": ["{key}"] }}"#
    )
}

/// A host with a memory in the place of its store.
struct Host {
    policy: Arc<Policy>,
    local: Local<HeapShards>,
    store: Memory<HeapShards>,
}

type Outcomes = tollgate_shared::redis::rest::Outcomes;

impl Host {
    fn new(policy: &str) -> Self {
        let memory = || Memory::new(HeapShards::default(), HeapShards::COUNT);
        let surroundings =
            Surroundings { variables: &|_| None, in_front: Some(VerifiedBy::Envoy), fetches: true };
        let policy = Arc::new(Policy::from_json_in(&surroundings, "", policy.as_bytes()).unwrap());
        Self {
            policy,
            local: Local::with_store(memory(), Remembered::at_most(100), 1, Id::from_bytes([1; 16])),
            store: memory(),
        }
    }

    fn fetched(&mut self, document: Option<&str>, now: Timestamp) -> Result<(), ConfigError> {
        self.local.keys_fetched(&self.policy, document.map(str::as_bytes), now)
    }

    fn begin(&mut self, request: &Head, now: Timestamp) -> Step {
        begin(&self.policy, &mut self.local, request, now)
    }

    fn call(&mut self, request: &Head, now: Timestamp) -> Call {
        match self.begin(request, now) {
            Step::Call(call) => call,
            step => panic!("no call to the store: {step:?}"),
        }
    }

    fn perform(&mut self, call: &Call, now: Timestamp) -> Outcomes {
        call.batch().iter().map(|op| self.store.perform(op, now)).collect()
    }

    fn finish(&mut self, call: Call, now: Timestamp) -> Decision {
        let outcomes = self.perform(&call, now);
        let Step::Decide(mut decision) = call.resume(&mut self.local, outcomes, now) else {
            panic!("one call")
        };
        self.settle(&mut decision, now);
        decision
    }

    /// Has the store revoke the token that `call` asks about last, for so many milliseconds.
    fn revoke(&mut self, call: &Call, millis: u64, now: Timestamp) {
        let [.., Op::IsRevoked { key }] = call.batch() else { panic!("{:?}", call.batch()) };
        let (ttl, reach) = (Span::from_millis(millis).unwrap(), Reach { now, ..Reach::default() });
        self.store.perform(&Op::Revoke { key: key.clone(), ttl, reach }, now).unwrap();
    }

    fn settle(&mut self, decision: &mut Decision, now: Timestamp) {
        for op in decision.settle() {
            self.store.perform(&op, now).unwrap();
        }
    }
}

struct Head {
    user: &'static str,
    ip: IpAddr,
}

impl Request for Head {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"GET");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"/");
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        match name {
            "x-user" => read(self.user.as_bytes()),
            "x-token" => read(ES256_TOKEN.as_bytes()),
            "idempotency-key" => read(b"k"),
            _ => {}
        }
    }

    fn verified_claims(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        match self.user {
            _ if name != "payload" => {}
            FORGER => {}
            THIEF => read(br#"{"sub":"x","jti":"2","iat":1800000000,"exp":1801000000}"#),
            _ => read(br#"{"sub":"x","jti":"1","iat":1800000000,"exp":1801000000}"#),
        }
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.ip)
    }
}

/// A user whose token nobody has verified.
const FORGER: &str = "forger";
/// A user with another token of the same subject.
const THIEF: &str = "thief";
/// A key, and a token that it has signed, valid until 3600 s after 1800057600.
const ES256_KEY: &str = r#"{"kty": "EC", "x": "DudNeBg5BxVzOL4-kkuGedVSoM_rwII5JfJIaaZFR1w", "y": "UdOxEd-0XrnFJ2CNurnyVYMKVmc-7iZfewhbnWNKhYs", "crv": "P-256", "alg": "ES256", "kid": "ES256"}"#;
const ES256_TOKEN: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6IkVTMjU2In0.eyJzdWIiOiJhbm4iLCJpYXQiOjE4MDAwNTc2MDAsImV4cCI6MTgwMDA2MTIwMH0.iivGoj1M8Q9Q3KDAp-S4dkgRPvyIYiA9V4Mube6bMZRCsjYfk2Su8DCHDDD03ZZ9GH9r5OshdCfDIRUvz33OJw";
