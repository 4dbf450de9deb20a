//! A gateway among clients of every kind for a long time.
//!
//! | clients | what they do |
//! | --- | --- |
//! | patient | keep a connection open and ask now and then; every answer is checked |
//! | busy | ask one thing after the other; every answer is checked |
//! | slow | ask for a large value and read some bytes of it a second |
//! | leaving | go away in the middle of a request or of an answer, and come again |
//!
//! The crowd is the same all the time, so the gateway's memory has to be as well: see [`Outcome::judge`].

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{self, Answer};
use crate::gateway::TOKEN_VARIABLE;
use crate::load::{Load, Report, Running};
use crate::process::{Process, Ready, Spec};
use crate::redis::Redis;
use crate::{ports, tools};

/// How many clients, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// Clients that ask now and then.
    pub patient: usize,
    /// How long each of them waits in between.
    pub patience: Duration,
    /// Clients that ask two hundred times a second at most.
    pub busy: usize,
    /// Clients that read slowly.
    pub slow: usize,
    /// Clients that leave, each about once a second.
    pub leaving: usize,
    /// How long the crowd and the gateway's memory may take to find their size.
    pub warm_up: Duration,
    /// How long memory is watched afterwards.
    pub watched: Duration,
}

impl Soak {
    /// Sends the crowd to the gateway and watches. `tell` hears of every moment as it comes.
    pub async fn run(&self, gateway: &SoakedGateway, mut tell: impl FnMut(&Moment)) -> Result<Outcome> {
        let alone = gateway.descriptors()?;
        let crowd = Crowd::gather(self, gateway.address)?;
        let mut moments = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < self.warm_up + self.watched {
            sleep(BETWEEN_MOMENTS).await;
            let moment = crowd.moment(begun.elapsed(), gateway)?;
            tell(&moment);
            moments.push(moment);
        }
        let counts = Arc::clone(&crowd.counts);
        let reports = crowd.leave().await?;
        // Everybody has gone, and so has what the gateway kept for them.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut left_behind = usize::MAX;
        while left_behind > SPARE_DESCRIPTORS && Instant::now() < deadline {
            sleep(Duration::from_millis(100)).await;
            left_behind = gateway.descriptors()?.saturating_sub(alone);
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Outcome {
            reports,
            moments: moments.into_iter().filter(|moment| moment.at >= self.warm_up).collect(),
            clients: self.patient + self.busy + self.slow,
            slow_answers: read(&counts.slow),
            departures: read(&counts.left),
            left_behind,
        })
    }

    /// How many files each of the two processes has open at most.
    fn descriptors(&self) -> usize {
        // Besides connections: logs, pools, libraries.
        self.patient + self.busy + self.slow + 2 * self.leaving + 200
    }
}

/// The gateway that is soaked. Its bounds are far from what the crowd takes, so that no client is refused.
#[derive(Debug)]
pub struct SoakedGateway {
    process: Process,
    address: SocketAddr,
}

impl SoakedGateway {
    /// Starts it in front of `redis`, with the values that clients ask for.
    pub async fn start(dir: &Path, redis: &Redis, soak: &Soak) -> Result<SoakedGateway> {
        // The gateway inherits the limit.
        raise_descriptors(soak.descriptors())?;
        let address = ports::local(ports::free()?);
        let variables = [
            (TOKEN_VARIABLE, TOKEN.to_owned()),
            ("TOLLGATE_REDIS", redis.url()),
            ("TOLLGATE_LISTEN", address.to_string()),
            ("TOLLGATE_MAX_CONNECTIONS", "65536".to_owned()),
            // An answer that is read slowly is under way.
            ("TOLLGATE_MAX_IN_FLIGHT", "65536".to_owned()),
            ("TOLLGATE_COMMAND_TIMEOUT", format!("{}s", PATIENCE.as_secs())),
        ];
        let ping = raw_request("/", &json!(["PING"]).to_string());
        let process = Process::start(Spec {
            name: "gateway".into(),
            program: tools::gateway()?,
            args: vec!["gateway".into()],
            env: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            dir: dir.to_path_buf(),
            ready: Ready { address, question: ping, answer: b"HTTP/1.1 200".to_vec() },
            ready_within: Duration::from_secs(10),
        })
        .await?;
        for (key, size) in [(LARGE, LARGE_SIZE), (MEDIUM, MEDIUM_SIZE)] {
            let set = raw_request("/", &json!(["SET", key, "v".repeat(size)]).to_string());
            let answer = client::raw(address, &set).await?;
            ensure!(answer.status == 200, "`{key}` cannot be set: {answer}");
        }
        Ok(SoakedGateway { process, address })
    }

    fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.process.id());
        Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read `{path}`"))?.count())
    }
}

/// How things stand at one time.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the crowd came.
    pub at: Duration,
    /// The gateway's resident memory, in bytes.
    pub resident: u64,
    /// The gateway's open files, most of which are connections.
    pub descriptors: usize,
    /// Right answers so far.
    pub answers: u64,
    /// Clients that have left in the middle so far.
    pub departures: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5.0} s  {:>7.1} MiB  {:>6} open files  {:>9} right answers  {:>7} departures",
            self.at.as_secs_f64(),
            mebibytes(self.resident),
            self.descriptors,
            self.answers,
            self.departures
        )
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the patient and the busy clients were answered.
    pub reports: [Report; 2],
    /// From the end of the warm-up on.
    pub moments: Vec<Moment>,
    /// Clients that were connected all the time.
    pub clients: usize,
    /// Large answers that began to arrive at slow clients.
    pub slow_answers: u64,
    /// Clients that left in the middle.
    pub departures: u64,
    /// Files that the gateway had open more than before, some time after everybody left.
    pub left_behind: usize,
}

impl Outcome {
    /// Fails, with the reason, unless every answer was right, nothing was left behind, and memory was flat.
    pub fn judge(&self) -> Result<()> {
        for (who, report) in ["patient", "busy"].iter().zip(&self.reports) {
            let failed = report.failed();
            let first = report.first_refusal.as_ref().map(ToString::to_string).unwrap_or_default();
            ensure!(
                failed == 0,
                "{failed} requests of {who} clients went wrong: {:?}\n{first}",
                report.failures
            );
            ensure!(report.answers() > 0, "{who} clients got no answer at all");
        }
        ensure!(self.slow_answers > 0 && self.departures > 0, "the crowd was not as it should be: {self:?}");
        let connected = self.moments.iter().map(|moment| moment.descriptors).min().unwrap_or(0);
        ensure!(
            connected >= self.clients,
            "{} clients were to be connected, and the gateway had {connected} open files",
            self.clients
        );
        ensure!(
            self.left_behind <= SPARE_DESCRIPTORS,
            "after everybody left, the gateway kept {} files open",
            self.left_behind
        );
        let memory: Vec<u64> = self.moments.iter().map(|moment| moment.resident).collect();
        flat(&memory)
    }

    /// The greatest resident memory of the first and of the last third.
    pub fn peaks(&self) -> Option<(u64, u64)> {
        let memory: Vec<u64> = self.moments.iter().map(|moment| moment.resident).collect();
        peaks(&memory)
    }
}

/// Fails unless the peak of the last third is at most a twentieth and 4 MiB above the peak of the first.
pub fn flat(memory: &[u64]) -> Result<()> {
    let Some((first, last)) = peaks(memory) else { bail!("{} measurements are too few", memory.len()) };
    let allowed = first + first / 20 + MARGIN;
    ensure!(
        last <= allowed,
        "memory grew from {:.1} MiB in the first third to {:.1} MiB in the last, {:.1} MiB is the most allowed",
        mebibytes(first),
        mebibytes(last),
        mebibytes(allowed)
    );
    Ok(())
}

fn peaks(memory: &[u64]) -> Option<(u64, u64)> {
    let third = memory.len() / 3;
    let first = memory.get(..third)?.iter().max()?;
    let last = memory.get(memory.len() - third..)?.iter().max()?;
    Some((*first, *last))
}

/// What goes on at the moment.
struct Crowd {
    patient: Running,
    busy: Running,
    /// Slow and leaving clients.
    rude: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    slow: AtomicU64,
    left: AtomicU64,
}

