//! What HTTP/1 asks of a request besides its syntax, which hyper reads: whatever frames or directs it has one meaning.
//!
//! A wrong "yes" lets two servers on the way of a connection see different requests on it.

use hyper::Version;
use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;

use super::answer::{Failure, Kind};

/// Why the request is refused, if it is.
pub(super) fn problem(head: &Parts) -> Option<Failure> {
    // HTTP/2 has other frames, and its library reads all of them.
    if head.version > Version::HTTP_11 {
        return None;
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() || host.is_none() && head.version == Version::HTTP_11 {
        return Some(Failure::new(Kind::Framing, "ERR a request has exactly one `Host`"));
    }
    if !host.is_none_or(is_host) {
        return Some(Failure::new(Kind::Framing, "ERR the `Host` of the request is no name and port"));
    }
    let mut chunked = false;
    for value in head.headers.get_all(TRANSFER_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if !coding.eq_ignore_ascii_case(b"chunked") {
                let text = "ERR no transfer coding is available but `chunked`";
                return Some(Failure::new(Kind::Coding, text));
            }
            if chunked {
                return Some(Failure::new(Kind::Framing, "ERR the request body is chunked twice"));
            }
            chunked = true;
        }
    }
    None
}

/// Whether it is the host and perhaps the port of a URL, or nothing.
fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let (name, port) = match bytes.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !bytes.ends_with(b"]") => {
            let (name, port) = bytes.split_at(colon);
            (name, port.get(1..).unwrap_or_default())
        }
        _ => (bytes, &[][..]),
    };
    let is_address =
        |address: &[u8]| address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte));
    let is_name = |name: &[u8]| {
        name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte))
    };
    port.iter().all(u8::is_ascii_digit)
        && match name.strip_prefix(b"[") {
            Some(rest) => rest.strip_suffix(b"]").is_some_and(is_address),
            None => is_name(name),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_and_perhaps_a_port() {
        for (host, expected) in [
            ("a", true),
            ("", true),
            ("a.example:8079", true),
            ("a_b", true),
            ("127.0.0.1:1", true),
            ("[::1]", true),
            ("[::1]:8079", true),
            ("a:", true),
            ("a:b", false),
            ("::1", false),
            ("[::1", false),
            ("[a/b]", false),
            ("a b", false),
            ("a,b", false),
            ("a@b", false),
            ("a/b", false),
            ("a?b", false),
            ("http://a", false),
            ("\"a\"", false),
        ] {
            assert_eq!(is_host(&HeaderValue::from_static(host)), expected, "{host}");
        }
    }
}
