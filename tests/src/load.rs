//! Many requests over keep-alive connections, and what became of them.
//!
//! Each connection sends its next request when the answer to the last has come, so the number of connections bounds
//! what is outstanding. A connection that fails is opened again; the request that it carried counts as failed and is
//! not repeated, so every request is counted once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::client::{Answer, whole};

/// What to send.
#[derive(Clone)]
pub struct Load {
    /// The addresses that connections are dealt to in turn.
    pub targets: Vec<SocketAddr>,
    /// How many connections.
    pub connections: usize,
    /// How many requests in total; [`u64::MAX`] goes on until stopped.
    pub requests: u64,
    /// How long an answer may take before the request counts as failed.
    pub timeout: Duration,
    /// A pause that each connection makes before each request, for a steady trickle instead of full speed.
    pub pause: Duration,
    /// The addresses that connections come from in turn; any of `127.0.0.0/8` works on Linux. Empty: the usual one.
    pub sources: Vec<IpAddr>,
    /// The request with this number, counted from 0 over all connections.
    pub request: Arc<dyn Fn(u64) -> Request<Full<Bytes>> + Send + Sync>,
    /// A header whose presence in answers is counted.
    pub marker: Option<&'static str>,
    /// Whether this is the answer to the request with this number; without it any answer is.
    pub check: Option<Check>,
}

/// See [`Load::check`].
pub type Check = Arc<dyn Fn(u64, &Answer) -> bool + Send + Sync>;

impl Load {
    /// `GET path` over 64 connections, at full speed.
    pub fn new(targets: Vec<SocketAddr>, requests: u64, path: &str) -> Load {
        let path = path.to_owned();
        Load {
            targets,
            connections: 64,
            requests,
            timeout: Duration::from_secs(10),
            pause: Duration::ZERO,
            sources: Vec::new(),
            request: Arc::new(move |_| {
                let request = Request::get(&path).header("host", "tollgate.test").body(Full::default());
                request.expect("a path given by a test is a valid one")
            }),
            marker: None,
            check: None,
        }
    }

    /// `GET path` from clients with these addresses. Envoy goes by the connection; a Worker goes by the field that Cloudflare writes,
    /// and who stands in for Cloudflare has to write it.
    #[must_use]
    pub fn of_clients(mut self, path: &str, client: impl Fn(u64) -> IpAddr + Send + Sync + 'static) -> Load {
        let path = path.to_owned();
        self.request = Arc::new(move |number| {
            let request = Request::get(&path).header("host", "tollgate.test");
            let request = request.header("cf-connecting-ip", client(number).to_string());
            request.body(Full::default()).expect("a path given by a test is a valid one")
        });
        self
    }

    /// Sends everything and reports.
    pub async fn run(self) -> Result<Report> {
        self.start()?.finish().await
    }

    /// Begins sending and returns at once.
    pub fn start(self) -> Result<Running> {
        ensure!(!self.targets.is_empty(), "there is no address to send to");
        let reports = self.targets.iter().map(|target| (*target, Mutex::new(Report::new()))).collect();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            reports,
            load: self,
        });
        let mut tasks = JoinSet::new();
        for index in 0..shared.load.connections {
            tasks.spawn(connection(Arc::clone(&shared), index));
        }
        Ok(Running { shared, tasks, begun: Instant::now() })
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("targets", &self.targets)
            .field("connections", &self.connections)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// A load on its way. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    begun: Instant,
}

impl Running {
    /// What has come so far, per target, in the order given.
    pub fn so_far(&self) -> Vec<(SocketAddr, Report)> {
        self.shared.reports.iter().map(|(target, report)| (*target, lock(report).clone())).collect()
    }

    /// What has come so far from all targets.
    pub fn total(&self) -> Report {
        let mut total = Report::new();
        for (_, report) in &self.shared.reports {
            total.add(&lock(report));
        }
        total.elapsed = self.begun.elapsed();
        total
    }

    /// Whether every request has been sent and answered.
    pub fn is_done(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.is_empty()
    }

    /// Sends no more; answers that are outstanding still come.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits for every answer and reports.
    pub async fn finish(mut self) -> Result<Report> {
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(self.total())
    }
}

/// What became of the requests.
#[derive(Clone)]
pub struct Report {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by what happened; wrong answers are [among them](WRONG).
    pub failures: BTreeMap<&'static str, u64>,
    /// Answers that carried the marker, by status.
    pub marked: BTreeMap<u16, u64>,
    /// The first answer that was wrong, where answers are checked; otherwise the first that was not a success.
    pub first_refusal: Option<Answer>,
    /// Microseconds from sending a request to the end of its answer.
    pub latencies: Histogram<u64>,
    /// The longest time that a request was outstanding, failed ones included.
    pub longest: Duration,
    /// From the start of the load to this report.
    pub elapsed: Duration,
}

