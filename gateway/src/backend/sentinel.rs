//! A master that sentinels watch over, and its replicas.
//!
//! A task asks a sentinel who the master is, four times a second, and at once when something looks like a failover: a
//! connection ended, or a server refused a write because it is a replica. When the answer is another server that says
//! itself that it is a master, the connections to the old one are dropped. A sentinel that is cut off may still name the
//! old master; so a master that works is only left for one that works, and while none does, another sentinel is asked
//! each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout, timeout_at};

use super::connection::{Answer, Broken};
use super::deadline::Deadline;
use super::link::{ConnectError, Mode, Options, dial, exchange};
use super::may_be_read_from_replica;
use super::node::Node;
use super::replies::{Failure, Replies};
use super::status::{Counters, NodeStatus, Role, TopologyStatus};
use super::transaction::{self, TransactionError};
use super::transport::Transport;
use crate::command::{Access, Batch};
use crate::resp::{Item, Reader, command};
use crate::target::{Address, ReadFrom, Sentinels, Target};

/// A master and its replicas, as sentinels name them.
#[derive(Debug)]
pub(crate) struct Sentinel {
    master: String,
    view: watch::Receiver<View>,
    alarm: Arc<Notify>,
    watcher: AbortHandle,
    counters: Arc<Counters>,
    /// Whose turn it is among the replicas.
    next: AtomicUsize,
}

/// What is known of the servers.
#[derive(Clone, Debug)]
struct View {
    master: Result<Arc<Node>, Arc<str>>,
    /// Those that can be read from; none when nothing is.
    replicas: Vec<Arc<Node>>,
    /// The sentinel that answered last.
    answering: Option<Address>,
    /// How many sentinels are known.
    known: usize,
    problem: Option<Arc<str>>,
}

impl Sentinel {
    /// Finds the master and connects to it, and keeps trying in the background when that does not work yet. `options`
    /// are for the master. Fails only for servers that will never do.
    pub(crate) async fn start(
        target: &Target,
        sentinels: &Sentinels,
        connections: usize,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let (alarm, counters) = (Arc::clone(&options.changed), Arc::clone(&options.counters));
        let (mut watcher, view) = Watcher::new(target, sentinels, connections, options);
        if watcher.look().await == Err(Hopeless) {
            bail!("cannot serve {target}: none of these is a sentinel, use `redis://` or `redis+cluster://`");
        }
        // Known before the first request comes: it finds a connection, or the reason why there is none.
        let master = view.borrow().master.clone();
        if let Ok(master) = master
            && let Err(error) = master.attempted().await
            && matches!(*error, ConnectError::Mode { .. })
        {
            bail!("cannot serve {target}: {error}");
        }
        let watcher = tokio::spawn(watcher.keep_looking()).abort_handle();
        let master = sentinels.master.clone();
        Ok(Self { master, view, alarm, watcher, counters, next: AtomicUsize::new(0) })
    }

    /// Performs the commands in order. What a server refused because it is a replica did not run: it is sent once more
    /// if a master appears in time, unless something behind it ran.
    pub(crate) async fn run(&self, batch: &Batch, count: usize, deadline: Deadline) -> Replies {
        if let Some(replies) = self.read(batch, count, deadline).await {
            return replies;
        }
        let (master, mut answer) = match self.ask(batch.resp().clone(), count, deadline).await {
            Ok(answered) => answered,
            Err(failure) => return Replies::failed(failure, count),
        };
        let refused = if answer.has_error { refused(batch, &answer) } else { 0 };
        if refused == 0 {
            return Replies::of(answer, count);
        }
        let Some(other) = self.other_than(&master, deadline).await else {
            return Replies::of(answer, count);
        };
        let Ok(connection) = other.connection_by(deadline.at).await else {
            return Replies::of(answer, count);
        };
        self.counters.retries.add(refused);
        let again = deadline.ask(&connection, last(batch, refused), refused).await;
        answer.count = count - refused;
        answer.replies = first(&answer.replies, answer.count);
        let mut replies = Replies::of(answer, count - refused);
        replies.append(Replies::of(again, refused));
        replies
    }

