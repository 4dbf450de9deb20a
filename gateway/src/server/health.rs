//! Health, for those who operate the gateway.
//!
//! `/health` says that the process serves, whatever became of Redis: to restart a gateway because
//! Redis is gone would help nobody. `/ready` says whether to send it requests, and asks every Redis
//! from every thread, once for all who want to know: it is ready while any can be used, because one
//! tenant's Redis is no matter of the others, and not when none can, as where a copy is cut off
//! from all.
//!
//! Both tell nothing of tenants to those without a token, because probes have none. A token is told of its own Redis.
//! `/health/detailed` and `/metrics` name servers, so they do need one, unless they are on an address of their own.

use std::collections::BTreeMap;

use hyper::StatusCode;

use super::answer::Answer;
use super::report::{Report, SILENT_THREAD};
use super::{Role, Shared};

/// `GET /health`.
pub(super) fn live() -> Answer {
    Answer::json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

/// `GET /ready`, for a token, for anybody, or for those who operate the gateway.
pub(super) async fn ready(shared: &Shared, tenant: Option<usize>, role: Role) -> Answer {
    if shared.is_stopping() {
        return refuse("stopping", "ERR the gateway is stopping");
    }
    let reports = shared.asked().await;
    let Some(problems) = problems(&reports) else {
        return refuse("unavailable", &format!("ERR {SILENT_THREAD}"));
    };
    let usable = problems.len() < shared.sources.len();
    match (role, tenant.and_then(|tenant| shared.tenants.get(tenant))) {
        (Role::Admin, _) if !problems.is_empty() => {
            let of =
                |tenant: &super::Tenant| Some((tenant.name.clone(), (*problems.get(&tenant.source)?).into()));
            let unavailable: serde_json::Map<_, _> = shared.tenants.iter().filter_map(of).collect();
            let (code, status) = match usable {
                true => (StatusCode::OK, "ready"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            };
            let body = serde_json::json!({ "status": status, "unavailable": unavailable }).to_string();
            Answer::json(code, body.into())
        }
        (Role::Clients, Some(tenant)) => match problems.get(&tenant.source) {
            Some(error) => refuse("unavailable", error),
            None => is_ready(),
        },
        _ if usable => is_ready(),
        _ => refuse("unavailable", "ERR no Redis can be used"),
    }
}

fn is_ready() -> Answer {
    Answer::json(StatusCode::OK, br#"{"status":"ready"}"#.to_vec())
}

fn refuse(status: &str, error: &str) -> Answer {
    let body = serde_json::json!({ "status": status, "error": error }).to_string();
    Answer::json(StatusCode::SERVICE_UNAVAILABLE, body.into())
}

/// Why each Redis that cannot be used cannot be, by its number; nothing when a thread does not answer.
fn problems(reports: &[Option<Report>]) -> Option<BTreeMap<usize, &str>> {
    let mut problems = BTreeMap::new();
    for report in reports {
        for (number, redis) in report.as_ref()?.redis.iter().enumerate() {
            if let Some(Err(error)) = &redis.answered {
                problems.entry(number).or_insert(error.as_str());
            }
        }
    }
    Some(problems)
}
