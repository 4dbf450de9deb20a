//! Rate limits and refunds.

use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota, Retry, Standing};
use tollgate_shared::redis::Clock;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};

use crate::BASE;
use crate::random::Random;
use crate::sequence::{Sequence, compare};
use crate::store::{RedisStore, start};

#[tokio::test]
async fn memory_and_redis_agree_on_any_sequence() {
    let redis = start(&[]).await;
    let mut store = RedisStore::connect(&redis);
    store.learn_scripts();
    let (mut sequences, mut operations, mut admits) = (0, 0, 0);
    compare(&mut store, 10_000, random, |sequence, outcomes| {
        sequences += 1;
        operations += outcomes.len();
        admits += admitted(sequence, outcomes);
    });
    // A generator that only ever admits, or never, would prove nothing.
    println!("{sequences} sequences, {operations} operations, {admits} of them admitted with a charge");
    assert!(admits * 10 > operations && admits * 10 < operations * 9, "{admits} of {operations}");
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

/// What is done to a few counters: checks over mixed algorithms, shadow or not, costs, refunds, resets, quotas that change under their keys.
fn random(seed: u64) -> Sequence {
    let mut random = Random(seed);
    let mut counters: Vec<Quota> = (0..COUNTERS)
        .map(|number| {
            let algorithm = ALGORITHMS[if number < 4 { number } else { random.below(4) as usize }];
            let window = random.pick(&[10_000, 10_007, 60_000, 97_531, 3_600_000, 86_400_000]);
            let limit = random.pick(&[1, 2, 3, 5, 8, 40, 1_000_000]).min(largest(algorithm, window));
            quota(algorithm, limit, window, random.pick(&[1, 2, 3, 5, 100]))
        })
        .collect();
    let start = BASE + random.pick(&[0, 1, 9_999, 86_399_999, 1_234_567]);
    // The clock may be wrong at first, and be set right after a few steps.
    let ahead = random.pick(&[0, 0, 0, 1]) * random.pick(&[5_000, 10_000, 60_001, 3_600_000, 1 << 40]);
    let wrong = if ahead > 0 { 1 + random.below(4) } else { 0 };
    let mut now = start + ahead;
    let mut latest = now;
    let mut charged: Vec<(u64, Check)> = Vec::new();
    let mut steps = Vec::new();
    for step in 0..4 + random.below(9) {
        if step == wrong {
            (now, latest) = (start, start);
        }
        let window = counters[random.below(COUNTERS as u64) as usize].window();
        // While the clock is wrong it stands still, so that the memory drops nothing that Redis keeps.
        if step >= wrong && random.one_in(2) {
            now += random.pick(&[1, 2, 500, window / 3, window - 1, window, window + 1, 2 * window]);
        }
        if step >= wrong && random.one_in(8) {
            // No further back than the memory keeps what has lapsed.
            now = now.saturating_sub(random.pick(&[1, 10, 400, 900])).max(latest - 900);
        }
        latest = latest.max(now);
        if random.one_in(6) {
            let counter = &mut counters[random.below(COUNTERS as u64) as usize];
            *counter = changed(counter, &mut random);
        }
        let refunds = !charged.is_empty() && random.one_in(4);
        let op = if random.one_in(20) {
            let number = random.below(COUNTERS as u64) as usize;
            Op::Reset { key: key(seed, &counters[number], number) }
        } else if refunds {
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
    Sequence { steps }
}

fn admitted(sequence: &Sequence, outcomes: &[Result<Outcome, StoreError>]) -> usize {
    let admits = |op: &Op, outcome: &Result<Outcome, StoreError>| match (op, outcome) {
        (Op::RateLimit(checks), Ok(outcome)) => outcome.admitted(checks),
        _ => false,
    };
    sequence.steps.iter().zip(outcomes).filter(|((_, op), outcome)| admits(op, outcome)).count()
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

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::FixedWindow, Algorithm::SlidingWindowLog, Algorithm::SlidingWindowCounter, Algorithm::Gcra];
/// Counters of a sequence: one of each algorithm, and one more.
const COUNTERS: usize = 5;
/// How long asking may take, in milliseconds.
const SLACK: u64 = 5000;
