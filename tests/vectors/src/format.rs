//! The format of vectors.
//!
//! A file is a list of `[[vector]]`. Time zero of every vector is 2027-01-16T00:00:00Z (1800057600 in Unix seconds), so
//! that windows of a day and all their fractions begin there.
//!
//! ```toml
//! [[vector]]
//! name = "fixed_window_turns_on_its_boundary"
//! limit = { algorithm = "fixed_window", quota = 2, window = "60s" }
//! steps = [
//!   { at = "59999ms", allow = 2, deny = 1, retry_after = 1 },
//!   { at = "60s", allow = 1, remaining = 1 },
//! ]
//! ```
//!
//! **A vector** has a `name`, `steps`, and a policy, which is put together from
//! - `policy`: a table or a text of JSON, as the host would be given it;
//! - `limit` or `limits`: rate limits of the default route. What one leaves out is `name = "limit"`, `algorithm =
//!   "fixed_window"`, `quota = 1`, `window = "60s"`, `key = ["const:all"]`;
//! - `routes`: routes. One that nothing guards gets a limit of its own name, 100 in 60s.
//!
//! It may have `denial_cache = 0` (how many denials the host remembers; 4096), `denial_cache_max_age
//! = "1s"` (for how long it believes one), `replicas = 1` (over how many instances a quota is split
//! while the store fails), `without_store = true` (the host is configured without a store),
//! `variables = { NAME = "value" }` (what the host finds in its environment), and
//! `skip = { filter = "the reason" }` (or another [`Target`]) where it cannot run.
//!
//! **A step** is a request, sent `allow` times and let through, then `deny` times and refused; once and let
//! through if it has neither.
//!
//! | field | the request | left out |
//! | --- | --- | --- |
//! | `at` | when, since time zero; no earlier than the step before, unless it is the point | the same as the step before |
//! | `request` | method and target | `GET /` |
//! | `host` | the host it names | `tollgate.test` |
//! | `headers` | a list of `'name: value'`, or `{ name = …, value = …, repeat = 60000 }` for long ones | none |
//! | `bearer` | the claims of a token in `authorization`, signed with HS256 and the variable `JWT_SECRET`; `exp`, `nbf` and `iat` may be durations since time zero | no token |
//! | `content` | its body, a text; or a value, as JSON | empty |
//! | `pieces` | its body in the place of `content`: a list of texts, or `{ value = "x", repeat = 70000 }` for long ones | none |
//! | `upstream` | the status it is answered with if it passes; `{ status = 201, headers = […], body = … }`, where the body is a value, as JSON; or `"hangs"`: no answer comes, and nothing but `seen` is expected of it | 200 |
//! | `peer` | the address at the other end of the connection | `192.0.2.1` |
//! | `store` | `"down"`: the store cannot be reached at this time | up |
//!
//! In `request`, `headers`, `content` and `pieces`, `\xff` is that byte; write them in single quotes.
//!
//! | field | the (last) answer |
//! | --- | --- |
//! | `status` | its status; the upstream's or 429 if left out |
//! | `seen` | header fields that the upstream got, by name: the value, `true` for any value, `false` for none |
//! | `remaining`, `reset` | what `RateLimit` says: a number if it speaks of one limit, `{ burst = 3, daily = 9 }` otherwise |
//! | `retry_after` | `Retry-After`, in seconds |
//! | `degraded` | `X-Tollgate-Degraded`; if left out, the field must not be there |
//! | `route` | the one limit that `RateLimit-Policy` names; `""` if there must be none |
//! | `answer` | by field name: the value, `true` for any value, `false` for none |
//! | `fields` | a list of `'name: value'`, all the fields that Tollgate sets |
//! | `body` | the JSON that the body is |

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use tollgate_shared::time::{Span, Timestamp};

use crate::Target;
use crate::request::{Ask, UpstreamReply};

