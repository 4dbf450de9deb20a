//! What each action does to the traffic, and what it answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tollgate_shared::store::StoreError;

use crate::description::{self, Status, questions, succeeding};
use crate::host::{Head, Host, code_of, json_of, policy, token};

#[test]
fn a_limit_is_inspected_without_a_charge_and_reset_with_what_was_remembered() {
    for mut host in hosts() {
        let ada = json!({ "name": "searches", "key": ["ada"] });
        let (search, other) = (visitor("/search", "ada"), visitor("/search", "bob"));
        let fresh = json!({ "limit": 2, "remaining": 2, "resetAfterMs": 0 });
        assert_eq!(host.act("limits/inspect", &ada), fresh);
        assert_eq!([(); 3].map(|()| host.visit(&search)), [200, 200, 429]);
        assert_eq!(host.visit(&other), 200);
        for _ in 0..3 {
            let counter = host.act("limits/inspect", &ada);
            assert_eq!((&counter["limit"], &counter["remaining"]), (&json!(2), &json!(0)));
            let rest = counter["resetAfterMs"].as_u64().unwrap();
            assert!((3_500_000..=3_600_000).contains(&rest), "{rest}");
        }
        assert_eq!(host.act("limits/reset", &ada), json!({ "status": "ok", "everywhereAfterMs": 1000 }));
        assert_eq!(host.act("limits/inspect", &ada), fresh);
        assert_eq!([(); 3].map(|()| host.visit(&search)), [200, 200, 429]);
        assert_eq!([(); 2].map(|()| host.visit(&other)), [200, 429], "nobody else's");
    }
}

#[test]
fn tokens_are_revoked_by_value_by_name_and_by_subject() {
    for mut host in hosts() {
        let now = host.now.as_millis() / 1000;
        let claims = |sub: &str, jti: &str| json!({ "iss": "https://id", "sub": sub, "jti": jti, "iat": now, "exp": now + 600 });
        let nameless = json!({ "sub": "bob", "iat": now, "exp": now + 600 });
        let [one, two, eve, bob] = [claims("ada", "1"), claims("ada", "2"), claims("eve", "3"), nameless]
            .map(|claims| token(&claims));
        let visit = |host: &mut Host| {
            [&one, &two, &eve, &bob].map(|token| {
                host.visit(&Head::new("GET", "/account").with("authorization", &format!("Bearer {token}")))
            })
        };
        assert_eq!(visit(&mut host), [200, 200, 200, 200]);
        assert_eq!(
            visit(&mut host),
            [200, 200, 200, 200],
            "believed for half a minute, none of which is waited for"
        );
        let answer = host.act("revoke", &json!({ "token": one }));
        assert_eq!(answer["status"], "ok");
        assert!((590_000..=600_000).contains(&answer["forMs"].as_u64().unwrap()), "{answer}");
        assert_eq!(visit(&mut host), [401, 200, 200, 200]);
        host.act("revoke", &json!({ "token": bob }));
        assert_eq!(visit(&mut host), [401, 200, 200, 401]);
        host.act("revoke", &json!({ "jti": "3" }));
        assert_eq!(visit(&mut host), [401, 200, 200, 401], "of another issuer, or of none");
        let answer = host.act("revoke", &json!({ "jti": "3", "issuer": "https://id" }));
        assert_eq!(answer["forMs"], 3_600_000);
        assert_eq!(visit(&mut host), [401, 200, 401, 401]);
        host.act("revoke", &json!({ "subject": "ada", "issuer": "https://id" }));
        assert_eq!(visit(&mut host), [401, 401, 401, 401]);
    }
}

/// The issuer is ahead of the host by less than the leeway: its tokens are accepted, and none of them survives.
#[test]
fn what_a_fast_issuer_issued_is_revoked_too_and_the_answer_says_until_when() {
    let mut policy = policy();
    policy["jwt"]["leeway"] = json!("5s");
    for mut host in [Host::new(&policy), Host::without_store(&policy)] {
        let now = host.now.as_millis() / 1000;
        let account = |issued: u64| {
            let token = token(&json!({ "sub": "ada", "iat": issued, "exp": now + 600 }));
            Head::new("GET", "/account").with("authorization", &format!("Bearer {token}"))
        };
        assert_eq!([now, now + 3].map(|issued| host.visit(&account(issued))), [200, 200]);
        let answer = host.act("revoke", &json!({ "subject": "ada" }));
        let from = answer["newTokensFrom"].as_u64().unwrap();
        assert_eq!(from, now + 6);
        assert_eq!([now, now + 3, from - 1].map(|issued| host.visit(&account(issued))), [401; 3]);
        host.now = host.now.plus(1000);
        assert_eq!(host.visit(&account(from)), 200);
    }
}

