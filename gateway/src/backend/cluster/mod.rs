//! A cluster: commands go to the nodes that hold their keys.
//!
//! ```text
//! request ─▶ plan ─▶ work ─▶ fold ─▶ replies          refresh ─▶ layout ─▶ directory
//!            parts   rounds  answers                  a task     CLUSTER    map, nodes
//! ```
//!
//! What differs from a single Redis: commands whose keys lie in several slots answer `CROSSSLOT`, but for those that can be
//! split (`MGET`, `MSET`, `DEL`, `UNLINK`, `EXISTS`, `TOUCH`), which are not atomic then. Commands that concern every node
//! (`DBSIZE`, `KEYS`, `FLUSHALL`, `SCRIPT LOAD`, …) are sent to all, and their answers put together. `INFO` and the like tell
//! of one node.

mod directory;
mod fold;
mod layout;
mod map;
mod plan;
mod redirect;
mod refresh;
mod scan;
mod slot;
mod work;

use std::sync::Arc;

use anyhow::bail;
use bytes::Bytes;
use tokio::task::AbortHandle;

use super::connection::Answer;
use super::deadline::Deadline;
use super::link::{ConnectError, Options};
use super::node::Node;
use super::replies::{Failure, Replies};
use super::status::{NodeStatus, TopologyStatus};
use super::stream::StreamKind;
use super::transaction::{self, TransactionError};
use crate::command::Batch;
use crate::resp::{Reader, command};
use crate::target::{Address, Target};
use directory::{Directory, Redirect};
use plan::Plan;
use redirect::Refusal;
use refresh::Problem;
use work::{Work, any_master, pause};

/// The nodes of a cluster, and what keeps track of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: Arc<Directory>,
    refresher: AbortHandle,
}

impl Cluster {
    /// Asks the seeds and connects to the nodes, and keeps trying in the background when that does not work yet. Fails only
    /// for servers that will never do.
    pub(crate) async fn start(
        target: &Target,
        seeds: &[Address],
        connections: usize,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let directory = Arc::new(Directory::new(options, target.read_from, connections));
        if let Err(problems) = refresh::refresh(&directory, seeds).await
            && let Some(Problem::Connect(error @ ConnectError::Mode { .. })) = problems.last()
            && problems.iter().all(|problem| matches!(problem, Problem::Connect(ConnectError::Mode { .. })))
        {
            bail!("cannot serve {target}: {error}");
        }
        // Known before the first request comes: it finds connections, or the reasons why there are none.
        for shard in directory.map().shards() {
            let _ = shard.master.attempted().await;
        }
        let refresher =
            tokio::spawn(refresh::keep_fresh(Arc::clone(&directory), seeds.to_vec())).abort_handle();
        Ok(Self { directory, refresher })
    }

    /// Performs the commands, in order as far as they share keys.
    pub(crate) async fn run(&self, batch: &Batch, count: usize, deadline: Deadline) -> Replies {
        let map = self.directory.map();
        if map.shards().is_empty() {
            return Replies::failed(self.unknown(), count);
        }
        let plan = Plan::new(batch, &map);
        Work::new(&self.directory, map, &plan, batch.resp(), deadline).done().await
    }

    /// Performs the commands as one transaction, on the node that holds their keys. One that was discarded because the slot
    /// is elsewhere did not run, and is sent there.
    pub(crate) async fn transact(
        &self,
        batch: &Batch,
        count: usize,
        deadline: Deadline,
    ) -> Result<Replies, TransactionError> {
        let slot = plan::slot_of_transaction(batch).map_err(TransactionError::Discarded)?;
        let plain = transaction::resp(batch);
        let (mut to, mut asking) = (None, false);
        for round in 0.. {
            let node = match to.take() {
                Some(node) => node,
                None => self.master_of(slot)?,
            };
            let connection = node.connection_by(deadline.at).await.map_err(Failure::because)?;
            let asked = if asking {
                let resp = [&command(&["ASKING"])[..], &plain].concat();
                self.answered(deadline.ask(&connection, resp.into(), count + 3).await, count + 3)?
            } else {
                self.answered(deadline.ask(&connection, plain.clone(), count + 2).await, count + 2)?
            };
            let replies = if asking { behind_first(&asked) } else { asked };
            let refusal = transaction::refusal(&replies, count);
            let refusal = refusal.and_then(|error| Refusal::read(error, node.address()));
            let (Some(refusal), Some(slot)) = (refusal, slot) else {
                return transaction::results(&replies, count);
            };
            let Some(pause) = pause(&refusal, round) else { return Err(given_up(&refusal, &replies, count)) };
            match self.directory.redirect(&refusal, slot, &node, asking, deadline).await {
                Redirect::Nowhere => return transaction::results(&replies, count),
                Redirect::Stranger => return Err(work::stranger().into()),
                Redirect::To { node, asking: ask } => (to, asking) = (node, ask),
            }
            if !deadline.pause(pause).await {
                return Err(given_up(&refusal, &replies, count));
            }
        }
        Err(work::moving().into())
    }

