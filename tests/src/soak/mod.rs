//! A gateway among clients of every kind for a long time.
//!
//! | clients | what they do |
//! | --- | --- |
//! | patient | keep a connection open and ask now and then; every answer is checked |
//! | busy | ask one thing after the other; every answer is checked |
//! | slow | ask for a large value and read some bytes of it a second |
//! | deaf | ask for a very large value, six times as large in JSON, and read nothing |
//! | leaving | go away in the middle of a request or of an answer, and come again |
//!
//! The crowd is the same all the time, so the gateway's memory has to be as well: see [`Outcome::judge`].

mod crowd;
mod outcome;
mod polite;
mod rude;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::time::sleep;

use crate::gateway::TOKEN_VARIABLE;
use crate::process::{Process, Ready, Spec};
use crate::redis::Redis;
use crate::{client, ports, tools};

use crowd::{Crowd, PATIENCE};
use outcome::SPARE_DESCRIPTORS;
pub use outcome::{Moment, Outcome, flat};

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
    /// Clients that do not read.
    pub deaf: usize,
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
            polite_clients: self.patient + self.busy,
            clients: self.patient + self.busy + self.slow + self.deaf + self.leaving,
            unread_answers: read(&counts.deaf),
            slow_answers: read(&counts.slow),
            departures: read(&counts.left),
            left_behind,
        })
    }

    /// How many files each of the two processes has open at most.
    fn descriptors(&self) -> usize {
        // Besides connections: logs, pools, libraries.
        self.patient + self.busy + self.slow + 2 * (self.leaving + self.deaf) + 200
    }
}

/// The gateway that is soaked. Its bounds are far from what the crowd takes, so that no client is refused; but for its memory, of
/// which deaf clients take all they can get.
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
            ("TOLLGATE_MAX_MEMORY", format!("{MAX_MEMORY}")),
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
        let script = format!("return redis.call('SET', KEYS[1], string.rep('\\0', {HUGE_SIZE}))");
        let set = raw_request("/", &json!(["EVAL", script, 1, HUGE]).to_string());
        let answer = client::raw(address, &set).await?;
        ensure!(answer.status == 200, "`{HUGE}` cannot be set: {answer}");
        Ok(SoakedGateway { process, address })
    }

    fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.process.id());
        Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read `{path}`"))?.count())
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

const TOKEN: &str = "soak";
/// Large enough that it does not vanish in the kernel's buffers on the way to a client that does not read.
const LARGE: &str = "soak:large";
const LARGE_SIZE: usize = 1 << 20;
/// What deaf clients ask for.
const HUGE: &str = "soak:huge";
const HUGE_SIZE: usize = 10 << 20;
/// What clients may take, in bytes.
const MAX_MEMORY: u64 = 256 << 20;
const MEDIUM: &str = "soak:medium";
const MEDIUM_SIZE: usize = 16 << 10;
const BETWEEN_MOMENTS: Duration = Duration::from_millis(500);
