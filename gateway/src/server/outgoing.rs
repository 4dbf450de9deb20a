//! The body of an answer, handed out in pieces that know when they were written.
//!
//! A request counts as under way until the last byte of its answer is on its way, so what slow readers hold is bounded by the
//! same numbers as everything else. A large body goes out piece by piece: what is not asked for yet stays here, where it can be
//! dropped.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::place::Place;
use crate::listener::{Pulse, Underway, Waiting};

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    rest: Bytes,
    kept: Rc<Kept>,
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
}

impl Outgoing {
    /// These bytes.
    pub(crate) fn new(rest: Bytes, kept: Kept) -> Self {
        Self { rest, kept: Rc::new(kept) }
    }
}

impl Kept {
    /// For a request on the connection of `pulse`.
    pub(crate) fn new(pulse: Rc<Pulse>, underway: Underway, place: Option<Place>) -> Self {
        Self { pulse, underway, place }
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = this.rest.split_to(this.rest.len().min(PIECE));
        let waiting = Waiting::new(Rc::clone(&this.kept.pulse));
        Poll::Ready(Some(Ok(Frame::data(Piece { bytes, waiting, kept: Rc::clone(&this.kept) }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
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