/// A vector that can be run.
#[derive(Debug, Clone)]
pub struct Vector {
    /// The file's name.
    pub file: String,
    /// Its name, unique in the file.
    pub name: String,
    /// The whole policy.
    pub policy: Value,
    /// How many denials the host remembers.
    pub denial_cache: u32,
    /// For how long it believes one; as long as hosts do where it is not said.
    pub denial_cache_max_age: Option<Span>,
    /// Over how many instances a quota is split while the store fails.
    pub replicas: u32,
    /// Whether the host is configured without a store.
    pub without_store: bool,
    /// The host's environment.
    pub variables: BTreeMap<String, String>,
    /// Why it does not run, by target.
    pub skip: BTreeMap<String, String>,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One request, sent a number of times, and what must come of it.
#[derive(Debug, Clone)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// The request.
    pub ask: Ask,
    /// Whether the store cannot be reached.
    pub store_down: bool,
    /// How many of these requests must be let through.
    pub allow: u64,
    /// How many after them must be refused.
    pub deny: u64,
    /// What else must hold of the last answer.
    pub expect: Expectations,
}

/// What must hold of an answer; what is `None` may be anything, except where the format says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    pub(crate) status: Option<u16>,
    pub(crate) remaining: Option<Numbers>,
    pub(crate) reset: Option<Numbers>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) degraded: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) answer: BTreeMap<String, FieldExpectation>,
    pub(crate) seen: BTreeMap<String, FieldExpectation>,
    pub(crate) fields: Option<Vec<String>>,
    pub(crate) body: Option<Value>,
}

/// A number of the only limit, or numbers by the limits' names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Numbers {
    Only(u64),
    ByName(BTreeMap<String, u64>),
}

/// What must hold of a header field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum FieldExpectation {
    Present(bool),
    Equals(String),
}

impl Vector {
    /// Its file and name.
    pub fn place(&self) -> String {
        format!("{}: {}", self.file, self.name)
    }
}

/// The request and its time.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}ms", self.ask, self.at.since(TIME_ZERO))
    }
}

/// Reads one file's text.
pub fn read(file: &str, text: &str) -> Result<Vec<Vector>> {
    let written: File = toml::from_str(text)?;
    let mut vectors: Vec<Vector> = Vec::with_capacity(written.vector.len());
    for vector in written.vector {
        let name = vector.name.clone();
        ensure!(vectors.iter().all(|other| other.name != name), "there are two vectors called `{name}`");
        vectors.push(vector.read(file).with_context(|| format!("vector `{name}`"))?);
    }
    Ok(vectors)
}

