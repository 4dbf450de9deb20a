//! What servers make of a request target: models of theirs, written without a look at ours.
//!
//! `tests/paths/readings.tsv` has recorded servers; what is modelled here is what fuzzing needs in the same
//! process, and Jetty and IIS, which are not recorded. A reading is the list of a path's segments, as routes
//! are compared with them; `None` for a target that the server refuses.

use std::sync::LazyLock;

use url::Url;

/// A reading: the segments of a path.
pub type Reading = Option<Vec<Vec<u8>>>;

/// The models, by name.
pub const MODELS: [(&str, fn(&[u8]) -> Reading); 11] = [
    ("fetch", fetch),
    ("new URL", new_url),
    ("WSGI", wsgi),
    ("Express", express),
    ("nginx", nginx),
    ("Tomcat", |target| tomcat(target, false)),
    ("Tomcat with encoded slashes and backslashes", |target| tomcat(target, true)),
    ("nginx and Tomcat", nginx_and_tomcat),
    ("Jetty", jetty),
    ("IIS", iis),
    ("Spring's UrlPathHelper", spring),
];

/// WHATWG's URLs, where the origin is fixed and the path goes to `fetch`; the origin decodes each segment.
fn fetch(target: &[u8]) -> Reading {
    let url = Url::parse(&format!("http://host{}", text(target)?)).ok()?;
    Some(url.path().as_bytes().split(|b| *b == b'/').skip(1).map(decode).collect())
}

/// `new URL(target, base)`, and PHP's `parse_url`: two slashes begin a host.
fn new_url(target: &[u8]) -> Reading {
    let url = BASE.join(text(target)?).ok()?;
    Some(url.path().as_bytes().split(|b| *b == b'/').skip(1).map(decode).collect())
}

/// Flask and Django: all of it is decoded, and nothing else is done.
fn wsgi(target: &[u8]) -> Reading {
    Some(split(&decode(without_query(target)), &[b'/']))
}

/// Express compares routes with what was sent.
fn express(target: &[u8]) -> Reading {
    Some(split(without_query(target), &[b'/']))
}

/// nginx decodes, merges slashes and resolves dot segments, in this order.
fn nginx(target: &[u8]) -> Reading {
    Some(resolve(merge(split(&decode(without_query(target)), &[b'/']))))
}

/// Tomcat cuts parameters off, decodes, and resolves. It refuses encoded slashes and backslashes unless it is
/// told to take both for slashes.
fn tomcat(target: &[u8], lenient: bool) -> Reading {
    let path = cut(without_query(target));
    let decoded = decode(&path);
    let slashes = |text: &[u8]| text.iter().filter(|b| **b == b'/').count();
    if !lenient && (decoded.contains(&b'\\') || slashes(&decoded) != slashes(&path)) {
        return None;
    }
    Some(resolve(merge(split(&decoded, if lenient { b"/\\" } else { b"/" }))))
}

/// nginx with a path in `proxy_pass` hands on what it has decoded and resolved; it encodes little of it
/// again.
fn nginx_and_tomcat(target: &[u8]) -> Reading {
    let path = nginx(target)?.iter().fold(Vec::new(), |path, segment| [&path[..], b"/", segment].concat());
    let path: Vec<u8> = path
        .iter()
        .flat_map(
            |byte| if b"%?#".contains(byte) { format!("%{byte:02X}").into_bytes() } else { vec![*byte] },
        )
        .collect();
    tomcat(&path, true)
}

/// Jetty resolves dot segments before it cuts parameters off, and keeps empty segments.
fn jetty(target: &[u8]) -> Reading {
    let path = resolve(split(without_query(target), &[b'/']));
    Some(path.iter().map(|segment| decode(&cut(segment))).collect())
}

/// IIS takes every slash for one and resolves dot segments; parameters are names.
fn iis(target: &[u8]) -> Reading {
    Some(resolve(merge(split(&decode(without_query(target)), b"/\\"))))
}

/// Spring's older matcher cuts parameters off, decodes, and merges slashes, but resolves nothing.
fn spring(target: &[u8]) -> Reading {
    Some(merge(split(&decode(&cut(without_query(target))), &[b'/'])))
}

fn text(target: &[u8]) -> Option<&str> {
    std::str::from_utf8(target).ok().filter(|target| target.starts_with('/'))
}

fn without_query(target: &[u8]) -> &[u8] {
    target.split(|b| *b == b'?').next().unwrap_or_default()
}

fn split(path: &[u8], slashes: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| slashes.contains(b)).skip(1).map(<[u8]>::to_vec).collect()
}

fn merge(mut segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    segments.retain(|segment| !segment.is_empty());
    segments
}

fn resolve(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut resolved = Vec::new();
    for segment in segments {
        match &segment[..] {
            b"." => {}
            b".." => drop(resolved.pop()),
            _ => resolved.push(segment),
        }
    }
    resolved
}

/// Cuts off what stands between a semicolon and the next slash.
fn cut(path: &[u8]) -> Vec<u8> {
    let names =
        path.split(|b| *b == b'/').map(|segment| segment.split(|b| *b == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

/// Undoes percent-encoding once.
pub fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    decoded
}

static BASE: LazyLock<Url> = LazyLock::new(|| Url::parse("http://localhost").expect("a URL"));
