//! One connection to Redis, shared by many requests.
//!
//! Requests are written in the order they come, as many at once as there are; replies come back in the same order, so
//! those of one request lie side by side and are handed over as they are. Nothing is ever written twice: when the connection
//! ends, each request is told how many of its replies came, and that the rest may have run.
//!
//! Scripts can make Redis write an error with line breaks in it, so that one reply looks like several (CVE-2025-67733, and others like
//! it in most versions). Counting replies would then hand those of one client to another. So a request that may get such an error is
//! followed by a [`Fence`], whose reply nobody can guess: what comes before that is the request's, whatever it looks like.
//!
//! Redis says how long a string is before it sends it. So memory is asked for before it is needed, and replies for which there is
//! none are thrown away as they come: to leave them in the socket would hold up all others that share the connection.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::fence::{Fence, Fences, needs_fence};
use crate::memory::{Grant, Memory};
use crate::resp::{Malformed, Scanner};

/// A handle on a connection. The connection closes when the last one is gone and everything asked is answered.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    messages: mpsc::UnboundedSender<Message>,
    /// How many requests there were.
    asked: AtomicU64,
}

/// A request under way: a future of its answer. Dropping it before the request is written keeps that from being written.
/// An error means that the connection was gone before.
#[derive(Debug)]
pub(crate) struct Pending {
    id: u64,
    asked: usize,
    answer: oneshot::Receiver<Answer>,
    connection: Connection,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The replies that came, one after the other; fewer than asked only with a failure.
    pub(crate) replies: Bytes,
    /// How many they are.
    pub(crate) count: usize,
    /// Whether an error is among them.
    pub(crate) has_error: bool,
    /// Why there are no more.
    pub(crate) failure: Option<Broken>,
}

/// Why replies are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection was gone before anything of the request was written.
    NotSent,
    /// The connection ended before the reply came.
    Lost,
    /// The reply did not come within this time.
    Late(Duration),
    /// The replies are larger than this many bytes, and were thrown away.
    TooLarge(usize),
    /// There was no memory for the replies, and they were thrown away.
    NoMemory,
    /// Which reply is whose cannot be told, because an error among them has line breaks.
    Unclear,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Redis closed it.
    Closed,
    /// Reading or writing failed.
    Failed(io::Error),
    /// Redis sent something that is not RESP2.
    Malformed,
    /// No handle is left.
    Unused,
}

impl Connection {
    /// A connection over `stream`, and what drives it: the connection lives while that is polled. Replies to one
    /// request may take `largest` bytes, if there is `memory` for them.
    pub(crate) fn new<S: AsyncRead + AsyncWrite + Unpin>(
        stream: S,
        largest: usize,
        memory: Memory,
    ) -> (Self, Driver<S>) {
        let (sender, messages) = mpsc::unbounded_channel();
        let driver = Driver {
            stream,
            messages,
            incoming: Vec::with_capacity(AT_ONCE),
            outbox: Outbox::default(),
            flushed: true,
            waiting: VecDeque::new(),
            received: BytesMut::new(),
            scanner: Scanner::default(),
            fences: Fences::default(),
            searched: 0,
            is_searching: false,
            grant: memory.grant(),
            memory,
            largest,
        };
        (Self(Arc::new(Handle { messages: sender, asked: AtomicU64::new(0) })), driver)
    }

    /// Asks for `replies` replies, at least one, to `resp`. The answer comes when all are there.
    pub(crate) fn ask(&self, resp: Bytes, replies: usize) -> Pending {
        let (sender, answer) = oneshot::channel();
        let id = self.0.asked.fetch_add(1, Ordering::Relaxed);
        // A connection that is gone drops the request, and with it the sender.
        let _ = self.0.messages.send(Message::Ask(Request { id, resp, replies, answer: sender }));
        Pending { id, asked: replies, answer, connection: self.clone() }
    }
}

impl Pending {
    /// The replies that came until now, when `patience` has ended.
    pub(crate) async fn cut_short(mut self, patience: Duration) -> Answer {
        let late = Answer::missing(Broken::Late(patience));
        if self.asked == 1 {
            return late;
        }
        let _ = self.connection.0.messages.send(Message::GiveUp(self.id, patience));
        // Only a connection that takes nothing more in does not say it at once.
        timeout(GIVING_UP, &mut self.answer).await.map_or(None, Result::ok).unwrap_or(late)
    }
}

impl Future for Pending {
    type Output = Result<Answer, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx)
    }
}

