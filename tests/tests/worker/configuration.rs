//! What is wrong with a Worker's variables is named, and nobody passes until it is mended; `wrangler.toml` does what its comments
//! say.

use std::fs;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tollgate_tests::client::{self, Answer};
use tollgate_tests::stack::StoreChoice;
use tollgate_tests::upstream::Upstream;
use tollgate_tests::workerd::{Options, Worker, Workerd};
use tollgate_tests::{ports, run_dir, tools};

use crate::Site;
use crate::failures::assert_problem;
use crate::support::{DEGRADED, assert_no_trap, assert_unharmed, limit, policy, request, with};

/// Each answers 500 with the names of the variables, and says in its log what is wrong with each; no request gets through.
#[tokio::test]
async fn what_is_wrong_is_named_and_nobody_passes() {
    let origin = Upstream::start(ports::free().unwrap()).await.unwrap();
    let good = || {
        let policy = policy(&[limit("only", "gcra", 5)]);
        vec![
            ("ORIGIN_URL", format!("http://{}", origin.address())),
            ("TOLLGATE_POLICY", policy.to_string()),
            ("UPSTASH_REDIS_REST_URL", "http://127.0.0.1:9".to_owned()),
            ("UPSTASH_REDIS_REST_TOKEN", SECRET.to_owned()),
            ("TOLLGATE_CONTROL_TOKEN", SECRET.to_owned()),
        ]
    };
    let without = |name: &str| good().into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    let other = |name: &'static str, value: &str| [without(name), vec![(name, value.to_owned())]].concat();
    let mut algorithm = policy(&[limit("only", "gcra", 5)]);
    algorithm["routes"][0]["rate_limits"][0]["algorithm"] = json!("leaky");
    let two = policy(&["a", "b"].map(|name| with(limit(name, "fixed_window", 5), json!({ "burst": 2 }))));
    let everything = vec![
        ("ORIGIN_URL", "app.example.com".to_owned()),
        ("TOLLGATE_POLICY", "{".to_owned()),
        ("UPSTASH_REDIS_REST_URL", "redis://127.0.0.1".to_owned()),
        ("UPSTASH_REDIS_REST_TOKEN", SECRET.to_owned()),
        ("TOLLGATE_CONTROL_TOKEN", "a\nb".to_owned()),
    ];
    let several = vec![
        (POLICY, policy(&[]).to_string()),
        ("ORIGIN_URL", "http://127.0.0.1:99999".to_owned()),
        ("TOLLGATE_ORIGIN_TIMEOUT", "30".to_owned()),
        (URL, "http://[::1".to_owned()),
        (TOKEN, "two words".to_owned()),
        ("TOLLGATE_STORE_TIMEOUT", "11s".to_owned()),
        ("TOLLGATE_STORE_CLOCK", "atomic".to_owned()),
        ("TOLLGATE_REPLICAS", "0".to_owned()),
        ("TOLLGATE_CONTROL_TOKEN", "short".to_owned()),
        ("TOLLGATE_CONTROL_PREFIX", "no-path".to_owned()),
    ];
    let all_of_them = [
        "ORIGIN_URL",
        "TOLLGATE_ORIGIN_TIMEOUT",
        URL,
        TOKEN,
        "TOLLGATE_STORE_TIMEOUT",
        "TOLLGATE_STORE_CLOCK",
        "TOLLGATE_REPLICAS",
        "TOLLGATE_CONTROL_TOKEN",
        "TOLLGATE_CONTROL_PREFIX",
    ];
    let cases: Vec<Case<'_>> = vec![
        (without(POLICY), &[POLICY]),
        (other(POLICY, ""), &[POLICY]),
        (other(POLICY, "not JSON"), &[POLICY]),
        (other(POLICY, &algorithm.to_string()), &["TOLLGATE_POLICY.routes[0].rate_limits[0].algorithm"]),
        (
            other(POLICY, &two.to_string()),
            &[
                "TOLLGATE_POLICY.routes[0].rate_limits[0].burst",
                "TOLLGATE_POLICY.routes[0].rate_limits[1].burst",
            ],
        ),
        (without("ORIGIN_URL"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "app.example.com"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "https://user:password@app.example.com"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "https://app.example.com/?q"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "http://127.0.0.1:99999"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "http://[::1"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "http://%zz/"), &["ORIGIN_URL"]),
        (other("ORIGIN_URL", "http://a..b:x/"), &["ORIGIN_URL"]),
        (other(URL, "http://127.0.0.1:99999"), &[URL]),
        (other(URL, "https://[::1/x"), &[URL]),
        (other(URL, "https://%zz"), &[URL]),
        (without(URL), &[URL]),
        (without(TOKEN), &[TOKEN]),
        (other(URL, "example.upstash.io"), &[URL]),
        (other(URL, "rediss://default:password@example.upstash.io"), &[URL]),
        (other(TOKEN, "two words\n"), &[TOKEN]),
        (other("TOLLGATE_CONTROL_TOKEN", "a\r\nb"), &["TOLLGATE_CONTROL_TOKEN"]),
        (other("TOLLGATE_CONTROL_TOKEN", "short"), &["TOLLGATE_CONTROL_TOKEN"]),
        (other("TOLLGATE_CONTROL_PREFIX", "no-path"), &["TOLLGATE_CONTROL_PREFIX"]),
        (other("TOLLGATE_ORIGIN_TIMEOUT", "30"), &["TOLLGATE_ORIGIN_TIMEOUT"]),
        (other("TOLLGATE_ORIGIN_TIMEOUT", "2h"), &["TOLLGATE_ORIGIN_TIMEOUT"]),
        (other("TOLLGATE_STORE_TIMEOUT", "soon"), &["TOLLGATE_STORE_TIMEOUT"]),
        (other("TOLLGATE_STORE_CLOCK", "atomic"), &["TOLLGATE_STORE_CLOCK"]),
        (other("TOLLGATE_KEY_PREFIX", "a b"), &["TOLLGATE_KEY_PREFIX"]),
        (other("TOLLGATE_REPLICAS", "0"), &["TOLLGATE_REPLICAS"]),
        (other("TOLLGATE_REPLICAS", "many"), &["TOLLGATE_REPLICAS"]),
        (other("TOLLGATE_DENIAL_CACHE", "-1"), &["TOLLGATE_DENIAL_CACHE"]),
        (other("TOLLGATE_DENIAL_CACHE_MAX_AGE", "1"), &["TOLLGATE_DENIAL_CACHE_MAX_AGE"]),
        (everything, &["ORIGIN_URL", POLICY, URL, "TOLLGATE_CONTROL_TOKEN"]),
        (several, &all_of_them),
    ];
    let workers = cases.iter().map(|(variables, _)| worker(variables));
    let workerd = start(workers.collect()).await;
    let mut named = 0;
    for ((variables, names), address) in cases.iter().zip(workerd.addresses()) {
        for path in ["/", "/.tollgate/health"] {
            let answer = client::send(*address, request(path, "x")).await.unwrap();
            assert_problem(&answer, StatusCode::INTERNAL_SERVER_ERROR, "TOLLGATE_MISCONFIGURED");
            let detail = answer.json().unwrap()["detail"].as_str().unwrap().to_owned();
            for name in *names {
                assert!(detail.contains(name), "`{name}` of {variables:?} in: {detail}");
            }
            for value in [SECRET, "leaky", "password", "two words"] {
                assert!(!detail.contains(value), "`{value}` is told to clients: {detail}");
            }
        }
        named += names.len();
    }
    assert_eq!(origin.requests(), 0, "nobody gets through");
    let log = workerd.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("configuration: ")).collect();
    assert_eq!(errors.len(), named, "each is said once: {errors:#?}");
    assert!(errors.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{errors:#?}");
    for (_, names) in &cases {
        for name in *names {
            let wanted = format!("configuration: {name}");
            assert!(errors.iter().any(|line| line.contains(&wanted)), "`{wanted}` in {errors:#?}");
        }
    }
    for error in [
        "algorithm: found `leaky`, expected one of `fixed_window`",
        "UPSTASH_REDIS_REST_URL: found nothing, expected it, where UPSTASH_REDIS_REST_TOKEN is set",
        "TOLLGATE_POLICY: found nothing, expected the policy",
        "ORIGIN_URL: found `app.example.com`, expected the URL",
    ] {
        assert!(errors.iter().any(|line| line.contains(error)), "`{error}` in {errors:#?}");
    }
    for secret in [SECRET, "password", "two words"] {
        assert!(!log.contains(secret), "`{secret}` is in the log:\n{log}");
    }
    assert_no_trap(&workerd);
}

/// Variables, and the places that are named.
type Case<'a> = (Vec<(&'a str, String)>, &'a [&'a str]);

