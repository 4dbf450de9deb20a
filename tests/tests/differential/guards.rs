//! Leases, idempotency keys, circuit breakers and revocations.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tollgate_shared::circuit_breaker::{BreakerState, CircuitBreaker, Force, Trip};
use tollgate_shared::id::Id;
use tollgate_shared::idempotency::{MAX_RESPONSE, StoredResponse};
use tollgate_shared::key::Key;
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::revocation::{Reach, Revocation};
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, Probe};
use tollgate_shared::time::{Span, Timestamp};
use tollgate_tests::gateway::Gateway;
use tollgate_tests::redis::{Build, Redis};
use tollgate_tests::rest::{Outcome as Came, Rest};
use tollgate_tests::{ports, run_dir};

use crate::BASE;
use crate::random::Random;
use crate::sequence::{Sequence, compare};
use crate::store::{RedisStore, start};

#[tokio::test]
async fn memory_and_redis_agree_on_any_sequence() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let (mut sequences, mut outcomes) = (0, BTreeMap::new());
    compare(&mut store, 5000, random, |_, performed| {
        sequences += 1;
        for outcome in performed {
            *outcomes.entry(kind(outcome.as_ref().unwrap())).or_insert(0_u64) += 1;
        }
    });
    let operations: u64 = outcomes.values().sum();
    println!("{sequences} sequences, {operations} operations: {outcomes:?}");
    // A generator that never brings a thing about would prove nothing of it.
    for kind in KINDS {
        let seen = outcomes.get(kind).copied().unwrap_or(0);
        assert!(seen * 500 > operations, "{kind}: {seen} of {operations}");
    }
}

#[tokio::test]
async fn scripts_take_the_time_of_redis_when_given_none() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    // The time is told by what is numbered by it, and by the rest of a minute that began with it.
    let mut told = |op: &Op| {
        let before = store.time();
        let outcome = store.one(op, Clock::Store).unwrap();
        let range = before..=store.time();
        (outcome, move |millis: u64| range.contains(&Timestamp::from_millis(millis)))
    };
    let (acquired, is_now) = told(&acquire(1, true));
    let Outcome::Acquired { fence } = acquired else { panic!("{acquired:?}") };
    assert!(is_now(fence), "{fence}");
    let (held, _) = told(&acquire(2, true));
    assert!(
        matches!(held, Outcome::Held { for_ms } if (MINUTE.as_millis() - SLACK..=MINUTE.as_millis()).contains(&for_ms))
    );

    let (reserved, is_now) = told(&reserve(1));
    let Outcome::Reserved { fence } = reserved else { panic!("{reserved:?}") };
    assert!(is_now(fence), "{fence}");

    let (opened, is_now) = told(&Op::Force { key: key("cb"), breaker: breaker(), to: Force::Open(MINUTE) });
    let Outcome::Breaker { state: BreakerState::Open { for_ms: 60_000 }, generation } = opened else {
        panic!("{opened:?}")
    };
    assert!(is_now(generation), "{generation}");

    let (revoked, is_now) = told(&revoke(0, 0));
    let Outcome::RevokedUpTo(before) = revoked else { panic!("{revoked:?}") };
    assert!(is_now(before.as_millis()), "{before:?}");
    let asked = store.one(&Op::IsRevoked { key: key("rv") }, Clock::Store).unwrap();
    assert_eq!(asked, Outcome::Revoked(Some(Revocation { before, until: at(60_000) })));
    // A host that is ahead of Redis has the last word.
    let ahead = store.time().plus(3_600_000);
    let revoked = store.one(&revoke(ahead.as_millis(), 5000), Clock::Store).unwrap();
    assert_eq!(revoked, Outcome::RevokedUpTo(ahead.plus(5000)));
}

