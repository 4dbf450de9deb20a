//! What one thread knows of a cluster: the map, the connections to its nodes, and how old all that is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::layout::{Layout, MOST_NODES};
use super::map::{Map, Shard};
use super::redirect::Refusal;
use crate::backend::deadline::Deadline;
use crate::backend::link::Options;
use crate::backend::node::Node;
use crate::backend::status::{Counters, NodeStatus, Role, TopologyStatus};
use crate::target::{Address, ReadFrom};

/// The map and the nodes, shared by the requests and by what keeps it fresh.
#[derive(Debug)]
pub(super) struct Directory {
    known: Mutex<Known>,
    /// Told when what is known turns out to be old.
    pub(super) alarm: Arc<Notify>,
    pub(super) counters: Arc<Counters>,
    /// The most bytes of replies to one request.
    pub(super) largest: usize,
    pub(super) reads_replicas: bool,
    /// How connections to masters are made.
    pub(super) options: Options,
    replica_options: Options,
    connections: usize,
    refreshes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    map: Arc<Map>,
    nodes: BTreeMap<(Address, Role), Entry>,
    /// The addresses of all nodes, those without slots too. A command is redirected only to one of these: whoever may run
    /// a script can make up the error that redirects, and we would tell the password to anybody.
    addresses: BTreeSet<Address>,
    /// `ok` or `fail`, as the node says whose view this is.
    state: Option<String>,
    problem: Option<Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    /// Since when the map does not name it.
    left: Option<Instant>,
}

/// Where a command goes that a node refused.
#[derive(Debug)]
pub(super) enum Redirect {
    /// To this node, or to whoever serves its slot then.
    To {
        node: Option<Arc<Node>>,
        /// Whether `ASKING` has to be in front of it.
        asking: bool,
    },
    /// To a server that nobody else knows.
    Stranger,
    /// What looks like a refusal is the answer.
    Nowhere,
}

/// What a node says of its cluster.
#[derive(Debug)]
pub(super) struct View {
    pub(super) layout: Layout,
    pub(super) addresses: Vec<Address>,
    pub(super) state: Option<String>,
}

impl Directory {
    /// Knows nothing yet.
    pub(super) fn new(options: &Options, read_from: ReadFrom, connections: usize) -> Self {
        Self {
            known: Mutex::new(Known {
                map: Arc::new(Map::empty()),
                nodes: BTreeMap::new(),
                addresses: BTreeSet::new(),
                state: None,
                problem: None,
            }),
            alarm: Arc::clone(&options.changed),
            counters: Arc::clone(&options.counters),
            largest: options.largest,
            reads_replicas: read_from == ReadFrom::Replica,
            replica_options: Options { role: Some(Role::Replica), ..options.clone() },
            options: options.clone(),
            connections,
            refreshes: watch::Sender::new(0),
        }
    }

