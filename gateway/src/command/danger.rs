//! Commands that have to be allowed by name, whatever else a token may do.
//!
//! Over HTTP a token is all that it takes, and one that was made for data must not stop the server, cut off its other
//! clients, read its passwords, or leave its database. A wrong "no" costs a line of configuration, which the error names.
//!
//! The list is held against Redis's own category `dangerous`: a test fails for a command of it that nobody has judged. `KEYS`,
//! `FLUSHALL` and `FLUSHDB` are not here: they do at once what a token for all keys may do key by key, and tokens with
//! restrictions may not use them. Scripts may do what Redis lets scripts do; this list does not see into them.

use super::Info;
use super::info::is_word;
use crate::resp::Arguments;

/// A command that has to be allowed by name, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Danger {
    /// What has to be allowed, in capitals: `SHUTDOWN`, `CONFIG SET`.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) why: &'static str,
}

impl Danger {
    /// The danger of a command, if there is one.
    pub(super) fn of(mut arguments: Arguments<'_>, info: Option<&Info>) -> Option<&'static Self> {
        let name = arguments.next()?;
        match info {
            // This tells nearly all commands from these.
            Some(info) if !info.dangerous && !is_listed_here_alone(info.name) => None,
            Some(info) if info.name == "COPY" => {
                // Behind the two keys.
                let names_database = arguments.skip(2).any(|word| is_word(word, "DB"));
                if names_database { find(COPY_DB) } else { None }
            }
            Some(info) => DANGERS.iter().find(|danger| match danger.name.split_once(' ') {
                Some((parent, sub)) => sub == info.name && name.eq_ignore_ascii_case(parent.as_bytes()),
                None => danger.name == info.name && name.eq_ignore_ascii_case(info.name.as_bytes()),
            }),
            // A subcommand of a later Redis.
            None => {
                arguments.next()?;
                LATER.iter().find(|danger| name.eq_ignore_ascii_case(danger.name.as_bytes()))
            }
        }
    }

    /// Whether `name`, as a configuration has it in capitals, allows this. A command allows its subcommands; `COPY` alone does
    /// not allow `COPY DB`.
    pub(super) fn is_allowed_by(&self, name: &str) -> bool {
        self.name == name
            || name != "COPY" && self.name.split_once(' ').is_some_and(|(parent, _)| parent == name)
    }

    const fn new(name: &'static str, why: &'static str) -> Self {
        Self { name, why }
    }
}

/// Whether a name in a configuration is that of a form of a command, such as `COPY DB`.
pub(super) fn is_form(name: &str) -> bool {
    name == COPY_DB
}

/// Commands of the list that Redis does not count among the dangerous ones, by their last word.
fn is_listed_here_alone(name: &str) -> bool {
    matches!(name, "COPY" | "MOVE" | "KILL" | "RESTORE")
}

fn find(name: &str) -> Option<&'static Danger> {
    DANGERS.iter().find(|danger| danger.name == name)
}

const COPY_DB: &str = "COPY DB";

