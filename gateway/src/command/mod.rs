//! Commands on their way to Redis.
//!
//! A request becomes a [`Batch`]: its commands in the form Redis is sent, one after the other in one buffer, and for each
//! what is known of it. Commands that may not be sent keep their place with the error that answers them.

mod danger;
mod info;
mod json;
mod path;
mod refusal;
mod rules;
mod script;
mod table;

use std::ops::Range;

use bytes::Bytes;

use crate::memory::{FREE, Grant};
use crate::resp::{Arguments, write_argument_of, write_command};
use script::Carried;

pub(crate) use info::{Access, Fold, Info, Route};
pub(crate) use json::{ParseError, parse_command, parse_pipeline};
pub(crate) use path::{TOKEN as TOKEN_PARAMETER, parse_path};
pub use rules::Rights;
pub(crate) use rules::{Rules, Stream};
use script::Scripts;
pub(crate) use script::{Digest, Original, parse as parse_digest};
pub(crate) use table::COMMANDS;

/// The commands of a request, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    resp: Bytes,
    entries: Vec<Entry>,
    changed: Vec<Original>,
    /// Bytes of all that is not in `resp`.
    besides: usize,
}

/// A command of a request.
#[derive(Debug)]
pub(crate) enum Entry {
    /// To be sent.
    Send(Sending),
    /// Answered already, with this error.
    Refused(String),
}

/// A command that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    range: Range<usize>,
    /// What Redis says of it; nothing for a command of a module or of a later Redis.
    pub(crate) info: Option<&'static Info>,
    /// The digest that `SCRIPT LOAD` has to answer, which is that of the script as the client has it.
    pub(crate) digest: Option<Digest>,
}

impl Batch {
    /// Everything there is to send, command after command.
    pub(crate) fn resp(&self) -> &Bytes {
        &self.resp
    }

    /// The commands in the order of the request.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The commands that are to be sent.
    pub(crate) fn sending(&self) -> impl Iterator<Item = &Sending> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Send(sending) => Some(sending),
            Entry::Refused(_) => None,
        })
    }

    /// The first error among commands that are not to be sent.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Send(_) => None,
            Entry::Refused(error) => Some(error.as_str()),
        })
    }

    /// The scripts that were changed on the way and are to be kept.
    pub(crate) fn changed(&self) -> &[Original] {
        &self.changed
    }

    /// Whether a script is called by its digest.
    pub(crate) fn calls_by_digest(&self) -> bool {
        self.sending().any(Sending::calls_by_digest)
    }

    /// One command as it is sent.
    pub(crate) fn command(&self, sending: &Sending) -> Bytes {
        // The range was made for these bytes.
        if sending.range.end <= self.resp.len() {
            self.resp.slice(sending.range.clone())
        } else {
            Bytes::new()
        }
    }

    /// The bytes it takes, and those of its answers and of what is written to Redis besides, when
    /// what there is to send is there so many times.
    pub(crate) fn size(&self, copies: usize) -> usize {
        self.resp.len() * copies + self.besides
    }

    /// Counts what there is to send for as long as anybody has some of it.
    pub(crate) fn count_in(&mut self, grant: Grant) {
        self.resp = grant.hold(std::mem::take(&mut self.resp));
    }

    /// The commands in the order of the request, without what there was to send.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The arguments of a command, its name first.
    pub(crate) fn arguments(&self, sending: &Sending) -> Arguments<'_> {
        Arguments::of(self.resp.get(sending.range.clone()).unwrap_or_default())
    }
}

impl Sending {
    /// Where it is in everything there is to send.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Whether it calls a script by its digest.
    pub(crate) fn calls_by_digest(&self) -> bool {
        self.info.is_some_and(|info| matches!(info.name, "EVALSHA" | "EVALSHA_RO"))
    }
}

/// Makes a [`Batch`].
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    rules: &'a Rules,
    resp: Vec<u8>,
    entries: Vec<Entry>,
    changed: Vec<Original>,
    besides: usize,
    /// Where the command at hand begins, and how many arguments it has.
    start: usize,
    count: usize,
}

impl<'a> Builder<'a> {
    /// For a request of about this many bytes, from somebody to whom `rules` apply.
    pub(crate) fn new(capacity: usize, rules: &'a Rules) -> Self {
        Self {
            rules,
            resp: Vec::with_capacity(capacity + capacity / 4 + 32),
            entries: Vec::new(),
            changed: Vec::new(),
            besides: 0,
            start: 0,
            count: 0,
        }
    }

    /// Adds an argument to the command at hand.
    pub(crate) fn argument(&mut self, argument: &[u8]) {
        self.argument_of(argument.len(), |out| out.extend_from_slice(argument));
    }

