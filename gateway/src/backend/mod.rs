//! The Redis behind the gateway: connections to its servers, and which commands go where.
//!
//! A wrong "it failed" makes a client repeat what has run; a wrong "it worked" loses a write. So nothing that may have
//! run is ever sent twice here, and an error says whether the command may have run.

mod cluster;
pub(crate) mod connection;
mod deadline;
mod fence;
mod link;
mod node;
mod replies;
mod sentinel;
mod status;
mod stream;
mod transaction;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::command::{Access, Batch, Route, Sending};
use crate::memory::Memory;
use crate::resp::command;
use crate::target::{Address, Place, Target};
use cluster::Cluster;
use deadline::Deadline;
use link::{ConnectError, Mode, Options};
use node::Node;
use sentinel::Sentinel;

pub(crate) use replies::{Each, Failure, Replies};
pub(crate) use status::{Count, Counters, Role, Status, TopologyStatus, Traffic};
pub(crate) use stream::{Stream, StreamEnd, StreamError, StreamKind};
pub(crate) use transaction::TransactionError;

/// One Redis, whatever its topology, as one token of one thread sees it. Dropping the last one closes its connections.
///
/// Tokens share the connections of a Redis: a command that changes a connection never comes here, a transaction is one piece of
/// what is written, and replies belong to requests by their order.
#[derive(Debug)]
pub(crate) struct Backend {
    redis: Arc<Redis>,
    traffic: Traffic,
}

