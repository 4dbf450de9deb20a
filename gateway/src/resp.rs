//! RESP2, the protocol of Redis: commands are written, replies are found and read where they lie.
//!
//! Replies are never turned into a tree of values: the connection only has to know where one ends, and whoever answers
//! a client goes through it once. RESP2 is what Redis speaks on a connection that asked for nothing else, and its five
//! kinds are the shapes of the dialect, so nothing has to be folded.

use std::fmt;
use std::ops::Range;

/// Writes a command of `count` arguments; the arguments have to follow, each by [`write_argument`].
pub(crate) fn write_command(out: &mut Vec<u8>, count: usize) {
    write_length(out, b'*', count);
}

/// Writes an argument of a command.
pub(crate) fn write_argument(out: &mut Vec<u8>, argument: &[u8]) {
    write_argument_of(out, argument.len(), |out| out.extend_from_slice(argument));
}

/// Writes an argument of `length` bytes, which are those that `write` writes.
pub(crate) fn write_argument_of(out: &mut Vec<u8>, length: usize, write: impl FnOnce(&mut Vec<u8>)) {
    write_length(out, b'$', length);
    write(out);
    out.extend_from_slice(b"\r\n");
}

/// A whole command from its words.
pub(crate) fn command<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = Vec::new();
    write_command(&mut out, words.len());
    words.iter().for_each(|word| write_argument(&mut out, word.as_ref()));
    out
}

fn write_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The arguments of a command that [`write_command`] and [`write_argument`] wrote.
#[derive(Clone, Debug)]
pub(crate) struct Arguments<'a>(Reader<'a>);

impl<'a> Arguments<'a> {
    /// The arguments of the command that `resp` begins with.
    pub(crate) fn of(resp: &'a [u8]) -> Self {
        let mut reader = Reader(resp);
        reader.next();
        Self(reader)
    }

    /// Where each is in `resp`, with what [`write_argument`] writes around it.
    pub(crate) fn places(resp: &'a [u8]) -> impl Iterator<Item = Range<usize>> {
        let mut arguments = Self::of(resp);
        std::iter::from_fn(move || {
            let start = resp.len() - arguments.0.0.len();
            arguments.next()?;
            Some(start..resp.len() - arguments.0.0.len())
        })
    }
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self.0.clone().next()? {
            Item::Bulk(argument) => {
                self.0.next();
                Some(argument)
            }
            // The next command.
            _ => None,
        }
    }
}

/// Finds where replies end in bytes that arrive in any pieces, and looks at no byte of a string. A
/// status or an error may be as long as a string: scripts make them.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// How far it has come.
    at: usize,
    /// Bytes of a string, and of the line end behind it, that are still to come.
    string: usize,
    /// Whether it is inside of a status or an error, whose length nobody says.
    in_text: bool,
    /// The arrays it is inside of, each with the number of elements still to come.
    open: Vec<u64>,
}

