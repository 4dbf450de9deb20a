//! A plan being carried out: parts are sent, and those that did not run where they were sent are sent to where they belong.
//!
//! Within a stage everything is sent at once, one write for each node. What a node refuses to run, because the slot has
//! moved or is moving, goes to the node it names in the next round, and so on for a few rounds. Nothing else is ever sent
//! again. Two commands of a request that share a key run in the order of the request, whatever happens: a command that was
//! refused waits until those before it have run, and gets an error when one behind it ran already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::directory::{Directory, Redirect};
use super::fold::{Outcome, fold};
use super::map::{Map, Shard};
use super::plan::{Aim, Part, Plan, Recipe};
use super::redirect::Refusal;
use super::refresh::random;
use crate::backend::connection::{Answer, Broken, Connection, Pending};
use crate::backend::deadline::Deadline;
use crate::backend::link::ConnectError;
use crate::backend::node::Node;
use crate::backend::replies::{Failure, Replies};
use crate::resp::{Item, Reader, command};

/// A plan, and how far it has come.
#[derive(Debug)]
pub(super) struct Work<'a> {
    directory: &'a Directory,
    plan: &'a Plan,
    /// The commands of the request, from which parts are cut.
    resp: &'a Bytes,
    deadline: Deadline,
    /// The newest.
    map: Arc<Map>,
    outcomes: Vec<Option<Outcome>>,
    /// What was refused, and will be sent again.
    refused: BTreeMap<usize, Refused>,
    /// Who answers reads, for each shard.
    readers: Vec<Option<Arc<Node>>>,
}

/// A part that did not run.
#[derive(Debug)]
struct Refused {
    /// Why.
    refusal: Refusal,
    /// Where it is sent next; nothing for whoever serves its slot then.
    to: Option<Arc<Node>>,
    /// Whether `ASKING` has to be in front of it there.
    asking: bool,
    /// What becomes of it when it is not sent again.
    otherwise: Outcome,
}

/// What an answer means for the part that it answers.
#[derive(Debug)]
enum Verdict {
    Settled(Outcome),
    Refused(Refused),
}

/// Parts for one node, in order.
#[derive(Debug)]
struct Group {
    node: Arc<Node>,
    is_replica: bool,
    parts: Vec<Sent>,
}

/// A part in a group.
#[derive(Clone, Copy, Debug)]
struct Sent {
    place: usize,
    /// Whether `ASKING` is in front of it.
    asking: bool,
}

impl<'a> Work<'a> {
    /// Nothing is sent yet.
    pub(super) fn new(
        directory: &'a Directory,
        map: Arc<Map>,
        plan: &'a Plan,
        resp: &'a Bytes,
        deadline: Deadline,
    ) -> Self {
        let outcomes = plan.parts.iter().map(|_| None).collect();
        let (refused, readers) = (BTreeMap::new(), Vec::new());
        Self { directory, plan, resp, deadline, map, outcomes, refused, readers }
    }

    /// Carries the plan out.
    pub(super) async fn done(mut self) -> Replies {
        for stage in 0..self.plan.stages() {
            self.choose_readers();
            let parts = self.plan.parts.iter().enumerate().filter(|(_, part)| part.stage == stage);
            let parts: Vec<usize> = parts.map(|(place, _)| place).collect();
            let groups = self.groups(&parts);
            let mut answers = self.ask(&groups).await;
            if groups.len() == 1
                && self.plan.is_plain()
                && matches!(answers.as_slice(), [Ok(answer)] if !answer.has_error && answer.count == parts.len())
                && let Some(Ok(answer)) = answers.pop()
            {
                // The answers are those of the request, as they are.
                return Replies::of(answer, parts.len());
            }
            self.take(&groups, answers).await;
            self.send_again().await;
        }
        self.replies()
    }

    /// Sends what was refused, until nothing is or it has been tried often enough.
    async fn send_again(&mut self) {
        for round in 0.. {
            self.drop_overtaken();
            self.drop_where(|refused| pause(&refused.refusal, round).is_none());
            let Some(pause) =
                self.refused.values().filter_map(|refused| pause(&refused.refusal, round)).max()
            else {
                return;
            };
            if !self.deadline.pause(pause).await {
                return self.drop_where(|_| true);
            }
            self.map = self.directory.map();
            let parts = self.first_in_order();
            let groups = self.groups(&parts);
            let answers = self.ask(&groups).await;
            self.take(&groups, answers).await;
        }
    }

