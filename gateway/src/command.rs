//! From a request body to commands Redis can be sent.
//!
//! A body is a JSON array (one command) or an array of such arrays (a pipeline). It is read once, borrowing from it:
//! each argument goes from the body straight into its command's buffer. A number arrives at Redis exactly as it was
//! written, because `1.0`, `1e21` and integers above 2^53 would not survive a double.
//!
//! Connections to Redis are shared by all clients, so a command that would change, hold or take over its connection is
//! refused here by name. Letting one through would break every client at once; refusing one too many costs a clear error.

use std::fmt;

use redis::{Arg, Cmd, Pipeline, RedisWrite as _};
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Reads `["SET", "key", 1.0]`.
pub(crate) fn parse_command(body: &[u8]) -> Result<Cmd, ParseError> {
    let body = utf8(body).map_err(ParseError::Command)?;
    let mut json = serde_json::Deserializer::from_str(body);
    let command = CommandSeed
        .deserialize(&mut json)
        .and_then(|command| json.end().map(|()| command))
        .map_err(|error| ParseError::Command(error.to_string()))?;
    if command.args_iter().len() == 0 { Err(ParseError::EmptyCommand) } else { Ok(command) }
}

/// Reads `[["SET", "key", 1], ["GET", "key"]]`, at most `limit` commands.
pub(crate) fn parse_pipeline(body: &[u8], limit: usize) -> Result<Batch, ParseError> {
    parse_batch(body, limit, Batch::default())
}

/// Reads the same as [`parse_pipeline`] and encloses it in `MULTI` and `EXEC`.
pub(crate) fn parse_transaction(body: &[u8], limit: usize) -> Result<Batch, ParseError> {
    let mut batch = Batch::default();
    batch.commands.cmd("MULTI");
    let mut batch = parse_batch(body, limit, batch)?;
    batch.commands.cmd("EXEC");
    Ok(batch)
}

/// The commands of a pipeline: those to send, and those refused at which positions.
#[derive(Default)]
pub(crate) struct Batch {
    /// What to send.
    pub(crate) commands: Pipeline,
    /// What not to send, by position in the request, in ascending order.
    pub(crate) refused: Vec<(usize, Refusal)>,
}

/// Why a body is no command. The texts are those that clients of the dialect know, with the place after a colon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// Not a JSON array of strings, numbers and booleans.
    Command(String),
    /// An array without a command in it.
    EmptyCommand,
    /// Not a JSON array of command arrays.
    Pipeline(String),
    /// A pipeline without commands.
    EmptyPipeline,
    /// A pipeline that holds an array without a command in it.
    EmptyPipelineCommand,
    /// More commands than the limit given.
    TooLong(usize),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(detail) => write!(f, "ERR failed to parse command: {detail}"),
            Self::EmptyCommand => f.write_str("ERR empty command"),
            Self::Pipeline(detail) => write!(f, "ERR failed to parse pipeline request: {detail}"),
            Self::EmptyPipeline => f.write_str("ERR empty pipeline request"),
            Self::EmptyPipelineCommand => f.write_str("ERR empty pipeline command"),
            Self::TooLong(limit) => write!(f, "ERR pipeline request has more than {limit} commands"),
        }
    }
}

/// A command that cannot work over a shared connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    name: String,
    reason: &'static str,
}

impl Refusal {
    /// Whether `command` has to be refused. Names are compared without case, as Redis does.
    pub(crate) fn of(command: &Cmd) -> Option<Self> {
        let mut args = command.args_iter().map(|arg| match arg {
            Arg::Simple(bytes) => bytes,
            _ => &[],
        });
        let name = args.next()?;
        let mut upper = [0; LONGEST_NAME];
        let reason = match uppercase(name, &mut upper)? {
            b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE"
            | b"SUNSUBSCRIBE" => "it turns the shared connection into a stream of messages",
            b"MONITOR" | b"SYNC" | b"PSYNC" | b"REPLCONF" => "it takes the shared connection over",
            b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" => {
                "transactions are sent whole, to `/multi-exec`"
            }
            b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BLMPOP" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX"
            | b"BZMPOP" | b"WAIT" | b"WAITAOF" => BLOCKS,
            b"XREAD" | b"XREADGROUP" if blocks(&mut args) => BLOCKS,
            b"HELLO" | b"AUTH" | b"SELECT" | b"QUIT" | b"RESET" | b"READONLY" | b"READWRITE" | b"ASKING" => {
                "it changes the shared connection"
            }
            b"CLIENT" if args.next().is_none_or(|subcommand| !client_is_harmless(subcommand)) => {
                "this subcommand changes the shared connection"
            }
            b"SCRIPT" if args.next().is_some_and(|subcommand| subcommand.eq_ignore_ascii_case(b"DEBUG")) => {
                "this subcommand takes the shared connection over"
            }
            _ => return None,
        };
        Some(Self { name: String::from_utf8_lossy(name).into_owned(), reason })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERR Command is not available: '{}': {}", self.name, self.reason)
    }
}

