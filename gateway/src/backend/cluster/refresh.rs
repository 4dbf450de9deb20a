//! Asking the nodes who serves which slots: now and then, and at once when an answer or a lost connection says that what
//! is known is old.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::directory::{Directory, View};
use super::layout::{BadLayout, Layout, addresses};
use crate::backend::link::{Backoff, ConnectError, dial, exchange};
use crate::backend::node::Node;
use crate::resp::{Item, Reader, command};
use crate::target::Address;

/// Keeps the directory fresh, for as long as it is polled.
pub(super) async fn keep_fresh(directory: Arc<Directory>, seeds: Vec<Address>) {
    let (mut backoff, mut well) = (Backoff::default(), Instant::now());
    let mut logged = None;
    loop {
        let pause = if directory.is_well() {
            (backoff, well) = (Backoff::default(), Instant::now());
            PERIOD + Duration::from_millis(random(PERIOD.as_millis() as usize) as u64)
        } else if well.elapsed() < FAILOVER {
            backoff.next_delay().min(TROUBLED_PERIOD)
        } else {
            backoff.next_delay()
        };
        let _ = timeout(pause, directory.alarm.notified()).await;
        // Alarms come in crowds.
        sleep(CROWD).await;
        let problem = refresh(&directory, &seeds).await.is_err().then(|| directory.problem()).flatten();
        if let Some(problem) = problem.as_ref().filter(|problem| logged.as_ref() != Some(*problem)) {
            tracing::warn!(%problem, "no node tells of the cluster, trying again");
        }
        logged = problem;
    }
}

/// Asks one node after the other until one tells of a cluster that works; else the first that tells anything has to do.
/// The seeds are asked when no node can be. The errors are those of everyone who was asked in vain.
pub(super) async fn refresh(directory: &Directory, seeds: &[Address]) -> Result<(), Vec<Problem>> {
    directory.counters.refreshes.add(1);
    let map = directory.map();
    let mut nodes: Vec<_> =
        map.shards().iter().map(|shard| &shard.master).filter(|node| node.is_up()).collect();
    let turn = random(nodes.len());
    nodes.rotate_left(turn);
    let (mut fallback, mut problems) = (None, Vec::new());
    for node in nodes.into_iter().take(MOST_ASKED) {
        match timeout(PATIENCE, ask_node(node)).await.unwrap_or(Err(Problem::Connect(ConnectError::Silent))) {
            Ok(view) if view.state.as_deref().is_none_or(|state| state == "ok") => {
                directory.apply(view);
                return Ok(());
            }
            Ok(view) => fallback = fallback.or(Some(view)),
            Err(problem) => problems.push(problem),
        }
    }
    if fallback.is_none() {
        for seed in seeds {
            match timeout(PATIENCE, ask_seed(directory, seed))
                .await
                .unwrap_or(Err(Problem::Connect(ConnectError::Silent)))
            {
                Ok(view) => {
                    fallback = Some(view);
                    break;
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    match (fallback, problems.last()) {
        (Some(view), _) => {
            directory.apply(view);
            Ok(())
        }
        (None, problem) => {
            directory.cannot_refresh(&problem.map(ToString::to_string).unwrap_or_default());
            Err(problems)
        }
    }
}

/// Asks over the connection that commands use as well.
async fn ask_node(node: &Node) -> Result<View, Problem> {
    let connection = node.connection().map_err(|error| Problem::Connect((*error).clone()))?;
    let questions = questions();
    let (resp, count) = (questions.concat(), questions.len());
    let answer = connection.ask(resp.into(), count).await.map_err(|_| Problem::Lost)?;
    if answer.failure.is_some() {
        return Err(Problem::Lost);
    }
    let mut reader = Reader(&answer.replies);
    view(std::iter::from_fn(|| reader.reply()), node.address())
}

/// Asks over a connection of its own.
async fn ask_seed(directory: &Directory, seed: &Address) -> Result<View, Problem> {
    let mut stream = dial(seed, &directory.options).await?;
    let replies = exchange(&mut stream, &questions()).await?;
    view(replies.iter().map(Vec::as_slice), seed)
}

fn questions() -> [Vec<u8>; 3] {
    [command(&["CLUSTER", "SLOTS"]), command(&["CLUSTER", "NODES"]), command(&["CLUSTER", "INFO"])]
}

/// Only the first answer is needed: a user may be allowed to ask for no more.
fn view<'a>(mut answers: impl Iterator<Item = &'a [u8]>, asked: &Address) -> Result<View, Problem> {
    let layout = Layout::read(answers.next().unwrap_or_default(), asked)?;
    let addresses = addresses(answers.next().unwrap_or_default(), asked);
    let state = match Reader(answers.next().unwrap_or_default()).next() {
        Some(Item::Bulk(info)) => state(info),
        _ => None,
    };
    Ok(View { layout, addresses, state })
}

fn state(info: &[u8]) -> Option<String> {
    let mut lines = std::str::from_utf8(info).ok()?.lines();
    lines.find_map(|line| line.strip_prefix("cluster_state:")).map(str::to_owned)
}

/// Why a node did not tell.
#[derive(Debug)]
pub(super) enum Problem {
    Connect(ConnectError),
    Lost,
    Layout(BadLayout),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => fmt::Display::fmt(error, f),
            Self::Lost => f.write_str("the connection ended"),
            Self::Layout(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl From<ConnectError> for Problem {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<BadLayout> for Problem {
    fn from(error: BadLayout) -> Self {
        Self::Layout(error)
    }
}

/// Less than `bound`; without randomness always zero.
pub(super) fn random(bound: usize) -> usize {
    getrandom::u32().map_or(0, |random| random as usize % bound.max(1))
}

/// From one refresh to the next while all is well: this, and up to as much again.
const PERIOD: Duration = Duration::from_secs(10);

/// The most from one refresh to the next while a failover may be under way: it ends without a word to us.
const TROUBLED_PERIOD: Duration = Duration::from_millis(250);

/// How long a failover takes at most, with the usual settings. What is wrong for longer may stay so.
const FAILOVER: Duration = Duration::from_secs(30);

/// How long alarms are gathered; so there are at most this many refreshes.
const CROWD: Duration = Duration::from_millis(20);

/// How long a node may take to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nodes asked in one go.
const MOST_ASKED: usize = 4;
