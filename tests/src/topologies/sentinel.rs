//! A real master with two replicas, watched by three real sentinels.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use redis::cmd;

use super::certificates::Certificates;
use super::{connect, follows, info, settled};
use crate::ports;
use crate::process::{Process, Spec};
use crate::redis::{Build, Redis, pong};

/// Running servers and sentinels. Servers are called by their index; the first is the master in the beginning.
#[derive(Debug)]
pub struct Sentinel {
    servers: Vec<Server>,
    sentinels: Vec<Watcher>,
}

#[derive(Debug)]
struct Server {
    redis: Redis,
    /// What sentinels call it by, which is where it speaks TLS, if it does.
    known_as: SocketAddr,
}

#[derive(Debug)]
struct Watcher {
    process: Process,
    /// Where it listens without TLS.
    address: SocketAddr,
    /// Where clients ask it.
    known_as: SocketAddr,
}

impl Sentinel {
    /// Starts everything and returns when all sentinels know each other and both replicas.
    pub async fn start(dir: &Path) -> Result<Sentinel> {
        Sentinel::start_as(dir, None).await
    }

    /// The same with TLS everywhere. Each part also listens without, for the test itself.
    pub async fn start_with_tls(dir: &Path, certificates: &Certificates) -> Result<Sentinel> {
        Sentinel::start_as(dir, Some(certificates)).await
    }

    async fn start_as(dir: &Path, certificates: Option<&Certificates>) -> Result<Sentinel> {
        let mut set = Sentinel { servers: Vec::new(), sentinels: Vec::new() };
        for index in 0..SERVERS {
            let master = set.servers.first().map(|master| master.known_as);
            set.servers.push(start_server(dir, index, master, certificates).await?);
        }
        let master = set.servers.first().context("there is a master")?.known_as;
        for index in 0..SENTINELS {
            set.sentinels.push(start_sentinel(dir, index, master, certificates).await?);
        }
        settled("the sentinels know everybody", START, async || {
            for sentinel in &set.sentinels {
                let state: BTreeMap<String, String> = ask(sentinel, &["MASTER", NAME]).await?;
                let count = |field: &str| state.get(field).and_then(|count| count.parse::<usize>().ok());
                let known = (count("num-slaves"), count("num-other-sentinels"));
                if known != (Some(SERVERS - 1), Some(SENTINELS - 1)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
        Ok(set)
    }

    /// What a client is told: the sentinels and the master's name.
    pub fn url(&self) -> String {
        let tls = self.sentinels.iter().all(|sentinel| sentinel.known_as != sentinel.address);
        let scheme = if tls { "rediss+sentinel" } else { "redis+sentinel" };
        let sentinels: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.known_as.to_string()).collect();
        format!("{scheme}://{}/{NAME}", sentinels.join(","))
    }

    /// A server.
    pub fn server(&self, index: usize) -> &Redis {
        &self.servers[index].redis
    }

    /// A server, to start it again.
    pub fn server_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.servers[index].redis
    }

    /// The servers other than this one.
    pub fn others(&self, index: usize) -> Vec<&Redis> {
        let others = self.servers.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, server)| &server.redis).collect()
    }

    /// Which server the sentinels take for the master, when they agree and it thinks so too.
    pub async fn master(&self) -> Result<usize> {
        let index = self.named().await?;
        let role = info(self.server(index), "replication", "role").await?;
        ensure!(role == "master", "the sentinels name {}, which is a {role}", self.server(index).name());
        Ok(index)
    }

    /// Waits until the sentinels have a master other than this one, and returns it.
    pub async fn wait_for_another(&self, than: usize, within: Duration) -> Result<usize> {
        // The other one may hang: it is not asked.
        let another = async || Ok(self.named().await? != than && self.master().await? != than);
        settled("there is another master", within, another).await?;
        self.master().await
    }