#[tokio::test]
async fn scripts_run_where_time_is_refused_if_they_are_given_it() {
    let redis = start(&["--user", "default", "on", "nopass", "~*", "&*", "+@all", "-time"]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let given = Clock::Host(Timestamp::from_millis(BASE));
    for op in [acquire(1, true), reserve(1), Op::View { key: key("cb"), breaker: breaker() }, revoke(BASE, 0)]
    {
        let refused = store.one(&op, Clock::Store).unwrap_err();
        assert_eq!(refused.to_string(), "the store refused the operation (ERR)");
        let mut memory = Memory::new(HeapShards::default(), 1);
        assert_eq!(store.one(&op, given), memory.perform(&op, Timestamp::from_millis(BASE)));
    }
    let asked = store.one(&Op::IsRevoked { key: key("rv") }, Clock::Store);
    let revocation = Revocation { before: at(BASE), until: at(BASE + 60_000) };
    assert_eq!(asked, Ok(Outcome::Revoked(Some(revocation))), "which needs no time");
}

/// A refusal costs replicas and the append-only file nothing.
#[tokio::test]
async fn what_changes_nothing_writes_nothing_to_redis() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let (lock, idem, cb) = (key("lock"), key("idem"), key("cb"));
    let breaker = breaker();
    let report = |successes, failures, probe| Op::Report {
        key: cb.clone(),
        breaker,
        reporter: id(1),
        successes,
        failures,
        probe,
    };
    for op in [
        acquire(1, true),
        reserve(1),
        Op::Keep { key: idem.clone(), holder: id(1), ttl: MINUTE, response: response(3) },
    ] {
        let before = store.changes();
        store.one(&op, Clock::Host(Timestamp::from_millis(BASE))).unwrap();
        assert_eq!(store.changes(), before + 1, "{op:?}");
    }
    let stranger = Some(Probe { generation: 7, holder: id(9) });
    let mut same = |op: &Op, now: u64| {
        let before = store.changes();
        let outcome = store.one(op, Clock::Host(Timestamp::from_millis(now))).unwrap();
        assert_eq!(store.changes(), before, "{op:?}: {outcome:?}");
        outcome
    };
    assert_eq!(same(&acquire(2, true), BASE), Outcome::Held { for_ms: 60_000 });
    assert_eq!(same(&Op::Release { key: lock.clone(), holder: id(2) }, BASE), Outcome::Lost);
    assert_eq!(same(&Op::Extend { key: lock.clone(), holder: id(2), lease: MINUTE }, BASE), Outcome::Lost);
    assert_eq!(same(&Op::Release { key: lock, holder: id(1) }, BASE + 60_000), Outcome::Lost);
    assert_eq!(same(&reserve(2), BASE), Outcome::Replay(response(3)));
    assert_eq!(same(&Op::Abandon { key: idem.clone(), holder: id(1) }, BASE), Outcome::Lost);
    let late =
        |n, holder| Op::Keep { key: idem.clone(), holder: id(holder), ttl: MINUTE, response: response(n) };
    assert_eq!(same(&late(4, 1), BASE), Outcome::Kept);
    assert_eq!(same(&late(4, 2), BASE), Outcome::Lost);
    assert_eq!(same(&late(4, 1), BASE + 60_000), Outcome::Lost);
    let closed = Outcome::Breaker { state: BreakerState::Closed, generation: 0 };
    assert_eq!(same(&Op::View { key: cb.clone(), breaker }, BASE), closed);
    assert_eq!(same(&Op::Probe { key: cb.clone(), breaker, holder: id(1) }, BASE), closed);
    assert_eq!(same(&report(5, 0, None), BASE), closed, "only failures count");
    assert_eq!(same(&report(0, 5, stranger), BASE), closed);
    assert_eq!(same(&Op::IsRevoked { key: key("rv") }, BASE), Outcome::Revoked(None));
}

