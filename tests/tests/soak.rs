//! The gateway among clients of every kind, for some seconds; `cargo xtask soak --gateway` takes longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate_tests::load::{Load, WRONG};
use tollgate_tests::redis::Redis;
use tollgate_tests::soak::{Soak, SoakedGateway, flat};
use tollgate_tests::upstream::Upstream;
use tollgate_tests::{ports, run_dir};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_and_answers_are_right_whoever_else_is_connected() {
    let soak = Soak {
        patient: 1_500,
        patience: Duration::from_secs(2),
        busy: 8,
        slow: 40,
        deaf: 40,
        leaving: 60,
        warm_up: Duration::from_secs(8),
        watched: Duration::from_secs(12),
    };
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    let gateway = SoakedGateway::start(&dir, &redis, &soak).await.unwrap();
    let outcome = soak.run(&gateway, |moment| println!("{moment}")).await.unwrap();
    outcome.judge().unwrap();
}

#[test]
fn memory_that_grows_is_not_flat() {
    const MIB: u64 = 1 << 20;
    let of = |value: fn(u64) -> u64| (0..60).map(value).collect::<Vec<_>>();
    flat(&of(|_| 100 * MIB)).unwrap();
    // A peak in the middle is what a load is.
    flat(&of(|n| if n == 30 { 300 * MIB } else { 100 * MIB })).unwrap();
    flat(&of(|n| (100 + n % 7) * MIB)).unwrap();
    assert!(flat(&of(|n| (100 + n / 2) * MIB)).is_err());
    assert!(flat(&of(|n| if n < 50 { 100 * MIB } else { 120 * MIB })).is_err());
    assert!(flat(&[100 * MIB, 100 * MIB]).is_err());
}

#[tokio::test]
async fn a_wrong_answer_is_counted_and_shown() {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let load = Load {
        check: Some(Arc::new(move |number, answer| {
            counter.fetch_add(1, Ordering::Relaxed);
            answer.json().unwrap()["path"] == "/" && number != 7
        })),
        ..Load::new(vec![upstream.address()], 20, "/")
    };
    let report = load.run().await.unwrap();
    assert_eq!((asked.load(Ordering::Relaxed), report.answers(), report.failed()), (20, 19, 1));
    assert_eq!(report.failures.get(WRONG), Some(&1));
    assert!(report.first_refusal.unwrap().text().contains(r#""path":"/""#));
}
