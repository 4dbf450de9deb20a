//! Subscriptions and monitors, as server-sent events.
//!
//! | Redis sends | the client is sent |
//! |---|---|
//! | the confirmation | `data: subscribe,news,1` |
//! | a message of a channel | `data: message,news,hello` |
//! | one of a pattern | `data: pmessage,n*,news,hello` |
//! | a command, to a monitor | `data: 1721284005.242090 [0 127.0.0.1:5] "GET" "k"` |
//!
//! A line break inside a message begins another line of its event, as the format of events has it. That line is `data:`
//! without the space which clients of the dialect look for: they take every line for a message, and a message could otherwise
//! pretend to be several. What is not UTF-8 becomes U+FFFD.
//!
//! Comments keep quiet streams alive and say why one ends. Nothing is queued here: while a client does not read, nothing is
//! read from Redis, which ends such a stream by its own rules, if the gateway's have not done so before.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Failure, Kind};
use super::route::Route;
use super::worker::Worker;
use crate::backend::{self, StreamEnd, StreamError, StreamKind};
use crate::command;
use crate::resp::{Item, Reader};

/// A stream that goes on until Redis, the client or the gateway ends it.
pub(crate) struct Events(Option<Next>);

/// The next events as text, and what comes after them.
type Next = Pin<Box<dyn Future<Output = (Option<Source>, Bytes)>>>;

/// Where events come from.
struct Source {
    stream: backend::Stream,
    worker: Rc<Worker>,
    stopping: watch::Receiver<bool>,
    /// When there has to be a sign of life.
    due: Instant,
}

impl Worker {
    /// Begins to listen to what a path names.
    pub(super) async fn listen(
        self: &Rc<Self>,
        route: Route,
        head: &Parts,
        tenant: usize,
    ) -> Result<Answer, Failure> {
        let (Some(rules), Some(backend)) =
            (self.shared.tenants.get(tenant).map(|tenant| &tenant.rules), self.backends.get(tenant))
        else {
            return Err(Failure::new(Kind::Unreachable, "ERR there is no Redis for this token"));
        };
        let name = name(head.uri.path());
        let (kind, stream) = match route {
            Route::Subscribe => (StreamKind::Subscribe, command::Stream::Channel(&name)),
            Route::PSubscribe => (StreamKind::PSubscribe, command::Stream::Pattern(&name)),
            _ => (StreamKind::Monitor, command::Stream::Monitor),
        };
        if name.is_empty() && kind != StreamKind::Monitor {
            let text = format!("ERR wrong number of arguments for '{}' command", route.name());
            return Err(Failure::new(Kind::Syntax, text));
        }
        if let Some(refusal) = rules.stream_refusal(stream) {
            return Err(Failure::new(Kind::Refused, refusal));
        }
        let stream = backend.stream(kind, &name).await.map_err(|error| match error {
            StreamError::Refused(text) => Failure::new(Kind::Redis, text),
            StreamError::Failed(failure) => failure.into(),
        })?;
        let source = Source {
            stream,
            worker: Rc::clone(self),
            stopping: self.shared.stopping.clone(),
            due: Instant::now() + HEARTBEAT,
        };
        Ok(Answer {
            content_type: "text/event-stream",
            events: Some(Events(Some(Box::pin(source.next())))),
            ..Answer::json(StatusCode::OK, Vec::new())
        })
    }
}

impl Events {
    /// The next events as they are sent; nothing after the last.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(next) = &mut self.0 else { return Poll::Ready(None) };
        let (source, text) = ready!(next.as_mut().poll(cx));
        self.0 = source.map(|source| Box::pin(source.next()) as Next);
        Poll::Ready(Some(text))
    }

    /// Whether nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_none()
    }
}

impl Source {
    /// Waits for an event, and takes those along that are there already.
    async fn next(mut self) -> (Option<Self>, Bytes) {
        let mut text = String::new();
        let mut memory = self.worker.shared.memory.grant();
        while text.len() < AT_ONCE {
            let turn = tokio::select! {
                biased;
                came = self.stream.next() => Turn::Came(came),
                () = std::future::ready(()), if !text.is_empty() => Turn::Enough,
                _ = self.stopping.wait_for(|stopping| *stopping) => Turn::Stop,
                () = sleep_until(self.due) => Turn::Quiet,
            };
            match turn {
                Turn::Came(Ok(reply)) => {
                    let before = text.len();
                    // Some copies are made on the way.
                    if !memory.grow(before + COPIES * reply.len()) {
                        text.push_str(": there is no memory for a message\n\n");
                        return (None, text.into());
                    }
                    write_event(&mut text, &reply);
                    memory.shrink(text.len());
                    self.worker.recorder.message(text.len() - before);
                }
                Turn::Came(Err(end)) => {
                    text.push_str(&format!(": {end}\n\n"));
                    return (None, memory.hold(text.into()));
                }
                Turn::Stop => return (None, Bytes::from_static(b": the gateway is stopping\n\n")),
                Turn::Quiet => text.push_str(":\n\n"),
                Turn::Enough => break,
            }
        }
        self.due = Instant::now() + HEARTBEAT;
        (Some(self), memory.hold(text.into()))
    }
}

