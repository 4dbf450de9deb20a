//! What real readers make of odd cookies, queries and bodies, as `tests/readers/record.py` has written it down: what one of them
//! reads as the same counts as the same here, or as a value that nobody has alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::key::Key;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::time::Timestamp;

#[test]
fn a_cookie_that_a_reader_takes_for_the_same_is_the_same() {
    let read = |text: &str| Asked { cookie: text.into(), ..Asked::default() };
    hold(include_str!("../../tests/readers/cookies.json"), "cookie:t_k", &read, ["", "t_k=1; t_k=2"], true);
}

#[test]
fn a_parameter_that_a_reader_takes_for_the_same_is_the_same() {
    let read = |text: &str| Asked { target: format!("/?{text}"), ..Asked::default() };
    hold(include_str!("../../tests/readers/queries.json"), "query:t_k", &read, ["", "t_k=1&t_k=2"], true);
}

/// Some readers accept what is no JSON, or make a text of a list: what they find there may share the counter of those who send
/// nothing.
#[test]
fn a_member_that_a_reader_takes_for_the_same_is_the_same() {
    let read = |text: &str| Asked { body: text.into(), ..Asked::default() };
    let none_and_several = ["{}", r#"{"t_k":1,"t_k":2}"#];
    hold(include_str!("../../tests/readers/bodies.json"), "body:/t_k", &read, none_and_several, false);
}

fn hold(recorded: &str, part: &str, read: &dyn Fn(&str) -> Asked, shared: [&str; 2], is_found: bool) {
    let limit =
        json!({ "name": "limit", "algorithm": "fixed_window", "quota": 1, "window": "1m", "key": [part] });
    let policy = json!({ "default": { "rate_limits": [limit] } });
    let policy = Arc::new(Policy::from_json(policy.to_string().as_bytes()).unwrap());
    let key_of = |text: &str| key_of(&policy, &read(text));
    let [none, several] = shared.map(key_of);
    let recorded: Vec<Recorded> = serde_json::from_str(recorded).unwrap();
    let mut keys: BTreeMap<(String, String), (Key, String)> = BTreeMap::new();
    let mut compared = 0;
    for Recorded { text, said } in recorded {
        let own = key_of(&text);
        for (reader, value) in said {
            // Nothing is nobody's subject; and what still has quotes is told apart by nobody who takes them off.
            if own == several || value.is_empty() || value.contains('"') {
                continue;
            }
            if own == none {
                assert!(!is_found, "{reader} finds `{value}` in `{text}`");
                continue;
            }
            let (key, before) =
                keys.entry((reader.clone(), value.clone())).or_insert_with(|| (own.clone(), text.clone()));
            assert_eq!(*key, own, "{reader} finds `{value}` in `{before}` and in `{text}`");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

fn key_of(policy: &Arc<Policy>, asked: &Asked) -> Key {
    let memory = Memory::new(HeapShards::default(), 1);
    let mut local = Local::with_store(memory, Remembered::at_most(0), 1, Id::default());
    match begin(policy, &mut local, asked, Timestamp::from_millis(1_800_000_000_000)) {
        Step::Call(call) => call.batch()[0].checks()[0].key.clone(),
        other => panic!("{other:?}"),
    }
}

#[derive(Deserialize)]
struct Recorded {
    text: String,
    said: BTreeMap<String, String>,
}

/// A request that says one thing.
#[derive(Default)]
struct Asked {
    target: String,
    cookie: String,
    body: String,
}

impl Request for Asked {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"POST");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.target.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"tollgate.test");
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        if name == "cookie" {
            read(self.cookie.as_bytes());
        }
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }
}