/// The limit holds for this isolate, nothing calls itself degraded, and the log says once that nothing is shared.
#[tokio::test]
async fn without_a_store_the_isolate_counts_for_itself_and_says_so() {
    let policy = policy(&[limit("only", "sliding_window_log", 5)]);
    let site = Site::start_with(policy, StoreChoice::None, |edge| edge).await;
    for remaining in ["4", "3", "2", "1", "0"] {
        let answer = client::send(site.address(), request("/", "x")).await.unwrap();
        let seen = (answer.status, answer.header("x-ratelimit-remaining"), answer.header(DEGRADED));
        assert_eq!(seen, (StatusCode::OK, Some(remaining), None), "{answer}");
    }
    let answer = client::send(site.address(), request("/", "x")).await.unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer}");
    let log = site.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("no store is configured")).collect();
    assert!(matches!(warnings[..], [one] if one.contains("UPSTASH_REDIS_REST_URL")), "{log}");
    assert_unharmed(&site.stack);
}

// ---- wrangler.toml

#[tokio::test]
async fn the_sixth_login_is_refused() {
    let wrangler = wrangler();
    let mut vars: Vec<(String, String)> = wrangler["vars"]
        .as_table()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let policy = vars.iter().position(|(name, _)| name == "TOLLGATE_POLICY").unwrap();
    let policy: Value = serde_json::from_str(&vars.remove(policy).1).unwrap();
    vars.retain(|(name, _)| name != "ORIGIN_URL");
    // The file's other variables, and the real parts in place of those that only its owner has.
    let site = Site::start_with(policy, StoreChoice::Redis, |mut edge| {
        edge.variables.extend(vars);
        edge
    });
    let site = site.await;
    for number in 0..5 {
        let answer = login(site.address(), "/auth/login", "192.0.2.1").await;
        assert_eq!(answer.status, StatusCode::OK, "{number}: {answer}");
        assert_eq!(answer.json().unwrap()["path"], "/auth/login");
    }
    let refusal = login(site.address(), "/auth//login/", "192.0.2.1").await;
    assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS, "{refusal}");
    assert_eq!(refusal.json().unwrap()["violated-policies"], json!(["login-ip"]));
    assert_eq!(site.origin.requests(), 5);
    let another = login(site.address(), "/auth/login", "192.0.2.2").await;
    assert_eq!(another.status, StatusCode::OK, "{another}");
    let api = client::get(site.address(), "/api/things", &[]).await.unwrap();
    assert_eq!(
        api.header("ratelimit-policy"),
        Some("\"api-burst\";q=600;w=60, \"api-daily\";q=10000;w=86400"),
        "{api}"
    );
    let health = client::get(site.address(), "/healthz", &[]).await.unwrap();
    assert_eq!((health.status, health.header("ratelimit")), (StatusCode::OK, None), "{health}");
    assert_unharmed(&site.stack);
}

