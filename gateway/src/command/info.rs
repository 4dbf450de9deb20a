//! What Redis says of its commands: whether they write, where their keys are, and what a cluster makes of them.
//!
//! [`COMMANDS`] is what Redis answers to `COMMAND`, written down by `cargo xtask commands`; a test compares it with the
//! Redis that is there. Names in it are in capitals and sorted. A command that is not in it comes from a module or a
//! later Redis: it is passed on, but not to a token whose rights are limited, and in a cluster its first argument is taken
//! for its key.

use std::ops::Range;

use super::table::COMMANDS;
use crate::resp::Arguments;

/// A command, or a subcommand such as `SCRIPT LOAD`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Info {
    /// The name in capitals; of a subcommand without its parent's.
    pub(crate) name: &'static str,
    /// What it does to data.
    pub(crate) access: Access,
    /// Whether it may make its connection wait.
    pub(crate) blocks: bool,
    /// Whether Redis counts it among those that can take a server down, or take it over.
    pub(crate) dangerous: bool,
    /// Where its keys are.
    pub(crate) keys: &'static [Keys],
    /// Which nodes of a cluster it goes to.
    pub(crate) route: Route,
    /// What becomes of several answers.
    pub(crate) fold: Fold,
    /// Its subcommands, sorted by name.
    pub(crate) subcommands: &'static [Self],
}

/// What a command does to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may change something.
    Write,
    /// It reads keys or the keyspace.
    Read,
    /// Anything else: scripts, messages, the server itself.
    Other,
}

/// Which nodes of a cluster a command goes to, as its `request_policy` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The one that holds its keys; any, if it has none.
    Keys,
    /// Each that holds some of its keys, with these.
    MultiShard,
    /// Every master.
    AllShards,
    /// Every node.
    AllNodes,
    /// `SCAN`: one master after the other.
    Special,
}

/// What becomes of several answers, as the command's `response_policy` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    /// One array: of values in the order of the keys, or of everything in any order.
    Join,
    /// Any of them, if all succeeded.
    AllSucceeded,
    /// One that succeeded, if there is one.
    OneSucceeded,
    /// The sum of integers.
    Sum,
    /// The least of integers.
    Least,
    /// Whether it is true on all nodes, for each element.
    AllTrue,
    /// As the command says.
    Special,
}

/// Where some keys of a command are; a command may have several of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Where to begin.
    pub(crate) begin: Begin,
    /// What to take from there.
    pub(crate) find: Find,
}

/// Where to begin looking for keys; the command's name is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At this argument.
    Index(usize),
    /// Behind this word, from this argument on, in whatever case and as often as it is there.
    Keyword(&'static str, usize),
    /// Nobody knows.
    Unknown,
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Find {
    /// Every `step`th up to `last`, which counts from the beginning, or from the command's end if it is negative; of
    /// what remains to the end only a `limit`th part, if that is 2 or more.
    Range {
        /// The last key.
        last: isize,
        /// From one key to the next.
        step: usize,
        /// The part of the arguments that are keys.
        limit: usize,
    },
    /// As many as the argument number `at` says, from `first` on, every `step`th.
    Count {
        /// Where the number is.
        at: usize,
        /// Where the first key is.
        first: usize,
        /// From one key to the next.
        step: usize,
    },
    /// Nobody knows.
    Unknown,
}

/// The keys of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which arguments they are.
    pub(crate) positions: Vec<usize>,
    /// Whether there are no others for sure. What Redis would refuse, such as a number of keys beyond the arguments, is
    /// not complete.
    pub(crate) complete: bool,
}

impl Info {
    /// The command of this name, which may be written in any case.
    pub(crate) fn find(name: &[u8]) -> Option<&'static Self> {
        find(COMMANDS, name)
    }

    /// The command, or the subcommand if it has some: what `arguments` call for.
    pub(crate) fn of(mut arguments: Arguments<'_>) -> Option<&'static Self> {
        let info = Self::find(arguments.next()?)?;
        if info.subcommands.is_empty() {
            return Some(info);
        }
        arguments.next().and_then(|name| find(info.subcommands, name))
    }

    /// As the table has it; its head says what the marks mean.
    pub(super) const fn new(
        name: &'static str,
        marks: &str,
        keys: &'static [Keys],
        route: Route,
        fold: Fold,
        subcommands: &'static [Self],
    ) -> Self {
        let mut info = Self {
            name,
            access: Access::Other,
            blocks: false,
            dangerous: false,
            keys,
            route,
            fold,
            subcommands,
        };
        let mut marks = marks.as_bytes();
        while let [mark, rest @ ..] = marks {
            match mark {
                b'w' => info.access = Access::Write,
                b'r' => info.access = Access::Read,
                b'b' => info.blocks = true,
                _ => info.dangerous = true,
            }
            marks = rest;
        }
        info
    }

    /// Where its key is, if it has one and no more, wherever it is used.
    pub(crate) fn only_key(&self) -> Option<usize> {
        match self.keys {
            [Keys { begin: Begin::Index(place), find: Find::Range { last: 0, .. } }] => Some(*place),
            _ => None,
        }
    }

    /// The positions of the keys among `arguments`, ascending for each place they may be at. It is every argument that Redis
    /// might take for a key: of a destination that is named twice Redis takes the last, and both are in here.
    pub(crate) fn keys(&self, arguments: &[&[u8]]) -> Found {
        let mut found = Found { positions: Vec::new(), complete: true };
        // The word `STREAMS` may also be the name of a group, of a consumer or of a stream.
        if matches!(self.name, "XREAD" | "XREADGROUP") {
            match streams(arguments) {
                Some(range) => found.positions.extend(range),
                None => found.complete = false,
            }
            return found;
        }
        for keys in self.keys {
            keys.add_to(&mut found, arguments);
        }
        found
    }
}

