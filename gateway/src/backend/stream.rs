//! What Redis pushes: messages of a channel or a pattern, or the commands that others send. Each stream has a connection of
//! its own.
//!
//! Nothing is read from Redis while nobody takes what came: Redis notices, and ends a connection that is too slow by its
//! own rules (`client-output-buffer-limit pubsub`).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until};

use super::link::{Options, dial};
use super::replies::Failure;
use super::transport::Transport;
use crate::resp::{Item, Malformed, Reader, Scanner, command};
use crate::target::Address;

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// The messages of a channel.
    Subscribe,
    /// The messages of all channels that fit a pattern.
    PSubscribe,
    /// Every command that a server gets.
    Monitor,
}

/// Something that is being listened to. Dropping it ends it.
pub(crate) struct Stream {
    transport: Transport,
    /// What is still to be written.
    question: Bytes,
    received: BytesMut,
    scanner: Scanner,
    largest: usize,
    confirmation: Option<Bytes>,
    /// Ready when this is not the server to listen to any more; nothing when it was.
    left: Option<Left>,
    /// Until when something has to come.
    due: Instant,
    /// Whether Redis was asked, and owes an answer.
    is_asked: bool,
}

/// A future that ends a stream.
pub(super) type Left = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a stream cannot begin.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// Redis, or this gateway, answers this error.
    Refused(String),
    /// Redis cannot be reached.
    Failed(Failure),
}

/// Why a stream is over.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    /// Redis closed the connection: it ends, or we were too slow.
    Closed,
    /// Reading or writing failed.
    Failed(io::Error),
    /// Redis sent something that is not RESP2.
    Malformed,
    /// A message is larger than this many bytes.
    TooLarge(usize),
    /// Redis does not answer.
    Silent,
    /// Another server is the one to listen to now.
    Left,
}

impl Stream {
    /// Begins to listen to `name` at `address`; a monitor has no name. It has begun when Redis has said so, for which it
    /// has the time that a request has.
    pub(super) async fn start(
        kind: StreamKind,
        name: &[u8],
        address: &Address,
        options: &Options,
        left: Left,
    ) -> Result<Self, StreamError> {
        let transport = dial(address, options).await.map_err(Failure::because)?;
        let question = match kind {
            StreamKind::Subscribe => command(&[b"SUBSCRIBE", name]),
            StreamKind::PSubscribe => command(&[b"PSUBSCRIBE", name]),
            StreamKind::Monitor => command(&["MONITOR"]),
        };
        let mut stream = Self {
            transport,
            question: question.into(),
            received: BytesMut::new(),
            scanner: Scanner::default(),
            largest: options.largest,
            confirmation: None,
            left: Some(left),
            due: Instant::now() + options.patience,
            is_asked: true,
        };
        let confirmation = match stream.next().await {
            Ok(confirmation) => confirmation,
            Err(StreamEnd::Silent) => return Err(Failure::TimedOut(options.patience).into()),
            Err(end) => return Err(Failure::Unreachable(end.to_string().into()).into()),
        };
        if let Some(Item::Error(text)) = Reader(&confirmation).next() {
            return Err(StreamError::Refused(String::from_utf8_lossy(text).into_owned()));
        }
        stream.confirmation = Some(confirmation);
        Ok(stream)
    }

    /// The next reply that Redis sent; the first is the confirmation. A call that is dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, StreamEnd> {
        if let Some(confirmation) = self.confirmation.take() {
            return Ok(confirmation);
        }
        loop {
            while self.scanner.advance(&self.received).map_err(|Malformed| StreamEnd::Malformed)? {
                let reply = self.received.split_to(self.scanner.position()).freeze();
                self.scanner.rebase();
                if !is_pong(&reply) {
                    return Ok(reply);
                }
            }
            if self.received.len() > self.largest {
                return Err(StreamEnd::TooLarge(self.largest));
            }
            self.progress().await?;
        }
    }

    /// Waits until something came, or had to be asked.
    async fn progress(&mut self) -> Result<(), StreamEnd> {
        let Some(left) = &mut self.left else { return Err(StreamEnd::Left) };
        tokio::select! {
            () = left => {
                self.left = None;
                return Err(StreamEnd::Left);
            }
            came = write_and_read(&mut self.transport, &mut self.question, &mut self.received) => match came {
                Ok(0) => return Err(StreamEnd::Closed),
                Ok(_) => (self.due, self.is_asked) = (Instant::now() + SILENCE, false),
                Err(error) => return Err(StreamEnd::Failed(error)),
            },
            () = sleep_until(self.due) => {
                if self.is_asked {
                    return Err(StreamEnd::Silent);
                }
                self.question = command(&["PING"]).into();
                (self.due, self.is_asked) = (Instant::now() + ANSWER, true);
            }
        }
        Ok(())
    }
}

/// Writes what there is to write, and reads some bytes. What was written or read before it is dropped is kept.
async fn write_and_read(
    transport: &mut Transport,
    question: &mut Bytes,
    received: &mut BytesMut,
) -> io::Result<usize> {
    while !question.is_empty() {
        if transport.write_buf(question).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    transport.flush().await?;
    received.reserve(CHUNK);
    transport.read_buf(received).await
}

/// Whether this answers the question whether Redis is there: a status for a monitor, an array for a subscriber.
fn is_pong(reply: &[u8]) -> bool {
    let mut reader = Reader(reply);
    match reader.next() {
        Some(Item::Status(b"PONG")) => true,
        Some(Item::Array(2)) => reader.next() == Some(Item::Bulk(b"pong")),
        _ => false,
    }
}

impl From<Failure> for StreamError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => f.write_str(text),
            Self::Failed(failure) => fmt::Display::fmt(failure, f),
        }
    }
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("redis closed the connection"),
            Self::Failed(error) => fmt::Display::fmt(error, f),
            Self::Malformed => fmt::Display::fmt(&Malformed, f),
            Self::TooLarge(most) => write!(f, "a message has more than {most} bytes"),
            Self::Silent => f.write_str("redis does not answer"),
            Self::Left => f.write_str("another server has taken the place of this one"),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// How long nothing may come before Redis is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it has for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes read in one go, at least.
const CHUNK: usize = 8 << 10;
