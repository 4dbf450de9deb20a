//! The two interpreters of store operations against each other: the embedded memory, and Redis by way of the scripts.
//!
//! Random sequences of operations (several checks over mixed algorithms, shadow or not, costs, refunds, quotas that change
//! under their keys, a clock that sometimes steps back) must have equal outcomes on both. Time is virtual: scripts are
//! given the time, so nothing waits. Redis gets the commands that a host would post, [`Pipeline::body`], as commands.
//!
//! `TOLLGATE_DIFFERENTIAL_CASES` sets the number of sequences (10,000), `TOLLGATE_DIFFERENTIAL_SEED` the seed of the
//! first one.
//!
//! What keeps Redis' real expiry out of virtual time: a counter lives for at least its window in real time, windows
//! here have 10 s or more, and a sequence takes milliseconds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::fmt::Write as _;

use redis::{Connection, ConnectionLike as _, Value};
use serde_json::json;
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota, Retry, Standing};
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};
use tollgate_tests::redis::Redis;
use tollgate_tests::{ports, run_dir};

#[tokio::test]
async fn memory_and_redis_agree_on_any_sequence() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let (cases, first) =
        (number("TOLLGATE_DIFFERENTIAL_CASES", 10_000), number("TOLLGATE_DIFFERENTIAL_SEED", 1));
    let (mut operations, mut admitted) = (0, 0);
    let seeds: Vec<u64> = (0..cases).map(|case| first.wrapping_add(case)).collect();
    for batch in seeds.chunks(BATCH) {
        let sequences: Vec<Sequence> = batch.iter().map(|seed| Sequence::random(*seed)).collect();
        let outcomes = store.perform(&sequences);
        for ((seed, sequence), outcomes) in batch.iter().zip(&sequences).zip(outcomes) {
            let expected = in_memory(sequence);
            operations += expected.len();
            admitted += sequence.admitted(&expected);
            if let Some(at) = expected.iter().zip(&outcomes).position(|(memory, redis)| memory != redis) {
                let shrunk = shrink(sequence, at, &mut store);
                panic!(
                    "they differ with TOLLGATE_DIFFERENTIAL_SEED={seed}; shrunk:\n{}",
                    report(&shrunk, &mut store)
                );
            }
        }
        store.clear();
    }
    // A generator that only ever admits, or never, would prove nothing.
    println!("{cases} sequences, {operations} operations, {admitted} of them admitted with a charge");
    assert!(admitted * 10 > operations && admitted * 10 < operations * 9, "{admitted} of {operations}");
}

#[tokio::test]
async fn scripts_take_the_time_of_redis_when_given_none() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    for algorithm in ALGORITHMS {
        let check = check("clock", algorithm, 3, Span::from_millis(3_600_000).unwrap(), 3);
        let ask = Op::RateLimit(vec![check.clone()]);
        let mut memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
        let mut charged = Timestamp::default();
        for _ in 0..3 {
            let earliest = store.time();
            let outcome = store.one(&ask, Clock::Store).unwrap();
            assert!(outcome.admitted(ask.checks()), "{algorithm:?}: {outcome:?}");
            charged = time_of(&outcome);
            assert!((earliest..=store.time()).contains(&charged), "{algorithm:?}: {outcome:?}");
        }
        // Whatever a memory says that was charged at the times before and after is a bound for what Redis says.
        let before = store.time();
        let refused = standing(store.one(&ask, Clock::Store).unwrap());
        let after = store.time();
        for _ in 0..3 {
            memory.perform(&ask, before).unwrap();
        }
        let [earliest, latest] =
            [after.plus(SLACK), before].map(|now| standing(memory.perform(&ask, now).unwrap()));
        assert_eq!(refused.remaining, 0, "{algorithm:?}");
        let range = wait(earliest)..=wait(latest).saturating_add(SLACK);
        assert!(range.contains(&wait(refused)), "{algorithm:?}: {refused:?} not in {range:?}");
        // A refund is by the same clock.
        let refund = Op::Refund { checks: vec![check], at: charged };
        assert_eq!(store.one(&refund, Clock::Store), Ok(Outcome::Refunded));
        let again = store.one(&ask, Clock::Store).unwrap();
        assert!(again.admitted(ask.checks()), "{algorithm:?}: {again:?}");
    }
}

