//! What a request is answered with, and why it fails.

use std::rc::Rc;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use hyper::{Response, StatusCode};

use super::browsers::Sharing;
use super::ids::REQUEST_ID;
use super::outgoing::{Kept, Outgoing};
use super::place::Place;
use super::stream::Events;
use super::worker::Worker;
use crate::backend::{self, TransactionError};
use crate::command::ParseError;
use crate::listener::{Pulse, Underway};
use crate::memory::{FREE, Grant, Memory};
use crate::reply::{Encoding, Format, Pieces, write_failure};

/// An answer, before it becomes a response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    /// What comes instead of a body, when that is large.
    pub(crate) pieces: Option<Box<Pieces>>,
    /// What comes instead of a body, bit by bit.
    pub(crate) events: Option<Events>,
    /// How many commands it answers.
    pub(crate) commands: usize,
    /// The methods that are allowed, if this one is not.
    pub(crate) allow: Option<&'static str>,
    /// Whether the connection ends with it, over HTTP/1.
    pub(crate) closes: bool,
    /// What a browser is told about it.
    pub(crate) sharing: Sharing,
    /// What clients of the dialect expect to be different on every answer.
    pub(crate) sync_token: Option<HeaderValue>,
    /// The place among the requests under way, which it keeps until it is written.
    pub(crate) place: Option<Place>,
    /// The memory it takes, until then too.
    pub(crate) memory: Option<Grant>,
}

impl Answer {
    /// In this format.
    pub(crate) fn new(status: StatusCode, format: Format, body: Vec<u8>) -> Self {
        let content_type = format.content_type();
        Self {
            status,
            content_type,
            body,
            pieces: None,
            events: None,
            commands: 0,
            allow: None,
            closes: false,
            sharing: Sharing::default(),
            sync_token: None,
            place: None,
            memory: None,
        }
    }

    /// JSON.
    pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Self {
        Self::new(status, JSON, body)
    }

    /// Counts a body for which nothing was reserved. Where there is no memory for it, the status is
    /// the answer: that waits for no window of HTTP/2.
    pub(crate) fn count_in(&mut self, memory: &Memory) {
        if self.body.is_empty() || self.memory.is_some() {
            return;
        }
        let mut grant = memory.grant();
        if grant.spare(self.body.len() + STREAM) {
            self.memory = Some(grant);
        } else {
            (self.body, self.content_type) = (Vec::new(), "");
        }
    }