#[derive(Debug)]
struct Redis {
    topology: Topology,
    /// How a connection is made to a server that commands go to.
    options: Options,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Topology {
    Single(Node),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl Backend {
    /// Connects, and keeps trying in the background when Redis is not there yet. Fails only for a Redis that will never
    /// do. `connections` are those to each server, `patience` bounds every request, `largest` the bytes of replies to one,
    /// `memory` those of replies to all.
    pub(crate) async fn start(
        target: &Target,
        connections: usize,
        patience: Duration,
        largest: usize,
        memory: Memory,
    ) -> anyhow::Result<Self> {
        let counters = Arc::new(Counters::default());
        let options = Options {
            credentials: Arc::clone(&target.credentials),
            tls: target.tls.clone(),
            patience,
            largest,
            memory,
            mode: match target.place {
                Place::Single(_) | Place::Sentinel(_) => Mode::Standalone,
                Place::Cluster(_) => Mode::Cluster,
            },
            role: match target.place {
                Place::Single(_) | Place::Cluster(_) => None,
                Place::Sentinel(_) => Some(Role::Master),
            },
            changed: Arc::new(Notify::new()),
            counters: Arc::clone(&counters),
        };
        let topology = match &target.place {
            Place::Single(address) => {
                Topology::Single(single(target, address.clone(), connections, &options).await?)
            }
            Place::Sentinel(sentinels) => {
                Topology::Sentinel(Sentinel::start(target, sentinels, connections, &options).await?)
            }
            Place::Cluster(seeds) => {
                Topology::Cluster(Cluster::start(target, seeds, connections, &options).await?)
            }
        };
        let redis = Arc::new(Redis { topology, options, counters });
        Ok(Self { redis, traffic: Traffic::default() })
    }

    /// The same Redis over the same connections, for another token.
    pub(crate) fn share(&self) -> Self {
        Self { redis: Arc::clone(&self.redis), traffic: Traffic::default() }
    }

    /// How often what there is to send is in memory at once, at most, until it is answered.
    pub(crate) fn copies(&self, batch: &Batch) -> usize {
        let is_split = |sending: &Sending| sending.info.is_some_and(|info| info.route == Route::MultiShard);
        match &self.redis.topology {
            // Commands are written again for each of several nodes, and what one node gets is put
            // together.
            Topology::Cluster(_) if batch.entries().len() > 1 || batch.sending().any(is_split) => 3,
            // Those with digests that turn out to be known by other ones are written again.
            _ if batch.calls_by_digest() => 2,
            _ => 1,
        }
    }

    /// Performs the commands that are to be sent, in order as far as they share keys.
    pub(crate) async fn run(&self, batch: &Batch) -> Replies {
        let count = batch.sending().count();
        if count == 0 {
            return Replies::default();
        }
        self.count(batch, count);
        let deadline = Deadline::within(self.redis.options.patience);
        let replies = match &self.redis.topology {
            Topology::Single(server) => match server.connection() {
                Ok(connection) => {
                    Replies::of(deadline.ask(&connection, batch.resp().clone(), count).await, count)
                }
                Err(error) => Replies::failed(Failure::because(error), count),
            },
            // Boxed, so that requests to a single server are small.
            Topology::Sentinel(sentinel) => Box::pin(sentinel.run(batch, count, deadline)).await,
            Topology::Cluster(cluster) => Box::pin(cluster.run(batch, count, deadline)).await,
        };
        self.traffic.bytes_received.add(replies.size());
        replies
    }

    /// Performs all of the commands as one transaction, or none. The replies are those inside the one to `EXEC`; an
    /// error text when Redis discarded the transaction.
    pub(crate) async fn transact(&self, batch: &Batch) -> Result<Replies, TransactionError> {
        let count = batch.sending().count();
        self.count(batch, count);
        let deadline = Deadline::within(self.redis.options.patience);
        let results = match &self.redis.topology {
            Topology::Single(server) => {
                let connection = server.connection().map_err(Failure::because)?;
                let answer = deadline.ask(&connection, transaction::resp(batch), count + 2).await;
                transaction::results(&Replies::of(answer, count + 2).all()?, count)
            }
            Topology::Sentinel(sentinel) => sentinel.transact(batch, count, deadline).await,
            Topology::Cluster(cluster) => cluster.transact(batch, count, deadline).await,
        }?;
        self.traffic.bytes_received.add(results.size());
        Ok(results)
    }

    /// Begins to listen to a channel, a pattern, or everything; a monitor has no name. The stream has a connection of its
    /// own, which ends when another server becomes the one to listen to.
    pub(crate) async fn stream(&self, kind: StreamKind, name: &[u8]) -> Result<Stream, StreamError> {
        match &self.redis.topology {
            Topology::Single(server) => {
                let never = Box::pin(std::future::pending());
                Stream::start(kind, name, server.address(), &self.redis.options, never).await
            }
            Topology::Sentinel(sentinel) => {
                let master = sentinel.master()?;
                let left = Box::pin(sentinel.replaced(Arc::clone(&master)));
                Stream::start(kind, name, master.address(), &self.redis.options, left).await
            }
            Topology::Cluster(_) if kind == StreamKind::Monitor => Err(StreamError::Refused(
                "ERR Command is not available: 'MONITOR': it shows one server, and this is a cluster".into(),
            )),
            Topology::Cluster(cluster) => {
                let node = cluster.listening_post(kind, name)?;
                let left = Box::pin(cluster.without(node.address().clone()));
                Stream::start(kind, name, node.address(), &self.redis.options, left).await
            }
        }
    }

    /// Asks Redis whether it is there, for at most `bound`.
    pub(crate) async fn ping(&self, bound: Duration) -> Result<Bytes, Failure> {
        let deadline = Deadline::within(bound.min(self.redis.options.patience));
        let answer = match &self.redis.topology {
            Topology::Single(server) => {
                let connection = server.connection().map_err(Failure::because)?;
                deadline.ask(&connection, command(&["PING"]).into(), 1).await
            }
            Topology::Sentinel(sentinel) => {
                let (_, answer) = sentinel.ask(command(&["PING"]).into(), 1, deadline).await?;
                answer
            }
            Topology::Cluster(cluster) => match cluster.down() {
                Some(failure) => return Err(failure),
                None => cluster.ask(command(&["PING"]).into(), 1, deadline).await?,
            },
        };
        Replies::of(answer, 1).all()
    }

    /// What can be told of the servers. It asks nobody.
    pub(crate) fn status(&self) -> Status {
        let (topology, nodes) = match &self.redis.topology {
            Topology::Single(server) => (TopologyStatus::Single, vec![server.status(Role::Master)]),
            Topology::Sentinel(sentinel) => sentinel.status(),
            Topology::Cluster(cluster) => cluster.status(),
        };
        Status { topology, nodes }
    }

    /// What was counted since the start.
    pub(crate) fn counters(&self) -> &Counters {
        &self.redis.counters
    }

    /// What was counted for this token.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn count(&self, batch: &Batch, count: usize) {
        self.traffic.commands.add(count);
        self.traffic.bytes_sent.add(batch.resp().len());
    }
}

async fn single(
    target: &Target,
    address: Address,
    connections: usize,
    options: &Options,
) -> anyhow::Result<Node> {
    let server = Node::open(address, connections, options);
    // Known before the first request comes: it finds a connection, or the reason why there is none.
    match server.attempted().await {
        Err(error) if matches!(*error, ConnectError::Mode { .. }) => bail!("cannot serve {target}: {error}"),
        _ => Ok(server),
    }
}

/// Whether a replica can answer a command. A cursor means something only to the server that gave it, and the next call
/// may come to another replica.
fn may_be_read_from_replica(sending: &Sending) -> bool {
    sending.info.is_some_and(|info| info.access == Access::Read && !info.name.ends_with("SCAN"))
}
