//! Counters, gauges and histograms, kept by the host.
//!
//! Envoy's metrics from wasm have no labels, so a name carries them at its end, as `….limit.NAME`; `stats_tags` in
//! the bootstrap turn them into labels (see `envoy.yaml`). Values are only names from the policy and words from
//! a fixed set, so the number of series is bounded.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use tollgate_shared::config::FailureMode;
use tollgate_shared::exchange::{Decision, Ruling, Source};
use tollgate_shared::policy::{Guard, Policy};
use tollgate_shared::store::StoreError;

/// All metrics of a plugin.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests_allowed: Metric,
    requests_denied: Metric,
    requests_abandoned: Metric,
    limits: Vec<LimitMetrics>,
    guards: Vec<GuardMetrics>,
    denials_remembered: Metric,
    degraded: [(FailureMode, Metric); 3],
    calls: Metric,
    errors: Vec<(&'static str, Metric)>,
    duration_buckets: Vec<(u64, Metric)>,
    duration_count: Metric,
    duration_sum: Metric,
    batch_size: Metric,
    fallback_active: Metric,
}

#[derive(Debug)]
struct LimitMetrics {
    allowed: Metric,
    exceeded: Metric,
    shadow_exceeded: Metric,
}

/// By ruling.
#[derive(Debug)]
struct GuardMetrics {
    allowed: Metric,
    refused: Metric,
    shadow_refused: Metric,
    unavailable: Metric,
}

impl Metrics {
    pub(crate) fn define(policy: &Policy) -> Self {
        let of_limit = |name: &str| LimitMetrics {
            allowed: Metric::counter(&format!("rate_limit_allowed_total.limit.{name}")),
            exceeded: Metric::counter(&format!("rate_limit_exceeded_total.limit.{name}")),
            shadow_exceeded: Metric::counter(&format!("rate_limit_shadow_exceeded_total.limit.{name}")),
        };
        let of_guard = |guard: &Guard| {
            let (kind, name) = (guard.rule().kind(), guard.name());
            let counter = |what| Metric::counter(&format!("guard_{what}_total.kind.{kind}.name.{name}"));
            GuardMetrics {
                allowed: counter("allowed"),
                refused: counter("refused"),
                shadow_refused: counter("shadow_refused"),
                unavailable: counter("unavailable"),
            }
        };
        let of_mode = |mode: FailureMode| {
            (mode, Metric::counter(&format!("rate_limit_degraded_total.mode.{}", mode.as_str())))
        };
        Self {
            requests_allowed: Metric::counter("tollgate_requests_allowed_total"),
            requests_denied: Metric::counter("tollgate_requests_denied_total"),
            requests_abandoned: Metric::counter("tollgate_requests_abandoned_total"),
            limits: policy.limits().iter().map(|limit| of_limit(limit.name())).collect(),
            guards: policy.guards().iter().map(of_guard).collect(),
            denials_remembered: Metric::counter("rate_limit_denial_cache_hits_total"),
            degraded: [FailureMode::Allow, FailureMode::Deny, FailureMode::Local].map(of_mode),
            calls: Metric::counter("redis_calls_total"),
            errors: ERROR_KINDS
                .iter()
                .map(|kind| (*kind, Metric::counter(&format!("redis_connection_errors_total.kind.{kind}"))))
                .collect(),
            duration_buckets: BUCKETS
                .iter()
                .map(|(millis, name)| {
                    (*millis, Metric::counter(&format!("redis_operation_duration_seconds_bucket.le.{name}")))
                })
                .collect(),
            duration_count: Metric::counter("redis_operation_duration_seconds_count"),
            duration_sum: Metric::counter("redis_operation_duration_milliseconds_sum"),
            batch_size: Metric::define(MetricType::Histogram, "redis_batch_size"),
            fallback_active: Metric::define(MetricType::Gauge, "redis_fallback_active"),
        }
    }

