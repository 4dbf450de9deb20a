//! The `envoy.yaml` that newcomers start with does what its comments say, and a wrong plugin configuration says what is
//! wrong with it instead of letting everybody past.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tollgate_tests::envoy::{self, Envoy, Filter, Listener, Upstream};
use tollgate_tests::gateway::{Gateway, TOKEN_VARIABLE};
use tollgate_tests::metrics::Metrics;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::Redis;
use tollgate_tests::{client, ports, run_dir, tools};

use support::{assert_no_trap, limit, policy, with};

#[tokio::test]
async fn the_sixth_login_is_refused() {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    let gateway = Gateway::start(&dir, ports::free().unwrap(), &redis.url(), "secret").await.unwrap();
    let [front, admin] = [(); 2].map(|()| ports::local(ports::free().unwrap()));
    let wasm = tools::filter_wasm().unwrap();
    let yaml = [
        ("port_value: 10000", format!("port_value: {}", front.port())),
        ("port_value: 9901", format!("port_value: {}", admin.port())),
        ("port_value: 8079", format!("port_value: {}", gateway.address().port())),
        ("target/tollgate_filter.wasm", wasm.to_str().unwrap().to_owned()),
        // A machine that runs many tests at once may be slower than any Redis.
        ("\"timeout\": \"50ms\"", "\"timeout\": \"10s\"".to_owned()),
    ]
    .iter()
    .fold(yaml(), |yaml, (from, to)| {
        assert!(yaml.contains(from), "`envoy.yaml` has no `{from}` any more");
        yaml.replace(from, to)
    });
    let path = dir.join("envoy.yaml");
    fs::write(&path, yaml).unwrap();
    let args = ["--config-path", path.to_str().unwrap(), "--concurrency", "2", "--disable-hot-restart"];
    let envoy = Process::start(Spec {
        name: "envoy".into(),
        program: tools::envoy().unwrap(),
        args: args.map(Into::into).into(),
        env: vec![(TOKEN_VARIABLE.into(), "secret".into())],
        dir,
        ready: Ready::http(admin, "/ready"),
        ready_within: Duration::from_secs(30),
    });
    let envoy = envoy.await.unwrap();

    for _ in 0..5 {
        let answer = post(front, "/auth/login").await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "passed\n"), "{answer}");
    }
    let refusal = post(front, "/auth/../auth//login/").await;
    assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS, "{refusal}");
    assert_eq!(refusal.json().unwrap()["violated-policies"], json!(["login-ip"]));
    let api = client::get(front, "/api/things", &[]).await.unwrap();
    assert_eq!(
        api.header("ratelimit-policy"),
        Some("\"api-burst\";q=600;w=60, \"api-daily\";q=10000;w=86400"),
        "{api}"
    );
    // Cutting off the parameter makes a `..` that nobody else sees. Envoy resolves it where it is written plainly.
    for path in ["/api/%2e%2e;/x", "/api\\..;/x", "/api%5C..;/x", "/x/%2e%2e;/api/y"] {
        let answer = client::get(front, path, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {answer}");
    }
    let (began, mut passed) = (Instant::now(), 0);
    for number in 0..200 {
        let key = format!("key-{number}");
        let answer = client::get(front, "/api/things", &[("x-api-key", &key)]).await.unwrap();
        passed += u128::from(answer.status == StatusCode::OK);
    }
    // The burst, and ten a second.
    let at_most = 21 + began.elapsed().as_millis() / 100;
    assert!(passed <= at_most, "{passed} requests with made-up keys passed, and not {at_most}");
    let health = client::get(front, "/healthz", &[]).await.unwrap();
    assert_eq!((health.status, health.header("ratelimit")), (StatusCode::OK, None), "{health}");

    let page = client::get(admin, "/stats/prometheus", &[]).await.unwrap();
    let metrics = Metrics::parse(&page.text());
    assert_eq!(metrics.sum("rate_limit_exceeded_total", &[("limit", "login-ip")]), 1.0);
    for (name, label) in [
        ("rate_limit_degraded_total", "mode"),
        ("redis_connection_errors_total", "kind"),
        ("redis_operation_duration_seconds_bucket", "le"),
    ] {
        assert!(
            metrics.named(name, &[]).next().is_some_and(|sample| sample.labels.contains_key(label)),
            "{name}"
        );
    }
    assert_no_trap(&envoy);
}

#[test]
fn the_policy_in_envoy_yaml_is_policy_json() {
    let mut file: Value = serde_json::from_slice(&fs::read(top("policy.json")).unwrap()).unwrap();
    file.as_object_mut().unwrap().remove("$schema");
    assert_eq!(plugin_configuration()["policy"], file);
}