/// `name` in upper case, or nothing when it is longer than any name that matters.
fn uppercase<'a>(name: &[u8], upper: &'a mut [u8; LONGEST_NAME]) -> Option<&'a [u8]> {
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    Some(upper)
}

/// Whether the options of `XREAD` or `XREADGROUP` hold `BLOCK`. They come in any order before `STREAMS`, and a group may
/// be called `block`. What follows an unknown word is left to Redis, which stops there with a syntax error.
fn blocks<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    while let Some(option) = args.next() {
        let mut upper = [0; LONGEST_NAME];
        let values = match uppercase(option, &mut upper) {
            Some(b"BLOCK") => return true,
            Some(b"GROUP") => 2,
            Some(b"COUNT") => 1,
            Some(b"NOACK") => 0,
            _ => return false,
        };
        for _ in 0..values {
            args.next();
        }
    }
    false
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

/// Checks the whole body at once, which is faster than each of its strings.
fn utf8(body: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(body).map_err(|error| format!("not UTF-8 after byte {}", error.valid_up_to()))
}

fn parse_batch(body: &[u8], limit: usize, mut batch: Batch) -> Result<Batch, ParseError> {
    let body = utf8(body).map_err(ParseError::Pipeline)?;
    let mut json = serde_json::Deserializer::from_str(body);
    let mut problem = None;
    let seed = BatchSeed { batch: &mut batch, limit, problem: &mut problem };
    let result = seed.deserialize(&mut json).and_then(|()| json.end());
    match (problem, result) {
        (Some(problem), _) => Err(problem),
        (None, Err(error)) => Err(ParseError::Pipeline(error.to_string())),
        (None, Ok(())) => Ok(batch),
    }
}

/// Reads the array of commands. `problem` keeps what is wrong in our own words; serde can only carry a text.
struct BatchSeed<'a> {
    batch: &'a mut Batch,
    limit: usize,
    problem: &'a mut Option<ParseError>,
}

impl<'de> DeserializeSeed<'de> for BatchSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut position = 0;
        while let Some(command) = elements.next_element_seed(CommandSeed)? {
            let problem = if command.args_iter().len() == 0 {
                ParseError::EmptyPipelineCommand
            } else if position == self.limit {
                ParseError::TooLong(self.limit)
            } else {
                match Refusal::of(&command) {
                    Some(refusal) => self.batch.refused.push((position, refusal)),
                    None => _ = self.batch.commands.add_command(command),
                }
                position += 1;
                continue;
            };
            *self.problem = Some(problem);
            return Err(A::Error::custom("see problem"));
        }
        if position == 0 {
            *self.problem = Some(ParseError::EmptyPipeline);
        }
        Ok(())
    }
}

/// Reads one command.
struct CommandSeed;

