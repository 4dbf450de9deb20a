//! One answer from those of several nodes.

use bytes::Bytes;

use super::map::Map;
use super::refresh::random;
use super::scan;
use crate::backend::replies::Failure;
use crate::resp::{Item, Reader};

/// What became of a part.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// This reply.
    Came(Bytes),
    /// Nothing, for this reason.
    Failed(Failure),
}

impl Outcome {
    /// How many bytes came.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Came(reply) => reply.len(),
            Self::Failed(_) => 0,
        }
    }
}

/// How answers become one. An error among them is the answer, unless it says otherwise here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// One array of values, each taken from the answer with this number, in order.
    Values(Vec<usize>),
    /// One array of everything.
    Concat,
    /// The first.
    AllSucceeded,
    /// The first that is no error.
    OneSucceeded,
    /// The sum of integers.
    Sum,
    /// The least integer.
    Least,
    /// For each element whether it is 1 everywhere.
    AllTrue,
    /// Any that is not nil.
    AnyValue,
    /// A page of `SCAN` from the master with this slot.
    Cursor(u16),
}

/// Makes one answer of all. `only_reads` says that a part that ran does no harm when the others did not.
pub(super) fn fold(how: &How, parts: &[Outcome], only_reads: bool, map: &Map) -> Result<Bytes, Failure> {
    let replies: Vec<&Bytes> = parts
        .iter()
        .filter_map(|part| match part {
            Outcome::Came(reply) => Some(reply),
            Outcome::Failed(_) => None,
        })
        .collect();
    let succeeded = |reply: &&Bytes| !is_error(reply);
    if *how == How::OneSucceeded
        && let Some(reply) = replies.iter().copied().find(succeeded)
    {
        return Ok(reply.clone());
    }
    if let Some(failure) = worst(parts) {
        let ran = replies.iter().any(succeeded);
        return Err(if ran && !only_reads { failure.in_part() } else { failure });
    }
    if let Some(error) = replies.iter().find(|reply| is_error(reply)) {
        return Ok(Bytes::clone(error));
    }
    let folded = match how {
        How::Values(order) => values(&replies, order),
        How::Concat => concat(&replies),
        How::AllSucceeded | How::OneSucceeded => {
            return Ok(replies.first().copied().cloned().unwrap_or_else(nonsense));
        }
        How::Sum => {
            integers(&replies).map(|integers| integer(integers.into_iter().fold(0, i64::saturating_add)))
        }
        How::Least => integers(&replies).and_then(|integers| integers.iter().min().copied().map(integer)),
        How::AllTrue => all_true(&replies),
        How::AnyValue => any_value(&replies),
        How::Cursor(slot) => replies.first().map(|reply| scan::end(reply, *slot, map)),
    };
    Ok(folded.map_or_else(nonsense, Bytes::from))
}

/// The failure that says most: that of a part which may have run.
fn worst(parts: &[Outcome]) -> Option<Failure> {
    let failures = parts.iter().filter_map(|part| match part {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Came(_) => None,
    });
    failures.max_by_key(|failure| !matches!(failure, Failure::Unreachable(_))).cloned()
}

fn values(replies: &[&Bytes], order: &[usize]) -> Option<Vec<u8>> {
    let mut readers: Vec<Reader<'_>> = replies.iter().map(|reply| Reader(reply)).collect();
    for reader in &mut readers {
        let Some(Item::Array(_)) = reader.next() else { return None };
    }
    let mut out = array(order.len());
    for place in order {
        out.extend_from_slice(readers.get_mut(*place)?.reply()?);
    }
    Some(out)
}

fn concat(replies: &[&Bytes]) -> Option<Vec<u8>> {
    let (mut count, mut body) = (0, Vec::new());
    for reply in replies {
        let mut reader = Reader(reply);
        let Some(Item::Array(elements)) = reader.next() else { return None };
        count += usize::try_from(elements).ok()?;
        body.extend_from_slice(reader.0);
    }
    let mut out = array(count);
    out.append(&mut body);
    Some(out)
}

fn integers(replies: &[&Bytes]) -> Option<Vec<i64>> {
    replies.iter().map(|reply| number(Reader(reply).next()?)).collect()
}

fn all_true(replies: &[&Bytes]) -> Option<Vec<u8>> {
    let mut all: Option<Vec<bool>> = None;
    for reply in replies {
        let mut reader = Reader(reply);
        let Some(Item::Array(_)) = reader.next() else { return None };
        let flags = reader.map(|item| number(item).map(|number| number == 1)).collect::<Option<Vec<_>>>()?;
        all = Some(match all {
            None => flags,
            Some(all) if all.len() == flags.len() => {
                all.iter().zip(&flags).map(|(one, other)| *one && *other).collect()
            }
            Some(_) => return None,
        });
    }
    let all = all?;
    let mut out = array(all.len());
    all.iter().for_each(|flag| out.extend_from_slice(if *flag { b":1\r\n" } else { b":0\r\n" }));
    Some(out)
}

