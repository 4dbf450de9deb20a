//! A double of the store, for the failures that a real gateway does not produce on demand.
//!
//! It speaks just enough of the REST dialect to be called: it counts the commands of a pipeline and answers as its
//! [`Mode`] says. It holds no data and decides nothing; what a working store does is tested against the real one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::server::{Answer, Server};

/// How the double answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// At once, this result for every command.
    Answer(Value),
    /// The same after a while.
    Late(Duration, Value),
    /// 200 with a body that is not JSON.
    Garbage,
    /// 200 with half as many results as commands, rounded down.
    HalfPipeline(Value),
    /// 200 with one result more than commands.
    LongPipeline(Value),
    /// 200 with this error for every command, as Redis words it.
    Refuse(&'static str),
    /// 200 with JSON that is not an array.
    NotAnArray,
    /// This status with an error body, such as 401 or 500.
    Status(StatusCode),
    /// The head and the first bytes of a body, then the connection closes.
    CloseMidAnswer,
    /// Nothing, for as long as the client waits.
    Silent,
}

/// A store that fails as told.
#[derive(Debug)]
pub struct StoreDouble {
    server: Server,
    state: Arc<State>,
}

impl StoreDouble {
    /// Listens on `port`, in the given mode.
    pub async fn start(port: u16, mode: Mode) -> Result<StoreDouble> {
        let state = Arc::new(State {
            mode: Mutex::new(mode),
            requests: AtomicU64::new(0),
            commands: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&state);
        let server = Server::start(port, move |request| answer(Arc::clone(&theirs), request)).await?;
        Ok(StoreDouble { server, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Switches the mode for the requests that come from now on.
    pub fn set_mode(&self, mode: Mode) {
        *self.state.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many commands these requests held.
    pub fn commands(&self) -> u64 {
        self.state.commands.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct State {
    mode: Mutex<Mode>,
    requests: AtomicU64,
    commands: AtomicU64,
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Answer {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let mode = state.mode.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let commands = match serde_json::from_slice(&body) {
        Ok(Value::Array(items)) if items.iter().all(Value::is_array) => items.len(),
        _ => 1,
    };
    state.commands.fetch_add(commands as u64, Ordering::Relaxed);
    match mode {
        Mode::Answer(result) => Ok(items(&json!({ "result": result }), commands)),
        Mode::Late(after, result) => {
            tokio::time::sleep(after).await;
            Ok(items(&json!({ "result": result }), commands))
        }
        Mode::Garbage => Ok(response(StatusCode::OK, "<html>\u{0}\u{fffd} not what you asked for")),
        Mode::HalfPipeline(result) => Ok(items(&json!({ "result": result }), commands / 2)),
        Mode::LongPipeline(result) => Ok(items(&json!({ "result": result }), commands + 1)),
        Mode::Refuse(error) => Ok(items(&json!({ "error": error }), commands)),
        Mode::NotAnArray => Ok(response(StatusCode::OK, r#"{"result":{"surprising":true}}"#)),
        Mode::Status(status) => {
            Ok(response(status, json!({ "error": format!("double: {status}") }).to_string()))
        }
        Mode::CloseMidAnswer => Ok(Response::new(Broken::default().boxed())),
        Mode::Silent => std::future::pending().await,
    }
}

fn items(item: &Value, count: usize) -> Response<BoxBody<Bytes, io::Error>> {
    response(StatusCode::OK, Value::Array(vec![item.clone(); count]).to_string())
}

fn response(status: StatusCode, body: impl Into<Bytes>) -> Response<BoxBody<Bytes, io::Error>> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// A body that begins and then fails, which makes hyper close the connection.
#[derive(Debug, Default)]
struct Broken {
    polls: u8,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.polls += 1;
        match self.polls {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(br#"[{"result":["#))))),
            // A turn without news, in which hyper sends what it has.
            2 => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(io::Error::other("the double closes here")))),
        }
    }
}