#[test]
fn the_issuer_of_the_policy_is_meant_and_no_other_can_be() {
    let mut policy = policy();
    policy["jwt"]["issuer"] = json!("https://id");
    policy["jwt"]["audience"] = json!(["api"]);
    let mut host = Host::new(&policy);
    let now = host.now.as_millis() / 1000;
    let claims = |jti: &str, issuer: &str, audience: &str| {
        token(
            &json!({ "iss": issuer, "aud": audience, "sub": "ada", "jti": jti, "iat": now, "exp": now + 600 }),
        )
    };
    let [one, two] = ["1", "2"].map(|jti| {
        Head::new("GET", "/account")
            .with("authorization", &format!("Bearer {}", claims(jti, "https://id", "api")))
    });
    assert_eq!([&one, &two].map(|head| host.visit(head)), [200, 200]);
    host.act("revoke", &json!({ "jti": "1" }));
    assert_eq!([&one, &two].map(|head| host.visit(head)), [401, 200]);
    host.act("revoke", &json!({ "subject": "ada" }));
    assert_eq!([&one, &two].map(|head| host.visit(head)), [401, 401]);
    for (body, detail) in [
        (
            json!({ "jti": "1", "issuer": "https://other" }),
            "issuer: the policy accepts no tokens of this issuer",
        ),
        (json!({ "subject": "ada", "issuer": "" }), "issuer: the policy accepts no tokens of this issuer"),
        (json!({ "token": claims("3", "https://other", "api") }), "token: the token is from another issuer"),
        (json!({ "token": claims("3", "https://id", "web") }), "token: the token is for another audience"),
    ] {
        let answer = host.post("revoke", &body);
        assert_eq!(code_of(&answer), (400, "INVALID_BODY".into()), "{body}");
        let found = json_of(&answer)["detail"].as_str().unwrap().to_owned();
        assert!(found.contains(detail), "{found}");
    }
}

/// What has been revoked here is refused here, whatever the store says then.
#[test]
fn what_was_revoked_is_known_when_the_store_is_gone() {
    let mut policy = policy();
    policy["routes"][0]["revocation"] = json!({ "on_store_error": "local" });
    let mut host = Host::new(&policy);
    let now = host.now.as_millis() / 1000;
    let token = token(&json!({ "jti": "1", "iat": now, "exp": now + 600 }));
    let account = Head::new("GET", "/account").with("authorization", &format!("Bearer {token}"));
    host.act("revoke", &json!({ "token": token }));
    host.failure = Some(StoreError::Unreachable);
    assert_eq!(host.visit(&account), 401);
}

#[test]
fn a_token_that_is_none_is_not_revoked() {
    let mut host = Host::new(&policy());
    for (body, detail) in [
        (json!({ "token": "a.b" }), "token: the token is malformed"),
        (json!({ "token": token(&json!({ "jti": "1" })) }), "token: "),
        (json!({}), "found none of them, expected `token` alone"),
        (json!({ "token": "a", "jti": "b" }), "found `token` and `jti`"),
        (json!({ "token": "a", "issuer": "b" }), "found `token` and `issuer`"),
        (json!({ "issuer": "b" }), "found `issuer`"),
    ] {
        let answer = host.post("revoke", &body);
        assert_eq!(code_of(&answer), (400, "INVALID_BODY".into()), "{body}");
        let found = json_of(&answer)["detail"].as_str().unwrap().to_owned();
        assert!(found.contains(detail), "{found}");
    }
}

#[test]
fn a_policy_that_revokes_nothing_says_so() {
    let mut bounded = policy();
    bounded["jwt"].as_object_mut().unwrap().remove("max_lifetime");
    let mut host = Host::new(&bounded);
    assert_eq!(
        host.act("revoke", &json!({ "jti": "1" }))["forMs"],
        366_u64 * 86_400_000,
        "as long as can be"
    );
    let answer = host.post("revoke", &json!({ "subject": "ada" }));
    assert_eq!(code_of(&answer), (409, "NOT_IN_POLICY".into()));
    let mut host = Host::new(&json!({}));
    for body in [json!({ "token": "a.b.c" }), json!({ "jti": "1" }), json!({ "subject": "ada" })] {
        assert_eq!(code_of(&host.post("revoke", &body)), (409, "NOT_IN_POLICY".into()), "{body}");
    }
}

