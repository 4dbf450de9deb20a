//! What cannot work over a connection that all clients share.
//!
//! A command that would change, hold or take over its connection is refused by name. Letting one through would break every
//! client at once; refusing one too many costs a clear error.

use super::Info;
use super::info::StreamOptions;
use crate::resp::{Arguments, command};

/// The error that answers a command which may not be sent.
pub(super) fn reason(mut arguments: Arguments<'_>, info: Option<&Info>) -> Option<String> {
    let all = arguments.clone();
    let name = arguments.next()?;
    if has_nul(name)
        || Info::find(name).is_some_and(|info| !info.subcommands.is_empty())
            && all.clone().nth(1).is_some_and(has_nul)
    {
        return Some("ERR Command is not available: there is a NUL in its name".to_owned());
    }
    let mut upper = [0; LONGEST_NAME];
    let reason = match uppercase(name, &mut upper)? {
        b"SUBSCRIBE" | b"PSUBSCRIBE" => {
            "it is a stream, `POST /subscribe/<channel>` or `/psubscribe/<pattern>`"
        }
        b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE" => {
            "it turns the shared connection into a stream of messages"
        }
        b"MONITOR" => "it is a stream, `POST /monitor`",
        b"SYNC" | b"PSYNC" | b"REPLCONF" => "it takes the shared connection over",
        b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" => {
            "transactions are sent whole, to `/multi-exec`"
        }
        b"XREAD" | b"XREADGROUP" => match StreamOptions::of(all) {
            StreamOptions::Block => BLOCKS,
            StreamOptions::Unknown => {
                "an option in front of `STREAMS` is not known here, and it may block the shared connection"
            }
            StreamOptions::Streams(_) | StreamOptions::Unfinished => return None,
        },
        b"HELLO" | b"AUTH" | b"SELECT" | b"QUIT" | b"RESET" | b"READONLY" | b"READWRITE" | b"ASKING" => {
            "it changes the shared connection"
        }
        b"CLIENT" if arguments.next().is_none_or(|subcommand| !client_is_harmless(subcommand)) => {
            "this subcommand changes the shared connection"
        }
        b"SCRIPT" if arguments.next().is_some_and(|subcommand| subcommand.eq_ignore_ascii_case(b"DEBUG")) => {
            "this subcommand takes the shared connection over"
        }
        _ if info.is_some_and(|info| info.blocks) => BLOCKS,
        _ => return None,
    };
    Some(format!("ERR Command is not available: '{}': {reason}", String::from_utf8_lossy(name)))
}

/// What is sent in place of a command that must succeed but may not do what it says: SDKs tell who they are by `CLIENT
/// SETINFO`, which would name the connection of all clients, and which Redis knows only since 7.2.
pub(super) fn instead(mut arguments: Arguments<'_>, info: Option<&Info>) -> Option<Vec<u8>> {
    let mut of_client = || arguments.next().is_some_and(|name| name.eq_ignore_ascii_case(b"CLIENT"));
    (info.is_some_and(|info| info.name == "SETINFO") && of_client()).then(|| command(&["PING", "OK"]))
}

/// Whether Redis may know a name by what stands in front of a NUL. It looks names up in a hash
/// table: one with a NUL has the hash of another name, and where both happen to be in one place of
/// the table, they are the same to it.
fn has_nul(name: &[u8]) -> bool {
    name.contains(&0)
}

/// `name` in upper case, or nothing when it is longer than any name that matters.
fn uppercase<'a>(name: &[u8], upper: &'a mut [u8; LONGEST_NAME]) -> Option<&'a [u8]> {
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    Some(upper)
}

/// The subcommands of `CLIENT` that leave the connection as it is. The list names what is allowed, so that a subcommand
/// which a future Redis adds is refused until somebody has looked at it.
fn client_is_harmless(subcommand: &[u8]) -> bool {
    let mut upper = [0; LONGEST_NAME];
    matches!(
        uppercase(subcommand, &mut upper),
        Some(
            b"ID"
                | b"INFO"
                | b"LIST"
                | b"GETNAME"
                | b"GETREDIR"
                | b"TRACKINGINFO"
                | b"SETINFO"
                | b"KILL"
                | b"PAUSE"
                | b"UNPAUSE"
                | b"UNBLOCK"
                | b"HELP"
        )
    )
}

/// Longer than every name that is compared.
const LONGEST_NAME: usize = 16;

const BLOCKS: &str = "it would block every request on the shared connection";

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(words: &str) -> Option<String> {
        let resp = command(&words.split(' ').collect::<Vec<_>>());
        super::reason(Arguments::of(&resp), Info::of(Arguments::of(&resp)))
    }

    fn refused(words: &str) -> bool {
        reason(words).is_some()
    }

    #[test]
    fn commands_that_need_their_own_connection_are_refused_in_any_case() {
        for words in [
            "SUBSCRIBE ch",
            "pSubscribe *",
            "ssubscribe s",
            "unsubscribe",
            "punsubscribe",
            "sunsubscribe",
            "monitor",
            "sync",
            "psync ? -1",
            "multi",
            "EXEC",
            "Discard",
            "watch k",
            "unwatch",
            "blpop k 0",
            "BRPOP k 0",
            "blmove a b left right 0",
            "BLMPOP 0 1 k left",
            "bzpopmin k 0",
            "bzpopmax k 0",
            "bzmpop 0 1 k min",
            "brpoplpush a b 0",
            "wait 1 0",
            "waitaof 1 0 0",
            "hello 3",
            "auth x",
            "select 1",
            "quit",
            "reset",
            "client reply off",
            "CLIENT tracking on",
            "client",
            "client setname x",
            "client no-evict on",
            "client something-new",
            "script debug yes",
            "xread block 0 streams s $",
            "XREAD COUNT 1 BLOCK 5 STREAMS s $",
            "xreadgroup group g c block 0 streams s >",
            "xreadgroup noack block 1 group g c streams s >",
            "xreadgroup group g c claim 1000 block 0 streams s >",
            "xreadgroup group g c claim block block 0 streams s >",
            "xreadgroup group g c nosuch block 0 streams s >",
            "xreadgroup group g c nosuch 1 2 block 0 streams s >",
            "xread nosuch 1 streams s $",
            "xread s block 0 streams",
            "xread block\0 0 streams s $",
            "blpop\0x k 0",
            "nosuch\0",
            "client\0 id",
            "client id\0",
        ] {
            assert!(refused(words), "{words}");
        }
        for words in [
            "get k",
            "evalsha abc 0",
            "publish ch m",
            "client id",
            "CLIENT INFO",
            "client setinfo lib-name x",
            "script load x",
            "script",
            "xread count 1 streams s 0",
            "xread streams block 0",
            "xreadgroup group block block streams s >",
            "xread count block streams block 0",
            "xreadgroup group g c claim block streams s >",
            "xreadgroup group g c",
            "xread count\0x block streams\0 block 0",
            "get k\0",
            "xread count",
            "xread",
            "blpopx k",
            "averyveryverylongcommandname",
        ] {
            assert!(!refused(words), "{words}");
        }
        assert_eq!(
            reason("QuiT").unwrap(),
            "ERR Command is not available: 'QuiT': it changes the shared connection"
        );
    }
}
