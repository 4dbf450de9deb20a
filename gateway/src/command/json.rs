//! From a JSON body to commands.
//!
//! A body is a JSON array (one command) or an array of such arrays (a pipeline). It is read once, borrowing from it:
//! each argument goes from the body straight into the buffer that Redis is sent. A number arrives at Redis exactly as it
//! was written, because `1.0`, `1e21` and integers above 2^53 would not survive a double.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Batch, Builder, Rules};

/// Reads `["SET", "key", 1.0]`.
pub(crate) fn parse_command(body: &[u8], rules: &Rules) -> Result<Batch, ParseError> {
    let text = utf8(body).map_err(ParseError::Command)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut builder = Builder::new(body.len(), rules);
    CommandSeed(&mut builder)
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| ParseError::Command(error.to_string()))?;
    if builder.count() == 0 {
        return Err(ParseError::EmptyCommand);
    }
    builder.end_command();
    Ok(builder.build())
}

/// Reads `[["SET", "key", 1], ["GET", "key"]]`, at most `limit` commands.
pub(crate) fn parse_pipeline(body: &[u8], limit: usize, rules: &Rules) -> Result<Batch, ParseError> {
    let text = utf8(body).map_err(ParseError::Pipeline)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut builder = Builder::new(body.len(), rules);
    let mut problem = None;
    let seed = PipelineSeed { builder: &mut builder, limit, problem: &mut problem };
    let result = seed.deserialize(&mut json).and_then(|()| json.end());
    match (problem, result) {
        (Some(problem), _) => Err(problem),
        (None, Err(error)) => Err(ParseError::Pipeline(error.to_string())),
        (None, Ok(())) => Ok(builder.build()),
    }
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

/// Checks the whole body at once, which is faster than each of its strings.
fn utf8(body: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(body).map_err(|error| format!("not UTF-8 after byte {}", error.valid_up_to()))
}

/// Reads the array of commands. `problem` keeps what is wrong in our own words; serde can only carry a text.
struct PipelineSeed<'a, 'b> {
    builder: &'a mut Builder<'b>,
    limit: usize,
    problem: &'a mut Option<ParseError>,
}

impl<'de> DeserializeSeed<'de> for PipelineSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for PipelineSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(CommandSeed(self.builder))?.is_some() {
            let problem = if self.builder.count() == 0 {
                ParseError::EmptyPipelineCommand
            } else if self.builder.commands() == self.limit {
                ParseError::TooLong(self.limit)
            } else {
                self.builder.end_command();
                continue;
            };
            *self.problem = Some(problem);
            return Err(A::Error::custom("see problem"));
        }
        if self.builder.commands() == 0 {
            *self.problem = Some(ParseError::EmptyPipeline);
        }
        Ok(())
    }
}

/// Reads the arguments of one command.
struct CommandSeed<'a, 'b>(&'a mut Builder<'b>);

impl<'de> DeserializeSeed<'de> for CommandSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for CommandSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command as an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(argument) = elements.next_element::<&RawValue>()? {
            push_argument(self.0, argument.get()).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Appends one JSON value, whose text is already known to be valid, as an argument.
fn push_argument(builder: &mut Builder<'_>, json: &str) -> Result<(), String> {
    let kind = match json.as_bytes() {
        [b'"', text @ .., b'"'] if memchr::memchr(b'\\', text).is_none() => {
            builder.argument(text);
            return Ok(());
        }
        [b'"', ..] => {
            let text = Unescaped(json.get(1..json.len() - 1).unwrap_or_default());
            let length = text.clone().map(|piece| piece.map_or(0, |piece| piece.length())).sum();
            if text.clone().any(|piece| piece.is_err()) {
                return Err("a string has half of a surrogate pair".to_owned());
            }
            builder.argument_of(length, |out| text.flatten().for_each(|piece| piece.write(out)));
            return Ok(());
        }
        // Numbers, `true` and `false` go as they were written.
        [b'-' | b'0'..=b'9' | b't' | b'f', ..] => {
            builder.argument(json.as_bytes());
            return Ok(());
        }
        [b'[', ..] => "an array",
        [b'{', ..] => "an object",
        _ => "null",
    };
    let position = builder.count();
    Err(format!("argument {position} is {kind}, expected a string, a number or a boolean"))
}

/// What stands in a JSON string, whose text is already known to be valid. It comes piece by piece,
/// so that what is large is not there once more.
#[derive(Clone)]
struct Unescaped<'a>(&'a str);

/// Some of it.
enum Piece<'a> {
    /// As it was written.
    Run(&'a str),
    /// What was escaped.
    Char(char),
}

/// Half of a surrogate pair, which is no character.
struct Half;

impl<'a> Iterator for Unescaped<'a> {
    type Item = Result<Piece<'a>, Half>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0;
        let end = memchr::memchr(b'\\', text.as_bytes()).unwrap_or(text.len());
        if end > 0 {
            let (run, rest) = text.split_at_checked(end)?;
            self.0 = rest;
            return Some(Ok(Piece::Run(run)));
        }
        let (escape, mut length) = (text.as_bytes().get(1)?, 2);
        let char = match escape {
            b'b' => Some('\x08'),
            b'f' => Some('\x0c'),
            b'n' => Some('\n'),
            b'r' => Some('\r'),
            b't' => Some('\t'),
            b'u' => {
                let first = unit(text)?;
                let second = text.get(6..).filter(|_| (0xd800..0xdc00).contains(&first)).and_then(unit);
                length = if second.is_some() { 12 } else { 6 };
                char::decode_utf16([first].into_iter().chain(second)).next().and_then(Result::ok)
            }
            other => Some(char::from(*other)),
        };
        self.0 = text.get(length..)?;
        Some(char.map(Piece::Char).ok_or(Half))
    }
}