    /// Performs the commands as one transaction. One that was discarded because the server is a replica did not run.
    pub(crate) async fn transact(
        &self,
        batch: &Batch,
        count: usize,
        deadline: Deadline,
    ) -> Result<Replies, TransactionError> {
        let resp = transaction::resp(batch);
        let (master, answer) = self.ask(resp.clone(), count + 2, deadline).await?;
        let mut replies = Replies::of(answer, count + 2).all()?;
        if transaction::refusal(&replies, count).is_some_and(is_readonly)
            && let Some(other) = self.other_than(&master, deadline).await
            && let Ok(connection) = other.connection_by(deadline.at).await
        {
            self.counters.retries.add(count);
            let answer = deadline.ask(&connection, resp, count + 2).await;
            replies = Replies::of(answer, count + 2).all()?;
        }
        transaction::results(&replies, count)
    }

    /// Asks the master.
    pub(crate) async fn ask(
        &self,
        resp: Bytes,
        count: usize,
        deadline: Deadline,
    ) -> Result<(Arc<Node>, Answer), Failure> {
        let master = self.view.borrow().master.clone().map_err(Failure::Unreachable)?;
        let connection = master.connection_by(deadline.at).await.map_err(Failure::because)?;
        let answer = deadline.ask(&connection, resp, count).await;
        Ok((master, answer))
    }

    /// The master, which may not be up, and what ends when another takes its place.
    pub(crate) fn master(&self) -> Result<Arc<Node>, Failure> {
        self.view.borrow().master.clone().map_err(Failure::Unreachable)
    }

    /// Waits until `master` is not the master any more.
    pub(crate) fn replaced(&self, master: Arc<Node>) -> impl Future<Output = ()> + Send + use<> {
        let mut view = self.view.clone();
        async move {
            let replaced = |view: &View| !matches!(&view.master, Ok(node) if Arc::ptr_eq(node, &master));
            let _ = view.wait_for(replaced).await;
        }
    }

    /// What can be told of the sentinels and the servers.
    pub(crate) fn status(&self) -> (TopologyStatus, Vec<NodeStatus>) {
        let view = self.view.borrow().clone();
        let mut nodes: Vec<_> = view.master.iter().map(|master| master.status(Role::Master)).collect();
        nodes.extend(view.replicas.iter().map(|replica| replica.status(Role::Replica)));
        let problem = view.problem.or(view.master.err()).map(|problem| problem.to_string());
        let (master, answering, known) = (self.master.clone(), view.answering, view.known);
        (TopologyStatus::Sentinel { master, answering, known, problem }, nodes)
    }

    /// Performs the commands on a replica, if they only read and one is up; nothing when the master has to.
    async fn read(&self, batch: &Batch, count: usize, deadline: Deadline) -> Option<Replies> {
        let replicas = {
            let view = self.view.borrow();
            if view.replicas.is_empty() || !batch.sending().all(may_be_read_from_replica) {
                return None;
            }
            view.replicas.clone()
        };
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % replicas.len();
        let connection = replicas
            .iter()
            .cycle()
            .skip(turn)
            .take(replicas.len())
            .find_map(|replica| replica.connection().ok())?;
        let answer = deadline.ask(&connection, batch.resp().clone(), count).await;
        if answer.failure == Some(Broken::NotSent) {
            return None;
        }
        if !answer.has_error {
            return Some(Replies::of(answer, count));
        }
        let mut replies = Replies::of(answer, count);
        let refused: Vec<usize> = replies
            .iter()
            .enumerate()
            .filter(|(_, reply)| reply.is_ok_and(is_refused_by_replica))
            .map(|(place, _)| place)
            .collect();
        if !refused.is_empty() {
            // None of them writes, so they may come behind the others.
            let commands = batch.sending().enumerate().filter(|(place, _)| refused.contains(place));
            let resp: Vec<Bytes> = commands.map(|(_, sending)| batch.command(sending)).collect();
            if let Ok((_, answer)) = self.ask(resp.concat().into(), refused.len(), deadline).await {
                self.counters.retries.add(refused.len());
                replies.replace(&refused, &Replies::of(answer, refused.len()));
            }
        }
        Some(replies)
    }