/// What Redis sent is no RESP2; where the next reply begins is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Scanner {
    /// Goes on in `bytes`, which hold the same as before and perhaps more behind it. `true` when a reply has become
    /// complete: it ends at [`Self::position`].
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<bool, Malformed> {
        loop {
            if self.string > 0 {
                let there = self.string.min(bytes.len().saturating_sub(self.at));
                self.at += there;
                self.string -= there;
                if self.string > 0 {
                    return Ok(false);
                }
                if self.complete() {
                    return Ok(true);
                }
            }
            let rest = bytes.get(self.at..).unwrap_or_default();
            if self.in_text {
                let Some(end) = memchr::memmem::find(rest, b"\r\n") else {
                    // A carriage return may be half of the line end.
                    self.at += rest.strip_suffix(b"\r").unwrap_or(rest).len();
                    return Ok(false);
                };
                self.at += end + 2;
                self.in_text = false;
                if self.complete() {
                    return Ok(true);
                }
                continue;
            }
            let kind = match rest.first() {
                None => return Ok(false),
                Some(b'+' | b'-') => {
                    self.at += 1;
                    self.in_text = true;
                    continue;
                }
                Some(kind) => kind,
            };
            let Some(end) = memchr::memchr(b'\n', rest) else {
                let may_go_on = matches!(kind, b':' | b'$' | b'*') && rest.len() < LONGEST_NUMBER;
                return if may_go_on { Ok(false) } else { Err(Malformed) };
            };
            let text = rest.get(1..end).and_then(|text| text.strip_suffix(b"\r")).ok_or(Malformed)?;
            self.at += end + 1;
            let more = match kind {
                b':' => {
                    if !is_integer(text) {
                        return Err(Malformed);
                    }
                    false
                }
                b'$' => match length(text)? {
                    Some(length) => {
                        self.string = usize::try_from(length).map_err(|_| Malformed)?.saturating_add(2);
                        true
                    }
                    None => false,
                },
                b'*' => match length(text)? {
                    Some(elements @ 1..) => {
                        self.open.push(elements);
                        true
                    }
                    Some(0) | None => false,
                },
                _ => return Err(Malformed),
            };
            if !more && self.complete() {
                return Ok(true);
            }
        }
    }

    /// Where the scanned bytes end.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are announced and still to come.
    pub(crate) fn missing(&self) -> usize {
        self.string
    }

    /// The scanned bytes were taken away: what comes next begins at zero.
    pub(crate) fn rebase(&mut self) {
        self.at = 0;
    }

    /// A value is complete, and with it perhaps the arrays it was the last element of; `true` when a reply is.
    fn complete(&mut self) -> bool {
        while let Some(missing) = self.open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redis sent something that is not RESP2")
    }
}

/// One piece of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A status such as `OK`.
    Status(&'a [u8]),
    /// An error: a code in capitals, and a text.
    Error(&'a [u8]),
    /// An integer, in digits.
    Integer(&'a [u8]),
    /// A string of any bytes.
    Bulk(&'a [u8]),
    /// No value.
    Nil,
    /// An array of that many values, which follow.
    Array(u64),
}

/// Goes through replies that a [`Scanner`] found complete.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The bytes of the next reply as a whole; nothing when there is none, or not all of it.
    pub(crate) fn reply(&mut self) -> Option<&'a [u8]> {
        let start = self.0;
        let mut missing = 1_u64;
        while missing > 0 {
            if let Item::Array(elements) = self.next()? {
                missing = missing.saturating_add(elements);
            }
            missing -= 1;
        }
        start.get(..start.len() - self.0.len())
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Item<'a>;

    /// The next piece; nothing at the end, and at what is not RESP2.
    fn next(&mut self) -> Option<Item<'a>> {
        let (kind, text) = self.0.split_first()?;
        let end = match kind {
            // Scripts make texts with half of a line end in them.
            b'+' | b'-' => memchr::memmem::find(text, b"\r\n")?,
            _ => memchr::memchr(b'\n', text)?.checked_sub(1)?,
        };
        let (text, rest) = text.split_at_checked(end)?;
        let rest = rest.strip_prefix(b"\r\n")?;
        self.0 = rest;
        Some(match kind {
            b'+' => Item::Status(text),
            b'-' => Item::Error(text),
            b':' => Item::Integer(text),
            b'$' => match length(text).ok()? {
                Some(length) => {
                    let (string, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                    self.0 = rest.get(2..)?;
                    Item::Bulk(string)
                }
                None => Item::Nil,
            },
            b'*' => length(text).ok()?.map_or(Item::Nil, Item::Array),
            _ => return None,
        })
    }
}

/// The length on a `$` or `*` line; nothing for `-1`, which is how RESP2 writes nil.
fn length(digits: &[u8]) -> Result<Option<u64>, Malformed> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 18 {
        return Err(Malformed);
    }
    let mut length = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Malformed);
        }
        length = length * 10 + u64::from(digit - b'0');
    }
    Ok(Some(length))
}

