//! Keys: whose counter it is, without saying who that is.
//!
//! A subject (an address, an API key, a session) becomes a digest before it leaves the core, so that neither the store
//! nor a log holds personal data. The digest covers each part with its kind and length, so that no two different
//! lists of parts meet, and it has a value of its own for a part that a request lacks, and one for a part that it repeats or
//! that two readers take for different ones: leaving a header out, or sending it twice, leads to a counter that all such
//! requests share, never around the limit.
//!
//! A key reads `tg:{TAG}:g60000:NAME`, the algorithm's letter and the window in milliseconds in the middle: changing a
//! quota goes on counting, changing the way of counting starts afresh. `TAG` is the digest, and what stands in
//! braces decides the slot of a Redis Cluster. Where a policy names the tag, the digest follows the name.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::client_ip::ClientIp;
use crate::config::{ClientIpConfig, KeyPart};
use crate::id::Id;
use crate::json::{Found, find, lower, unescape};
use crate::jwt::Claims;
use crate::path::{Path, query};
use crate::request::{Reading, Request, cookie, json_body, parameter, trim_field, trim_text};

/// The first 128 bits of the SHA-256 of a subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 16]);

/// What keys are made of.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) client_ip: &'a ClientIpConfig,
    pub(crate) route: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) request: &'a dyn Request,
    /// Of a token that holds.
    pub(crate) claims: Option<&'a Claims>,
    /// Whether what differs is different, even where an upstream may take it for the same: a wrong duplicate would lose an event.
    pub(crate) is_exact: bool,
}

/// Whom or what a key is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) digest: Digest,
    /// How often the request has the parts. The digest of requests that have one not once is the same for all that lack the same.
    pub(crate) parts: Parts,
}

/// How often a request has the parts of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parts {
    /// Each once.
    Complete,
    /// It lacks one.
    Missing,
    /// It has one several times, or one with several readings.
    Several,
}

impl Subject {
    /// What `parts` say of a request.
    pub(crate) fn of(parts: &[KeyPart], facts: &Facts<'_>) -> Self {
        Self::seen(parts, facts, &mut |_, _, _| {})
    }

    /// The same, and calls `see` with each part, how often the request has it, and the value of the first.
    pub(crate) fn seen(
        parts: &[KeyPart],
        facts: &Facts<'_>,
        see: &mut dyn FnMut(&KeyPart, u32, &[u8]),
    ) -> Self {
        let mut found = Parts::Complete;
        let mut hasher = Sha256::new();
        for part in parts {
            let field = Field::of(part, facts);
            found = found.max(match field.lines {
                0 => Parts::Missing,
                1 => Parts::Complete,
                _ => Parts::Several,
            });
            see(part, field.lines, &field.value);
            field.close(&mut hasher, part);
        }
        Self { digest: Digest::short(hasher), parts: found }
    }
}

impl Digest {
    /// Digests what a caller says in the place of a request: a value for each of `parts` that is no constant, in their order.
    /// It equals the digest of a request that has these values. `None` unless there are as many as that, and each where an
    /// address belongs is one.
    pub fn of_values(parts: &[KeyPart], client_ip: &ClientIpConfig, values: &[&str]) -> Option<Self> {
        let mut hasher = Sha256::new();
        let mut values = values.iter();
        for part in parts {
            let mut field = Field::default();
            match part.source() {
                KeyPart::Const(text) => field.line(text.as_bytes()),
                KeyPart::ClientIp => {
                    ClientIp::parse(client_ip, values.next()?)?.bytes(&mut |bytes| field.line(bytes));
                }
                KeyPart::Method => field.method(values.next()?.as_bytes()),
                KeyPart::Header(_) => field.line(trim_field(values.next()?.as_bytes())),
                KeyPart::Query(_) | KeyPart::Body(_) => field.line(trim_text(values.next()?.as_bytes())),
                _ => field.line(values.next()?.as_bytes()),
            }
            field.close(&mut hasher, part);
        }
        values.next().is_none().then(|| Self::short(hasher))
    }

    /// Digests some texts. Each goes with its length, so that no two lists meet.
    pub(crate) fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self::short(hasher)
    }

    /// The first 128 bits of what `hasher` comes to.
    fn short(hasher: Sha256) -> Self {
        let full = hasher.finalize();
        let mut short = [0; 16];
        short.iter_mut().zip(full.iter()).for_each(|(to, from)| *to = *from);
        Self(short)
    }

    pub(crate) const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Id::from(*self), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of one limit or guard: all but the digest, which comes between or at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyForm {
    before: String,
    after: String,
}

impl KeyForm {
    /// Keys that end in `label`, or in `label` and the digest where a tag is named.
    pub(crate) fn new(prefix: &str, tag: Option<&str>, label: &str) -> Self {
        match tag {
            None => Self { before: format!("{prefix}:{{"), after: format!("}}:{label}") },
            Some(tag) => Self { before: format!("{prefix}:{{{tag}}}:{label}:"), after: String::new() },
        }
    }

    /// The key that needs no subject.
    pub(crate) fn whole(&self) -> Key {
        Key(format!("{}{}", self.before.trim_end_matches(':'), self.after))
    }