    /// Waits for a master that is not `old`, as long as the command may take: other sentinels hear of a failover up to two
    /// seconds after the one that led it.
    async fn other_than(&self, old: &Arc<Node>, deadline: Deadline) -> Option<Arc<Node>> {
        self.alarm.notify_one();
        let mut view = self.view.clone();
        let other = |view: &View| matches!(&view.master, Ok(node) if !Arc::ptr_eq(node, old));
        let view = timeout_at(deadline.at, view.wait_for(other)).await.ok()?.ok()?;
        view.master.clone().ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// How many commands at the end a replica refused to run, if nothing among them ran. A script says the same in the middle
/// of its run, so it counts as one that ran.
fn refused(batch: &Batch, answer: &Answer) -> usize {
    if answer.failure.is_some() {
        return 0;
    }
    let mut reader = Reader(&answer.replies);
    let (mut refused, mut ran_behind) = (0, false);
    for sending in batch.sending() {
        let is_refused = matches!(reader.reply().and_then(|reply| Reader(reply).next()), Some(Item::Error(text)) if is_readonly(text))
            && sending.info.is_some_and(|info| info.access == Access::Write);
        if is_refused {
            refused += 1;
        } else if refused > 0 {
            ran_behind = true;
        }
    }
    if ran_behind { 0 } else { refused }
}

/// Whether a replica did not run a command that the master can: it has no data, or does not know the script.
fn is_refused_by_replica(reply: &[u8]) -> bool {
    matches!(Reader(reply).next(), Some(Item::Error(text))
        if [&b"LOADING "[..], b"MASTERDOWN ", b"NOSCRIPT "].iter().any(|code| text.starts_with(code)))
}

fn is_readonly(error: &[u8]) -> bool {
    error.starts_with(b"READONLY ")
}

/// The last `count` commands.
fn last(batch: &Batch, count: usize) -> Bytes {
    let all = batch.sending().count();
    let begin = batch.sending().nth(all.saturating_sub(count)).map_or(0, |sending| sending.range().start);
    batch.resp().slice(begin.min(batch.resp().len())..)
}

/// The first `count` replies.
fn first(replies: &Bytes, count: usize) -> Bytes {
    let mut reader = Reader(replies);
    for _ in 0..count {
        reader.reply();
    }
    replies.slice(..replies.len() - reader.0.len())
}

/// Asks the sentinels.
#[derive(Debug)]
struct Watcher {
    master: String,
    /// Those of the configuration first, then those that these know of.
    sentinels: Vec<Address>,
    /// Whose turn it is.
    turn: usize,
    session: Option<Transport>,
    /// Another master than the one in use, as a sentinel said.
    candidate: Option<Arc<Node>>,
    views: watch::Sender<View>,
    reads_replicas: bool,
    connections: usize,
    sentinel_options: Options,
    master_options: Options,
    replica_options: Options,
}

/// None of the configured addresses is one of a sentinel.
#[derive(Debug, PartialEq, Eq)]
struct Hopeless;

/// What a sentinel said.
#[derive(Debug, Default)]
struct Told {
    master: Option<Address>,
    replicas: Vec<Address>,
    sentinels: Vec<Address>,
}

impl Watcher {
    fn new(
        target: &Target,
        sentinels: &Sentinels,
        connections: usize,
        options: &Options,
    ) -> (Self, watch::Receiver<View>) {
        let (views, view) = watch::channel(View {
            master: Err("no sentinel was asked yet".into()),
            replicas: Vec::new(),
            answering: None,
            known: sentinels.addresses.len(),
            problem: None,
        });
        let watcher = Self {
            master: sentinels.master.clone(),
            sentinels: sentinels.addresses.clone(),
            turn: 0,
            session: None,
            candidate: None,
            views,
            reads_replicas: target.read_from == ReadFrom::Replica,
            connections,
            sentinel_options: Options {
                credentials: Arc::clone(&sentinels.credentials),
                mode: Mode::Sentinel,
                role: None,
                ..options.clone()
            },
            replica_options: Options { role: Some(Role::Replica), ..options.clone() },
            master_options: options.clone(),
        };
        (watcher, view)
    }

    async fn keep_looking(mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let is_up = matches!(&self.views.borrow().master, Ok(master) if master.is_up());
            if is_up {
                pause = SHORTEST_PAUSE;
            } else {
                // This sentinel does not help; perhaps the next one knows more.
                self.next_sentinel();
            }
            let alarm = Arc::clone(&self.master_options.changed);
            let _ = timeout(if is_up { POLL } else { pause }, alarm.notified()).await;
            if !is_up {
                pause = (pause * 2).min(POLL);
            }
            // Alarms come in crowds.
            sleep(CROWD).await;
            let _ = self.look().await;
        }
    }

    /// Asks who the master is, and does what follows.
    async fn look(&mut self) -> Result<(), Hopeless> {
        self.master_options.counters.refreshes.add(1);
        let told = match self.ask().await {
            Ok(told) => told,
            Err(problems) => {
                let hopeless = !problems.is_empty()
                    && problems
                        .iter()
                        .all(|problem| matches!(problem, Problem::Connect(ConnectError::Mode { .. })));
                let why: Arc<str> = match problems.last() {
                    Some(problem) => problem.to_string().into(),
                    None => "no sentinel is configured".into(),
                };
                self.views.send_modify(|view| {
                    if view.problem.as_ref() != Some(&why) {
                        tracing::warn!(master = %self.master, problem = %why, "no sentinel tells the master");
                    }
                    view.problem = Some(Arc::clone(&why));
                    view.answering = None;
                    if view.master.is_err() {
                        view.master = Err(why);
                    }
                });
                return if hopeless { Err(Hopeless) } else { Ok(()) };
            }
        };
        self.learn(told.sentinels);
        let (answering, known) = (self.sentinels.get(self.turn).cloned(), self.sentinels.len());
        self.views.send_if_modified(|view| {
            view.answering = answering;
            view.known = known;
            view.problem = None;
            false
        });
        if let Some(master) = told.master {
            self.consider(master);
        }
        if self.reads_replicas {
            self.take_replicas(&told.replicas);
        }
        Ok(())
    }

    /// Asks one sentinel after the other until one names the master.
    async fn ask(&mut self) -> Result<Told, Vec<Problem>> {
        let mut problems = Vec::new();
        for _ in 0..self.sentinels.len() {
            match timeout(SENTINEL_TIMEOUT, self.ask_this_one()).await {
                Ok(Ok(told)) => return Ok(told),
                Ok(Err(problem)) => problems.push(problem),
                Err(_) => problems.push(Problem::Connect(ConnectError::TimedOut)),
            }
            self.next_sentinel();
        }
        Err(problems)
    }

    async fn ask_this_one(&mut self) -> Result<Told, Problem> {
        let master = self.master.as_str();
        let mut questions = vec![command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master])];
        if self.reads_replicas {
            questions.push(command(&["SENTINEL", "REPLICAS", master]));
        }
        // Whatever happens, this stream is not used again unless all of its replies were read.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let Some(address) = self.sentinels.get(self.turn) else { return Err(Problem::UnknownMaster) };
                questions.push(command(&["SENTINEL", "SENTINELS", master]));
                dial(address, &self.sentinel_options).await?
            }
        };
        let replies = exchange(&mut session, &questions).await?;
        let mut replies = replies.iter();
        let mut told = Told { master: Some(address(replies.next())?), ..Told::default() };
        if self.reads_replicas {
            told.replicas = servers(replies.next(), is_usable);
        }
        told.sentinels = servers(replies.next(), |_| true);
        self.session = Some(session);
        Ok(told)
    }

    fn next_sentinel(&mut self) {
        if self.sentinels.len() > 1 || self.session.is_none() {
            self.session = None;
            self.turn = (self.turn + 1) % self.sentinels.len().max(1);
        }
    }

    fn learn(&mut self, sentinels: Vec<Address>) {
        for sentinel in sentinels {
            if self.sentinels.len() < MOST_SENTINELS && !self.sentinels.contains(&sentinel) {
                self.sentinels.push(sentinel);
            }
        }
    }

    /// Takes the server at `address` for the master, when that is no step back.
    fn consider(&mut self, address: Address) {
        let current = self.views.borrow().master.clone();
        if matches!(&current, Ok(master) if *master.address() == address) {
            self.candidate = None;
            return;
        }
        let candidate = match self.candidate.take() {
            Some(candidate) if *candidate.address() == address => candidate,
            _ => Arc::new(Node::open(address, self.connections, &self.master_options)),
        };
        if matches!(&current, Ok(master) if master.is_up()) && !candidate.is_up() {
            self.candidate = Some(candidate);
            return;
        }
        if let Ok(old) = &current {
            tracing::info!(master = %self.master, from = %old.address(), to = %candidate.address(), "failover");
            self.master_options.counters.failovers.add(1);
        } else {
            tracing::info!(master = %self.master, address = %candidate.address(), "found");
        }
        self.views.send_modify(|view| {
            view.master = Ok(candidate);
            // Whose replicas they are is not known yet.
            view.replicas.clear();
        });
    }

    /// Uses these replicas and no others.
    fn take_replicas(&mut self, addresses: &[Address]) {
        let view = self.views.borrow().clone();
        let is_known = |address: &Address| view.replicas.iter().any(|replica| replica.address() == address);
        if view.replicas.len() == addresses.len() && addresses.iter().all(is_known) {
            return;
        }
        let replicas = addresses.iter().take(MOST_REPLICAS).map(|address| {
            match view.replicas.iter().find(|replica| replica.address() == address) {
                Some(replica) => Arc::clone(replica),
                None => Arc::new(Node::open(address.clone(), self.connections, &self.replica_options)),
            }
        });
        let replicas = replicas.collect();
        self.views.send_modify(|view| view.replicas = replicas);
    }
}

