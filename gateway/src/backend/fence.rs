//! What stands behind the replies to a request whose number does not tell where they end.
//!
//! A fence is a command whose reply repeats a number that is drawn for it. Whatever a script or a client makes Redis write, it does not
//! hold a number that was not known when it ran. So the first place where the number stands is the reply to the fence.
//!
//! Usually that is an `ECHO`, which counts as nothing else than a command in Redis. But a Redis that runs a script for too long, or
//! may not do what it is asked to, answers it with an error that holds no number. Then the name of the command is the number: Redis says that it
//! does not know it, before it looks at anything else.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::Range;

use bytes::Bytes;

use crate::command::Info;
use crate::resp::{Item, Reader, command};

/// Draws the numbers of a connection.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// Whoever does not know their keys cannot tell the next number from all before it.
    secrets: [RandomState; 2],
    count: u64,
}

/// A command, and how its reply is known.
#[derive(Debug)]
pub(super) struct Fence {
    digits: String,
    is_unknown: bool,
}

impl Fences {
    /// The usual one.
    pub(super) fn after_replies(&mut self) -> Fence {
        self.count += 1;
        let [first, second] = [0, 1].map(|half| {
            self.secrets.get(half).map_or(0, |secret: &RandomState| secret.hash_one((self.count, half)))
        });
        Fence { digits: format!("{first:020}{second:020}"), is_unknown: false }
    }

    /// One that Redis answers in any state.
    pub(super) fn after_anything(&mut self) -> Fence {
        Fence { is_unknown: true, ..self.after_replies() }
    }
}

impl Fence {
    /// Its reply has no more bytes.
    pub(super) const LONGEST: usize = 128;

    /// What Redis is sent.
    pub(super) fn command(&self) -> Bytes {
        let words: &[&str] = if self.is_unknown { &[&self.digits] } else { &["ECHO", &self.digits] };
        command(words).into()
    }

    /// Whether it is one that Redis answers in any state.
    pub(super) fn ends_search(&self) -> bool {
        self.is_unknown
    }

    /// Where the first reply to it is, if all of it is there. It does not begin in the first `searched` bytes.
    pub(super) fn find(&self, received: &[u8], searched: usize) -> Option<Range<usize>> {
        let found = self.find_in(received.get(searched..)?)?;
        Some(found.start + searched..found.end + searched)
    }

    fn find_in(&self, received: &[u8]) -> Option<Range<usize>> {
        let digits = memchr::memmem::find(received, self.digits.as_bytes())?;
        let behind = digits + self.digits.len();
        let end = behind + memchr::memmem::find(received.get(behind..)?, b"\r\n")? + 2;
        // Its kind, and what else stands in front of the number on its line or the one before.
        let head = if self.is_unknown { b"-" } else { &b"$"[..] };
        let start = memchr::memmem::rfind(received.get(..digits)?, head)?;
        Some(start..end)
    }
}

/// Whether some of these commands may get an error with line breaks: what runs a script or takes in its text, and what is not known.
pub(super) fn needs_fence(resp: &[u8], commands: usize) -> bool {
    let mut reader = Reader(resp);
    for number in 0..commands {
        let Some(Item::Array(arguments)) = reader.next() else { return false };
        let Some(Item::Bulk(name)) = reader.next() else { return false };
        let is_script = || SCRIPTS.iter().any(|script| name.eq_ignore_ascii_case(script.as_bytes()));
        if Info::find(name).is_none() || is_script() {
            return true;
        }
        // Of a command alone, its arguments make no difference, and may be many.
        if number + 1 < commands {
            for _ in 1..arguments {
                reader.next();
            }
        }
    }
    false
}

const SCRIPTS: [&str; 8] =
    ["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "FUNCTION", "SCRIPT"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fences_are_alike_and_replies_to_them_are_found() {
        let mut fences = Fences::default();
        let [echo, other] = [fences.after_replies(), fences.after_replies()];
        assert_ne!(echo.digits, other.digits);
        let reply = format!("$40\r\n{}\r\n", echo.digits);
        let received = format!("-$x\r\n-y\r\n{reply}:1\r\n");
        assert_eq!(echo.find(received.as_bytes(), 3), Some(9..9 + reply.len()));
        assert_eq!(other.find(received.as_bytes(), 0), None);
        for end in 0..9 + reply.len() {
            assert_eq!(echo.find(&received.as_bytes()[..end], 0), None);
        }
        let unknown = fences.after_anything();
        let reply = format!("-ERR unknown command '{}', with args beginning with: \r\n", unknown.digits);
        assert!(reply.len() <= Fence::LONGEST);
        assert_eq!(unknown.find(format!("-BUSY x\r\n{reply}").as_bytes(), 0), Some(9..9 + reply.len()));
    }

    #[test]
    fn scripts_and_what_is_not_known_need_one() {
        let needs = |commands: &[&[&str]]| {
            let resp: Vec<u8> = commands.iter().flat_map(|words| command(words)).collect();
            needs_fence(&resp, commands.len())
        };
        assert!(!needs(&[&["GET", "EVAL"], &["set", "k", "*1\r\n$4\r\nEVAL\r\n"], &["MULTI"], &["EXEC"]]));
        for words in [&["eval", "return 1", "0"][..], &["Function", "LIST"], &["SCRIPT"], &["FT.SEARCH", "i"]]
        {
            assert!(needs(&[&["GET", "k"], words]), "{words:?}");
            assert!(needs(&[words]), "{words:?}");
        }
    }
}
