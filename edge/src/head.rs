//! The head of a request, as the core reads it.

use std::borrow::Cow;
use std::net::IpAddr;

use web_sys::Headers;

use tollgate_shared::request::{Request, split_joined};

/// What a runtime's request says. Header fields are asked for one by one, because each is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'a> {
    method: &'a str,
    authority: &'a str,
    target: &'a str,
    headers: &'a Headers,
    peer: Option<IpAddr>,
    body: &'a [u8],
}

impl<'a> RequestHead<'a> {
    /// `url` is absolute, as runtimes have it.
    pub(crate) fn new(method: &'a str, url: &'a str, headers: &'a Headers, peer: Option<IpAddr>) -> Self {
        let (authority, target) = split(url);
        Self { method, authority, target, headers, peer, body: &[] }
    }

    /// The same with what has been read of the body.
    pub(crate) fn with_body(self, body: &'a [u8]) -> Self {
        Self { body, ..self }
    }

    pub(crate) fn method(&self) -> &'a str {
        self.method
    }

    /// The value of a field; of several lines, joined.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.headers.get(name).ok().flatten()
    }
}

impl Request for RequestHead<'_> {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.method.as_bytes());
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.target.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.authority.as_bytes());
    }

    /// Runtimes join the lines of a field, with `, ` between them. So a value with that in it may have been several lines, and
    /// is taken for them; but for fields whose own text has it, which nobody believes anyway, and for cookies, which are read as
    /// an origin reads what is joined.
    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        let Some(value) = self.field(name) else { return };
        let value = bytes(&value);
        if split_joined(name, &value, read) {
            return;
        }
        if TEXTS.contains(&name) {
            return read(&value);
        }
        let mut rest = &value[..];
        while let Some(at) = rest.windows(2).position(|pair| pair == b", ") {
            let (line, behind) = rest.split_at(at);
            read(line);
            rest = behind.get(2..).unwrap_or_default();
        }
        read(rest);
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

/// Authority and target of an absolute URL; a fragment never leaves a client.
fn split(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    match rest.find(['/', '?']).and_then(|at| rest.split_at_checked(at)) {
        Some((authority, target)) => (authority, target),
        None => (rest, "/"),
    }
}

/// The bytes of a field's value, as far as they can be told: workerd decodes UTF-8, most others give each byte as a character of
/// the same number. Where these make UTF-8 they are the bytes.
fn bytes(value: &str) -> Cow<'_, [u8]> {
    if value.is_ascii() {
        return Cow::Borrowed(value.as_bytes());
    }
    let narrow: Option<Vec<u8>> =
        value.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
    match narrow.filter(|bytes| std::str::from_utf8(bytes).is_ok()) {
        Some(bytes) => Cow::Owned(bytes),
        None => Cow::Borrowed(value.as_bytes()),
    }
}

/// Fields of one line whose grammar has `, ` in it (RFC 9110), and cookies.
const TEXTS: [&str; 7] =
    ["cookie", "user-agent", "date", "expires", "if-modified-since", "if-unmodified-since", "last-modified"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_authority_and_target() {
        for (url, authority, target) in [
            ("https://a.test/b/../c?d=/e", "a.test", "/b/../c?d=/e"),
            ("http://A.test:81/?#f", "A.test:81", "/?"),
            ("http://a.test?b", "a.test", "?b"),
            ("http://a.test", "a.test", "/"),
            ("http://a.test#b/c", "a.test", "/"),
            ("http://[::1]:8/a", "[::1]:8", "/a"),
            ("", "", "/"),
        ] {
            assert_eq!(split(url), (authority, target), "{url}");
        }
    }

    #[test]
    fn values_are_the_bytes_that_were_sent_whoever_decoded_them() {
        let sent = "é".as_bytes();
        assert_eq!(*bytes("é"), *sent, "decoded as UTF-8");
        assert_eq!(*bytes("\u{c3}\u{a9}"), *sent, "each byte a character");
        assert_eq!(*bytes("plain"), *b"plain");
        assert_eq!(*bytes("\u{20ac}\u{e9}"), *"€é".as_bytes());
    }
}