/// Whether JSON would read it as the same integer.
fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit)
}

/// Longer than any line that is a number, its kind and its end included.
const LONGEST_NUMBER: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the replies in `bytes` end when they arrive in pieces of `size`.
    fn ends(bytes: &[u8], size: usize) -> Result<Vec<usize>, Malformed> {
        let (mut scanner, mut ends) = (Scanner::default(), Vec::new());
        let mut there = 0;
        while there < bytes.len() {
            there = (there + size).min(bytes.len());
            while scanner.advance(&bytes[..there])? {
                ends.push(scanner.position());
            }
        }
        Ok(ends)
    }

    /// A reply as bytes, whatever is in it.
    pub(crate) fn replies() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            "([+]|-[A-Z]{1,8} )[^\r\n]{0,12}".prop_map(|line| format!("{line}\r\n").into_bytes()),
            any::<Vec<u8>>()
                .prop_map(|bytes| [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop::collection::vec(inner, 0..5)
                .prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    #[test]
    fn what_is_not_resp2_is_noticed() {
        for bytes in [
            &b"hello\r\n"[..],
            b"$x\r\n",
            b"$-2\r\n",
            b"$\r\n",
            b"*9999999999999999999\r\n",
            b":1x\r\n",
            b":\r\n",
            b":01\r\n",
            b":11111111111111111111111111111111111111111",
            b"%1\r\n",
            b"\r\n",
        ] {
            assert_eq!(ends(bytes, 1), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_status_and_an_error_are_passed_over_as_they_come() {
        for kind in ["+", "-", "*2\r\n:1\r\n-"] {
            let reply = format!("{kind}{}\r\n", "x\r".repeat(4000));
            for size in [1, 2, 1000, 10_000] {
                assert_eq!(ends(reply.as_bytes(), size), Ok(vec![reply.len()]), "{kind} {size}");
            }
            let (mut scanner, whole) = (Scanner::default(), reply.as_bytes());
            assert_eq!(scanner.advance(&whole[..whole.len() - 1]), Ok(false));
            assert_eq!(scanner.position(), whole.len() - 2, "all but the end may be thrown away");
            scanner.rebase();
            assert_eq!(scanner.advance(b"\r\n"), Ok(true));
        }
    }

    #[test]
    fn commands_are_read_as_they_were_written() {
        let mut resp = command(&["SET", "k", ""]);
        let rest = command(&[b"GET\r\n\xff"]);
        resp.extend_from_slice(&rest);
        assert_eq!(Arguments::of(&resp).collect::<Vec<_>>(), [&b"SET"[..], b"k", b""]);
        assert_eq!(Arguments::of(&rest).collect::<Vec<_>>(), [b"GET\r\n\xff"]);
    }

    proptest! {
        #[test]
        fn replies_end_where_they_end_in_pieces_of_any_size(
            replies in prop::collection::vec(replies(), 1..5), size in 1_usize..40,
        ) {
            let expected: Vec<usize> = replies
                .iter()
                .scan(0, |end, reply| {
                    *end += reply.len();
                    Some(*end)
                })
                .collect();
            let bytes = replies.concat();
            prop_assert_eq!(ends(&bytes, size), Ok(expected));
            let mut reader = Reader(&bytes);
            for reply in &replies {
                prop_assert_eq!(reader.reply(), Some(reply.as_slice()));
            }
            prop_assert_eq!(reader.reply(), None);
        }

        #[test]
        fn any_bytes_are_scanned_and_read_without_a_panic(bytes: Vec<u8>, lines in "[$*+:\\-0-9\r\nx]{0,40}") {
            for bytes in [bytes.as_slice(), lines.as_bytes()] {
                let _ = ends(bytes, 3);
                let mut reader = Reader(bytes);
                while reader.reply().is_some() {}
                Arguments::of(bytes).for_each(drop);
            }
        }
    }
}