    /// A refused part that shares a key with one behind it which ran, or may have, must not run any more.
    fn drop_overtaken(&mut self) {
        let overtaken = |place: usize| {
            let part = self.plan.parts.get(place)?;
            let behind = self.plan.parts.iter().zip(&self.outcomes).skip(place + 1);
            let mut behind = behind.take_while(|(other, _)| other.stage == part.stage);
            behind.find(|(other, outcome)| may_have_run(outcome.as_ref()) && part.conflicts_with(other))
        };
        let overtaken: Vec<usize> =
            self.refused.keys().copied().filter(|place| overtaken(*place).is_some()).collect();
        for place in overtaken {
            self.refused.remove(&place);
            self.settle(place, Outcome::Came(Bytes::from_static(OVERTAKEN)));
        }
    }

    /// Gives these refused parts up.
    fn drop_where(&mut self, condition: impl Fn(&Refused) -> bool) {
        for (place, refused) in self.refused.extract_if(.., |_, refused| condition(refused)) {
            if let Some(outcome) = self.outcomes.get_mut(place) {
                *outcome = Some(refused.otherwise);
            }
        }
    }

    /// The refused parts that can be sent now: all but those that have to come behind one which goes elsewhere.
    fn first_in_order(&self) -> Vec<usize> {
        let (mut now, mut held): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for (place, refused) in &self.refused {
            let comes_behind =
                |other: &usize| match (self.plan.parts.get(*other), self.plan.parts.get(*place)) {
                    (Some(other), Some(part)) => other.conflicts_with(part),
                    _ => false,
                };
            let goes_elsewhere =
                |other: &&usize| self.refused.get(*other).is_some_and(|other| !other.goes_with(refused));
            if held.iter().any(comes_behind) || now.iter().filter(goes_elsewhere).any(comes_behind) {
                held.push(*place);
            } else {
                now.push(*place);
            }
        }
        now
    }

    /// Chooses a replica for each shard that the request does not write to.
    fn choose_readers(&mut self) {
        self.map = self.directory.map();
        if !self.directory.reads_replicas {
            return;
        }
        self.readers = self.map.shards().iter().map(|shard| any_that_is_up(&shard.replicas)).collect();
        for part in self.plan.parts.iter().filter(|part| !part.for_replica) {
            match &part.aim {
                Aim::Slot(slot) => {
                    let reader = self.map.owner(*slot).and_then(|(place, _)| self.readers.get_mut(place));
                    if let Some(reader) = reader {
                        *reader = None;
                    }
                }
                // What every node gets may write everything.
                Aim::Node(_) if !part.reads => self.readers.fill(None),
                Aim::Node(_) | Aim::Anyone => {}
            }
        }
    }

    /// Who gets which of these parts, each in order. A part that nobody can get is settled.
    fn groups(&mut self, parts: &[usize]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut for_anyone = Vec::new();
        for &place in parts {
            let Some(part) = self.plan.parts.get(place) else { continue };
            let refused = self.refused.remove(&place);
            let is_first_time = refused.is_none();
            if let Some(Refused { to: Some(node), asking, .. }) = refused {
                push(&mut groups, node, false, Sent { place, asking });
                continue;
            }
            let sent = Sent { place, asking: false };
            match &part.aim {
                Aim::Node(node) => push(&mut groups, Arc::clone(node), false, sent),
                Aim::Anyone => for_anyone.push(sent),
                Aim::Slot(slot) => match self.map.owner(*slot) {
                    Some((shard, Shard { master, .. })) => {
                        let reader = self.readers.get(shard).and_then(Option::as_ref);
                        match reader.filter(|_| part.for_replica && is_first_time) {
                            Some(replica) => push(&mut groups, Arc::clone(replica), true, sent),
                            None => push(&mut groups, Arc::clone(master), false, sent),
                        }
                    }
                    None => self.settle(place, Outcome::Failed(not_served(*slot))),
                },
            }
        }
        if !for_anyone.is_empty() {
            // Best somebody who is asked anyway.
            let busy = groups.iter().find(|group| !group.is_replica && group.node.is_up());
            match busy.map(|group| Arc::clone(&group.node)).or_else(|| any_master(&self.map)) {
                Some(node) => {
                    for_anyone.into_iter().for_each(|sent| push(&mut groups, Arc::clone(&node), false, sent));
                }
                None => {
                    for_anyone
                        .into_iter()
                        .for_each(|sent| self.settle(sent.place, Outcome::Failed(nobody())));
                }
            }
            groups.iter_mut().for_each(|group| group.parts.sort_by_key(|sent| sent.place));
        }
        groups
    }

