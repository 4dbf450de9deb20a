//! Commands on their way through Redis: from a body or a path to the answer.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::http::request::Parts;

use super::answer::{Answer, Failure, Kind};
use super::incoming;
use super::request::ANSWER;
use super::route::Route;
use super::worker::Worker;
use crate::backend::{self, Replies};
use crate::command::{Batch, growth, parse_command, parse_path, parse_pipeline};
use crate::memory::{FREE, Grant};
use crate::relay;
use crate::reply::{Format, Pieces, Results, error, write_result, write_results};

impl Worker {
    /// Hands the commands of a request to the Redis of a tenant. `memory` is what was reserved for the answer.
    pub(super) async fn perform(
        &self,
        route: Route,
        head: &Parts,
        (body, mut grant): (Bytes, Grant),
        tenant: usize,
        format: Format,
        memory: &mut Grant,
    ) -> Result<Answer, Failure> {
        let (Some(tenant), Some(backend)) = (self.shared.tenants.get(tenant), self.backends.get(tenant))
        else {
            // Whoever was let in has both.
            return Err(Failure::new(Kind::Unreachable, "ERR there is no Redis for this token"));
        };
        let (rules, limit) = (&tenant.rules, self.shared.limits.pipeline);
        // A command in a path is not in JSON.
        let growth = if route == Route::Path { 0 } else { growth(&body, limit) };
        if growth > 0 && !grant.grow(body.len() + growth) {
            return Err(incoming::no_memory());
        }
        // The body is there until all of it is written down in the form of Redis.
        grant.take_anyway(body.len().saturating_sub(FREE));
        let mut batch = match route {
            Route::Pipeline | Route::Transaction => parse_pipeline(&body, limit, rules)?,
            Route::Command => parse_command(&body, rules)?,
            _ => parse_path(head.uri.path(), head.uri.query(), &body, rules)?,
        };
        if route != Route::Pipeline {
            refused(&batch)?;
        }
        self.recorder.batch(&batch, body.len(), matches!(route, Route::Pipeline | Route::Transaction));
        // From here on it is the commands that take memory, for as long as they may still be sent.
        drop(body);
        let copies = if route == Route::Transaction { 2 } else { backend.copies(&batch) };
        let size = batch.size(copies).saturating_sub(FREE);
        grant.shrink(size);
        if !grant.reserve(size) {
            return Err(incoming::no_memory());
        }
        batch.count_in(grant);
        let replies = match route {
            Route::Transaction => Box::pin(backend.transact(&batch)).await?,
            _ => relay::run(backend, rules, &batch).await,
        };
        match replies.failure() {
            // Where nothing at all was answered, the status says so.
            Some(failure) if route != Route::Transaction && batch.refusal().is_none() => {
                Err(failure.clone().into())
            }
            _ => self.encode(route, batch, replies, format, memory),
        }
    }

    /// Writes the answer, or prepares to write it as the client takes it.
    fn encode(
        &self,
        route: Route,
        batch: Batch,
        replies: Replies,
        format: Format,
        memory: &mut Grant,
    ) -> Result<Answer, Failure> {
        let (commands, several) =
            (batch.entries().len(), matches!(route, Route::Pipeline | Route::Transaction));
        let mut status = StatusCode::OK;
        if !several
            && replies.iter().next().is_some_and(|reply| reply.is_ok_and(|reply| error(reply).is_some()))
        {
            status = Kind::Redis.status();
        }
        if replies.size() > LARGE {
            if !memory.grow(ANSWER + IN_PIECES) {
                return Err(backend::Failure::NoMemory.into());
            }
            self.count_results(&batch, &replies);
            let pieces = Pieces::new(batch.into_entries(), replies, format, several);
            return Ok(Answer {
                commands,
                pieces: Some(Box::new(pieces)),
                ..Answer::new(status, format, Vec::new())
            });
        }
        let body = if several {
            self.results(&batch, &replies, format)
        } else {
            self.recorder.errors(Kind::Redis, usize::from(status != StatusCode::OK));
            let mut out = Vec::with_capacity(replies.size() + AROUND);
            if let (Some(sending), Some(Ok(reply))) = (batch.sending().next(), replies.iter().next()) {
                write_result(&mut out, sending, reply, format);
            }
            out
        };
        if body.len() > ANSWER && !memory.grow(body.len()) {
            return Err(backend::Failure::NoMemory.into());
        }
        Ok(Answer { commands, ..Answer::new(status, format, body) })
    }

    fn results(&self, batch: &Batch, replies: &Replies, format: Format) -> Vec<u8> {
        let Results { body, refused, errors, unanswered } = write_results(batch, replies, format);
        self.recorder.errors(Kind::Refused, refused);
        self.recorder.errors(Kind::Redis, errors);
        self.recorder.errors(Kind::Unanswered, unanswered);
        body
    }

    /// Counts what [`results`](Self::results) does.
    fn count_results(&self, batch: &Batch, replies: &Replies) {
        let sent = batch.sending().count();
        self.recorder.errors(Kind::Refused, batch.entries().len() - sent);
        let is_error =
            |reply: &Result<&[u8], _>| reply.as_ref().is_ok_and(|reply| reply.first() == Some(&b'-'));
        self.recorder.errors(Kind::Redis, replies.iter().filter(is_error).count());
        self.recorder.errors(Kind::Unanswered, sent - replies.iter().filter(Result::is_ok).count().min(sent));
    }
}

fn refused(batch: &Batch) -> Result<(), Failure> {
    batch.refusal().map_or(Ok(()), |text| Err(Failure::new(Kind::Refused, text)))
}

/// What is around a value in an answer, with room to spare.
const AROUND: usize = 48;

/// Replies of more bytes are written piece by piece. As JSON they may take six times as many.
const LARGE: usize = FREE;

/// What an answer takes that is written piece by piece, besides what Redis sent: pieces on their way into the socket.
const IN_PIECES: usize = 192 << 10;
