//! `GET /metrics`: what all threads have counted, and what is the case now.

use std::sync::atomic::Ordering;

use hyper::StatusCode;

use super::Shared;
use super::answer::Answer;
use super::report::{Ask, Report, SILENT_THREAD};
use crate::metrics::{Metrics, Text};

/// `GET /metrics`, for a token or for those who operate the gateway. Where there are several tokens, each is told of its own:
/// even what all do together says what the others do.
pub(super) async fn metrics(shared: &Shared, tenant: Option<usize>) -> Answer {
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
    let only = tenant.filter(|_| shared.tenants.len() > 1);
    if only.is_none() {
        sum.write(&mut text);
        gauges(shared, &mut text);
    }
    let reports: Vec<_> = reports.into_iter().flatten().collect();
    of_tokens(shared, only, &reports, &mut text);
    redis(shared, only, &reports, &mut text);
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
}

/// What is known of each token.
fn of_tokens(shared: &Shared, only: Option<usize>, reports: &[Report], text: &mut Text) {
    let tenants =
        || shared.tenants.iter().enumerate().filter(|(number, _)| only.is_none_or(|only| only == *number));
    text.family("token_in_flight", "gauge", "Requests of a token under way.");
    for (_, tenant) in tenants() {
        text.sample(&[("token", &tenant.name)], tenant.in_flight.count() as u64);
    }
    text.family("token_streams", "gauge", "Subscriptions and monitors of a token.");
    for (_, tenant) in tenants() {
        text.sample(&[("token", &tenant.name)], tenant.streams.count() as u64);
    }
    let of = |number: usize| reports.iter().filter_map(move |report| report.traffic.get(number));
    let families = of(0).next().copied().unwrap_or_default();
    for (place, (name, help, _)) in families.into_iter().enumerate() {
        text.family(name, "counter", help);
        for (number, tenant) in tenants() {
            let sum = of(number).filter_map(|traffic| traffic.get(place)).map(|(.., count)| count).sum();
            text.sample(&[("token", &tenant.name)], sum);
        }
    }
}

/// What is known of each Redis, over all threads. Tokens share it, so it is under the name of the
/// first, or of the one that asks. That one is told of the connections, which are its own too, and
/// not what became of the commands of all.
fn redis(shared: &Shared, only: Option<usize>, reports: &[Report], text: &mut Text) {
    let sources: Vec<(usize, &str)> = match only {
        Some(only) => {
            shared.tenants.get(only).map(|tenant| (tenant.source, tenant.name.as_str())).into_iter().collect()
        }
        None => {
            let name = |tenant: usize| shared.tenants.get(tenant).map_or("", |tenant| tenant.name.as_str());
            shared.sources.iter().enumerate().map(|(number, source)| (number, name(source.tenant))).collect()
        }
    };
    let of = |number: usize| reports.iter().filter_map(move |report| report.redis.get(number));
    let families = of(0).next().map(|redis| redis.totals).unwrap_or_default();
    let others = |source: usize| shared.tenants.iter().filter(|tenant| tenant.source == source).count() > 1;
    let is_shared = only.is_some() && sources.iter().any(|(source, _)| others(*source));
    for (place, (name, help, _)) in families.into_iter().enumerate() {
        if is_shared && OF_COMMANDS.contains(&name) {
            continue;
        }
        text.family(name, "counter", help);
        for (number, token) in &sources {
            let sum = of(*number).filter_map(|redis| redis.totals.get(place)).map(|(.., count)| count).sum();
            text.sample(&[("token", token)], sum);
        }
    }
    text.family("redis_connections", "gauge", "Connections to Redis that are up.");
    for (number, token) in &sources {
        let up = of(*number).flat_map(|redis| &redis.status.nodes).map(|node| node.up as u64).sum();
        text.sample(&[("token", token)], up);
    }
    text.family("redis_nodes", "gauge", "Servers that are known.");
    for (number, token) in &sources {
        let nodes = of(*number).map(|redis| redis.status.nodes.len() as u64).max().unwrap_or(0);
        text.sample(&[("token", token)], nodes);
    }
}

/// What is counted by command, and not by connection.
const OF_COMMANDS: [&str; 2] = ["redis_redirects_total", "redis_retries_total"];
