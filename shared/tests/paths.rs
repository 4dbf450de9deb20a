//! The router against what servers made of paths: whatever view served a path, its guard was met, or the
//! request was refused.
//!
//! `tests/paths/readings.tsv` says which view of each server served which path; `tests/paths/record.py`
//! recorded it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Decision, Reason, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::time::Timestamp;

#[test]
fn the_guard_of_every_view_that_serves_a_path_is_met() {
    let guards = [("api", "/api/*"), ("login", "/auth/login"), ("orders", "/users/*/orders")];
    let health = json!({ "name": "health", "match": { "path": "/api/health" } });
    let only =
        |name: &str| guards.into_iter().filter(|(own, _)| *own == name).map(guarded).collect::<Vec<_>>();
    let all = || [health.clone()].into_iter().chain(guards.map(guarded)).collect::<Vec<_>>();
    let mut escapes = Vec::new();
    for policy in [
        json!({ "routes": only("api") }),
        json!({ "routes": only("login") }),
        json!({ "routes": only("orders") }),
        json!({ "routes": all() }),
        json!({ "routes": all(), "default": guards_of("rest") }),
    ] {
        let names =
            |list: &Value| list.as_array().unwrap().iter().map(|r| r["name"].clone()).collect::<Vec<_>>();
        let names = names(&policy["routes"]);
        let policy = Arc::new(Policy::from_json(policy.to_string().as_bytes()).unwrap());
        let mut met = 0;
        for (target, servers) in readings() {
            match route(&policy, &target) {
                Err(Reason::AmbiguousPath) => {}
                Err(reason) => panic!("{target}: {reason:?}"),
                Ok(route) => {
                    for (server, view) in servers {
                        let is_guarded = view != "health" && names.contains(&view.as_str().into());
                        met += usize::from(is_guarded && route == Some(view.as_str()));
                        if is_guarded && route != Some(view.as_str()) {
                            escapes.push(format!("{target}: {server} serves {view}, the route is {route:?}"));
                        }
                    }
                }
            }
        }
        assert!(met > 100, "{names:?}: nearly all is refused, and {met} readings are met");
    }
    let number = escapes.len();
    escapes.truncate(40);
    assert!(escapes.is_empty(), "{number} escapes, among them\n{}", escapes.join("\n"));
}

#[test]
fn every_server_is_recorded_with_every_view() {
    let readings = readings();
    for (index, (server, _)) in readings[0].1.iter().enumerate() {
        for view in ["api", "health", "login", "orders", "none"] {
            let served = readings.iter().filter(|(_, servers)| servers[index].1 == view).count();
            assert!(served > 0, "{server} never served {view}");
        }
    }
}

fn guarded((name, path): (&str, &str)) -> Value {
    let mut route = guards_of(name);
    (route["name"], route["match"]) = (json!(name), json!({ "path": path }));
    route
}

fn guards_of(name: &str) -> Value {
    let limit = json!({ "name": name, "algorithm": "fixed_window", "quota": 1, "window": "1m", "key": ["client_ip"] });
    json!({ "rate_limits": [limit] })
}

/// The name of the route that `target` takes.
fn route<'a>(policy: &'a Arc<Policy>, target: &str) -> Result<Option<&'a str>, Reason> {
    let mut local =
        Local::without_store(Memory::new(HeapShards::default(), 1), Remembered::at_most(0), Id::default());
    let step = begin(policy, &mut local, &Get(target), Timestamp::from_millis(1_800_057_600_000));
    let Step::Decide(decision) = step else { panic!("the memory decides at once: {step:?}") };
    if let Decision::Deny(denial) = &decision {
        return Err(*denial.reason());
    }
    Ok(decision.report().route.map(|route| policy.routes()[route].name()))
}

/// Each target with the servers and the views that they served.
fn readings() -> Vec<(String, Vec<(String, String)>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/paths/readings.tsv");
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let servers = lines.next().unwrap();
    let of = |line: Vec<String>| {
        assert_eq!(line.len(), servers.len(), "{line:?}");
        (line[0].clone(), servers[1..].iter().cloned().zip(line[1..].iter().cloned()).collect())
    };
    lines.map(of).collect()
}

struct Get<'a>(&'a str);

impl Request for Get<'_> {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"GET");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.0.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}

    fn peer(&self) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, 1]))
    }
}