static DANGERS: &[Danger] = &[
    Danger::new("ACL DELUSER", USERS),
    Danger::new("ACL DRYRUN", TELLS_OF_USERS),
    Danger::new("ACL GETUSER", TELLS_OF_USERS),
    Danger::new("ACL LIST", TELLS_OF_USERS),
    Danger::new("ACL LOAD", USERS),
    Danger::new("ACL LOG", TELLS_OF_USERS),
    Danger::new("ACL SAVE", USERS),
    Danger::new("ACL SETUSER", USERS),
    Danger::new("ACL USERS", TELLS_OF_USERS),
    Danger::new("BGREWRITEAOF", DISK),
    Danger::new("BGSAVE", DISK),
    Danger::new("CLIENT KILL", OTHERS),
    Danger::new("CLIENT PAUSE", OTHERS),
    Danger::new("CLIENT UNBLOCK", OTHERS),
    Danger::new("CLIENT UNPAUSE", OTHERS),
    Danger::new("CLUSTER ADDSLOTS", CLUSTER),
    Danger::new("CLUSTER ADDSLOTSRANGE", CLUSTER),
    Danger::new("CLUSTER BUMPEPOCH", CLUSTER),
    Danger::new("CLUSTER DELSLOTS", CLUSTER),
    Danger::new("CLUSTER DELSLOTSRANGE", CLUSTER),
    Danger::new("CLUSTER FAILOVER", CLUSTER),
    Danger::new("CLUSTER FLUSHSLOTS", CLUSTER),
    Danger::new("CLUSTER FORGET", CLUSTER),
    Danger::new("CLUSTER MEET", CLUSTER),
    Danger::new("CLUSTER REPLICATE", CLUSTER),
    Danger::new("CLUSTER RESET", CLUSTER),
    Danger::new("CLUSTER SAVECONFIG", CLUSTER),
    Danger::new("CLUSTER SET-CONFIG-EPOCH", CLUSTER),
    Danger::new("CLUSTER SETSLOT", CLUSTER),
    Danger::new("CONFIG GET", "it tells the server's passwords"),
    Danger::new("CONFIG RESETSTAT", MEASURED),
    Danger::new("CONFIG REWRITE", SERVER),
    Danger::new("CONFIG SET", SERVER),
    Danger::new(COPY_DB, DATABASE),
    Danger::new("DEBUG", "it can crash and block the server"),
    Danger::new("FAILOVER", ROLE),
    Danger::new("FUNCTION KILL", OTHERS),
    Danger::new("FUNCTION RESTORE", PAYLOAD),
    Danger::new("LATENCY RESET", MEASURED),
    Danger::new("MIGRATE", "it sends keys to any other server, and the server waits for it"),
    Danger::new("MODULE LOAD", SERVER),
    Danger::new("MODULE LOADEX", SERVER),
    Danger::new("MODULE UNLOAD", SERVER),
    Danger::new("MOVE", DATABASE),
    Danger::new("PFDEBUG", "it shows and changes the inside of a value"),
    Danger::new("PFSELFTEST", "it blocks the server"),
    Danger::new("REPLICAOF", ROLE),
    Danger::new("RESTORE", PAYLOAD),
    Danger::new("RESTORE-ASKING", PAYLOAD),
    Danger::new("SAVE", "it blocks the server until all is on disk"),
    Danger::new("SCRIPT KILL", OTHERS),
    Danger::new("SHUTDOWN", "it stops the server"),
    Danger::new("SLAVEOF", ROLE),
    Danger::new("SLOWLOG RESET", MEASURED),
    Danger::new("SWAPDB", DATABASE),
];

/// Commands whose subcommands are all dangerous as long as they are not known.
static LATER: &[Danger] = &[
    Danger::new("ACL", UNKNOWN),
    Danger::new("CLUSTER", UNKNOWN),
    Danger::new("CONFIG", UNKNOWN),
    Danger::new("MODULE", UNKNOWN),
];

const CLUSTER: &str = "it changes the cluster";
const DATABASE: &str = "it reaches into another database";
const DISK: &str = "it takes the server's disk and memory";
const MEASURED: &str = "it erases what operators measure";
const OTHERS: &str = "it disturbs other clients";
const PAYLOAD: &str = "it loads bytes that can harm the server";
const ROLE: &str = "it changes which server is the master";
const SERVER: &str = "it changes the server";
const TELLS_OF_USERS: &str = "it tells of other users";
const UNKNOWN: &str = "its subcommand is not known";
const USERS: &str = "it changes who may do what";

#[cfg(test)]
mod tests {
    use super::super::COMMANDS;
    use super::*;
    use crate::resp::command;

