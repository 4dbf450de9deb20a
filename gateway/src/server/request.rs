//! The way of a request: who asks, what for, and what becomes of it.
//!
//! Whatever can refuse a request does so before its body is read. Everything that fails has `{"error":"…"}` as its body: SDKs
//! parse it whatever the status.

use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Answer, Failure, JSON, Kind};
use super::incoming;
use super::outgoing::Outgoing;
use super::place::{Full, Place};
use super::route::Route;
use super::worker::Worker;
use super::{Role, health};
use crate::command::{Batch, parse_command, parse_path, parse_pipeline};
use crate::listener::{Pulse, Underway};
use crate::relay;
use crate::reply::{Encoding, Format, error, write_result, write_results};

impl Worker {
    /// Answers a request.
    pub(crate) async fn respond(
        self: Rc<Self>,
        request: Request<Incoming>,
        _role: Role,
        pulse: Rc<Pulse>,
    ) -> Response<Outgoing> {
        let underway = Underway::new(Rc::clone(&pulse));
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path());
        let answer = if route.takes(&head.method) {
            match route {
                Route::Health | Route::Ready | Route::Details | Route::Metrics => health::health(&self).await,
                Route::Subscribe | Route::PSubscribe | Route::Monitor => {
                    incoming::skip(body, &head.headers, &self.shared).await;
                    Failure::new(Kind::Refused, "ERR streams are not supported yet").answer(JSON)
                }
                Route::Command | Route::Path | Route::Pipeline | Route::Transaction => {
                    self.commands(route, &head, body).await
                }
            }
        } else {
            incoming::skip(body, &head.headers, &self.shared).await;
            let failure = Failure::new(Kind::Method, "ERR method not allowed");
            Answer { allow: Some(route.methods()), ..failure.answer(JSON) }
        };
        answer.into_response(pulse, underway, head.method == Method::HEAD)
    }

    async fn commands(&self, route: Route, head: &Parts, body: Incoming) -> Answer {
        let admitted = match self.admit(route, head) {
            Ok(admitted) => admitted,
            Err(failure) => {
                incoming::skip(body, &head.headers, &self.shared).await;
                return failure.answer(JSON);
            }
        };
        let Admitted { tenant, format, place } = admitted;
        let mut answer = match incoming::read(body, &self.shared).await {
            Ok((body, _memory)) => match self.perform(route, head, &body, tenant, format).await {
                Ok(answer) => answer,
                Err(failure) => failure.answer(format),
            },
            Err(failure) => failure.answer(format),
        };
        answer.place = Some(place);
        answer
    }

    /// What can be said before the body is read.
    fn admit(&self, route: Route, head: &Parts) -> Result<Admitted, Failure> {
        let Some(tenant) = self.shared.auth.admits(&head.headers, head.uri.query()) else {
            return Err(Failure::new(Kind::Token, "WRONGPASS invalid or missing auth token"));
        };
        let format = format(&head.headers, route)?;
        let place = Place::take(&self.shared, tenant).map_err(|full| match full {
            Full::Token => Failure::new(Kind::TokenBusy, "ERR max requests limit exceeded"),
            Full::All => Failure::new(Kind::Busy, "ERR too many requests are under way"),
        })?;
        Ok(Admitted { tenant, format, place })
    }

    /// Hands the commands to Redis.
    async fn perform(
        &self,
        route: Route,
        head: &Parts,
        body: &Bytes,
        tenant: usize,
        format: Format,
    ) -> Result<Answer, Failure> {
        let missing = || Failure::new(Kind::Token, "WRONGPASS invalid or missing auth token");
        let rules = &self.shared.tenants.get(tenant).ok_or_else(missing)?.rules;
        let backend = self.backends.get(tenant).ok_or_else(missing)?;
        let limit = self.shared.limits.pipeline;
        match route {
            Route::Pipeline => {
                let batch = parse_pipeline(body, limit, rules)?;
                let replies = relay::run(backend, rules, &batch).await;
                // Where nothing at all was answered, the status says so.
                match replies.failure() {
                    Some(failure) if batch.refusal().is_none() => Err(failure.clone().into()),
                    _ => Ok(Answer::new(StatusCode::OK, format, write_results(&batch, &replies, format))),
                }
            }
            Route::Transaction => {
                let batch = parse_pipeline(body, limit, rules)?;
                refused(&batch)?;
                let replies = backend.transact(&batch).await?;
                Ok(Answer::new(StatusCode::OK, format, write_results(&batch, &replies, format)))
            }
            _ => {
                let batch = match route {
                    Route::Command => parse_command(body, rules)?,
                    _ => parse_path(head.uri.path(), head.uri.query(), body, rules)?,
                };
                refused(&batch)?;
                let reply = relay::run(backend, rules, &batch).await.all()?;
                let mut out = Vec::with_capacity(reply.len() + USUAL_RESULT);
                if let Some(sending) = batch.sending().next() {
                    write_result(&mut out, sending, &reply, format);
                }
                let status = if error(&reply).is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
                Ok(Answer::new(status, format, out))
            }
        }
    }
}

/// A request that may go on.
struct Admitted {
    tenant: usize,
    format: Format,
    place: Place,
}

fn refused(batch: &Batch) -> Result<(), Failure> {
    batch.refusal().map_or(Ok(()), |text| Err(Failure::new(Kind::Refused, text)))
}

/// The form of answers that is asked for.
fn format(headers: &HeaderMap, route: Route) -> Result<Format, Failure> {
    let encoding = match headers.get(&ENCODING).map(HeaderValue::as_bytes) {
        None => Encoding::Text,
        Some(b"base64") => Encoding::Base64,
        Some(_) => {
            return Err(Failure::new(Kind::Syntax, "ERR `Upstash-Encoding` has to be `base64`, or left out"));
        }
    };
    match headers.get(&RESPONSE_FORMAT).map(HeaderValue::as_bytes) {
        None | Some(b"json") => Ok(Format::Json(encoding)),
        // Transactions are answered as JSON whatever is asked for.
        Some(b"resp2") if route == Route::Transaction => Ok(Format::Json(encoding)),
        Some(b"resp2") if encoding == Encoding::Text => Ok(Format::Resp2),
        Some(b"resp2") => Err(Failure::new(
            Kind::Syntax,
            "ERR `Upstash-Response-Format: resp2` cannot be combined with `Upstash-Encoding`",
        )),
        Some(_) => {
            Err(Failure::new(Kind::Syntax, "ERR `Upstash-Response-Format` has to be `json` or `resp2`"))
        }
    }
}

static ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");
static RESPONSE_FORMAT: HeaderName = HeaderName::from_static("upstash-response-format");

/// What is around a value in an answer.
const USUAL_RESULT: usize = 48;
