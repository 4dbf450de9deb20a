//! Reading the body of a request: bounded in size, in time, and in the memory that all bodies take together.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use hyper::Version;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use tokio::time::timeout;

use super::Shared;
use super::answer::{Failure, Kind};
use crate::listener::{Pulse, Reading};
use crate::memory::Grant;

/// The body of a request, which counts as being read until it is dropped.
pub(crate) struct Body {
    incoming: Incoming,
    /// Nothing where there is nothing to read.
    reading: Option<Reading>,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, pulse: &Rc<Pulse>) -> Self {
        let reading = (!incoming.is_end_stream()).then(|| Reading::new(Rc::clone(pulse)));
        Self { incoming, reading }
    }

    fn is_empty(&self) -> bool {
        self.reading.is_none()
    }

    /// How long it is at least.
    fn announced(&self) -> usize {
        usize::try_from(self.incoming.size_hint().lower()).unwrap_or(usize::MAX)
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        let Self { incoming, reading } = self;
        poll_fn(|cx| {
            let frame = Pin::new(&mut *incoming).poll_frame(cx);
            match (&frame, &mut *reading) {
                (Poll::Ready(None), Some(reading)) => reading.end(),
                (Poll::Pending, Some(reading)) => reading.wait(),
                _ => {}
            }
            frame
        })
        .await
    }
}

/// Reads a body; the grant is for its memory. One that arrives in one piece is not copied.
pub(crate) async fn read(body: Body, shared: &Arc<Shared>) -> Result<(Bytes, Grant), Failure> {
    let mut grant = shared.memory.grant();
    // The usual one has come already, and needs no clock.
    if body.is_empty() {
        return Ok((Bytes::new(), grant));
    }
    let read = timeout(shared.limits.body_timeout, read_whole(body, shared.limits.body, &mut grant)).await;
    let whole = read.unwrap_or_else(|_| {
        Err(Failure::new(Kind::SlowBody, "ERR the request body did not arrive in time"))
    })?;
    Ok((whole, grant))
}

/// Throws away the body of a request that is refused. hyper closes a connection whose request was
/// not read to its end, which the client would meet instead of the answer, or with its next
/// request. A client that waits to be told whether it should send its body is not made to. HTTP/2
/// ends a stream without the others, so nothing is waited for there: a thousand streams would.
pub(crate) async fn skip(mut body: Body, head: &Parts, shared: &Shared) {
    // Nor is one waited for that is too large to be read to its end.
    if body.is_empty()
        || head.version > Version::HTTP_11
        || head.headers.contains_key(EXPECT)
        || body.announced() > shared.limits.body
    {
        return;
    }
    let mut size = 0_usize;
    let skipped = async {
        while let Some(Ok(frame)) = body.frame().await {
            size = size.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if size > shared.limits.body {
                break;
            }
        }
    };
    // Whether it was all of it or not, the answer is the same.
    let _ = timeout(shared.limits.body_timeout, skipped).await;
}

/// There is no memory for a request, of which nothing has run.
pub(super) fn no_memory() -> Failure {
    Failure::new(Kind::Memory, "ERR too much memory is taken by requests under way")
}

/// Of a body that is too large up to `limit` bytes more are thrown away, for the same reason as in [`skip`].
async fn read_whole(mut body: Body, limit: usize, grant: &mut Grant) -> Result<Bytes, Failure> {
    let too_large = || Failure::new(Kind::LargeBody, "ERR max request size exceeded");
    let announced = body.announced();
    let skipped = limit.saturating_mul(2);
    if announced > skipped {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut size = 0_usize;
    let mut refusal = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::new(Kind::Syntax, "ERR failed to read the request body"))?;
        let Ok(piece) = frame.into_data() else { continue };
        let before = size;
        size = size.saturating_add(piece.len());
        if size > limit {
            refusal = Some(too_large());
        } else if refusal.is_none() && !grant.grow(size) {
            refusal = Some(no_memory());
        }
        if size > skipped {
            break;
        } else if refusal.is_some() {
            (first, whole) = (Bytes::new(), Vec::new());
        } else if before == 0 {
            first = piece;
        } else {
            if whole.is_empty() {
                // What was announced need not come, and what is not used of this costs nothing.
                whole.reserve_exact(announced.min(limit).max(size));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&piece);
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(if whole.is_empty() { first } else { whole.into() }),
    }
}
