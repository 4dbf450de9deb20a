//! From what Redis answered to what the dialect says, written without a tree in between: small answers into one buffer, large
//! ones piece by piece as the client takes them, because JSON may be six times as large as what it says.
//!
//! Values have the shapes of RESP2: nil is null, integers are numbers, everything else is a string or an array. Errors
//! keep the text Redis gave them, because clients match on the code in front (`NOSCRIPT …`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use bytes::{Buf as _, Bytes};

use crate::backend::{Each, Replies};
use crate::command::{Batch, Entry, Sending};
use crate::resp::{Item, Reader};

/// How the strings of results are written. Errors are always plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON strings; what is not UTF-8 becomes U+FFFD.
    Text,
    /// As base64, except a bare `OK`: `Upstash-Encoding: base64`.
    Base64,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON.
    Json(Encoding),
    /// What Redis sent: `Upstash-Response-Format: resp2`.
    Resp2,
}

impl Format {
    /// The value of `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Resp2 => "application/octet-stream",
        }
    }
}

/// The answer to one command, which was sent.
pub(crate) fn write_result(out: &mut Vec<u8>, sending: &Sending, reply: &[u8], format: Format) {
    match (format, sending.digest) {
        (_, Some(digest)) if error(reply).is_none() => {
            let own = [b"$40\r\n", &digest[..], b"\r\n"].concat();
            write_own(out, &own, format);
        }
        _ => write_own(out, reply, format),
    }
}

/// The answers to all commands of a batch.
#[derive(Debug)]
pub(crate) struct Results {
    /// In order: a JSON array, or one RESP2 reply after the other.
    pub(crate) body: Vec<u8>,
    /// How many commands were refused.
    pub(crate) refused: usize,
    /// How many of the replies are errors.
    pub(crate) errors: usize,
    /// How many commands have no reply.
    pub(crate) unanswered: usize,
}

/// Writes the answers to all commands of a batch.
pub(crate) fn write_results(batch: &Batch, replies: &Replies, format: Format) -> Results {
    let (mut refused, mut errors, mut unanswered) = (0, 0, 0);
    let mut out = Vec::with_capacity(2 + batch.entries().len() * USUAL_RESULT);
    let mut replies = replies.iter();
    let json = matches!(format, Format::Json(_));
    if json {
        out.push(b'[');
    }
    for (position, entry) in batch.entries().iter().enumerate() {
        if json && position > 0 {
            out.push(b',');
        }
        match entry {
            Entry::Refused(text) => {
                refused += 1;
                write_failure(&mut out, text, format);
            }
            Entry::Send(sending) => match replies.next() {
                Some(Ok(reply)) => {
                    errors += usize::from(reply.first() == Some(&b'-'));
                    write_result(&mut out, sending, reply, format);
                }
                Some(Err(failure)) => {
                    unanswered += 1;
                    write_failure(&mut out, &failure.to_string(), format);
                }
                None => {
                    unanswered += 1;
                    write_failure(&mut out, NO_REPLY, format);
                }
            },
        }
    }
    if json {
        out.push(b']');
    }
    Results { body: out, refused, errors, unanswered }
}

/// The answers to commands, written piece by piece. What Redis sent is kept until it is written, and nothing else is.
#[derive(Debug)]
pub(crate) struct Pieces {
    entries: std::vec::IntoIter<Entry>,
    replies: Each,
    format: Format,
    /// Whether this is an array of answers.
    several: bool,
    /// Bytes that Redis sent for it.
    came: usize,
    state: State,
    /// The answer at hand, if it is large.
    value: Option<Value>,
    sizes: Sizes,
}

/// How far an answer has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Begun,
    Over,
}

/// In bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Pieces are about as large.
    piece: usize,
    /// What is written of a string at once.
    chunk: usize,
}

impl Pieces {
    /// The answers to all commands, or to the only one.
    pub(crate) fn new(entries: Vec<Entry>, replies: Replies, format: Format, several: bool) -> Self {
        let sizes = Sizes { piece: PIECE, chunk: CHUNK };
        let came = replies.size();
        let (entries, replies) = (entries.into_iter(), replies.each());
        Self { entries, replies, format, several, came, state: State::New, value: None, sizes }
    }

    /// Bytes that Redis sent for it: how many it becomes, nobody knows before it is written.
    pub(crate) fn came(&self) -> usize {
        self.came
    }