impl<'de> DeserializeSeed<'de> for CommandSeed {
    type Value = Cmd;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Cmd, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for CommandSeed {
    type Value = Cmd;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command as an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Cmd, A::Error> {
        let mut command = Cmd::with_capacity(USUAL_ARGS, USUAL_BYTES);
        while let Some(argument) = elements.next_element::<&RawValue>()? {
            push_argument(&mut command, argument.get()).map_err(A::Error::custom)?;
        }
        Ok(command)
    }
}

/// What an `EVALSHA` with a digest, two keys and a few numbers takes, so that the usual command is allocated once.
const USUAL_ARGS: usize = 8;
const USUAL_BYTES: usize = 192;

/// Appends one JSON value, whose text is already known to be valid, as an argument.
fn push_argument(command: &mut Cmd, json: &str) -> Result<(), String> {
    let kind = match json.as_bytes() {
        [b'"', text @ .., b'"'] if !text.contains(&b'\\') => {
            command.write_arg(text);
            return Ok(());
        }
        [b'"', ..] => {
            let text: String = serde_json::from_str(json).map_err(|error| format!("a string has {error}"))?;
            command.write_arg(text.as_bytes());
            return Ok(());
        }
        // Numbers, `true` and `false` go as they were written.
        [b'-' | b'0'..=b'9' | b't' | b'f', ..] => {
            command.write_arg(json.as_bytes());
            return Ok(());
        }
        [b'[', ..] => "an array",
        [b'{', ..] => "an object",
        _ => "null",
    };
    let position = command.args_iter().len();
    Err(format!("argument {position} is {kind}, expected a string, a number or a boolean"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(command: &Cmd) -> Vec<&[u8]> {
        command
            .args_iter()
            .map(|arg| match arg {
                Arg::Simple(bytes) => bytes,
                _ => unreachable!(),
            })
            .collect()
    }

    fn refused(words: &str) -> bool {
        let mut command = Cmd::new();
        words.split(' ').for_each(|word| command.write_arg(word.as_bytes()));
        Refusal::of(&command).is_some()
    }

    #[test]
    fn numbers_keep_their_text() {
        let body =
            br#" [ "SET" , 1.0, 1e21, -0, 18446744073709551616, 9007199254740993, 1E+2 , true,false ] "#;
        let command = parse_command(body).unwrap();
        let expected: [&[u8]; 9] = [
            b"SET",
            b"1.0",
            b"1e21",
            b"-0",
            b"18446744073709551616",
            b"9007199254740993",
            b"1E+2",
            b"true",
            b"false",
        ];
        assert_eq!(args(&command), expected);
    }

    #[test]
    fn strings_lose_their_escapes_and_nothing_else() {
        let command = parse_command(r#"["a\n\u00e9\ud83d\ude00\"", "", "é\u0000"]"#.as_bytes()).unwrap();
        let expected: [&[u8]; 3] = ["a\né😀\"".as_bytes(), b"", "é\0".as_bytes()];
        assert_eq!(args(&command), expected);
    }

    #[test]
    fn errors_begin_with_the_texts_of_the_dialect() {
        let command = |body: &str| parse_command(body.as_bytes()).map(drop).unwrap_err().to_string();
        assert_eq!(command("[]"), "ERR empty command");
        for body in [
            "",
            "{}",
            "null",
            "\"GET\"",
            "[\"GET\"",
            "[\"GET\",]",
            "[1 2]",
            "[\"GET\"]x",
            "[01]",
            "[\"\\ud800\"]",
        ] {
            assert!(command(body).starts_with("ERR failed to parse command: "), "{body}: {}", command(body));
        }
        for (body, text) in
            [("[\"a\",null]", "argument 1 is null"), ("[[]]", "0 is an array"), ("[{}]", "0 is an object")]
        {
            assert!(command(body).contains(text), "{}", command(body));
        }
        assert!(parse_command(b"[\"\xff\"]").is_err());

        let pipeline = |body: &str| parse_pipeline(body.as_bytes(), 2).map(drop).unwrap_err().to_string();
        assert_eq!(pipeline("[]"), "ERR empty pipeline request");
        assert_eq!(pipeline("[[\"PING\"],[]]"), "ERR empty pipeline command");
        assert_eq!(pipeline("[[1],[2],[3]]"), "ERR pipeline request has more than 2 commands");
        for body in ["", "{}", "[\"PING\"]", "[[\"PING\"]", "[[\"PING\"]]]", "[[null]]", "[null]"] {
            assert!(
                pipeline(body).starts_with("ERR failed to parse pipeline request: "),
                "{}",
                pipeline(body)
            );
        }
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
            "blpopx k",
            "averyveryverylongcommandname",
        ] {
            assert!(!refused(words), "{words}");
        }
        assert_eq!(
            parse_pipeline(br#"[["GET","a"],["QuiT"],["GET","b"]]"#, 9).unwrap().refused[0].1.to_string(),
            "ERR Command is not available: 'QuiT': it changes the shared connection"
        );
    }

    #[test]
    fn refused_commands_keep_their_position_and_are_not_sent() {
        let batch = parse_pipeline(br#"[["GET","a"],["AUTH","x"],["GET","b"]]"#, 9).unwrap();
        assert_eq!(batch.commands.len(), 2);
        assert_eq!(batch.refused.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1]);
        assert_eq!(parse_transaction(br#"[["GET","a"]]"#, 1).unwrap().commands.len(), 3);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(body: Vec<u8>) {
            let _ = parse_command(&body);
            let _ = parse_pipeline(&body, 3);
        }

        #[test]
        fn any_json_like_text_is_parsed_or_refused_without_a_panic(body in r#"[\[\]{}",:\\ntfu0-9eE+.\- é]{0,64}"#) {
            let _ = parse_command(body.as_bytes());
            let _ = parse_pipeline(body.as_bytes(), 3);
        }

        #[test]
        fn strings_written_by_serde_json_arrive_unchanged(words in prop::collection::vec(any::<String>(), 1..6)) {
            let command = parse_command(&serde_json::to_vec(&words).unwrap()).unwrap();
            prop_assert_eq!(args(&command), words.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
    }
}