impl Report {
    /// Answers with this status.
    pub fn count(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers of any status.
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers with a status of 500 or above.
    pub fn server_errors(&self) -> u64 {
        self.statuses.range(500..).map(|(_, count)| count).sum()
    }

    /// Requests without an answer.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Answers that carried the marker.
    pub fn marked(&self) -> u64 {
        self.marked.values().sum()
    }

    /// The latency below which this share of the answers lay, such as `0.99`.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(share))
    }

    /// What came after `earlier`, a report of the same load. Latencies and the longest wait stay those of the whole.
    #[must_use]
    pub fn since(&self, earlier: &Report) -> Report {
        let mut part = self.clone();
        subtract_counts(&mut part.statuses, &earlier.statuses);
        subtract_counts(&mut part.failures, &earlier.failures);
        subtract_counts(&mut part.marked, &earlier.marked);
        part.elapsed = self.elapsed.saturating_sub(earlier.elapsed);
        part
    }

    fn new() -> Report {
        Report {
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            marked: BTreeMap::new(),
            first_refusal: None,
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid"),
            longest: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    fn add(&mut self, other: &Report) {
        add_counts(&mut self.statuses, &other.statuses);
        add_counts(&mut self.failures, &other.failures);
        add_counts(&mut self.marked, &other.marked);
        if self.first_refusal.is_none() {
            self.first_refusal.clone_from(&other.first_refusal);
        }
        self.latencies.add(&other.latencies).expect("both have the same bounds");
        self.longest = self.longest.max(other.longest);
    }

    fn record(&mut self, load: &Load, number: u64, outcome: Result<Answer, &'static str>, took: Duration) {
        self.longest = self.longest.max(took);
        match outcome {
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
            Ok(answer) if load.check.as_ref().is_some_and(|right| !right(number, &answer)) => {
                *self.failures.entry(WRONG).or_default() += 1;
                self.first_refusal.get_or_insert(answer);
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                *self.statuses.entry(status).or_default() += 1;
                if load.marker.is_some_and(|name| answer.headers.contains_key(name)) {
                    *self.marked.entry(status).or_default() += 1;
                }
                self.latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
                if self.first_refusal.is_none() && load.check.is_none() && !answer.status.is_success() {
                    self.first_refusal = Some(answer);
                }
            }
        }
    }
}

/// Without the samples, which are thousands of numbers.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("statuses", &self.statuses)
            .field("failures", &self.failures)
            .field("marked", &self.marked)
            .field("p99", &self.quantile(0.99))
            .field("longest", &self.longest)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    load: Load,
    next: AtomicU64,
    stopped: AtomicBool,
    reports: Vec<(SocketAddr, Mutex<Report>)>,
}

impl Shared {
    fn next(&self) -> Option<u64> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.load.requests).then_some(number)
    }
}

async fn connection(shared: Arc<Shared>, index: usize) {
    let load = &shared.load;
    let (target, report) = &shared.reports[index % shared.reports.len()];
    let source = load.sources.get(index % load.sources.len().max(1)).copied();
    let mut open: Option<Connection> = None;
    // Pauses begin one after the other, so that a trickle is even.
    tokio::time::sleep(load.pause.mul_f64(index as f64 / load.connections as f64)).await;
    loop {
        if !load.pause.is_zero() {
            tokio::time::sleep(load.pause).await;
        }
        let Some(number) = shared.next() else { return };
        let begun = Instant::now();
        let exchange = exchange(&mut open, *target, source, (load.request)(number));
        let outcome = timeout(load.timeout, exchange).await.unwrap_or(Err("timeout"));
        if outcome.is_err() {
            open = None;
        }
        lock(report).record(load, number, outcome, begun.elapsed());
    }
}

async fn exchange(
    open: &mut Option<Connection>,
    target: SocketAddr,
    source: Option<IpAddr>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, &'static str> {
    // A server may have closed an idle connection; that is no failure of this request.
    if open.as_mut().is_none_or(|connection| connection.sender.is_closed()) {
        *open = Some(Connection::open(target, source).await.map_err(|_| "connect")?);
    }
    let connection = open.as_mut().ok_or("connect")?;
    connection.sender.ready().await.map_err(|_| "closed")?;
    let response = connection.sender.send_request(request).await.map_err(|_| "closed")?;
    whole(response).await.map_err(|_| "closed")
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Connection {
    async fn open(target: SocketAddr, source: Option<IpAddr>) -> Result<Connection> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Connection { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn add_counts<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}

fn subtract_counts<K: Ord + Copy>(from: &mut BTreeMap<K, u64>, counts: &BTreeMap<K, u64>) {
    from.retain(|key, count| {
        *count -= counts.get(key).copied().unwrap_or(0);
        *count > 0
    });
}

/// The failure of a request whose answer [was not right](Load::check).
pub const WRONG: &str = "wrong answer";

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
