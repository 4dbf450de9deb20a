//! Bytes as a policy file.

use std::sync::Arc;

use tollgate_shared::config::store::Remembered;
use tollgate_shared::config::{self, HeaderCondition, HostPattern, MatchConfig, Name, PolicyConfig};
use tollgate_shared::exchange::begin;
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::path::PathRules;
use tollgate_shared::policy::Policy;
use tollgate_shared::time::Timestamp;

use crate::head::Head;
use crate::{check, oracle};

/// Compiles `data` and asks what comes of it.
pub fn run(data: &[u8]) {
    let (first, second) = (Policy::from_json(data), Policy::from_json(data));
    match (first, second) {
        (Ok(policy), Ok(same)) => {
            assert_eq!(format!("{policy:?}"), format!("{same:?}"));
            let config: PolicyConfig = config::parse(data).expect("it compiles");
            ask(policy, "tg", config.path_rules());
            ask(same.with_key_prefix(&Name::parse("other").expect("a name")), "other", config.path_rules());
        }
        (Err(errors), Err(same)) => {
            assert_eq!(errors, same);
            assert!(!errors.is_empty());
            for error in &errors {
                let line = error.to_string();
                assert!(line.chars().all(|c| !c.is_control()), "more than a line: {line:?}");
                assert!(line.len() <= 4096, "{} bytes of error", line.len());
            }
        }
        (first, second) => panic!("{first:?} and then {second:?}"),
    }
}

fn ask(policy: Policy, prefix: &str, rules: PathRules) {
    let policy = Arc::new(policy);
    assert!(policy.routes().len() <= config::MAX_ROUTES + 1 && policy.limits().len() <= config::MAX_LIMITS);
    let mut local = Local::without_store(check::memory(), Remembered::at_most(8), Id::default());
    // A few strangers, then somebody for each of the first routes.
    let strangers = [
        Head::new("GET", "/", "example.com"),
        Head::new("POST", "/auth/login?user=7", "API.example.com:8443").with("cookie", b"session=1; a=b"),
        Head::new("\u{e9}", "*", "").with("x-api-key", b"\xff\r\n"),
    ];
    let routes = (0..policy.routes().len()).map_while(|route| policy.conditions(route)).take(ROUTES);
    let expected: Vec<(Option<usize>, Head)> =
        routes.enumerate().map(|(route, conditions)| (Some(route), meant_by(conditions))).collect();
    let mut now = Timestamp::from_millis(1_800_000_000_000);
    for (meant, head) in strangers.into_iter().map(|head| (None, head)).chain(expected) {
        let (route, ops) = check::plan(&policy, &head, now);
        if check::is_ambiguous(&policy, &head, now) {
            continue;
        }
        oracle::readings(&policy, rules, &head, Some(route));
        let earlier = |meant: usize| route.is_some_and(|route| route <= meant);
        assert!(meant.is_none_or(earlier), "{head:?} is for route {meant:?} and takes {route:?}");
        check::ops(&policy, prefix, &ops);
        for wait in [0, 0, 1, 1000] {
            now = now.plus(wait);
            let mut decision = check::decision_of(begin(&policy, &mut local, &head, now), &mut local, now);
            check::decision(&policy, &decision, now, true);
            for op in decision.settle() {
                local.memory().perform(&op, now).expect("nobody else uses this memory");
            }
        }
    }
}

/// A request that these conditions are for.
fn meant_by(conditions: &MatchConfig) -> Head {
    let method = conditions.methods.first().map_or("GET", |method| method.as_str());
    let path = conditions.path.as_ref().map_or("/", |pattern| pattern.as_str());
    let host = match conditions.hosts.first() {
        Some(HostPattern::Exact(name)) => name.clone(),
        Some(HostPattern::Subdomains(name)) => format!("a.{name}"),
        None => String::new(),
    };
    let mut head = Head::new(method, &path.replace("/*", "/x"), &host);
    for (name, condition) in &conditions.headers {
        match condition {
            HeaderCondition::Equals(text) => head = head.with(name.as_str(), text.as_bytes()),
            HeaderCondition::Present => head = head.with(name.as_str(), b"x"),
            HeaderCondition::Absent => {}
        }
    }
    head
}

/// How many routes of a policy are asked.
const ROUTES: usize = 16;