/// Midnight UTC of a day, so of everything that divides one.
pub const TIME_ZERO: Timestamp = Timestamp::from_millis(1_800_057_600_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    vector: Vec<WrittenVector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVector {
    name: String,
    policy: Option<Value>,
    limit: Option<Value>,
    limits: Option<Vec<Value>>,
    routes: Option<Vec<Value>>,
    #[serde(default = "remembered_denials")]
    denial_cache: u32,
    #[serde(default)]
    denial_cache_max_age: Option<Span>,
    #[serde(default = "one")]
    replicas: u32,
    #[serde(default)]
    without_store: bool,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    skip: BTreeMap<String, String>,
    steps: Vec<WrittenStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    at: Option<String>,
    request: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<WrittenHeader>,
    bearer: Option<serde_json::Map<String, Value>>,
    content: Option<Value>,
    #[serde(default)]
    pieces: Vec<WrittenPiece>,
    upstream: Option<WrittenUpstream>,
    peer: Option<IpAddr>,
    store: Option<String>,
    allow: Option<u64>,
    deny: Option<u64>,
    status: Option<u16>,
    remaining: Option<Numbers>,
    reset: Option<Numbers>,
    retry_after: Option<u64>,
    degraded: Option<String>,
    route: Option<String>,
    #[serde(default)]
    answer: BTreeMap<String, FieldExpectation>,
    #[serde(default)]
    seen: BTreeMap<String, FieldExpectation>,
    fields: Option<Vec<String>>,
    body: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenUpstream {
    Status(u16),
    Word(String),
    Answer(WrittenAnswer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAnswer {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: Vec<WrittenHeader>,
    body: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenPiece {
    Text(String),
    Long { value: String, repeat: usize },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenHeader {
    Line(String),
    Long { name: String, value: String, repeat: usize },
}

impl WrittenVector {
    fn read(self, file: &str) -> Result<Vector> {
        for target in self.skip.keys() {
            target.parse::<Target>().context("`skip`")?;
        }
        ensure!(!self.steps.is_empty(), "it has no steps");
        let policy = self.policy()?;
        let mut at = TIME_ZERO;
        let mut steps = Vec::with_capacity(self.steps.len());
        for (number, step) in self.steps.into_iter().enumerate() {
            let step = step.read(at, &self.variables).with_context(|| format!("step {}", number + 1))?;
            at = step.at;
            steps.push(step);
        }
        Ok(Vector {
            file: file.to_owned(),
            name: self.name,
            policy,
            denial_cache: self.denial_cache,
            denial_cache_max_age: self.denial_cache_max_age,
            replicas: self.replicas,
            without_store: self.without_store,
            variables: self.variables,
            skip: self.skip,
            steps,
        })
    }

    fn policy(&self) -> Result<Value> {
        let mut policy = match &self.policy {
            None => json!({}),
            Some(Value::String(text)) => serde_json::from_str(text).context("`policy` is not JSON")?,
            Some(table) => table.clone(),
        };
        let limits = match (&self.limit, &self.limits) {
            (Some(_), Some(_)) => bail!("it has both `limit` and `limits`"),
            (Some(limit), None) => Some(std::slice::from_ref(limit)),
            (None, limits) => limits.as_deref(),
        };
        if let Some(limits) = limits {
            ensure!(
                policy["default"].is_null(),
                "it has `limit` or `limits`, and a policy with a default route"
            );
            policy["default"] = json!({ "rate_limits": limits.iter().map(completed).collect::<Vec<_>>() });
        }
        if let Some(routes) = &self.routes {
            ensure!(policy["routes"].is_null(), "it has `routes`, and a policy with routes");
            let mut routes = routes.clone();
            for route in &mut routes {
                let guards =
                    ["token", "revocation", "revokes", "circuit_breaker", "idempotency", "dedup", "lock"];
                let is_guarded = guards.iter().any(|guard| route.get(guard).is_some());
                if route["rate_limits"].is_null() && !is_guarded {
                    route["rate_limits"] =
                        json!([completed(&json!({ "name": route["name"], "quota": 100 }))]);
                }
            }
            policy["routes"] = json!(routes);
        }
        ensure!(policy.as_object().is_some_and(|fields| !fields.is_empty()), "it has no policy");
        Ok(without_nulls(policy))
    }
}

impl WrittenStep {
    fn read(self, before: Timestamp, variables: &BTreeMap<String, String>) -> Result<Step> {
        let at = match self.at.as_deref() {
            None => before,
            Some("0s" | "0ms") => TIME_ZERO,
            Some(text) => {
                let span = Span::parse(text)
                    .ok_or_else(|| anyhow!("`{text}` is not a duration such as `59999ms`"))?;
                TIME_ZERO.plus(span.as_millis())
            }
        };
        let store_down = match self.store.as_deref() {
            None | Some("up") => false,
            Some("down") => true,
            Some(other) => bail!("`store` is `{other}`, expected `up` or `down`"),
        };
        let (allow, deny) = match (self.allow, self.deny) {
            (None, None) => (1, 0),
            (allow, deny) => (allow.unwrap_or(0), deny.unwrap_or(0)),
        };
        ensure!(allow + deny > 0, "it sends nothing");
        let mut headers = lines(self.headers)?;
        if let Some(claims) = self.bearer {
            let secret =
                variables.get(SECRET).with_context(|| format!("`bearer` without a variable `{SECRET}`"))?;
            headers.push(("authorization".to_owned(), format!("Bearer {}", token(claims, secret)?)));
        }
        let upstream = match self.upstream {
            None => UpstreamReply::Answers { status: ok(), headers: Vec::new(), body: None },
            Some(WrittenUpstream::Status(status)) => {
                UpstreamReply::Answers { status, headers: Vec::new(), body: None }
            }
            Some(WrittenUpstream::Answer(WrittenAnswer { status, headers, body })) => {
                UpstreamReply::Answers {
                    status,
                    headers: lines(headers)?,
                    body: body.map(|body| body.to_string()),
                }
            }
            Some(WrittenUpstream::Word(word)) if word == "hangs" => UpstreamReply::Hangs,
            Some(WrittenUpstream::Word(word)) => {
                bail!("`upstream` is `{word}`, expected a status or `hangs`")
            }
        };
        ensure!(self.content.is_none() || self.pieces.is_empty(), "it has both `content` and `pieces`");
        let pieces = self.pieces.into_iter().map(|piece| match piece {
            WrittenPiece::Text(text) => text,
            WrittenPiece::Long { value, repeat } => value.repeat(repeat),
        });
        let ask = Ask::new(
            self.request.as_deref().unwrap_or("GET /"),
            self.host.as_deref().unwrap_or("tollgate.test"),
            &headers,
            &match self.content {
                None => pieces.collect(),
                Some(Value::String(text)) => text,
                Some(value) => value.to_string(),
            },
            self.peer.unwrap_or(DEFAULT_PEER),
            upstream,
        )?;
        let expect = Expectations {
            status: self.status,
            remaining: self.remaining,
            reset: self.reset,
            retry_after: self.retry_after,
            degraded: self.degraded,
            route: self.route,
            answer: self.answer,
            seen: self.seen,
            fields: self.fields,
            body: self.body,
        };
        Ok(Step { at, ask, store_down, allow, deny, expect })
    }
}

/// Header fields, name and value.
fn lines(written: Vec<WrittenHeader>) -> Result<Vec<(String, String)>> {
    let lines = written.into_iter().map(|header| match header {
        WrittenHeader::Line(line) => {
            let (name, value) = line.split_once(':').with_context(|| format!("no colon in `{line}`"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        }
        WrittenHeader::Long { name, value, repeat } => Ok((name, value.repeat(repeat))),
    });
    lines.collect()
}

/// A token with these claims, signed with HS256. Times in it may be durations since time zero.
pub fn token(mut claims: serde_json::Map<String, Value>, secret: &str) -> Result<String> {
    for name in ["exp", "nbf", "iat"] {
        let Some(Value::String(text)) = claims.get(name) else { continue };
        let span = match text.as_str() {
            "0s" => 0,
            text => Span::parse(text).with_context(|| format!("`{name}` is not a duration"))?.as_millis(),
        };
        claims.insert(name.to_owned(), json!((TIME_ZERO.as_millis() + span) / 1000));
    }
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{}", encode(Value::Object(claims).to_string().as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", encode(&mac.finalize().into_bytes())))
}

/// A limit with what it leaves out.
fn completed(limit: &Value) -> Value {
    let mut whole = json!({
        "name": "limit", "algorithm": "fixed_window", "quota": 1, "window": "60s", "key": ["const:all"],
    });
    for (field, value) in limit.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    whole
}

/// Indexing puts a null where it looked; a policy has none.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(k, v)| (k, without_nulls(v)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn remembered_denials() -> u32 {
    4096
}

fn ok() -> u16 {
    200
}

fn one() -> u32 {
    1
}

/// The variable that holds the secret of `bearer`.
const SECRET: &str = "JWT_SECRET";
const DEFAULT_PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