    /// Sends each group in one write, and waits for the answers.
    async fn ask(&self, groups: &[Group]) -> Vec<Result<Answer, Failure>> {
        let mut asked: Vec<_> = groups
            .iter()
            .map(|group| group.node.connection().map(|connection| self.send(&connection, group)))
            .collect();
        // While those work, a node that was met just now can be connected to.
        for (group, asked) in groups.iter().zip(&mut asked) {
            if matches!(asked, Err(error) if **error == ConnectError::NotYet) {
                let connection = group.node.connection_by(self.deadline.at).await;
                *asked = connection.map(|connection| self.send(&connection, group));
            }
        }
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            answers.push(match asked {
                Ok(answer) => Ok(self.deadline.wait_for(answer).await),
                Err(error) => Err(Failure::because(error)),
            });
        }
        answers
    }

    fn send(&self, connection: &Connection, group: &Group) -> Pending {
        let parts = group.parts.iter().filter_map(|sent| Some((sent, self.plan.parts.get(sent.place)?)));
        let replies = group.parts.len() + group.parts.iter().filter(|sent| sent.asking).count();
        let lies_together = group.parts.len() == replies
            && parts.clone().all(|(_, part)| !part.range.is_empty())
            && parts
                .clone()
                .zip(parts.clone().skip(1))
                .all(|((_, one), (_, next))| one.range.end == next.range.start);
        let begin = parts.clone().next().map_or(0, |(_, part)| part.range.start);
        let end = parts.clone().next_back().map_or(0, |(_, part)| part.range.end);
        let resp = match group.parts.as_slice() {
            [Sent { asking: false, place }] => {
                self.plan.parts.get(*place).map(|part| part.resp.clone()).unwrap_or_default()
            }
            _ if lies_together && end <= self.resp.len() => self.resp.slice(begin..end),
            _ => {
                let asking = command(&["ASKING"]);
                let mut resp =
                    Vec::with_capacity(parts.clone().map(|(_, part)| part.resp.len() + asking.len()).sum());
                for (sent, part) in parts {
                    if sent.asking {
                        resp.extend_from_slice(&asking);
                    }
                    resp.extend_from_slice(&part.resp);
                }
                resp.into()
            }
        };
        connection.ask(resp, replies)
    }

    /// Hands the answers of the groups to their parts.
    async fn take(&mut self, groups: &[Group], answers: Vec<Result<Answer, Failure>>) {
        for (group, answer) in groups.iter().zip(answers) {
            let answer = match answer {
                Ok(answer) => answer,
                Err(failure) => {
                    for sent in &group.parts {
                        self.settle(sent.place, Outcome::Failed(failure.clone()));
                    }
                    continue;
                }
            };
            if matches!(answer.failure, Some(Broken::Late(_))) {
                // Perhaps another node has taken over already.
                self.directory.alarm.notify_one();
            }
            let mut reader = Reader(&answer.replies);
            for sent in &group.parts {
                if sent.asking {
                    reader.reply();
                }
                match self.verdict(group, *sent, reader.reply(), &answer).await {
                    Verdict::Settled(outcome) => self.settle(sent.place, outcome),
                    Verdict::Refused(refused) => _ = self.refused.insert(sent.place, refused),
                }
            }
        }
    }

    async fn verdict(&self, group: &Group, sent: Sent, reply: Option<&[u8]>, answer: &Answer) -> Verdict {
        let Some(reply) = reply else {
            let failure = answer.failure.map_or(Failure::Lost, Failure::from);
            let otherwise = Outcome::Failed(failure);
            return if group.is_replica && answer.failure == Some(Broken::NotSent) {
                Verdict::Refused(Refused { refusal: Refusal::NotHere, to: None, asking: false, otherwise })
            } else {
                Verdict::Settled(otherwise)
            };
        };
        let came = Outcome::Came(answer.replies.slice_ref(reply));
        let Some(Item::Error(error)) = Reader(reply).next() else { return Verdict::Settled(came) };
        if error.starts_with(b"READONLY ") {
            self.directory.alarm.notify_one();
        }
        // Only a command with keys can be refused for where they are.
        let Some(Part { aim: Aim::Slot(slot), .. }) = self.plan.parts.get(sent.place) else {
            return Verdict::Settled(came);
        };
        let Some(refusal) = Refusal::read(error, group.node.address()) else { return Verdict::Settled(came) };
        if refusal == Refusal::NotHere && !group.is_replica {
            return Verdict::Settled(came);
        }
        match self.directory.redirect(&refusal, *slot, &group.node, sent.asking, self.deadline).await {
            Redirect::Nowhere => Verdict::Settled(came),
            Redirect::Stranger => Verdict::Settled(Outcome::Failed(stranger())),
            Redirect::To { node, asking } => {
                let otherwise = match refusal {
                    Refusal::TryAgain | Refusal::NotHere => came,
                    Refusal::Moved(..) | Refusal::Ask(..) => Outcome::Failed(moving()),
                    Refusal::ClusterDown => Outcome::Failed(down(error)),
                };
                Verdict::Refused(Refused { refusal, to: node, asking, otherwise })
            }
        }
    }

    fn settle(&mut self, place: usize, outcome: Outcome) {
        if let Some(settled) = self.outcomes.get_mut(place) {
            *settled = Some(outcome);
        }
    }

    /// The answers to the commands, in order.
    fn replies(self) -> Replies {
        let size: usize = self.outcomes.iter().flatten().map(Outcome::size).sum();
        if size > self.directory.largest {
            return Replies::failed(Failure::TooLarge(self.directory.largest), self.plan.recipes.len());
        }
        let mut outcomes = self.outcomes;
        let mut take = |place: usize| {
            let outcome = outcomes.get_mut(place).and_then(Option::take);
            outcome.unwrap_or_else(|| Outcome::Failed(nobody()))
        };
        let mut replies = Replies::default();
        for recipe in &self.plan.recipes {
            let outcome = match recipe {
                Recipe::Given(reply) => Outcome::Came(reply.clone()),
                Recipe::Part(place) => take(*place),
                Recipe::Fold(range, how) => {
                    let parts: Vec<Outcome> = range.clone().map(&mut take).collect();
                    let only_reads = self.plan.parts.get(range.start).is_some_and(|part| part.reads);
                    match fold(how, &parts, only_reads, &self.map) {
                        // A copy of what came, which is counted as that was.
                        Ok(reply) => Outcome::Came(self.directory.options.memory.hold(reply)),
                        Err(failure) => Outcome::Failed(failure),
                    }
                }
            };
            match outcome {
                Outcome::Came(reply) => replies.push(reply, 1),
                Outcome::Failed(failure) => replies.push_failure(failure, 1),
            }
        }
        replies
    }
}