    /// Asks any master that is up.
    pub(crate) async fn ask(&self, resp: Bytes, count: usize, deadline: Deadline) -> Result<Answer, Failure> {
        let node = self.any_master()?;
        let connection = node.connection_by(deadline.at).await.map_err(Failure::because)?;
        Ok(deadline.ask(&connection, resp, count).await)
    }

    /// A master that is up, if there is one.
    pub(crate) fn any_master(&self) -> Result<Arc<Node>, Failure> {
        any_master(&self.directory.map()).ok_or_else(|| self.unknown())
    }

    /// A master to listen at. Each passes all messages on, but counts only those who listen at it as receivers: so a channel
    /// is listened to where `PUBLISH` goes.
    pub(crate) fn listening_post(&self, kind: StreamKind, name: &[u8]) -> Result<Arc<Node>, Failure> {
        let map = self.directory.map();
        match map.owner(slot::slot(name)) {
            Some((_, shard)) if kind == StreamKind::Subscribe && shard.master.is_up() => {
                Ok(Arc::clone(&shard.master))
            }
            _ => self.any_master(),
        }
    }

    /// Waits until there is no node at `address` any more.
    pub(crate) fn without(&self, address: Address) -> impl Future<Output = ()> + Send + use<> {
        let directory = Arc::clone(&self.directory);
        async move { directory.without(&address).await }
    }

    /// What the cluster says when it does not serve.
    pub(crate) fn down(&self) -> Option<Failure> {
        let state = self.directory.state().filter(|state| state != "ok")?;
        Some(Failure::Unreachable(format!("the state of the cluster is `{state}`").into()))
    }

    /// What can be told of the cluster and its nodes.
    pub(crate) fn status(&self) -> (TopologyStatus, Vec<NodeStatus>) {
        self.directory.status()
    }

    fn master_of(&self, slot: Option<u16>) -> Result<Arc<Node>, Failure> {
        let map = self.directory.map();
        match slot {
            _ if map.shards().is_empty() => Err(self.unknown()),
            None => self.any_master(),
            Some(slot) => match map.owner(slot) {
                Some((_, shard)) => Ok(Arc::clone(&shard.master)),
                None => Err(work::not_served(slot)),
            },
        }
    }

    fn answered(&self, answer: Answer, count: usize) -> Result<Bytes, Failure> {
        let answered = Replies::of(answer, count).all();
        if matches!(answered, Err(Failure::TimedOut(_))) {
            // Perhaps another node has taken over already.
            self.directory.alarm.notify_one();
        }
        answered
    }