    /// Adds an argument of `length` bytes, which are those that `write` writes.
    fn argument_of(&mut self, length: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.count == 0 {
            self.start = self.resp.len();
            // Redis wants to know their number first, which is known last.
            write_command(&mut self.resp, 0);
        }
        self.count += 1;
        if self.count <= MOST_ARGUMENTS {
            write_argument_of(&mut self.resp, length, write);
        }
    }

    /// How many arguments the command at hand has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many commands there are.
    pub(crate) fn commands(&self) -> usize {
        self.entries.len()
    }

    /// Ends the command at hand, which has a name.
    pub(crate) fn end_command(&mut self) {
        let (start, count) = (self.start, std::mem::take(&mut self.count));
        self.besides += PER_COMMAND;
        if count > MOST_ARGUMENTS {
            return self.refuse(format!("ERR a command may have no more than {MOST_ARGUMENTS} arguments"));
        }
        let digits = start + 1..start + 2;
        self.resp.splice(digits, itoa::Buffer::new().format(count).bytes());
        let arguments = Arguments::of(self.resp.get(start..).unwrap_or_default());
        let info = Info::of(arguments.clone());
        let refusal = refusal::reason(arguments.clone(), info)
            .or_else(|| self.rules.refusal(arguments.clone(), info))
            .or_else(|| self.rules.excess(arguments.clone(), info));
        if let Some(reason) = refusal {
            return self.refuse(reason);
        }
        if let Some(resp) = refusal::instead(arguments.clone(), info) {
            self.resp.truncate(start);
            self.resp.extend_from_slice(&resp);
            self.entries.push(Entry::Send(Sending { range: start..self.resp.len(), info, digest: None }));
            return;
        }
        let carried = info.map(|info| self.rules.scripts().carry_over(&mut self.resp, start, info));
        let Carried { changed, asked } = carried.unwrap_or_default();
        // It is kept by being written to Redis.
        let changed = changed.filter(|_| self.rules.may_write());
        self.besides += 2 * changed.as_ref().map_or(0, |script| script.text.len());
        self.changed.extend(changed);
        self.entries.push(Entry::Send(Sending { range: start..self.resp.len(), info, digest: asked }));
    }

    /// Answers the command at hand with this error.
    fn refuse(&mut self, reason: String) {
        self.resp.truncate(self.start);
        self.besides += 2 * reason.len();
        self.entries.push(Entry::Refused(reason));
    }

    /// All commands.
    pub(crate) fn build(self) -> Batch {
        let Self { mut resp, entries, changed, besides, .. } = self;
        if resp.capacity() - resp.len() > FREE {
            // Commands that are refused were in there as well.
            resp.shrink_to_fit();
        }
        Batch { resp: resp.into(), entries, changed, besides }
    }
}

/// The most bytes that become of a JSON body while it is read, besides its own: each argument has a
/// length in front of it in the form of Redis, and is looked at in its place; each command is
/// remembered. What stands in strings is neither.
pub(crate) fn growth(body: &[u8], most_commands: usize) -> usize {
    if body.len() <= FREE {
        return 0;
    }
    let (mut arguments, mut commands) = (0, 0);
    let mut rest = body;
    while !rest.is_empty() {
        let string = memchr::memchr(b'"', rest).unwrap_or(rest.len());
        let (between, begun) = rest.split_at_checked(string).unwrap_or_default();
        arguments += memchr::memchr_iter(b',', between).count();
        commands += memchr::memchr_iter(b'[', between).count();
        rest = after_string(begun);
    }
    let commands = commands.min(most_commands);
    arguments * PER_ARGUMENT + arguments.min(MOST_ARGUMENTS) * PER_ARGUMENT_OF_ONE + commands * PER_COMMAND
}

/// What is behind a string of JSON; nothing where it does not end.
fn after_string(text: &[u8]) -> &[u8] {
    let mut rest = text.get(1..).unwrap_or_default();
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let is_end = rest.get(at) == Some(&b'"');
        // What is escaped may be a quotation mark.
        rest = rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return rest;
        }
    }
    &[]
}

/// Arguments of one command: older versions of Redis end a connection for more.
const MOST_ARGUMENTS: usize = 1 << 20;

/// Bytes by which an argument, of two in JSON, is longer for Redis; and what is noted of each
/// argument of the command at hand.
const PER_ARGUMENT: usize = 6;
const PER_ARGUMENT_OF_ONE: usize = 24;

/// What is kept of a command and of its answer besides their bytes.
const PER_COMMAND: usize = 256;
