//! A real Redis Cluster of three masters with a replica each, made by the commands that redis-cli would send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use tokio::task::JoinSet;

use super::certificates::Certificates;
use super::{connect, follows, settled};
use crate::ports;
use crate::redis::{Build, Redis};

/// A running cluster. Nodes are called by their index: first the three masters that it begins with, then the
/// replica of each.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    redis: Redis,
    /// Where it speaks TLS, if it does.
    tls: Option<SocketAddr>,
    bus: u16,
    id: String,
}

impl Cluster {
    /// Starts six nodes and joins them; returns when all of them agree that all is well.
    pub async fn start(dir: &Path) -> Result<Cluster> {
        Cluster::join(start_nodes(dir, None).await?).await
    }

    /// The same with TLS, between the nodes too. Each node also listens without, for the test itself.
    pub async fn start_with_tls(dir: &Path, certificates: &Certificates) -> Result<Cluster> {
        Cluster::join(start_nodes(dir, Some(certificates)).await?).await
    }

    /// What a client is told: some of the nodes, or all of them.
    pub fn url(&self) -> String {
        let (scheme, addresses) = match self.nodes.iter().map(|node| node.tls).collect::<Option<Vec<_>>>() {
            Some(addresses) => ("rediss+cluster", addresses),
            None => ("redis+cluster", self.nodes.iter().map(|node| node.redis.address()).collect()),
        };
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        format!("{scheme}://{}", addresses.join(","))
    }

