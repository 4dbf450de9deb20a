//! Sequences of operations: performed by both interpreters, compared, and shortened where they differ.

use std::fmt::Write as _;

use tollgate_shared::key::Key;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, Outcome, StoreError};
use tollgate_shared::time::Timestamp;

use crate::store::RedisStore;

/// Operations on a few keys, one after the other, each at its time.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) steps: Vec<(u64, Op)>,
}

impl Sequence {
    /// The same with other keys, as if nothing had happened yet.
    fn afresh(&self, name: u64) -> Self {
        let mut other = self.clone();
        for key in other.steps.iter_mut().flat_map(|(_, op)| keys(op)) {
            let (before, rest) = key.as_str().split_once('{').unwrap();
            let (_, after) = rest.split_once('}').unwrap();
            *key = Key::from_stored(&format!("{before}{{{name}}}{after}"));
        }
        other
    }
}

/// Performs as many sequences as the environment says, or `cases`, on both interpreters; hands each with its outcomes to
/// `seen`.
pub(crate) fn compare(
    store: &mut RedisStore,
    cases: u64,
    generate: fn(u64) -> Sequence,
    mut seen: impl FnMut(&Sequence, &[Result<Outcome, StoreError>]),
) {
    let (cases, first) =
        (number("TOLLGATE_DIFFERENTIAL_CASES", cases), number("TOLLGATE_DIFFERENTIAL_SEED", 1));
    let seeds: Vec<u64> = (0..cases).map(|case| first.wrapping_add(case)).collect();
    for batch in seeds.chunks(BATCH) {
        let sequences: Vec<Sequence> = batch.iter().map(|seed| generate(*seed)).collect();
        let outcomes = store.perform(&sequences);
        for ((seed, sequence), outcomes) in batch.iter().zip(&sequences).zip(outcomes) {
            let expected = in_memory(sequence);
            if let Some(at) = expected.iter().zip(&outcomes).position(|(memory, redis)| memory != redis) {
                let shrunk = shrink(sequence, at, store);
                panic!(
                    "they differ with TOLLGATE_DIFFERENTIAL_SEED={seed}; shrunk:\n{}",
                    report(&shrunk, store)
                );
            }
            seen(sequence, &expected);
        }
        store.clear();
    }
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

fn keys(op: &mut Op) -> Vec<&mut Key> {
    match op {
        Op::RateLimit(checks) | Op::Refund { checks, .. } => {
            checks.iter_mut().map(|check| &mut check.key).collect()
        }
        Op::Acquire { key, .. }
        | Op::Extend { key, .. }
        | Op::Release { key, .. }
        | Op::Reserve { key, .. }
        | Op::Keep { key, .. }
        | Op::Abandon { key, .. }
        | Op::View { key, .. }
        | Op::Probe { key, .. }
        | Op::Report { key, .. }
        | Op::Force { key, .. }
        | Op::IsRevoked { key }
        | Op::Revoke { key, .. }
        | Op::Reset { key } => vec![key],
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Sequences sent in one write.
const BATCH: usize = 100;