impl Crowd {
    fn gather(soak: &Soak, address: SocketAddr) -> Result<Crowd> {
        let polite = |who: &'static str, connections, pause| Load {
            connections,
            pause,
            timeout: PATIENCE,
            request: Arc::new(move |number| request(who, number)),
            check: Some(Arc::new(move |number, answer: &Answer| is_right(who, number, answer))),
            ..Load::new(vec![address], u64::MAX, "/")
        };
        let counts = Arc::new(Counts::default());
        let mut rude = JoinSet::new();
        for index in 0..soak.slow {
            rude.spawn(read_slowly(address, index, Arc::clone(&counts)));
        }
        for index in 0..soak.leaving {
            rude.spawn(leave_early(address, index, Arc::clone(&counts)));
        }
        Ok(Crowd {
            patient: polite("patient", soak.patient, soak.patience).start()?,
            busy: polite("busy", soak.busy, Duration::from_millis(5)).start()?,
            rude,
            counts,
        })
    }

    fn moment(&self, at: Duration, gateway: &SoakedGateway) -> Result<Moment> {
        Ok(Moment {
            at,
            resident: gateway.process.resident_memory()?,
            descriptors: gateway.descriptors()?,
            answers: self.patient.total().answers() + self.busy.total().answers(),
            departures: self.counts.left.load(Ordering::Relaxed),
        })
    }

    async fn leave(mut self) -> Result<[Report; 2]> {
        self.rude.shutdown().await;
        self.patient.stop();
        self.busy.stop();
        Ok([self.patient.finish().await?, self.busy.finish().await?])
    }
}

/// The request of these clients with this number. What it is to be answered follows from the two.
fn request(who: &str, number: u64) -> Request<Full<Bytes>> {
    let (path, body, _) = question(who, number);
    Request::post(path)
        .header("host", "gateway")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Full::from(body.to_string()))
        .expect("a valid request")
}

fn is_right(who: &str, number: u64, answer: &Answer) -> bool {
    let (_, _, expected) = question(who, number);
    match (expected, answer.json()) {
        (Expected::Answer(expected), Ok(found)) => answer.status == 200 && expected == found,
        (Expected::Error(prefix), Ok(found)) => {
            answer.status == 400 && found["error"].as_str().is_some_and(|text| text.starts_with(prefix))
        }
        (_, Err(_)) => false,
    }
}

