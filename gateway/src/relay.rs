//! From a batch to its replies, with what scripts need on the way.
//!
//! Redis knows some scripts by another digest than their clients ([`command`](crate::command) says
//! why). A gateway learns that from their text. So that a script loaded through one gateway can be
//! called through all, and through one that was started again, the text is also kept in Redis,
//! under `tollgate:script:<digest>`, for [`KEPT`] after it was last needed. For a token that may
//! only read nothing is kept, and no time renewed. Clients can write these keys, so only a text
//! that has the digest is taken from them. Nothing else of the gateway's is kept there.
//!
//! What is rarely needed is boxed: every request moves its future a few times, and all that it might wait for is in there.

use crate::backend::{Backend, Replies};
use crate::command::{Batch, Builder, Digest, Original, Rules, parse_digest};
use crate::memory::FREE;
use crate::reply::error;
use crate::resp::{Item, Reader};

/// Performs the commands of `batch` that are to be sent.
pub(crate) async fn run(backend: &Backend, rules: &Rules, batch: &Batch) -> Replies {
    let replies = backend.run(batch).await;
    if !batch.changed().is_empty() {
        Box::pin(keep(backend, batch.changed())).await;
    }
    if !batch.calls_by_digest() {
        return replies;
    }
    let unknown = unknown(batch, &replies);
    if unknown.is_empty() || !Box::pin(look_up(backend, rules, &unknown)).await {
        return replies;
    }
    match batch.entries() {
        // It did not run. With others around it, it would now come after them; the client sends it
        // again, and so it does where a second one would take much memory.
        [_] if batch.resp().len() <= FREE => Box::pin(backend.run(&again(batch, rules))).await,
        _ => replies,
    }
}

/// The digests that Redis did not know.
fn unknown(batch: &Batch, replies: &Replies) -> Vec<Digest> {
    let missing = batch.sending().zip(replies.iter()).filter(|(sending, reply)| {
        sending.calls_by_digest()
            && reply.is_ok_and(|reply| error(reply).is_some_and(|text| text.starts_with(b"NOSCRIPT")))
    });
    let digests = missing.filter_map(|(sending, _)| parse_digest(batch.arguments(sending).nth(1)?));
    digests.take(MOST_AT_ONCE).collect()
}

async fn keep(backend: &Backend, scripts: &[Original]) {
    let rules = Rules::default();
    let mut builder = Builder::new(128 * scripts.len(), &rules);
    for Original { digest, text } in scripts {
        for argument in [&b"SET"[..], &key(digest), text, b"EX", KEPT] {
            builder.argument(argument);
        }
        builder.end_command();
    }
    let replies = backend.run(&builder.build()).await;
    if let Some(reason) = replies.iter().find_map(|reply| match reply {
        Ok(reply) => error(reply).map(|text| String::from_utf8_lossy(text).into_owned()),
        Err(failure) => Some(failure.to_string()),
    }) {
        tracing::debug!(%reason, "the text of a script cannot be kept, other gateways will not know it");
    }
}

/// Asks Redis for what other gateways kept; `true` when something was learned.
async fn look_up(backend: &Backend, rules: &Rules, unknown: &[Digest]) -> bool {
    let own = Rules::default();
    let mut builder = Builder::new(256 * unknown.len(), &own);
    for original in unknown {
        // One byte more than is kept: a longer value shows by it, and costs no more memory.
        let read = [&b"GETRANGE"[..], &key(original), b"0", END];
        read.iter().for_each(|argument| builder.argument(argument));
        builder.end_command();
    }
    if rules.may_write() {
        for original in unknown {
            let keep = [&b"EXPIRE"[..], &key(original), KEPT];
            keep.iter().for_each(|argument| builder.argument(argument));
            builder.end_command();
        }
    }
    let replies = backend.run(&builder.build()).await;
    let mut learned = false;
    for (original, reply) in unknown.iter().zip(replies.iter()) {
        if let Ok(reply) = reply
            && let Some(Item::Bulk(text)) = Reader(reply).next()
        {
            learned |= rules.scripts().learn(*original, text);
        }
    }
    learned
}

/// The same commands, with what is known of scripts now.
fn again(batch: &Batch, rules: &Rules) -> Batch {
    let mut builder = Builder::new(batch.resp().len(), rules);
    for sending in batch.sending() {
        batch.arguments(sending).for_each(|argument| builder.argument(argument));
        builder.end_command();
    }
    builder.build()
}

fn key(original: &Digest) -> Vec<u8> {
    [b"tollgate:script:", &original[..]].concat()
}

/// Seconds.
const KEPT: &[u8] = b"2592000";

/// The position behind the last byte of the largest text that is kept.
const END: &[u8] = b"65536";

/// Digests looked up for one request.
const MOST_AT_ONCE: usize = 16;
