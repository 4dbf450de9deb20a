//! What guards know in the mesh they know at the edge, and the other way round: two Envoys and a Worker, one Redis.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tollgate_tests::client::{self, Answer};
use tollgate_tests::stack::{Edge, Stack, StackOptions};
use tollgate_tests::upstream::{Reply, Upstream};
use tollgate_tests::{envoy, ports};

use crate::support::{SECRET, assert_unharmed, eventually, token_of};

/// Whoever was told that he is out is refused with the very next request, wherever he asks.
#[tokio::test]
async fn who_logs_out_anywhere_is_out_everywhere() {
    let jwt =
        json!({ "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "JWT_SECRET" } }] });
    let (stack, _origin) = fleet(json!({
        "jwt": jwt,
        "routes": [{ "name": "logout", "match": { "path": "/logout" }, "revokes": "token" }],
        "default": { "revocation": {} },
    }))
    .await;
    let places = stack.addresses();
    assert_eq!(places.len(), 3, "two Envoys and a Worker");
    for (number, here) in places.iter().enumerate() {
        let bearer = format!("Bearer {}", token_of(&number.to_string()));
        let fields = [("authorization", bearer.as_str())];
        for place in &places {
            assert_eq!(ask(*place, "/account", &fields).await.status, StatusCode::OK);
        }
        assert_eq!(ask(*here, "/logout", &fields).await.status, StatusCode::OK);
        for place in &places {
            assert_eq!(ask(*place, "/account", &fields).await.status, StatusCode::UNAUTHORIZED, "{place}");
        }
    }
    assert_unharmed(&stack);
}

/// An answer given in the mesh is given again at the edge, to the letter.
#[tokio::test]
async fn an_answer_is_given_again_anywhere() {
    let (stack, origin) = fleet(json!({ "default": { "idempotency": { "key": ["const:all"] } } })).await;
    let places = stack.addresses();
    for (number, here) in places.iter().enumerate() {
        let key = format!("key-{number}");
        let fields = [("idempotency-key", key.as_str())];
        let first = ask(*here, "/orders?a=1", &fields).await;
        assert_eq!(first.status, StatusCode::OK);
        for place in &places {
            // The answer is kept behind it.
            let again = async || ask(*place, "/orders?a=1", &fields).await;
            let again = eventually("it is kept", again, |answer| answer.status == 200).await;
            assert_eq!(again.headers["idempotent-replayed"], "true", "{place}");
            assert_eq!(
                (again.body, again.headers.get("content-type")),
                (first.body.clone(), first.headers.get("content-type"))
            );
        }
    }
    assert_eq!(origin.requests(), places.len() as u64, "each was carried out once");
    assert_unharmed(&stack);
}

/// What fails for one is left alone by all.
#[tokio::test]
async fn a_breaker_that_opens_opens_for_all() {
    let breaker = json!({ "name": "origin", "failures": 3, "within": "60s", "open_for": "60s" });
    let (stack, origin) = fleet(json!({ "default": { "circuit_breaker": breaker } })).await;
    let places = stack.addresses();
    origin.set_reply(Reply { status: StatusCode::BAD_GATEWAY, ..Reply::default() });
    for place in &places {
        assert_eq!(ask(*place, "/", &[]).await.status, StatusCode::BAD_GATEWAY);
    }
    for place in &places {
        let refused = async || ask(*place, "/", &[]).await;
        let refused = eventually("it is open", refused, |answer| answer.status == 503).await;
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(body["error"]["code"], "CIRCUIT_OPEN");
    }
    assert_unharmed(&stack);
}

/// A lock that is held in the mesh is held at the edge.
#[tokio::test]
async fn a_lock_that_is_held_anywhere_is_held_everywhere() {
    let (stack, origin) =
        fleet(json!({ "default": { "lock": { "name": "job", "key": ["const:all"], "lease": "30s" } } }))
            .await;
    let places = stack.addresses();
    for here in &places {
        origin.set_reply(Reply { delay: Duration::from_secs(2), ..Reply::default() });
        let before = origin.requests();
        let here = *here;
        // The lock is released behind the answer of who held it before.
        let holder =
            tokio::spawn(async move { while ask(here, "/", &[]).await.status == StatusCode::CONFLICT {} });
        eventually("it is held", async || origin.requests(), |requests| *requests > before).await;
        origin.set_reply(Reply::default());
        for place in &places {
            assert_eq!(ask(*place, "/", &[]).await.status, StatusCode::CONFLICT, "{place}");
        }
        holder.await.unwrap();
        let free = async || ask(places[0], "/", &[]).await.status;
        eventually("it is free", free, |status| *status == 200).await;
    }
    assert_unharmed(&stack);
}

async fn fleet(policy: Value) -> (Stack, Upstream) {
    let origin = Upstream::start(ports::free().unwrap()).await.unwrap();
    let edge = Edge::new(1, origin.address()).with("JWT_SECRET", SECRET);
    let options = StackOptions {
        replicas: 2,
        edge: Some(edge),
        variables: vec![("JWT_SECRET".into(), SECRET.into())],
        upstream: envoy::Upstream::Address(origin.address()),
        ..StackOptions::new(policy)
    };
    (Stack::start(options).await.unwrap(), origin)
}

async fn ask(place: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::post(path).header("host", "tollgate.test");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::send(place, request.body(Full::default()).unwrap()).await.unwrap()
}
