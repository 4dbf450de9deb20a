//! Transactions: what is sent around the commands, and what the answers to it mean.

use bytes::Bytes;

use super::replies::{Failure, Replies};
use crate::command::Batch;
use crate::resp::{Item, Reader, command};

/// Why a transaction has no results.
#[derive(Debug)]
pub(crate) enum TransactionError {
    /// Redis discarded it, with this error.
    Discarded(String),
    /// Redis could not be asked, or did not answer.
    Failed(Failure),
    /// Redis answered `EXEC` with something else.
    Nonsense,
}

/// The commands between `MULTI` and `EXEC`: two replies more than there are commands.
pub(super) fn resp(batch: &Batch) -> Bytes {
    [&command(&["MULTI"])[..], batch.resp(), &command(&["EXEC"])].concat().into()
}

/// The results inside the reply to `EXEC`. `replies` are those to `MULTI`, to `count` commands and to `EXEC`.
pub(super) fn results(replies: &Bytes, count: usize) -> Result<Replies, TransactionError> {
    let mut reader = Reader(replies);
    // Redis did not begin a transaction (a user that may not use MULTI), whatever became of the rest.
    if let Some(error) = error(reader.reply().unwrap_or_default()) {
        return Err(discarded(error));
    }
    for _ in 0..count {
        reader.reply();
    }
    match reader.next() {
        Some(Item::Array(results)) if usize::try_from(results).is_ok_and(|results| results == count) => {
            Ok(Replies::whole(replies.slice_ref(reader.0), count))
        }
        Some(Item::Error(error)) => Err(discarded(error)),
        _ => Err(TransactionError::Nonsense),
    }
}

/// The first error, if Redis began the transaction and ran none of it.
pub(super) fn refusal(replies: &[u8], count: usize) -> Option<&[u8]> {
    let mut reader = Reader(replies);
    if error(reader.reply()?).is_some() {
        return None;
    }
    let mut first = None;
    for _ in 0..count {
        first = first.or(error(reader.reply()?));
    }
    let last = error(reader.reply()?)?;
    first.or(Some(last))
}

fn error(reply: &[u8]) -> Option<&[u8]> {
    match Reader(reply).next() {
        Some(Item::Error(error)) => Some(error),
        _ => None,
    }
}

fn discarded(error: &[u8]) -> TransactionError {
    TransactionError::Discarded(String::from_utf8_lossy(error).into_owned())
}

impl From<Failure> for TransactionError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transaction_that_was_begun_and_discarded_is_known_not_to_have_run() {
        for (replies, expected) in [
            ("+OK\r\n-MOVED 1 h:1\r\n-EXECABORT no\r\n", Some("MOVED 1 h:1")),
            ("+OK\r\n+QUEUED\r\n-MOVED 1 h:1\r\n", Some("MOVED 1 h:1")),
            ("+OK\r\n+QUEUED\r\n*1\r\n-MOVED 1 h:1\r\n", None),
            ("-NOPERM no\r\n-MOVED 1 h:1\r\n-ERR EXEC without MULTI\r\n", None),
            ("+OK\r\n-MOVED 1 h:1\r\n", None),
            ("", None),
        ] {
            assert_eq!(refusal(replies.as_bytes(), 1), expected.map(str::as_bytes), "{replies}");
        }
    }
}
