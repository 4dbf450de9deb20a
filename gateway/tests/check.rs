//! `tollgate check`: what it prints, what it warns of, and its exit status.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed, which is what it is for"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

#[test]
fn shipped_policies_pass_strictly() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in ["policy.json", "wrangler.toml", "tests/policies/demo.json"] {
        let (status, _, stderr) = check(&root.join(file), &["--strict"]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{file}");
    }
}

#[test]
fn warnings_fail_only_a_strict_check() {
    let policy = json!({ "routes": [{ "name": "user", "match": { "path": "/users/:id" } }] });
    let file = file("warnings", &policy);
    let warning = "warning: routes[0].match.path: `:id` matches only this very text; write `*` for any one segment, or end the path \
                   in `/*` for all below\n";
    let (status, stdout, stderr) = check(&file, &[]);
    assert_eq!((status, stderr.as_str()), (0, warning));
    assert!(stdout.starts_with("1. user: /users/:id\n"), "{stdout}");
    let (status, _, stderr) = check(&file, &["--strict"]);
    assert_eq!((status, stderr), (1, format!("{warning}tollgate: `{}` has 1 warning\n", file.display())));
}

#[test]
fn a_key_part_that_a_proxy_sets_is_trusted() {
    let limit = json!({ "name": "user", "algorithm": "gcra", "quota": 5, "window": "1m", "key": ["header:x-user-id"] });
    let file = file("trusted", &json!({ "default": { "rate_limits": [limit] } }));
    assert_eq!(check(&file, &["--strict"]).0, 1);
    assert_eq!(check(&file, &["--strict", "--trust", "header:X-User-Id"]).0, 0);
    let (status, _, stderr) = check(&file, &["--trust", "x-user-id"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("expected a part of a key, such as `header:x-user-id`"), "{stderr}");
}

#[test]
fn a_request_is_told_its_route_and_what_it_counts_under() {
    let limits = json!([
        { "name": "ip", "algorithm": "fixed_window", "quota": 9, "window": "1m", "key": ["client_ip", "method"] },
        { "name": "key", "algorithm": "gcra", "quota": 5, "window": "1m", "key": ["header:x-api-key", "query:q", "path", "const:v1"],
          "cost": { "header": "x-cost", "max": 5 } },
        { "name": "mail", "algorithm": "fixed_window", "quota": 5, "window": "1m", "key": ["body:/email", "cookie:sid", "claim:sub"] },
    ]);
    let jwt = json!({ "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "S" } }] });
    let users = json!({ "name": "users", "match": { "path": "/users/*" }, "rate_limits": limits, "lock": { "key": ["path"], "lease": "5s" } });
    let health = json!({ "name": "health", "match": { "path": "/healthz" } });
    let login =
        json!({ "name": "login", "match": { "path": "/users/*/login" }, "rate_limits": [limits[0].clone()] });
    let file = file("request", &json!({ "jwt": jwt, "routes": [health, login, users] }));
    // Of `{"alg":"HS256"}` and `{"sub":"ann"}`.
    let token = "authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.AA";
    let flags = |request| {
        [
            "--request",
            request,
            "--header",
            "X-Api-Key: a",
            "--header",
            "x-api-key: b",
            "--header",
            "x-cost: 3",
            "--header",
            token,
            "--body",
            r#"{"email":"a@x"}"#,
            "--peer-ip",
            "2001:db8::1",
        ]
    };
    let (status, stdout, _) = check(&file, &flags("POST /users//7?q=1"));
    assert_eq!(status, 0);
    let without_keys: Vec<&str> = stdout.lines().filter(|line| !line.starts_with("    key ")).collect();
    let expected = [
        "POST /users//7?q=1 on localhost",
        "  path: /users/7",
        "  route: 3. users: /users/*",
        "  token: read, not verified here; what it claims is believed below",
        "  token users: its token",
        "  lock users: path=/users/7",
        "  limit ip: 9 per 1m, costs 1, counts under client_ip=2001:db8:: + method=POST",
        "  limit key: 5 per 1m, at most 5 at once, costs 3, counts under header:x-api-key sent twice + query:q=1 + path=/users/7 + const:v1",
        "  limit mail: 5 per 1m, costs 1, counts under body:/email=a@x + cookie:sid missing + claim:sub=ann",
    ];
    assert_eq!(without_keys, expected, "{stdout}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("    key tg:{")).count(), 4, "{stdout}");

    let (_, stdout, _) = check(&file, &["--request", "/healthz"]);
    assert_eq!(stdout, "GET /healthz on localhost\n  route: 1. health: /healthz\n  not limited\n");
    let (_, stdout, _) = check(&file, &["--request", "GET //1/users/7"]);
    assert!(stdout.contains(" + path ambiguous + "), "{stdout}");
    let (_, stdout, _) = check(&file, &["--request", "GET /x"]);
    assert_eq!(stdout, "GET /x on localhost\n  route: none, so it passes without a limit\n");
    let (_, stdout, _) = check(&file, &["--request", "GET /users/a%2Fb/login"]);
    assert!(stdout.contains("  refused with 400: servers read this path in different ways"), "{stdout}");
    let (status, stdout, stderr) = check(&file, &["--request", "POST users"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("`--request` is `POST users`: expected a method and a path"), "{stderr}");
}

fn check(file: &Path, flags: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("check").arg(file).args(flags).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn file(name: &str, policy: &Value) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}.json"));
    std::fs::write(&file, policy.to_string()).unwrap();
    file
}
