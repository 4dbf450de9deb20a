//! What the holder of a token may do.
//!
//! A wrong "yes" lets a token read or change what is not its own; a wrong "no" is an error that names the command. So what is
//! not known is refused: a command that is not in the table, and a key that cannot be found among the arguments.
//!
//! These rules are checked here, before Redis sees the command. They are no boundary for scripts, which may reach keys they do not
//! declare; a Redis of its own is one.

use anyhow::ensure;

use super::danger::{self, Danger};
use super::info::is_word;
use super::{Access, Info, Scripts};
use crate::resp::Arguments;

/// What applies to the commands of one token.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rights: Rights,
    scripts: Scripts,
    /// The most bytes that Redis may answer, if that is bounded.
    largest_answer: Option<u64>,
}

/// What a token may do; by default everything but what is dangerous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Only commands that read, and not the whole keyspace.
    pub read_only: bool,
    /// Only these commands, such as `GET` or `SCRIPT LOAD`; all, if there are none.
    pub commands: Vec<String>,
    /// Commands that have to be named to be allowed, as well as all others that this token may use: dangerous ones; where
    /// `read_only` holds those that read the whole keyspace and scripts that only read; where keys are restricted scripts and
    /// commands without keys.
    pub allow: Vec<String>,
    /// Only keys, and channels, that begin with one of these; all, if there are none.
    pub key_prefixes: Vec<String>,
}

impl Rights {
    /// Whether scripts or functions are among the commands that are named.
    pub(crate) fn names_scripts(&self) -> bool {
        let named = |name: &String| Info::find(name.trim().as_bytes()).is_some_and(runs_code);
        self.commands.iter().chain(&self.allow).any(named)
    }
}