impl Answer {
    /// No replies, for this reason.
    pub(crate) fn missing(why: Broken) -> Self {
        Self { replies: Bytes::new(), count: 0, has_error: false, failure: Some(why) }
    }
}

/// What the driver is told.
#[derive(Debug)]
enum Message {
    Ask(Request),
    /// The request with this number waits no more than it did.
    GiveUp(u64, Duration),
}

#[derive(Debug)]
struct Request {
    /// Ascending.
    id: u64,
    resp: Bytes,
    replies: usize,
    answer: oneshot::Sender<Answer>,
}

/// A request that was written, or is about to be.
#[derive(Debug)]
struct Waiting {
    id: u64,
    /// How many bytes were to be written before it, in the life of the connection.
    begins: u64,
    asked: usize,
    came: usize,
    /// Where the last reply that came ends.
    end: usize,
    has_error: bool,
    /// What stands behind its replies, if that is not told from their number.
    fence: Option<Fence>,
    /// Why its replies are thrown away, if they are.
    thrown_away: Option<Broken>,
    /// Nothing when the replies are only awaited to be thrown away.
    answer: Option<oneshot::Sender<Answer>>,
}

/// Reads, writes, and matches replies with requests.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    stream: S,
    messages: mpsc::UnboundedReceiver<Message>,
    incoming: Vec<Message>,
    outbox: Outbox,
    /// Whether the stream holds nothing back that was written to it.
    flushed: bool,
    waiting: VecDeque<Waiting>,
    /// What came for the first of `waiting`, and behind it perhaps for others.
    received: BytesMut,
    scanner: Scanner,
    fences: Fences,
    /// At the beginning of `received`, bytes in which no fence of the first of `waiting` begins.
    searched: usize,
    /// Whether a fence is under way that ends the search for another one.
    is_searching: bool,
    memory: Memory,
    /// What the replies to the first of `waiting` take.
    grant: Grant,
    largest: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        let end = ready!(this.drive(cx));
        this.settle();
        Poll::Ready(end)
    }
}

/// A connection that is given up owes its requests the truth as well.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl<S> Driver<S> {
    /// Tells every request what became of it: there is nothing more to come.
    fn settle(&mut self) {
        while let Some(mut waiting) = self.waiting.pop_front() {
            waiting.count_in(&self.received);
            let replies = self.grant.split(&mut self.received, waiting.end);
            let answer = if waiting.begins >= self.outbox.written {
                Answer::missing(Broken::NotSent)
            } else if let Some(why) = waiting.thrown_away {
                Answer::missing(why)
            } else {
                let Waiting { came: count, has_error, .. } = waiting;
                Answer { replies, count, has_error, failure: Some(Broken::Lost) }
            };
            waiting.send(answer);
        }
    }
}

impl Waiting {
    /// Counts the replies that came, of a request with a fence, which they are counted at the end of.
    fn count_in(&mut self, received: &[u8]) {
        if self.fence.is_some() {
            let replies = Complete::of(received, self.asked);
            (self.came, self.end, self.has_error) = (replies.count, replies.end, replies.has_error);
        }
    }

    /// Who does not wait any more has no use for an answer.
    fn send(&mut self, answer: Answer) {
        let _ = self.answer.take().map(|waiting| waiting.send(answer));
    }

    /// Whether nobody waits any more.
    fn is_given_up(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let unused = self.take_requests(cx);
        let written = self.write(cx);
        let read = self.read(cx);
        // What came may have been a reason to write something.
        let written = if matches!(written, Poll::Ready(Ok(()))) { self.write(cx) } else { written };
        match (read, written) {
            (Poll::Ready(end), _) => Poll::Ready(end),
            // What had come before was still worth reading.
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(End::Failed(error)),
            (Poll::Pending, _) if unused && self.waiting.is_empty() => Poll::Ready(End::Unused),
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    /// Takes what was asked; `true` when nobody can ask any more.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            // While Redis takes nothing in, requests wait outside, where their deadlines can still take them back.
            if self.outbox.size > OUTBOX {
                return false;
            }
            match self.messages.poll_recv_many(cx, &mut self.incoming, AT_ONCE) {
                Poll::Pending => return false,
                Poll::Ready(0) => return true,
                Poll::Ready(_) => {}
            }
            let mut incoming = std::mem::take(&mut self.incoming);
            for message in incoming.drain(..) {
                match message {
                    Message::Ask(request) if request.answer.is_closed() => {}
                    Message::Ask(Request { id, resp, replies, answer }) => {
                        let fence = needs_fence(&resp, replies).then(|| self.fences.after_replies());
                        let behind = fence.as_ref().map(Fence::command);
                        self.expect(id, replies, fence, Some(answer));
                        self.outbox.push(resp);
                        behind.into_iter().for_each(|command| self.outbox.push(command));
                    }
                    Message::GiveUp(id, patience) => self.give_up(id, patience),
                }
            }
            self.incoming = incoming;
        }
    }