/// Why a sentinel did not tell the master.
#[derive(Debug)]
enum Problem {
    Connect(ConnectError),
    UnknownMaster,
    Refused(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no sentinel answers: {error}"),
            Self::UnknownMaster => f.write_str("the sentinel knows no master of this name"),
            Self::Refused(text) => write!(f, "the sentinel refuses: {text}"),
        }
    }
}

impl From<ConnectError> for Problem {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

/// The address in an answer to `SENTINEL GET-MASTER-ADDR-BY-NAME`.
fn address(reply: Option<&Vec<u8>>) -> Result<Address, Problem> {
    let mut reader = Reader(reply.map(Vec::as_slice).unwrap_or_default());
    match reader.next() {
        Some(Item::Array(2)) => match (reader.next(), reader.next()) {
            (Some(Item::Bulk(host)), Some(Item::Bulk(port))) => host_and_port(host, port),
            _ => None,
        }
        .ok_or_else(|| Problem::Refused("it names no address".into())),
        Some(Item::Nil) => Err(Problem::UnknownMaster),
        Some(Item::Error(text)) => Err(Problem::Refused(String::from_utf8_lossy(text).into_owned())),
        _ => Err(Problem::Refused("it names no address".into())),
    }
}

/// The addresses in an answer to `SENTINEL REPLICAS` or `SENTINEL SENTINELS`: of those servers, each of them names and
/// values in turn, that will do.
fn servers(reply: Option<&Vec<u8>>, will_do: impl Fn(&[(&[u8], &[u8])]) -> bool) -> Vec<Address> {
    let mut reader = Reader(reply.map(Vec::as_slice).unwrap_or_default());
    let mut found = Vec::new();
    let Some(Item::Array(_)) = reader.next() else { return found };
    while let Some(Item::Array(_)) = reader.clone().next() {
        let mut server = Reader(reader.reply().unwrap_or_default());
        server.next();
        let mut fields = Vec::new();
        while let (Some(Item::Bulk(name)), Some(Item::Bulk(value))) = (server.next(), server.next()) {
            fields.push((name, value));
        }
        let field = |name: &[u8]| fields.iter().find(|field| field.0 == name).map(|field| field.1);
        if let (Some(host), Some(port)) = (field(b"ip"), field(b"port"))
            && let Some(address) = host_and_port(host, port)
            && will_do(&fields)
        {
            found.push(address);
        }
    }
    found
}

/// Whether a replica is up and follows its master.
fn is_usable(fields: &[(&[u8], &[u8])]) -> bool {
    fields.iter().all(|(name, value)| match *name {
        b"flags" => !value
            .split(|byte| *byte == b',')
            .any(|flag| matches!(flag, b"s_down" | b"o_down" | b"disconnected" | b"master_down")),
        b"master-link-status" => *value == b"ok",
        _ => true,
    })
}

fn host_and_port(host: &[u8], port: &[u8]) -> Option<Address> {
    let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty())?;
    let port = std::str::from_utf8(port).ok()?.parse().ok().filter(|port| *port != 0)?;
    Some(Address { host: host.to_owned(), port })
}

