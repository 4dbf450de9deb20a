//! JSON as far as it is there: values one after the other, without a copy of the whole.
//!
//! A body that is decided on is a client's, is cut off after 64 KiB, and is read by an upstream that may be more lenient than we
//! are. So this reader needs no end, reads no further than it is asked to, and takes from each part the form that the most
//! lenient of the usual upstreams accepts:
//!
//! | what | who reads it |
//! | --- | --- |
//! | a byte order mark in front | Python, Jackson, Express |
//! | bytes that are not UTF-8, and lone surrogates, in texts | Go, JavaScript, Python |
//! | `NaN`, `Infinity`, `-Infinity` | Python |
//! | numbers of any size, containers of any depth | JavaScript, Go |
//!
//! Comments, single quotes and other extensions are no JSON here, and neither is UTF-16.
//!
//! It is ours because no reader that we found does this: `serde_json` refuses numbers beyond those of 64 bits wherever they
//! stand and texts that are not Unicode, and pull parsers without `std` have a fixed depth and a scratch buffer as long as the
//! longest text.

mod number;
mod pointer;
mod text;

use alloc::vec::Vec;

pub(crate) use number::Number;
pub(crate) use pointer::{Found, find, unescape};
pub(crate) use text::{Text, lower};

/// Reads a document from its beginning.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    /// What is left of it.
    rest: &'a [u8],
    /// How many containers may be open in a value that is skipped.
    max_depth: usize,
}

/// A value. Of a list or an object, what is in it has still to be read.
pub(crate) enum Value<'a> {
    Object,
    List,
    Text(Text<'a>),
    Number(Number<'a>),
    /// `NaN` or an infinity.
    NotANumber,
    Boolean(bool),
    Null,
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The document goes on, and the rest of it is not there.
    End,
    /// It is not JSON.
    Broken,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(document: &'a [u8]) -> Self {
        Self { rest: document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document), max_depth: usize::MAX }
    }

    /// The same for a document that is not JSON where it is deeper than that.
    pub(crate) fn bounded(document: &'a [u8], max_depth: usize) -> Self {
        Self { max_depth, ..Self::new(document) }
    }

    /// Reads a value; of a list or an object, its bracket.
    #[inline(never)]
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Stop> {
        match self.peek()? {
            b'{' => self.step().map(|()| Value::Object),
            b'[' => self.step().map(|()| Value::List),
            b'"' => self.text().map(Value::Text),
            b't' => self.word(b"true", Value::Boolean(true)),
            b'f' => self.word(b"false", Value::Boolean(false)),
            b'n' => self.word(b"null", Value::Null),
            b'N' => self.word(b"NaN", Value::NotANumber),
            b'I' => self.word(b"Infinity", Value::NotANumber),
            b'-' if self.rest.get(1) == Some(&b'I') => self.word(b"-Infinity", Value::NotANumber),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            _ => Err(Stop::Broken),
        }
    }

    /// The name of the next member of an open object, whose value comes next; `None` if that was all. `is_first` says whether
    /// none has been read.
    #[inline(never)]
    pub(crate) fn member(&mut self, is_first: bool) -> Result<Option<Text<'a>>, Stop> {
        if !self.goes_on(b'}', is_first)? {
            return Ok(None);
        }
        if self.peek()? != b'"' {
            return Err(Stop::Broken);
        }
        let name = self.text()?;
        if self.peek()? != b':' {
            return Err(Stop::Broken);
        }
        self.step()?;
        Ok(Some(name))
    }

    /// Whether a value of an open list comes next.
    #[inline(never)]
    pub(crate) fn element(&mut self, is_first: bool) -> Result<bool, Stop> {
        self.goes_on(b']', is_first)
    }

    /// Reads a value and everything in it.
    pub(crate) fn skip(&mut self) -> Result<(), Stop> {
        let value = self.value()?;
        self.skip_rest(&value)
    }

    /// Reads everything in a value that has just begun.
    #[inline(never)]
    pub(crate) fn skip_rest(&mut self, value: &Value<'a>) -> Result<(), Stop> {
        let mut open = Open::default();
        let mut is_first = open.push(value);
        while let Some(is_object) = open.last() {
            if open.depth > self.max_depth {
                return Err(Stop::Broken);
            }
            let goes_on = if is_object { self.member(is_first)?.is_some() } else { self.element(is_first)? };
            is_first = if goes_on {
                open.push(&self.value()?)
            } else {
                open.pop();
                false
            };
        }
        Ok(())
    }

    /// Whether nothing but blanks follows.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.peek() == Err(Stop::End)
    }

    /// Reads on to the next value, or past the bracket that closes.
    fn goes_on(&mut self, close: u8, is_first: bool) -> Result<bool, Stop> {
        match self.peek()? {
            byte if byte == close => self.step().map(|()| false),
            b',' if !is_first => {
                self.step()?;
                // Behind a comma, the bracket would be one comma too many.
                if self.peek()? == close { Err(Stop::Broken) } else { Ok(true) }
            }
            _ if is_first => Ok(true),
            _ => Err(Stop::Broken),
        }
    }

    /// The next byte that is no blank.
    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            match self.rest.split_first() {
                None => return Err(Stop::End),
                Some((b' ' | b'\t' | b'\n' | b'\r', rest)) => self.rest = rest,
                Some((byte, _)) => return Ok(*byte),
            }
        }
    }

    fn step(&mut self) -> Result<(), Stop> {
        self.rest = self.rest.get(1..).ok_or(Stop::End)?;
        Ok(())
    }

    fn word(&mut self, word: &[u8], value: Value<'a>) -> Result<Value<'a>, Stop> {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                Ok(value)
            }
            None if word.starts_with(self.rest) => Err(Stop::End),
            None => Err(Stop::Broken),
        }
    }

    /// Reads a text whose quote comes next.
    #[inline(never)]
    fn text(&mut self) -> Result<Text<'a>, Stop> {
        let inner = self.rest.get(1..).unwrap_or_default();
        let mut has_escapes = false;
        let mut at = 0;
        loop {
            match *inner.get(at).ok_or(Stop::End)? {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    at += text::escape_length(inner.get(at..).unwrap_or_default())?;
                }
                0..0x20 => return Err(Stop::Broken),
                _ => at += 1,
            }
        }
        let (raw, rest) = inner.split_at_checked(at).ok_or(Stop::End)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(Text::new(raw, has_escapes))
    }

    /// Reads a number, which ends where something else begins.
    #[inline(never)]
    fn number(&mut self) -> Result<Number<'a>, Stop> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = self.rest.iter().position(|byte| !is_part(byte)).ok_or(Stop::End)?;
        let (number, rest) = self.rest.split_at_checked(length).ok_or(Stop::End)?;
        self.rest = rest;
        Number::parse(number).ok_or(Stop::Broken)
    }
}