    fn expect(
        &mut self,
        id: u64,
        asked: usize,
        fence: Option<Fence>,
        answer: Option<oneshot::Sender<Answer>>,
    ) {
        let begins = self.outbox.end();
        let (came, end, has_error, thrown_away) = (0, 0, false, None);
        self.waiting.push_back(Waiting {
            id,
            begins,
            asked,
            came,
            end,
            has_error,
            fence,
            thrown_away,
            answer,
        });
    }

    /// Writes a fence that Redis answers whatever state it is in: the one that is waited for may not come, because Redis does nothing
    /// but say that it is busy, for example.
    fn search(&mut self) {
        if !std::mem::replace(&mut self.is_searching, true) {
            let fence = self.fences.after_anything();
            let last = self.waiting.back().map_or(0, |waiting| waiting.id);
            let command = fence.command();
            self.expect(last, 0, Some(fence), None);
            self.outbox.push(command);
        }
    }

    /// Answers a request with what came for it.
    fn give_up(&mut self, id: u64, patience: Duration) {
        let place = self.waiting.partition_point(|waiting| waiting.id < id);
        let Some(waiting) = self.waiting.get_mut(place).filter(|waiting| waiting.id == id) else { return };
        let has_fence = waiting.fence.is_some();
        if place == 0 {
            waiting.count_in(&self.received);
        }
        // Replies for others than the first have not come.
        let replies = if place == 0 { self.received.get(..waiting.end).unwrap_or_default() } else { &[] };
        let late = Broken::Late(patience);
        let answer = Answer {
            replies: self.memory.hold(Bytes::copy_from_slice(replies)),
            count: if waiting.thrown_away.is_some() { 0 } else { waiting.came },
            has_error: waiting.has_error,
            failure: Some(waiting.thrown_away.unwrap_or(late)),
        };
        waiting.send(answer);
        // What is still to come is for nobody.
        waiting.thrown_away = Some(late);
        if has_fence {
            (waiting.came, waiting.end) = (0, 0);
            if place == 0 {
                self.search();
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() && self.flushed {
            return Poll::Ready(Ok(()));
        }
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.outbox.fill(&mut slices);
            let slices = slices.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flushed = false;
            let was_full = self.outbox.size > OUTBOX;
            self.outbox.advance(written);
            if was_full && self.outbox.size <= OUTBOX {
                // There is room for requests again.
                cx.waker().wake_by_ref();
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            // There is memory for what is announced, or else it is thrown away.
            let announced = match self.waiting.front() {
                Some(first) if first.thrown_away.is_none() => self.scanner.missing().min(self.largest),
                _ => 0,
            };
            self.received.reserve(announced.saturating_add(CHUNK));
            // What comes behind that is for others, and is copied from behind a large reply.
            let most = announced.saturating_add(AHEAD);
            let mut received = (&mut self.received).limit(most);
            match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut received)) {
                Err(error) => return Poll::Ready(End::Failed(error)),
                Ok(0) => return Poll::Ready(End::Closed),
                Ok(_) => {}
            }
            if let Err(Malformed) = self.hand_over() {
                return Poll::Ready(End::Malformed);
            }
        }
    }