/// Envoy does not start, and its log names the field.
#[tokio::test]
async fn a_wrong_configuration_is_refused_with_the_field_at_fault() {
    let good = || {
        let store = json!({ "cluster": "store", "token": "secret" });
        json!({ "policy": policy(&[limit("only", "gcra", 5)]), "store": store })
    };
    let store = |field: &str, value: Value| {
        let mut config = good();
        config["store"][field] = value;
        config
    };
    let mut no_token = good();
    no_token["store"] = json!({ "cluster": "store" });
    let mut unset = good();
    unset["store"] = json!({ "cluster": "store", "token_env": "NOBODY_SETS_THIS" });
    let mut algorithm = good();
    algorithm["policy"]["routes"][0]["rate_limits"][0]["algorithm"] = json!("leaky");
    let mut body = good();
    body["policy"]["routes"][0]["rate_limits"][0]["key"] = json!(["body:/user"]);
    let mut jwks = good();
    jwks["policy"]["jwt"] = json!({ "algorithms": ["RS256"], "jwks": { "url": "https://id.example/keys" } });
    let control = |fields: Value, read_bodies: bool| {
        let mut config = good();
        (config["control"], config["read_bodies"]) = (fields, json!(read_bodies));
        config
    };
    let cases = [
        (
            control(json!({ "token": "a-secret-of-operators" }), false),
            "read_bodies: found `false`, and `control`, whose requests have bodies, expected `true`, and `allow_on_headers_stop_iteration`",
        ),
        (
            control(json!({ "token": "a-secret" }), true),
            "control.token: found a short token (not shown), expected at least 16 characters",
        ),
        (
            control(json!({ "token": "a-secret-of-operators", "prefix": "ops" }), true),
            "control.prefix: found `ops`, expected a path such as `/.tollgate/`",
        ),
        (
            control(json!({ "token_env": "NOBODY_SETS_THIS" }), true),
            "control.token_env: found `NOBODY_SETS_THIS`, which the filter is not given, expected a variable",
        ),
        (control(json!({}), true), "control: found no token, expected either `token` or `token_env`"),
        (body, "read_bodies: found `false`, and a key with `body:` on the route `all`, expected `true`"),
        (
            jwks.clone(),
            "jwks: found nothing, expected `{\"cluster\": …}`: the Envoy cluster that has the host",
        ),
        (
            with(jwks, json!({ "jwks": { "cluster": "id", "timeout": "6s" } })),
            "jwks.timeout: found `6s`, expected at most 5s",
        ),
        (store("tokn", json!("x")), "store.tokn: found unknown field `tokn`, expected one of `cluster`"),
        (no_token, "store: found no token, expected either `token` or `token_env`"),
        (store("timeout", json!("50")), "store.timeout: found \"50\", expected a duration"),
        (
            unset,
            "store.token_env: found `NOBODY_SETS_THIS`, which the filter is not given, expected a variable",
        ),
        (store("batch", json!(0)), "store.batch: found `0`, expected 1 to 1000"),
        (
            algorithm,
            "policy.routes[0].rate_limits[0].algorithm: found `leaky`, expected one of `fixed_window`",
        ),
    ];
    let dir = run_dir::create().unwrap();
    for (number, (config, error)) in cases.into_iter().enumerate() {
        let listener = Listener::new(ports::free().unwrap(), Upstream::Direct).with(Filter::Tollgate(config));
        let options = envoy::Options {
            name: format!("envoy-{number}"),
            admin_port: ports::free().unwrap(),
            concurrency: 1,
            listeners: vec![listener],
            clusters: vec![envoy::Cluster { name: "store".into(), address: ports::local(1), http2: false }],
            variables: Vec::new(),
        };
        let refused = format!("{:#}", Envoy::start(&dir, options).await.unwrap_err());
        assert!(refused.contains(&format!("configuration: {error}")), "expected `{error}` in:\n{refused}");
        assert!(!refused.contains("secret"), "a token is in the log:\n{refused}");
    }
}

fn top(file: &str) -> PathBuf {
    tools::workspace().join(file)
}

fn yaml() -> String {
    fs::read_to_string(top("envoy.yaml")).unwrap()
}

/// The JSON in `envoy.yaml`: the block under `value: |`, which is all that is indented further.
fn plugin_configuration() -> Value {
    let yaml = yaml();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = yaml.lines().skip_while(|line| !line.ends_with("value: |"));
    let parent = indent(lines.next().expect("a block of JSON"));
    let block: Vec<&str> = lines.take_while(|line| indent(line) > parent).collect();
    serde_json::from_str(&block.join("\n")).unwrap()
}

async fn post(address: SocketAddr, path: &str) -> client::Answer {
    let request = Request::post(path).header("host", "tollgate.test").body(Full::<Bytes>::default()).unwrap();
    client::send(address, request).await.unwrap()
}