    /// Whom the sentinels name, when they agree.
    async fn named(&self) -> Result<usize> {
        let mut named = Vec::new();
        for sentinel in &self.sentinels {
            let (host, port): (String, u16) = ask(sentinel, &["GET-MASTER-ADDR-BY-NAME", NAME]).await?;
            named.push(format!("{host}:{port}").parse::<SocketAddr>()?);
        }
        named.dedup();
        let [address] = named[..] else { bail!("the sentinels do not agree: {named:?}") };
        let index = self.servers.iter().position(|server| server.known_as == address);
        index.with_context(|| format!("{address} is none of the servers"))
    }

    /// What these keys hold, asked of the master.
    pub async fn read(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let mut connection = connect(self.server(self.master().await?).address()).await?;
        Ok(cmd("MGET").arg(keys).query_async(&mut connection).await?)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // The watchers first, so that they do not begin an election over an end.
        self.sentinels.iter().for_each(|sentinel| sentinel.process.ask_to_end());
    }
}

async fn start_server(
    dir: &Path,
    index: usize,
    master: Option<SocketAddr>,
    certificates: Option<&Certificates>,
) -> Result<Server> {
    let (build, tls, mut more) = secured(certificates)?;
    more.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
    if let Some(master) = master {
        more.extend(["--replicaof".into(), master.ip().to_string(), master.port().to_string()]);
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let redis = Redis::start_as(&format!("server-{index}"), build, dir, ports::free()?, &more).await?;
    if master.is_some() {
        settled("the replica has its master", START, async || follows(&redis).await).await?;
    }
    let known_as = tls.unwrap_or_else(|| redis.address());
    Ok(Server { redis, known_as })
}

async fn start_sentinel(
    dir: &Path,
    index: usize,
    master: SocketAddr,
    certificates: Option<&Certificates>,
) -> Result<Watcher> {
    let name = format!("sentinel-{index}");
    let address = ports::local(ports::free()?);
    let (build, tls, more) = secured(certificates)?;
    // Sentinels write what they learn into their file, so each has one of its own.
    let file = dir.join(format!("{name}.conf"));
    let settings = [
        format!("port {}", address.port()),
        "bind 127.0.0.1".into(),
        format!("sentinel monitor {NAME} {} {} {QUORUM}", master.ip(), master.port()),
        format!("sentinel down-after-milliseconds {NAME} {}", DOWN_AFTER.as_millis()),
        format!("sentinel failover-timeout {NAME} {}", FAILOVER_TIMEOUT.as_millis()),
    ];
    fs::write(&file, settings.join("\n") + "\n")
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    let mut args = vec![file.into_os_string(), "--sentinel".into()];
    args.extend(more.into_iter().map(Into::into));
    let process = Process::start(Spec {
        name,
        program: build.program()?,
        args,
        env: Vec::new(),
        dir: dir.to_path_buf(),
        ready: pong(address),
        ready_within: Duration::from_secs(10),
    });
    Ok(Watcher { process: process.await?, address, known_as: tls.unwrap_or(address) })
}

/// The server to use, where it speaks TLS, and the arguments that make it.
fn secured(certificates: Option<&Certificates>) -> Result<(Build, Option<SocketAddr>, Vec<String>)> {
    let Some(certificates) = certificates else { return Ok((Build::Pinned, None, Vec::new())) };
    let port = ports::free()?;
    let mut more = certificates.arguments(port, true);
    more.extend(["--tls-replication", "yes"].map(str::to_owned));
    Ok((Build::System, Some(ports::local(port)), more))
}

async fn ask<T: redis::FromRedisValue>(sentinel: &Watcher, words: &[&str]) -> Result<T> {
    let mut connection = connect(sentinel.address).await?;
    let answer = cmd("SENTINEL").arg(words).query_async(&mut connection).await;
    answer.with_context(|| format!("`SENTINEL {}` at {}", words.join(" "), sentinel.process.name()))
}

const SERVERS: usize = 3;
const SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// What the sentinels call the master.
const NAME: &str = "main";
/// After which silence a sentinel believes the master gone. More than the second that sentinels may take to connect to one that
/// they have just made the master: else they can take it for down at once, and what it acknowledged meanwhile is lost with it.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
/// Half of how long it is before another election when the first came to nothing.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);
const START: Duration = Duration::from_secs(20);
