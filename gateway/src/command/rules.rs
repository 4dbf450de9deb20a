//! What the holder of a token may do.
//!
//! A wrong "yes" lets a token read or change what is not its own; a wrong "no" is an error that names the command. So what is
//! not known is refused: a command that is not in the table, and a key that cannot be found among the arguments.
//!
//! These rules are checked here, before Redis sees the command. They are no boundary for scripts, which may reach keys they do not
//! declare; a user of Redis's own access control lists is one.

use std::sync::Arc;

use anyhow::ensure;

use super::{Access, Info, Scripts};
use crate::resp::Arguments;

/// What applies to the commands of one token.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rights: Rights,
    scripts: Arc<Scripts>,
}

/// What a token may do; by default everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Only commands that read, and not the whole keyspace.
    pub read_only: bool,
    /// Only these commands, such as `GET` or `SCRIPT LOAD`; all, if there are none.
    pub commands: Vec<String>,
    /// Only keys that begin with one of these; all, if there are none. Commands without keys and scripts must then be
    /// named in `commands`, but for those that tell nothing of others.
    pub key_prefixes: Vec<String>,
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
    /// The rules for somebody with these rights.
    ///
    /// # Errors
    /// A command that does not exist, or a key prefix that is empty.
    pub(crate) fn new(rights: Rights, scripts: Arc<Scripts>) -> anyhow::Result<Self> {
        let Rights { read_only, mut commands, key_prefixes } = rights;
        for command in &mut commands {
            command.make_ascii_uppercase();
            let (name, sub) = command.split_once(' ').unwrap_or((command, ""));
            let info = Info::find(name.as_bytes());
            let exists = info.is_some_and(|info| {
                sub.is_empty() || info.subcommands.iter().any(|subcommand| subcommand.name == sub)
            });
            ensure!(
                exists,
                "`{command}` is no command of Redis, expected a name such as `GET` or `SCRIPT LOAD`"
            );
        }
        ensure!(
            key_prefixes.iter().all(|prefix| !prefix.is_empty()),
            "a key prefix is empty, expected some characters; leave `key_prefixes` out to allow every key"
        );
        Ok(Self { rights: Rights { read_only, commands, key_prefixes }, scripts })
    }

    /// The scripts that were changed on their way to Redis.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// The error that answers a command which this token may not use.
    pub(super) fn refusal(&self, arguments: Arguments<'_>, info: Option<&Info>) -> Option<String> {
        let Rights { read_only, commands, key_prefixes } = &self.rights;
        if !read_only && commands.is_empty() && key_prefixes.is_empty() {
            return None;
        }
        let arguments: Vec<&[u8]> = arguments.collect();
        let name = arguments.first().copied().unwrap_or_default();
        let refused = || Some(format!("NOPERM this token may not use '{}'", String::from_utf8_lossy(name)));
        let Some(info) = info else { return refused() };
        let named = is_named(commands, name, info);
        if !named && !commands.is_empty() || *read_only && !reads(info) {
            return refused();
        }
        if key_prefixes.is_empty() {
            return None;
        }
        if !named && !is_harmless(info) && (info.keys.is_empty() || runs_code(info)) {
            return refused();
        }
        let keys = info.keys(&arguments);
        let own = |position: &usize| {
            let key = arguments.get(*position).copied().unwrap_or_default();
            key_prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
        };
        if !keys.complete {
            return refused();
        }
        (!keys.positions.iter().all(own)).then(|| {
            format!("NOPERM this token may not use a key given to '{}'", String::from_utf8_lossy(name))
        })
    }

    /// The error that answers a stream which this token may not have. Channels count as keys.
    pub(crate) fn stream_refusal(&self, stream: Stream<'_>) -> Option<String> {
        let Rights { read_only, commands, key_prefixes } = &self.rights;
        let (name, channel) = match stream {
            Stream::Channel(channel) => ("SUBSCRIBE", Some(channel)),
            Stream::Pattern(pattern) => ("PSUBSCRIBE", Some(pattern)),
            Stream::Monitor => ("MONITOR", None),
        };
        let named = commands.iter().any(|command| command == name);
        let begins = |prefix: &String| {
            // Up to its first special character a pattern is what channels begin with.
            let literal = |byte: &u8| matches!(stream, Stream::Channel(_)) || !b"*?[\\".contains(byte);
            let fixed = channel.unwrap_or_default().iter().take_while(|byte| literal(byte)).count();
            channel
                .and_then(|channel| channel.get(..fixed))
                .is_some_and(|fixed| fixed.starts_with(prefix.as_bytes()))
        };
        let allowed = (named || commands.is_empty())
            && (named || channel.is_some() || !read_only && key_prefixes.is_empty())
            && (key_prefixes.is_empty() || channel.is_none() || key_prefixes.iter().any(begins));
        (!allowed).then(|| format!("NOPERM this token may not use '{name}' here"))
    }
}

