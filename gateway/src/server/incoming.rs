//! Reading the body of a request: bounded in size, in time, and in the memory that all bodies take together.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{EXPECT, HeaderMap};
use tokio::time::timeout;

use super::Shared;
use super::answer::{Failure, Kind};
use crate::memory::Grant;

/// Reads a body; the grant is for its memory. One that arrives in one piece is not copied.
pub(crate) async fn read(body: Incoming, shared: &Arc<Shared>) -> Result<(Bytes, Grant), Failure> {
    let mut grant = shared.memory.grant();
    // The usual one has come already, and needs no clock.
    if body.is_end_stream() {
        return Ok((Bytes::new(), grant));
    }
    let read = timeout(shared.limits.body_timeout, read_whole(body, shared.limits.body, &mut grant)).await;
    let whole = read.unwrap_or_else(|_| {
        Err(Failure::new(Kind::SlowBody, "ERR the request body did not arrive in time"))
    })?;
    Ok((whole, grant))
}

/// Throws away the body of a request that is refused. hyper closes a connection whose request was not read to its end, which
/// the client would meet instead of the answer, or with its next request. A client that waits to be told whether it should send
/// its body is not made to.
pub(crate) async fn skip(mut body: Incoming, headers: &HeaderMap, shared: &Shared) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
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
async fn read_whole(mut body: Incoming, limit: usize, grant: &mut Grant) -> Result<Bytes, Failure> {
    let too_large = || Failure::new(Kind::LargeBody, "ERR max request size exceeded");
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
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