/// Which containers are open, a bit for each: as many as the document has bytes, without recursion.
#[derive(Default)]
struct Open {
    /// Those of the last up to 64.
    last: u64,
    depth: usize,
    before: Vec<u64>,
}

impl Open {
    /// Notes a container; whether the value is one.
    fn push(&mut self, value: &Value<'_>) -> bool {
        let is_object = match value {
            Value::Object => true,
            Value::List => false,
            _ => return false,
        };
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.before.push(self.last);
        }
        self.last = self.last << 1 | u64::from(is_object);
        self.depth += 1;
        true
    }

    /// Whether the innermost one is an object; `None` if none is open.
    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.last & 1 == 1)
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.last >>= 1;
        if self.depth.is_multiple_of(64) {
            self.last = self.before.pop().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;

    use proptest::prelude::*;

    use super::*;

    fn skipped(json: &[u8]) -> Result<(), Stop> {
        let mut reader = Reader::new(json);
        reader.skip()?;
        if reader.is_at_end() { Ok(()) } else { Err(Stop::Broken) }
    }

    #[test]
    fn what_is_no_json_is_broken_where_it_is_none() {
        for json in [
            "{a:1}",
            "{'a':1}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{\"a\":1]",
            "01",
            "-",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e+",
            "0x1",
            "--1",
            "tru ",
            "nul1",
            "\"\t\"",
            "\"\\q\"",
            "\"\\u12x4\"",
            "/**/1",
            "\u{feff}\u{feff}1",
            "{\"a\":1}}",
            "-Inf ",
        ] {
            assert_eq!(skipped(format!("{json} ").as_bytes()), Err(Stop::Broken), "{json}");
        }
    }

    #[test]
    fn every_beginning_of_a_document_lacks_its_end() {
        let json = r#" {"a\u00e9\n": [1, -2.5e+3, "x", true, false, null, NaN, -Infinity], "b": {"c": {}, "d": []}} "#;
        assert_eq!(skipped(json.as_bytes()), Ok(()));
        for length in 0..json.len() - 2 {
            assert_eq!(skipped(&json.as_bytes()[..length]), Err(Stop::End), "{}", &json[..length]);
        }
    }

    #[test]
    fn any_depth_is_read_without_recursion() {
        let deep = |depth: usize| {
            let mut json: Vec<u8> = Vec::new();
            for level in 0..depth {
                json.extend_from_slice(if level % 3 == 0 { b"[" } else { b"{\"a\":" });
            }
            json.push(b'0');
            for level in (0..depth).rev() {
                json.push(if level % 3 == 0 { b']' } else { b'}' });
            }
            json
        };
        for depth in [1, 63, 64, 65, 127, 128, 129, 200, 20_000] {
            let mut json = deep(depth);
            assert_eq!(skipped(&json), Ok(()), "{depth}");
            // The bracket of any level is the one that was opened there.
            for at in [json.len() - 1, json.len() - depth.div_ceil(2)] {
                let right = json[at];
                json[at] = if right == b']' { b'}' } else { b']' };
                assert_eq!(skipped(&json), Err(Stop::Broken), "{depth}");
                json[at] = right;
            }
        }
    }

    proptest! {
        /// What another reader accepts, this one does; what it refuses and this one does not is one of the leniencies.
        #[test]
        fn it_reads_what_serde_json_reads(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..20)) {
            let json: String = pieces.concat();
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok();
            let ours = skipped(format!("{json} ").as_bytes()).is_ok();
            let lenient = ["NaN", "Infinity", "\u{feff}", "\\ud800"].iter().any(|odd| json.contains(odd));
            prop_assert!(ours == theirs || (ours && lenient), "{json}");
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = skipped(&bytes);
        }
    }

    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"\"",
        "\"\\n\"",
        "\"\\ud800\"",
        "\"",
        "\\",
        "0",
        "1",
        "-",
        ".",
        "e",
        "E+",
        "12.5e-3",
        "true",
        "false",
        "null",
        "NaN",
        "Infinity",
        "\u{feff}",
        " ",
        "\n",
        "{\"a\":1}",
        "[1,2]",
        "\"é\"",
    ];
}