    /// The key for the subject that `digest` stands for.
    pub(crate) fn key(&self, digest: Digest) -> Key {
        let mut key = String::with_capacity(self.before.len() + 32 + self.after.len());
        key.push_str(&self.before);
        key.push_str(core::str::from_utf8(&Id::from(digest).hex()).unwrap_or_default());
        key.push_str(&self.after);
        Key(key)
    }
}

/// The key of one counter in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// A key as it stands in a store, for tools and tests that speak of stored keys.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The key as the store has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands between the first brace and the next closing one, which decides the slot; all of it otherwise.
    pub fn hash_tag(&self) -> &str {
        let tag = self.0.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        match tag {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => &self.0,
        }
    }
}

/// Collects the values of one part: none, one, or several, which are not told apart from each other.
#[derive(Default)]
struct Field {
    lines: u32,
    value: Vec<u8>,
}

impl Field {
    /// What `part` says of a request.
    fn of(part: &KeyPart, facts: &Facts<'_>) -> Self {
        let Facts { client_ip, route, path, request, claims, is_exact } = *facts;
        let mut field = Self::default();
        match part.source() {
            KeyPart::ClientIp => {
                if let Some(address) = ClientIp::find(client_ip, request) {
                    address.bytes(&mut |bytes| field.line(bytes));
                }
            }
            KeyPart::Method => request.method(&mut |method| field.method(method)),
            KeyPart::Path => path.subject(&mut |path| field.line(path)),
            KeyPart::Route => field.line(route.as_bytes()),
            KeyPart::Header(name) => {
                request.header(name.as_str(), &mut |line| field.line(trim_field(line)));
            }
            KeyPart::Cookie(name) => cookie(request, name, &mut |reading| field.reading(&reading)),
            KeyPart::Query(name) => {
                request.target(&mut |target| {
                    // It ends a target for some, and others read on.
                    if target.contains(&b'#') {
                        field.several();
                    }
                    parameter(query(target), name, &mut |reading| match reading {
                        Reading::One(value) => field.line(trim_text(&value)),
                        Reading::Several => field.several(),
                    });
                });
            }
            KeyPart::Claim(name) => {
                if let Some(claims) = claims {
                    field.found(&claims.find(name));
                }
            }
            KeyPart::Body(pointer) => {
                let member = unescape(pointer.as_str().split('/').nth(1).unwrap_or_default());
                match json_body(request, &member).map_or(Found::Several, |body| find(body, pointer)) {
                    Found::One(text) => field.line(trim_text(text.as_bytes())),
                    // Jackson cuts the fraction off where a whole number is asked for.
                    Found::Fraction(text) if is_exact => field.line(text.as_bytes()),
                    Found::Fraction(_) | Found::Several => field.several(),
                    Found::Nothing => {}
                }
            }
            KeyPart::Const(text) => field.line(text.as_bytes()),
            // There is none around another.
            KeyPart::Lower(_) => {}
        }
        field
    }

    fn line(&mut self, bytes: &[u8]) {
        self.lines = self.lines.saturating_add(1);
        if self.lines == 1 {
            self.value.extend_from_slice(bytes);
        }
    }

    /// A method, which has one spelling: in capitals.
    fn method(&mut self, method: &[u8]) {
        self.line(method);
        self.value.make_ascii_uppercase();
    }

    fn reading(&mut self, reading: &Reading<'_>) {
        match reading {
            Reading::One(value) => self.line(value),
            Reading::Several => self.several(),
        }
    }

    fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Nothing => {}
            Found::One(text) => self.line(text.as_bytes()),
            Found::Fraction(text) => self.line(text.as_bytes()),
            Found::Several => self.several(),
        }
    }

    fn several(&mut self) {
        self.lines = self.lines.saturating_add(2);
    }

    fn close(mut self, hasher: &mut Sha256, part: &KeyPart) {
        if let (KeyPart::Lower(_), Cow::Owned(small)) = (part, lower(&self.value)) {
            self.value = small;
        }
        // In small letters it is the same part: no key has both, or they would be two limits.
        let (kind, name) = match part.source() {
            KeyPart::ClientIp => (b'a', ""),
            KeyPart::Method => (b'm', ""),
            KeyPart::Path => (b'p', ""),
            KeyPart::Route => (b'r', ""),
            KeyPart::Header(name) => (b'h', name.as_str()),
            KeyPart::Cookie(name) => (b'c', name.as_str()),
            KeyPart::Query(name) => (b'q', name.as_str()),
            KeyPart::Claim(name) => (b'j', name.as_str()),
            KeyPart::Body(pointer) => (b'b', pointer.as_str()),
            KeyPart::Const(_) | KeyPart::Lower(_) => (b'k', ""),
        };
        hasher.update([kind, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        hasher.update(name.as_bytes());
        match self.lines {
            0 => hasher.update([0]),
            1 => {
                hasher.update([1]);
                hasher.update((self.value.len() as u64).to_le_bytes());
                hasher.update(&self.value);
            }
            _ => hasher.update([2]),
        }
    }
}