/// A stream that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream<'a> {
    /// Messages of one channel.
    Channel(&'a [u8]),
    /// Messages of the channels that match a pattern.
    Pattern(&'a [u8]),
    /// All commands of all clients.
    Monitor,
}

impl Rules {
    /// The rules for the holder of these rights.
    ///
    /// # Errors
    /// A command that does not exist, or a key prefix that is empty.
    pub(crate) fn new(rights: Rights) -> anyhow::Result<Self> {
        let Rights { read_only, mut commands, mut allow, key_prefixes } = rights;
        for command in commands.iter_mut().chain(&mut allow) {
            *command = command.trim().to_ascii_uppercase();
            let (name, sub) = command.split_once(' ').unwrap_or((command, ""));
            let info = Info::find(name.as_bytes());
            let exists = info.is_some_and(|info| {
                sub.is_empty() || info.subcommands.iter().any(|subcommand| subcommand.name == sub)
            });
            ensure!(
                exists || danger::is_form(command),
                "`{command}` is no command of Redis, expected a name such as `GET` or `SCRIPT LOAD`"
            );
        }
        ensure!(
            key_prefixes.iter().all(|prefix| !prefix.is_empty()),
            "a key prefix is empty, expected some characters; leave `key_prefixes` out to allow every key"
        );
        let rights = Rights { read_only, commands, allow, key_prefixes };
        Ok(Self { rights, ..Self::default() })
    }

    /// The same rules, where Redis may answer no more than this many bytes.
    pub(crate) fn with_largest_answer(self, bytes: usize) -> Self {
        Self { largest_answer: u64::try_from(bytes).ok(), ..self }
    }

    /// Whether anything may be written for the holder of the token.
    pub(crate) fn may_write(&self) -> bool {
        !self.rights.read_only
    }

    /// The scripts that were changed on their way to Redis.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// The error that answers a command whose answer is too large, whatever is in Redis: with a
    /// negative count members are repeated, and Redis has all of them in memory before it answers.
    pub(super) fn excess(&self, mut arguments: Arguments<'_>, info: Option<&Info>) -> Option<String> {
        let name = info?.name;
        if !matches!(name, "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER") {
            return None;
        }
        let count: i64 = std::str::from_utf8(arguments.nth(2)?).ok()?.parse().ok()?;
        // With values or scores.
        let each = if arguments.next().is_some() { 2 * LEAST_STRING } else { LEAST_STRING };
        let most = self.largest_answer?;
        let is_excess = count < 0 && count.unsigned_abs().saturating_mul(each) > most;
        is_excess
            .then(|| format!("ERR max response size exceeded: '{name}' would repeat more than {most} bytes"))
    }

    /// The error that answers a command which this token may not use.
    pub(super) fn refusal(&self, arguments: Arguments<'_>, info: Option<&Info>) -> Option<String> {
        let Rights { read_only, commands, key_prefixes, .. } = &self.rights;
        if let Some(danger) = Danger::of(arguments.clone(), info)
            && !self.named().any(|name| danger.is_allowed_by(name))
        {
            let Danger { name, why } = danger;
            return Some(format!("NOPERM this token may not use '{name}', because {why}: {}", advice(name)));
        }
        if !read_only && commands.is_empty() && key_prefixes.is_empty() {
            return None;
        }
        let arguments: Vec<&[u8]> = arguments.collect();
        // Cut, because an answer that repeats a name of many megabytes is counted by nobody.
        let name = arguments.first().copied().unwrap_or_default();
        let name = String::from_utf8_lossy(name.get(..LONGEST_NAME).unwrap_or(name));
        let Some(info) = info else {
            return Some(format!("NOPERM this token may not use '{name}', which the gateway does not know"));
        };
        let named = self.named().any(|command| is_it(command, name.as_bytes(), info));
        let refused_unless_named = || {
            let full = if name.eq_ignore_ascii_case(info.name) { String::new() } else { format!("{name} ") };
            let full = (full + info.name).to_uppercase();
            Some(format!("NOPERM this token may not use '{name}': {}", advice(&full)))
        };
        if !named && !commands.is_empty() {
            return Some(format!(
                "NOPERM this token may not use '{name}', which is not among its `commands`"
            ));
        }
        if *read_only && !is_harmless(info) {
            match info.access {
                Access::Read if named || !looks_around(info) => {}
                Access::Read => return refused_unless_named(),
                Access::Write | Access::Other => {
                    return Some(format!(
                        "NOPERM this token may not use '{name}', because it is `read_only`"
                    ));
                }
            }
        }
        if key_prefixes.is_empty() {
            return None;
        }
        if !named && !is_harmless(info) && (info.keys.is_empty() || runs_code(info)) {
            return refused_unless_named();
        }
        let keys = info.keys(&arguments);
        if !keys.complete {
            return Some(format!("NOPERM this token may not use '{name}' like this: its keys are not known"));
        }
        let own = |text: &[u8]| key_prefixes.iter().any(|prefix| text.starts_with(prefix.as_bytes()));
        let mut named_keys = keys.positions.iter().map(|position| arguments.get(*position));
        let is_own = match info.name {
            "PUBLISH" => arguments.get(1).is_none_or(|channel| own(channel)),
            "KEYS" => arguments.get(1).is_none_or(|pattern| own(literal(pattern))),
            "SCAN" => {
                scan_patterns(&arguments).is_some_and(|mut all| all.all(|pattern| own(literal(pattern))))
            }
            _ => named_keys.all(|key| key.is_some_and(|key| own(key))),
        };
        (!is_own).then(|| match info.name {
            "SCAN" => {
                "NOPERM this token may use 'SCAN' only with a MATCH that begins as its keys do".to_owned()
            }
            _ => format!("NOPERM this token may not use a key given to '{name}'"),
        })
    }

    /// The commands that are named, each in capitals.
    fn named(&self) -> impl Iterator<Item = &str> {
        self.rights.commands.iter().chain(&self.rights.allow).map(String::as_str)
    }

    /// The error that answers a stream which this token may not have. Channels count as keys.
    pub(crate) fn stream_refusal(&self, stream: Stream<'_>) -> Option<String> {
        let Rights { read_only, commands, key_prefixes, .. } = &self.rights;
        let (name, channel) = match stream {
            Stream::Channel(channel) => ("SUBSCRIBE", Some(channel)),
            Stream::Pattern(pattern) => ("PSUBSCRIBE", Some(pattern)),
            Stream::Monitor => ("MONITOR", None),
        };
        let named = self.named().any(|command| command == name);
        let fixed = match stream {
            Stream::Channel(channel) => channel,
            Stream::Pattern(pattern) => literal(pattern),
            Stream::Monitor => b"",
        };
        let begins = |prefix: &String| fixed.starts_with(prefix.as_bytes());
        let allowed = (named || commands.is_empty())
            && (named || channel.is_some() || !read_only && key_prefixes.is_empty())
            && (key_prefixes.is_empty() || channel.is_none() || key_prefixes.iter().any(begins));
        (!allowed).then(|| format!("NOPERM this token may not use '{name}' here"))
    }
}

/// Whether a name in a configuration is that of this command, of a form of it, or of one that it is a subcommand of.
fn is_it(command: &str, name: &[u8], info: &Info) -> bool {
    match command.split_once(' ') {
        Some((parent, _)) if danger::is_form(command) => name.eq_ignore_ascii_case(parent.as_bytes()),
        Some((parent, sub)) => name.eq_ignore_ascii_case(parent.as_bytes()) && sub == info.name,
        None => name.eq_ignore_ascii_case(command.as_bytes()),
    }
}

/// What a refusal says to whoever runs the gateway.
fn advice(name: &str) -> String {
    format!("it has to be allowed by name, `allow = [\"{name}\"]`")
}

/// Whether a command that only reads tells of the whole keyspace, or runs a script, which may do that and block the server.
fn looks_around(info: &Info) -> bool {
    info.dangerous || matches!(info.name, "SCAN" | "RANDOMKEY") || runs_code(info)
}

/// What all texts that match a pattern begin with: it, up to its first special character.
fn literal(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

/// The patterns given to `SCAN`; nothing where there are none, and where Redis would find a syntax error.
fn scan_patterns<'a>(arguments: &'a [&'a [u8]]) -> Option<impl Iterator<Item = &'a [u8]>> {
    let (options, rest) = arguments.get(2..)?.as_chunks::<2>();
    let patterns = options.iter().filter(|[option, _]| is_word(option, "MATCH"));
    (rest.is_empty() && patterns.clone().next().is_some()).then(|| patterns.map(|[_, pattern]| *pattern))
}

/// Whether it touches no data and tells nothing of others.
fn is_harmless(info: &Info) -> bool {
    matches!(info.name, "PING" | "ECHO" | "TIME")
}

/// Whether it may do what its arguments do not show.
fn runs_code(info: &Info) -> bool {
    matches!(info.name, "EVAL" | "EVAL_RO" | "EVALSHA" | "EVALSHA_RO" | "FCALL" | "FCALL_RO")
}

/// Bytes of a command's name that an error repeats: more than any command has.
const LONGEST_NAME: usize = 64;

/// Bytes of the shortest string that Redis answers.
const LEAST_STRING: u64 = b"$0\r\n\r\n".len() as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command;

    fn rules(read_only: bool, commands: &[&str], key_prefixes: &[&str]) -> Rules {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rights = Rights {
            read_only,
            commands: owned(commands),
            key_prefixes: owned(key_prefixes),
            ..Rights::default()
        };
        Rules::new(rights).unwrap()
    }

    /// The same with commands that are allowed as well.
    fn and(rules: Rules, allow: &[&str]) -> Rules {
        let allow = allow.iter().map(|word| (*word).to_owned()).collect();
        Rules::new(Rights { allow, ..rules.rights }).unwrap()
    }

    fn allows(rules: &Rules, words: &str) -> bool {
        let resp = command(&words.split(' ').collect::<Vec<_>>());
        rules.refusal(Arguments::of(&resp), Info::of(Arguments::of(&resp))).is_none()
    }

    fn check(rules: &Rules, allowed: &[&str], refused: &[&str]) {
        for words in allowed {
            assert!(allows(rules, words), "{words}");
        }
        for words in refused {
            assert!(!allows(rules, words), "{words}");
        }
    }

    #[test]
    fn everything_is_allowed_by_default_but_what_is_dangerous() {
        let dangerous = [
            "SHUTDOWN",
            "debug sleep 1",
            "CONFIG SET a b",
            "config get requirepass",
            "CLIENT KILL a",
            "CLIENT PAUSE 1",
            "REPLICAOF NO ONE",
            "SLAVEOF a 1",
            "FAILOVER",
            "MODULE LOAD x",
            "ACL SETUSER x",
            "CLUSTER RESET",
            "CLUSTER NOSUCH",
            "RESTORE a 0 x",
            "MOVE a 1",
            "SWAPDB 0 1",
            "COPY a b DB 1",
            "PFDEBUG ENCODING a",
            "MIGRATE h 1 a 0 1",
        ];
        let allowed = [
            "FLUSHALL",
            "NOSUCH x",
            "EVAL x 0",
            "COPY a b REPLACE",
            "CLIENT INFO",
            "ACL WHOAMI",
            "INFO",
            "KEYS *",
        ];
        check(&Rules::default(), &allowed, &dangerous);
        let named = [
            "shutdown",
            "DEBUG",
            "Config",
            "CLIENT KILL",
            "CLIENT PAUSE",
            "REPLICAOF",
            "SLAVEOF",
            "FAILOVER",
            "MODULE LOAD",
            "ACL",
            "CLUSTER",
            "RESTORE",
            "MOVE",
            "SWAPDB",
            "COPY DB",
            "PFDEBUG",
            "MIGRATE",
        ];
        let allowed = and(Rules::default(), &named);
        check(&allowed, &dangerous, &["CLIENT UNPAUSE", "SCRIPT KILL", "MODULE UNLOAD x"]);
        // What may be used only by name names it too; a restricted token gets no other rights by that.
        check(&rules(false, &["GET", "SHUTDOWN"], &[]), &["GET a", "SHUTDOWN"], &["SET a b"]);
        check(&rules(false, &["COPY"], &[]), &["COPY a b"], &["COPY a b DB 1"]);
        check(&rules(false, &["COPY DB"], &[]), &["COPY a b", "COPY a b DB 1"], &["GET a"]);
        check(&and(rules(true, &[], &[]), &["SHUTDOWN"]), &["GET a"], &["SHUTDOWN", "SET a b"]);
        let tenant = and(rules(false, &[], &["app:"]), &["RESTORE"]);
        check(&tenant, &["RESTORE app:a 0 x"], &["RESTORE a 0 x", "MOVE app:a 1"]);
    }

    #[test]
    fn a_refusal_says_what_to_configure() {
        let refusal = |rules: &Rules, words: &str| {
            let resp = command(&words.split(' ').collect::<Vec<_>>());
            rules.refusal(Arguments::of(&resp), Info::of(Arguments::of(&resp))).unwrap_or_default()
        };
        let (all, reader, tenant) = (Rules::default(), rules(true, &[], &[]), rules(false, &[], &["app:"]));
        for (rules, words, expected) in [
            (
                &all,
                "config set a b",
                "'CONFIG SET', because it changes the server: it has to be allowed by name, `allow = [\"CONFIG SET\"]`",
            ),
            (
                &all,
                "copy a b db 1",
                "'COPY DB', because it reaches into another database: it has to be allowed by name, `allow = [\"COPY DB\"]`",
            ),
            (&reader, "keys *", "'keys': it has to be allowed by name, `allow = [\"KEYS\"]`"),
            (&reader, "set a b", "'set', because it is `read_only`"),
            (&rules(false, &["GET"], &[]), "set a b", "'set', which is not among its `commands`"),
            (&tenant, "script load x", "'script': it has to be allowed by name, `allow = [\"SCRIPT LOAD\"]`"),
            (&tenant, "sort app:a", "'sort' like this: its keys are not known"),
            (&tenant, "nosuch app:a", "'nosuch', which the gateway does not know"),
            (&tenant, "get a", "a key given to 'get'"),
        ] {
            assert_eq!(refusal(rules, words), format!("NOPERM this token may not use {expected}"), "{words}");
        }
    }

    #[test]
    fn read_only_tokens_change_nothing_and_do_not_look_around() {
        check(
            &rules(true, &[], &[]),
            &["GET a", "hgetall a", "MGET a b", "PING", "DBSIZE", "XRANGE a - +"],
            &[
                "SET a 1",
                "DEL a",
                "KEYS *",
                "SCAN 0",
                "RANDOMKEY",
                "EVAL x 0",
                "EVALSHA x 0",
                "EVAL_RO x 0",
                "EVALSHA_RO x 1 a",
                "FCALL_RO f 0",
                "GETEX a",
                "GETDEL a",
                "SORT a",
                "SORT_RO a",
                "FLUSHALL",
                "CONFIG GET x",
                "PUBLISH a b",
                "SCRIPT LOAD x",
                "NOSUCH a",
                "FCALL f 0",
                "INFO",
                "SCRIPT",
            ],
        );
    }

    #[test]
    fn what_looks_around_is_allowed_by_name_and_what_writes_is_not() {
        let named = ["KEYS", "SCAN", "RANDOMKEY", "EVAL_RO", "FCALL_RO", "EVAL", "SET"];
        let around = ["KEYS *", "SCAN 0", "RANDOMKEY", "EVAL_RO x 0", "FCALL_RO f 0", "GET a"];
        check(&and(rules(true, &[], &[]), &named), &around, &["EVALSHA_RO x 0", "EVAL x 0", "SET a b"]);
        check(&rules(true, &named, &[]), &around[..5], &["GET a", "EVAL x 0", "SET a b"]);
    }

    #[test]
    fn patterns_and_channels_begin_like_keys() {
        check(
            &and(rules(false, &[], &["app:"]), &["KEYS", "SCAN", "PUBLISH", "RANDOMKEY", "SORT"]),
            &[
                "KEYS app:*",
                "SCAN 0 MATCH app:*",
                "scan 0 count 5 match app:[ab] type string",
                "PUBLISH app:1 m",
                "SPUBLISH app:1 m",
                "RANDOMKEY",
                "GET app:1",
            ],
            &[
                "KEYS *",
                "KEYS ap*",
                "KEYS a[p]p:*",
                "KEYS \\app:*",
                "SCAN 0",
                "SCAN 0 COUNT 5",
                "SCAN 0 MATCH app:* MATCH *",
                "SCAN 0 MATCH * MATCH app:*",
                "SCAN 0 MATCH app:* COUNT",
                "PUBLISH x m",
                "SPUBLISH x m",
                "SORT app:1",
                "SORT app:1 BY x* GET y*",
            ],
        );
    }

    #[test]
    fn only_named_commands_are_allowed() {
        check(
            &rules(false, &["get", "Script Load", "ACL"], &[]),
            &["GET a", "get a", "SCRIPT LOAD x", "acl whoami"],
            &["SET a 1", "SCRIPT FLUSH", "SCRIPT", "MGET a", "LOAD x"],
        );
        check(&rules(true, &["GET", "SET"], &[]), &["GET a"], &["SET a 1", "MGET a"]);
        for unknown in ["NOSUCH", "SCRIPT NOSUCH", "", "GET x"] {
            let error =
                Rules::new(Rights { commands: vec![unknown.into()], ..Rights::default() }).unwrap_err();
            assert!(error.to_string().contains("is no command of Redis"), "{error}");
        }
    }

    #[test]
    fn only_keys_with_a_prefix_are_allowed() {
        check(
            &rules(false, &[], &["app:", "x"]),
            &["GET app:1", "MSET app:1 a x b", "PING", "XREAD STREAMS app:1 0", "ZUNIONSTORE x 1 app:1"],
            &[
                "GET ap",
                "MSET app:1 a y b",
                "KEYS *",
                "SCAN 0",
                "FLUSHALL",
                "EVAL x 1 app:1",
                "SORT app:1",
                "NOSUCH app:1",
                "PUBLISH app:1 m",
                "SCRIPT LOAD x",
                "ZUNIONSTORE y 1 app:1",
                "GEORADIUS app:1 1 2 3 m STORE y",
                "GEORADIUS app:1 1 2 3 m STORE x STORE y",
                "GEORADIUS app:1 1 2 3 m STORE x STOREDIST y",
                "XREADGROUP NOACK GROUP x x STREAMS y >",
                "EVAL_RO x 1 app:1",
                "FCALL f 1 app:1",
                "RANDOMKEY",
                "DBSIZE",
                "INFO",
            ],
        );
        check(
            &rules(false, &["EVALSHA", "SCRIPT LOAD"], &["app:"]),
            &["EVALSHA x 1 app:1", "EVALSHA x 0", "SCRIPT LOAD x"],
            &["EVALSHA x 1 y", "EVAL x 1 app:1", "GET app:1", "PING"],
        );
        assert!(Rules::new(Rights { key_prefixes: vec![String::new()], ..Rights::default() }).is_err());
    }

    #[test]
    fn streams_follow_the_same_rules() {
        let allows = |rules: &Rules, stream| rules.stream_refusal(stream).is_none();
        let (a, y) = (Stream::Channel(b"app:1"), Stream::Channel(b"y"));
        let patterns = [&b"app:*"[..], b"ap*", b"*", b"a[p]p:"].map(Stream::Pattern);
        let all = Rules::default();
        assert!(allows(&all, a) && allows(&all, patterns[2]) && allows(&all, Stream::Monitor));
        let reader = rules(true, &[], &[]);
        assert!(allows(&reader, a) && allows(&reader, patterns[2]) && !allows(&reader, Stream::Monitor));
        let tenant = rules(false, &[], &["app:"]);
        assert!(allows(&tenant, a) && !allows(&tenant, y) && !allows(&tenant, Stream::Monitor));
        assert_eq!(patterns.map(|pattern| allows(&tenant, pattern)), [true, false, false, false]);
        let named = rules(false, &["SUBSCRIBE", "MONITOR"], &[]);
        assert!(allows(&named, a) && allows(&named, Stream::Monitor) && !allows(&named, patterns[0]));
    }
}
