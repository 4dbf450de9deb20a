//! The way of a request: who asks, what for, and what becomes of it.
//!
//! Whatever can refuse a request does so before its body is read. Everything that fails has `{"error":"…"}` as its body: SDKs
//! parse it whatever the status.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, Version};
use tokio::time::Instant;

use super::answer::{Answer, Failure, Kind, STREAM};
use super::incoming::{self, Body};
use super::outgoing::{Kept, Outgoing};
use super::place::{Among, Begun, Full, Place};
use super::route::Route;
use super::worker::Worker;
use super::{Role, details, health, scrape, wire};
use crate::listener::{Pulse, Underway};
use crate::memory::{FREE, Grant};
use crate::reply::{Encoding, Format};

impl Worker {
    /// Answers a request, and takes down what became of it. It counts as under way from this call on, not only from when the
    /// future is first polled.
    pub(crate) fn respond(
        self: Rc<Self>,
        request: Request<Incoming>,
        role: Role,
        pulse: Rc<Pulse>,
    ) -> impl Future<Output = Result<Response<Outgoing>, Infallible>> {
        let underway = Underway::new(Rc::clone(&pulse));
        let (head, body) = request.into_parts();
        let body = Body::new(body, &pulse);
        let answering = if let Some(begun) = Begun::new(&self.shared) {
            // A stream of HTTP/2 that is refused below has no room for this.
            Ok(Box::pin(async move {
                let answer = self.take_down((head, body), role, pulse, underway).await;
                drop(begun);
                answer
            }))
        } else {
            self.recorder.errors(Kind::Busy, 1);
            let mut refusal =
                Response::new(Outgoing::bytes(Bytes::new(), Kept::new(pulse, underway, None, None)));
            *refusal.status_mut() = Kind::Busy.status();
            Err(refusal)
        };
        async {
            match answering {
                Ok(answer) => answer.await,
                Err(refusal) => Ok(refusal),
            }
        }
    }

    async fn take_down(
        self: Rc<Self>,
        (mut head, body): (Parts, Body),
        role: Role,
        pulse: Rc<Pulse>,
        underway: Underway,
    ) -> Result<Response<Outgoing>, Infallible> {
        let begun = Instant::now();
        let route = Route::of(head.uri.path());
        let id = self.ids.of_request(&head.headers);
        let sharing = self.shared.sharing(&head, role);
        let mut answer = match self.answer(route, role, &mut head, body, &pulse).await {
            Ok(answer) => answer,
            Err(failure) => {
                self.recorder.errors(failure.kind, 1);
                self.complaints.failed(route, &id, &failure);
                failure.into_answer()
            }
        };
        answer.sharing = sharing;
        // A connection over HTTP/1 has one answer at a time, and room for it.
        if head.version > Version::HTTP_11 && head.method != Method::HEAD {
            answer.count_in(&self.shared.memory);
        }
        // HTTP/2 ends a stream alone.
        answer.closes = (answer.closes | pulse.take_left()) && head.version <= Version::HTTP_11;
        if answer.events.is_some() {
            pulse.stream();
        }
        let took = begun.elapsed();
        self.recorder.request(route, answer.status, took, answer.body.len());
        if self.shared.log_access {
            super::log::access(&id, &head.method, route, &answer, took);
        }
        Ok(answer.into_response(&self, pulse, underway, head.method == Method::HEAD, id))
    }