#[test]
fn a_breaker_is_opened_for_a_time_and_closed() {
    for mut host in hosts() {
        let (shop, breaker) = (visitor("/shop", "ada"), json!({ "name": "shop" }));
        let mut closed = json!({ "state": "closed", "generation": 0, "forMs": 0, "freeProbes": 0 });
        assert_eq!(host.act("breakers/inspect", &breaker), closed);
        assert_eq!(host.visit(&shop), 200, "and it is remembered that it was closed");
        let opened = host.act("breakers/open", &json!({ "name": "shop", "for": "1m" }));
        assert_eq!((&opened["state"], &opened["forMs"]), (&json!("open"), &json!(60_000)));
        assert!(opened["generation"].as_u64().unwrap() > 0);
        assert_eq!(host.visit(&shop), 503);
        closed["everywhereAfterMs"] = json!(1000);
        assert_eq!(host.act("breakers/close", &breaker), closed);
        assert_eq!(host.visit(&shop), 200, "although it is remembered that it was open");
        host.act("breakers/open", &json!({ "name": "shop", "for": "1m" }));
        host.now = host.now.plus(60_000);
        let half_open = host.act("breakers/inspect", &breaker);
        assert_eq!((&half_open["state"], &half_open["freeProbes"]), (&json!("half_open"), &json!(1)));
        assert_eq!(host.visit(&shop), 200, "a probe");
    }
}

