//! The body of an answer, handed out in pieces that know when they were written.
//!
//! A request counts as under way until the last byte of its answer is on its way, so what slow readers hold is bounded by the
//! same numbers as everything else. A large body goes out piece by piece: what is not asked for yet stays here, where it can be
//! dropped.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::place::Place;
use super::stream::Events;
use super::worker::Worker;
use crate::listener::{Pulse, Underway, Waiting};
use crate::memory::Grant;
use crate::reply::Pieces;

/// The body of an answer.
pub(crate) struct Outgoing {
    content: Content,
    kept: Rc<Kept>,
}

enum Content {
    /// What is left of it.
    Bytes(Bytes),
    /// What is not written yet.
    Pieces(Box<Pieces>, Rc<Worker>),
    Events(Events),
}

/// Some of a body.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    waiting: Waiting,
    #[expect(dead_code, reason = "held until it is written")]
    kept: Rc<Kept>,
}

/// What is held until an answer is written.
#[derive(Debug)]
pub(crate) struct Kept {
    pulse: Rc<Pulse>,
    #[expect(dead_code, reason = "held until it is dropped")]
    underway: Underway,
    /// The place among the requests under way.
    #[expect(dead_code, reason = "held until it is dropped")]
    place: Option<Place>,
    /// The memory the answer takes.
    #[expect(dead_code, reason = "held until it is dropped")]
    memory: Option<Grant>,
}

impl Outgoing {
    /// These bytes.
    pub(crate) fn bytes(bytes: Bytes, kept: Kept) -> Self {
        Self { content: Content::Bytes(bytes), kept: Rc::new(kept) }
    }

    /// These pieces, which are written as they are taken.
    pub(crate) fn pieces(pieces: Box<Pieces>, worker: Rc<Worker>, kept: Kept) -> Self {
        Self { content: Content::Pieces(pieces, worker), kept: Rc::new(kept) }
    }

    /// These events.
    pub(crate) fn events(events: Events, kept: Kept) -> Self {
        Self { content: Content::Events(events), kept: Rc::new(kept) }
    }
}

impl Kept {
    /// For a request on the connection of `pulse`.
    pub(crate) fn new(
        pulse: Rc<Pulse>,
        underway: Underway,
        place: Option<Place>,
        memory: Option<Grant>,
    ) -> Self {
        Self { pulse, underway, place, memory }
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let this = self.get_mut();
        let bytes = match &mut this.content {
            Content::Bytes(rest) if rest.is_empty() => None,
            Content::Bytes(rest) => Some(rest.split_to(rest.len().min(PIECE))),
            Content::Pieces(pieces, worker) => {
                let piece = pieces.next_piece();
                worker.recorder.sent(piece.as_ref().map_or(0, Bytes::len));
                piece
            }
            Content::Events(events) => ready!(events.poll_next(cx)),
        };
        Poll::Ready(bytes.map(|bytes| {
            let waiting = Waiting::new(Rc::clone(&this.kept.pulse));
            Ok(Frame::data(Piece { bytes, waiting, kept: Rc::clone(&this.kept) }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(rest) => rest.is_empty(),
            Content::Pieces(pieces, _) => pieces.is_over(),
            Content::Events(events) => events.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(rest) => SizeHint::with_exact(rest.len() as u64),
            Content::Pieces(..) | Content::Events(_) => SizeHint::default(),
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.waiting.progress();
        self.bytes.advance(count);
    }
}

/// Bytes handed out at once.
const PIECE: usize = 64 << 10;