    async fn answer(
        self: &Rc<Self>,
        route: Route,
        role: Role,
        head: &mut Parts,
        body: Body,
        pulse: &Pulse,
    ) -> Result<Answer, Failure> {
        if role == Role::Admin {
            pulse.trust();
        }
        let problem = wire::problem(head).or_else(|| self.shared.page_refusal(head, route, role));
        if problem.is_none()
            && let Some(preflight) = self.shared.preflight(head, role)
        {
            incoming::skip(body, head, &self.shared).await;
            return Ok(preflight);
        }
        let refusal = if problem.is_some() {
            problem
        } else if !self.shared.has(route, role) {
            Some(Failure::new(Kind::Path, "ERR there is nothing at this path"))
        } else if !route.takes(&head.method) {
            let failure = Failure::new(Kind::Method, "ERR method not allowed");
            Some(Failure { allow: Some(route.methods()), ..failure })
        } else {
            None
        };
        if let Some(failure) = refusal {
            incoming::skip(body, head, &self.shared).await;
            return Err(failure);
        }
        match route {
            Route::Health => Ok(health::live()),
            Route::Ready => {
                let tenant = self.let_in(head).ok();
                forget(head);
                Ok(Box::pin(health::ready(&self.shared, tenant, role)).await)
            }
            Route::Details | Route::Metrics => {
                // Others than the operator see what is theirs.
                let tenant = if role == Role::Admin { None } else { Some(self.let_in(head)?) };
                forget(head);
                let mut memory = self.shared.memory.grant();
                // It has no place among requests: who asks how full the gateway is should be told.
                let is_alone = head.version <= Version::HTTP_11;
                if !is_alone && !memory.grow(FREE + STREAM) {
                    return Err(incoming::no_memory());
                }
                let answer = match route {
                    Route::Details => Box::pin(details::details(&self.shared, tenant)).await,
                    _ => Box::pin(scrape::metrics(&self.shared, tenant)).await,
                };
                let size = answer.body.len();
                if is_alone {
                    memory.take_anyway(size.saturating_sub(FREE));
                } else if !memory.grow(FREE + STREAM + size) {
                    return Err(incoming::no_memory());
                }
                Ok(Answer { memory: Some(memory), ..answer })
            }
            Route::Subscribe | Route::PSubscribe | Route::Monitor => {
                let admitted = self.admit(route, head, Among::Streams, pulse);
                // SDKs post an empty array, which means nothing.
                incoming::skip(body, head, &self.shared).await;
                let Admitted { tenant, place, memory, .. } = admitted?;
                forget(head);
                match Box::pin(self.listen(route, head, tenant)).await {
                    Ok(answer) => {
                        let (place, memory) = (Some(place), Some(memory));
                        Ok(Answer { place, memory, sync_token: Some(self.ids.next()), ..answer })
                    }
                    Err(failure) => Err(Failure { held: Some((place, memory)), ..failure }),
                }
            }
            Route::Command | Route::Path | Route::Pipeline | Route::Transaction => {
                let admitted = match self.admit(route, head, Among::Requests, pulse) {
                    Ok(admitted) => admitted,
                    Err(failure) => {
                        incoming::skip(body, head, &self.shared).await;
                        return Err(failure);
                    }
                };
                let Admitted { tenant, format, place, mut memory } = admitted;
                forget(head);
                let performed = async {
                    let body = incoming::read(body, &self.shared).await?;
                    self.perform(route, head, body, tenant, format, &mut memory).await
                };
                match performed.await {
                    Ok(mut answer) => {
                        answer.place = Some(place);
                        answer.memory = Some(memory);
                        answer.sync_token = Some(self.ids.next());
                        Ok(answer)
                    }
                    Err(failure) => {
                        Err(Failure { format: Some(format), held: Some((place, memory)), ..failure })
                    }
                }
            }
        }
    }

    /// What can be said before the body is read.
    fn admit(&self, route: Route, head: &Parts, among: Among, pulse: &Pulse) -> Result<Admitted, Failure> {
        let tenant = self.let_in(head)?;
        pulse.trust();
        let format = format(&head.headers, route)?;
        let place = Place::take(&self.shared, tenant, among).map_err(|full| match full {
            Full::Token => Failure::new(Kind::TokenBusy, "ERR max requests limit exceeded"),
            Full::All if among == Among::Streams => Failure::new(Kind::Busy, "ERR too many streams are open"),
            Full::All => Failure::new(Kind::Busy, "ERR too many requests are under way"),
        })?;
        // Before Redis is asked: an answer that is not large always has its memory.
        let mut memory = self.shared.memory.grant();
        if !memory.reserve(ANSWER) {
            return Err(incoming::no_memory());
        }
        Ok(Admitted { tenant, format, place, memory })
    }

    /// Whose token it is, if it may be used from where it comes.
    fn let_in(&self, head: &Parts) -> Result<usize, Failure> {
        let tenant = self.shared.auth.admits(&head.headers, head.uri.query());
        let tenant =
            tenant.ok_or_else(|| Failure::new(Kind::Token, "WRONGPASS invalid or missing auth token"))?;
        self.shared.origin_refusal(head, tenant).map_or(Ok(tenant), Err)
    }
}

/// Gives the fields of a head back, which nobody needs any more: what a request waits for may take
/// long.
fn forget(head: &mut Parts) {
    head.headers = HeaderMap::new();
}

/// A request that may go on.
struct Admitted {
    tenant: usize,
    format: Format,
    place: Place,
    /// For the answer.
    memory: Grant,
}

/// The form of answers that is asked for.
fn format(headers: &HeaderMap, route: Route) -> Result<Format, Failure> {
    let refusal = |text: &str| Err(Failure::new(Kind::Syntax, text));
    let encoding = match headers.get(&ENCODING).map(HeaderValue::as_bytes) {
        None => Encoding::Text,
        Some(b"base64") => Encoding::Base64,
        Some(_) => return refusal("ERR `Upstash-Encoding` has to be `base64`, or left out"),
    };
    match headers.get(&RESPONSE_FORMAT).map(HeaderValue::as_bytes) {
        None | Some(b"json") => Ok(Format::Json(encoding)),
        // Transactions are answered as JSON whatever is asked for.
        Some(b"resp2") if route == Route::Transaction => Ok(Format::Json(encoding)),
        Some(b"resp2") if encoding == Encoding::Text => Ok(Format::Resp2),
        Some(b"resp2") => {
            refusal("ERR `Upstash-Response-Format: resp2` cannot be combined with `Upstash-Encoding`")
        }
        Some(_) => refusal("ERR `Upstash-Response-Format` has to be `json` or `resp2`"),
    }
}

/// Memory that is reserved for every answer.
pub(super) const ANSWER: usize = 20 << 10;

static ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");
static RESPONSE_FORMAT: HeaderName = HeaderName::from_static("upstash-response-format");
