//! What can be told of a backend: its servers and how they are, and what it has counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::target::Address;

/// A Redis and its servers at one moment, as one thread sees them.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// How the servers belong together.
    pub(crate) topology: TopologyStatus,
    /// The servers that are known: masters first.
    pub(crate) nodes: Vec<NodeStatus>,
}

/// How servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopologyStatus {
    /// There is one.
    Single,
    /// Sentinels say who is the master.
    Sentinel {
        /// What they call it.
        master: String,
        /// The one that answered last; nothing when none does.
        answering: Option<Address>,
        /// How many are known.
        known: usize,
        /// Why there is no answer, or no master.
        problem: Option<String>,
    },
    /// They share the slots of a cluster.
    Cluster {
        /// `ok` or `fail`, as the node that was asked last sees it; nothing when none could be asked.
        state: Option<String>,
        /// How many of the 16384 slots have a master.
        covered: usize,
        /// Why what is known may be old.
        problem: Option<String>,
    },
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    /// Where it is.
    pub(crate) address: Address,
    /// What it is used as.
    pub(crate) role: Role,
    /// How many connections to it are up.
    pub(crate) up: usize,
    /// How many there should be; zero for a replica that nothing is read from.
    pub(crate) connections: usize,
    /// How often a connection to it was lost and made again.
    pub(crate) reconnects: u64,
    /// Why a connection is down, or was when one was last.
    pub(crate) last_error: Option<String>,
}

/// What a server is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// It takes writes.
    Master,
    /// It follows a master.
    Replica,
}

/// What one token has counted since it began.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Commands sent to Redis, those that clients asked for.
    pub(crate) commands: Count,
    /// Bytes of them.
    pub(crate) bytes_sent: Count,
    /// Bytes of the replies to them.
    pub(crate) bytes_received: Count,
}

/// What one Redis has counted since it began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections made.
    pub(crate) connects: Count,
    /// Connections made where there had been one before.
    pub(crate) reconnects: Count,
    /// Attempts to connect that failed.
    pub(crate) connect_failures: Count,
    /// Connections that ended by themselves.
    pub(crate) lost: Count,
    /// Commands that another node of the cluster had to be asked: `MOVED` and `ASK`.
    pub(crate) redirects: Count,
    /// Commands sent again for another reason, which Redis had refused to run at that moment.
    pub(crate) retries: Count,
    /// How often the nodes of the cluster, or the sentinels, were asked for the topology.
    pub(crate) refreshes: Count,
    /// How often another server became the master.
    pub(crate) failovers: Count,
}

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }
}

impl NodeStatus {
    /// A replica that there are no connections to.
    pub(super) fn unread(address: &Address) -> Self {
        Self {
            address: address.clone(),
            role: Role::Replica,
            up: 0,
            connections: 0,
            reconnects: 0,
            last_error: None,
        }
    }
}

impl Role {
    /// In one word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Replica => "replica",
        }
    }
}