/// What a stream is at.
enum Turn {
    Came(Result<Bytes, StreamEnd>),
    /// Nothing more is there yet.
    Enough,
    /// Nothing came for long.
    Quiet,
    Stop,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("is_over", &self.is_over()).finish()
    }
}

/// What is listened to: all that follows the first segment of the path, because SDKs do not encode a `/` in a channel's name.
fn name(path: &str) -> Vec<u8> {
    let rest = path.get(1..).and_then(|path| path.split_once('/')).map_or("", |(_, rest)| rest);
    percent_decode_str(rest).collect()
}

/// Writes what Redis sent as one event.
fn write_event(out: &mut String, reply: &[u8]) {
    let mut reader = Reader(reply);
    let mut line = Vec::new();
    match reader.next() {
        Some(Item::Array(parts)) => {
            for part in 0..parts {
                if part > 0 {
                    line.push(b',');
                }
                if let Some(Item::Bulk(text) | Item::Status(text) | Item::Integer(text)) = reader.next() {
                    line.extend_from_slice(text);
                }
            }
        }
        // The word that a monitor begins with, as the dialect has it.
        Some(Item::Status(b"OK")) => line.extend_from_slice(b"\"OK\""),
        Some(Item::Status(text) | Item::Bulk(text) | Item::Error(text)) => line.extend_from_slice(text),
        _ => return,
    }
    let text = String::from_utf8_lossy(&line).replace("\r\n", "\n").replace('\r', "\n");
    for (number, line) in text.split('\n').enumerate() {
        // A space after the colon is not part of a line; where one begins with a space, it takes a second.
        out.push_str(if number == 0 || line.starts_with(' ') { "data: " } else { "data:" });
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}

/// How long a stream may be quiet before it gets a comment.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often a message is there while it becomes an event.
const COPIES: usize = 4;

/// Events that are sent at once, in bytes.
const AT_ONCE: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::command;

    fn event(words: &[&[u8]]) -> String {
        let mut out = String::new();
        write_event(&mut out, &command(words));
        out
    }

    /// What a reader of events makes of one, as the standard has it.
    fn read(event: &str) -> String {
        let lines = event.strip_suffix("\n\n").unwrap().split('\n');
        let data = lines.map(|line| line.strip_prefix("data:").unwrap());
        data.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn replies_become_events() {
        assert_eq!(event(&[b"message", b"news", b"a,b"]), "data: message,news,a,b\n\n");
        assert_eq!(event(&[b"pmessage", b"n*", b"news", b"\xff"]), "data: pmessage,n*,news,\u{fffd}\n\n");
        assert_eq!(
            event(&[b"message", b"n", b"a\nmessage,o,b\r c\r\n"]),
            "data: message,n,a\ndata:message,o,b\ndata:  c\ndata:\n\n"
        );
        let mut out = String::new();
        write_event(&mut out, b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        write_event(&mut out, b"+OK\r\n");
        write_event(&mut out, b"+1.5 [0 127.0.0.1:1] \"GET\" \"k\"\r\n");
        assert_eq!(
            out,
            "data: subscribe,news,1\n\ndata: \"OK\"\n\ndata: 1.5 [0 127.0.0.1:1] \"GET\" \"k\"\n\n"
        );
    }

    #[test]
    fn names_are_what_follows_the_first_segment() {
        for (path, expected) in [
            ("/subscribe/news", "news"),
            ("/subscribe/a%20b%2Fc", "a b/c"),
            ("/subscribe/a/b", "a/b"),
            ("/psubscribe/n*", "n*"),
            ("/subscribe/", ""),
            ("/subscribe", ""),
            ("/monitor", ""),
        ] {
            assert_eq!(name(path), expected.as_bytes(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_message_is_one_event_whatever_is_in_it(payload in "[a-c, \n\r:é]{0,20}|.{0,20}") {
            let event = event(&[b"message", b"news", payload.as_bytes()]);
            let expected = format!("message,news,{}", payload.replace("\r\n", "\n").replace('\r', "\n"));
            prop_assert_eq!(read(&event), expected);
            prop_assert_eq!(event.matches("\n\n").count(), 1);
            // Clients of the dialect take each line with a space for a message.
            let forged = event.split('\n').skip(1).filter_map(|line| line.strip_prefix("data: "));
            prop_assert!(forged.into_iter().all(|line| line.starts_with(' ')));
        }
    }
}
