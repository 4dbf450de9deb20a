//! An origin that answers with what it received.
//!
//! The answer's body is JSON: `{"method": …, "path": …, "headers": [[name, value], …], "body_length": …}`, the path with
//! its query and as it was spelled, header values with bytes outside UTF-8 replaced. The answer comes when the request's
//! body has ended. A request sees the [`Reply`] that is set when it comes.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use crate::server::{Answer, Server};

/// How the origin answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Headers added to the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it waits before it answers.
    pub delay: Duration,
}

/// A running echo origin.
#[derive(Debug)]
pub struct Upstream {
    server: Server,
    state: Arc<State>,
}

impl Upstream {
    /// Listens on `port` and answers 200 at once.
    pub async fn start(port: u16) -> Result<Upstream> {
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        let server = Server::start(port, move |request| echo(Arc::clone(&theirs), request)).await?;
        Ok(Upstream { server, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Changes how it answers from now on.
    pub fn set_reply(&self, reply: Reply) {
        *self.state.reply.lock().unwrap_or_else(PoisonError::into_inner) = reply;
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct State {
    reply: Mutex<Reply>,
    requests: AtomicU64,
}

async fn echo(state: Arc<State>, request: Request<Incoming>) -> Answer {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let reply = state.reply.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let length = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes().len();
    let seen = json!({ "method": method, "path": path, "headers": headers, "body_length": length });
    let mut response = Response::new(Full::from(seen.to_string()).map_err(|never| match never {}).boxed());
    *response.status_mut() = reply.status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in reply.headers {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}
