//! Keys of tokens that are fetched, from a server that is as slow or as wrong as it is told to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_tests::load::Load;
use tollgate_tests::ports;
use tollgate_tests::stack::StoreChoice;
use tollgate_tests::upstream::{Reply, ReplyBody, Upstream};

use crate::Site;
use crate::failures::{assert_problem, panic};
use crate::guards::ask;
use crate::support::{NOW, assert_unharmed, eventually, key_set, valid_tokens};

#[tokio::test]
async fn tokens_of_keys_that_are_fetched_hold_and_others_do_not() {
    let (site, issuer) = site().await;
    issuer.set_reply(keys(&ALGORITHMS));
    for algorithm in ALGORITHMS {
        let token = &valid_tokens(algorithm)[0];
        // The second time, what holds is known.
        for _ in 0..2 {
            assert_eq!(ask(site.address(), "/", token, NOW).await.status, StatusCode::OK, "{algorithm}");
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
        let forged = ask(site.address(), "/", &forged, NOW).await;
        assert_problem(&forged, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    }
    assert_eq!(issuer.requests(), 1);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_needed_and_an_old_one_is_gone_after_a_refresh() {
    let (site, issuer) = site().await;
    let [old, new] = ["ES256", "EdDSA"].map(|algorithm| valid_tokens(algorithm)[0].clone());
    let at = async |token: &str, time| ask(site.address(), "/", token, NOW + time).await.status;
    issuer.set_reply(keys(&["ES256"]));
    assert_eq!(at(&old, 0).await, StatusCode::OK);
    issuer.set_reply(keys(&["EdDSA"]));
    assert_eq!((at(&old, 1).await, at(&new, 2).await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    assert_eq!(issuer.requests(), 1, "anybody can name a key that is not there");
    assert_eq!((at(&new, 10_000).await, at(&old, 10_001).await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    assert_eq!(issuer.requests(), 2);
    // Nobody asks for what comes next, but in time it is fetched all the same.
    issuer.set_reply(keys(&["ES256"]));
    assert_eq!((at(&new, 309_999).await, issuer.requests()), (StatusCode::OK, 2));
    assert_eq!((at(&new, 310_000).await, issuer.requests()), (StatusCode::UNAUTHORIZED, 3));
    assert_eq!(at(&old, 310_001).await, StatusCode::OK);
    // What cannot be fetched leaves what there is.
    issuer.set_reply(Reply { status: StatusCode::BAD_GATEWAY, ..keys(&["EdDSA"]) });
    assert_eq!((at(&old, 610_000).await, issuer.requests()), (StatusCode::OK, 4));
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn nobody_passes_until_keys_can_be_fetched() {
    let (site, issuer) = site().await;
    let elsewhere = Upstream::start(ports::free().unwrap()).await.unwrap();
    elsewhere.set_reply(keys(&ALGORITHMS));
    let location = format!("http://{}/keys", elsewhere.address());
    let location = (HeaderName::from_static("location"), HeaderValue::from_str(&location).unwrap());
    let status = |status| Reply { status, ..keys(&ALGORITHMS) };
    let body = |body: String| Reply { body: ReplyBody::Bytes(body.into()), ..Reply::default() };
    let document = key_set(&ALGORITHMS);
    let padded = |bytes: usize| body(document.clone() + &" ".repeat(bytes - document.len()));
    let token = &valid_tokens("RS256")[0];
    let mut now = NOW;
    for (why, reply) in [
        ("expected a JWK Set", body("{".into())),
        ("no list called `keys`", body("{}".into())),
        ("status 500", status(StatusCode::INTERNAL_SERVER_ERROR)),
        ("status 404", status(StatusCode::NOT_FOUND)),
        ("65537 bytes", padded(65_537)),
        ("65537 bytes", padded(1_000_000)),
        ("status 302", Reply { headers: vec![location], ..status(StatusCode::FOUND) }),
        ("keys stay as they were", Reply { body: ReplyBody::Cut("{".into()), ..Reply::default() }),
    ] {
        issuer.set_reply(reply);
        let before = (issuer.requests(), warnings(&site, why));
        // Who comes after that does not ask again at once.
        for time in [now, now + 9_999] {
            let refused = ask(site.address(), "/", token, time).await;
            assert_problem(&refused, StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE");
        }
        let after = (issuer.requests(), warnings(&site, why));
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{why}:\n{}", site.log());
        now += 10_000;
    }
    assert_eq!((elsewhere.requests(), site.origin.requests()), (0, 0));
    issuer.set_reply(padded(65_536));
    assert_eq!(ask(site.address(), "/", token, now).await.status, StatusCode::OK);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_server_of_keys_that_is_silent_or_down_is_waited_for_five_seconds_at_most() {
    let (site, issuer) = site().await;
    let token = &valid_tokens("ES256")[0];
    let silent = Reply { delay: Duration::from_secs(60), ..keys(&ALGORITHMS) };
    let unfinished = Reply { body: ReplyBody::Unfinished("{".into()), ..Reply::default() };
    for (round, reply) in (0..).zip([silent, unfinished]) {
        issuer.set_reply(reply);
        let begun = Instant::now();
        let refused = ask(site.address(), "/", token, NOW + round * 10_000).await;
        assert_problem(&refused, StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE");
        let waited = begun.elapsed();
        assert!((5..9).contains(&waited.as_secs()), "{waited:?}");
    }
    let port = issuer.address().port();
    drop(issuer);
    let refused = ask(site.address(), "/", token, NOW + 20_000).await;
    assert_problem(&refused, StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE");
    let issuer = Upstream::start(port).await.unwrap();
    issuer.set_reply(keys(&ALGORITHMS));
    assert_eq!(ask(site.address(), "/", token, NOW + 30_000).await.status, StatusCode::OK);
    assert_eq!(site.origin.requests(), 1);
    assert_unharmed(&site.stack);
}

/// What one request waits for must not be another's, or the runtime takes it for hung; once keys are there, nobody waits.
#[tokio::test]
async fn many_that_come_before_the_keys_all_pass() {
    let (site, issuer) = site().await;
    issuer.set_reply(Reply { delay: Duration::from_millis(300), ..keys(&ALGORITHMS) });
    let load = async || {
        let load = Load {
            request: Arc::new(move |number| {
                let tokens = ALGORITHMS.map(|algorithm| valid_tokens(algorithm)[0].clone());
                with_token(&tokens[usize::try_from(number).unwrap() % tokens.len()])
            }),
            ..Load::new(vec![site.address()], 64, "/")
        };
        load.run().await.unwrap()
    };
    let report = load().await;
    assert_eq!((report.count(200), report.failed()), (64, 0), "{report:?}\n{}", site.log());
    let fetched = issuer.requests();
    println!("64 at once fetched {fetched} times");
    assert!((1..=64).contains(&fetched), "{fetched}");
    let report = load().await;
    assert_eq!((report.count(200), issuer.requests()), (64, fetched), "{report:?}");
    assert_unharmed(&site.stack);
}

/// Those who wait for keys begin anew, and so do the keys.
#[tokio::test]
async fn a_panic_is_not_felt_by_who_waits_for_keys() {
    let (site, issuer) = site().await;
    issuer.set_reply(Reply { delay: Duration::from_millis(400), ..keys(&ALGORITHMS) });
    let token = &valid_tokens("EdDSA")[0];
    let mut others = JoinSet::new();
    for _ in 0..10 {
        let (address, token) = (site.address(), token.clone());
        others.spawn(async move { ask(address, "/", &token, NOW).await });
    }
    eventually("they wait for keys", async || issuer.requests(), |came| *came == 10).await;
    panic(&site).await;
    for answer in others.join_all().await {
        assert_eq!(answer.status, StatusCode::OK, "{answer}\n{}", site.log());
    }
}

/// Whoever is on the way could put keys of his own in the place of these.
#[tokio::test]
async fn keys_are_not_fetched_over_a_network_in_the_clear() {
    let policy = policy("http://id.example.com/keys");
    let site = Site::start_with(policy, StoreChoice::None, |edge| edge).await;
    let answer = ask(site.address(), "/", &valid_tokens("RS256")[0], NOW).await;
    assert_problem(&answer, StatusCode::INTERNAL_SERVER_ERROR, "TOLLGATE_MISCONFIGURED");
    let found = "TOLLGATE_POLICY.jwt.jwks.url: found `http://id.example.com/keys`, expected `https://…`";
    assert!(site.log().contains(found), "{}", site.log());
}

/// A Worker that asks everybody for a token, and the server of its keys.
async fn site() -> (Site, Upstream) {
    let issuer = Upstream::start(ports::free().unwrap()).await.unwrap();
    let policy = policy(&format!("http://{}/keys", issuer.address()));
    let site = Site::start_with(policy, StoreChoice::None, |mut edge| {
        edge.test_clock = true;
        edge
    });
    (site.await, issuer)
}

fn policy(url: &str) -> Value {
    json!({
        "jwt": { "algorithms": ALGORITHMS, "jwks": { "url": url } },
        "default": { "token": "required" },
    })
}

/// The server has keys of these algorithms.
fn keys(algorithms: &[&str]) -> Reply {
    Reply { body: ReplyBody::Bytes(key_set(algorithms).into()), ..Reply::default() }
}

fn with_token(token: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", "tollgate.test");
    let request = request.header("authorization", format!("Bearer {token}"));
    request.header("x-tollgate-test-now", NOW.to_string()).body(Full::default()).unwrap()
}

/// How many lines of the log say this of keys.
fn warnings(site: &Site, why: &str) -> usize {
    let log = site.log();
    log.lines().filter(|line| line.contains("jwt.jwks: ") && line.contains(why)).count()
}

const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];
