//! `GET /metrics`: what all threads have counted, and what is the case now.

use std::sync::atomic::Ordering;

use hyper::StatusCode;

use super::Shared;
use super::answer::Answer;
use super::report::{Ask, Report, SILENT_THREAD};
use crate::metrics::{Metrics, Text};

/// `GET /metrics`.
pub(super) async fn metrics(shared: &Shared) -> Answer {
    let reports = shared.reports(Ask::Nobody).await;
    let mut sum = Metrics::default();
    let mut text = Text::default();
    for report in &reports {
        match report {
            Some(report) => sum.merge(&report.metrics),
            // Without its part the sums would go backwards.
            None => return unanswered(),
        }
    }
    sum.write(&mut text);
    gauges(shared, &mut text);
    let reports: Vec<_> = reports.into_iter().flatten().collect();
    redis(shared, &reports, &mut text);
    let mut answer = Answer::json(StatusCode::OK, text.into_bytes());
    answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
    answer
}

fn unanswered() -> Answer {
    let body = serde_json::json!({ "error": format!("ERR {SILENT_THREAD}") }).to_string();
    Answer::json(StatusCode::SERVICE_UNAVAILABLE, body.into())
}

fn gauges(shared: &Shared, text: &mut Text) {
    text.family("info", "gauge", "The version that runs.");
    text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    for (name, help, value) in [
        ("uptime_seconds", "How long the gateway has been running.", shared.began.elapsed().as_secs()),
        ("threads", "Threads that serve.", shared.threads.get().map_or(0, |threads| threads.len() as u64)),
        (
            "stopping",
            "Whether the gateway finishes what is under way and then ends.",
            shared.is_stopping().into(),
        ),
        ("connections", "Client connections.", shared.clients.count() as u64),
        ("connections_limit", "The most there may be.", shared.clients.most() as u64),
        (
            "in_flight",
            "Requests under way, until their answers are written.",
            shared.in_flight.count() as u64,
        ),
        ("in_flight_limit", "The most there may be.", shared.in_flight.most() as u64),
        ("streams", "Subscriptions and monitors.", shared.streams.count() as u64),
        ("streams_limit", "The most there may be.", shared.streams.most() as u64),
        (
            "memory_bytes",
            "Memory that request bodies, replies of Redis and answers take, from before Redis is asked until they are written.",
            shared.memory.gauge().count() as u64,
        ),
        ("memory_limit_bytes", "The most they may take.", shared.memory.gauge().most() as u64),
    ] {
        text.family(name, "gauge", help);
        text.sample(&[], value);
    }
    text.family(
        "connections_turned_away_total",
        "counter",
        "Client connections closed because their peer had its share.",
    );
    text.sample(&[], shared.turned_away.load(Ordering::Relaxed));
    text.family("token_in_flight", "gauge", "Requests of a token under way.");
    for tenant in &shared.tenants {
        text.sample(&[("token", &tenant.name)], tenant.in_flight.count() as u64);
    }
    text.family("token_streams", "gauge", "Subscriptions and monitors of a token.");
    for tenant in &shared.tenants {
        text.sample(&[("token", &tenant.name)], tenant.streams.count() as u64);
    }
}

/// What is known of the Redis of each tenant, over all threads.
fn redis(shared: &Shared, reports: &[Report], text: &mut Text) {
    let of = |number: usize| reports.iter().filter_map(move |report| report.redis.get(number));
    let families = of(0).next().map(|redis| redis.totals).unwrap_or_default();
    for (place, (name, help, _)) in families.into_iter().enumerate() {
        text.family(name, "counter", help);
        for (number, tenant) in shared.tenants.iter().enumerate() {
            let sum = of(number).filter_map(|redis| redis.totals.get(place)).map(|(.., count)| count).sum();
            text.sample(&[("token", &tenant.name)], sum);
        }
    }
    text.family("redis_connections", "gauge", "Connections to Redis that are up.");
    for (number, tenant) in shared.tenants.iter().enumerate() {
        let up = of(number).flat_map(|redis| &redis.status.nodes).map(|node| node.up as u64).sum();
        text.sample(&[("token", &tenant.name)], up);
    }
    text.family("redis_nodes", "gauge", "Servers that are known.");
    for (number, tenant) in shared.tenants.iter().enumerate() {
        let nodes = of(number).map(|redis| redis.status.nodes.len() as u64).max().unwrap_or(0);
        text.sample(&[("token", &tenant.name)], nodes);
    }
}