/// Redis keeps what is stored for longer than it means anything, and not for ever.
#[tokio::test]
async fn redis_forgets_what_means_nothing_any_more() {
    const DAY: u64 = 86_400_000;
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let breaker = breaker();
    let failures = |failures| Op::Report {
        key: key("cb"),
        breaker,
        reporter: id(1),
        successes: 0,
        failures,
        probe: None,
    };
    let kept = Op::Keep { key: key("idem"), holder: id(1), ttl: hours(1), response: response(3) };
    for (op, now, expected) in [
        (acquire(1, false), BASE, 120_000),
        (acquire(1, false), BASE + 30_000, 120_000),
        (Op::Release { key: key("lock"), holder: id(1) }, BASE + 30_000, 0),
        (acquire(1, true), BASE, 60_000 + DAY),
        (Op::Extend { key: key("lock"), holder: id(1), lease: hours(1) }, BASE, 3_600_000 + DAY),
        (Op::Release { key: key("lock"), holder: id(1) }, BASE, DAY),
        (reserve(1), BASE, 120_000),
        (Op::Abandon { key: key("idem"), holder: id(1) }, BASE, 60_000),
        (reserve(1), BASE, 120_000),
        (kept, BASE, 3_660_000),
        // Counted for ten seconds in slices, open for five.
        (failures(1), BASE, 70_000),
        (failures(2), BASE, 5000 + DAY + 60_000),
        (Op::Probe { key: key("cb"), breaker, holder: id(1) }, BASE + 6000, DAY + 59_000),
        (Op::Force { key: key("cb"), breaker, to: Force::Closed }, BASE, 70_000),
        (Op::Revoke { key: key("rv"), ttl: hours(1), reach: Reach::default() }, BASE, 3_660_000),
        (revoke(BASE + 1000, 0), BASE + 1000, 3_660_000),
    ] {
        store.one(&op, Clock::Host(Timestamp::from_millis(now))).unwrap();
        let left = u64::try_from(store.expires_in(op.key().unwrap())).unwrap_or(0);
        assert!((expected.saturating_sub(SLACK)..=expected).contains(&left), "{op:?}: {left} of {expected}");
    }
}

/// Too rare to be met at random: that the oldest was forgotten, and not another, shows when more of them lapse.
#[tokio::test]
async fn the_reporter_who_failed_longest_ago_makes_room() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let mut memory = Memory::new(HeapShards::default(), 1);
    let breaker = CircuitBreaker::new(Trip::Failures(50), span(8000), 32, MINUTE, 1, MINUTE).unwrap();
    let report = |reporter, failures| Op::Report {
        key: key("cb"),
        breaker,
        reporter: id(reporter),
        successes: 0,
        failures,
        probe: None,
    };
    let early = (0..8).map(|reporter| (BASE, report(reporter, 1)));
    let late = (8..40).map(|reporter| (BASE + 4000, report(reporter, 1)));
    let last = (BASE + 9000, report(39, 18));
    let mut tripped = false;
    for (now, op) in early.chain(late).chain([last]) {
        assert!(!tripped);
        let now = Timestamp::from_millis(now);
        let outcome = memory.perform(&op, now);
        assert_eq!(store.one(&op, Clock::Host(now)), outcome);
        tripped = kind(&outcome.unwrap()) == "open";
    }
    assert!(tripped);
}

#[tokio::test]
async fn the_largest_response_comes_back() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let bytes = (0..MAX_RESPONSE).map(|n| (n * n / 7) as u8).collect();
    let largest = StoredResponse::new(bytes).unwrap();
    let keep = Op::Keep { key: key("idem"), holder: id(1), ttl: MINUTE, response: largest.clone() };
    let steps = [
        (reserve(1), Outcome::Reserved { fence: BASE }),
        (keep, Outcome::Kept),
        (reserve(2), Outcome::Replay(largest)),
    ];
    let mut memory = Memory::new(HeapShards::default(), 1);
    for (op, expected) in steps {
        let now = Timestamp::from_millis(BASE);
        assert_eq!(memory.perform(&op, now).as_ref(), Ok(&expected));
        assert_eq!(store.one(&op, Clock::Host(now)), Ok(expected));
    }
}

/// The rights of hosts, as the gateway's README says them.
const RIGHTS: &str = "\
    [[tokens]]\nname = 'tollgate'\ntoken_env = 'TOLLGATE_TOKEN'\n\
    commands = ['EVALSHA', 'EVAL', 'GETEX', 'DEL']\nkey_prefixes = ['tg:']\n";

