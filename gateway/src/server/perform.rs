//! Commands on their way through Redis: from a body or a path to the answer.

use hyper::StatusCode;
use hyper::http::request::Parts;

use super::answer::{Answer, Failure, Kind};
use super::route::Route;
use super::worker::Worker;
use crate::backend::Replies;
use crate::command::{Batch, parse_command, parse_path, parse_pipeline};
use crate::relay;
use crate::reply::{Format, Results, error, write_result, write_results};

impl Worker {
    /// Hands the commands of a request to the Redis of a tenant.
    pub(super) async fn perform(
        &self,
        route: Route,
        head: &Parts,
        body: &[u8],
        tenant: usize,
        format: Format,
    ) -> Result<Answer, Failure> {
        let (Some(tenant), Some(backend)) = (self.shared.tenants.get(tenant), self.backends.get(tenant))
        else {
            // Whoever was let in has both.
            return Err(Failure::new(Kind::Unreachable, "ERR there is no Redis for this token"));
        };
        let (rules, limit) = (&tenant.rules, self.shared.limits.pipeline);
        match route {
            Route::Pipeline => {
                let batch = parse_pipeline(body, limit, rules)?;
                self.recorder.batch(&batch, body.len(), true);
                let replies = relay::run(backend, rules, &batch).await;
                // Where nothing at all was answered, the status says so.
                match replies.failure() {
                    Some(failure) if batch.refusal().is_none() => Err(failure.clone().into()),
                    _ => Ok(self.results(&batch, &replies, format)),
                }
            }
            Route::Transaction => {
                let batch = parse_pipeline(body, limit, rules)?;
                refused(&batch)?;
                self.recorder.batch(&batch, body.len(), true);
                let replies = Box::pin(backend.transact(&batch)).await?;
                Ok(self.results(&batch, &replies, format))
            }
            _ => {
                let batch = match route {
                    Route::Command => parse_command(body, rules)?,
                    _ => parse_path(head.uri.path(), head.uri.query(), body, rules)?,
                };
                refused(&batch)?;
                self.recorder.batch(&batch, body.len(), false);
                let reply = relay::run(backend, rules, &batch).await.all()?;
                let mut out = Vec::with_capacity(reply.len() + AROUND);
                if let Some(sending) = batch.sending().next() {
                    write_result(&mut out, sending, &reply, format);
                }
                let mut status = StatusCode::OK;
                if error(&reply).is_some() {
                    self.recorder.errors(Kind::Redis, 1);
                    status = Kind::Redis.status();
                }
                Ok(Answer { commands: 1, ..Answer::new(status, format, out) })
            }
        }
    }

    fn results(&self, batch: &Batch, replies: &Replies, format: Format) -> Answer {
        let Results { body, refused, errors, unanswered } = write_results(batch, replies, format);
        self.recorder.errors(Kind::Refused, refused);
        self.recorder.errors(Kind::Redis, errors);
        self.recorder.errors(Kind::Unanswered, unanswered);
        Answer { commands: batch.entries().len(), ..Answer::new(StatusCode::OK, format, body) }
    }
}

fn refused(batch: &Batch) -> Result<(), Failure> {
    batch.refusal().map_or(Ok(()), |text| Err(Failure::new(Kind::Refused, text)))
}

/// What is around a value in an answer, with room to spare.
const AROUND: usize = 48;
