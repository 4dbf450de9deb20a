//! Bytes as a cookie, as a query, as a body of JSON and as one of a form, in each of which somebody else finds a value.
//!
//! Models of readers that are lenient in one way each say what they find. What a reader finds has a plain spelling; the input counts
//! as that does, or as several values. The models follow what real readers said, see `tests/readers`.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use tollgate_shared::policy::Policy;
use tollgate_shared::store::Op;
use tollgate_shared::time::Timestamp;

use crate::check;
use crate::head::Head;

/// Reads `data` in all these ways.
pub fn run(data: &[u8]) {
    // A field holds one line.
    if !data.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        cookie(data);
        query(data);
    }
    body(data);
    form(data);
}

fn cookie(line: &[u8]) {
    let of = |line: &[u8]| counter(&COOKIE, &Head::new("GET", "/", "example.com").with("cookie", line));
    let (own, none, several) = (of(line), of(b""), of(b"t_k=1; t_k=2"));
    let readers: [(&str, Reader); 5] = [
        ("node", |line| first(pairs(line, b";", true), b"t_k", decoded)),
        ("php", |line| {
            let names = |(name, value): (Vec<u8>, _)| (mangled(name.trim_ascii_start()), value);
            first(pairs(line, b";", false).map(names), b"t_k", decoded)
        }),
        ("asp.net", |line| {
            last(
                pairs(line, b";", true).map(|(name, value)| (name.to_ascii_lowercase(), value)),
                b"t_k",
                decoded,
            )
        }),
        ("django", |line| last(pairs(line, b";", true), b"t_k", unquoted)),
        ("legacy", |line| last(pairs(line, b";, \t", true), b"t_k", unquoted)),
    ];
    for (reader, read) in readers {
        let Some(found) = read(line) else { continue };
        // What is empty is nobody's, and what has quotes or blanks at its ends some readers take off.
        if found.is_empty() || found.contains(&b'"') || found.trim_ascii() != found {
            continue;
        }
        assert!(own != none, "{reader} finds `{}` in `{}`", found.escape_ascii(), line.escape_ascii());
        let plain = of(&[b"t_k=", &encoded(&found)[..]].concat());
        assert!(
            own == plain || own == several,
            "{reader} finds `{}` in `{}`",
            found.escape_ascii(),
            line.escape_ascii()
        );
    }
}

fn query(query: &[u8]) {
    if query.contains(&b'#') {
        return;
    }
    let of = |query: &[u8]| {
        let mut head = Head::new("GET", "/", "example.com");
        head.target = [b"/?", query].concat();
        counter(&QUERY, &head)
    };
    let (own, none, several) = (of(query), of(b""), of(b"t_k=1&t_k=2"));
    for (reader, found) in parameters(query) {
        let plain = of(&[b"t_k=", &encoded(&found)[..]].concat());
        assert!(
            own != none && (own == plain || own == several),
            "{reader} finds `{}` in `{}`",
            found.escape_ascii(),
            query.escape_ascii()
        );
    }
}

/// What readers find in a query or a form, if it is not empty.
fn parameters(query: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let names = |(name, value): (Vec<u8>, Vec<u8>)| (form_decoded(&name), value);
    let lower = |(name, value): (Vec<u8>, Vec<u8>)| (name.to_ascii_lowercase(), value);
    let php = pairs(query, b"&", false).map(names).map(|(name, value)| (mangled(&name), value));
    let found = [
        ("first", first(pairs(query, b"&", false).map(names), b"t_k", form_decoded)),
        ("last", last(pairs(query, b"&", false).map(names), b"t_k", form_decoded)),
        ("rack", last(pairs(query, b"&;", false).map(names), b"t_k", form_decoded)),
        ("php", last(php, b"t_k", form_decoded)),
        ("asp.net", first(pairs(query, b"&", false).map(names).map(lower), b"t_k", form_decoded)),
    ];
    found.into_iter().filter_map(|(reader, found)| Some((reader, found.filter(|found| !found.is_empty())?)))
}