    fn unknown(&self) -> Failure {
        self.directory.problem().map_or_else(work::nobody, Failure::Unreachable)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

/// The answer to a transaction that was refused too often.
fn given_up(refusal: &Refusal, replies: &Bytes, count: usize) -> TransactionError {
    let error = transaction::refusal(replies, count).unwrap_or_default();
    match refusal {
        Refusal::Moved(..) | Refusal::Ask(..) => work::moving().into(),
        Refusal::ClusterDown => work::down(error).into(),
        Refusal::TryAgain | Refusal::NotHere => {
            TransactionError::Discarded(String::from_utf8_lossy(error).into_owned())
        }
    }
}

fn behind_first(replies: &Bytes) -> Bytes {
    let mut reader = Reader(replies);
    reader.reply();
    replies.slice_ref(reader.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::{Instant, sleep, timeout};
    use tollgate_tests::run_dir;
    use tollgate_tests::topologies::cluster::Cluster as Nodes;

    use super::slot::slot;
    use crate::backend::{Backend, Role, StreamError, StreamKind, TopologyStatus};
    use crate::command::{Batch, Rules, parse_pipeline};
    use crate::memory::Memory;
    use crate::resp::{Item, Reader};
    use crate::target::{ReadFrom, Target, TargetOptions};

    async fn start(read_from: ReadFrom) -> (Nodes, Backend) {
        let nodes = Nodes::start(&run_dir::create().unwrap()).await.unwrap();
        let options = TargetOptions { read_from, ..TargetOptions::default() };
        let target = Target::parse(&nodes.url(), &options).unwrap();
        let backend =
            Backend::start(&target, 1, Duration::from_secs(5), 1 << 20, Memory::new(1 << 30)).await.unwrap();
        (nodes, backend)
    }

    fn batch(json: &str) -> Batch {
        parse_pipeline(json.as_bytes(), 1000, &Rules::default()).unwrap()
    }

    /// The strings in the answers.
    async fn run(backend: &Backend, json: &str) -> Vec<String> {
        // While servers die, some of it may fail.
        let replies = backend.run(&batch(json)).await.all().unwrap_or_default();
        let text = |item| match item {
            Item::Bulk(text) | Item::Integer(text) | Item::Status(text) | Item::Error(text) => {
                Some(String::from_utf8_lossy(text).into_owned())
            }
            Item::Nil | Item::Array(_) => None,
        };
        Reader(&replies).filter_map(text).collect()
    }

    /// The ports of the servers that run a script for the keys `0` to `29`, with `more` in front.
    async fn ports(backend: &Backend, more: &str) -> BTreeSet<u16> {
        let script = r#"return redis.call('INFO','server')"#;
        let scripts = (0..30).map(|key| format!(r#"["EVAL_RO","{script}","1","{key}"]"#));
        let answers = run(backend, &format!("[{more}{}]", scripts.collect::<Vec<_>>().join(","))).await;
        let lines = answers.iter().flat_map(|answer| answer.lines());
        lines.filter_map(|line| line.strip_prefix("tcp_port:")?.parse().ok()).collect()
    }

    async fn eventually(what: &str, mut question: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !question().await {
            assert!(Instant::now() < deadline, "never: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn replicas_answer_what_only_reads_where_the_request_does_not_write() {
        let (nodes, backend) = start(ReadFrom::Replica).await;
        let port = |node: usize| nodes.node(node).address().port();
        let (masters, replicas) = (BTreeSet::from([0, 1, 2].map(port)), BTreeSet::from([3, 4, 5].map(port)));
        // Masters tell of replicas only after a while, and we ask them every few seconds.
        eventually("replicas answer", async || ports(&backend, "").await == replicas).await;
        let writes: String = (0..3).map(|key| format!(r#"["SET","{key}:x","1"],"#)).collect();
        let told: BTreeSet<_> =
            backend.status().nodes.into_iter().map(|node| (node.role, node.address.port, node.up)).collect();
        assert_eq!(
            told,
            masters
                .iter()
                .map(|port| (Role::Master, *port, 1))
                .chain(replicas.iter().map(|port| (Role::Replica, *port, 1)))
                .collect()
        );
        let written: BTreeSet<u16> = nodes
            .owners_of(&[0, 1, 2].map(|key| format!("{key}:x")))
            .await
            .unwrap()
            .into_iter()
            .map(port)
            .collect();
        let asked = ports(&backend, &writes).await;
        assert!(
            written.is_subset(&asked) && asked.intersection(&masters).eq(&written),
            "{asked:?} {written:?}"
        );
        assert_eq!(ports(&backend, r#"["FLUSHALL"],"#).await, masters);

        // They know the scripts that were loaded.
        let sha = run(&backend, r#"[["SCRIPT","LOAD","return KEYS[1]"]]"#).await.concat();
        let calls: Vec<_> = (0..30).map(|key| format!(r#"["EVALSHA_RO","{sha}","1","{key}"]"#)).collect();
        let answers = run(&backend, &format!("[{}]", calls.join(","))).await;
        assert_eq!(answers, (0..30).map(|key| key.to_string()).collect::<Vec<_>>());

        for replica in 3..6 {
            nodes.node(replica).kill().await;
        }
        eventually("masters answer when no replica is up", async || ports(&backend, "").await == masters)
            .await;
    }

    #[tokio::test]
    async fn a_script_cannot_send_us_to_a_stranger() {
        let (nodes, backend) = start(ReadFrom::Master).await;
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (slot, port) = (slot(b"k"), stranger.local_addr().unwrap().port());
        for code in ["MOVED", "ASK"] {
            let script = format!("return redis.error_reply('{code} {slot} 127.0.0.1:{port}')");
            let replies = backend.run(&batch(&format!(r#"[["EVAL","{script}","1","k"]]"#))).await;
            let failure = replies.failure().unwrap().to_string();
            assert!(failure.ends_with("a server that is no node of its cluster"), "{failure}");
        }
        assert!(timeout(Duration::from_millis(100), stranger.accept()).await.is_err());
        drop(nodes);
    }

    #[tokio::test]
    async fn the_nodes_are_told_and_listeners_are_counted() {
        let (nodes, backend) = start(ReadFrom::Master).await;
        let status = backend.status();
        let well = TopologyStatus::Cluster { state: Some("ok".into()), covered: 16384, problem: None };
        assert_eq!(status.topology, well);
        let masters = status.nodes.iter().filter(|node| node.role == Role::Master);
        let masters: BTreeSet<_> =
            masters.map(|node| (node.address.port, node.up, node.connections)).collect();
        assert_eq!(masters, [0, 1, 2].map(|node| (nodes.node(node).address().port(), 1, 1)).into());
        assert!(backend.ping(Duration::from_secs(1)).await.is_ok());

        let mut stream = backend.stream(StreamKind::Subscribe, b"news").await.unwrap();
        assert!(stream.next().await.unwrap().starts_with(b"*3\r\n$9\r\nsubscribe\r\n"));
        for _ in 0..10 {
            assert_eq!(run(&backend, r#"[["PUBLISH","news","one"]]"#).await, ["1"]);
            assert!(stream.next().await.unwrap().ends_with(b"$3\r\none\r\n"));
        }
        let refused = backend.stream(StreamKind::Monitor, b"").await.unwrap_err();
        assert!(matches!(&refused, StreamError::Refused(text) if text.contains("MONITOR")), "{refused}");
    }
}