/// From one question to the next while all is well. What is written to a former master in between is lost, if it does not
/// refuse it.
const POLL: Duration = Duration::from_millis(250);

/// The same while there is no master; it grows up to [`POLL`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// How long alarms are gathered.
const CROWD: Duration = Duration::from_millis(5);

/// How long a sentinel may take, connecting included.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

const MOST_SENTINELS: usize = 32;
const MOST_REPLICAS: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tollgate_tests::run_dir;
    use tollgate_tests::topologies::sentinel::Sentinel as Set;
    use tollgate_tests::topologies::settled;

    use super::*;
    use crate::backend::{Backend, Status, StreamEnd, StreamKind};
    use crate::command::{Rules, parse_pipeline};
    use crate::memory::Memory;
    use crate::target::TargetOptions;

    fn refused_of(commands: &str, replies: &str) -> usize {
        let batch = parse_pipeline(commands.as_bytes(), 10, &Rules::default()).unwrap();
        let replies = Bytes::copy_from_slice(replies.as_bytes());
        let count = batch.sending().count();
        refused(&batch, &Answer { replies, count, has_error: true, failure: None })
    }

    #[test]
    fn only_refused_writes_that_nothing_behind_them_overtook_are_sent_again() {
        let no = "-READONLY You can't write against a read only replica.\r\n";
        let commands = r#"[["GET","a"],["SET","a","1"],["INCR","b"]]"#;
        assert_eq!(refused_of(commands, &format!("+1\r\n{no}{no}")), 2);
        assert_eq!(refused_of(commands, &format!("+1\r\n+OK\r\n{no}")), 1);
        assert_eq!(refused_of(commands, &format!("+1\r\n{no}:1\r\n")), 0);
        assert_eq!(refused_of(r#"[["SET","a","1"],["GET","a"]]"#, &format!("{no}+1\r\n")), 0);
        assert_eq!(refused_of(r#"[["EVAL","return 1","0"]]"#, no), 0);
        assert_eq!(refused_of(r#"[["UNHEARDOF","a"]]"#, no), 0);
    }

    /// The strings in the answers.
    async fn run(backend: &Backend, json: &str) -> Vec<String> {
        let batch = parse_pipeline(json.as_bytes(), 10, &Rules::default()).unwrap();
        let replies = backend.run(&batch).await.all().unwrap();
        let text = |item| match item {
            Item::Bulk(text) | Item::Integer(text) | Item::Status(text) | Item::Error(text) => {
                Some(String::from_utf8_lossy(text).into_owned())
            }
            Item::Nil | Item::Array(_) => None,
        };
        Reader(&replies).filter_map(text).collect()
    }

    #[tokio::test]
    async fn the_servers_are_told_and_listened_to_until_another_is_the_master() {
        let set = Set::start(&run_dir::create().unwrap()).await.unwrap();
        let options = TargetOptions { read_from: ReadFrom::Replica, ..TargetOptions::default() };
        let target = Target::parse(&set.url(), &options).unwrap();
        let backend =
            Backend::start(&target, 1, Duration::from_secs(5), 1 << 20, Memory::new(1 << 30)).await.unwrap();
        let port = |server: usize| set.server(server).address().port();
        let expected: BTreeSet<_> =
            [(Role::Master, port(0), 1), (Role::Replica, port(1), 1), (Role::Replica, port(2), 1)].into();
        settled("all are told", Duration::from_secs(20), async || {
            let Status { topology, nodes } = backend.status();
            let well = matches!(&topology, TopologyStatus::Sentinel { master, answering: Some(_), known: 3, problem: None } if master == "main");
            let nodes: BTreeSet<_> = nodes.iter().map(|node| (node.role, node.address.port, node.up)).collect();
            Ok(well && nodes == expected)
        })
        .await
        .unwrap();

        // A script that only the master knows is run there.
        let digest = run(&backend, r#"[["SCRIPT","LOAD","return KEYS[1]"]]"#).await.concat();
        let answers =
            run(&backend, &format!(r#"[["EXISTS","k"],["EVALSHA_RO","{digest}","1","k"],["EXISTS","k"]]"#))
                .await;
        assert_eq!(answers, ["0", "k", "0"]);

        let mut stream = backend.stream(StreamKind::Subscribe, b"news").await.unwrap();
        stream.next().await.unwrap();
        // It hangs, so that only the sentinels can say that it is not the master any more.
        set.server(0).suspend().unwrap();
        assert!(matches!(stream.next().await, Err(StreamEnd::Left)));
        assert!(
            backend
                .status()
                .nodes
                .iter()
                .all(|node| node.role == Role::Replica || node.address.port != port(0))
        );
        assert!(backend.counters().failovers.get() >= 1);
    }

    #[test]
    fn the_first_replies_and_the_last_commands_fit_together() {
        let batch =
            parse_pipeline(br#"[["GET","a"],["SET","a","1"],["INCR","b"]]"#, 10, &Rules::default()).unwrap();
        assert_eq!(last(&batch, 2), [command(&["SET", "a", "1"]), command(&["INCR", "b"])].concat());
        assert_eq!(first(&Bytes::from_static(b"*1\r\n:1\r\n+2\r\n+3\r\n"), 2), &b"*1\r\n:1\r\n+2\r\n"[..]);
    }

    #[test]
    fn addresses_are_read_from_what_sentinels_say() {
        let reply = command(&["10.0.0.1", "6379"]);
        assert_eq!(address(Some(&reply)).unwrap(), Address { host: "10.0.0.1".into(), port: 6379 });
        assert!(matches!(address(Some(&b"*-1\r\n".to_vec())), Err(Problem::UnknownMaster)));
        assert!(matches!(address(Some(&b"-IDONTKNOW x\r\n".to_vec())), Err(Problem::Refused(_))));
        assert!(address(None).is_err());

        let server = |port: &str, flags: &str, link: &str| {
            command(&["name", "x", "ip", "h", "port", port, "flags", flags, "master-link-status", link])
        };
        let reply = [
            b"*5\r\n".to_vec(),
            server("1", "slave", "ok"),
            server("2", "s_down,slave", "ok"),
            server("3", "slave,disconnected", "ok"),
            server("4", "slave", "err"),
            server("0", "slave", "ok"),
        ]
        .concat();
        let ports = |found: Vec<Address>| found.iter().map(|address| address.port).collect::<Vec<_>>();
        assert_eq!(ports(servers(Some(&reply), is_usable)), [1]);
        assert_eq!(ports(servers(Some(&reply), |_| true)), [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn whatever_a_sentinel_says_is_survived(bytes in "([*$:+-]|[0-9]{1,2}|ip|port|\r\n){0,40}") {
            let reply = bytes.into_bytes();
            let _ = address(Some(&reply));
            servers(Some(&reply), is_usable);
        }
    }
}