    /// Gives every request whose replies are complete its answer.
    fn hand_over(&mut self) -> Result<(), Malformed> {
        loop {
            if self.waiting.front().is_some_and(|first| first.fence.is_some()) {
                if self.reach_fence() {
                    continue;
                }
                return Ok(());
            }
            let progress = self.scanner.advance(&self.received);
            let Some(first) = self.waiting.front_mut() else {
                // Nobody asked for this.
                return if self.received.is_empty() { Ok(()) } else { Err(Malformed) };
            };
            if progress == Ok(true) {
                first.came += 1;
                first.has_error |= self.received.get(first.end) == Some(&b'-');
                first.end = self.scanner.position();
            }
            let announced = self.scanner.position().saturating_add(self.scanner.missing());
            if first.thrown_away.is_none() {
                if announced > self.largest {
                    first.thrown_away = Some(Broken::TooLarge(self.largest));
                } else if !self.grant.grow(announced) || !self.grant.is_empty() && first.is_given_up() {
                    first.thrown_away = Some(Broken::NoMemory);
                }
            }
            if first.thrown_away.is_some() {
                first.end = 0;
                self.received.advance(self.scanner.position());
                self.scanner.rebase();
                if !self.grant.is_empty() {
                    // What was large until now goes back at once.
                    self.received = BytesMut::from(&self.received[..]);
                    drop(self.grant.take());
                }
            }
            if !progress? {
                return Ok(());
            }
            if first.came == first.asked
                && let Some(mut waiting) = self.waiting.pop_front()
            {
                let replies = self.grant.split(&mut self.received, self.scanner.position());
                self.scanner.rebase();
                let answer = match waiting.thrown_away {
                    Some(why) => Answer::missing(why),
                    None => {
                        let Waiting { came: count, has_error, .. } = waiting;
                        Answer { replies, count, has_error, failure: None }
                    }
                };
                waiting.send(answer);
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Gives the first request its answer, if what is behind its replies has come; or all requests up to the next fence, if that has.
    fn reach_fence(&mut self) -> bool {
        let Some(Waiting { fence: Some(own), .. }) = self.waiting.front() else { return false };
        if let Some(found) = own.find(&self.received, self.searched) {
            self.is_searching &= !own.ends_search();
            if let Some(waiting) = self.waiting.pop_front() {
                self.answer_up_to(found, waiting);
            }
            return true;
        }
        let ends_search = |waiting: &Waiting| waiting.fence.as_ref().is_some_and(Fence::ends_search);
        let place = self.waiting.iter().position(ends_search).filter(|_| self.is_searching);
        let next = place.and_then(|place| self.waiting.get(place)?.fence.as_ref());
        if let Some(found) = next.and_then(|fence| fence.find(&self.received, self.searched)) {
            self.received.advance(found.end);
            (self.scanner, self.searched) = (Scanner::default(), 0);
            drop(self.grant.take());
            for mut waiting in self.waiting.drain(..=place.unwrap_or_default()) {
                let why = waiting.thrown_away.unwrap_or(Broken::Unclear);
                waiting.send(Answer::missing(why));
            }
            self.is_searching = false;
            return true;
        }
        self.go_on_to_fence();
        false
    }

    /// Takes the replies of a request, which end where its fence begins.
    fn answer_up_to(&mut self, fence: std::ops::Range<usize>, mut waiting: Waiting) {
        let replies = self.grant.split(&mut self.received, fence.start);
        self.received.advance(fence.end - fence.start);
        (self.scanner, self.searched) = (Scanner::default(), 0);
        let complete = Complete::of(&replies, waiting.asked);
        let is_all = complete.end == replies.len();
        waiting.send(match waiting.thrown_away {
            Some(why) => Answer::missing(why),
            None if complete.count == waiting.asked && is_all => {
                let Complete { count, has_error, .. } = complete;
                Answer { replies, count, has_error, failure: None }
            }
            // There is only one that it can be.
            None if waiting.asked == 1 && replies.starts_with(b"-") => {
                let replies = self.memory.hold(in_one_line(&replies));
                Answer { replies, count: 1, has_error: true, failure: None }
            }
            None => Answer::missing(Broken::Unclear),
        });
    }

    /// Finds memory for what comes before a fence, or throws it away; and notices if the fence has not come where it should.
    fn go_on_to_fence(&mut self) {
        self.searched = self.received.len().saturating_sub(Fence::LONGEST);
        let Some(first) = self.waiting.front_mut() else { return };
        let mut is_late = false;
        if first.thrown_away.is_none() && first.answer.is_some() {
            is_late = loop {
                match self.scanner.advance(&self.received) {
                    Ok(true) if first.came == first.asked => break true,
                    Ok(true) => first.came += 1,
                    Ok(false) => break false,
                    Err(Malformed) => break true,
                }
            };
            let announced = self.scanner.position().saturating_add(self.scanner.missing());
            let size = announced.max(self.searched);
            if size > self.largest {
                first.thrown_away = Some(Broken::TooLarge(self.largest));
            } else if !self.grant.grow(size) || !self.grant.is_empty() && first.is_given_up() {
                first.thrown_away = Some(Broken::NoMemory);
            }
        }
        if first.thrown_away.is_some() || first.answer.is_none() {
            self.received.advance(std::mem::take(&mut self.searched));
            if !self.grant.is_empty() {
                // What was large until now goes back at once.
                self.received = BytesMut::from(&self.received[..]);
                drop(self.grant.take());
            }
        }
        if is_late {
            self.search();
        }
    }
}

/// Replies that are complete.
struct Complete {
    count: usize,
    /// Where the last of them ends.
    end: usize,
    has_error: bool,
}

impl Complete {
    /// Those that `received` begins with, and no more than so many.
    fn of(received: &[u8], at_most: usize) -> Self {
        let mut scanner = Scanner::default();
        let mut found = Self { count: 0, end: 0, has_error: false };
        while found.count < at_most && scanner.advance(received) == Ok(true) {
            found.has_error |= received.get(found.end) == Some(&b'-');
            found.count += 1;
            found.end = scanner.position();
        }
        found
    }
}

/// The error that a reply is, with blanks in the place of its line breaks.
fn in_one_line(reply: &[u8]) -> Bytes {
    let mut line = reply.trim_ascii_end().to_vec();
    line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
    line.extend_from_slice(b"\r\n");
    line.into()
}

/// Bytes to be written, in the pieces they came in.
#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<Bytes>,
    size: usize,
    /// Bytes that are not here any more.
    written: u64,
}

impl Outbox {
    fn push(&mut self, piece: Bytes) {
        self.size += piece.len();
        self.pieces.push_back(piece);
    }

    fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// How many bytes there were, written or not.
    fn end(&self) -> u64 {
        self.written + self.size as u64
    }

    /// Fills `slices` from the front; says how many are filled.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices.iter_mut().zip(&self.pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut written: usize) {
        self.size = self.size.saturating_sub(written);
        self.written += written as u64;
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                return first.advance(written);
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str(CLOSED),
            // TLS was not ended before the connection was: a server that dies does not.
            Self::Failed(error) if error.kind() == io::ErrorKind::UnexpectedEof => f.write_str(CLOSED),
            Self::Failed(error) => fmt::Display::fmt(error, f),
            Self::Malformed => fmt::Display::fmt(&Malformed, f),
            Self::Unused => f.write_str("the connection is not used any more"),
        }
    }
}

