//! What stands behind a server that runs vectors: an upstream that does with each request what its step says.

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Result;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use tokio::net::TcpStream;
use tollgate_vectors::adapter::Answer;
use tollgate_vectors::format::Step;
use tollgate_vectors::request::UpstreamReply;

use super::over_http;
use crate::upstream::{Reply, ReplyBody, Upstream};
use crate::{client, ports};

/// An upstream whose answers tell that they are its own.
#[derive(Debug)]
pub(super) struct Origin {
    upstream: Upstream,
    /// Requests that it does not answer, open for as long as this lives.
    hanging: Vec<TcpStream>,
}

impl Origin {
    pub(super) async fn start() -> Result<Origin> {
        Ok(Origin { upstream: Upstream::start(ports::free()?).await?, hanging: Vec::new() })
    }

    /// Where the server under test sends what it lets through.
    pub(super) fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// Sends the request of `step` to `server`, which takes its peer's address from the header `peer`.
    pub(super) async fn ask(&mut self, server: SocketAddr, step: &Step, peer: &str) -> Result<Answer> {
        self.upstream.set_reply(reply(&step.ask.upstream)?);
        let mut received = self.upstream.received();
        let answer = if step.ask.upstream == UpstreamReply::Hangs {
            let mut connection = over_http::begin(server, step, peer).await?;
            tokio::select! {
                answer = client::read(&mut connection) => answer?,
                _ = received.changed() => {
                    self.hanging.push(connection);
                    let seen = received.borrow().clone();
                    return Ok(Answer { status: 0, passed: true, headers: Vec::new(), body: String::new(), seen });
                }
            }
        } else {
            over_http::ask(server, step, peer).await?
        };
        let seen = if received.has_changed()? { received.borrow().clone() } else { Vec::new() };
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers =
            answer.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())));
        Ok(Answer {
            status: answer.status.as_u16(),
            passed: answer.headers.contains_key(MARKER),
            headers: headers.collect(),
            body: text(&answer.body),
            seen,
        })
    }
}

fn reply(upstream: &UpstreamReply) -> Result<Reply> {
    let mut reply = Reply {
        headers: vec![(MARKER, HeaderValue::from_static("1"))],
        body: ReplyBody::Bytes("ok".into()),
        ..Reply::default()
    };
    match upstream {
        UpstreamReply::Hangs => reply.delay = Duration::MAX,
        UpstreamReply::Answers { status, headers, body } => {
            reply.status = StatusCode::from_u16(*status)?;
            for (name, value) in headers {
                reply.headers.push((HeaderName::from_str(name)?, HeaderValue::from_str(value)?));
            }
            if let Some(body) = body {
                reply.body = ReplyBody::Bytes(body.clone().into());
            }
        }
    }
    Ok(reply)
}

/// On every answer of the upstream.
const MARKER: HeaderName = HeaderName::from_static("x-tollgate-test-origin");
