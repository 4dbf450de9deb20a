//! What each thread can tell of itself. Threads share nothing, so who wants to know asks all of them.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{self, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::worker::{Order, Worker};
use crate::backend::{Backend, Count, Counters, Status, Traffic};
use crate::metrics::Metrics;
use crate::reply::error;

/// What one thread knows.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) metrics: Metrics,
    /// Each Redis, in the order of their numbers.
    pub(crate) redis: Vec<Redis>,
    /// What was counted for each tenant.
    pub(crate) traffic: Vec<Totals<3>>,
}

/// What was counted, with its name and meaning.
pub(crate) type Totals<const COUNT: usize> = [(&'static str, &'static str, u64); COUNT];

/// A Redis as one thread sees it.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) status: Status,
    pub(crate) totals: Totals<8>,
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

/// What all threads said.
pub(crate) type Reports = Arc<[Option<Report>]>;

/// What threads said last when they had asked Redis.
#[derive(Debug)]
pub(crate) struct Asked {
    last: Mutex<Option<(Instant, Reports)>>,
    /// Held by the one that asks for all.
    asking: sync::Mutex<()>,
    /// Places for those who wait for it.
    waiting: Semaphore,
    /// Places for those whom threads are answering.
    answering: Semaphore,
}

impl Asked {
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::default(),
            asking: sync::Mutex::default(),
            waiting: Semaphore::new(WAITING),
            answering: Semaphore::new(ANSWERING),
        }
    }

    /// What was said last, if that was not before.
    fn since(&self, before: Option<Instant>) -> Option<Reports> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, reports) = last.as_ref()?;
        before.is_none_or(|before| *when >= before).then(|| Arc::clone(reports))
    }
}

impl Shared {
    /// What every thread says when it has asked each Redis. Those who want to know it within a
    /// tenth of a second get one answer: it takes no token to ask.
    pub(crate) async fn asked(&self) -> Reports {
        let fresh = || self.asked.since(Instant::now().checked_sub(FRESH));
        if let Some(reports) = fresh() {
            return reports;
        }
        let Ok(_place) = self.asked.waiting.try_acquire() else {
            // Old as it is, it takes no memory to tell.
            return self.asked.since(None).unwrap_or_else(|| Arc::new([None]));
        };
        let _asking = self.asked.asking.lock().await;
        if let Some(reports) = fresh() {
            return reports;
        }
        let reports: Reports = self.reports(Ask::Redis).await.into();
        let last = Some((Instant::now(), Arc::clone(&reports)));
        *self.asked.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        reports
    }

    /// Asks every thread; nothing from one that does not answer.
    pub(crate) async fn reports(&self, ask: Ask) -> Vec<Option<Report>> {
        // The semaphore is never closed.
        let _place = self.asked.answering.acquire().await;
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
        let redis = self.sources().map(|backend| Redis {
            status: backend.status(),
            totals: totals(backend.counters()),
            answered: answers.next().flatten(),
        });
        Report {
            metrics: self.recorder.metrics(),
            redis: redis.collect(),
            traffic: self.backends.iter().map(|backend| traffic(backend.traffic())).collect(),
        }
    }

    /// Each Redis, by way of the first of its tenants.
    fn sources(&self) -> impl Iterator<Item = &Backend> {
        self.shared.sources.iter().filter_map(|source| self.backends.get(source.tenant))
    }

    /// Whether each Redis answers, all at once.
    async fn ask_redis(self: &Rc<Self>) -> Vec<Result<Duration, String>> {
        let mut asking = JoinSet::new();
        for (number, source) in self.shared.sources.iter().enumerate() {
            let (worker, tenant) = (Rc::clone(self), source.tenant);
            asking.spawn_local(async move { (number, worker.ask_one(tenant).await) });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn ask_one(&self, tenant: usize) -> Result<Duration, String> {
        let Some(backend) = self.backends.get(tenant) else {
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

fn traffic(traffic: &Traffic) -> Totals<3> {
    let total = |name, help, count: &Count| (name, help, count.get());
    [
        total("redis_commands_total", "Commands sent to Redis for clients.", &traffic.commands),
        total("redis_sent_bytes_total", "Bytes of them.", &traffic.bytes_sent),
        total("redis_received_bytes_total", "Bytes of the replies to them.", &traffic.bytes_received),
    ]
}

fn totals(counters: &Counters) -> Totals<8> {
    let total = |name, help, count: &Count| (name, help, count.get());
    [
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

/// How long an answer is told to others.
const FRESH: Duration = Duration::from_millis(100);

/// The most that wait for one.
const WAITING: usize = 256;

/// The most that threads answer at once: each answer is of some kilobytes for each thread.
const ANSWERING: usize = 16;

/// How long Redis may take to be found alive.
const REDIS_BOUND: Duration = Duration::from_millis(500);

/// How long a thread may take to answer. One that takes longer has no time for clients either.
const THREAD_BOUND: Duration = Duration::from_secs(2);