impl Refused {
    /// Whether both go to the same node, over the same connection.
    fn goes_with(&self, other: &Self) -> bool {
        match (&self.to, &other.to) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            // Whoever serves the slot; only parts of one slot are compared.
            (None, None) => true,
            _ => false,
        }
    }
}

fn push(groups: &mut Vec<Group>, node: Arc<Node>, is_replica: bool, sent: Sent) {
    match groups.iter_mut().find(|group| Arc::ptr_eq(&group.node, &node)) {
        Some(group) => group.parts.push(sent),
        None => groups.push(Group { node, is_replica, parts: vec![sent] }),
    }
}

/// How long to wait before a part that was refused so often is sent again; nothing when it is not. A node that is named by
/// another is asked at once; when they send us to and fro, they are about to agree.
pub(super) fn pause(refusal: &Refusal, round: u32) -> Option<Duration> {
    let doubled = |first: u64| Duration::from_millis(first << round.min(16));
    match refusal {
        Refusal::Moved(..) | Refusal::Ask(..) if round < 2 => Some(Duration::ZERO),
        Refusal::Moved(..) | Refusal::Ask(..) | Refusal::TryAgain => (round < 8).then(|| doubled(4)),
        // A failover takes longer than anybody should wait.
        Refusal::ClusterDown => (round < 2).then(|| doubled(50)),
        Refusal::NotHere => (round < 1).then_some(Duration::ZERO),
    }
}

/// A master that is up, if there is one.
pub(super) fn any_master(map: &Map) -> Option<Arc<Node>> {
    let masters: Vec<Arc<Node>> = map.shards().iter().map(|shard| Arc::clone(&shard.master)).collect();
    any_that_is_up(&masters).or_else(|| masters.first().cloned())
}

fn any_that_is_up(nodes: &[Arc<Node>]) -> Option<Arc<Node>> {
    let turn = random(nodes.len());
    nodes.iter().cycle().skip(turn).take(nodes.len()).find(|node| node.is_up()).cloned()
}

fn may_have_run(outcome: Option<&Outcome>) -> bool {
    match outcome {
        None | Some(Outcome::Failed(Failure::Unreachable(_))) => false,
        Some(Outcome::Failed(_)) => true,
        Some(Outcome::Came(reply)) => !reply.starts_with(b"-TRYAGAIN "),
    }
}

pub(super) fn nobody() -> Failure {
    Failure::Unreachable("no node of the cluster is known".into())
}

pub(super) fn not_served(slot: u16) -> Failure {
    Failure::Unreachable(format!("no node of the cluster serves slot {slot}").into())
}

pub(super) fn stranger() -> Failure {
    Failure::Unreachable("redis redirects to a server that is no node of its cluster".into())
}

pub(super) fn moving() -> Failure {
    Failure::Unreachable("the slot of the key is moving from node to node".into())
}

pub(super) fn down(error: &[u8]) -> Failure {
    Failure::Unreachable(String::from_utf8_lossy(error).into())
}

const OVERTAKEN: &[u8] =
    b"-TRYAGAIN the slot is moving, and a later command of this request for the same key ran already\r\n";
