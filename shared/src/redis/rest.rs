//! The Upstash REST dialect, as far as operations need it: a pipeline of commands as JSON, and its answer.
//!
//! [`Pipeline`] carries the operations of several exchanges in one HTTP call, and splits the answer among them.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::script::plain;
use super::{Arguments, Clock, Reply, Script, read_reply, write_arguments};
use crate::answer::push_number;
use crate::key::Key;
use crate::store::{ErrorCode, Op, Outcome, StoreError};

/// What a store answered, operation by operation.
pub type Outcomes = Vec<Result<Outcome, StoreError>>;

/// The operations of several members as one call: a body to `POST` to `/pipeline`, and the answer split again.
///
/// ```text
/// new ─▶ body ─▶ (the host calls) ─▶ receive ─▶ Progress::Done ─▶ finish
///          ▲                            │
///          └──── Progress::Again ◀──────┘   once, with the text of scripts that the store did not know
/// ```
///
/// A script that the store does not know was not run, so sending it again charges nothing twice.
#[derive(Debug)]
pub struct Pipeline<M> {
    members: Vec<M>,
    /// What is known of each operation, members in order; `None` is still to be asked.
    outcomes: Vec<Option<Result<Outcome, StoreError>>>,
    by_text: bool,
}

/// Whether a [`Pipeline`] is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every operation has its outcome.
    Done,
    /// Send [`Pipeline::body`] once more.
    Again,
}

impl<M: AsRef<[Op]>> Pipeline<M> {
    /// A pipeline of all operations of `members`.
    pub fn new(members: Vec<M>) -> Self {
        let operations = members.iter().map(|member| member.as_ref().len()).sum();
        let mut outcomes = Vec::new();
        outcomes.resize_with(operations, || None);
        Self { members, outcomes, by_text: false }
    }

    /// Who shares the call.
    pub fn members(&self) -> &[M] {
        &self.members
    }

    /// The JSON to send: one command for each operation that has no outcome yet.
    pub fn body(&self, clock: Clock) -> String {
        let mut body = String::with_capacity(2 + 192 * self.outcomes.len());
        body.push('[');
        for (op, _) in self.operations().zip(&self.outcomes).filter(|(_, outcome)| outcome.is_none()) {
            if body.len() > 1 {
                body.push(',');
            }
            let mut command = JsonArray { to: &mut body, empty: true };
            command.open();
            match Script::of(op) {
                Some(script) => {
                    if self.by_text {
                        command.text("EVAL");
                        command.text(script.text);
                    } else {
                        command.plain("EVALSHA");
                        command.plain(script.sha1);
                    }
                    write_arguments(op, clock, &mut command);
                }
                None => {
                    command.plain(plain(op));
                    command.text(op.key().map_or("", Key::as_str));
                }
            }
            command.close();
        }
        body.push(']');
        body
    }