    /// Whether there is no more.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The next piece; nothing after the last.
    pub(crate) fn next_piece(&mut self) -> Option<Bytes> {
        if self.is_over() {
            return None;
        }
        let json = matches!(self.format, Format::Json(_));
        let Sizes { piece, chunk } = self.sizes;
        let mut out = Vec::with_capacity(piece + LARGEST_AS_TEXT * chunk);
        while out.len() < piece {
            if let Some(value) = &mut self.value {
                if value.write(&mut out, self.sizes) {
                    self.value = None;
                    out.extend_from_slice(if json { b"}" } else { b"" });
                }
                continue;
            }
            let separator = match (json && self.several, self.state) {
                (false, _) => &b""[..],
                (true, State::New) => b"[",
                (true, _) => b",",
            };
            match self.entries.next() {
                Some(entry) => {
                    out.extend_from_slice(separator);
                    self.state = State::Begun;
                    self.begin(&entry, &mut out);
                }
                None => {
                    out.extend_from_slice(if json && self.several { b"]" } else { b"" });
                    self.state = State::Over;
                    break;
                }
            }
        }
        Some(out.into())
    }

    /// Writes the answer to a command, or begins to.
    fn begin(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let sending = match entry {
            Entry::Refused(text) => return write_failure(out, text, self.format),
            Entry::Send(sending) => sending,
        };
        let reply = match self.replies.next() {
            Some(Ok(reply)) => reply,
            Some(Err(failure)) => return write_failure(out, &failure.to_string(), self.format),
            None => return write_failure(out, NO_REPLY, self.format),
        };
        if reply.len() <= self.sizes.chunk {
            return write_result(out, sending, &reply, self.format);
        }
        match self.format {
            Format::Resp2 => self.value = Some(Value::new(reply, None)),
            Format::Json(_) if error(&reply).is_some() => {
                out.extend_from_slice(br#"{"error":"#);
                self.value = Some(Value::new(reply, Some(Encoding::Text)));
            }
            Format::Json(_) if is_too_deep(&reply) => write_error(out, TOO_DEEP),
            Format::Json(encoding) => {
                out.extend_from_slice(br#"{"result":"#);
                self.value = Some(Value::new(reply, Some(encoding)));
            }
        }
    }
}

/// A large reply that is being written.
#[derive(Debug)]
struct Value {
    /// What is left of it.
    rest: Bytes,
    /// How its strings are written; nothing when it is written as it is.
    encoding: Option<Encoding>,
    /// How many values are missing in each array we are inside of.
    open: Vec<u64>,
    /// What is left of the string at hand.
    string: Option<Bytes>,
}

impl Value {
    fn new(reply: Bytes, encoding: Option<Encoding>) -> Self {
        Self { rest: reply, encoding, open: Vec::new(), string: None }
    }

    /// Writes about a piece of it; `true` when that was the last.
    fn write(&mut self, out: &mut Vec<u8>, sizes: Sizes) -> bool {
        let Some(encoding) = self.encoding else {
            let part = self.rest.split_to(self.rest.len().min(sizes.piece));
            out.extend_from_slice(&part);
            return self.rest.is_empty();
        };
        while out.len() < sizes.piece {
            if let Some(string) = &mut self.string {
                let part = string.split_to(cut(string, sizes.chunk, encoding));
                match encoding {
                    Encoding::Text => write_lossy(out, &part),
                    Encoding::Base64 => out.extend_from_slice(STANDARD.encode(&part).as_bytes()),
                }
                if !string.is_empty() {
                    continue;
                }
                out.push(b'"');
                self.string = None;
            } else {
                let mut reader = Reader(&self.rest);
                // It was found complete.
                let Some(item) = reader.next() else { return true };
                let read = self.rest.len() - reader.0.len();
                match item {
                    Item::Status(text) | Item::Bulk(text) | Item::Error(text) if text.len() > sizes.chunk => {
                        self.string = Some(self.rest.slice_ref(text));
                        self.rest.advance(read);
                        out.push(b'"');
                        continue;
                    }
                    Item::Status(text) | Item::Bulk(text) | Item::Error(text) => {
                        write_string(out, text, encoding);
                    }
                    Item::Integer(digits) => out.extend_from_slice(digits),
                    Item::Nil => out.extend_from_slice(b"null"),
                    Item::Array(0) => out.extend_from_slice(b"[]"),
                    Item::Array(elements) => {
                        out.push(b'[');
                        self.open.push(elements);
                        self.rest.advance(read);
                        continue;
                    }
                }
                self.rest.advance(read);
            }
            if close(out, &mut self.open) {
                return true;
            }
        }
        false
    }
}

/// How much of a string is written at once: what lies behind never changes what was before it.
fn cut(string: &[u8], most: usize, encoding: Encoding) -> usize {
    if string.len() <= most {
        return string.len();
    }
    match encoding {
        // A multiple of what becomes four characters.
        Encoding::Base64 => (most - most % 3).max(3).min(string.len()),
        Encoding::Text => {
            // In front of a character. Four bytes that go on with one, in a row, are none.
            let goes_on = |at: &usize| string.get(*at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
            (most.saturating_sub(3)..=most).rev().find(|at| *at > 0 && !goes_on(at)).unwrap_or(most)
        }
    }
}

/// Whether a reply has more than [`DEEPEST`] arrays inside of each other.
fn is_too_deep(reply: &[u8]) -> bool {
    let mut open: Vec<u64> = Vec::new();
    for item in Reader(reply) {
        match item {
            Item::Array(elements @ 1..) => {
                if open.len() == DEEPEST {
                    return true;
                }
                open.push(elements);
            }
            _ => {
                while let Some(missing) = open.last_mut() {
                    *missing -= 1;
                    if *missing > 0 {
                        break;
                    }
                    open.pop();
                }
            }
        }
    }
    false
}

/// An error that does not come from Redis.
pub(crate) fn write_failure(out: &mut Vec<u8>, text: &str, format: Format) {
    match format {
        Format::Json(_) => write_error(out, text.as_bytes()),
        Format::Resp2 => {
            out.push(b'-');
            // A line of RESP2 ends with the first line break.
            out.extend(text.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn write_own(out: &mut Vec<u8>, reply: &[u8], format: Format) {
    match format {
        Format::Json(encoding) => write_reply(out, reply, encoding),
        Format::Resp2 => out.extend_from_slice(reply),
    }
}

/// `{"result":…}`, or `{"error":"…"}` when Redis answered an error. `reply` is a whole one.
fn write_reply(out: &mut Vec<u8>, reply: &[u8], encoding: Encoding) {
    let start = out.len();
    let mut reader = Reader(reply);
    match reader.next() {
        Some(Item::Error(text)) => write_error(out, text),
        // SDKs take a bare OK as it is; inside an array they decode every string.
        Some(Item::Status(b"OK")) => out.extend_from_slice(br#"{"result":"OK"}"#),
        Some(first) => {
            out.extend_from_slice(br#"{"result":"#);
            if write_value(out, first, &mut reader, encoding).is_some() {
                out.push(b'}');
            } else {
                out.truncate(start);
                write_error(out, TOO_DEEP);
            }
        }
        None => write_error(out, NO_REPLY.as_bytes()),
    }
}

/// `{"error":"…"}`.
pub(crate) fn write_error(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(br#"{"error":"#);
    write_text(out, text);
    out.push(b'}');
}

/// The error that a reply is.
pub(crate) fn error(reply: &[u8]) -> Option<&[u8]> {
    match Reader(reply).next() {
        Some(Item::Error(text)) => Some(text),
        _ => None,
    }
}

/// Writes `first` and what belongs to it; nothing when that is nested more than [`DEEPEST`] arrays deep.
fn write_value(out: &mut Vec<u8>, first: Item<'_>, rest: &mut Reader<'_>, encoding: Encoding) -> Option<()> {
    // How many values are missing in each array we are inside of.
    let mut open: Vec<u64> = Vec::new();
    let mut item = first;
    loop {
        match item {
            Item::Integer(digits) => out.extend_from_slice(digits),
            // A script can put an error into a table. It has no place of its own in the dialect, so its text stands there.
            Item::Status(text) | Item::Bulk(text) | Item::Error(text) => write_string(out, text, encoding),
            Item::Nil => out.extend_from_slice(b"null"),
            Item::Array(0) => out.extend_from_slice(b"[]"),
            Item::Array(elements) => {
                if open.len() == DEEPEST {
                    return None;
                }
                out.push(b'[');
                open.push(elements);
                item = rest.next()?;
                continue;
            }
        }
        if close(out, &mut open) {
            return Some(());
        }
        item = rest.next()?;
    }
}

/// A value is written, and with it perhaps the arrays it was the last element of; `true` when all are.
fn close(out: &mut Vec<u8>, open: &mut Vec<u64>) -> bool {
    while let Some(missing) = open.last_mut() {
        *missing -= 1;
        if *missing > 0 {
            out.push(b',');
            return false;
        }
        out.push(b']');
        open.pop();
    }
    true
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::Text => write_text(out, bytes),
        Encoding::Base64 => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

fn write_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    write_lossy(out, bytes);
    out.push(b'"');
}

fn write_lossy(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        write_escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Copies runs of plain bytes at once; only what JSON forbids inside a string is replaced.
fn write_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(plain) = text.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        let (run, rest) = text.split_at(plain);
        out.extend_from_slice(run);
        let Some((&special, rest)) = rest.split_first() else { break };
        text = rest;
        match special {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            control => {
                let digit = |number: u8| HEX.get(usize::from(number)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control & 15)]);
            }
        }
    }
    out.extend_from_slice(text);
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What `{"result":[1,99,60000]}` takes, with room to spare.
const USUAL_RESULT: usize = 48;

const NO_REPLY: &str = "ERR redis gave no reply";
const TOO_DEEP: &[u8] = b"ERR the reply of redis is nested too deeply";

/// Bytes of a piece, and of what is written of a string at once.
const PIECE: usize = 32 << 10;
const CHUNK: usize = 4 << 10;

/// A byte becomes that many at most: `\u0000`.
const LARGEST_AS_TEXT: usize = 6;

/// Parsers of JSON give up at a depth; those of the clients bear more than this.
const DEEPEST: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::{Value, parse_redis_value};
    use serde_json::json;

    use super::*;
    use crate::resp::Scanner;
    use crate::resp::tests::replies;

    fn written(resp: &[u8], encoding: Encoding) -> String {
        let mut out = Vec::new();
        write_reply(&mut out, resp, encoding);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_have_the_shapes_of_resp2() {
        for (resp, expected) in [
            (&b"$-1\r\n"[..], r#"{"result":null}"#),
            (b"*-1\r\n", r#"{"result":null}"#),
            (b":-9223372036854775808\r\n", r#"{"result":-9223372036854775808}"#),
            (b"+OK\r\n", r#"{"result":"OK"}"#),
            (b"+PONG\r\n", r#"{"result":"PONG"}"#),
            (b"$5\r\na\"\\\n\x01\r\n", r#"{"result":"a\"\\\n\u0001"}"#),
            (b"$3\r\na\xffb\r\n", "{\"result\":\"a\u{fffd}b\"}"),
            (b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n", r#"{"result":[1,["a"],null]}"#),
            (b"*2\r\n*0\r\n*1\r\n*0\r\n", r#"{"result":[[],[[]]]}"#),
        ] {
            assert_eq!(written(resp, Encoding::Text), expected);
        }
    }

    #[test]
    fn errors_keep_the_text_of_redis() {
        for error in [
            "NOSCRIPT No matching script. Please use EVAL.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'x', with args beginning with: 'y'",
            "MYCODE  two spaces",
            "ALONE",
            "ERR",
            "MOVED 3999 127.0.0.1:6381",
        ] {
            let reply = format!("-{error}\r\n");
            assert_eq!(written(reply.as_bytes(), Encoding::Text), format!(r#"{{"error":"{error}"}}"#));
        }
        assert_eq!(written(b"*2\r\n:1\r\n-ERR inside\r\n", Encoding::Text), r#"{"result":[1,"ERR inside"]}"#);
        assert_eq!(written(b"-ERR \xc3 x\r\n", Encoding::Base64), "{\"error\":\"ERR \u{fffd} x\"}");
    }

    #[test]
    fn base64_leaves_a_bare_ok_numbers_and_errors_alone() {
        let encoded = |resp: &[u8]| written(resp, Encoding::Base64);
        assert_eq!(encoded(b"+OK\r\n"), r#"{"result":"OK"}"#);
        assert_eq!(encoded(b"+PONG\r\n"), r#"{"result":"UE9ORw=="}"#);
        assert_eq!(encoded(b"*2\r\n+OK\r\n:1\r\n"), r#"{"result":["T0s=",1]}"#);
        assert_eq!(encoded(b"$2\r\n\xff\xfe\r\n"), r#"{"result":"//4="}"#);
        assert_eq!(encoded(b"-ERR no\r\n"), r#"{"error":"ERR no"}"#);
    }

    #[test]
    fn arrays_are_written_as_deep_as_parsers_go() {
        let nested = |depth: usize| {
            let resp = [b"*2\r\n".repeat(depth), b"$2\r\nin\r\n".to_vec(), b":1\r\n".repeat(depth)].concat();
            serde_json::from_str::<serde_json::Value>(&written(&resp, Encoding::Text)).unwrap()
        };
        assert!(nested(100)["result"].is_array());
        assert!(written(&b"*1\r\n".repeat(DEEPEST + 1), Encoding::Text).contains("nested too deeply"));
    }

    /// What the JSON has to say, by way of somebody else's parser.
    fn expected(value: &Value, encoding: Encoding) -> serde_json::Value {
        let string = |bytes: &[u8]| match encoding {
            Encoding::Text => json!(String::from_utf8_lossy(bytes)),
            Encoding::Base64 => json!(STANDARD.encode(bytes)),
        };
        match value {
            Value::Nil => json!(null),
            Value::Int(number) => json!(number),
            Value::BulkString(bytes) => string(bytes),
            Value::SimpleString(text) => string(text.as_bytes()),
            Value::Okay => string(b"OK"),
            Value::Array(items) => items.iter().map(|item| expected(item, encoding)).collect(),
            Value::ServerError(error) => string(error_text(error).as_bytes()),
            other => panic!("{other:?} is not RESP2"),
        }
    }

    fn error_text(error: &redis::ServerError) -> String {
        match error.details() {
            Some(detail) => format!("{} {detail}", error.code()),
            None => error.code().to_owned(),
        }
    }

    #[test]
    fn strings_are_cut_where_no_character_is() {
        let whole = "aé😀\u{fffd}b".as_bytes();
        for bytes in
            [whole, &[b'x'; 40][..], &[0x80; 40], b"\xf0\x9f\x98", b"\xe9\x80\x80\x80\x80\x80\x80\x80\x80"]
        {
            for most in 1..bytes.len() {
                let (mut rest, mut text) = (bytes, String::new());
                while !rest.is_empty() {
                    let (part, more) = rest.split_at(cut(rest, most, Encoding::Text));
                    assert!(!part.is_empty());
                    text += &String::from_utf8_lossy(part);
                    rest = more;
                }
                assert!(most < 4 || text == String::from_utf8_lossy(bytes), "{most} {bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_the_whole(
            replies in prop::collection::vec(replies(), 1..5),
            text in prop::collection::vec(any::<char>(), 0..60),
            (piece, chunk) in (1_usize..200, 4_usize..40),
            resp2: bool,
            base64: bool,
            several: bool,
        ) {
            let encoding = if base64 { Encoding::Base64 } else { Encoding::Text };
            let format = if resp2 { Format::Resp2 } else { Format::Json(encoding) };
            let text: String = text.into_iter().collect();
            let mut replies = replies;
            replies.push([format!("${}\r\n", text.len()).as_bytes(), text.as_bytes(), b"\r\n"].concat());
            let first = usize::from(!several) * (replies.len() - 1);
            let replies = &replies[first..];
            let names = vec![r#"["PING"]"#; replies.len()].join(",");
            let rules = crate::command::Rules::default();
            let batch = crate::command::parse_pipeline(format!("[{names}]").as_bytes(), 100, &rules).unwrap();
            let came = Replies::whole(replies.concat().into(), replies.len());
            let mut whole = Vec::new();
            if several {
                whole = write_results(&batch, &came, format).body;
            } else if let Some(sending) = batch.sending().next() {
                write_result(&mut whole, sending, &replies[0], format);
            }
            let mut pieces = Pieces::new(batch.into_entries(), came, format, several);
            pieces.sizes = Sizes { piece, chunk };
            let mut joined = Vec::new();
            while let Some(part) = pieces.next_piece() {
                prop_assert!(part.len() <= piece + LARGEST_AS_TEXT * chunk + 200);
                joined.extend_from_slice(&part);
            }
            prop_assert_eq!(String::from_utf8_lossy(&joined), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn every_reply_becomes_the_json_that_says_the_same(reply in replies()) {
            let value = parse_redis_value(&reply).unwrap();
            for encoding in [Encoding::Text, Encoding::Base64] {
                let written: serde_json::Value = serde_json::from_str(&written(&reply, encoding)).unwrap();
                prop_assert_eq!(written, match &value {
                    Value::ServerError(error) => json!({ "error": error_text(error) }),
                    Value::Okay => json!({ "result": "OK" }),
                    value => json!({ "result": expected(value, encoding) }),
                });
            }
        }

        #[test]
        fn any_reply_becomes_json_without_a_panic(bytes: Vec<u8>, lines in "[$*+:0-9\r\nx-]{0,40}") {
            for bytes in [bytes.as_slice(), lines.as_bytes()] {
                if !Scanner::default().advance(bytes).is_ok_and(|complete| complete) {
                    continue;
                }
                let text = written(bytes, Encoding::Text);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }
}