    /// Who serves what.
    pub(super) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.lock().map)
    }

    /// The node at `address` as a master, if that is a node of the cluster.
    fn node(&self, address: &Address) -> Option<Arc<Node>> {
        let mut known = self.lock();
        known.addresses.contains(address).then(|| self.open(&mut known, address, Role::Master))
    }

    /// The same; a node that is not known yet may be found by asking the cluster once more.
    async fn find(&self, address: &Address, until: Instant) -> Option<Arc<Node>> {
        let mut refreshes = self.refreshes.subscribe();
        // The refresh that is under way may have begun too early.
        for _ in 0..2 {
            if let Some(node) = self.node(address) {
                return Some(node);
            }
            refreshes.mark_unchanged();
            self.alarm.notify_one();
            timeout_at(until, refreshes.changed()).await.ok()?.ok()?;
        }
        self.node(address)
    }

    /// A node says that `master` serves `slot` now.
    fn moved(&self, slot: u16, master: &Arc<Node>) {
        let mut known = self.lock();
        if known.map.owner(slot).is_none_or(|(_, shard)| shard.master.address() != master.address()) {
            known.map = Arc::new(known.map.with(slot, Arc::clone(master)));
        }
        drop(known);
        self.alarm.notify_one();
    }

    /// Where a command for `slot` goes that `node` refused, and what is learned from that. `asking` says that `ASKING` was in
    /// front of it.
    pub(super) async fn redirect(
        &self,
        refusal: &Refusal,
        slot: u16,
        node: &Arc<Node>,
        asking: bool,
        deadline: Deadline,
    ) -> Redirect {
        match refusal {
            Refusal::Moved(other, _) | Refusal::Ask(other, _) if *other != slot => Redirect::Nowhere,
            Refusal::Moved(_, address) | Refusal::Ask(_, address) => {
                self.counters.redirects.add(1);
                let asking = matches!(refusal, Refusal::Ask(..));
                let Some(node) = self.find(address, deadline.at).await else { return Redirect::Stranger };
                if !asking {
                    self.moved(slot, &node);
                }
                Redirect::To { node: Some(node), asking }
            }
            Refusal::TryAgain => {
                self.counters.retries.add(1);
                Redirect::To { node: asking.then(|| Arc::clone(node)), asking }
            }
            Refusal::ClusterDown | Refusal::NotHere => {
                self.counters.retries.add(1);
                self.alarm.notify_one();
                Redirect::To { node: None, asking: false }
            }
        }
    }

    /// Takes over what a node says of the cluster.
    pub(super) fn apply(&self, view: View) {
        let mut known = self.lock();
        let mut map = Map::empty();
        known.addresses = view.addresses.into_iter().take(MOST_NODES).collect();
        for range in &view.layout.ranges {
            known.addresses.extend(range.replicas.iter().chain([&range.master]).cloned());
            let master = self.open(&mut known, &range.master, Role::Master);
            let replicas = if self.reads_replicas { range.replicas.as_slice() } else { &[] };
            let replicas = replicas.iter().map(|replica| self.open(&mut known, replica, Role::Replica));
            let (replicas, replica_addresses) = (replicas.collect(), range.replicas.clone());
            map.assign(range.first, range.last, Shard { master, replicas, replica_addresses });
        }
        known.state = view.state;
        known.problem = None;
        let now = Instant::now();
        let named: BTreeSet<_> = map
            .shards()
            .iter()
            .flat_map(|shard| {
                let replicas = shard.replicas.iter().map(|node| (node.address().clone(), Role::Replica));
                replicas.chain([(shard.master.address().clone(), Role::Master)])
            })
            .collect();
        known.nodes.retain(|key, entry| {
            entry.left = if named.contains(key) { None } else { Some(entry.left.unwrap_or(now)) };
            entry.left.is_none_or(|left| now.duration_since(left) < GRACE)
        });
        known.map = Arc::new(map);
        drop(known);
        self.refreshes.send_modify(|count| *count += 1);
    }

    /// Nobody could say anything of the cluster, for this reason.
    pub(super) fn cannot_refresh(&self, problem: &str) {
        self.lock().problem = Some(problem.into());
        self.refreshes.send_modify(|count| *count += 1);
    }

    /// Waits until there is no node at `address` any more.
    pub(super) async fn without(&self, address: &Address) {
        let mut refreshes = self.refreshes.subscribe();
        while self.lock().addresses.contains(address) && refreshes.changed().await.is_ok() {}
    }

    /// Why nothing is known, or may be old.
    pub(super) fn problem(&self) -> Option<Arc<str>> {
        self.lock().problem.clone()
    }

    /// The state of the cluster, as it was told last.
    pub(super) fn state(&self) -> Option<String> {
        self.lock().state.clone()
    }

    /// Whether nothing is wrong with the cluster as far as it is known.
    pub(super) fn is_well(&self) -> bool {
        let known = self.lock();
        known.problem.is_none()
            && known.state.as_deref().is_none_or(|state| state == "ok")
            && !known.map.shards().is_empty()
            && known.map.shards().iter().all(|shard| shard.master.is_up())
    }

    /// What can be told of the cluster and its nodes.
    pub(super) fn status(&self) -> (TopologyStatus, Vec<NodeStatus>) {
        let known = self.lock();
        let (state, covered) = (known.state.clone(), known.map.covered());
        let problem = known.problem.as_ref().map(ToString::to_string);
        let shards = known.map.shards();
        let mut nodes: Vec<_> = shards.iter().map(|shard| shard.master.status(Role::Master)).collect();
        for shard in shards {
            nodes.extend(shard.replica_addresses.iter().map(|address| {
                let read = shard.replicas.iter().find(|replica| replica.address() == address);
                read.map_or_else(|| NodeStatus::unread(address), |replica| replica.status(Role::Replica))
            }));
        }
        (TopologyStatus::Cluster { state, covered, problem }, nodes)
    }

    fn open(&self, known: &mut Known, address: &Address, role: Role) -> Arc<Node> {
        let options = match role {
            Role::Master => &self.options,
            Role::Replica => &self.replica_options,
        };
        let entry = known.nodes.entry((address.clone(), role)).or_insert_with(|| Entry {
            node: Arc::new(Node::open(address.clone(), self.connections, options)),
            // Until the map names it.
            left: Some(Instant::now()),
        });
        Arc::clone(&entry.node)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here can be left half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long connections to a node are kept that the map does not name any more: views of the cluster differ for a while.
const GRACE: Duration = Duration::from_secs(30);