impl Piece<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Run(text) => text.len(),
            Self::Char(char) => char.len_utf8(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Run(text) => out.extend_from_slice(text.as_bytes()),
            Self::Char(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The unit of UTF-16 that an escape with four digits begins with.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::growth;
    use super::*;

    fn arguments(batch: &Batch) -> Vec<&[u8]> {
        batch.arguments(batch.sending().next().unwrap()).collect()
    }

    #[test]
    fn numbers_keep_their_text() {
        let body =
            br#" [ "SET" , 1.0, 1e21, -0, 18446744073709551616, 9007199254740993, 1E+2 , true,false ] "#;
        let command = parse_command(body, &Rules::default()).unwrap();
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
        assert_eq!(arguments(&command), expected);
    }

    #[test]
    fn strings_lose_their_escapes_and_nothing_else() {
        let command =
            parse_command(r#"["a\n\u00e9\ud83d\ude00\"", "", "é\u0000"]"#.as_bytes(), &Rules::default())
                .unwrap();
        let expected: [&[u8]; 3] = ["a\né😀\"".as_bytes(), b"", "é\0".as_bytes()];
        assert_eq!(arguments(&command), expected);
    }

    #[test]
    fn a_body_becomes_no_larger_than_was_foretold() {
        for (body, times) in
            [("1,", 20_000), ("\"\",", 20_000), ("\"0123456789\",", 2000), ("\"a,[b\",", 9000)]
        {
            let command = format!("[{}1]", body.repeat(times));
            for json in
                [format!("[{}]", [command.as_str(); 3].join(",")), format!("[{}[1]]", "[1],".repeat(9000))]
            {
                let batch = parse_pipeline(json.as_bytes(), 10_000, &Rules::default()).unwrap();
                let most = json.len() + growth(json.as_bytes(), 10_000);
                assert!(batch.size(1) <= most, "{body}: {} {most}", batch.size(1));
            }
        }
    }

    #[test]
    fn what_looks_like_arguments_in_a_string_is_none() {
        let inside = r#"1,[\",\\\",\u002c"#.repeat(5000);
        let body = format!(r#"["SET","{inside}","\\",1]"#);
        assert_eq!(growth(body.as_bytes(), 10), 3 * (6 + 24) + 256);
        for broken in [&body[..body.len() - 4], &body[..body.len() - 7], &body[..70_001]] {
            assert!(growth(broken.as_bytes(), 10) <= 3 * (6 + 24) + 256);
        }
    }

    #[test]
    fn a_command_has_as_many_arguments_as_any_redis_takes() {
        let answer = |arguments: usize| {
            let body = format!("[[\"DEL\",{}1],[\"GET\",\"k\"]]", "1,".repeat(arguments - 2));
            let batch = parse_pipeline(body.as_bytes(), 2, &Rules::default()).unwrap();
            let sent: Vec<usize> = batch.sending().map(|sending| batch.arguments(sending).count()).collect();
            (batch.refusal().map(str::to_owned), sent, batch.resp().len())
        };
        assert_eq!(answer(12), (None, vec![12, 2], 111));
        assert_eq!(answer(1 << 20).1, [1 << 20, 2]);
        let text = "ERR a command may have no more than 1048576 arguments";
        assert_eq!(answer((1 << 20) + 1), (Some(text.into()), vec![2], 20));
    }

    #[test]
    fn errors_begin_with_the_texts_of_the_dialect() {
        let command =
            |body: &str| parse_command(body.as_bytes(), &Rules::default()).map(drop).unwrap_err().to_string();
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
        assert!(parse_command(b"[\"\xff\"]", &Rules::default()).is_err());

        let pipeline = |body: &str| {
            parse_pipeline(body.as_bytes(), 2, &Rules::default()).map(drop).unwrap_err().to_string()
        };
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

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(body: Vec<u8>) {
            let _ = parse_command(&body, &Rules::default());
            let _ = parse_pipeline(&body, 3, &Rules::default());
        }

        #[test]
        fn any_json_like_text_is_parsed_or_refused_without_a_panic(body in r#"[\[\]{}",:\\ntfu0-9eE+.\- é]{0,64}"#) {
            let _ = parse_command(body.as_bytes(), &Rules::default());
            let _ = parse_pipeline(body.as_bytes(), 3, &Rules::default());
        }

        #[test]
        fn strings_mean_what_serde_json_reads(text in r#"(\\[bfnrt/"\\]|\\u[0-9a-fA-F]{4}|\\u[dD][89a-fA-F][0-9a-f]{2}|[a-é😀]){0,8}"#) {
            let command = parse_command(format!("[\"ECHO\",\"{text}\"]").as_bytes(), &Rules::default());
            match serde_json::from_str::<String>(&format!("\"{text}\"")) {
                Ok(expected) => {
                    let batch = command.unwrap();
                    prop_assert_eq!(arguments(&batch)[1], expected.as_bytes());
                }
                Err(_) => prop_assert!(command.is_err()),
            }
        }

        #[test]
        fn strings_written_by_serde_json_arrive_unchanged(words in prop::collection::vec(any::<String>(), 1..6)) {
            let command = parse_command(&serde_json::to_vec(&words).unwrap(), &Rules::default()).unwrap();
            prop_assert_eq!(arguments(&command), words.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
    }
}
