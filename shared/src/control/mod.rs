//! The control path: what operators and programs do over HTTP with what is [called by name](crate::by_name) in the policy.
//!
//! ```text
//! find ─┬─▶ None                  the request has nothing to do with it
//!       ├─▶ Found::Answer         the answer
//!       └─▶ Found::Asked(asked)   ── the host reads the body, if asked.takes_body() ──▶ asked.begin
//! begin ─┬─▶ Step::Answer         the answer
//!        └─▶ Step::Call(call)     ── the host performs call.batch() ──▶ call.resume ─▶ the answer
//! ```
//!
//! A wrong *allow* hands the guards to a stranger. So there is no control path without a token, and a path leads here only if it is,
//! byte for byte, the prefix and what stands in the table below: it is not decoded, normalised or folded, and a query makes it
//! another one. Whatever begins with the prefix is answered here, so that none of it reaches an upstream.
//!
//! | method | path | asks for |
//! | --- | --- | --- |
//! | `GET` | `health` | whether the host lives; without a token |
//! | `GET` | `health/detailed` | how its store is |
//! | `GET` | `openapi.json` | the description of all this |
//! | `POST` | the others | what [`Action`](crate::by_name::Action) says |

mod body;
mod reply;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use subtle::ConstantTimeEq as _;

use crate::answer::Answer;
use crate::by_name;
use crate::config::{ConfigError, store};
use crate::local::Local;
use crate::policy::Policy;
use crate::request::Request;
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, StoreError};
use crate::time::Timestamp;

/// What paths begin with where nothing is said.
pub const DEFAULT_PREFIX: &str = "/.tollgate/";
/// Most bytes of a body.
pub const MAX_BODY: usize = 16 * 1024;
/// Least bytes of a token.
pub const MIN_TOKEN: usize = 16;

/// The control path of a host.
pub struct Control {
    prefix: String,
    /// The value of `Authorization`.
    authorization: String,
}

/// A request of the control path.
#[derive(Debug)]
pub enum Found {
    /// This is its answer.
    Answer(Answer),
    /// Its sender may ask for what he asks for.
    Asked(Asked),
}

/// What the sender of a request may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Asked(Question);

/// What the host does next.
#[derive(Debug)]
pub enum Step {
    /// Send the answer.
    Answer(Answer),
    /// Perform [`Call::batch`] in one call to the store, then [`Call::resume`].
    Call(Call),
}

/// A request that waits for the store.
#[derive(Debug)]
pub struct Call(Waiting);

#[derive(Debug)]
enum Waiting {
    Action(by_name::Call, Verb),
    Ping { op: Op, began: Timestamp },
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Document,
    /// What takes more than the head of the request.
    Asks(Question),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Details,
    Action(Verb),
}

/// What is to be done with what the body names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Revoke,
    InspectLimit,
    ResetLimit,
    InspectBreaker,
    OpenBreaker,
    CloseBreaker,
    AcquireLock,
    ExtendLock,
    ReleaseLock,
    Mark,
    Forget,
}

/// Every path behind the prefix, and its method; who may `GET` may ask for the `HEAD` alone.
const ENDPOINTS: [(&str, &str, Endpoint); 14] = [
    ("GET", "health", Endpoint::Health),
    ("GET", "health/detailed", Endpoint::Asks(Question::Details)),
    ("GET", "openapi.json", Endpoint::Document),
    ("POST", "revoke", action(Verb::Revoke)),
    ("POST", "limits/inspect", action(Verb::InspectLimit)),
    ("POST", "limits/reset", action(Verb::ResetLimit)),
    ("POST", "breakers/inspect", action(Verb::InspectBreaker)),
    ("POST", "breakers/open", action(Verb::OpenBreaker)),
    ("POST", "breakers/close", action(Verb::CloseBreaker)),
    ("POST", "locks/acquire", action(Verb::AcquireLock)),
    ("POST", "locks/extend", action(Verb::ExtendLock)),
    ("POST", "locks/release", action(Verb::ReleaseLock)),
    ("POST", "dedup/mark", action(Verb::Mark)),
    ("POST", "dedup/forget", action(Verb::Forget)),
];

impl Control {
    /// A control path for who has `token`, below `prefix`; [`DEFAULT_PREFIX`] where nothing is said. Errors name the fields
    /// `control.token` and `control.prefix`.
    ///
    /// # Errors
    /// The token is short or would not survive in a header field, or the prefix is none.
    pub fn new(prefix: Option<&str>, token: &str) -> Result<Self, ConfigError> {
        let authorization = store::authorization("control.token", token)?;
        if token.len() < MIN_TOKEN {
            let expected = "at least 16 characters, such as `openssl rand -hex 32` draws them";
            return Err(ConfigError::new("control.token", "a short token (not shown)", expected));
        }
        let prefix = prefix.unwrap_or(DEFAULT_PREFIX);
        if !is_prefix(prefix) {
            let expected = "a path such as `/.tollgate/`: segments of A-Z a-z 0-9 . _ ~ -, a slash at both ends, at most 64 bytes";
            return Err(ConfigError::new("control.prefix", alloc::format!("`{prefix}`"), expected));
        }
        Ok(Self { prefix: prefix.to_owned(), authorization })
    }

    /// What a request asks for, by its head; `None` for one that has nothing to do with the control path.
    pub fn find(&self, request: &dyn Request) -> Option<Found> {
        let mut path = None;
        request.target(&mut |target| path = target.strip_prefix(self.prefix.as_bytes()).map(<[u8]>::to_vec));
        let path = path?;
        Some(self.admit(request, &path).unwrap_or_else(Found::Answer))
    }