#[test]
fn the_policy_in_wrangler_toml_is_policy_json() {
    let file: Value =
        serde_json::from_slice(&fs::read(tools::workspace().join("policy.json")).unwrap()).unwrap();
    let wrangler = wrangler();
    let text = wrangler["vars"]["TOLLGATE_POLICY"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), file);
}

/// What `wrangler.toml` names is where the build puts it, and what the Worker asks for.
#[test]
fn wrangler_toml_names_what_is_built() {
    let wrangler = wrangler();
    assert_eq!(wrangler["main"].as_str(), Some("target/worker/entry.js"));
    assert_eq!(wrangler["build"]["command"].as_str(), Some("cargo xtask build --worker"));
    let datasets = wrangler["analytics_engine_datasets"].as_array().unwrap();
    assert_eq!(datasets[0]["binding"].as_str(), Some("TOLLGATE_METRICS"));
}

fn wrangler() -> toml::Table {
    fs::read_to_string(tools::workspace().join("wrangler.toml")).unwrap().parse().unwrap()
}

async fn login(address: SocketAddr, path: &str, client: &str) -> Answer {
    let request = Request::post(path).header("host", "tollgate.test").header("cf-connecting-ip", client);
    client::send(address, request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

fn worker(variables: &[(&str, String)]) -> Worker {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Worker { port: ports::free().unwrap(), variables: variables.collect(), metrics: false }
}

async fn start(workers: Vec<Worker>) -> Workerd {
    let modules = tools::worker().unwrap();
    let options = Options { name: "workerd".into(), modules, workers };
    Workerd::start(&run_dir::create().unwrap(), &options).await.unwrap()
}

const POLICY: &str = "TOLLGATE_POLICY";
const URL: &str = "UPSTASH_REDIS_REST_URL";
const TOKEN: &str = "UPSTASH_REDIS_REST_TOKEN";
const SECRET: &str = "a-secret-that-nobody-is-told";