    /// Counts what became of a request.
    pub(crate) fn decided(&self, decision: &Decision) {
        match decision {
            Decision::Allow(_) => self.requests_allowed.add(1),
            Decision::Deny(_) => self.requests_denied.add(1),
        }
        for verdict in &decision.report().verdicts {
            if let Some(limit) = self.limits.get(verdict.limit) {
                match verdict.ruling {
                    Ruling::Admitted => limit.allowed.add(1),
                    Ruling::Refused => limit.exceeded.add(1),
                    Ruling::ShadowRefused => limit.shadow_exceeded.add(1),
                    Ruling::Unavailable => {}
                }
            }
            self.count_source(verdict.source);
        }
        for verdict in &decision.report().guards {
            if let Some(guard) = self.guards.get(verdict.guard) {
                match verdict.ruling {
                    Ruling::Admitted => guard.allowed.add(1),
                    Ruling::Refused => guard.refused.add(1),
                    Ruling::ShadowRefused => guard.shadow_refused.add(1),
                    Ruling::Unavailable => guard.unavailable.add(1),
                }
            }
            self.count_source(verdict.source);
        }
    }

    fn count_source(&self, source: Source) {
        match source {
            Source::Store => {}
            Source::Denials => self.denials_remembered.add(1),
            Source::Degraded(mode) => {
                self.degraded.iter().filter(|(of, _)| *of == mode).for_each(|(_, metric)| metric.add(1));
            }
        }
    }

    /// Counts requests whose clients left while they waited.
    pub(crate) fn abandoned(&self, requests: usize) {
        if requests > 0 {
            self.requests_abandoned.add(i64::try_from(requests).unwrap_or(i64::MAX));
        }
    }

    /// Counts a call to the store that was sent.
    pub(crate) fn called(&self, operations: usize) {
        self.calls.add(1);
        self.batch_size.record(u64::try_from(operations).unwrap_or(u64::MAX));
    }

    /// Counts a call that ended, after `millis`.
    pub(crate) fn answered(&self, millis: u64) {
        self.duration_buckets
            .iter()
            .filter(|(bound, _)| millis <= *bound)
            .for_each(|(_, bucket)| bucket.add(1));
        self.duration_count.add(1);
        self.duration_sum.add(i64::try_from(millis).unwrap_or(i64::MAX));
    }

    /// Counts a call that failed.
    pub(crate) fn failed(&self, error: &StoreError) {
        self.errors.iter().filter(|(kind, _)| *kind == error.kind()).for_each(|(_, metric)| metric.add(1));
    }

    /// Counts this thread among those that leave the store alone, or no longer.
    pub(crate) fn fallback(&self, active: bool) {
        self.fallback_active.add(if active { 1 } else { -1 });
    }
}

/// A metric of the host; one that the host would not define counts nothing.
#[derive(Clone, Copy, Debug)]
struct Metric(Option<u32>);

impl Metric {
    fn define(kind: MetricType, name: &str) -> Self {
        Self(hostcalls::define_metric(kind, name).ok())
    }

    fn counter(name: &str) -> Self {
        Self::define(MetricType::Counter, name)
    }

    fn add(self, offset: i64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::increment_metric(id, offset);
        }
    }

    fn record(self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }
}

/// Every [`StoreError::kind`] that a call can fail with.
const ERROR_KINDS: [&str; 5] = ["unreachable", "timeout", "status", "garbage", "refused"];

/// Upper bounds of the latency histogram, cumulative as Prometheus has them. Envoy's own histograms hold whole
/// numbers only, which seconds of a Redis call are not.
const BUCKETS: [(u64, &str); 9] = [
    (1, "0.001"),
    (2, "0.002"),
    (5, "0.005"),
    (10, "0.01"),
    (25, "0.025"),
    (50, "0.05"),
    (100, "0.1"),
    (1000, "1"),
    (u64::MAX, "+Inf"),
];