    fn danger(words: &str) -> Option<&'static str> {
        let resp = command(&words.split(' ').collect::<Vec<_>>());
        Danger::of(Arguments::of(&resp), Info::of(Arguments::of(&resp))).map(|danger| danger.name)
    }

    #[test]
    fn dangers_are_found_in_any_case_and_nothing_else_is() {
        for (words, expected) in [
            ("SHUTDOWN NOSAVE", "SHUTDOWN"),
            ("shutdown", "SHUTDOWN"),
            ("config SeT maxmemory 1", "CONFIG SET"),
            ("client pause 1", "CLIENT PAUSE"),
            ("script kill", "SCRIPT KILL"),
            ("FUNCTION RESTORE x", "FUNCTION RESTORE"),
            ("restore k 0 x", "RESTORE"),
            ("move k 1", "MOVE"),
            ("COPY a b DB 1", "COPY DB"),
            ("copy a b replace db 1", "COPY DB"),
            ("ACL nosuch", "ACL"),
            ("cluster migration import 0 1", "CLUSTER"),
        ] {
            assert_eq!(danger(words), Some(expected), "{words}");
        }
        for words in [
            "SET k v",
            "GET k",
            "COPY a b",
            "COPY db db REPLACE",
            "SCRIPT LOAD x",
            "SCRIPT nosuch",
            "FUNCTION LOAD x",
            "CONFIG",
            "CONFIG HELP",
            "CLIENT INFO",
            "ACL WHOAMI",
            "CLUSTER SLOTS",
            "FLUSHALL",
            "KEYS *",
            "INFO",
            "LOAD x",
            "NOSUCH",
        ] {
            assert_eq!(danger(words), None, "{words}");
        }
    }

    #[test]
    fn a_command_allows_its_subcommands_and_copy_allows_no_other_database() {
        let allows = |by: &str, name: &str| find(name).unwrap().is_allowed_by(by);
        assert!(allows("CONFIG SET", "CONFIG SET") && allows("CONFIG", "CONFIG SET"));
        assert!(allows("COPY DB", "COPY DB") && allows("SHUTDOWN", "SHUTDOWN"));
        assert!(
            !allows("CONFIG GET", "CONFIG SET") && !allows("COPY", "COPY DB") && !allows("SET", "CONFIG SET")
        );
    }

    /// What Redis calls dangerous is on the list, or here, with the reason why it is not.
    #[test]
    fn every_command_that_redis_calls_dangerous_has_been_judged() {
        let not_dangerous = [
            // Slow where there are many keys, and allowed to tokens for all keys: the same can be had key by key.
            "FLUSHALL",
            "FLUSHDB",
            "KEYS",
            "SORT",
            "SORT_RO",
            // They tell of the server and change nothing.
            "CLIENT LIST",
            "CLUSTER COUNT-FAILURE-REPORTS",
            "CLUSTER REPLICAS",
            "CLUSTER SLAVES",
            "INFO",
            "LASTSAVE",
            "LATENCY DOCTOR",
            "LATENCY GRAPH",
            "LATENCY HISTOGRAM",
            "LATENCY HISTORY",
            "LATENCY LATEST",
            "MODULE LIST",
            "ROLE",
            "SLOWLOG GET",
            "SLOWLOG LEN",
            // Not available over HTTP at all.
            "CLIENT NO-EVICT",
            "MONITOR",
            "PSYNC",
            "REPLCONF",
            "SYNC",
        ];
        let mut dangerous = Vec::new();
        for info in COMMANDS {
            for sub in info.subcommands {
                dangerous.extend(sub.dangerous.then(|| format!("{} {}", info.name, sub.name)));
            }
            dangerous.extend(info.dangerous.then(|| info.name.to_owned()));
        }
        for name in &dangerous {
            let listed = find(name).is_some();
            assert!(listed != not_dangerous.contains(&name.as_str()), "{name}: is it dangerous or not?");
        }
        assert!(not_dangerous.iter().all(|name| dangerous.iter().any(|it| it == name)));
        for Danger { name, .. } in DANGERS {
            assert_eq!(danger(&format!("{name} x x DB")), Some(*name), "{name} is never found");
        }
    }
}