#[test]
fn a_lock_is_taken_extended_and_released_by_its_holder() {
    for mut host in hosts() {
        let report = visitor("/report", "ada");
        let lock = |more: Value| {
            let mut body = json!({ "name": "report", "key": ["ada"] });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let taken = host.act("locks/acquire", &lock(json!({ "lease": "10s" })));
        assert_eq!(taken["forMs"], 10_000);
        let holder = || taken["holder"].clone();
        assert_eq!(host.visit(&report), 423);
        let refused = host.post("locks/acquire", &lock(json!({})));
        assert_eq!(code_of(&refused), (409, "LOCKED".into()));
        assert_eq!(refused.headers.get("retry-after"), Some("10"));
        let stranger = json!({ "holder": "0".repeat(32) });
        for path in ["locks/extend", "locks/release"] {
            assert_eq!(
                code_of(&host.post(path, &lock(stranger.clone()))),
                (409, "LOCK_LOST".into()),
                "{path}"
            );
        }
        let extended = host.act("locks/extend", &lock(json!({ "holder": holder() })));
        assert_eq!((&extended["fence"], &extended["forMs"]), (&taken["fence"], &json!(30_000)));
        host.now = host.now.plus(20_000);
        assert_eq!(host.visit(&report), 423, "still");
        assert_eq!(
            host.act("locks/release", &lock(json!({ "holder": holder() }))),
            json!({ "status": "ok" })
        );
        assert_eq!(host.visit(&report), 200);
        let own = json!({ "holder": "ab".repeat(16) });
        let next = host.act("locks/acquire", &lock(own.clone()));
        assert!(next["fence"].as_u64() > taken["fence"].as_u64(), "{next} after {taken}");
        assert_eq!(host.act("locks/acquire", &lock(own)), next, "who asks again has what he had");
        host.now = host.now.plus(30_001);
        assert_eq!(code_of(&host.post("locks/extend", &lock(json!({ "holder": "ab".repeat(16) })))).0, 409);
    }
}

#[test]
fn what_is_marked_is_a_duplicate_until_it_is_forgotten() {
    for mut host in hosts() {
        let (order, ada) = (visitor("/order", "ada"), json!({ "name": "order", "key": ["ada"] }));
        let first = host.act("dedup/mark", &ada);
        assert_eq!((&first["first"], &first["forMs"]), (&json!(true), &json!(300_000)));
        let second = host.act("dedup/mark", &ada);
        assert_eq!(second["first"], false);
        let again = json!({ "name": "order", "key": ["ada"], "holder": first["holder"] });
        assert_eq!(host.act("dedup/mark", &again)["first"], true, "the same one, whose answer was lost");
        assert_eq!(host.visit(&order), 208);
        assert_eq!(host.act("dedup/forget", &ada), json!({ "status": "ok" }));
        assert_eq!([(); 2].map(|()| host.visit(&order)), [200, 208]);
        assert_eq!(host.act("dedup/mark", &ada)["first"], false, "requests count too");
    }
}

/// Who does not know his name could not end what is held for him, and who does may ask again.
#[test]
fn what_may_have_been_taken_is_given_back_unless_its_holder_has_a_name() {
    let mut host = Host::new(&policy());
    let named = json!({ "name": "report", "key": ["ada"], "holder": "ab".repeat(16) });
    for (path, name) in [("locks/acquire", "report"), ("dedup/mark", "order")] {
        let body = json!({ "name": name, "key": ["ada"] });
        host.failure = Some(StoreError::Timeout);
        assert_eq!(host.post(path, &body).status, 503);
        host.failure = None;
        let taken = host.act(path, &body);
        assert!(taken["holder"].is_string() && taken["first"] != false, "{taken}");
    }
    host.now = host.now.plus(30_001);
    host.failure = Some(StoreError::Timeout);
    assert_eq!(host.post("locks/acquire", &named).status, 503);
    host.failure = None;
    assert_eq!(host.visit(&visitor("/report", "ada")), 423);
    host.act("locks/acquire", &named);
}

/// No success is made up.
#[test]
fn what_the_store_does_not_confirm_is_not_done() {
    let mut host = Host::new(&policy());
    let lock = json!({ "name": "report", "key": ["ada"] });
    host.failure = Some(StoreError::Timeout);
    for (path, body) in succeeding() {
        let answer = host.post(path, &body);
        host.local.store_answered();
        assert_eq!(code_of(&answer), (503, "STORE_UNAVAILABLE".into()), "{path}");
        assert_eq!(answer.headers.get("retry-after"), Some("1"), "{path}");
        let detail = json_of(&answer)["detail"].as_str().unwrap().to_owned();
        let expected = "It is not known whether this was done: the store did not answer in time.";
        assert!(detail.starts_with(expected), "{detail}");
    }
    host.failure = None;
    host.act("locks/acquire", &lock);
    host.failure = Some(StoreError::Unreachable);
    for _ in 0..3 {
        host.visit(&visitor("/search", "ada"));
    }
    let answer = host.post("locks/acquire", &lock);
    let detail = json_of(&answer)["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("This was not done: the store is not asked"), "{detail}");
}

#[test]
fn details_say_how_the_store_is_now() {
    let mut host = Host::new(&policy());
    let answer = host.get("health/detailed");
    let healthy = json!({ "name": "redis", "status": "healthy", "message": "the store answers",
                          "details": { "latency": 3, "circuitBreakerOpen": false } });
    let version = env!("CARGO_PKG_VERSION");
    let expected = json!({ "status": "ok", "version": version, "checks": [healthy], "overall": "healthy" });
    assert_eq!((answer.status, json_of(&answer)), (200, expected));
    host.failure = Some(StoreError::Status(401));
    for _ in 0..3 {
        host.visit(&visitor("/search", "ada"));
    }
    let answer = host.get("health/detailed");
    let sick = json!({ "name": "redis", "status": "unhealthy", "message": "the store refused the token",
                       "details": { "latency": 3, "circuitBreakerOpen": true } });
    let expected =
        json!({ "status": "degraded", "version": version, "checks": [sick], "overall": "unhealthy" });
    assert_eq!((answer.status, json_of(&answer)), (503, expected), "asked although it is left alone");
    host.failure = None;
    assert_eq!(host.get("health/detailed").status, 200);
    let answer = Host::without_store(&policy()).get("health/detailed");
    let check = &json_of(&answer)["checks"][0];
    assert_eq!(
        (answer.status, &check["name"], &check["details"]["latency"]),
        (200, &json!("memory"), &json!(null))
    );
}

/// Provokes all that is described.
pub(crate) fn every_status() -> BTreeSet<Status> {
    let mut host = Host::new(&description::policy());
    for failure in [None, Some(StoreError::Unreachable)] {
        host.failure = failure;
        for (method, path, is_authorized, body) in questions() {
            let head = Head::new(&method, &format!("/.tollgate{path}"));
            host.send(&if is_authorized { head.authorized() } else { head }, &body);
        }
    }
    host.seen.into_inner()
}

fn hosts() -> [Host; 2] {
    [Host::new(&policy()), Host::without_store(&policy())]
}

fn visitor(path: &str, user: &str) -> Head {
    Head::new("GET", path).with("x-user", user)
}
