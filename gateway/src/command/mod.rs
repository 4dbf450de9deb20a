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

use crate::memory::Grant;
use crate::resp::{Arguments, write_argument, write_command};
use script::Translated;

pub(crate) use info::{Access, Fold, Info, Route};
pub(crate) use json::{ParseError, parse_command, parse_pipeline};
pub(crate) use path::{TOKEN as TOKEN_PARAMETER, parse_path};
pub use rules::Rights;
pub(crate) use rules::{Rules, Stream};
pub(crate) use script::{Digest, Original, Scripts, parse as parse_digest};
pub(crate) use table::COMMANDS;

/// The commands of a request, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    resp: Bytes,
    entries: Vec<Entry>,
    changed: Vec<Original>,
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

    /// The scripts that were changed on the way and were not known before.
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
    /// The arguments of the command at hand: Redis wants to know their number first.
    arguments: Vec<u8>,
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
            arguments: Vec::with_capacity(USUAL_ARGUMENTS),
            count: 0,
        }
    }

    /// Adds an argument to the command at hand.
    pub(crate) fn argument(&mut self, argument: &[u8]) {
        write_argument(&mut self.arguments, argument);
        self.count += 1;
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
        let start = self.resp.len();
        write_command(&mut self.resp, self.count);
        self.resp.extend_from_slice(&self.arguments);
        self.arguments.clear();
        self.count = 0;
        let arguments = Arguments::of(self.resp.get(start..).unwrap_or_default());
        let info = Info::of(arguments.clone());
        let refusal =
            refusal::reason(arguments.clone(), info).or_else(|| self.rules.refusal(arguments.clone(), info));
        if let Some(reason) = refusal {
            self.resp.truncate(start);
            self.entries.push(Entry::Refused(reason));
            return;
        }
        if let Some(resp) = refusal::instead(arguments.clone(), info) {
            self.resp.truncate(start);
            self.resp.extend_from_slice(&resp);
            self.entries.push(Entry::Send(Sending { range: start..self.resp.len(), info, digest: None }));
            return;
        }
        let mut digest = None;
        if let Some(Translated { resp, changed, asked }) =
            info.and_then(|info| self.rules.scripts().carry_over(&arguments, info))
        {
            self.resp.truncate(start);
            self.resp.extend_from_slice(&resp);
            self.changed.extend(changed);
            digest = asked;
        }
        self.entries.push(Entry::Send(Sending { range: start..self.resp.len(), info, digest }));
    }

    /// All commands.
    pub(crate) fn build(self) -> Batch {
        Batch { resp: self.resp.into(), entries: self.entries, changed: self.changed }
    }
}

/// What an `EVALSHA` with a digest, two keys and a few numbers takes.
const USUAL_ARGUMENTS: usize = 256;