/// What is said of a connection that the other side has ended.
pub(super) const CLOSED: &str = "redis closed the connection";

/// Requests taken in one go.
const AT_ONCE: usize = 128;

/// How long an answer may take that needs nothing from Redis.
const GIVING_UP: Duration = Duration::from_millis(20);

/// Pieces written in one go.
const SLICES: usize = 64;

/// Bytes that may wait to be written before no more requests are taken.
const OUTBOX: usize = 1 << 20;

/// Bytes read in one go, at least.
const CHUNK: usize = 8 << 10;

/// Bytes read in one go behind what is announced, at most.
const AHEAD: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const MEMORY: usize = 1 << 20;

    /// A connection and its other end.
    fn pair(largest: usize) -> (Connection, DuplexStream, tokio::task::JoinHandle<End>) {
        let (ours, theirs) = duplex(64);
        let (connection, driver) = Connection::new(ours, largest, Memory::new(MEMORY));
        (connection, theirs, tokio::spawn(driver))
    }

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[tokio::test]
    async fn each_request_gets_its_own_replies() {
        let (connection, mut redis, _driver) = pair(1000);
        let (first, second) = (connection.ask(bytes("ab"), 2), connection.ask(bytes("c"), 1));
        let mut asked = [0; 3];
        redis.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"abc");
        redis.write_all(b"+1\r\n*1\r\n:2\r\n$-1\r\n").await.unwrap();
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((&first.replies[..], first.count, first.failure), (&b"+1\r\n*1\r\n:2\r\n"[..], 2, None));
        assert_eq!((&second.replies[..], second.count, second.failure), (&b"$-1\r\n"[..], 1, None));
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_handed_over() {
        let (connection, mut redis, driver) = pair(1000);
        let (first, second) = (connection.ask(bytes("a"), 3), connection.ask(bytes("b"), 1));
        redis.read_exact(&mut [0; 2]).await.unwrap();
        redis.write_all(b"+1\r\n:2\r\n$5\r\nhal").await.unwrap();
        drop(redis);
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((&first.replies[..], first.count), (&b"+1\r\n:2\r\n"[..], 2));
        assert_eq!((first.failure, second.failure), (Some(Broken::Lost), Some(Broken::Lost)));
        assert_eq!((second.replies.len(), second.count, second.has_error), (0, 0, false));
        assert!(matches!(driver.await.unwrap(), End::Closed | End::Failed(_)));
        assert!(connection.ask(bytes("c"), 1).await.is_err());
    }

    #[tokio::test]
    async fn replies_too_large_are_thrown_away_and_the_next_ones_are_not() {
        let (connection, mut redis, _driver) = pair(20);
        let (first, second) = (connection.ask(bytes("a"), 2), connection.ask(bytes("b"), 1));
        redis.write_all(b"+1\r\n$100\r\n").await.unwrap();
        redis.write_all(&[b'x'; 100]).await.unwrap();
        redis.write_all(b"\r\n+2\r\n").await.unwrap();
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((first.replies.len(), first.count, first.failure), (0, 0, Some(Broken::TooLarge(20))));
        assert_eq!((&second.replies[..], second.failure), (&b"+2\r\n"[..], None));
    }

    #[tokio::test]
    async fn replies_without_memory_are_thrown_away_before_they_come_and_the_next_ones_are_not() {
        let (ours, mut redis) = duplex(64);
        let memory = Memory::new(100_000);
        let (connection, driver) = Connection::new(ours, 1 << 30, memory.clone());
        tokio::spawn(driver);
        let mut other = memory.grant();
        assert!(other.reserve(20_000));
        let string = |size: usize| [format!("${size}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
        let asked = [50_000, 70_000, 50_000, 10].map(|size| (size, connection.ask(bytes("a"), 1)));
        let sent = asked.iter().flat_map(|(size, _)| string(*size)).collect::<Vec<_>>();
        let sending = tokio::spawn(async move { redis.write_all(&sent).await.map(|()| redis) });
        let mut kept = Vec::new();
        for (size, asked) in asked {
            let answer = asked.await.unwrap();
            // The first is kept, so there is none for the second, and enough for the third.
            match size {
                70_000 => assert_eq!((answer.failure, answer.replies.len()), (Some(Broken::NoMemory), 0)),
                _ => assert_eq!((answer.failure, answer.replies.len()), (None, string(size).len())),
            }
            if size != 50_000 || kept.is_empty() {
                kept.push(answer.replies);
            }
            assert!(memory.gauge().count() <= 100_000);
        }
        drop((kept, other));
        assert_eq!(memory.gauge().count(), 0);
        drop(sending);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_written() {
        let (connection, mut redis, _driver) = pair(1000);
        drop(connection.ask(bytes("a"), 1));
        let second = connection.ask(bytes("b"), 1);
        assert_eq!(redis.read_u8().await.unwrap(), b'b');
        redis.write_all(b"+2\r\n").await.unwrap();
        assert_eq!(&second.await.unwrap().replies[..], b"+2\r\n");
    }

    #[tokio::test]
    async fn what_came_in_time_is_kept_and_what_comes_later_is_thrown_away() {
        let patience = Duration::from_secs(7);
        let (connection, mut redis, _driver) = pair(1000);
        let (first, second, third) =
            (connection.ask(bytes("a"), 3), connection.ask(bytes("b"), 2), connection.ask(bytes("c"), 1));
        redis.write_all(b"+1\r\n-2\r\n$5\r\nhal").await.unwrap();
        redis.read_exact(&mut [0; 3]).await.unwrap();
        let (first, second) = (first.cut_short(patience).await, second.cut_short(patience).await);
        assert_eq!((&first.replies[..], first.count, first.has_error), (&b"+1\r\n-2\r\n"[..], 2, true));
        assert_eq!((second.replies.len(), second.count), (0, 0));
        assert_eq!(
            (first.failure, second.failure),
            (Some(Broken::Late(patience)), Some(Broken::Late(patience)))
        );
        redis.write_all(b"fs\r\n+1\r\n+2\r\n+3\r\n").await.unwrap();
        assert_eq!(&third.await.unwrap().replies[..], b"+3\r\n");
    }

    #[tokio::test]
    async fn errors_are_noticed_where_replies_begin() {
        let (connection, mut redis, _driver) = pair(1000);
        let (first, second) = (connection.ask(bytes("a"), 2), connection.ask(bytes("b"), 1));
        redis.write_all(b"$1\r\n-\r\n*1\r\n-inside\r\n+1\r\n").await.unwrap();
        assert!(!first.await.unwrap().has_error);
        assert!(!second.await.unwrap().has_error);
        let answer = connection.ask(bytes("c"), 2);
        redis.write_all(b"+1\r\n-ERR no\r\n").await.unwrap();
        assert!(answer.await.unwrap().has_error);
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_says_what_was_sent() {
        let (connection, mut redis, driver) = pair(1000);
        let first = connection.ask(bytes(&"a".repeat(60)), 1);
        let (second, third) = (connection.ask(bytes("123456"), 1), connection.ask(bytes("c"), 1));
        // The other end takes 64 bytes and no more until they are read.
        assert_eq!(redis.read_u8().await.unwrap(), b'a');
        tokio::task::yield_now().await;
        driver.abort();
        let failure = async |answer: Pending| answer.await.map(|answer| answer.failure);
        assert_eq!(failure(first).await.unwrap(), Some(Broken::Lost));
        assert_eq!(failure(second).await.unwrap(), Some(Broken::Lost));
        assert_eq!(failure(third).await.unwrap(), Some(Broken::NotSent));
        assert!(connection.ask(bytes("d"), 1).await.is_err());
    }

    /// The number that the next fence repeats.
    async fn fence_of(redis: &mut DuplexStream, request: &[u8]) -> String {
        let mut sent = vec![0; request.len()];
        redis.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, request);
        let mut head = Vec::new();
        while head.iter().filter(|byte| **byte == b'\n').count() < 3 {
            head.push(redis.read_u8().await.unwrap());
            if head == b"*1\r\n$40\r\n" {
                break;
            }
        }
        // `ECHO` stands between the two.
        while !head.ends_with(b"$40\r\n") {
            head.push(redis.read_u8().await.unwrap());
        }
        let mut digits = [0; 42];
        redis.read_exact(&mut digits).await.unwrap();
        String::from_utf8(digits[..40].to_vec()).unwrap()
    }

    fn script() -> Bytes {
        crate::resp::command(&["EVAL", "x", "0"]).into()
    }

    #[tokio::test]
    async fn whatever_a_script_makes_redis_write_is_its_own() {
        for (said, read) in [
            ("$1\r\n1\r\n", Ok("$1\r\n1\r\n")),
            ("-ERR no\r\n", Ok("-ERR no\r\n")),
            ("-x\r\n+y script: 00\r\n", Ok("-x  +y script: 00\r\n")),
            ("-x\ny\r\n", Ok("-x\ny\r\n")),
            ("-x\r\n*1000\r\n+y\r\n", Ok("-x  *1000  +y\r\n")),
            ("-x\r\n$900\r\n", Ok("-x  $900\r\n")),
            ("+x\r\n+y\r\n", Err(Broken::Unclear)),
            ("$1\r\n1\r\n+y\r\n", Err(Broken::Unclear)),
        ] {
            let (connection, mut redis, _driver) = pair(1000);
            let (first, second) = (connection.ask(script(), 1), connection.ask(bytes("b"), 1));
            let fence = fence_of(&mut redis, &script()).await;
            // Piece by piece, and the other reply at once with the last.
            let sent = format!("{said}$40\r\n{fence}\r\n+2\r\n");
            for piece in sent.as_bytes().chunks(7) {
                redis.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let (first, second) = (first.await.unwrap(), second.await.unwrap());
            match read {
                Ok(text) => {
                    assert_eq!((&first.replies[..], first.failure), (text.as_bytes(), None), "{said:?}");
                }
                Err(why) => assert_eq!((first.count, first.failure), (0, Some(why)), "{said:?}"),
            }
            assert_eq!((&second.replies[..], second.failure), (&b"+2\r\n"[..], None), "{said:?}");
        }
    }

    /// Such as one that is busy with a script: then the fence does not come, and another one does.
    #[tokio::test]
    async fn a_redis_that_says_no_to_everything_is_understood_soon() {
        let (connection, mut redis, _driver) = pair(1000);
        let (first, second) = (connection.ask(script(), 1), connection.ask(bytes("b"), 1));
        fence_of(&mut redis, &script()).await;
        assert_eq!(redis.read_u8().await.unwrap(), b'b');
        redis.write_all(b"-BUSY x\r\n-BUSY x\r\n-BUSY x\r\n").await.unwrap();
        let next = fence_of(&mut redis, b"").await;
        let third = connection.ask(bytes("c"), 1);
        redis.write_all(format!("-ERR unknown command '{next}'\r\n+3\r\n").as_bytes()).await.unwrap();
        assert_eq!(first.await.unwrap().failure, Some(Broken::Unclear));
        assert_eq!(second.await.unwrap().failure, Some(Broken::Unclear));
        assert_eq!(&third.await.unwrap().replies[..], b"+3\r\n");
    }

    /// What is taken for the absence of a fence may be a script's making: the fence comes behind it.
    #[tokio::test]
    async fn a_fence_that_comes_late_is_no_harm() {
        let (connection, mut redis, _driver) = pair(1000);
        let (first, second) = (connection.ask(script(), 1), connection.ask(bytes("b"), 1));
        let fence = fence_of(&mut redis, &script()).await;
        redis.write_all(b"-x\r\n-BUSY y\r\n").await.unwrap();
        assert_eq!(redis.read_u8().await.unwrap(), b'b');
        let next = fence_of(&mut redis, b"").await;
        let third = connection.ask(script(), 1);
        let last = fence_of(&mut redis, &script()).await;
        let sent =
            format!("$40\r\n{fence}\r\n+2\r\n-ERR unknown command '{next}'\r\n:3\r\n$40\r\n{last}\r\n");
        redis.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(&first.await.unwrap().replies[..], b"-x  -BUSY y\r\n");
        assert_eq!(&second.await.unwrap().replies[..], b"+2\r\n");
        assert_eq!(&third.await.unwrap().replies[..], b":3\r\n");
    }

    #[tokio::test]
    async fn what_stands_before_a_fence_and_is_too_large_is_thrown_away() {
        let (connection, mut redis, _driver) = pair(300);
        let (first, second) = (connection.ask(script(), 1), connection.ask(bytes("b"), 1));
        let fence = fence_of(&mut redis, &script()).await;
        let sent = format!("-{}\r\n$40\r\n{fence}\r\n+2\r\n", "x".repeat(5000));
        redis.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(first.await.unwrap().failure, Some(Broken::TooLarge(300)));
        assert_eq!(&second.await.unwrap().replies[..], b"+2\r\n");
    }

    #[tokio::test]
    async fn a_script_that_is_given_up_keeps_nobody_waiting_for_its_fence() {
        let patience = Duration::from_secs(7);
        let (connection, mut redis, _driver) = pair(1000);
        let first = connection.ask([script(), script()].concat().into(), 2);
        let fence = fence_of(&mut redis, &[script(), script()].concat()).await;
        redis.write_all(b"+1\r\n").await.unwrap();
        tokio::task::yield_now().await;
        let first = first.cut_short(patience).await;
        assert_eq!((&first.replies[..], first.failure), (&b"+1\r\n"[..], Some(Broken::Late(patience))));
        let next = fence_of(&mut redis, b"").await;
        let second = connection.ask(bytes("b"), 1);
        let sent = format!("+2\r\n$40\r\n{fence}\r\n-ERR unknown command '{next}'\r\n+3\r\n");
        redis.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(&second.await.unwrap().replies[..], b"+3\r\n");
    }

    #[tokio::test]
    async fn nonsense_and_uncalled_for_replies_end_the_connection() {
        for nonsense in ["HTTP/1.1 400\r\n", "+1\r\n+2\r\n"] {
            let (connection, mut redis, driver) = pair(1000);
            let answer = connection.ask(bytes("a"), 1);
            redis.write_all(nonsense.as_bytes()).await.unwrap();
            assert!(matches!(driver.await.unwrap(), End::Malformed));
            drop(answer);
        }
    }

    #[tokio::test]
    async fn it_ends_when_nobody_can_ask_and_everything_is_answered() {
        let (connection, mut redis, driver) = pair(1000);
        let answer = connection.ask(bytes("a"), 1);
        drop(connection);
        redis.write_all(b"+1\r\n").await.unwrap();
        assert_eq!(answer.await.unwrap().count, 1);
        assert!(matches!(driver.await.unwrap(), End::Unused));
    }

    proptest! {
        #[test]
        fn any_bytes_from_redis_are_survived(bytes: Vec<u8>, lines in "[$*+:0-9\r\n-]{0,60}", largest in 0_usize..40) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for bytes in [bytes.as_slice(), lines.as_bytes()] {
                runtime.block_on(async {
                    let (connection, mut redis, _driver) = pair(largest);
                    let answers: Vec<_> = (1..4).map(|replies| connection.ask(Bytes::from_static(b"x"), replies)).collect();
                    let _ = redis.write_all(bytes).await;
                    drop(redis);
                    for answer in answers {
                        if let Ok(answer) = answer.await {
                            let mut reader = crate::resp::Reader(&answer.replies);
                            assert_eq!(std::iter::from_fn(|| reader.reply()).count(), answer.count);
                        }
                    }
                });
            }
        }
    }
}
