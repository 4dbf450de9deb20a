//! An origin that answers with what it received, or as it is told.
//!
//! By default the answer's body is JSON: `{"method": …, "path": …, "headers": [[name, value], …], "body_length": …}`, the path with
//! its query and as it was spelled, header values with bytes outside UTF-8 replaced. The answer comes when the request's
//! body has ended. A request sees the [`Reply`] that is set when it comes.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use crate::server::{Answer, Server, whole};

/// How the origin answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Headers added to the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it waits before it answers.
    pub delay: Duration,
    /// The body.
    pub body: ReplyBody,
}

/// What an answer holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ReplyBody {
    /// What was received, as JSON.
    #[default]
    Echo,
    /// These bytes, with their length.
    Bytes(Bytes),
    /// What the request's body holds, piece by piece as it comes.
    Mirror,
    /// The same in one piece, when it has ended.
    Returned,
    /// These bytes as the first piece, and nothing more for as long as the client stays.
    Unfinished(Bytes),
    /// These bytes as the first piece, then the connection closes.
    Cut(Bytes),
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

    /// The header fields of the request that came last, as soon as it has come.
    pub fn received(&self) -> watch::Receiver<Fields> {
        self.state.received.subscribe()
    }
}

/// Header fields: names in lower case, and values with bytes outside UTF-8 replaced.
pub type Fields = Vec<(String, String)>;

#[derive(Debug, Default)]
struct State {
    reply: Mutex<Reply>,
    requests: AtomicU64,
    received: watch::Sender<Fields>,
}

async fn echo(state: Arc<State>, request: Request<Incoming>) -> Answer {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let reply = state.reply.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fields = fields(request.headers());
    state.received.send_replace(fields.clone());
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    let body = match reply.body {
        ReplyBody::Echo => {
            let (method, path) = (request.method().to_string(), request.uri().to_string());
            let length = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes().len();
            let seen = json!({ "method": method, "path": path, "headers": fields, "body_length": length });
            let mut response = Response::new(whole(seen.to_string()));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
            return Ok(dressed(response, reply.status, reply.headers));
        }
        ReplyBody::Bytes(bytes) => {
            request.into_body().collect().await.map_err(io::Error::other)?;
            whole(bytes)
        }
        ReplyBody::Returned => {
            whole(request.into_body().collect().await.map_err(io::Error::other)?.to_bytes())
        }
        ReplyBody::Mirror => request.into_body().map_err(io::Error::other).boxed(),
        ReplyBody::Unfinished(bytes) => begun(bytes, None),
        ReplyBody::Cut(bytes) => begun(bytes, Some(CUT_AFTER)),
    };
    Ok(dressed(Response::new(body), reply.status, reply.headers))
}

fn fields(headers: &HeaderMap) -> Fields {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

fn dressed(
    mut response: Response<BoxBody<Bytes, io::Error>>,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Response<BoxBody<Bytes, io::Error>> {
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// A body that begins with `bytes` and then fails, or never ends.
fn begun(bytes: Bytes, fails_after: Option<Duration>) -> BoxBody<Bytes, io::Error> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        let _ = sender.send_data(bytes).await;
        match fails_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
        sender.abort(io::Error::other("the origin closes here"));
    });
    body.boxed()
}

/// Enough for the first piece to leave.
const CUT_AFTER: Duration = Duration::from_millis(50);