    /// A node.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index].redis
    }

    /// A node, to start it again.
    pub fn node_mut(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index].redis
    }

    /// Waits until every node that runs says that the cluster is well and every slot has a master that runs.
    pub async fn wait_until_well(&self, within: Duration) -> Result<()> {
        settled("the cluster is well", within, async || {
            for index in self.running() {
                let info: String = self.ask(index, cmd("CLUSTER").arg("INFO")).await?;
                if !info.contains("cluster_state:ok") {
                    return Ok(false);
                }
            }
            Ok(self.slots().await?.len() == usize::from(SLOTS))
        })
        .await
    }

    /// The master that serves a slot, as it says itself.
    pub async fn owner(&self, slot: u16) -> Result<usize> {
        self.slots().await?.get(&slot).copied().with_context(|| format!("nobody serves slot {slot}"))
    }

    /// The slot of each of these keys.
    pub async fn slots_of(&self, keys: &[String]) -> Result<Vec<u16>> {
        let anybody = self.running().next().context("no node runs")?;
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key);
        }
        Ok(pipeline.query_async(&mut self.connect(anybody).await?).await?)
    }

    /// The master of each of these keys.
    pub async fn owners_of(&self, keys: &[String]) -> Result<Vec<usize>> {
        let owners = self.slots().await?;
        let slots = self.slots_of(keys).await?;
        let owner =
            |slot: &u16| owners.get(slot).copied().with_context(|| format!("nobody serves slot {slot}"));
        slots.iter().map(owner).collect()
    }

    /// What these keys hold, asked of their masters.
    pub async fn read(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let owners = self.owners_of(keys).await?;
        let mut values = vec![None; keys.len()];
        for index in self.running() {
            let mine: Vec<usize> = (0..keys.len()).filter(|at| owners[*at] == index).collect();
            if mine.is_empty() {
                continue;
            }
            let mut pipeline = redis::pipe();
            for at in &mine {
                pipeline.get(&keys[*at]);
            }
            let found: Vec<Option<String>> = pipeline.query_async(&mut self.connect(index).await?).await?;
            mine.into_iter().zip(found).for_each(|(at, value)| values[at] = value);
        }
        Ok(values)
    }

    /// Moves slots with what is in them to another master, one after the other, while clients go on. Each stays
    /// between the two for `dwell` when its keys have moved. Returns how many keys moved.
    pub async fn move_slots(&self, slots: &[u16], to: usize, dwell: Duration) -> Result<usize> {
        let mut moved = 0;
        let owners = self.slots().await?;
        let masters: BTreeSet<usize> = owners.values().copied().collect();
        for &slot in slots {
            let from = *owners.get(&slot).with_context(|| format!("nobody serves slot {slot}"))?;
            ensure!(from != to, "{} serves slot {slot} already", self.node(to).name());
            let set = |state: &str, id: &str| {
                let mut set = cmd("CLUSTER");
                set.arg("SETSLOT").arg(slot).arg(state).arg(id);
                set
            };
            self.at(to, &set("IMPORTING", &self.nodes[from].id)).await?;
            self.at(from, &set("MIGRATING", &self.nodes[to].id)).await?;
            loop {
                let keys: Vec<String> =
                    self.ask(from, cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(50)).await?;
                if keys.is_empty() {
                    break;
                }
                moved += keys.len();
                let target = self.node(to).address();
                let mut migrate = cmd("MIGRATE");
                migrate.arg(target.ip().to_string()).arg(target.port()).arg("").arg(0).arg(5000);
                self.at(from, migrate.arg("KEYS").arg(&keys)).await?;
            }
            tokio::time::sleep(dwell).await;
            // The new master first: a slot without one would be worse than a slot with two names.
            self.at(to, &set("NODE", &self.nodes[to].id)).await?;
            for other in masters.iter().filter(|other| **other != to) {
                self.at(*other, &set("NODE", &self.nodes[to].id)).await?;
            }
        }
        Ok(moved)
    }

    async fn join(nodes: Vec<Node>) -> Result<Cluster> {
        let cluster = Cluster { nodes };
        cluster.introduce().await?;
        for (index, range) in SHARES.into_iter().enumerate() {
            let (first, last) = range.into_inner();
            cluster.at(index, cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last)).await?;
        }
        cluster.replicate().await?;
        cluster.wait_until_well(START).await?;
        Ok(cluster)
    }

    /// Tells everybody of everybody, which is faster than waiting for the word to spread.
    async fn introduce(&self) -> Result<()> {
        for index in 0..NODES {
            // Different ones, as long as nobody knows anybody: nodes that start alike must first settle who goes first.
            self.at(index, cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(index + 1)).await?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            for other in self.nodes.iter().filter(|other| other.id != node.id) {
                let address = other.tls.unwrap_or_else(|| other.redis.address());
                let mut meet = cmd("CLUSTER");
                meet.arg("MEET").arg(address.ip().to_string()).arg(address.port()).arg(other.bus);
                self.at(index, &meet).await?;
            }
        }
        settled("all nodes know each other", START, async || {
            for index in 0..NODES {
                let met = self.view(index).await?;
                if met.len() != NODES || met.iter().any(|member| member.flag("handshake")) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Makes the second half of the nodes replicas of the first.
    async fn replicate(&self) -> Result<()> {
        for index in MASTERS..NODES {
            let master = &self.nodes[index - MASTERS].id;
            self.at(index, cmd("CLUSTER").arg("REPLICATE").arg(master)).await?;
        }
        settled("every replica has its master", START, async || {
            for index in MASTERS..NODES {
                if !follows(self.node(index)).await? {
                    return Ok(false);
                }
            }
            for index in 0..NODES {
                let view = self.view(index).await?;
                if view.iter().filter(|member| member.flag("slave")).count() != NODES - MASTERS {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Which master serves each slot. Each master speaks for itself only; one that has ended serves nothing.
    async fn slots(&self) -> Result<BTreeMap<u16, usize>> {
        let mut owners = BTreeMap::new();
        for index in self.running() {
            let view = self.view(index).await?;
            let myself = view.into_iter().find(|member| member.flag("myself"));
            let myself =
                myself.with_context(|| format!("{} does not know itself", self.node(index).name()))?;
            if myself.flag("master") {
                owners.extend(myself.slots.into_iter().flatten().map(|slot| (slot, index)));
            }
        }
        Ok(owners)
    }

    /// The nodes that answer: those that have neither ended nor hang.
    fn running(&self) -> impl Iterator<Item = usize> {
        let runs = |node: &Redis| node.ended().is_none() && !node.is_suspended();
        (0..self.nodes.len()).filter(move |index| runs(self.node(*index)))
    }

    /// The members as one of them sees them.
    async fn view(&self, index: usize) -> Result<Vec<Member>> {
        let text: String = self.ask(index, cmd("CLUSTER").arg("NODES")).await?;
        text.lines().map(Member::parse).collect()
    }

    /// Sends a command to a node and expects no error.
    async fn at(&self, index: usize, command: &Cmd) -> Result<()> {
        self.ask::<redis::Value>(index, command).await.map(drop)
    }

    async fn ask<T: FromRedisValue>(&self, index: usize, command: &Cmd) -> Result<T> {
        let mut connection = self.connect(index).await?;
        let answer = command.query_async(&mut connection).await;
        answer.with_context(|| {
            let words: Vec<_> = String::from_utf8_lossy(&command.get_packed_command())
                .lines()
                .filter(|line| !line.starts_with(['*', '$']))
                .map(str::to_owned)
                .collect();
            format!("`{}` at {}", words.join(" "), self.node(index).name())
        })
    }

    async fn connect(&self, index: usize) -> Result<MultiplexedConnection> {
        connect(self.node(index).address()).await
    }
}

async fn start_nodes(dir: &Path, certificates: Option<&Certificates>) -> Result<Vec<Node>> {
    let mut starting = JoinSet::new();
    for index in 0..NODES {
        let (port, bus) = (ports::free()?, ports::free()?);
        let tls = certificates.map(|_| ports::free()).transpose()?;
        let name = format!("node-{index}");
        let mut more: Vec<String> = [
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", &format!("{name}.conf")],
            ["--cluster-node-timeout", &NODE_TIMEOUT.as_millis().to_string()],
            ["--cluster-port", &bus.to_string()],
            ["--repl-diskless-sync-delay", "0"],
        ]
        .as_flattened()
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect();
        if let Some((certificates, port)) = certificates.zip(tls) {
            more.extend(certificates.arguments(port, true));
            more.extend(["--tls-cluster", "yes", "--tls-replication", "yes"].map(str::to_owned));
        }
        let build = if tls.is_some() { Build::System } else { Build::Pinned };
        let dir = dir.to_path_buf();
        starting.spawn(async move {
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let redis = Redis::start_as(&name, build, &dir, port, &more).await?;
            let id = cmd("CLUSTER").arg("MYID").query_async(&mut connect(redis.address()).await?).await?;
            anyhow::Ok((index, Node { redis, tls: tls.map(ports::local), bus, id }))
        });
    }
    let mut nodes = BTreeMap::new();
    while let Some(started) = starting.join_next().await {
        nodes.extend([started??]);
    }
    Ok(nodes.into_values().collect())
}

/// A line of `CLUSTER NODES`.
#[derive(Debug)]
struct Member {
    flags: Vec<String>,
    slots: Vec<RangeInclusive<u16>>,
}

impl Member {
    fn parse(line: &str) -> Result<Member> {
        // The id, the address, flags, the master, when it was pinged, when it answered, its epoch, the link, slots.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, flags, _, _, _, _, _, slots @ ..] = &words[..] else { bail!("not a node: `{line}`") };
        // A slot on its way is in brackets, beside the range that it belongs to until it has arrived.
        let ranges = slots.iter().filter(|range| !range.starts_with('['));
        let range = |range: &&str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            anyhow::Ok(first.parse()?..=last.parse()?)
        };
        Ok(Member {
            flags: flags.split(',').map(str::to_owned).collect(),
            slots: ranges.map(range).collect::<Result<_>>()?,
        })
    }

    fn flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }
}

const MASTERS: usize = 3;
const NODES: usize = 6;
const SLOTS: u16 = 16_384;
const SHARES: [RangeInclusive<u16>; MASTERS] = [0..=5460, 5461..=10_922, 10_923..=16_383];

/// After which silence a node counts as gone. Shorter ones were seen to depose masters that were only kept waiting by
/// a busy machine.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the nodes may take to agree in the beginning.
const START: Duration = Duration::from_secs(20);