#[tokio::test]
async fn scripts_run_where_time_is_refused_if_they_are_given_it() {
    let renamed = start(&["--rename-command", "TIME", ""]).await;
    let acl = start(&["--user", "default", "on", "nopass", "~*", "&*", "+@all", "-time"]).await;
    for redis in [&renamed, &acl] {
        let mut store = RedisStore::connect(redis);
        store.learn_scripts();
        for algorithm in ALGORITHMS {
            let check = check("clock", algorithm, 3, Span::from_millis(60_000).unwrap(), 3);
            let now = Timestamp::from_millis(BASE);
            let given = Clock::Host(now);
            let (ask, refund) =
                (Op::RateLimit(vec![check.clone()]), Op::Refund { checks: vec![check.clone()], at: now });
            for op in [&ask, &refund] {
                let refused = store.one(op, Clock::Store).unwrap_err();
                assert_eq!(refused.to_string(), "the store refused the operation (ERR)");
            }
            assert_eq!(standing(store.one(&ask, given).unwrap()).remaining, 2, "{algorithm:?}");
            assert_eq!(store.one(&refund, given), Ok(Outcome::Refunded));
            assert_eq!(standing(store.one(&ask, given).unwrap()).remaining, 2, "{algorithm:?}");
        }
    }
}

/// A refusal costs replicas and the append-only file nothing.
#[tokio::test]
async fn a_refusal_writes_nothing_to_redis() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    for algorithm in ALGORITHMS {
        let check = check("writes", algorithm, 3, Span::from_millis(60_000).unwrap(), 3);
        let mut ask = |cost: u64, now: u64| {
            let op = Op::RateLimit(vec![Check { cost, ..check.clone() }]);
            let outcome = store.one(&op, Clock::Host(Timestamp::from_millis(now))).unwrap();
            (outcome.admitted(op.checks()), store.changes())
        };
        let (admitted, written) = ask(2, BASE);
        assert!(admitted && written > 0, "{algorithm:?}");
        // Refused in the same window, and in the next one, when what was charged is stale.
        for (cost, now) in [(2, BASE), (2, BASE + 1), (4, BASE + 1), (4, BASE + 70_000), (4, BASE + 700_000)]
        {
            assert_eq!(ask(cost, now), (false, written), "{algorithm:?}: cost {cost} at {now}");
        }
    }
}

/// What is done to a few counters, one operation after the other, each at its time.
#[derive(Clone, Debug)]
struct Sequence {
    steps: Vec<(u64, Op)>,
}

