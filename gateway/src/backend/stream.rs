//! What Redis pushes: messages of a channel or a pattern, or the commands that others send. Each stream has a connection of
//! its own.
//!
//! Nothing is read from Redis while nobody takes what came: Redis notices, and ends a connection that is too slow by its
//! own rules (`client-output-buffer-limit pubsub`).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until};

use super::connection::CLOSED;
use super::link::{Options, dial};
use super::replies::Failure;
use super::transport::Transport;
use crate::memory::Grant;
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
    /// What the message that comes takes.
    grant: Grant,
    confirmation: Option<Bytes>,
    /// Ready when this is not the server to listen to any more; nothing when it was.
    left: Option<Left>,
    /// Until when something has to come.
    due: Instant,
    /// Whether Redis was asked, and owes an answer.
    is_asked: bool,
    /// How long nothing may come before Redis is asked whether it is there.
    silence: Duration,
    /// How long it has for an answer.
    answer: Duration,
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
    /// There is no memory for a message.
    NoMemory,
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
            grant: options.memory.grant(),
            confirmation: None,
            left: Some(left),
            due: Instant::now() + options.patience,
            is_asked: true,
            silence: SILENCE,
            answer: ANSWER,
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
                let reply = self.grant.split(&mut self.received, self.scanner.position());
                self.scanner.rebase();
                if !is_pong(&reply) {
                    return Ok(reply);
                }
            }
            let announced = self.scanner.position().saturating_add(self.scanner.missing());
            if announced > self.largest {
                return Err(StreamEnd::TooLarge(self.largest));
            }
            if !self.grant.grow(announced) {
                return Err(StreamEnd::NoMemory);
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
            came = write_and_read(&mut self.transport, &mut self.question, &mut self.received, self.scanner.missing()) => match came {
                Ok(0) => return Err(StreamEnd::Closed),
                Ok(_) => (self.due, self.is_asked) = (Instant::now() + self.silence, false),
                Err(error) => return Err(StreamEnd::Failed(error)),
            },
            () = sleep_until(self.due) => {
                if self.is_asked {
                    return Err(StreamEnd::Silent);
                }
                self.question = command(&["PING"]).into();
                (self.due, self.is_asked) = (Instant::now() + self.answer, true);
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
    announced: usize,
) -> io::Result<usize> {
    while !question.is_empty() {
        if transport.write_buf(question).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    transport.flush().await?;
    let most = announced.saturating_add(CHUNK);
    received.reserve(most);
    transport.read_buf(&mut received.limit(most)).await
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
            Self::Closed => f.write_str(CLOSED),
            Self::Failed(error) if error.kind() == io::ErrorKind::UnexpectedEof => f.write_str(CLOSED),
            Self::Failed(error) => fmt::Display::fmt(error, f),
            Self::Malformed => fmt::Display::fmt(&Malformed, f),
            Self::TooLarge(most) => write!(f, "a message has more than {most} bytes"),
            Self::NoMemory => f.write_str("there is no memory for a message"),
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

const SILENCE: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes read in one go, at least.
const CHUNK: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use tollgate_tests::redis::Redis;
    use tollgate_tests::{ports, run_dir};

    use super::*;
    use crate::backend::Backend;
    use crate::memory::Memory;
    use crate::target::{Target, TargetOptions};

    async fn start(flags: &[&str]) -> (Redis, Backend) {
        let redis =
            Redis::start_with(&run_dir::create().unwrap(), ports::free().unwrap(), flags).await.unwrap();
        let target = Target::parse(&redis.url(), &TargetOptions::default()).unwrap();
        let backend =
            Backend::start(&target, 1, Duration::from_secs(5), 1 << 20, Memory::new(1 << 30)).await.unwrap();
        (redis, backend)
    }

    fn words(reply: &[u8]) -> Vec<String> {
        Reader(reply)
            .filter_map(|item| match item {
                Item::Bulk(text) | Item::Integer(text) | Item::Status(text) => {
                    Some(String::from_utf8_lossy(text).into_owned())
                }
                _ => None,
            })
            .collect()
    }

    fn ask(redis: &Redis, words: &[&[u8]]) {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| _ = command.arg(*word));
        command.exec(&mut client.get_connection().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn messages_come_one_by_one_behind_the_confirmation() {
        let (redis, backend) = start(&[]).await;
        let mut channel = backend.stream(StreamKind::Subscribe, b"news").await.unwrap();
        let mut pattern = backend.stream(StreamKind::PSubscribe, b"n*").await.unwrap();
        assert_eq!(words(&channel.next().await.unwrap()), ["subscribe", "news", "1"]);
        assert_eq!(words(&pattern.next().await.unwrap()), ["psubscribe", "n*", "1"]);
        ask(&redis, &[b"PUBLISH", b"news", b"one"]);
        ask(&redis, &[b"PUBLISH", b"news", b"two"]);
        for message in ["one", "two"] {
            assert_eq!(words(&channel.next().await.unwrap()), ["message", "news", message]);
            assert_eq!(words(&pattern.next().await.unwrap()), ["pmessage", "n*", "news", message]);
        }
        // A call that is given up takes nothing along.
        assert!(tokio::time::timeout(Duration::from_millis(20), channel.next()).await.is_err());
        ask(&redis, &[b"PUBLISH", b"news", &vec![b'x'; 100_000]]);
        assert!(channel.next().await.unwrap().len() > 100_000);
    }

    #[tokio::test]
    async fn a_monitor_sees_what_others_do() {
        let (redis, backend) = start(&[]).await;
        let mut monitor = backend.stream(StreamKind::Monitor, b"").await.unwrap();
        assert_eq!(words(&monitor.next().await.unwrap()), ["OK"]);
        ask(&redis, &[b"PUBLISH", b"news", b"one"]);
        loop {
            let line = words(&monitor.next().await.unwrap()).concat();
            if line.contains(r#""PUBLISH" "news" "one""#) {
                break;
            }
        }
    }

    #[tokio::test]
    async fn what_redis_refuses_never_begins_and_its_end_is_told() {
        let (redis, backend) = start(&[]).await;
        ask(&redis, &[b"ACL", b"SETUSER", b"default", b"resetchannels", b"&open*"]);
        let refused = backend.stream(StreamKind::Subscribe, b"news").await.unwrap_err();
        assert!(matches!(&refused, StreamError::Refused(text) if text.starts_with("NOPERM ")), "{refused}");
        let mut stream = backend.stream(StreamKind::Subscribe, b"open").await.unwrap();
        assert_eq!(words(&stream.next().await.unwrap()), ["subscribe", "open", "1"]);
        redis.kill().await;
        assert!(matches!(stream.next().await, Err(StreamEnd::Closed | StreamEnd::Failed(_))));
        let failed = backend.stream(StreamKind::Subscribe, b"open").await.unwrap_err();
        assert!(failed.to_string().starts_with("ERR redis is unreachable: "), "{failed}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_asked_and_then_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut redis, _) = listener.accept().await.unwrap();
        let mut stream = Stream {
            transport: Transport::Plain(stream),
            question: Bytes::new(),
            received: BytesMut::new(),
            scanner: Scanner::default(),
            largest: 1000,
            grant: Memory::new(1 << 20).grant(),
            confirmation: None,
            left: Some(Box::pin(std::future::pending())),
            due: Instant::now(),
            is_asked: false,
            silence: Duration::from_millis(30),
            answer: Duration::from_millis(200),
        };
        // It answers the first question and not the second.
        let answers = tokio::spawn(async move {
            let mut asked = [0; 14];
            redis.read_exact(&mut asked).await.unwrap();
            redis.write_all(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n").await.unwrap();
            redis.read_exact(&mut asked).await.unwrap();
            (asked, redis)
        });
        assert!(matches!(stream.next().await, Err(StreamEnd::Silent)));
        assert_eq!(command(&["PING"]), answers.await.unwrap().0);
    }
}