    fn admit(&self, request: &dyn Request, path: &[u8]) -> Result<Found, Answer> {
        let of_path = ENDPOINTS.iter().find(|(_, own, _)| own.as_bytes() == path);
        let (method, _, endpoint) = *of_path.ok_or_else(reply::not_found)?;
        let mut is_method = false;
        request.method(&mut |sent| {
            is_method = sent == method.as_bytes() || (method == "GET" && sent == b"HEAD");
        });
        if !is_method {
            return Err(reply::not_allowed(method));
        }
        if endpoint != Endpoint::Health && !self.authorizes(request) {
            return Err(reply::unauthorized());
        }
        let question = match endpoint {
            Endpoint::Health => return Ok(Found::Answer(reply::healthy())),
            Endpoint::Document => return Ok(Found::Answer(reply::document(&self.prefix))),
            Endpoint::Asks(question) => question,
        };
        let asked = Asked(question);
        if asked.takes_body() && announces_too_much(request) {
            return Err(reply::too_large());
        }
        Ok(Found::Asked(asked))
    }

    /// Whether a request has the token: in the one line of `Authorization` that it has. How long the comparison takes tells the
    /// token's length at most.
    fn authorizes(&self, request: &dyn Request) -> bool {
        let (mut lines, mut is_equal) = (0_u32, false);
        request.header("authorization", &mut |line| {
            lines = lines.saturating_add(1);
            is_equal = line.ct_eq(self.authorization.as_bytes()).into();
        });
        lines == 1 && is_equal
    }
}

/// Without the token.
impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Asked {
    /// Whether the body of the request is read. Of a longer one than [`MAX_BODY`], one byte more is enough to begin with.
    pub fn takes_body(&self) -> bool {
        self.0 != Question::Details
    }

    /// Begins with the body, which may come in any form.
    pub fn begin<S: Shards>(
        self,
        policy: &Policy,
        local: &mut Local<S>,
        body: &[u8],
        now: Timestamp,
    ) -> Step {
        let verb = match (self.0, &local.store) {
            (Question::Action(verb), _) => verb,
            (Question::Details, None) => return Step::Answer(reply::details(local, None)),
            // The store is asked even while it is left alone: who asks wants to know how it is now.
            (Question::Details, Some(_)) => {
                let op = Op::IsRevoked { key: policy.ping_key() };
                return Step::Call(Call(Waiting::Ping { op, began: now }));
            }
        };
        if body.len() > MAX_BODY {
            return Step::Answer(reply::too_large());
        }
        let begun = body::read(verb, body, |action| by_name::begin(policy, local, action, now));
        match begun {
            Err(error) => Step::Answer(reply::bad_request(&error)),
            Ok(Err(error)) => Step::Answer(reply::unfit(&error)),
            Ok(Ok(by_name::Step::Call(call))) => Step::Call(Call(Waiting::Action(call, verb))),
            // Only what was asked in vain has something to settle.
            Ok(Ok(by_name::Step::Done(ended))) => Step::Answer(reply::ended(verb, &ended)),
        }
    }
}

impl AsRef<[Op]> for Call {
    fn as_ref(&self) -> &[Op] {
        self.batch()
    }
}

impl Call {
    /// The operations to perform.
    pub fn batch(&self) -> &[Op] {
        match &self.0 {
            Waiting::Action(call, _) => call.batch(),
            Waiting::Ping { op, .. } => core::slice::from_ref(op),
        }
    }

    /// Ends with what the store answered: the answer, and what the store is to be told then, without anybody waiting.
    pub fn resume<S: Shards>(
        self,
        local: &mut Local<S>,
        outcomes: impl IntoIterator<Item = Result<Outcome, StoreError>>,
        now: Timestamp,
    ) -> (Answer, Vec<Op>) {
        match self.0 {
            Waiting::Action(call, verb) => {
                let ended = call.resume(local, outcomes, now);
                (reply::ended(verb, &ended), ended.settle)
            }
            Waiting::Ping { began, .. } => {
                let failure = match outcomes.into_iter().next() {
                    Some(Ok(Outcome::Revoked(_))) => None,
                    Some(Err(error)) => Some(error),
                    _ => Some(StoreError::Garbage),
                };
                (reply::details(local, Some(&(now.since(began), failure))), Vec::new())
            }
        }
    }
}

const fn action(verb: Verb) -> Endpoint {
    Endpoint::Asks(Question::Action(verb))
}

/// Every method and path there is, behind the prefix.
pub fn endpoints() -> impl Iterator<Item = (&'static str, &'static str)> {
    ENDPOINTS.iter().map(|(method, path, _)| (*method, *path))
}

fn is_prefix(text: &str) -> bool {
    let segments = text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
    let is_plain = |segment: &str| {
        // What every client and proxy leaves as it is (RFC 3986 §2.3), dot segments aside.
        let is_unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_unreserved)
    };
    text.len() <= 64 && segments.is_some_and(|segments| segments.split('/').all(is_plain))
}

/// Whether `Content-Length` says that the body is too large to be read.
fn announces_too_much(request: &dyn Request) -> bool {
    let mut is_too_much = false;
    request.header("content-length", &mut |line| {
        let length = core::str::from_utf8(line).ok().and_then(|text| text.trim().parse::<usize>().ok());
        // A length that does not fit is none that could be read.
        is_too_much |= length.is_none_or(|length| length > MAX_BODY);
    });
    is_too_much
}