fn any_value(replies: &[&Bytes]) -> Option<Vec<u8>> {
    let turn = random(replies.len());
    let in_turn = replies.iter().cycle().skip(turn).take(replies.len());
    let value = in_turn.clone().find(|reply| Reader(reply).next() != Some(Item::Nil)).or(replies.first());
    value.map(|reply| reply.to_vec())
}

fn number(item: Item<'_>) -> Option<i64> {
    match item {
        Item::Integer(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

fn integer(number: i64) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

fn array(count: usize) -> Vec<u8> {
    format!("*{count}\r\n").into_bytes()
}

fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

fn nonsense() -> Bytes {
    Bytes::from_static(b"-ERR the answers of the nodes do not fit together\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(how: &How, replies: &[&'static str]) -> String {
        let parts: Vec<_> =
            replies.iter().map(|reply| Outcome::Came(Bytes::from_static(reply.as_bytes()))).collect();
        let folded = fold(how, &parts, false, &Map::empty()).unwrap();
        String::from_utf8(folded.to_vec()).unwrap()
    }

    #[test]
    fn answers_become_one() {
        let array = "*2\r\n$1\r\na\r\n$-1\r\n";
        for (how, replies, expected) in [
            (How::Values(vec![1, 0, 0]), &[array, "*1\r\n:5\r\n"][..], "*3\r\n:5\r\n$1\r\na\r\n$-1\r\n"),
            (How::Concat, &[array, "*0\r\n", "*1\r\n:5\r\n"], "*3\r\n$1\r\na\r\n$-1\r\n:5\r\n"),
            (How::AllSucceeded, &["+OK\r\n", "+OK\r\n"], "+OK\r\n"),
            (How::AllSucceeded, &["+OK\r\n", "-OOM no\r\n"], "-OOM no\r\n"),
            (How::OneSucceeded, &["-NOTBUSY no\r\n", "+OK\r\n"], "+OK\r\n"),
            (How::OneSucceeded, &["-NOTBUSY no\r\n", "-NOTBUSY no\r\n"], "-NOTBUSY no\r\n"),
            (How::Sum, &[":1\r\n", ":20\r\n"], ":21\r\n"),
            (How::Least, &[":7\r\n", ":3\r\n"], ":3\r\n"),
            (How::AllTrue, &["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"], "*2\r\n:1\r\n:0\r\n"),
            (How::AnyValue, &["$-1\r\n", "$1\r\nk\r\n", "$-1\r\n"], "$1\r\nk\r\n"),
            (How::AnyValue, &["$-1\r\n", "$-1\r\n"], "$-1\r\n"),
        ] {
            assert_eq!(folded(&how, replies), expected, "{how:?}");
        }
    }

    #[test]
    fn answers_that_do_not_fit_are_an_error() {
        for (how, replies) in [
            (How::Values(vec![0, 0]), &["*1\r\n:1\r\n"][..]),
            (How::Values(vec![0]), &[":1\r\n"]),
            (How::Concat, &["+OK\r\n"]),
            (How::Sum, &["$1\r\n1\r\n"]),
            (How::AllTrue, &["*1\r\n:1\r\n", "*2\r\n:1\r\n:1\r\n"]),
            (How::AllSucceeded, &[]),
        ] {
            assert_eq!(
                folded(&how, replies),
                "-ERR the answers of the nodes do not fit together\r\n",
                "{how:?}"
            );
        }
    }

    #[test]
    fn a_failure_says_that_something_ran_if_it_did() {
        let ok = Outcome::Came(Bytes::from_static(b"+OK\r\n"));
        let down = Outcome::Failed(Failure::Unreachable("down".into()));
        let lost = Outcome::Failed(Failure::Lost);
        let map = Map::empty();
        let failed = |parts: &[Outcome], only_reads| {
            fold(&How::AllSucceeded, parts, only_reads, &map).unwrap_err().to_string()
        };
        let text = "ERR redis is unreachable: down; the part of the command for other nodes has run";
        assert_eq!(failed(&[ok.clone(), down.clone()], false), text);
        assert_eq!(failed(&[ok.clone(), down.clone()], true), "ERR redis is unreachable: down");
        assert_eq!(failed(&[down.clone(), down.clone()], false), "ERR redis is unreachable: down");
        assert!(failed(&[down, lost, ok], false).contains("may have run"));
    }
}