/// One call over HTTP carries them all, the largest response among them.
#[tokio::test]
async fn the_gateway_carries_every_operation_of_a_token_that_may_do_nothing_else() {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    std::fs::write(dir.join("gateway.toml"), RIGHTS).unwrap();
    let configured = ["--config", "gateway.toml"];
    let port = ports::free().unwrap();
    let gateway = Gateway::start_with(&dir, port, &redis.url(), "guards", &configured).await.unwrap();
    let mut rest = Rest::new(gateway.address(), "guards");
    let largest = response(MAX_RESPONSE);
    let (idem, cb, rv) = (key("idem"), key("cb"), key("rv"));
    let keep = Op::Keep { key: idem, holder: id(1), ttl: MINUTE, response: largest.clone() };
    let force = Op::Force { key: cb.clone(), breaker: breaker(), to: Force::Open(MINUTE) };
    let open = BreakerState::Open { for_ms: 60_000 };
    let opened = Outcome::Breaker { state: open, generation: BASE };
    let asked = [
        (Op::IsRevoked { key: rv.clone() }, Outcome::Revoked(None)),
        (acquire(1, true), Outcome::Acquired { fence: BASE }),
        (acquire(2, true), Outcome::Held { for_ms: 60_000 }),
        (reserve(1), Outcome::Reserved { fence: BASE }),
        (keep, Outcome::Kept),
        (reserve(2), Outcome::Replay(largest)),
        (force, opened.clone()),
        (Op::View { key: cb, breaker: breaker() }, opened),
        (revoke(BASE - 5000, 7000), Outcome::RevokedUpTo(at(BASE + 7000))),
    ];
    let (ops, expected): (Vec<Op>, Vec<Outcome>) = asked.into_iter().unzip();
    assert_eq!(over_http(&mut rest, ops).await, expected);
    let revoked = over_http(&mut rest, vec![Op::IsRevoked { key: rv }]).await;
    let revocation = Revocation { before: at(BASE + 7000), until: at(BASE + 55_000) };
    assert_eq!(revoked, [Outcome::Revoked(Some(revocation))]);
    let freed = over_http(&mut rest, vec![Op::Reset { key: key("lock") }, acquire(2, true)]).await;
    assert_eq!(freed, [Outcome::Reset, Outcome::Acquired { fence: BASE }]);
}

async fn over_http(rest: &mut Rest, ops: Vec<Op>) -> Vec<Outcome> {
    let mut pipeline = Pipeline::new(vec![ops]);
    loop {
        let body = pipeline.body(Clock::Host(Timestamp::from_millis(BASE)));
        let commands: Vec<Value> = serde_json::from_str(&body).unwrap();
        let answers = rest.batch("/pipeline", &commands).await.unwrap().into_iter().map(|came| match came {
            Came::Done(result) => json!({ "result": result }),
            Came::Refused(error) | Came::Unknown(error) => json!({ "error": error }),
        });
        let answer = Value::Array(answers.collect()).to_string();
        if pipeline.receive(200, answer.as_bytes()) == Progress::Done {
            return pipeline.finish().next().unwrap().1.into_iter().map(Result::unwrap).collect();
        }
    }
}

/// Redis 7.0 is what Debian 12 has.
#[tokio::test]
async fn an_older_redis_agrees_too() {
    let dir = run_dir::create().unwrap();
    let port = ports::free().unwrap();
    let redis = Redis::start_as("redis", Build::System, &dir, port, &[]).await.unwrap();
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    compare(&mut store, 500, random, |_, _| {});
}

