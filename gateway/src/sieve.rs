//! What Redis sends, made safe for redis-rs to read.
//!
//! redis-rs ends a connection when a reply does not parse, and with it every request of every client on it. Two replies
//! that Redis may well send do not parse: an error or status line that is not UTF-8 (`NOPE` with an argument of accented
//! letters is enough: the error repeats its arguments, cut off in the middle of a letter), and arrays nested deeper than
//! 100 (a script can build them). So this stands between the socket and redis-rs: it replaces what is not UTF-8 in lines
//! by U+FFFD and an array too deep by an error, and copies everything else. It follows RESP2, which is what Redis speaks
//! on a connection that asked for nothing else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose read side is sieved.
pub(crate) struct Sieve<S> {
    stream: S,
    chunk: Box<[u8]>,
    filter: Filter,
    /// Sieved bytes, of which the first `given` were handed on.
    sieved: Vec<u8>,
    given: usize,
}

impl<S> Sieve<S> {
    pub(crate) fn new(stream: S) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { stream, chunk, filter: Filter::default(), sieved: Vec::new(), given: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieve<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let rest = this.sieved.get(this.given..).unwrap_or_default();
            if !rest.is_empty() {
                let count = rest.len().min(out.remaining());
                out.put_slice(rest.get(..count).unwrap_or_default());
                this.given += count;
                return Poll::Ready(Ok(()));
            }
            this.sieved.clear();
            this.given = 0;
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.push(chunk.filled(), &mut this.sieved);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieve<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Where in the replies we are.
#[derive(Default)]
struct Filter {
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// Bytes of a string, and of the line end behind it, that are still to come.
    string: u64,
    /// The arrays we are inside, each with the number of its elements still to come; at most [`DEEPEST`], plus those
    /// inside an array that is left out.
    open: Vec<u64>,
    /// The depth of the array that is being left out.
    left_out: Option<usize>,
}

impl Filter {
    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.string > 0 {
                let count =
                    usize::try_from(self.string).map_or(bytes.len(), |string| string.min(bytes.len()));
                let (string, rest) = bytes.split_at(count);
                bytes = rest;
                self.copy(string, out);
                self.string -= count as u64;
                if self.string == 0 {
                    self.complete();
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                return;
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.take_line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.take_line(&whole, out);
            }
        }
    }

    fn take_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        match line.split_first() {
            Some((b'$', size)) => {
                self.copy(line, out);
                match count(size) {
                    Some(size) => self.string = size.saturating_add(2),
                    None => self.complete(),
                }
            }
            Some((b'*', size)) => match count(size) {
                Some(elements @ 1..) => {
                    if self.left_out.is_none() && self.open.len() == DEEPEST {
                        out.extend_from_slice(TOO_DEEP);
                        self.left_out = Some(self.open.len());
                    }
                    self.copy(line, out);
                    self.open.push(elements);
                }
                _ => {
                    self.copy(line, out);
                    self.complete();
                }
            },
            Some((b'+' | b'-', _)) => {
                self.copy(String::from_utf8_lossy(line).as_bytes(), out);
                self.complete();
            }
            _ => {
                self.copy(line, out);
                self.complete();
            }
        }
    }

    fn copy(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.left_out.is_none() {
            out.extend_from_slice(bytes);
        }
    }

    /// A value is complete, and with it perhaps the arrays it was the last element of.
    fn complete(&mut self) {
        while let Some(missing) = self.open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return;
            }
            self.open.pop();
            if self.left_out == Some(self.open.len()) {
                self.left_out = None;
            }
        }
    }
}

/// The number on a `$` or `*` line; nothing when it is negative, which is how RESP2 writes nil.
fn count(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.trim_end().parse().ok()
}

/// How many arrays redis-rs can be inside of when another value comes.
const DEEPEST: usize = 99;

const TOO_DEEP: &[u8] = b"-ERR reply is nested too deeply\r\n";

/// Read at once from the socket.
const CHUNK: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::parse_redis_value;

    use super::*;

    /// Everything that comes out when `bytes` arrive in pieces of `size`.
    fn sieved(bytes: &[u8], size: usize) -> Vec<u8> {
        let (mut filter, mut out) = (Filter::default(), Vec::new());
        bytes.chunks(size).for_each(|piece| filter.push(piece, &mut out));
        assert!(
            filter.line.is_empty()
                && filter.open.is_empty()
                && filter.left_out.is_none()
                && filter.string == 0
        );
        out
    }

    fn nested(depth: usize) -> Vec<u8> {
        let mut resp = b"*2\r\n".repeat(depth);
        resp.extend_from_slice(b"$2\r\nin\r\n");
        (0..depth).for_each(|_| resp.extend_from_slice(b":1\r\n"));
        resp
    }

    #[test]
    fn lines_that_are_not_utf8_get_replacement_characters() {
        for size in [1, 2, 3, 100] {
            assert_eq!(
                sieved(b"-ERR \xc3 x\r\n+\xff\r\n:1\r\n", size),
                "-ERR \u{fffd} x\r\n+\u{fffd}\r\n:1\r\n".as_bytes()
            );
            assert_eq!(sieved("-ERR é\r\n".as_bytes(), size), "-ERR é\r\n".as_bytes());
            assert_eq!(sieved(b"$3\r\n+\xff\n\r\n$-1\r\n*-1\r\n", size), b"$3\r\n+\xff\n\r\n$-1\r\n*-1\r\n");
        }
    }

    #[test]
    fn arrays_are_left_out_exactly_where_redis_rs_would_give_up() {
        assert!(parse_redis_value(&nested(DEEPEST)).is_ok());
        assert!(parse_redis_value(&nested(DEEPEST + 1)).is_err());
        assert_eq!(sieved(&nested(DEEPEST), 7), nested(DEEPEST));
        for depth in [DEEPEST + 1, 300] {
            let mut replies = nested(depth);
            replies.extend_from_slice(b"+after\r\n");
            let out = sieved(&replies, 7);
            assert!(parse_redis_value(&out).is_ok());
            assert!(out.ends_with(b":1\r\n+after\r\n"));
            assert!(out.windows(TOO_DEEP.len()).any(|window| window == TOO_DEEP));
        }
    }

    fn replies() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            "[+-][^\r\n]{0,12}".prop_map(|line| format!("{line}\r\n").into_bytes()),
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

    proptest! {
        #[test]
        fn well_formed_replies_pass_unchanged_in_pieces_of_any_size(
            replies in prop::collection::vec(replies(), 1..4), size in 1_usize..40,
        ) {
            let replies = replies.concat();
            prop_assert_eq!(sieved(&replies, size), replies);
        }

        #[test]
        fn any_bytes_are_sieved_without_a_panic(bytes: Vec<u8>, lines in "[$*+:\\-0-9\r\nx]{0,40}") {
            let mut out = Vec::new();
            Filter::default().push(&bytes, &mut out);
            Filter::default().push(lines.as_bytes(), &mut out);
        }
    }
}
