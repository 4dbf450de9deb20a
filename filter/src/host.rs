//! Everything that is asked of the host.
//!
//! The SDK's calls that return text panic on bytes that are not UTF-8, and a panic takes down every request of the
//! VM. So header fields are read as bytes, and what the host may refuse is a value here.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, Bytes, MapType};

use tollgate_shared::answer::{Answer, Fields};
use tollgate_shared::client_ip;
use tollgate_shared::id::Id;
use tollgate_shared::request::{MAX_BODY, Request, split_joined};
use tollgate_shared::time::Timestamp;

use crate::header_map::{self, HeaderMap};
use crate::metadata;

/// The host's clock.
pub(crate) fn now() -> Timestamp {
    let since = hostcalls::get_current_time().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Timestamp::from_millis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// The time at which a decision that began at `began` goes on.
pub(crate) fn resumption_time(began: Timestamp) -> Timestamp {
    if cfg!(feature = "test-clock") { began } else { now() }
}

/// The host's clock, at the time that decisions take for `now`.
pub(crate) fn real_time(decided: Timestamp) -> Timestamp {
    if cfg!(feature = "test-clock") { now() } else { decided }
}

/// The request whose context is current, as far as it is there.
pub(crate) struct Received {
    fields: HeaderMap,
    peer: Cell<Option<Option<IpAddr>>>,
    body: Bytes,
}

impl Received {
    /// Its head, and of its body what a decision goes by, if that has been waited for.
    pub(crate) fn fetch(with_body: bool) -> Self {
        let body = if with_body { body(BufferType::HttpRequestBody, MAX_BODY) } else { Bytes::new() };
        Self { fields: HeaderMap::of(MapType::HttpRequestHeaders), peer: Cell::new(None), body }
    }

    /// Whether what follows its head is no body, but another protocol that begins with the answer: a client would wait for that
    /// for ever. As Envoy tells them.
    pub(crate) fn is_tunnel(&self) -> bool {
        let upgrades = |line: &[u8]| {
            line.split(|byte| *byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        };
        let asks = self.fields.values("connection").any(upgrades)
            && self.fields.values("upgrade").any(|protocol| !protocol.is_empty());
        asks || self.fields.values(":method").any(|method| method == b"CONNECT")
    }

    /// The time of the request; of tests' choosing if the filter was built for that.
    pub(crate) fn time(&self) -> Timestamp {
        let chosen =
            || std::str::from_utf8(self.fields.values("x-tollgate-test-now").next()?).ok()?.parse().ok();
        let chosen = if cfg!(feature = "test-clock") { chosen() } else { None };
        chosen.map_or_else(now, Timestamp::from_millis)
    }

    /// Whether it is a gRPC call, as Envoy tells them.
    pub(crate) fn is_grpc(&self) -> bool {
        self.fields.values("content-type").next().is_some_and(|value| {
            matches!(value.strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..]))
        })
    }

    fn pseudo_field(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        read(self.fields.values(name).next().unwrap_or_default());
    }
}

impl Request for Received {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":method", read);
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":path", read);
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":authority", read);
    }

    /// Envoy joins the lines of a field that it knows with a comma, before any filter sees them.
    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        for value in self.fields.values(name) {
            if !split_joined(name, value, read) {
                read(value);
            }
        }
    }

    fn peer(&self) -> Option<IpAddr> {
        if let Some(known) = self.peer.get() {
            return known;
        }
        let address = hostcalls::get_property(vec!["source", "address"]).ok().flatten();
        let peer = address.and_then(|text| client_ip::parse_entry(&text));
        self.peer.set(Some(peer));
        peer
    }

    fn verified_claims(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        // With its types, which single values of it are given without.
        let metadata = hostcalls::get_property(vec!["metadata"]).ok().flatten();
        if let Some(claims) = metadata.and_then(|bytes| metadata::jwt_payload(&bytes, name)) {
            read(claims.as_bytes());
        }
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Answers the current request here.
///
/// To gRPC clients Envoy translates 429 to UNAVAILABLE, which they try again at once. A quota that is used up is
/// RESOURCE_EXHAUSTED.
pub(crate) fn answer(answer: &Answer, grpc: bool) {
    let mut headers: Vec<_> = answer.headers.iter().collect();
    if answer.status == 429 && grpc {
        headers.push(("grpc-status", "8"));
    }
    let _ = hostcalls::send_http_response(u32::from(answer.status), headers, Some(&answer.body));
}

/// Sets header fields of the current response.
pub(crate) fn set_response_fields(fields: &Fields) {
    for (name, value) in fields.iter() {
        let _ = hostcalls::set_map_value_bytes(MapType::HttpResponseHeaders, name, Some(value.as_bytes()));
    }
}

/// Sets header fields of the current request, or removes those without a value.
pub(crate) fn set_request_fields<'a>(fields: impl Iterator<Item = (&'static str, Option<&'a str>)>) {
    fields.for_each(|(name, value)| header_map::set_request_field(name, value));
}

/// The header fields of the current response.
pub(crate) fn response_fields() -> HeaderMap {
    HeaderMap::of(MapType::HttpResponseHeaders)
}