enum Expected {
    Answer(Value),
    Error(&'static str),
}

/// A path, a body, and what is to be answered.
fn question(who: &str, number: u64) -> (&'static str, Value, Expected) {
    let result = |value: Value| json!({ "result": value });
    let key = format!("soak:{{{who} {number}}}");
    let text = format!("ünïcode \"{number}\" \\ \u{1f980}");
    match number % 6 {
        0 => ("/", json!(["ECHO", text]), Expected::Answer(result(json!(text)))),
        1 => ("/", json!(["GET", MEDIUM]), Expected::Answer(result(json!("v".repeat(MEDIUM_SIZE))))),
        2 => ("/", json!(["GET"]), Expected::Error("ERR wrong number of arguments")),
        3 => {
            let commands = json!([["SET", key, text], ["GET", key], ["DEL", key], ["GET", key]]);
            let results = [json!("OK"), json!(text), json!(1), Value::Null].map(result);
            ("/pipeline", commands, Expected::Answer(json!(results)))
        }
        4 => {
            let echoes: Vec<Value> = (0..30).map(|n| json!(["ECHO", format!("{number}/{n}")])).collect();
            let results: Vec<Value> = (0..30).map(|n| result(json!(format!("{number}/{n}")))).collect();
            ("/pipeline", json!(echoes), Expected::Answer(json!(results)))
        }
        _ => {
            let commands = json!([["INCR", key], ["INCRBY", key, 41], ["DEL", key]]);
            let results = [json!(1), json!(42), json!(1)].map(result);
            ("/multi-exec", commands, Expected::Answer(json!(results)))
        }
    }
}

/// Asks for the large value and reads some bytes of it a second; then gives up and begins again.
async fn read_slowly(address: SocketAddr, index: usize, counts: Arc<Counts>) {
    let asks = raw_request("/", &json!(["GET", LARGE]).to_string());
    // Not all at once.
    sleep(Duration::from_millis(index as u64 * 37 % 5_000)).await;
    loop {
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            // What the kernel takes in for a client, no server can tell from what the client has read.
            socket.set_recv_buffer_size(4096)?;
            let mut stream = socket.connect(address).await?;
            stream.write_all(&asks).await?;
            let mut some = [0; 16];
            stream.read_exact(&mut some).await?;
            if some.starts_with(b"HTTP/1.1 200") {
                counts.slow.fetch_add(1, Ordering::Relaxed);
            }
            for _ in 0..20 {
                sleep(Duration::from_millis(250)).await;
                stream.read_exact(&mut some).await?;
            }
            std::io::Result::Ok(())
        };
        if exchange.await.is_err() {
            // The gateway may have had enough.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Leaves again and again, each time in another place.
async fn leave_early(address: SocketAddr, index: usize, counts: Arc<Counts>) {
    let large = raw_request("/", &json!(["GET", LARGE]).to_string());
    let pipeline = raw_request("/pipeline", &json!(vec![["GET", MEDIUM]; 30]).to_string());
    let body = raw_request("/", &json!(["SET", "soak:never", "v".repeat(200_000)]).to_string());
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n\
         20000\r\n[\"SET\",\"soak:never\",\"vvvv"
    );
    let subscribe = format!(
        "POST /subscribe/soak HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n\
         accept: text/event-stream\r\ncontent-length: 0\r\n\r\n"
    );
    // The preface and settings of h2c, and then the beginning of a frame that never ends.
    let h2c = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\x04\0\0\0\x01";
    // What is sent, and how much of the answer is awaited.
    let ways: [(&[u8], usize); 8] = [
        (&body[..60], 0),
        (&body[..100_000], 0),
        (chunked.as_bytes(), 0),
        (&large, 10_000),
        (&large, 0),
        (&pipeline, 100),
        (subscribe.as_bytes(), 20),
        (h2c, 9),
    ];
    // Not all at once.
    sleep(Duration::from_millis(index as u64 * 37 % 1_000)).await;
    for turn in index.. {
        let (sent, awaited) = ways[turn % ways.len()];
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            // Who leaves first keeps the port for a minute, and one address has only so many.
            let host = u8::try_from(turn % 250).unwrap_or(0) + 1;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 7, host), 0)))?;
            let mut stream: TcpStream = socket.connect(address).await?;
            stream.write_all(sent).await?;
            let mut answer = vec![0; awaited];
            // Who subscribes may wait for a while; all others get that much at once.
            let _ = timeout(Duration::from_secs(2), stream.read_exact(&mut answer)).await;
            std::io::Result::Ok(())
        };
        if exchange.await.is_ok() {
            counts.left.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn raw_request(path: &str, body: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Makes room for that many open files in this process and in those that it starts from now on.
fn raise_descriptors(wanted: usize) -> Result<()> {
    let (wanted, now) = (wanted as u64, getrlimit(Resource::Nofile));
    // No number means no limit.
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        now.maximum.is_none_or(|most| most >= wanted),
        "{wanted} open files are needed and {} are allowed: raise the hard limit (`ulimit -Hn`), or take fewer clients",
        now.maximum.unwrap_or_default()
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..now }).context("cannot raise `ulimit -n`")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A machine with other work may keep clients waiting; here only wrong answers and memory count.
const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "soak";
/// Large enough that it does not vanish in the kernel's buffers on the way to a client that does not read.
const LARGE: &str = "soak:large";
const LARGE_SIZE: usize = 1 << 20;
const MEDIUM: &str = "soak:medium";
const MEDIUM_SIZE: usize = 16 << 10;
const BETWEEN_MOMENTS: Duration = Duration::from_millis(500);
/// What memory may grow by, besides a twentieth.
const MARGIN: u64 = 4 << 20;
/// Connections of the gateway's own may come and go.
const SPARE_DESCRIPTORS: usize = 8;