impl Keys {
    pub(super) const fn new(begin: Begin, find: Find) -> Self {
        Self { begin, find }
    }

    fn add_to(&self, found: &mut Found, arguments: &[&[u8]]) {
        match self.begin {
            Begin::Index(index) => self.add_from(index, found, arguments),
            Begin::Keyword(word, from) => {
                for place in from..arguments.len() {
                    if arguments.get(place).is_some_and(|argument| is_word(argument, word)) {
                        self.add_from(place + 1, found, arguments);
                    }
                }
            }
            Begin::Unknown => found.complete = false,
        }
    }

    /// Adds what is to be taken from `begin` on.
    fn add_from(&self, begin: usize, found: &mut Found, arguments: &[&[u8]]) {
        let all = arguments.len();
        match self.find {
            Find::Range { last, step, limit } => {
                let end = match usize::try_from(last) {
                    Ok(last) => begin.saturating_add(last).saturating_add(1),
                    Err(_) if limit >= 2 => begin + all.saturating_sub(begin) / limit,
                    Err(_) => (all + 1).saturating_sub(last.unsigned_abs()),
                };
                found.positions.extend((begin..end.min(all)).step_by(step.max(1)));
            }
            Find::Count { at, first, step } => {
                let (first, step) = (begin + first, step.max(1));
                let count = arguments.get(begin + at).and_then(|count| number(count));
                let end = count.and_then(|count| first.checked_add(count.checked_mul(step)?));
                found.complete &= end.is_some_and(|end| end <= all);
                found.positions.extend((first..end.unwrap_or(first).min(all)).step_by(step));
            }
            Find::Unknown => found.complete = false,
        }
    }
}

/// Where the options of `XREAD` or `XREADGROUP` end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamOptions {
    /// At `STREAMS`, which is this argument.
    Streams(usize),
    /// At `BLOCK`.
    Block,
    /// At one that is not known, and neither is how many values it has.
    Unknown,
    /// At the end of the command, where Redis finds a syntax error.
    Unfinished,
}

impl StreamOptions {
    /// Reads them as Redis does: they come in any order, and a value may be any word, such as
    /// `BLOCK` for the name of a group.
    pub(super) fn of<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut arguments = arguments.enumerate().skip(1);
        while let Some((place, option)) = arguments.next() {
            let is = |name: &str| is_word(option, name);
            if is("STREAMS") {
                return Self::Streams(place);
            }
            if is("BLOCK") {
                return Self::Block;
            }
            // `CLAIM` is there since Redis 8.4.
            let values = [("GROUP", 2), ("COUNT", 1), ("CLAIM", 1), ("NOACK", 0)];
            match values.into_iter().find(|(name, _)| is(name)) {
                Some((_, values)) => arguments.by_ref().take(values).for_each(drop),
                None => return Self::Unknown,
            }
        }
        Self::Unfinished
    }
}

/// Where the streams of `XREAD` and `XREADGROUP` are: the first half of what is behind the option `STREAMS`. Nothing where
/// Redis would find a syntax error.
fn streams(arguments: &[&[u8]]) -> Option<Range<usize>> {
    let StreamOptions::Streams(place) = StreamOptions::of(arguments.iter().copied()) else { return None };
    // Redis's own rights are about what follows the first `STREAMS`, in `XREADGROUP` the first one
    // behind the group's name. A value may have that name too. Where the two differ, nobody is to
    // rely on either.
    let from = if is_word(arguments.first()?, "XREADGROUP") { 4 } else { 1 };
    let is_first = |at: &usize| arguments.get(*at).is_some_and(|word| is_word(word, "STREAMS"));
    if (from..arguments.len()).find(is_first) != Some(place) {
        return None;
    }
    let begin = place + 1;
    let count = arguments.len().checked_sub(begin)?;
    (count > 0 && count.is_multiple_of(2)).then_some(begin..begin + count / 2)
}