    /// The response to the request of this id. One to a `HEAD` only says how long the body would be.
    pub(crate) fn into_response(
        self,
        worker: &Rc<Worker>,
        pulse: Rc<Pulse>,
        underway: Underway,
        head: bool,
        id: HeaderValue,
    ) -> Response<Outgoing> {
        let Self {
            status,
            content_type,
            body,
            pieces,
            events,
            allow,
            closes,
            sharing,
            sync_token,
            place,
            memory,
            ..
        } = self;
        let mut headers = HeaderMap::with_capacity(HEADERS);
        if !content_type.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        sharing.write(&mut headers);
        headers.insert(REQUEST_ID.clone(), id);
        if let Some(token) = sync_token {
            headers.insert(SYNC_TOKEN.clone(), token);
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // How long a large one would be, nobody knows before it is written.
        if head && pieces.is_none() {
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let kept = Kept::new(pulse, underway, place, memory);
        let body = match (events, pieces) {
            (Some(events), _) => {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                Outgoing::events(events, kept)
            }
            (None, _) if head => Outgoing::bytes(Bytes::new(), kept),
            (None, Some(pieces)) => Outgoing::pieces(pieces, Rc::clone(worker), kept),
            (None, None) => Outgoing::bytes(body.into(), kept),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Why a request has no result.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// The form that answers were asked for in, once that is known.
    pub(crate) format: Option<Format>,
    /// The methods that are allowed, if this one is not.
    pub(crate) allow: Option<&'static str>,
    /// What the request holds until it is answered.
    pub(crate) held: Option<(Place, Grant)>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What frames or directs the request has no meaning, or two.
    Framing,
    /// The body is coded in a way that is not known.
    Coding,
    /// The request is no command, or asks for a form that does not exist.
    Syntax,
    /// The command is not available over REST, or not to this token.
    Refused,
    /// Redis answered an error.
    Redis,
    /// The token is missing or wrong.
    Token,
    /// It comes from a web page that may not.
    Origin,
    /// There is nothing at this path.
    Path,
    /// The method means nothing here.
    Method,
    /// The body did not come in time.
    SlowBody,
    /// The body is too large.
    LargeBody,
    /// The token has too much under way.
    TokenBusy,
    /// All tokens together have too much under way.
    Busy,
    /// There is no memory for the request or its answer.
    Memory,
    /// Redis answered more than is allowed.
    LargeReply,
    /// Redis answered nonsense.
    Nonsense,
    /// No connection to Redis is up.
    Unreachable,
    /// The connection to Redis ended before the answer.
    Lost,
    /// Redis did not answer in time.
    TimedOut,
    /// A command of a pipeline has no answer, where others have.
    Unanswered,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), format: None, allow: None, held: None }
    }

    /// The answer that says so.
    pub(crate) fn into_answer(self) -> Answer {
        let format = self.format.unwrap_or(JSON);
        let mut body = Vec::with_capacity(self.text.len() + 16);
        write_failure(&mut body, &self.text, format);
        // What follows may be meant in another way.
        let closes = matches!(self.kind, Kind::Framing | Kind::Coding);
        let (place, mut memory) = self.held.unzip();
        if let Some(memory) = &mut memory {
            // What Redis says of a transaction may be long, and is there already.
            memory.take_anyway(body.len().saturating_sub(FREE));
        }
        Answer { allow: self.allow, closes, place, memory, ..Answer::new(self.kind.status(), format, body) }
    }
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 20] = [
        Self::Framing,
        Self::Coding,
        Self::Syntax,
        Self::Refused,
        Self::Redis,
        Self::Token,
        Self::Origin,
        Self::Path,
        Self::Method,
        Self::SlowBody,
        Self::LargeBody,
        Self::TokenBusy,
        Self::Busy,
        Self::Memory,
        Self::LargeReply,
        Self::Nonsense,
        Self::Unreachable,
        Self::Lost,
        Self::TimedOut,
        Self::Unanswered,
    ];

    /// Its name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Framing => "framing",
            Self::Coding => "coding",
            Self::Syntax => "syntax",
            Self::Refused => "refused",
            Self::Redis => "redis",
            Self::Token => "token",
            Self::Origin => "origin",
            Self::Path => "path",
            Self::Method => "method",
            Self::SlowBody => "slow_body",
            Self::LargeBody => "large_body",
            Self::TokenBusy => "token_busy",
            Self::Busy => "busy",
            Self::Memory => "memory",
            Self::LargeReply => "large_reply",
            Self::Nonsense => "nonsense",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::TimedOut => "timed_out",
            Self::Unanswered => "unanswered",
        }
    }

    /// The status that goes with it.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            // The dialect knows one status for commands that fail, whoever refuses them.
            Self::Framing | Self::Syntax | Self::Refused | Self::Redis => StatusCode::BAD_REQUEST,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::LargeBody => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TokenBusy => StatusCode::TOO_MANY_REQUESTS,
            Self::LargeReply | Self::Nonsense => StatusCode::BAD_GATEWAY,
            Self::Busy | Self::Memory | Self::Unreachable | Self::Lost => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut | Self::Unanswered => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::new(Kind::Syntax, error.to_string())
    }
}

impl From<backend::Failure> for Failure {
    fn from(error: backend::Failure) -> Self {
        let kind = match error {
            backend::Failure::Unreachable(_) => Kind::Unreachable,
            backend::Failure::Lost | backend::Failure::Unclear => Kind::Lost,
            backend::Failure::TimedOut(_) => Kind::TimedOut,
            backend::Failure::TooLarge(_) => Kind::LargeReply,
            backend::Failure::NoMemory => Kind::Memory,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Discarded(text) => Self::new(Kind::Redis, text),
            TransactionError::Failed(failure) => failure.into(),
            TransactionError::Nonsense => {
                Self::new(Kind::Nonsense, "ERR redis answered EXEC with something else than an array")
            }
        }
    }
}

/// The form of answers that nobody asked for in another one.
const JSON: Format = Format::Json(Encoding::Text);

/// What a stream of HTTP/2 takes besides the body that waits on it.
pub(super) const STREAM: usize = 4 << 10;

/// Fields in an answer's head, with room to spare.
const HEADERS: usize = 8;

static SYNC_TOKEN: HeaderName = HeaderName::from_static("upstash-sync-token");
