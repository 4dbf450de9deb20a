//! The core alone: decisions from memory, decisions that share a call to a store, and the search for a route.
#![allow(missing_docs, reason = "criterion's macros write the functions")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use tollgate_shared::time::Timestamp;

#[path = "../examples/decisions.rs"]
mod decisions;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn from_memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one decision from memory");
    for routes in [1, 100, 1000] {
        let (policy, mut local) = (decisions::policy(routes), decisions::local(false));
        let request = decisions::sample(routes, 7);
        group.bench_function(BenchmarkId::new("routes", routes), |bencher| {
            bencher.iter(|| decisions::decide_from_memory(&policy, &mut local, &request, NOW));
        });
    }
    group.finish();
}

fn from_store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decisions that share a call");
    let (policy, mut local) = (decisions::policy(100), decisions::local(true));
    for size in [1, 32] {
        let requests: Vec<_> = (0..size).map(|client| decisions::sample(100, client)).collect();
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new("requests", size), |bencher| {
            bencher.iter(|| decisions::decide_from_store(&policy, &mut local, &requests, NOW));
        });
    }
    group.finish();
}

criterion_group!(benches, from_memory, from_store);
criterion_main!(benches);
