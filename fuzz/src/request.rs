//! Text as requests to one host, one after the other.
//!
//! ```text
//! memory fold                              ─ what the host is: see [`Host`]
//! +250 192.0.2.1 GET /v1/a/items?user=1    ─ milliseconds since the request before (or −), peer, method, target
//! host: api.example.com                    ─ field lines
//!                                          ─ an empty line, and the next request
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use tollgate_shared::config::store::Remembered;
use tollgate_shared::config::{self, KeyPart, PolicyConfig};
use tollgate_shared::exchange::{Decision, Ruling, Source, Step, Verdict, begin};
use tollgate_shared::id::Id;
use tollgate_shared::key::Key;
use tollgate_shared::local::Local;
use tollgate_shared::path::{Path, PathCase, PathRules};
use tollgate_shared::policy::Policy;
use tollgate_shared::rate_limit::Retry;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::store::{ErrorCode, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::head::Head;
use crate::{check, hash, oracle, spelling};

/// Puts the requests that `data` describes to one host.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut host = Host::new(lines.next().unwrap_or_default());
    let mut last = None;
    for _ in 0..REQUESTS {
        let Some(line) = lines.by_ref().find(|line| !line.is_empty()) else { break };
        let head = host.read(line, lines.by_ref().take_while(|line| !line.is_empty()));
        host.paths(&head.target);
        host.spellings(&head);
        last = Some((host.ask(&head), head));
    }
    if let (Some((decision, head)), true) = (last, host.is_exact()) {
        host.keeps_its_word(&decision, &head);
    }
}

/// The host: `memory` without a store, `store` with one that answers, `failing` with one that sometimes does not; each with
/// `fold` for a policy of case-insensitive paths, and `forget` to remember no denials.
struct Host {
    policy: Arc<Policy>,
    rules: PathRules,
    local: Local<HeapShards>,
    store: Option<Memory<HeapShards>>,
    fails: bool,
    asked: u64,
    now: Timestamp,
    decisions: u64,
    /// The last decision that charged each counter, whether or not it was given back.
    changed: BTreeMap<Key, u64>,
    /// The last decision in which each counter had no room for a cost.
    refused: BTreeMap<(Key, u64), u64>,
}

impl Host {
    fn new(line: &[u8]) -> Self {
        let has = |word: &[u8]| line.split(|b| *b == b' ').any(|own| own == word);
        let case = if has(b"fold") { PathCase::Insensitive } else { PathCase::Sensitive };
        let rules = PathRules { case, ..PathRules::default() };
        let policy = if has(b"fold") { &POLICIES.1 } else { &POLICIES.0 };
        let denials = if has(b"forget") { 0 } else { 4 };
        let fails = has(b"failing");
        let with_store = fails || has(b"store");
        let local = if with_store {
            Local::with_store(check::memory(), Remembered::at_most(denials), 3, Id::default())
        } else {
            Local::without_store(check::memory(), Remembered::at_most(denials), Id::default())
        };
        Self {
            policy: Arc::clone(policy),
            decisions: 0,
            changed: BTreeMap::new(),
            refused: BTreeMap::new(),
            rules,
            local,
            store: with_store.then(check::memory),
            fails,
            asked: 0,
            now: Timestamp::from_millis(1_800_000_000_000),
        }
    }