/// Whether Redis takes an argument for this word. It compares them as C strings: in any case, and
/// only up to a NUL.
pub(super) fn is_word(argument: &[u8], word: &str) -> bool {
    let end = memchr::memchr(0, argument).unwrap_or(argument.len());
    argument.get(..end).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()))
}

/// A number of keys as Redis reads it: digits alone.
fn number(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn find(among: &'static [Info], name: &[u8]) -> Option<&'static Info> {
    let mut upper = [0; LONGEST_NAME];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    among.get(among.binary_search_by(|info| info.name.as_bytes().cmp(upper)).ok()?)
}

/// Longer than any name in the table.
const LONGEST_NAME: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command;

    fn found(words: &[&str]) -> Found {
        let arguments: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        Info::of(Arguments::of(&command(words))).unwrap().keys(&arguments)
    }

    #[test]
    fn names_are_sorted_and_found_in_any_case() {
        for commands in COMMANDS.iter().map(|info| info.subcommands).chain([COMMANDS]) {
            assert!(commands.is_sorted_by(|a, b| a.name < b.name));
            assert!(commands.iter().all(|info| info.name.len() < LONGEST_NAME));
        }
        assert_eq!(Info::find(b"gEt").unwrap().access, Access::Read);
        assert_eq!(Info::find(b"nothing"), None);
        assert_eq!(Info::find(&[b'x'; 1000]), None);
        assert_eq!(
            Info::of(Arguments::of(&command(&["script", "load", "x"]))).unwrap().route,
            Route::AllNodes
        );
        assert_eq!(Info::of(Arguments::of(&command(&["script", "x"]))), None);
        assert_eq!(Info::of(Arguments::of(&command(&["script"]))), None);
    }

    #[test]
    fn keys_are_where_redis_says() {
        for (words, expected) in [
            ("GET a", "a"),
            ("SET a 1 EX 5", "a"),
            ("DEL a b c", "a b c"),
            ("MSET a 1 b 2", "a b"),
            ("EVAL return 2 a b x y", "a b"),
            ("EVALSHA abc 0 x", ""),
            ("BITOP AND d a b", "d a b"),
            ("XREAD COUNT 2 STREAMS s t 0 0", "s t"),
            ("XREADGROUP GROUP g c STREAMS s t > >", "s t"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
            ("XREADGROUP GROUP g c CLAIM 1 STREAMS s >", "s"),
            ("XREADGROUP NOACK GROUP streams g STREAMS s >", "s"),
            ("xread count 1 streams streams STREAMS 0 0", "streams STREAMS"),
            ("GEORADIUS a 1 2 3 m STORE d", "a d"),
            ("GEORADIUS a 1 2 3 m STORE d store e Store", "a d e"),
            ("GEORADIUS a 1 2 3 m STORE d STOREDIST e", "a d e"),
            ("GEORADIUSBYMEMBER a b 3 m STORE STORE STORE d", "a STORE STORE d"),
            ("GEORADIUS a 1 2 3 m STORE\0x d store\0 e STOREx f", "a d e"),
            ("XREAD COUNT\0 2 streams\0x s 0", "s"),
            ("OBJECT ENCODING a", "a"),
            ("PING", ""),
            ("LMPOP 2 a b LEFT", "a b"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let found = found(&words);
            let keys: Vec<&str> = found.positions.iter().map(|position| words[*position]).collect();
            assert_eq!(keys.join(" "), expected, "{words:?}");
            assert!(found.complete, "{words:?}");
        }
        assert_eq!(Info::find(b"GET").unwrap().only_key(), Some(1));
        assert_eq!(Info::find(b"MGET").unwrap().only_key(), None);
        for (words, expected) in [
            ("SORT a BY x", "a"),
            ("EVAL return 99 a", "a"),
            ("EVAL return nonsense a", ""),
            ("EVAL return -1 a", ""),
            ("EVAL return +1 a", ""),
            ("EVAL return", ""),
            ("ZUNIONSTORE d 18446744073709551615 a", "d"),
            ("MIGRATE h 1 a 0 10", "a"),
            ("XREAD COUNT STREAMS s", ""),
            ("XREAD NOSUCH STREAMS s 0", ""),
            ("XREAD STREAMS s t 0", ""),
            ("XREAD STREAMS", ""),
            ("XREAD BLOCK 1 STREAMS s 0", ""),
            ("XREADGROUP NOACK STREAMS s t > >", ""),
            ("XREADGROUP GROUP g c CLAIM STREAMS STREAMS s >", ""),
            ("XREADGROUP NOACK GROUP streams streams STREAMS s >", ""),
            ("XREAD COUNT STREAMS STREAMS s 0", ""),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let found = found(&words);
            let keys: Vec<&str> = found.positions.iter().map(|position| words[*position]).collect();
            assert_eq!((keys.join(" ").as_str(), found.complete), (expected, false), "{words:?}");
        }
    }
}
