//! The routes: what can be posted where, and which status answers what.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `POST /` | a command | `{"result":…}`, or 400 with Redis's error |
//! | `POST /pipeline` | commands | 200 with one object per command, errors among them |
//! | `POST /multi-exec` | commands | the same, all or none; 400 with one error when discarded |
//! | `GET /health` | | 200, or 503 with the reason |
//!
//! Everything that fails has `{"error":"…"}` as its body: SDKs parse it whatever the status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::auth::Auth;
use crate::backend::{Backend, Failure as NoReply, TransactionError};
use crate::command::{ParseError, Rules, parse_command, parse_pipeline};
use crate::config::{Config, Limits};
use crate::health::health;
use crate::listener;
use crate::relay;
use crate::reply::{Encoding, Format, error, write_error, write_result, write_results};

/// A gateway that listens, and serves once it is [run](Self::run).
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Gateway {
    /// Takes the port and connects to Redis. A Redis that is not there yet is no failure.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let Config { listen, redis, auth, connections, limits, .. } = config;
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on `{listen}`"))?;
        let address = listener.local_addr().context("cannot tell the address listened on")?;
        if auth.is_open() {
            tracing::warn!("NO TOKEN IS REQUIRED: everyone who reaches {address} can read and write {redis}");
        }
        let backend =
            Backend::start(&redis, connections.get(), limits.command_timeout, LARGEST_RESPONSE).await?;
        tracing::info!(%redis, "listening on http://{address}");
        let in_flight = Semaphore::new(limits.in_flight);
        Ok(Self {
            listener,
            address,
            shared: Arc::new(Shared { backend, rules: Rules::default(), auth, limits, in_flight }),
        })
    }

    /// The address listened on; tells the port when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, and then what is under way for a few seconds more.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let limits = self.shared.limits;
        listener::serve(self.listener, routes(self.shared), limits, stop).await;
    }
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) backend: Backend,
    rules: Rules,
    auth: Auth,
    limits: Limits,
    in_flight: Semaphore,
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", post(command))
        .route("/pipeline", post(pipeline))
        .route("/multi-exec", post(multi_exec))
        .route("/health", get(health))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(shared)
}

async fn no_such_path(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    skip(request.into_body(), shared.limits.body).await;
    Failure::new(StatusCode::NOT_FOUND, "ERR no such path").answer()
}

async fn no_such_method(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    skip(request.into_body(), shared.limits.body).await;
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "ERR method not allowed").answer()
}

async fn command(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let answer = shared.admitted(request, async |body, encoding| {
        let batch = parse_command(&body, &shared.rules)?;
        if let Some(refusal) = batch.refusal() {
            return Err(Failure::new(StatusCode::BAD_REQUEST, refusal));
        }
        let reply = relay::run(&shared.backend, &shared.rules, &batch).await.all()?;
        if let Some(text) = error(&reply) {
            return Err(Failure::new(StatusCode::BAD_REQUEST, String::from_utf8_lossy(text)));
        }
        let mut out = Vec::with_capacity(USUAL_REPLY);
        if let Some(sending) = batch.sending().next() {
            write_result(&mut out, sending, &reply, Format::Json(encoding));
        }
        Ok(out)
    });
    answer.await.unwrap_or_else(Failure::answer)
}

async fn pipeline(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let answer = shared.admitted(request, async |body, encoding| {
        let batch = parse_pipeline(&body, shared.limits.pipeline, &shared.rules)?;
        let replies = relay::run(&shared.backend, &shared.rules, &batch).await;
        // Where nothing at all was answered, the status says so.
        match replies.failure() {
            Some(failure) if batch.refusal().is_none() => Err(failure.clone().into()),
            _ => Ok(write_results(&batch, &replies, Format::Json(encoding))),
        }
    });
    answer.await.unwrap_or_else(Failure::answer)
}

async fn multi_exec(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let answer = shared.admitted(request, async |body, encoding| {
        let batch = parse_pipeline(&body, shared.limits.pipeline, &shared.rules)?;
        if let Some(refusal) = batch.refusal() {
            return Err(Failure::new(StatusCode::BAD_REQUEST, refusal));
        }
        match shared.backend.transact(&batch).await {
            Ok(replies) => Ok(write_results(&batch, &replies, Format::Json(encoding))),
            Err(TransactionError::Discarded(text)) => Err(Failure::new(StatusCode::BAD_REQUEST, text)),
            Err(TransactionError::Failed(failure)) => Err(failure.into()),
            Err(TransactionError::Nonsense) => Err(Failure::new(
                StatusCode::BAD_GATEWAY,
                "ERR redis answered EXEC with something else than an array",
            )),
        }
    });
    answer.await.unwrap_or_else(Failure::answer)
}

