//! What each thread can tell of itself. Threads share nothing, so who wants to know asks all of them.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::worker::{Order, Worker};
use crate::backend::{Count, Counters, Status};
use crate::metrics::Metrics;
use crate::reply::error;

/// What one thread knows.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) metrics: Metrics,
    /// The Redis of each tenant.
    pub(crate) redis: Vec<Redis>,
}

/// A Redis as one thread sees it.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) status: Status,
    /// What was counted, with its name and meaning.
    pub(crate) totals: [(&'static str, &'static str, u64); 11],
    /// How long it took to answer, or why it did not; nothing when it was not asked.
    pub(crate) answered: Option<Result<Duration, String>>,
}

/// Whether Redis has to be asked for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// No: what is known will do.
    Nobody,
    /// Yes, each: it has to answer.
    Redis,
}

impl Shared {
    /// Asks every thread; nothing from one that does not answer.
    pub(crate) async fn reports(&self, ask: Ask) -> Vec<Option<Report>> {
        let threads = self.threads.get().map(|threads| &threads[..]).unwrap_or_default();
        let asked: Vec<_> = threads
            .iter()
            .map(|thread| {
                let (answer, report) = oneshot::channel();
                let sent =
                    thread.upgrade().is_some_and(|thread| thread.send(Order::Report(ask, answer)).is_ok());
                sent.then_some(report)
            })
            .collect();
        let mut reports = Vec::new();
        for report in asked {
            reports.push(match report {
                Some(report) => timeout(THREAD_BOUND, report).await.ok().and_then(Result::ok),
                None => None,
            });
        }
        reports
    }
}

impl Worker {
    /// What this thread knows.
    pub(super) async fn report(self: Rc<Self>, ask: Ask) -> Report {
        let answers = match ask {
            Ask::Nobody => Vec::new(),
            Ask::Redis => self.ask_redis().await,
        };
        let mut answers = answers.into_iter().map(Some);
        let redis = self.backends.iter().map(|backend| Redis {
            status: backend.status(),
            totals: totals(backend.counters()),
            answered: answers.next().flatten(),
        });
        Report { metrics: self.recorder.metrics(), redis: redis.collect() }
    }

    /// Whether the Redis of each tenant answers, all at once.
    async fn ask_redis(self: &Rc<Self>) -> Vec<Result<Duration, String>> {
        let mut asking = JoinSet::new();
        for number in 0..self.backends.len() {
            let worker = Rc::clone(self);
            asking.spawn_local(async move { (number, worker.ask_one(number).await) });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn ask_one(&self, number: usize) -> Result<Duration, String> {
        let Some(backend) = self.backends.get(number) else {
            return Err("ERR there is no such token".into());
        };
        let begun = Instant::now();
        let reply = backend.ping(REDIS_BOUND).await.map_err(|failure| failure.to_string())?;
        match error(&reply) {
            // A user that may not PING still got an answer.
            Some(text) if !text.starts_with(b"NOPERM") => Err(String::from_utf8_lossy(text).into_owned()),
            _ => Ok(begun.elapsed()),
        }
    }
}

fn totals(counters: &Counters) -> [(&'static str, &'static str, u64); 11] {
    let total = |name, help, count: &Count| (name, help, count.get());
    [
        total("redis_commands_total", "Commands sent to Redis for clients.", &counters.commands),
        total("redis_sent_bytes_total", "Bytes of them.", &counters.bytes_sent),
        total("redis_received_bytes_total", "Bytes of the replies to them.", &counters.bytes_received),
        total("redis_connects_total", "Connections to Redis that were made.", &counters.connects),
        total(
            "redis_reconnects_total",
            "Connections made where there had been one before.",
            &counters.reconnects,
        ),
        total(
            "redis_connect_failures_total",
            "Attempts to connect to Redis that failed.",
            &counters.connect_failures,
        ),
        total(
            "redis_connections_lost_total",
            "Connections to Redis that ended by themselves.",
            &counters.lost,
        ),
        total(
            "redis_redirects_total",
            "Commands that another node of a cluster had to be asked.",
            &counters.redirects,
        ),
        total(
            "redis_retries_total",
            "Commands sent again because Redis had refused to run them at that moment.",
            &counters.retries,
        ),
        total(
            "redis_refreshes_total",
            "How often nodes or sentinels were asked for the topology.",
            &counters.refreshes,
        ),
        total("redis_failovers_total", "How often another server became the master.", &counters.failovers),
    ]
}

/// What is said of a thread that does not answer.
pub(super) const SILENT_THREAD: &str = "a thread of the gateway does not answer";

/// How long Redis may take to be found alive.
const REDIS_BOUND: Duration = Duration::from_millis(500);

/// How long a thread may take to answer. One that takes longer has no time for clients either.
const THREAD_BOUND: Duration = Duration::from_secs(2);
