//! The vectors' runner itself: what it says about vectors that are wrong, and about those that fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use std::fs;

use serde_json::json;
use tollgate_tests::vectors::{Target, read_folder, run_folder};
use tollgate_tests::{run_dir, tools};
use tollgate_vectors::files;
use tollgate_vectors::format::read;

#[test]
fn what_a_vector_leaves_out_is_put_in() {
    let text = r#"
        [[vector]]
        name = "short"
        limit = { quota = 5 }
        routes = [{ name = "a", match = { path = "/a" } }, { name = "b", rate_limits = [] }]
        steps = [{ at = "1s", allow = 2 }, { request = 'POST /\x41\xfe', headers = ['X-Odd: \xff a\b'] }]
    "#;
    let vector = read("file.toml", text).unwrap().remove(0);
    let limit = json!({
        "name": "limit", "algorithm": "fixed_window", "quota": 5, "window": "60s", "key": ["const:all"],
    });
    let mut named = limit.clone();
    (named["name"], named["quota"]) = (json!("a"), json!(100));
    let policy = json!({
        "default": { "rate_limits": [limit] },
        "routes": [
            { "name": "a", "match": { "path": "/a" }, "rate_limits": [named] },
            { "name": "b", "rate_limits": [] },
        ],
    });
    assert_eq!(vector.policy, policy);
    assert_eq!(vector.place(), "file.toml: short");
    let [first, second] = &vector.steps[..] else { panic!("two steps") };
    assert_eq!((first.allow, first.deny, second.allow, second.deny), (2, 0, 1, 0));
    assert_eq!(first.at, second.at);
    assert_eq!(first.to_string(), "GET / at 1000ms");
    assert_eq!(second.ask.target, b"/A\xfe");
    assert_eq!(second.ask.headers, [("x-odd".to_owned(), b"\xff a\\b".to_vec())]);
}

#[test]
fn a_wrong_vector_is_named_with_what_is_wrong() {
    for (fields, error) in [
        ("steps = [{}]", "vector `v`: it has no policy"),
        ("limit = {}\nsteps = []", "vector `v`: it has no steps"),
        ("limit = {}\nlimits = []\nsteps = [{}]", "vector `v`: it has both `limit` and `limits`"),
        ("policy = '{'\nsteps = [{}]", "vector `v`: `policy` is not JSON"),
        ("policy = { default = {} }\nlimit = {}\nsteps = [{}]", "a policy with a default route"),
        (
            "limit = {}\nsteps = [{}, { at = '5' }]",
            "vector `v`: step 2: `5` is not a duration such as `59999ms`",
        ),
        ("limit = {}\nsteps = [{ allow = 0 }]", "vector `v`: step 1: it sends nothing"),
        (
            "limit = {}\nsteps = [{ store = 'off' }]",
            "vector `v`: step 1: `store` is `off`, expected `up` or `down`",
        ),
        ("limit = {}\nsteps = [{ request = '/' }]", "vector `v`: step 1: no target in `/`"),
        (
            "limit = {}\nskip = { worker = 'x' }\nsteps = [{}]",
            "`worker` is not one of `memory`, `redis`, `filter`, `browser`, `node`, `edge`",
        ),
        ("limit = {}\nsteps = [{ expect = 'allow' }]", "unknown field `expect`"),
    ] {
        let found =
            format!("{:#}", read("file.toml", &format!("[[vector]]\nname = 'v'\n{fields}")).unwrap_err());
        assert!(found.contains(error), "{found}");
    }
    let twice = "[[vector]]\nname = 'v'\nlimit = {}\nsteps = [{}]\n".repeat(2);
    let found = read("file.toml", &twice).unwrap_err().to_string();
    assert_eq!(found, "there are two vectors called `v`");
}

#[test]
fn every_target_may_be_skipped() {
    let text = "[[vector]]\nname = 'v'\nlimit = {}\nskip = { edge = 'x', browser = 'y', node = 'z' }\nsteps = [{}]\n";
    assert_eq!(read("file.toml", text).unwrap()[0].skip["edge"], "x");
}

#[test]
fn what_wasm_carries_along_is_what_the_folder_holds() {
    let carried: Vec<String> = files::vectors().unwrap().iter().map(|vector| vector.place()).collect();
    let held = read_folder(&tools::workspace().join("tests/vectors")).unwrap();
    assert_eq!(carried, held.iter().map(|vector| vector.place()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failure_says_where_what_was_expected_and_what_was_got() {
    let dir = run_dir::create().unwrap();
    let vectors = [
        ("passes", "{ allow = 1, deny = 2 }"),
        ("verdict", "{ allow = 3 }"),
        ("refusal", "{ at = '1s', deny = 1 }"),
        ("remaining", "{ remaining = 5 }"),
        ("status", "{ status = 201 }"),
        ("degraded", "{ store = 'down' }"),
        ("field", "{ answer = { x-ratelimit-limit = '2', retry-after = true } }"),
        ("route", "{ route = '' }"),
    ];
    let mut text = String::new();
    for (name, step) in vectors {
        text += &format!("[[vector]]\nname = '{name}'\nlimit = {{}}\nsteps = [{step}]\n");
    }
    text += "[[vector]]\nname = 'elsewhere'\nlimit = {}\nskip = { memory = 'no reason' }\nsteps = [{}]\n";
    fs::write(dir.join("v.toml"), text).unwrap();
    fs::write(dir.join("README.md"), "not a vector").unwrap();

    let summary = run_folder(&dir, Target::Memory).await.unwrap();
    assert_eq!(summary.passed, 1);
    assert_eq!(summary.skipped, ["v.toml: elsewhere: no reason"]);
    let expected = [
        "v.toml: verdict, step 1 (GET / at 0ms): request 2 of 3: expected it to pass, got 429 {",
        "v.toml: refusal, step 1 (GET / at 1000ms): expected it to be refused, but it passed",
        "v.toml: remaining, step 1 (GET / at 0ms): expected remaining [5], got [0]",
        "v.toml: status, step 1 (GET / at 0ms): expected status 201, got 200",
        "v.toml: degraded, step 1 (GET / at 0ms): expected degraded \"\", got \"local\"",
        "v.toml: field, step 1 (GET / at 0ms): expected a field `retry-after`, got none",
        "v.toml: route, step 1 (GET / at 0ms): expected route [], got [\"limit\"]",
    ];
    assert_eq!(summary.failures.len(), expected.len());
    for (found, expected) in summary.failures.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
}

#[tokio::test]
async fn a_wrong_policy_names_its_vector_and_a_folder_without_vectors_is_an_error() {
    let dir = run_dir::create().unwrap();
    let empty = run_folder(&dir, Target::Memory).await.unwrap_err().to_string();
    assert!(empty.starts_with("there is no vector in"), "{empty}");
    fs::write(dir.join("v.toml"), "[[vector]]\nname = 'v'\nlimit = { quota = 0 }\nsteps = [{}]\n").unwrap();
    let wrong = run_folder(&dir, Target::Memory).await.unwrap_err().to_string();
    let error = "default.rate_limits[0].quota: found `0`, expected a whole number from 1";
    assert_eq!(wrong, format!("v.toml: v: the policy is wrong: {error}"));
    let nowhere = run_folder(&dir.join("nowhere"), Target::Memory).await.unwrap_err().to_string();
    assert!(nowhere.starts_with("cannot read the folder"), "{nowhere}");
}
