//! What came of a batch: a reply for each command, or why there is none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Answer, Broken};
use super::link::ConnectError;
use crate::resp::Reader;

/// A reply or a failure for each command sent, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies(Vec<Part>);

/// Some replies that came together, or a failure that some commands share.
#[derive(Clone, Debug)]
enum Part {
    Came(Bytes, usize),
    Failed(Failure, usize),
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection is up, for this reason; nothing was sent.
    Unreachable(Arc<str>),
    /// The connection ended before the reply came.
    Lost,
    /// The reply did not come within this time.
    TimedOut(Duration),
    /// The replies together were larger than this many bytes.
    TooLarge(usize),
    /// There was no memory for the replies.
    NoMemory,
    /// Which reply is whose cannot be told.
    Unclear,
}

impl Replies {
    /// What came for a request of `asked` commands, and why there is no more.
    pub(super) fn of(answer: Answer, asked: usize) -> Self {
        let mut replies = Self::whole(answer.replies, answer.count);
        let failure = answer.failure.map_or(Failure::Lost, Failure::from);
        replies.push_failure(failure, asked.saturating_sub(answer.count));
        replies
    }

    /// `count` replies, one after the other.
    pub(crate) fn whole(replies: Bytes, count: usize) -> Self {
        let mut whole = Self::default();
        whole.push(replies, count);
        whole
    }

    /// The same failure for `count` commands.
    pub(crate) fn failed(failure: Failure, count: usize) -> Self {
        let mut failed = Self::default();
        failed.push_failure(failure, count);
        failed
    }

    /// Adds `count` replies, which lie one after the other.
    pub(crate) fn push(&mut self, replies: Bytes, count: usize) {
        if count > 0 {
            self.0.push(Part::Came(replies, count));
        }
    }

    /// Adds the same failure for `count` commands.
    pub(crate) fn push_failure(&mut self, failure: Failure, count: usize) {
        if count > 0 {
            self.0.push(Part::Failed(failure, count));
        }
    }

    /// Adds those for the commands that follow.
    pub(super) fn append(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }

    /// Puts others in these places, which ascend.
    pub(super) fn replace(&mut self, places: &[usize], others: &Self) {
        let (mut replaced, mut others) = (Self::default(), others.clone().each());
        for (place, reply) in std::mem::take(self).each().enumerate() {
            let other = if places.binary_search(&place).is_ok() { others.next() } else { None };
            match other.unwrap_or(reply) {
                Ok(reply) => replaced.push(reply, 1),
                Err(failure) => replaced.push_failure(failure, 1),
            }
        }
        *self = replaced;
    }

    /// Each reply, or why there is none.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<&[u8], &Failure>> {
        self.0.iter().flat_map(|part| {
            let (mut reader, failure, count) = match part {
                Part::Came(replies, count) => (Reader(replies), None, *count),
                Part::Failed(failure, count) => (Reader(&[]), Some(failure), *count),
            };
            (0..count).map(move |_| match failure {
                Some(failure) => Err(failure),
                None => Ok(reader.reply().unwrap_or_default()),
            })
        })
    }

    /// The same, as they are kept: a reply is a part of what came, and no copy.
    pub(crate) fn each(self) -> Each {
        Each { parts: self.0.into_iter(), part: None }
    }

    /// The bytes of all replies.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|part| if let Part::Came(replies, _) = part { replies.len() } else { 0 }).sum()
    }

    /// All replies, one after the other, or the first failure.
    pub(crate) fn all(self) -> Result<Bytes, Failure> {
        let mut all = Bytes::new();
        for part in self.0 {
            match part {
                Part::Came(replies, _) if all.is_empty() => all = replies,
                Part::Came(replies, _) => all = [all, replies].concat().into(),
                Part::Failed(failure, _) => return Err(failure),
            }
        }
        Ok(all)
    }

    /// The failure that all commands share, if none has a reply.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self.0.first()? {
            Part::Failed(failure, _) if self.0.iter().all(|part| matches!(part, Part::Failed(..))) => {
                Some(failure)
            }
            _ => None,
        }
    }
}

/// Each reply, or why there is none, in order.
#[derive(Debug)]
pub(crate) struct Each {
    parts: std::vec::IntoIter<Part>,
    /// What is left of the part at hand.
    part: Option<Part>,
}

impl Iterator for Each {
    type Item = Result<Bytes, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match &mut self.part {
                Some(Part::Came(replies, count @ 1..)) => {
                    *count -= 1;
                    let size = Reader(replies).reply().map_or(0, <[u8]>::len);
                    return Some(Ok(replies.split_to(size)));
                }
                Some(Part::Failed(failure, count @ 1..)) => {
                    *count -= 1;
                    return Some(Err(failure.clone()));
                }
                _ => self.part = Some(self.parts.next()?),
            }
        }
    }
}

impl Failure {
    /// No connection is up.
    pub(super) fn because(error: impl std::borrow::Borrow<ConnectError>) -> Self {
        Self::Unreachable(error.borrow().to_string().into())
    }

    /// The same for a command that other nodes have run their part of.
    pub(super) fn in_part(self) -> Self {
        match self {
            Self::Unreachable(reason) => {
                Self::Unreachable(format!("{reason}; the part of the command for other nodes has run").into())
            }
            may_have_run => may_have_run,
        }
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::NotSent => Self::Unreachable("the connection ended".into()),
            Broken::Lost => Self::Lost,
            Broken::Late(span) => Self::TimedOut(span),
            Broken::TooLarge(most) => Self::TooLarge(most),
            Broken::NoMemory => Self::NoMemory,
            Broken::Unclear => Self::Unclear,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => write!(f, "ERR redis is unreachable: {reason}"),
            Self::Lost => {
                f.write_str("ERR the connection to redis ended before the answer, what was sent may have run")
            }
            Self::TimedOut(span) => {
                write!(f, "ERR redis did not answer within {span:?}, what was sent may have run")
            }
            Self::TooLarge(most) => {
                write!(f, "ERR max response size exceeded: more than {most} bytes, what was sent has run")
            }
            Self::Unclear => f.write_str(
                "ERR the answers cannot be told from each other, because an error of a script among them has line breaks: what was sent \
                 may have run",
            ),
            Self::NoMemory => f.write_str(
                "ERR too much memory is taken by requests under way: the answer was thrown away, what was sent has run",
            ),
        }
    }
}