/// One guard, or all of them, for a while.
fn random(seed: u64) -> Sequence {
    let mut world = World::new(seed);
    let guard = seed % 5;
    let steps = 8 + world.random.below(if guard == 2 { 60 } else { 30 }) + 3 * world.crowd;
    // The clock may be wrong at first, and be set right after a few steps. Redis has another means against a revocation's wrong
    // clock than memory: it expires by itself.
    let start = world.now;
    let wrong = if guard < 3 && world.random.one_in(4) { 1 + world.random.below(6) } else { 0 };
    if wrong > 0 {
        world.now += world.random.pick(&[900, 5000, 60_000, 3_600_000, 86_500_000, 1 << 40]);
    }
    for step in 0..steps {
        if step == wrong {
            (world.now, world.latest) = (start, start);
        }
        // Redis expires in real time: the memory must not have dropped what Redis keeps, or fences that are ahead differ.
        (world.stands_still, world.is_short) = (step < wrong, wrong > 0);
        match if guard == 4 { world.random.below(4) } else { guard } {
            0 => world.lease(),
            1 => world.idempotency(),
            2 => world.circuit_breaker(),
            _ => world.revocation(),
        }
        // A crowd is there to be remembered.
        if world.crowd == 0 && world.random.one_in(30) {
            let key = world.steps.last().and_then(|(_, op)| op.key()).cloned();
            world.perform(Op::Reset { key: key.unwrap() });
        }
    }
    Sequence { steps: world.steps }
}

