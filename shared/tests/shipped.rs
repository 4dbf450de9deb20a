//! The policies that newcomers start with hold clients back, and `tollgate check --strict` has nothing to say
//! about them.

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

use serde_json::Value;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Decision, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::time::Timestamp;

#[test]
fn shipped_policies_have_no_warnings() {
    for (file, policy) in shipped() {
        let warnings: Vec<_> = policy.warnings(&[]).iter().map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{file}: {warnings:#?}");
    }
}

/// Each request comes with an API key of its own, which nobody has given out.
#[test]
fn a_client_with_a_thousand_keys_has_one_quota() {
    for (file, policy) in shipped() {
        let policy = Arc::new(policy);
        let mut local = Local::without_store(
            Memory::new(HeapShards::default(), 16),
            Remembered::at_most(100),
            Id::default(),
        );
        let now = Timestamp::from_millis(1_800_057_600_000);
        let passed = (0..1000)
            .map(|number| Get(format!("key-{number}")))
            .filter(|request| match begin(&policy, &mut local, request, now) {
                Step::Decide(decision) => matches!(decision, Decision::Allow(_)),
                step => panic!("the memory decides at once: {step:?}"),
            })
            .count();
        assert_eq!(passed, if file == "tests/policies/demo.json" { 100 } else { 20 }, "{file}");
    }
}

/// Every policy that the repository ships, by the file that it stands in.
fn shipped() -> Vec<(&'static str, Policy)> {
    let read =
        |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let yaml = read("envoy.yaml");
    let mut lines = yaml.lines().skip_while(|line| !line.ends_with("value: |"));
    let parent = indent(lines.next().unwrap());
    let plugin: Value =
        serde_json::from_str(&lines.take_while(|line| indent(line) > parent).collect::<String>()).unwrap();
    let worker = read("wrangler.toml");
    let worker = worker.split("TOLLGATE_POLICY = '''").nth(1).unwrap().split("'''").next().unwrap();
    let policies = [
        ("policy.json", read("policy.json")),
        ("tests/policies/demo.json", read("tests/policies/demo.json")),
        ("envoy.yaml", plugin["policy"].to_string()),
        ("wrangler.toml", worker.to_owned()),
    ];
    policies.map(|(file, json)| (file, Policy::from_json(json.as_bytes()).unwrap())).into()
}

/// A request for `/api/things` with this API key.
struct Get(String);

impl Request for Get {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"GET");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"/api/things");
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        if name == "x-api-key" {
            read(self.0.as_bytes());
        }
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, 1]))
    }
}
