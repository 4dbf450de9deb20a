//! Replays the seeds, and with them everything a fuzzer ever found.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tollgate_fuzz::head::Head;
use tollgate_fuzz::{check, oracle};
use tollgate_shared::path::PathRules;
use tollgate_shared::policy::Policy;
use tollgate_shared::time::Timestamp;

#[test]
fn policies_hold() {
    replay("policy", tollgate_fuzz::policy::run);
    // The policies that we ship are the best seeds.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    tollgate_fuzz::policy::run(&fs::read(root.join("policy.json")).unwrap());
    run_all(&root.join("tests/policies"), tollgate_fuzz::policy::run);
    tollgate_fuzz::policy::run(tollgate_fuzz::request::RICH);
}

#[test]
fn requests_hold() {
    replay("request", tollgate_fuzz::request::run);
}

#[test]
fn subjects_hold() {
    replay("subject", tollgate_fuzz::subject::run);
}

#[test]
fn guards_hold() {
    replay("guards", tollgate_fuzz::guards::run);
}

#[test]
fn tokens_hold() {
    replay("jwt", tollgate_fuzz::jwt::run);
}

#[test]
fn replies_hold() {
    replay("reply", tollgate_fuzz::reply::run);
}

#[test]
fn bodies_hold() {
    replay("body", tollgate_fuzz::body::run);
}

/// With a real Redis.
#[test]
fn commands_hold() {
    replay("command", tollgate_fuzz::command::run);
}

#[test]
fn what_redis_sends_holds() {
    replay("redis", tollgate_fuzz::redis::run);
}

fn replay(target: &str, run: fn(&[u8])) {
    run_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target), run);
}

fn run_all(dir: &Path, run: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", dir.display());
    for file in files {
        println!("{}", file.display());
        run(&fs::read(&file).unwrap());
    }
}

/// Paths made of what servers disagree about, held against the models of `readings`.
#[test]
fn the_guard_of_every_reading_of_a_path_is_met() {
    const PIECES: [&str; 40] = [
        "api", "health", "auth", "login", "users", "orders", "7", "x", "/", "/", "/", "/", "/", "/", "//",
        "/./", "/../", "..", ".", ";", "..;", "..;a=b", ".;", "%2e", "%2e%2e", "%2E%2e;", "%2F", "%5c", "\\",
        "%3B", "%61pi", "%6cogin", "healt%68", ";/", "/;x/", "#", "%23", "%40", "//host/", "/api/",
    ];
    let route = |name: &str, path: &str| {
        let limit = serde_json::json!({ "name": name, "algorithm": "fixed_window", "quota": 1, "window": "1m", "key": ["path"] });
        serde_json::json!({ "name": name, "match": { "path": path }, "rate_limits": [limit] })
    };
    let mut routes = vec![serde_json::json!({ "name": "health", "match": { "path": "/api/health" } })];
    routes.extend(
        [("login", "/auth/login"), ("orders", "/users/*/orders"), ("api", "/api/*")]
            .map(|(n, p)| route(n, p)),
    );
    let default = serde_json::json!({ "rate_limits": route("rest", "/")["rate_limits"] });
    let policies = [
        serde_json::json!({ "routes": &routes[3..] }),
        serde_json::json!({ "routes": &routes }),
        serde_json::json!({ "routes": &routes, "default": default }),
    ];
    let policies = policies.map(|policy| Arc::new(Policy::from_json(policy.to_string().as_bytes()).unwrap()));
    let now = Timestamp::from_millis(1_800_000_000_000);
    let (mut random, mut refused) = (1, 0);
    for _ in 0..TARGETS {
        let mut below = |bound: usize| {
            random = tollgate_fuzz::hash(&u64::to_le_bytes(random));
            (random >> 20) as usize % bound
        };
        let pieces = 1 + below(9);
        let target = (0..pieces).fold("/".to_owned(), |target, _| target + PIECES[below(PIECES.len())]);
        let head = Head::new("GET", &target, "tollgate.test");
        for policy in &policies {
            let is_refused = check::is_ambiguous(policy, &head, now);
            refused += usize::from(is_refused);
            let taken = (!is_refused).then(|| check::plan(policy, &head, now).0);
            oracle::readings(policy, PathRules::default(), &head, taken);
        }
    }
    assert!(refused < 2 * TARGETS, "nearly all is refused: {refused}");
}

const TARGETS: usize = 10_000;