impl Shared {
    /// Checks what every request has to satisfy, reads its body, and answers with what `act` makes of it.
    async fn admitted(
        &self,
        request: Request,
        act: impl AsyncFnOnce(Bytes, Encoding) -> Result<Vec<u8>, Failure>,
    ) -> Result<Response, Failure> {
        let (head, body) = request.into_parts();
        let (encoding, _place) = match self.admit(&head.headers) {
            Ok(admitted) => admitted,
            Err(failure) => {
                skip(body, self.limits.body).await;
                return Err(failure);
            }
        };
        let body = timeout(BODY_TIMEOUT, read(body, self.limits.body)).await.map_err(|_| {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "ERR the request body did not arrive in time")
        })??;
        act(body, encoding).await.map(|body| json(StatusCode::OK, body))
    }

    /// What can be said before the body is read. The permit is a place among the requests under way.
    fn admit(&self, headers: &HeaderMap) -> Result<(Encoding, SemaphorePermit<'_>), Failure> {
        if !self.auth.admits(headers) {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "WRONGPASS invalid or missing auth token"));
        }
        let encoding = encoding(headers)?;
        let place = self.in_flight.try_acquire().map_err(|_| {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "ERR too many requests are under way")
        })?;
        Ok((encoding, place))
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    if headers.get("upstash-response-format").is_some_and(|format| format != "json") {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "ERR only the response format `json` is supported",
        ));
    }
    match headers.get("upstash-encoding").map(HeaderValue::as_bytes) {
        None => Ok(Encoding::Text),
        Some(b"base64") => Ok(Encoding::Base64),
        Some(_) => Err(Failure::new(StatusCode::BAD_REQUEST, "ERR only the encoding `base64` is supported")),
    }
}

/// Throws away a body of at most `limit` bytes. hyper closes a connection whose request was not read to its end, which the
/// client would meet instead of the answer, or with its next request.
async fn skip(mut body: Body, limit: usize) {
    let mut size = 0_usize;
    let skipped = async {
        while let Some(Ok(frame)) = body.frame().await {
            size = size.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if size > limit {
                break;
            }
        }
    };
    // Whether it was all of it or not, the answer is the same.
    let _ = timeout(BODY_TIMEOUT, skipped).await;
}

/// Reads a body of at most `limit` bytes; one that arrives in one piece is not copied. Of a larger one up to `limit` bytes
/// more are thrown away, for the same reason as in [`skip`].
async fn read(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let failure = || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "ERR max request size exceeded");
    let announced = axum::body::HttpBody::size_hint(&body).lower();
    if announced > limit.saturating_mul(2) as u64 {
        return Err(failure());
    }
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "ERR failed to read the request body"))?;
        let Ok(piece) = frame.into_data() else { continue };
        let before = size;
        size = size.saturating_add(piece.len());
        if size > limit.saturating_mul(2) {
            return Err(failure());
        } else if size > limit {
            (first, whole) = (Bytes::new(), Vec::new());
        } else if before == 0 {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.reserve_exact(limit.min(usize::try_from(announced).unwrap_or(limit)).max(size));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&piece);
        }
    }
    if size > limit {
        return Err(failure());
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

/// An answer that is an error.
struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn answer(self) -> Response {
        let mut body = Vec::new();
        write_error(&mut body, self.text.as_bytes());
        json(self.status, body)
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<NoReply> for Failure {
    fn from(error: NoReply) -> Self {
        let status = match error {
            NoReply::Unreachable(_) | NoReply::Lost => StatusCode::SERVICE_UNAVAILABLE,
            NoReply::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            NoReply::TooLarge(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

/// The most bytes of replies to one request.
const LARGEST_RESPONSE: usize = 100 << 20;

/// What `{"result":[1,99,60000]}` takes, with room to spare.
const USUAL_REPLY: usize = 48;

/// A client that sends its body more slowly is cut off, so that it cannot hold a place among the requests under way.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