/// What a reader of forms finds in a body, no reader of JSON may find a value of its own for.
fn form(body: &[u8]) {
    let of = |body: &[u8]| {
        let mut head = Head::new("POST", "/", "example.com");
        head = head.with("content-type", b"application/x-www-form-urlencoded");
        head.body = body.into();
        counter(&BODY, &head)
    };
    let several = of(br#"{"t_k":1,"t_k":2}"#);
    for (reader, found) in parameters(body) {
        assert!(
            of(body) == several,
            "{reader} finds `{}` in `{}`",
            found.escape_ascii(),
            body.escape_ascii()
        );
    }
}

fn body(body: &[u8]) {
    let of = |body: &[u8]| {
        let mut head = Head::new("POST", "/", "example.com");
        head.body = body.into();
        counter(&BODY, &head)
    };
    let (own, none, several) = (of(body), of(b"{}"), of(br#"{"t_k":1,"t_k":2}"#));
    let Ok(Members(members)) = serde_json::from_slice(body) else { return };
    let folded = |name: &str| -> String {
        let fold = |character: char| match character {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        };
        name.chars().map(fold).collect()
    };
    let exact: Vec<&Value> =
        members.iter().filter(|(name, _)| name == "t_k").map(|(_, value)| value).collect();
    let like = members.iter().filter(|(name, _)| folded(name) == "t_k").map(|(_, value)| value);
    let found = [exact.first().copied(), exact.last().copied(), like.last()];
    for value in found.into_iter().flatten() {
        let is_lossy = value.as_f64().is_some_and(|number| number.abs() >= (1_u64 << 53) as f64);
        let plain = match value {
            Value::String(_) | Value::Bool(_) => value.to_string(),
            Value::Number(number) if number.is_f64() && !is_lossy => {
                number.as_f64().unwrap_or_default().to_string()
            }
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => continue,
        };
        let plain = of(format!("{{\"t_k\":{plain}}}").as_bytes());
        assert!(own != none, "`{}`", body.escape_ascii());
        assert!(own == plain || own == several, "{value} in `{}`", body.escape_ascii());
    }
}

/// Every member of an object, those of one name too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

type Reader = fn(&[u8]) -> Option<Vec<u8>>;

/// Names and values, without the blanks around them if a reader takes those off.
fn pairs<'a>(
    text: &'a [u8],
    ends: &'static [u8],
    trims: bool,
) -> impl DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)> + 'a {
    let trimmed = move |text: &[u8]| if trims { text.trim_ascii().to_vec() } else { text.to_vec() };
    text.split(move |byte| ends.contains(byte)).filter_map(move |pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((trimmed(&pair[..at]), trimmed(&pair[at + 1..])))
    })
}

fn first(
    mut pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    name: &[u8],
    decode: fn(&[u8]) -> Vec<u8>,
) -> Option<Vec<u8>> {
    pairs.find(|(own, _)| own == name).map(|(_, value)| decode(&value))
}

fn last(
    pairs: impl DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)>,
    name: &[u8],
    decode: fn(&[u8]) -> Vec<u8>,
) -> Option<Vec<u8>> {
    first(pairs.rev(), name, decode)
}

/// A name as PHP has it.
fn mangled(name: &[u8]) -> Vec<u8> {
    let start = name.iter().position(|byte| *byte != b' ').unwrap_or(name.len());
    let name = &name[start..];
    let is_list = name.iter().position(|byte| *byte == b'[').is_some_and(|at| name[at..].contains(&b']'));
    let underscore = |byte: &u8| if matches!(byte, b'.' | b' ' | b'[') { b'_' } else { *byte };
    if is_list { Vec::new() } else { name.iter().map(underscore).collect() }
}

/// A value whose quotes are taken off, and whose escapes in quotes are undone; in plain spelling, percent-encoding is part of it.
fn unquoted(value: &[u8]) -> Vec<u8> {
    match value {
        [b'"', inner @ .., b'"'] => {
            let (mut text, mut rest) = (Vec::new(), inner);
            while let Some((byte, after)) = rest.split_first() {
                rest = after;
                if *byte == b'\\'
                    && let Some((escaped, after)) = rest.split_first()
                {
                    text.push(*escaped);
                    rest = after;
                } else {
                    text.push(*byte);
                }
            }
            decoded(&text)
        }
        value => decoded(value),
    }
}

fn decoded(value: &[u8]) -> Vec<u8> {
    tollgate_shared::path::percent_decode(value).collect()
}

fn form_decoded(value: &[u8]) -> Vec<u8> {
    let blanks: Vec<u8> = value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    decoded(&blanks)
}

fn encoded(value: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    value.iter().for_each(|byte| write!(text, "%{byte:02x}").expect("memory takes it"));
    text.into_bytes()
}

/// The counter of a request.
fn counter(policy: &Arc<Policy>, head: &Head) -> String {
    let (_, ops) = check::plan(policy, head, Timestamp::from_millis(1_800_000_000_000));
    let check = ops.first().and_then(|op: &Op| op.checks().first()).expect("there is a limit");
    check.key.as_str().to_owned()
}

fn by(part: &str) -> Arc<Policy> {
    let policy = format!(
        r#"{{"default": {{"rate_limits": [{{"name": "limit", "algorithm": "fixed_window", "quota": 1, "window": "1m", "key": ["{part}"]}}]}}}}"#
    );
    Arc::new(Policy::from_json(policy.as_bytes()).expect("it is a policy"))
}

static COOKIE: LazyLock<Arc<Policy>> = LazyLock::new(|| by("cookie:t_k"));
static QUERY: LazyLock<Arc<Policy>> = LazyLock::new(|| by("query:t_k"));
static BODY: LazyLock<Arc<Policy>> = LazyLock::new(|| by("body:/t_k"));
