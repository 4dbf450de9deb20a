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
use tollgate_shared::request::Request;
use tollgate_shared::time::Timestamp;

use crate::header_map::{self, HeaderMap};

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

/// The head of the request whose context is current.
pub(crate) struct RequestHead {
    fields: HeaderMap,
    peer: Cell<Option<Option<IpAddr>>>,
}

impl RequestHead {
    pub(crate) fn fetch() -> Self {
        Self { fields: HeaderMap::of_request(), peer: Cell::new(None) }
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

impl Request for RequestHead {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":method", read);
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":path", read);
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        self.pseudo_field(":authority", read);
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        self.fields.values(name).for_each(read);
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
}

/// Answers the current request here.
///
/// To gRPC clients Envoy translates 429 to UNAVAILABLE, which they try again at once. A quota that is used up is
/// RESOURCE_EXHAUSTED.
pub(crate) fn refuse(answer: &Answer, grpc: bool) {
    let mut headers: Vec<_> = answer.headers.iter().collect();
    if answer.status == 429 && grpc {
        headers.push(("grpc-status", "8"));
    }
    let _ = hostcalls::send_http_response(u32::from(answer.status), headers, Some(answer.body.as_bytes()));
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

/// The status of the current response; zero if there is none.
pub(crate) fn response_status() -> u16 {
    status(MapType::HttpResponseHeaders)
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

/// The status and body of the call that was just answered.
pub(crate) fn response(body_size: usize) -> (u16, Bytes) {
    let status = status(MapType::HttpCallResponseHeaders);
    let body = if body_size == 0 {
        None
    } else {
        hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size.min(MAX_RESPONSE)).ok().flatten()
    };
    (status, body.unwrap_or_default())
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

/// A name that nobody else draws; `None` if the host has no randomness.
pub(crate) fn draw_id() -> Option<Id> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(Id::from_bytes(bytes))
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

/// Most bytes of the store's answer that are read: over a hundred times the largest answer to a full pipeline.
const MAX_RESPONSE: usize = 16 << 20;