    /// Takes the answer in: its status, and its body.
    pub fn receive(&mut self, status: u16, body: &[u8]) -> Progress {
        match status {
            200 => {}
            // Proxies on the way, Envoy's own cluster among them, say it like this, and so does the gateway of its Redis.
            502 | 503 => return self.fail(&StoreError::Unreachable),
            408 | 504 => return self.fail(&StoreError::Timeout),
            status => return self.fail(&StoreError::Status(status)),
        }
        let asked = self.outcomes.iter().filter(|outcome| outcome.is_none()).count();
        // An answer of another length cannot be matched with what was asked.
        let replies = match serde_json::from_slice::<Vec<Element<'_>>>(body) {
            Ok(replies) if replies.len() == asked => replies,
            Ok(_) | Err(_) => return self.fail(&StoreError::Garbage),
        };
        let operations = self.members.iter().flat_map(|member| member.as_ref());
        let open = operations.zip(&mut self.outcomes).filter(|(_, outcome)| outcome.is_none());
        let mut progress = Progress::Done;
        for ((op, outcome), reply) in open.zip(replies) {
            *outcome = match (reply.result, reply.error) {
                (Reply::Missing | Reply::Null, Some(text)) => {
                    if text.starts_with("NOSCRIPT") && !self.by_text {
                        progress = Progress::Again;
                        None
                    } else {
                        Some(Err(StoreError::Refused(ErrorCode::of(&text))))
                    }
                }
                (reply, None) => Some(read_reply(op, &reply)),
                _ => Some(Err(StoreError::Garbage)),
            };
        }
        self.by_text = true;
        progress
    }

    /// Gives every operation without an outcome `error`.
    pub fn fail(&mut self, error: &StoreError) -> Progress {
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Err(error.clone()));
        }
        Progress::Done
    }

    /// Whether the call as a whole failed: nothing was answered, and this is why.
    pub fn failure(&self) -> Option<&StoreError> {
        let mut errors = self.outcomes.iter().map(|outcome| outcome.as_ref().and_then(|o| o.as_ref().err()));
        let first = errors.next().flatten()?;
        errors.all(|error| error.is_some()).then_some(first)
    }

    /// Every member with the outcomes of its operations.
    pub fn finish(self) -> impl Iterator<Item = (M, Outcomes)> {
        let mut outcomes = self.outcomes.into_iter().map(|known| known.unwrap_or(Err(StoreError::Garbage)));
        self.members.into_iter().map(move |member| {
            let own = outcomes.by_ref().take(member.as_ref().len()).collect();
            (member, own)
        })
    }

    fn operations(&self) -> impl Iterator<Item = &Op> {
        self.members.iter().flat_map(|member| member.as_ref())
    }
}

/// One element of a pipeline's answer.
#[derive(Deserialize)]
struct Element<'a> {
    #[serde(borrow, default)]
    result: Reply<'a>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

/// Commands answer with an integer, several, a text or nothing; anything else is no answer to any of ours.
impl<'de: 'a, 'a> Deserialize<'de> for Reply<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReplyVisitor)
    }
}

struct ReplyVisitor;

impl<'de> Visitor<'de> for ReplyVisitor {
    type Value = Reply<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, several, a text or null")
    }

    fn visit_unit<E>(self) -> Result<Reply<'de>, E> {
        Ok(Reply::Null)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Reply<'de>, E> {
        i64::try_from(number).map(Reply::Integer).map_err(E::custom)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Reply<'de>, E> {
        Ok(Reply::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Reply<'de>, E> {
        Ok(Reply::Text(Cow::Owned(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Reply<'de>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Reply::Integers)
    }
}

struct JsonArray<'a> {
    to: &'a mut String,
    empty: bool,
}

impl JsonArray<'_> {
    fn open(&mut self) {
        self.to.push('[');
    }

    fn close(&mut self) {
        self.to.push(']');
    }

    fn separate(&mut self) {
        if !self.empty {
            self.to.push(',');
        }
        self.empty = false;
    }
}

impl Arguments for JsonArray<'_> {
    fn plain(&mut self, text: &str) {
        self.separate();
        self.to.push('"');
        self.to.push_str(text);
        self.to.push('"');
    }

    fn text(&mut self, text: &str) {
        self.separate();
        self.to.push('"');
        let plain = |b: u8| b >= b' ' && b != b'"' && b != b'\\';
        // All of it, without a way out, is what compilers make vectors of.
        if text.bytes().fold(true, |so_far, byte| so_far & plain(byte)) {
            self.to.push_str(text);
        } else {
            for character in text.chars() {
                // Writing to a String does not fail.
                let _ = match character {
                    '"' | '\\' => write!(self.to, "\\{character}"),
                    '\n' => write!(self.to, "\\n"),
                    c if c < ' ' => write!(self.to, "\\u{:04x}", u32::from(c)),
                    c => write!(self.to, "{c}"),
                };
            }
        }
        self.to.push('"');
    }

    fn number(&mut self, number: u64) {
        self.separate();
        push_number(self.to, number);
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.separate();
        self.to.push('"');
        STANDARD.encode_string(bytes, self.to);
        self.to.push('"');
    }
}