    /// Reads a request and moves the clock.
    fn read<'a>(&mut self, line: &[u8], fields: impl Iterator<Item = &'a [u8]>) -> Head {
        let mut words = line.splitn(4, |b| *b == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (time, peer, method, target) = (word(), word(), word(), word());
        let digits = time.iter().filter(|b| b.is_ascii_digit());
        let millis = digits.fold(0, |n: u64, b| (n * 10 + u64::from(b - b'0')) % LONGEST_WAIT);
        self.now = match time.first() {
            Some(b'-') => Timestamp::from_millis(self.now.as_millis().saturating_sub(millis)),
            _ => self.now.plus(millis),
        };
        let mut head = Head {
            method: method.into(),
            target: target.into(),
            peer: std::str::from_utf8(peer).ok().and_then(|peer| peer.parse().ok()),
            ..Head::default()
        };
        for field in fields {
            let colon = field.iter().position(|b| *b == b':').unwrap_or(field.len());
            let name = String::from_utf8_lossy(&field[..colon]).to_ascii_lowercase();
            let value = field.get(colon + 1..).unwrap_or_default();
            if name == "host" {
                head.authority = value.trim_ascii().into();
            }
            head.headers.push((name, value.into()));
        }
        head
    }

    /// Normal forms are normal, and normalising changes them no more.
    fn paths(&self, target: &[u8]) {
        let path = Path::normalize(target, PathRules::default());
        let bytes = path.as_bytes();
        assert_eq!(bytes.first(), Some(&b'/'), "{path:?}");
        assert!(bytes == b"/" || !bytes.ends_with(b"/"), "{path:?}");
        assert!(!bytes.contains(&b'\\'), "{path:?}");
        let segments = bytes[1..].split(|b| *b == b'/');
        assert!(bytes == b"/" || segments.clone().all(|s| !matches!(s, b"" | b"." | b"..")), "{path:?}");
        assert!(bytes == b"/" || segments.eq(path.segments()), "{path:?}");
        for keep in [|b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b), |_: u8| false] {
            let again = Path::normalize(&encode(bytes, keep), PathRules::default());
            assert_eq!(bytes, again.as_bytes());
        }
        let folded =
            Path::normalize(target, PathRules { case: PathCase::Insensitive, ..PathRules::default() });
        assert_eq!(folded.as_bytes(), bytes.to_ascii_lowercase());
    }

    /// Another spelling takes the same route to the same counters at the same cost, and so does a longer list of
    /// addresses. A path that servers read differently is refused, or meets the guard of each.
    fn spellings(&self, head: &Head) {
        let (route, ops) = check::plan(&self.policy, head, self.now);
        self.readings(head, route);
        check::ops(&self.policy, "tg", &ops);
        let seed = hash(&head.target);
        for round in 0..2 {
            let other =
                spelling::respell(head, self.rules.case == PathCase::Insensitive, seed.wrapping_add(round));
            let (other_route, other_ops) = check::plan(&self.policy, &other, self.now);
            let is_refused = self.readings(&other, other_route);
            let is_plain = Path::normalize(&head.target, self.rules).has_one_reading();
            if is_plain && !is_refused && oracle::is_guarded(&self.policy, route) {
                assert_eq!(route, other_route, "{other:?}");
                // Of what stands behind a `#` nobody knows whether it is a part of the query.
                let is_cut = other.target.contains(&b'#') && !head.target.contains(&b'#');
                if Path::normalize(&other.target, self.rules).is_one_resource() && !is_cut {
                    assert_eq!(ops, other_ops, "{other:?}");
                }
            }
        }
        if head.method == b"GET" {
            let other = Head { method: b"HEAD".into(), ..head.clone() };
            assert_eq!(route, check::plan(&self.policy, &other, self.now).0, "{other:?}");
        }
        self.addresses(head, &ops);
    }

    /// Holds the route that was taken against what servers make of the path, and says whether the request is refused instead.
    fn readings(&self, head: &Head, route: Option<usize>) -> bool {
        let is_refused = check::is_ambiguous(&self.policy, head, self.now);
        oracle::readings(&self.policy, self.rules, head, (!is_refused).then_some(route));
        is_refused
    }

    /// What a client writes in front of a list of addresses changes nothing, and the connection's address counts exactly
    /// where the list is too short.
    fn addresses(&self, head: &Head, ops: &[Op]) {
        let entries = head.lines(FORWARDED).flat_map(|line| line.split(|b| *b == b',')).count();
        if entries >= HOPS {
            let forged = spelling::forge(head, FORWARDED);
            assert_eq!(ops, check::plan(&self.policy, &forged, self.now).1, "{forged:?}");
        }
        let [one, other] = [1, 2].map(|n| IpAddr::from([198, 51, 100, n]));
        let is_one = head.peer.is_some_and(|peer| peer.to_canonical() == one);
        let stranger = Head { peer: Some(if is_one { other } else { one }), ..head.clone() };
        let theirs = check::plan(&self.policy, &stranger, self.now).1;
        let checks = |ops: &[Op]| ops.iter().flat_map(Op::checks).cloned().collect::<Vec<_>>();
        for (own, other) in checks(ops).iter().zip(checks(&theirs)) {
            let by_address = check::limit_of(&self.policy, "tg", own).key().contains(&KeyPart::ClientIp);
            assert_eq!(own.key != other.key, by_address && entries < HOPS, "{head:?}");
        }
    }

    /// Decides about a request, checks the decision and settles it.
    fn ask(&mut self, head: &Head) -> Decision {
        let step = begin(&self.policy, &mut self.local, head, self.now);
        let mut decision = match (step, &mut self.store) {
            (Step::Call(call), Some(store)) => {
                check::ops(&self.policy, "tg", call.batch());
                self.asked += 1;
                let now = self.now;
                let answered = !self.fails || self.asked.is_multiple_of(5);
                let outcomes: Vec<_> = if answered {
                    self.local.store_answered();
                    call.batch().iter().map(|op| store.perform(op, now)).collect()
                } else {
                    self.local.store_failed(now);
                    let errors = [
                        StoreError::Timeout,
                        StoreError::Status(500),
                        StoreError::Refused(ErrorCode::of("OOM x")),
                    ];
                    call.batch()
                        .iter()
                        .zip(errors.iter().cycle())
                        .map(|(_, error)| Err(error.clone()))
                        .collect()
                };
                check::decision_of(call.resume(&mut self.local, outcomes, now), &mut self.local, now)
            }
            (step, _) => check::decision_of(step, &mut self.local, self.now),
        };
        check::decision(&self.policy, &decision, self.now, true);
        self.covers_its_limits(&decision);
        self.decisions += 1;
        for verdict in decision.report().verdicts.iter().filter(|verdict| verdict.source != Source::Denials) {
            let (key, cost) = self.counter(verdict.limit, head);
            if verdict.ruling == Ruling::Admitted {
                self.changed.insert(key, self.decisions);
            } else {
                self.refused.insert((key, cost), self.decisions);
            }
        }
        for op in decision.settle() {
            check::ops(&self.policy, "tg", std::slice::from_ref(&op));
            let memory = self.store.as_mut().unwrap_or(self.local.memory());
            memory.perform(&op, self.now).expect("nobody else uses this memory");
        }
        assert!(decision.settle().is_empty(), "settled twice");
        decision
    }

    /// The counter of a limit that a request is about, and what it costs there.
    fn counter(&self, limit: usize, head: &Head) -> (Key, u64) {
        let (_, ops) = check::plan(&self.policy, head, self.now);
        let name = self.policy.limits()[limit].name();
        let mut checks = ops.iter().flat_map(Op::checks);
        let check = checks.find(|check| check::limit_of(&self.policy, "tg", check).name() == name);
        check.map(|check| (check.key.clone(), check.cost)).expect("each limit of a route is asked")
    }

    /// Every limit of the route spoke, unless one remembered refusal was enough.
    fn covers_its_limits(&self, decision: &Decision) {
        let report = decision.report();
        let remembered = report.verdicts.iter().any(|verdict| verdict.source == Source::Denials);
        let limits = report.route.map_or(0, |route| self.policy.routes()[route].limits().len());
        assert_eq!(report.verdicts.len(), if remembered { 1 } else { limits }, "{report:?}");
    }

    /// Whether times that are told are those of one memory.
    fn is_exact(&self) -> bool {
        !self.fails
    }

    /// A refused request is refused until the time it was told, and then no more by the limit that named it.
    fn keeps_its_word(&mut self, decision: &Decision, head: &Head) {
        let refused = decision.report().verdicts.iter().filter(|verdict| verdict.ruling == Ruling::Refused);
        let wait = |verdict: &Verdict| match verdict.standing?.retry {
            Retry::After(millis) => Some((millis, verdict.limit)),
            _ => None,
        };
        let Some((millis, limit)) = refused.filter_map(wait).max() else { return };
        let (key, cost) = self.counter(limit, head);
        if self.changed.get(&key) > self.refused.get(&(key, cost)) {
            // It was remembered, and a request of another cost came in between.
            return;
        }
        let told = self.now;
        for early in [millis / 2, millis - 1] {
            self.now = told.plus(early);
            let still = self.ask(head);
            assert!(
                matches!(still, Decision::Deny(_)),
                "told {millis} ms, admitted after {early}: {decision:?}"
            );
        }
        self.now = told.plus(millis);
        let then = self.ask(head);
        let kept = then.report().verdicts.iter().all(|verdict| verdict.limit != limit || !verdict.refuses());
        assert!(kept, "told {millis} ms: {decision:?}, then {then:?}");
    }
}

fn encode(path: &[u8], keep: fn(u8) -> bool) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(3 * path.len());
    for byte in path {
        if *byte == b'/' || keep(*byte) {
            encoded.push(*byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

/// The rich policy, with paths told apart by case and without.
static POLICIES: LazyLock<(Arc<Policy>, Arc<Policy>)> = LazyLock::new(|| {
    let config: PolicyConfig = config::parse(RICH).expect("rich.json is a policy");
    let folded = PolicyConfig { path_case: PathCase::Insensitive, ..config.clone() };
    let compile = |config| Arc::new(Policy::compile(config, "", None).expect("rich.json is a policy"));
    (compile(config), compile(folded))
});

/// A policy in which everything occurs, with quotas that are soon used up.
pub const RICH: &[u8] = include_bytes!("rich.json");
/// What `rich.json` says of the client's address.
const FORWARDED: &str = "x-forwarded-for";
const HOPS: usize = 2;
/// Requests of one input.
const REQUESTS: usize = 24;
/// About a year of milliseconds.
const LONGEST_WAIT: u64 = 31_622_400_000;
