//! What leases, idempotency keys, circuit breakers and revocations promise, held against a list of everything that was told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use support::{World, breaker, guards, id, response, span};
use tollgate_shared::circuit_breaker::{BreakerState, CircuitBreaker, Force, Trip};
use tollgate_shared::idempotency::StoredResponse;
use tollgate_shared::key::Key;
use tollgate_shared::revocation::{Reach, Revocation};
use tollgate_shared::store::{Op, Outcome, Probe};
use tollgate_shared::time::Timestamp;

/// Who does which of some things, how long after the one before, and for how long.
type Act = (u8, u8, u64, u64);

fn acts(longest: usize) -> impl Strategy<Value = Vec<Act>> {
    let gap = prop_oneof![3 => Just(0), 3 => 1..50_u64, 2 => 50..1500_u64];
    vec((0..4_u8, 0..10_u8, gap, 1..1000_u64), 0..longest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_lease_has_one_holder_at_a_time(acts in acts(60), fenced in any::<bool>()) {
        let (mut world, mut now) = (World::new(), START);
        // Who holds it, and until when, as far as it was told.
        let mut held: Option<(u8, u64)> = None;
        for (who, act, gap, millis) in acts {
            now += gap;
            let (holder, lease) = (id(who), span(millis));
            let running = held.filter(|(_, until)| *until > now);
            let own = running.filter(|(by, _)| *by == who);
            let prolonged = Some((who, own.map_or(0, |(_, until)| until).max(now + millis)));
            match act {
                0..=5 => match world.perform(&Op::Acquire { key: key(), holder, lease, fenced }, now) {
                    Outcome::Acquired { fence } => {
                        prop_assert!(running == own, "{running:?}, and {who} got it at {now}");
                        prop_assert_eq!(fence > 0, fenced);
                        held = prolonged;
                    }
                    Outcome::Held { for_ms } => {
                        let (_, until) = running.unwrap();
                        prop_assert!(own.is_none());
                        prop_assert_eq!(for_ms, until - now);
                    }
                    other => prop_assert!(false, "{other:?}"),
                },
                6 | 7 => match world.perform(&Op::Extend { key: key(), holder, lease }, now) {
                    Outcome::Acquired { .. } => {
                        prop_assert!(own.is_some());
                        held = prolonged;
                    }
                    other => prop_assert_eq!((other, own), (Outcome::Lost, None)),
                },
                _ => match world.perform(&Op::Release { key: key(), holder }, now) {
                    Outcome::Released => {
                        prop_assert!(own.is_some());
                        held = None;
                    }
                    other => prop_assert_eq!((other, own), (Outcome::Lost, None)),
                },
            }
        }
    }

    /// Whatever the clock does, back by hours or on by days.
    #[test]
    fn fences_rise_from_holder_to_holder(
        acts in vec((0..3_u8, any::<bool>(), prop_oneof![-3_600_000..10_i64, 0..2000_i64, 0..200_000_000_i64]), 0..60),
    ) {
        let (mut world, mut now, mut last) = (World::new(), START, (0, None));
        for (who, ends, step) in acts {
            now = now.checked_add_signed(step).unwrap();
            let holder = id(who);
            if ends {
                world.perform(&Op::Release { key: key(), holder }, now);
            } else if let Outcome::Acquired { fence } =
                world.perform(&Op::Acquire { key: key(), holder, lease: span(1000), fenced: true }, now)
            {
                let again = (fence, Some(who)) == last;
                prop_assert!(fence > last.0 || again, "{fence} for {who} after {last:?}");
                last = (fence, Some(who));
            }
        }
    }

    #[test]
    fn an_idempotency_key_has_one_first_request_and_one_response(acts in acts(80)) {
        let (mut world, mut now) = (World::new(), START);
        // Who is carrying out which request, and until when; and what is kept.
        let mut first: Option<(u8, u64, u8)> = None;
        let mut kept: Option<(u8, u64, u8, StoredResponse)> = None;
        let mut last_fence = 0;
        for (number, (who, act, gap, millis)) in acts.into_iter().enumerate() {
            now += gap;
            let (holder, time) = (id(who), span(millis));
            first = first.filter(|(_, until, _)| *until > now);
            kept = kept.filter(|(_, until, ..)| *until > now);
            let own = first.filter(|(by, ..)| *by == who);
            match act {
                0..=5 => {
                    let print = 100 + u8::from(act == 5);
                    let op = Op::Reserve { key: key(), holder, fingerprint: id(print), lease: time };
                    match world.perform(&op, now) {
                        Outcome::Reserved { fence } => {
                            prop_assert!(kept.is_none() && first == own, "{first:?} at {now}");
                            prop_assert!(fence > last_fence || own.is_some() && fence == last_fence);
                            last_fence = fence;
                            let until = own.map_or(0, |(_, until, _)| until).max(now + millis);
                            first = Some((who, until, print));
                        }
                        Outcome::InProgress { for_ms } => {
                            let (_, until, of) = first.unwrap();
                            prop_assert!(own.is_none());
                            prop_assert_eq!((for_ms, of), (until - now, print));
                        }
                        Outcome::Mismatch => {
                            let of = first.map(|(.., of)| of).or(kept.as_ref().map(|(_, _, of, _)| *of));
                            prop_assert!(of.is_some_and(|of| of != print));
                        }
                        Outcome::Replay(replayed) => {
                            let (.., of, response) = kept.as_ref().unwrap();
                            prop_assert_eq!((&replayed, print), (response, *of));
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                6..=8 => {
                    let response = response(&[number as u8; 5]);
                    let op = Op::Keep { key: key(), holder, ttl: time, response: response.clone() };
                    let again = kept.as_ref().is_some_and(|(by, ..)| *by == who);
                    match (world.perform(&op, now), own) {
                        (Outcome::Kept, Some((.., print))) => {
                            (first, kept) = (None, Some((who, now + millis, print, response)));
                        }
                        (Outcome::Kept, None) => prop_assert!(again, "{who} was late at {now}"),
                        (other, _) => prop_assert_eq!((other, again), (Outcome::Lost, false)),
                    }
                }
                _ => match (world.perform(&Op::Abandon { key: key(), holder }, now), own) {
                    (Outcome::Released, Some(_)) => first = None,
                    (other, own) => prop_assert_eq!((other, own), (Outcome::Lost, None)),
                },
            }
        }
    }

    #[test]
    fn a_half_open_breaker_has_no_more_probes_than_it_may(breaker in breaker(), acts in acts(80)) {
        let (mut world, mut now) = (World::new(), START);
        world.perform(&Op::Force { key: key(), breaker, to: Force::Open(span(1)) }, now);
        // Probes that were let through and have neither reported nor expired, by generation.
        let mut live: BTreeMap<(u64, u8), u64> = BTreeMap::new();
        let (probes, length) = (numbers(&breaker).probes, numbers(&breaker).probe);
        for (who, act, gap, _) in acts {
            now += gap;
            live.retain(|_, end| *end > now);
            match act {
                0..=5 => match world.perform(&Op::Probe { key: key(), breaker, holder: id(who) }, now) {
                    Outcome::Probing { generation } => {
                        let end = live.entry((generation, who)).or_default();
                        *end = now + length;
                        prop_assert!(live.keys().filter(|(of, _)| *of == generation).count() <= probes);
                    }
                    Outcome::Breaker { state: BreakerState::HalfOpen { free, for_ms }, .. } => {
                        prop_assert_eq!(free, 0, "one was free");
                        prop_assert_eq!(Some(now + for_ms), live.values().copied().min());
                    }
                    Outcome::Breaker { state: BreakerState::Open { for_ms }, generation } => {
                        prop_assert!(for_ms > 0 && generation > 0);
                    }
                    other => {
                        prop_assert_eq!(other, CLOSED);
                        world.perform(&Op::Force { key: key(), breaker, to: Force::Open(span(1)) }, now);
                    }
                },
                _ => {
                    let Some((generation, who)) = live.keys().next().copied() else { continue };
                    let probe = Some(Probe { generation, holder: id(who) });
                    let op = report(breaker, 9, [u32::from(act != 9), u32::from(act == 9)], probe);
                    let after = world.perform(&op, now);
                    live.remove(&(generation, who));
                    if !matches!(after, Outcome::Breaker { generation: same, .. } if same == generation) {
                        live.retain(|(of, _), _| *of != generation);
                    }
                }
            }
        }
    }

    #[test]
    fn a_closed_breaker_opens_when_enough_was_seen_by_enough_and_not_before(
        breaker in breaker(), acts in vec((0..6_u8, 0..3_u32, 0..3_u32, prop_oneof![Just(0), 0..3000_u64]), 0..60),
    ) {
        let (mut world, mut now) = (World::new(), START);
        let numbers = numbers(&breaker);
        let mut seen: Vec<(u64, u8, u32, u32)> = Vec::new();
        for (who, successes, failures, gap) in acts {
            now += gap;
            seen.push((now, who, successes, failures));
            let after = world.perform(&report(breaker, who, [successes, failures], None), now);
            let (eighth, counts_only_failures) = (numbers.within.div_ceil(8), numbers.percent == 0);
            let enough = |least: u64, seen: &[(u64, u8, u32, u32)]| {
                let recent = seen.iter().filter(|(at, ..)| at + least > now);
                let (mut calls, mut failures, mut reporters) = (0, 0, BTreeMap::new());
                for (_, who, succeeded, failed) in recent {
                    (calls, failures) = (calls + succeeded + failed, failures + failed);
                    if *failed > 0 {
                        reporters.insert(who, ());
                    }
                }
                let volume = if counts_only_failures { failures } else { calls };
                let counts = volume >= numbers.volume && failures * 100 >= calls * numbers.percent;
                (counts, reporters.len() >= numbers.reporters)
            };
            let number = |least: u64| seen.iter().filter(|(at, ..)| at + least > now).count();
            let exact = number(8 * eighth) == number(7 * eighth);
            // What is older than seven slices and not older than eight may count or not.
            let (longest, shortest) = (enough(8 * eighth, &seen), enough(7 * eighth, &seen));
            match after {
                Outcome::Breaker { state: BreakerState::Open { for_ms }, .. } => {
                    prop_assert_eq!(for_ms, numbers.open_for);
                    prop_assert!(longest.1, "too few reporters");
                    prop_assert!(longest.0 || !counts_only_failures && !exact, "too few failures");
                    now += for_ms;
                    prop_assert_eq!(world.perform(&Op::Force { key: key(), breaker, to: Force::Closed }, now), CLOSED);
                    seen.clear();
                }
                other => {
                    prop_assert_eq!(other, CLOSED);
                    let changes = failures > 0 || successes > 0 && !counts_only_failures;
                    let sure = counts_only_failures || exact;
                    prop_assert!(!(changes && sure && shortest == (true, true)), "{seen:?} are enough");
                }
            }
        }
    }

    #[test]
    fn a_failed_probe_opens_again_and_enough_good_ones_close(breaker in breaker(), fails_at in 0..5_usize) {
        let (mut world, mut now) = (World::new(), START);
        world.perform(&Op::Force { key: key(), breaker, to: Force::Open(span(5)) }, now);
        now += 5;
        let numbers = numbers(&breaker);
        for n in 0..numbers.probes {
            let free = numbers.probes as u64 - n as u64;
            let view = world.perform(&Op::View { key: key(), breaker }, now);
            let Outcome::Breaker { state, .. } = view else { panic!("{view:?}") };
            prop_assert_eq!(state, BreakerState::HalfOpen { free, for_ms: 0 });
            let begun = world.perform(&Op::Probe { key: key(), breaker, holder: id(n as u8) }, now);
            let Outcome::Probing { generation } = begun else { panic!("{begun:?}") };
            let probe = Some(Probe { generation, holder: id(n as u8) });
            let fails = n == fails_at;
            let after = world.perform(&report(breaker, 1, [1, u32::from(fails)], probe), now);
            let again = world.fork().perform(&report(breaker, 1, [1, 1], probe), now);
            if fails {
                let Outcome::Breaker { state, generation: later } = after.clone() else { panic!("{after:?}") };
                prop_assert_eq!(state, BreakerState::Open { for_ms: numbers.open_for });
                prop_assert!(later > generation);
                prop_assert_eq!(again, after, "of an older generation");
                return Ok(());
            }
            if n + 1 == numbers.probes {
                prop_assert_eq!(after, CLOSED);
                prop_assert_eq!(again, CLOSED, "of an older generation");
            } else {
                // A late word of failure counts while the generation lasts.
                let opened = matches!(again, Outcome::Breaker { state: BreakerState::Open { .. }, .. });
                prop_assert!(opened, "{again:?}");
            }
        }
    }

    #[test]
    fn what_is_revoked_stays_revoked_for_its_time(
        acts in vec((prop_oneof![0..2000_u64, Just(0)], 1..5000_u64, 0..2_u64, 0..6000_u64), 1..30),
    ) {
        let at = Timestamp::from_millis;
        let (mut world, mut now, mut until, mut latest) = (World::new(), START, 0, 0);
        prop_assert_eq!(world.perform(&Op::IsRevoked { key: key() }, now), Outcome::Revoked(None));
        for (gap, ttl, leeway, issued) in acts {
            now += gap;
            let (leeway, issued) = (leeway * 1000, START - 2000 + issued);
            let reach = Reach { now: at(now), leeway, issued: at(issued) };
            let op = Op::Revoke { key: key(), ttl: span(ttl), reach };
            (until, latest) = (until.max(now + ttl), latest.max(now + leeway).max(issued));
            prop_assert_eq!(world.perform(&op, now), Outcome::RevokedUpTo(at(latest)));
            let revoked = Outcome::Revoked(Some(Revocation { before: at(latest), until: at(until) }));
            for now in [now, until, until + 59_999] {
                prop_assert_eq!(world.fork().perform(&Op::IsRevoked { key: key() }, now), revoked.clone());
            }
        }
    }

    /// Whatever was kept under a key: nobody can tell it from one that was never used.
    #[test]
    fn what_is_reset_is_as_if_it_had_never_been(
        breaker in breaker(), acts in vec((any::<Index>(), 1..5000_u64), 0..20), last in any::<Index>(),
    ) {
        let (mut world, mut fresh) = (World::new(), World::new());
        let now = START + acts.len() as u64;
        world.perform(&Op::Acquire { key: named("other"), holder: id(1), lease: span(1), fenced: true }, START);
        let untouched = world.bytes();
        for (at, (act, number)) in acts.iter().enumerate() {
            world.perform(act.get(&guards(&key(), breaker, [id(1), id(2)], *number)), START + at as u64);
        }
        prop_assert_eq!(world.perform(&Op::Reset { key: key() }, now), Outcome::Reset);
        prop_assert_eq!(world.bytes(), untouched, "another key's");
        let ops = guards(&key(), breaker, [id(1), id(2)], 7);
        prop_assert_eq!(world.perform(last.get(&ops), now), fresh.perform(last.get(&ops), now));
    }

    /// What a holder asks for twice because it got no answer it has once.
    #[test]
    fn asking_again_changes_nothing_for_the_holder(breaker in breaker(), lease in 1..5000_u64) {
        let (mut world, lease) = (World::new(), span(lease));
        let holder = id(1);
        world.perform(&Op::Force { key: named("cb"), breaker, to: Force::Open(span(1)) }, START - 1);
        for op in [
            Op::Acquire { key: key(), holder, lease, fenced: true },
            Op::Extend { key: key(), holder, lease },
            Op::Reserve { key: named("idem"), holder, fingerprint: id(2), lease },
            Op::Keep { key: named("idem"), holder, ttl: lease, response: response(b"one") },
            Op::Probe { key: named("cb"), breaker, holder },
        ] {
            let (first, bytes) = (world.perform(&op, START), world.bytes());
            prop_assert!(!matches!(first, Outcome::Lost | Outcome::Breaker { .. }), "{first:?}");
            prop_assert_eq!(world.perform(&op, START), first);
            prop_assert_eq!(world.bytes().len(), bytes.len());
        }
    }
}

/// What a breaker was made of, read off its behaviour's description.
struct Numbers {
    volume: u32,
    percent: u32,
    within: u64,
    reporters: usize,
    open_for: u64,
    probes: usize,
    probe: u64,
}

fn numbers(breaker: &CircuitBreaker) -> Numbers {
    let (volume, percent) = match breaker.trip() {
        Trip::Failures(failures) => (failures, 0),
        Trip::Ratio { percent, min_volume } => (min_volume, percent),
    };
    Numbers {
        volume,
        percent,
        within: breaker.within().as_millis(),
        reporters: breaker.reporters() as usize,
        open_for: breaker.open_for().as_millis(),
        probes: breaker.probes() as usize,
        probe: breaker.probe().as_millis(),
    }
}

fn report(
    breaker: CircuitBreaker,
    reporter: u8,
    [successes, failures]: [u32; 2],
    probe: Option<Probe>,
) -> Op {
    Op::Report { key: key(), breaker, reporter: id(reporter), successes, failures, probe }
}

fn key() -> Key {
    named("one")
}

fn named(name: &str) -> Key {
    Key::from_stored(&format!("tg:{{t}}:{name}"))
}

const CLOSED: Outcome = Outcome::Breaker { state: BreakerState::Closed, generation: 0 };
/// A moment of this century.
const START: u64 = 1_800_000_000_000;