impl Sequence {
    fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut counters: Vec<Quota> = (0..COUNTERS)
            .map(|number| {
                let algorithm = ALGORITHMS[if number < 4 { number } else { random.below(4) as usize }];
                let window = random.pick(&[10_000, 10_007, 60_000, 97_531, 3_600_000, 86_400_000]);
                let limit = random.pick(&[1, 2, 3, 5, 8, 40, 1_000_000]).min(largest(algorithm, window));
                quota(algorithm, limit, window, random.pick(&[1, 2, 3, 5, 100]))
            })
            .collect();
        let mut now = BASE + random.pick(&[0, 1, 9_999, 86_399_999, 1_234_567]);
        let mut latest = now;
        let mut charged: Vec<(u64, Check)> = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..4 + random.below(9) {
            let window = counters[random.below(COUNTERS as u64) as usize].window();
            if random.one_in(2) {
                now += random.pick(&[1, 2, 500, window / 3, window - 1, window, window + 1, 2 * window]);
            }
            if random.one_in(8) {
                // No further back than the memory keeps what has lapsed.
                now = now.saturating_sub(random.pick(&[1, 10, 400, 900])).max(latest - 900);
            }
            latest = latest.max(now);
            if random.one_in(6) {
                let counter = &mut counters[random.below(COUNTERS as u64) as usize];
                *counter = changed(counter, &mut random);
            }
            let refunds = !charged.is_empty() && random.one_in(4);
            let op = if refunds {
                let (at, check) = charged[random.below(charged.len() as u64) as usize].clone();
                let at = if random.one_in(8) { now } else { at - random.pick(&[0, 0, 0, 1, 1000, window]) };
                let checks = vec![Check { quota: counters[number_of(&check.key)], ..check }];
                Op::Refund { checks, at: Timestamp::from_millis(at) }
            } else {
                let checks = random.some_of(COUNTERS).into_iter().map(|number| {
                    let quota = counters[number];
                    let few = random.pick(&[1, 1, 1, 2, 3]).min(quota.capacity());
                    let cost = random.pick(&[
                        few,
                        few,
                        few,
                        0,
                        quota.capacity(),
                        quota.capacity() / 2,
                        quota.capacity() + 1,
                    ]);
                    // A thousand members at once is a page of the sorted set's insertion.
                    let cost =
                        if quota.algorithm() == Algorithm::SlidingWindowLog { cost.min(2500) } else { cost };
                    Check { key: key(seed, &quota, number), quota, cost, enforced: !random.one_in(4) }
                });
                let checks: Vec<Check> = checks.collect();
                charged.extend(checks.iter().map(|check| (now, check.clone())));
                Op::RateLimit(checks)
            };
            steps.push((now, op));
        }
        // A last look at every counter: more than it holds is refused, and tells how it stands.
        for (number, quota) in counters.iter().enumerate() {
            let cost = quota.capacity() + 1;
            let check = Check { key: key(seed, quota, number), quota: *quota, cost, enforced: true };
            steps.push((now, Op::RateLimit(vec![check])));
        }
        Self { steps }
    }

    fn admitted(&self, outcomes: &[Result<Outcome, StoreError>]) -> usize {
        let admits = |op: &Op, outcome: &Result<Outcome, StoreError>| match (op, outcome) {
            (Op::RateLimit(checks), Ok(outcome)) => outcome.admitted(checks),
            _ => false,
        };
        self.steps.iter().zip(outcomes).filter(|((_, op), outcome)| admits(op, outcome)).count()
    }

    /// The same with other keys, as if nothing had happened yet.
    fn afresh(&self, name: u64) -> Self {
        let renamed =
            |check: &Check| Check { key: key(name, &check.quota, number_of(&check.key)), ..check.clone() };
        let steps = self.steps.iter().map(|(now, op)| {
            let checks = op.checks().iter().map(renamed).collect();
            let op = match op {
                Op::Refund { at, .. } => Op::Refund { checks, at: *at },
                _ => Op::RateLimit(checks),
            };
            (*now, op)
        });
        Self { steps: steps.collect() }
    }
}

/// Another quota for the same key. The rate of `gcra` only rises: a counter expires when it has run out at the rate
/// it was last charged with, so a lower one would find a counter in virtual time that is gone in real time.
fn changed(old: &Quota, random: &mut Random) -> Quota {
    let largest = largest(old.algorithm(), old.window());
    let limit = match old.algorithm() {
        Algorithm::Gcra => old.limit() + random.below(3),
        _ => random.pick(&[1, 2, 3, 4, 7, 20]),
    };
    quota(old.algorithm(), limit.min(largest), old.window(), random.pick(&[1, 2, 3, 5, 100]))
}

fn quota(algorithm: Algorithm, limit: u64, window: u64, burst: u64) -> Quota {
    Quota::new(algorithm, limit, Span::from_millis(window).unwrap(), burst).unwrap()
}

fn largest(algorithm: Algorithm, window: u64) -> u64 {
    Quota::new(algorithm, u64::MAX, Span::from_millis(window).unwrap(), 1).unwrap_err().at_most
}

fn key(sequence: u64, quota: &Quota, number: usize) -> Key {
    let (letter, window) = (quota.algorithm().letter(), quota.window());
    Key::from_stored(&format!("tg:{{{sequence}}}:{letter}{window}:{number}"))
}