/// Chooses operations, and performs them in a memory, because later ones need what earlier ones were told.
struct World {
    random: Random,
    seed: u64,
    memory: Memory<HeapShards>,
    steps: Vec<(u64, Op)>,
    now: u64,
    latest: u64,
    breakers: [CircuitBreaker; 2],
    stands_still: bool,
    is_short: bool,
    /// How many instances see failures one after the other, where they are more than are remembered; otherwise zero.
    crowd: u64,
    /// Every probe that was let through.
    probes: Vec<(Key, Probe)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let now = BASE + random.pick(&[0, 1, 9999, 86_399_999, 1_234_567]);
        let mut breakers = [some_breaker(&mut random), some_breaker(&mut random)];
        let crowd = if seed % 5 == 2 && random.one_in(8) { 40 } else { 0 };
        if crowd > 0 {
            let trip = Trip::Failures(random.pick(&[1, 36, 1_000_000]) as u32);
            let reporters = random.pick(&[31, 32]) as u32;
            breakers[0] = CircuitBreaker::new(trip, span(8000), reporters, MINUTE, 1, MINUTE).unwrap();
        }
        let memory = Memory::new(HeapShards::default(), 1);
        Self {
            random,
            seed,
            memory,
            steps: Vec::new(),
            now,
            latest: now,
            breakers,
            stands_still: false,
            is_short: false,
            crowd,
            probes: Vec::new(),
        }
    }

    fn lease(&mut self) {
        let lease = self.random.pick(&[1, 2, 1000, 10_000, 60_001]);
        self.pass(lease);
        let (key, holder) = (self.key("lock", 2), self.holder());
        let lease = span(lease);
        let fenced = key.as_str().ends_with('0') != self.random.one_in(12);
        let op = match self.random.below(4) {
            0 => Op::Extend { key, holder, lease },
            1 => Op::Release { key, holder },
            _ => Op::Acquire { key, holder, lease, fenced },
        };
        self.perform(op);
    }

    fn idempotency(&mut self) {
        let lease = self.random.pick(&[1, 2, 1000, 10_000, 60_001]);
        self.pass(lease);
        let (key, holder) = (self.key("idem", 2), self.holder());
        let op = match self.random.below(6) {
            0 | 1 => {
                let (ttl, length) =
                    (self.random.pick(&[1, 5000, 60_000]), self.random.pick(&[0, 1, 2, 3, 100]));
                Op::Keep { key, holder, ttl: span(ttl), response: response(length as usize) }
            }
            2 => Op::Abandon { key, holder },
            _ => {
                let fingerprint = id(100 + u64::from(self.random.one_in(5)));
                Op::Reserve { key, holder, fingerprint, lease: span(lease) }
            }
        };
        self.perform(op);
    }

    fn circuit_breaker(&mut self) {
        let number = self.random.below(10) / 9;
        let key = named(self.seed, "cb", number);
        let number = number as usize;
        if self.random.one_in(25) && self.crowd == 0 {
            self.breakers[number] = some_breaker(&mut self.random);
        }
        let breaker = self.breakers[number];
        let within = breaker.within().as_millis();
        let times = [within, within * 7 / 8, breaker.open_for().as_millis(), breaker.probe().as_millis()];
        let time = if self.crowd > 0 { self.random.pick(&[1, 1000]) } else { self.random.pick(&times) };
        self.pass(time.max(1));
        let choice = if self.crowd > 0 { 12 + self.random.below(8) } else { self.random.below(20) };
        let own: Vec<Probe> =
            self.probes.iter().filter(|(of, _)| *of == key).map(|(_, probe)| *probe).collect();
        let op = match choice {
            0 => Op::View { key, breaker },
            1 if self.random.one_in(3) => {
                let to = match self.random.below(3) {
                    0 => Force::Closed,
                    _ => Force::Open(span(self.random.pick(&[1, 1000, 60_000]))),
                };
                Op::Force { key, breaker, to }
            }
            1..=6 => Op::Probe { key, breaker, holder: id(self.random.below(20)) },
            7..=12 if !own.is_empty() => {
                // Mostly the latest, and now and then with another's name.
                let latest = own.len() - 1 - self.random.below(own.len().min(4) as u64) as usize;
                let mut probe = own[latest];
                if self.random.one_in(8) {
                    probe.holder = id(self.random.below(20));
                }
                let (successes, failures) = match self.random.below(8) {
                    0 => (0, 0),
                    1 | 2 => (1, 1),
                    _ => (1, 0),
                };
                Op::Report { key, breaker, reporter: id(200), successes, failures, probe: Some(probe) }
            }
            _ => {
                let steps = self.steps.len() as u64;
                let reporter = if self.crowd > 0 { steps % self.crowd } else { self.random.below(4) };
                let reporter = id(300 + reporter);
                let (successes, failures) = match self.random.below(8) {
                    0 => (0, 0),
                    1 => (3, 0),
                    2 => (0, 2),
                    3 => (1, 1),
                    4 => (u32::MAX, 0),
                    5 if self.random.one_in(4) => (2, u32::MAX),
                    _ => (0, 1),
                };
                Op::Report { key, breaker, reporter, successes, failures, probe: None }
            }
        };
        if let Outcome::Probing { generation } = self.perform(op.clone())
            && let Op::Probe { key, holder, .. } = op
        {
            self.probes.push((key, Probe { generation, holder }));
        }
    }

    /// A revocation lasts longer than a sequence, in which Redis forgets nothing.
    fn revocation(&mut self) {
        self.pass(1000);
        let key = self.key("rv", 3);
        let op = if self.random.one_in(2) {
            let moments = [0, 1, BASE - 1, BASE + 5000, self.now, self.now + 7000, 1 << 52, u64::MAX];
            let (now, issued) = (self.now + self.random.pick(&[0, 2000]), self.random.pick(&moments));
            let reach = Reach { now: at(now), leeway: self.random.pick(&[0, 0, 5000]), issued: at(issued) };
            let ttl = [Span::MAX, hours(24 * 300)][self.random.below(2) as usize];
            Op::Revoke { key, ttl, reach }
        } else {
            Op::IsRevoked { key }
        };
        self.perform(op);
    }

    /// Lets time pass, mostly around `time`, and sometimes back: no further than the memory keeps what has lapsed.
    fn pass(&mut self, time: u64) {
        if self.stands_still {
            return;
        }
        if self.is_short {
            self.now += self.random.pick(&[0, 1, 2, 300, 999]);
            return;
        }
        if self.random.one_in(2) {
            self.now += self.random.pick(&[0, 1, time / 3, time - 1, time, time + 1]);
        }
        if self.random.one_in(40) {
            self.now += self.random.pick(&[86_400_000, 86_399_000, 86_460_001]);
        }
        if self.random.one_in(8) {
            let back = self.random.pick(&[1, 10, 400, 900]);
            self.now = self.now.saturating_sub(back).max(self.latest - 900);
        }
        self.latest = self.latest.max(self.now);
    }

    fn perform(&mut self, op: Op) -> Outcome {
        let outcome = self.memory.perform(&op, Timestamp::from_millis(self.now)).unwrap();
        self.steps.push((self.now, op));
        outcome
    }

    fn key(&mut self, kind: &str, of: u64) -> Key {
        named(self.seed, kind, self.random.below(of))
    }

    fn holder(&mut self) -> Id {
        id(self.random.below(3))
    }
}

