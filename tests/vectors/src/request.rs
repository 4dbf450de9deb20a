//! A vector's request: bytes that are nobody's idea of a good request need to be sayable.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use tollgate_shared::request::{MAX_BODY, Request};

/// A request, in bytes.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method.
    pub method: Vec<u8>,
    /// The target, spelled as it is sent.
    pub target: Vec<u8>,
    /// The host it names.
    pub host: Vec<u8>,
    /// Names in lower case, and values, line by line.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// What the upstream does, if the request gets there.
    pub upstream: UpstreamReply,
    text: String,
}

/// What an upstream does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamReply {
    /// It answers.
    Answers {
        /// The status.
        status: u16,
        /// Names in lower case, and values, line by line.
        headers: Vec<(String, String)>,
        /// The body; `None` for one that the adapter chooses.
        body: Option<String>,
    },
    /// It does not answer.
    Hangs,
}

impl Ask {
    /// Reads `METHOD TARGET`, and header values, with `\xff` for bytes.
    pub(crate) fn new(
        request: &str,
        host: &str,
        headers: &[(String, String)],
        body: &str,
        peer: IpAddr,
        upstream: UpstreamReply,
    ) -> Result<Ask> {
        let (method, target) =
            request.split_once(' ').with_context(|| format!("no target in `{request}`"))?;
        Ok(Ask {
            method: unescape(method),
            target: unescape(target),
            host: unescape(host),
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), unescape(value)))
                .collect(),
            body: unescape(body),
            peer,
            upstream,
            text: request.to_owned(),
        })
    }

    /// The request as bytes on the wire, with more header lines in front of its own.
    pub fn wire(&self, more: &str) -> Vec<u8> {
        let mut bytes =
            [&self.method, b" ".as_slice(), &self.target, b" HTTP/1.1\r\nhost: ", &self.host].concat();
        bytes.extend_from_slice(b"\r\nconnection: close\r\n");
        if !self.body.is_empty() || !matches!(self.method.as_slice(), b"GET" | b"HEAD") {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(more.as_bytes());
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// As written in the vector.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Request for Ask {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.method);
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.target);
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.host);
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(field, _)| field == name).for_each(|(_, value)| read(value));
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.peer)
    }

    fn body(&self) -> &[u8] {
        self.body.get(..MAX_BODY).unwrap_or(&self.body)
    }
}

/// Puts a byte for each `\x` and two hexadecimal digits; any other backslash is one.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        match escape.get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &escape[4..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = &escape[2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
