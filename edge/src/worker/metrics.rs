//! Data points for Analytics Engine: what the filter counts, as rows to be counted by a query.
//!
//! | blob 1 | index | blobs 2, 3, 4 | doubles |
//! | --- | --- | --- | --- |
//! | `request` | route | route; `allowed` or `denied` | 1 |
//! | `limit` | limit | limit; `allowed`, `exceeded`, `shadow_exceeded` or `unavailable`; `store`, `denial_cache` or the mode of a degraded decision | 1 |
//! | `token`, `revocation`, `circuit_breaker`, `idempotency`, `dedup`, `lock`, `revokes` | guard | guard; `allowed`, `refused`, `shadow_refused` or `unavailable`; as of a limit | 1 |
//! | `store` | `store` | `ok`, or the kind of error | 1, milliseconds, operations |
//! | `origin` | `origin` | the kind of error | 1 |
//!
//! Names come from the policy, other words from a fixed set, so the number of series is bounded. A request writes one point,
//! one for each of its at most 16 limits and 6 other guards, and one for each of its calls to the store. Points about the origin are written
//! where it is waited for.

use wasm_bindgen::JsValue;

use tollgate_shared::exchange::{Decision, Ruling, Source};
use tollgate_shared::policy::Policy;

use crate::store::CallReport;

/// Where data points go; nowhere without a binding.
#[derive(Debug)]
pub(super) struct Metrics {
    dataset: Option<JsValue>,
}

impl Metrics {
    pub(super) fn new(dataset: Option<JsValue>) -> Self {
        Self { dataset }
    }

    /// Takes down what became of a request.
    pub(super) fn decided(&self, policy: &Policy, decision: &Decision, calls: &[CallReport]) {
        if self.dataset.is_none() {
            return;
        }
        let report = decision.report();
        let route =
            report.route.and_then(|route| policy.routes().get(route)).map_or("", |route| route.name());
        let outcome = match decision {
            Decision::Allow(_) => "allowed",
            Decision::Deny(_) => "denied",
        };
        self.point(route, &["request", route, outcome], &[1.0]);
        for verdict in &report.verdicts {
            let limit = policy.limits().get(verdict.limit).map_or("", |limit| limit.name());
            self.point(limit, &["limit", limit, ruling(verdict.ruling), source(verdict.source)], &[1.0]);
        }
        for verdict in &report.guards {
            let Some(guard) = policy.guards().get(verdict.guard) else { continue };
            let (ruling, source) = (ruling_of_guard(verdict.ruling), source(verdict.source));
            self.point(guard.name(), &[guard.rule().kind(), guard.name(), ruling, source], &[1.0]);
        }
        calls.iter().for_each(|call| self.called(call));
    }

    /// Takes down a call to the store.
    pub(super) fn called(&self, call: &CallReport) {
        let outcome = call.failure.as_ref().map_or("ok", |error| error.kind());
        self.point("store", &["store", outcome], &[1.0, float(call.took), float(call.operations as u64)]);
    }

    fn point(&self, index: &str, blobs: &[&str], doubles: &[f64]) {
        if let Some(dataset) = &self.dataset {
            js::point(dataset, index, &blobs.join("\n"), doubles);
        }
    }
}

fn ruling(ruling: Ruling) -> &'static str {
    match ruling {
        Ruling::Admitted => "allowed",
        Ruling::Refused => "exceeded",
        Ruling::ShadowRefused => "shadow_exceeded",
        Ruling::Unavailable => "unavailable",
    }
}

/// Nothing is exceeded where nothing is counted.
fn ruling_of_guard(of: Ruling) -> &'static str {
    match of {
        Ruling::Refused => "refused",
        Ruling::ShadowRefused => "shadow_refused",
        Ruling::Admitted | Ruling::Unavailable => ruling(of),
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Store => "store",
        Source::Denials => "denial_cache",
        Source::Degraded(mode) => mode.as_str(),
    }
}

/// Numbers here are far below 2⁵³.
#[allow(clippy::cast_precision_loss, reason = "milliseconds and operations of one call")]
fn float(number: u64) -> f64 {
    number as f64
}

mod js {
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen(module = "/src/host.js")]
    extern "C" {
        pub(super) fn point(dataset: &JsValue, index: &str, blobs: &str, doubles: &[f64]);
    }
}