fn some_breaker(random: &mut Random) -> CircuitBreaker {
    let trip = if random.one_in(2) {
        Trip::Failures(random.pick(&[1, 2, 3, 5]) as u32)
    } else {
        let percent = random.pick(&[1, 50, 67, 100]) as u32;
        Trip::Ratio { percent, min_volume: random.pick(&[1, 2, 4, 8]) as u32 }
    };
    CircuitBreaker::new(
        trip,
        span(random.pick(&[1, 8, 1003, 10_000, 10_000, 60_000])),
        random.pick(&[1, 1, 1, 2, 3, 32]) as u32,
        span(random.pick(&[1, 1000, 5000])),
        random.pick(&[1, 1, 2, 3, 16]) as u32,
        span(random.pick(&[1, 1000, 5000, 60_000])),
    )
    .unwrap()
}

fn named(sequence: u64, kind: &str, number: u64) -> Key {
    Key::from_stored(&format!("tg:{{{sequence}}}:{kind}:{number}"))
}

fn key(kind: &str) -> Key {
    Key::from_stored(&format!("tg:{{one}}:{kind}"))
}

fn id(number: u64) -> Id {
    Id::from_bytes(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

fn acquire(holder: u64, fenced: bool) -> Op {
    Op::Acquire { key: key("lock"), holder: id(holder), lease: MINUTE, fenced }
}

fn reserve(holder: u64) -> Op {
    Op::Reserve { key: key("idem"), holder: id(holder), fingerprint: id(100), lease: MINUTE }
}

fn breaker() -> CircuitBreaker {
    CircuitBreaker::new(Trip::Failures(3), span(10_000), 1, span(5000), 2, span(1000)).unwrap()
}

/// By a host's clock, where an issuer may be `leeway` ahead.
fn revoke(now: u64, leeway: u64) -> Op {
    Op::Revoke { key: key("rv"), ttl: MINUTE, reach: Reach { now: at(now), leeway, issued: at(0) } }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn response(length: usize) -> StoredResponse {
    StoredResponse::new((0..length).map(|n| (n * 37 + 250) as u8).collect()).unwrap()
}

fn span(millis: u64) -> Span {
    Span::from_millis(millis).unwrap()
}

fn hours(hours: u64) -> Span {
    span(hours * 3_600_000)
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::RateLimit { .. } | Outcome::Refunded => panic!("no limit was asked for: {outcome:?}"),
        Outcome::Acquired { .. } => "acquired",
        Outcome::Held { .. } => "held",
        Outcome::Lost => "lost",
        Outcome::Released => "released",
        Outcome::Reserved { .. } => "reserved",
        Outcome::InProgress { .. } => "in progress",
        Outcome::Mismatch => "mismatch",
        Outcome::Replay(_) => "replay",
        Outcome::Kept => "kept",
        Outcome::Breaker { state: BreakerState::Closed, .. } => "closed",
        Outcome::Breaker { state: BreakerState::Open { .. }, .. } => "open",
        Outcome::Breaker { state: BreakerState::HalfOpen { free: 0, .. }, .. } => "no free probe",
        Outcome::Breaker { state: BreakerState::HalfOpen { .. }, .. } => "half-open",
        Outcome::Probing { .. } => "probing",
        Outcome::Revoked(None) => "valid",
        Outcome::Revoked(Some(_)) | Outcome::RevokedUpTo(_) => "revoked",
        Outcome::Reset => "reset",
    }
}

const KINDS: [&str; 17] = [
    "acquired",
    "held",
    "lost",
    "released",
    "reserved",
    "in progress",
    "mismatch",
    "replay",
    "kept",
    "closed",
    "open",
    "no free probe",
    "half-open",
    "probing",
    "valid",
    "revoked",
    "reset",
];
const MINUTE: Span = Span::from_millis(60_000).unwrap();
/// How long asking may take, in milliseconds.
const SLACK: u64 = 5000;