/// Whether the command is among those allowed by name, itself or as all subcommands of one.
fn is_named(commands: &[String], name: &[u8], info: &Info) -> bool {
    commands.iter().any(|command| match command.split_once(' ') {
        Some((parent, sub)) => name.eq_ignore_ascii_case(parent.as_bytes()) && sub == info.name,
        None => name.eq_ignore_ascii_case(command.as_bytes()),
    })
}

/// Whether it only reads, and not the whole keyspace: that is what the dialect's read-only tokens may do.
fn reads(info: &Info) -> bool {
    info.access == Access::Read && !info.dangerous && info.name != "SCAN" || is_harmless(info)
}

/// Whether it touches no data and tells nothing of others.
fn is_harmless(info: &Info) -> bool {
    matches!(info.name, "PING" | "ECHO" | "TIME")
}

/// Whether it may do what its arguments do not show.
fn runs_code(info: &Info) -> bool {
    matches!(info.name, "EVAL" | "EVAL_RO" | "EVALSHA" | "EVALSHA_RO" | "FCALL" | "FCALL_RO")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command;

    fn rules(read_only: bool, commands: &[&str], key_prefixes: &[&str]) -> Rules {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rights = Rights { read_only, commands: owned(commands), key_prefixes: owned(key_prefixes) };
        Rules::new(rights, Arc::default()).unwrap()
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
    fn everything_is_allowed_by_default() {
        check(&Rules::default(), &["FLUSHALL", "NOSUCH x", "CONFIG GET x", "EVAL x 0"], &[]);
    }

    #[test]
    fn read_only_tokens_change_nothing_and_do_not_look_around() {
        check(
            &rules(true, &[], &[]),
            &[
                "GET a",
                "hgetall a",
                "MGET a b",
                "PING",
                "EVAL_RO x 0",
                "EVALSHA_RO x 1 a",
                "DBSIZE",
                "XRANGE a - +",
            ],
            &[
                "SET a 1",
                "DEL a",
                "KEYS *",
                "SCAN 0",
                "EVAL x 0",
                "EVALSHA x 0",
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
    fn only_named_commands_are_allowed() {
        check(
            &rules(false, &["get", "Script Load", "ACL"], &[]),
            &["GET a", "get a", "SCRIPT LOAD x", "acl whoami"],
            &["SET a 1", "SCRIPT FLUSH", "SCRIPT", "MGET a", "LOAD x"],
        );
        check(&rules(true, &["GET", "SET"], &[]), &["GET a"], &["SET a 1", "MGET a"]);
        for unknown in ["NOSUCH", "SCRIPT NOSUCH", "", "GET x"] {
            let error =
                Rules::new(Rights { commands: vec![unknown.into()], ..Rights::default() }, Arc::default())
                    .unwrap_err();
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
        assert!(
            Rules::new(Rights { key_prefixes: vec![String::new()], ..Rights::default() }, Arc::default())
                .is_err()
        );
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
