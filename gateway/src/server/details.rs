//! `GET /health/detailed`: what is known of every Redis.
//!
//! The shape is that of the health checks which this gateway replaces; what they did not know is added to it.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::Shared;
use super::answer::Answer;
use super::report::{Report, SILENT_THREAD};
use crate::backend::{Role, TopologyStatus};

/// `GET /health/detailed`, for a token or for all.
pub(super) async fn details(shared: &Shared, tenant: Option<usize>) -> Answer {
    let reports = shared.asked().await;
    let checks: Vec<Check> = shared
        .tenants
        .iter()
        .enumerate()
        .filter(|(number, _)| tenant.is_none_or(|tenant| tenant == *number))
        .map(|(_, tenant)| Check::new(&tenant.name, tenant.source, &reports))
        .collect();
    let healthy = checks.iter().all(|check| check.status == HEALTHY);
    let mut timestamp = String::new();
    // Writing to a String does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let status = match (shared.is_stopping(), healthy) {
        (true, _) => "stopping",
        (false, true) => "ok",
        (false, false) => "degraded",
    };
    let overall = if healthy { HEALTHY } else { UNHEALTHY };
    let health = Health {
        status,
        timestamp,
        uptime: shared.began.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION"),
        checks,
        overall,
    };
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::json(code, serde_json::to_vec(&health).unwrap_or_default())
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    timestamp: String,
    /// Seconds.
    uptime: u64,
    version: &'a str,
    checks: Vec<Check<'a>>,
    overall: &'a str,
}

#[derive(Serialize)]
struct Check<'a> {
    name: &'a str,
    /// The token that opens this Redis.
    token: &'a str,
    status: &'a str,
    message: String,
    details: Details,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    /// Milliseconds until the slowest thread had its answer.
    latency: Option<u64>,
    latency_micros: Option<u64>,
    node_count: usize,
    topology: &'static str,
    cluster_state: Option<String>,
    slots_covered: Option<usize>,
    /// Whether commands fail at once because no connection to a master is up, on some thread.
    circuit_breaker_open: bool,
    /// Why what is known of the topology may be old.
    problem: Option<String>,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    address: String,
    role: &'static str,
    connections: usize,
    connections_wanted: usize,
    reconnects: u64,
    last_error: Option<String>,
}

impl<'a> Check<'a> {
    /// That of a token and its Redis, which has this number, over all threads.
    fn new(token: &'a str, number: usize, reports: &[Option<Report>]) -> Self {
        let mut details = Details::default();
        let mut nodes = BTreeMap::new();
        let (mut problem, mut slowest) = (None, Duration::ZERO);
        for report in reports {
            let Some(redis) = report.as_ref().and_then(|report| report.redis.get(number)) else {
                problem.get_or_insert_with(|| SILENT_THREAD.to_owned());
                continue;
            };
            match &redis.answered {
                Some(Ok(took)) => slowest = slowest.max(*took),
                Some(Err(error)) => _ = problem.get_or_insert_with(|| error.clone()),
                None => {}
            }
            details.note(&redis.status.topology);
            let masters = || redis.status.nodes.iter().filter(|node| node.role == Role::Master);
            details.circuit_breaker_open |= masters().all(|node| node.up == 0);
            for known in &redis.status.nodes {
                let address = known.address.to_string();
                let node = nodes.entry((known.role, address.clone())).or_insert_with(|| Node {
                    address,
                    role: known.role.as_str(),
                    connections: 0,
                    connections_wanted: 0,
                    reconnects: 0,
                    last_error: None,
                });
                node.connections += known.up;
                node.connections_wanted += known.connections;
                node.reconnects += known.reconnects;
                if known.last_error.is_some() {
                    node.last_error.clone_from(&known.last_error);
                }
            }
        }
        details.nodes = nodes.into_values().collect();
        details.node_count = details.nodes.len();
        let (status, message) = match problem {
            None => {
                let micros = u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX);
                let millis = micros.div_ceil(1000);
                (details.latency, details.latency_micros) = (Some(millis), Some(micros));
                let nodes = details.node_count;
                (HEALTHY, format!("Redis connection is working (latency: {millis}ms, nodes: {nodes})"))
            }
            Some(problem) => (UNHEALTHY, problem),
        };
        Self { name: "redis", token, status, message, details }
    }
}

impl Details {
    fn note(&mut self, topology: &TopologyStatus) {
        match topology {
            TopologyStatus::Single => self.topology = "single",
            TopologyStatus::Sentinel { problem, .. } => {
                self.topology = "sentinel";
                self.problem.clone_from(problem);
            }
            TopologyStatus::Cluster { state, covered, problem } => {
                self.topology = "cluster";
                self.cluster_state.clone_from(state);
                self.slots_covered = Some(*covered);
                self.problem.clone_from(problem);
            }
        }
    }
}

const HEALTHY: &str = "healthy";
const UNHEALTHY: &str = "unhealthy";