fn number_of(key: &Key) -> usize {
    key.as_str().rsplit(':').next().unwrap().parse().unwrap()
}

fn check(name: &str, algorithm: Algorithm, limit: u64, window: Span, burst: u64) -> Check {
    let key = Key::from_stored(&format!("tg:{{{name}}}:{}", algorithm.as_str()));
    Check { key, quota: Quota::new(algorithm, limit, window, burst).unwrap(), cost: 1, enforced: true }
}

fn in_memory(sequence: &Sequence) -> Vec<Result<Outcome, StoreError>> {
    let mut memory = Memory::new(HeapShards::default(), 1);
    sequence.steps.iter().map(|(now, op)| memory.perform(op, Timestamp::from_millis(*now))).collect()
}

/// A shorter sequence that still differs: cut off behind the difference, then without each step that is not needed.
fn shrink(sequence: &Sequence, at: usize, store: &mut RedisStore) -> Sequence {
    let mut shortest = Sequence { steps: sequence.steps[..=at].to_vec() };
    let mut position = 0;
    while position < shortest.steps.len() && shortest.steps.len() > 1 {
        let mut shorter = shortest.clone();
        shorter.steps.remove(position);
        if differs(&shorter, store) {
            shortest = shorter;
        } else {
            position += 1;
        }
    }
    shortest
}

fn differs(sequence: &Sequence, store: &mut RedisStore) -> bool {
    let fresh = sequence.afresh(store.fresh_name());
    store.perform(std::slice::from_ref(&fresh))[0] != in_memory(&fresh)
}

fn report(sequence: &Sequence, store: &mut RedisStore) -> String {
    let fresh = sequence.afresh(store.fresh_name());
    let (memory, redis) = (in_memory(&fresh), store.perform(std::slice::from_ref(&fresh)).remove(0));
    let mut text = String::new();
    for (((now, op), memory), redis) in fresh.steps.iter().zip(memory).zip(redis) {
        let same = if memory == redis { "both" } else { "memory" };
        writeln!(text, "at {now}: {op:?}\n  {same}: {memory:?}").unwrap();
        if memory != redis {
            writeln!(text, "  redis: {redis:?}").unwrap();
        }
    }
    text
}

fn standing(outcome: Outcome) -> Standing {
    match outcome {
        Outcome::RateLimit { standings, .. } => standings[0],
        other => panic!("no limit was asked for: {other:?}"),
    }
}

fn time_of(outcome: &Outcome) -> Timestamp {
    match outcome {
        Outcome::RateLimit { at, .. } => *at,
        other => panic!("no limit was asked for: {other:?}"),
    }
}

fn wait(standing: Standing) -> u64 {
    match standing.retry {
        Retry::After(millis) => millis,
        Retry::Now => 0,
        Retry::Never => u64::MAX,
    }
}

/// A Redis that performs operations.
struct RedisStore {
    connection: Connection,
    names: u64,
}

impl RedisStore {
    fn connect(redis: &Redis) -> Self {
        let connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        Self { connection, names: u64::MAX / 2 }
    }

    /// Goes through the round with the scripts' texts, so that no later operation overtakes another in it.
    fn learn_scripts(&mut self) {
        let check = check("learn", Algorithm::Gcra, 1, Span::from_millis(1).unwrap(), 1);
        for op in [
            Op::RateLimit(vec![check.clone()]),
            Op::Refund { checks: vec![check], at: Timestamp::from_millis(BASE) },
        ] {
            let mut pipelines = vec![Pipeline::new(vec![vec![op]])];
            let clocks = [Clock::Host(Timestamp::from_millis(BASE))];
            assert_eq!(self.round(&mut pipelines, &clocks), [Progress::Again]);
            assert_eq!(self.round(&mut pipelines, &clocks), [Progress::Done]);
            assert_eq!(pipelines[0].failure(), None);
        }
    }

