//! Health, for those who operate the gateway.
//!
//! `/health` says that the process serves, whatever became of Redis: to restart a gateway because Redis is gone would help
//! nobody. `/ready` says whether to send it requests, and asks every Redis from every thread. Both tell nothing that needs a
//! token, because probes have none. `/health/detailed` and `/metrics` name servers and tokens, so they do need one, unless they
//! are on an address of their own.

use std::collections::BTreeMap;

use hyper::StatusCode;

use super::Shared;
use super::answer::Answer;
use super::report::{Ask, Report, SILENT_THREAD};

/// `GET /health`.
pub(super) fn live() -> Answer {
    Answer::json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

/// `GET /ready`.
pub(super) async fn ready(shared: &Shared) -> Answer {
    let (status, problem) = if shared.is_stopping() {
        ("stopping", Some("ERR the gateway is stopping".to_owned()))
    } else {
        let reports = shared.reports(Ask::Redis).await;
        ("unavailable", problem(shared, &reports))
    };
    match problem {
        None => Answer::json(StatusCode::OK, br#"{"status":"ready"}"#.to_vec()),
        Some(error) => {
            let body = serde_json::json!({ "status": status, "error": error }).to_string();
            Answer::json(StatusCode::SERVICE_UNAVAILABLE, body.into())
        }
    }
}

/// Why the gateway is not ready.
fn problem(shared: &Shared, reports: &[Option<Report>]) -> Option<String> {
    let mut problems = BTreeMap::new();
    for report in reports {
        let Some(report) = report else { return Some(format!("ERR {SILENT_THREAD}")) };
        for (tenant, redis) in shared.tenants.iter().zip(&report.redis) {
            if let Some(Err(error)) = &redis.answered {
                problems.entry(tenant.name.as_str()).or_insert(error.as_str());
            }
        }
    }
    match &shared.tenants[..] {
        [_] => problems.into_values().next().map(str::to_owned),
        _ => {
            let texts: Vec<_> = problems.iter().map(|(name, error)| format!("`{name}`: {error}")).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
    }
}