/// The first `length` bytes of what the host has of the current response's body.
pub(crate) fn response_body(length: usize) -> Bytes {
    body(BufferType::HttpResponseBody, length)
}

fn body(buffer: BufferType, length: usize) -> Bytes {
    let bytes = if length == 0 { None } else { hostcalls::get_buffer(buffer, 0, length).ok().flatten() };
    bytes.unwrap_or_default()
}

/// The status of the current response; zero if there is none.
pub(crate) fn response_status() -> u16 {
    status(MapType::HttpResponseHeaders)
}

/// Whether the current response is the host's own, and what the client did is why: it broke the protocol, was too slow to send its
/// request, or sent too much. A response that comes from the upstream has other details, whatever its status.
pub(crate) fn is_answered_because_of_the_client(status: u16) -> bool {
    if !matches!(status, 400 | 408 | 413 | 431) {
        return false;
    }
    let details = hostcalls::get_property(vec!["response", "code_details"]).ok().flatten();
    let details = details.unwrap_or_default();
    OF_THE_CLIENT.iter().any(|start| details.starts_with(start.as_bytes()))
}

/// Lets the current request go on.
pub(crate) fn resume_request() {
    let _ = hostcalls::resume_http_request();
}

/// Lets the current response go on.
pub(crate) fn resume_response() {
    let _ = hostcalls::resume_http_response();
}

/// Makes `context` the one that calls belong to. `false` when it is gone.
pub(crate) fn enter(context: u32) -> bool {
    hostcalls::set_effective_context(context).is_ok()
}

/// Posts `body` to `/pipeline` of a cluster; the number of the call, or `None` when it could not leave.
pub(crate) fn post(
    cluster: &str,
    authority: &str,
    authorization: &str,
    body: &str,
    timeout: Duration,
) -> Option<u32> {
    let headers = vec![
        (":method", "POST"),
        (":path", "/pipeline"),
        (":authority", authority),
        ("authorization", authorization),
        ("content-type", "application/json"),
    ];
    hostcalls::dispatch_http_call(cluster, headers, Some(body.as_bytes()), vec![], timeout).ok()
}

/// Asks a cluster for what is at `path`; the number of the call, or `None` when it could not leave.
pub(crate) fn get(cluster: &str, authority: &str, path: &str, timeout: Duration) -> Option<u32> {
    let headers = vec![(":method", "GET"), (":path", path), (":authority", authority)];
    hostcalls::dispatch_http_call(cluster, headers, None, vec![], timeout).ok()
}

/// The status of the call that was just answered, and the first `length` bytes of its body.
pub(crate) fn response(length: usize) -> (u16, Bytes) {
    (status(MapType::HttpCallResponseHeaders), body(BufferType::HttpCallResponseBody, length))
}

fn status(map: MapType) -> u16 {
    let text = hostcalls::get_map_value_bytes(map, ":status").ok().flatten();
    text.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()).unwrap_or(0)
}

/// The plugin configuration.
pub(crate) fn configuration(size: usize) -> Bytes {
    if size == 0 {
        return Bytes::new();
    }
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten().unwrap_or_default()
}

/// A name that nobody else draws, whose first half all worker threads have; `None` if the host has no randomness.
pub(crate) fn draw_id() -> Option<Id> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    let (instance, _) = bytes.split_first_chunk_mut()?;
    *instance = first_of(*instance);
    Some(Id::from_bytes(bytes))
}

/// What the first worker thread has proposed; like the shards, it is there before there are others.
fn first_of(proposal: [u8; 8]) -> [u8; 8] {
    let known = || hostcalls::get_shared_data(INSTANCE).ok()?.0?.try_into().ok();
    known().unwrap_or_else(|| {
        let _ = hostcalls::set_shared_data(INSTANCE, Some(&proposal), None);
        known().unwrap_or(proposal)
    })
}

/// A queue that only the context of this name reads: pushing to it calls `on_queue_ready` at the next turn of the event loop.
pub(crate) fn register_bell(id: Id) -> Option<u32> {
    hostcalls::register_shared_queue(&format!("tollgate.{id}")).ok()
}

/// Wakes the root that registered `bell`.
pub(crate) fn ring(bell: u32) -> bool {
    hostcalls::enqueue_shared_queue(bell, Some(b"!")).is_ok()
}

/// Takes one ring from the queue.
pub(crate) fn silence(bell: u32) {
    let _ = hostcalls::dequeue_shared_queue(bell);
}

/// Calls `on_tick` every `period` from now on; zero for never.
pub(crate) fn tick(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// How Envoy's details of such responses begin. The timeouts are the upstream's if the request was whole, and have another status then.
const OF_THE_CLIENT: [&str; 9] = [
    "codec_error",
    "http1.",
    "http2.",
    "http3.",
    "max_duration_timeout",
    "request_header_timeout",
    "request_overall_timeout",
    "request_payload_too_large",
    "stream_idle_timeout",
];

/// Under which name worker threads agree on one for their host.
const INSTANCE: &str = "tollgate.instance";