    /// Performs all steps of all sequences in one go.
    fn perform(&mut self, sequences: &[Sequence]) -> Vec<Vec<Result<Outcome, StoreError>>> {
        let steps = || sequences.iter().flat_map(|sequence| &sequence.steps);
        let clocks: Vec<Clock> = steps().map(|(now, _)| Clock::Host(Timestamp::from_millis(*now))).collect();
        let mut pipelines: Vec<_> = steps().map(|(_, op)| Pipeline::new(vec![vec![op.clone()]])).collect();
        let progress = self.round(&mut pipelines, &clocks);
        assert!(progress.iter().all(|progress| *progress == Progress::Done), "the scripts are known");
        let mut outcomes =
            pipelines.into_iter().map(|pipeline| pipeline.finish().next().unwrap().1.remove(0));
        sequences.iter().map(|sequence| outcomes.by_ref().take(sequence.steps.len()).collect()).collect()
    }

    fn one(&mut self, op: &Op, clock: Clock) -> Result<Outcome, StoreError> {
        let mut pipelines = vec![Pipeline::new(vec![vec![op.clone()]])];
        self.round(&mut pipelines, &[clock]);
        pipelines.remove(0).finish().next().unwrap().1.remove(0)
    }

    /// Sends each pipeline's commands, all in one write, and hands each its answer.
    fn round(&mut self, pipelines: &mut [Pipeline<Vec<Op>>], clocks: &[Clock]) -> Vec<Progress> {
        let mut commands = redis::pipe();
        for (pipeline, clock) in pipelines.iter().zip(clocks) {
            let body: Vec<Vec<serde_json::Value>> = serde_json::from_str(&pipeline.body(*clock)).unwrap();
            for argument in &body[0] {
                let text = argument.as_str().map_or_else(|| argument.to_string(), str::to_owned);
                if argument == &body[0][0] {
                    commands.cmd(&text)
                } else {
                    commands.arg(text)
                };
            }
        }
        let packed = commands.get_packed_pipeline();
        let replies = self.connection.req_packed_commands(&packed, 0, pipelines.len()).unwrap();
        let answers = replies.into_iter().map(|reply| json!([rest(reply)]).to_string());
        pipelines
            .iter_mut()
            .zip(answers)
            .map(|(pipeline, answer)| pipeline.receive(200, answer.as_bytes()))
            .collect()
    }

    fn clear(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).unwrap();
    }

    fn time(&mut self) -> Timestamp {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
        Timestamp::from_millis(seconds * 1000 + micros / 1000)
    }

    /// How many changes Redis has counted since it started; it saves nothing here.
    fn changes(&mut self) -> u64 {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut self.connection).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:")).unwrap();
        line.trim().parse().unwrap()
    }

    fn fresh_name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

/// A reply as the gateway puts it.
fn rest(reply: Value) -> serde_json::Value {
    match reply {
        Value::Array(items) => {
            let number = |item: Value| match item {
                Value::Int(number) => number,
                other => panic!("scripts answer with integers: {other:?}"),
            };
            json!({ "result": items.into_iter().map(number).collect::<Vec<i64>>() })
        }
        Value::ServerError(error) => {
            json!({ "error": format!("{} {}", error.code(), error.details().unwrap_or_default()) })
        }
        other => panic!("scripts answer with arrays: {other:?}"),
    }
}

/// SplitMix64: a small generator whose seed is all there is to repeat a sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }

    /// One to four different numbers below `count`, in any order.
    fn some_of(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        let few = 1 + self.below(4) as usize;
        (0..few.min(count)).map(|_| all.remove(self.below(all.len() as u64) as usize)).collect()
    }
}

async fn start(more: &[&str]) -> Redis {
    Redis::start_with(&run_dir::create().unwrap(), ports::free().unwrap(), more).await.unwrap()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a whole number"))
}

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::FixedWindow, Algorithm::SlidingWindowLog, Algorithm::SlidingWindowCounter, Algorithm::Gcra];
/// Counters of a sequence: one of each algorithm, and one more.
const COUNTERS: usize = 5;
/// Sequences sent in one write.
const BATCH: usize = 100;
/// Midnight UTC of a day in 2027.
const BASE: u64 = 20_834 * 86_400_000;
/// How long asking may take, in milliseconds.
const SLACK: u64 = 5000;
