//! What the core reads of a request.
//!
//! The host lends its request through [`Request`]; nothing is copied that no route or key asks for. All values
//! are bytes: header fields need not be UTF-8, and a core that assumed so would fail on a client's whim.
//!
//! What a client writes is read again by an upstream, and of what two readers take for two things nobody knows which one counts. So
//! what is read here has one reading, or it is known to have several: see [`Reading`].

use alloc::borrow::Cow;
use core::net::IpAddr;

use crate::path::{decode as decode_hex, percent_decode, query};

/// A request head, as the host has it.
pub trait Request {
    /// The method, as sent. Methods are case-sensitive (RFC 9110 §9.1), and yet many upstreams read them in whatever case: so
    /// does the core, see [`is_method`].
    fn method(&self, read: &mut dyn FnMut(&[u8]));

    /// The request target in origin form, query included; absolute form is understood too.
    fn target(&self, read: &mut dyn FnMut(&[u8]));

    /// The host the request names (`:authority` or `Host`), port included if sent.
    fn authority(&self, read: &mut dyn FnMut(&[u8]));

    /// Calls `read` with the value of each field line called `name` (lower case), in the order received.
    ///
    /// Lines must not be joined: a client that repeats a field must not look like one that did not. A host that is given them joined
    /// takes them apart as far as that can be told, see [`split_joined`]; those of `cookie` it leaves joined.
    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8]));

    /// The address at the other end of the connection, as far as the host knows it.
    fn peer(&self) -> Option<IpAddr>;

    /// Calls `read` with the claims of the token that has been verified in front of the host, as JSON; not at all if there is none.
    /// `name` is where that guard puts them, if it is told so. Only hosts with such a guard in front of them have this.
    fn verified_claims(&self, _name: &str, _read: &mut dyn FnMut(&[u8])) {}

    /// The first [`MAX_BODY`] bytes of the body, as far as the host has read it. It has to where
    /// [`Policy::reads_body`](crate::policy::Policy::reads_body) says so, before it begins a decision.
    fn body(&self) -> &[u8] {
        &[]
    }
}

/// More parameters than this are not all read by every upstream: PHP, `qs` and Django stop after a thousand.
const MAX_PARAMETERS: usize = 1000;

/// Most bytes of a body that are read: 64 KiB. What is behind them tells nobody apart.
pub const MAX_BODY: usize = 64 * 1024;

/// What a cookie or a parameter says, by those who read it after us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading<'a> {
    /// All read this.
    One(Cow<'a, [u8]>),
    /// One reader finds something else than another, or does not find it.
    Several,
}

/// Whether a request with the method `sent` is one of `method`, which is in capitals: the same in whatever case, or `HEAD` where that
/// is `GET`, because servers answer the one with the handler of the other.
pub fn is_method(sent: &[u8], method: &str) -> bool {
    sent.eq_ignore_ascii_case(method.as_bytes()) || (method == "GET" && sent.eq_ignore_ascii_case(b"HEAD"))
}

/// Takes the lines of a field apart that a host has joined with commas, as far as that can be told. `false`, and nothing is read, for
/// fields of which it cannot: they are lists, or their own text has commas in it.
#[inline(never)]
pub fn split_joined(name: &str, value: &[u8], read: &mut dyn FnMut(&[u8])) -> bool {
    let is_parameter = match name {
        "authorization" | "proxy-authorization" => is_parameter,
        "content-type"
        | "origin"
        | "access-control-request-method"
        | "grpc-timeout"
        | "x-client-trace-id"
        | "x-request-id" => |_: &[u8]| false,
        _ => return false,
    };
    let (mut line_start, mut piece_start, mut is_quoted, mut is_escaped) = (0, 0, false, false);
    for (at, byte) in value.iter().chain(b",").enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted || at == value.len() => {
                let piece = value.get(piece_start..at).unwrap_or_default();
                if piece_start > 0 && !is_parameter(piece.trim_ascii()) {
                    read(value.get(line_start..piece_start - 1).unwrap_or_default());
                    line_start = piece_start;
                }
                piece_start = at + 1;
            }
            _ => {}
        }
    }
    read(value.get(line_start..).unwrap_or_default());
    true
}

/// Whether credentials go on with this behind a comma: `name=value` (RFC 9110 §11.2). Of two credentials, the second begins with a
/// scheme.
fn is_parameter(piece: &[u8]) -> bool {
    let mut parts = piece.splitn(2, |byte| *byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default().trim_ascii_end(), parts.next().unwrap_or_default());
    !name.contains(&b' ') && !matches!(value.trim_ascii_start(), [] | [b'=', ..])
}

/// Calls `read` for each cookie that some upstream takes for the one called `name`, over all lines, in the order received.
///
/// | upstream | what it does that others do not |
/// | --- | --- |
/// | Node, Flask, Django, Tomcat | blanks around names and values do not count |
/// | Flask, Django, Go, Tomcat | quotes around values do not count |
/// | Node, PHP, Rack | values are percent-encoded |
/// | ASP.NET | the case of names does not count |
/// | PHP | a point, a space and `[` in a name are an underscore |
/// | old PHP, old Rack | names are percent-encoded |
/// | Python's `http.cookies` | a value ends at a blank, quotes hold semicolons and escapes |
/// | old Tomcat | a value ends at a comma |
#[inline(never)]
pub(crate) fn cookie(request: &dyn Request, name: &str, read: &mut dyn FnMut(Reading<'_>)) {
    request.header("cookie", &mut |line| {
        for pair in line.split(|byte| *byte == b';') {
            let at = pair.iter().position(|byte| *byte == b'=');
            let (own, value) = pair.split_at_checked(at.unwrap_or(pair.len())).unwrap_or_default();
            let (own, value) = (own.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii());
            // A name alone is an empty cookie for some, and none for others.
            let is_named = own == name.as_bytes() && at.is_some();
            if is_second_in(pair, name) || (!is_named && is_like(own, name)) {
                read(Reading::Several);
            } else if is_named {
                read(unquote(value).map_or(Reading::Several, decode));
            }
        }
    });
}

/// Calls `read` for each parameter of a query that some upstream takes for the one called `name`, in their order.
///
/// Old readers end a parameter at a semicolon, PHP reads other bytes of a name as an underscore, `name[]` is a list of the
/// same name for several, and ASP.NET does not look at the case of names. There is none without a name.
#[inline(never)]
pub(crate) fn parameter(query: &[u8], name: &str, read: &mut dyn FnMut(Reading<'_>)) {
    if name.is_empty() {
        return;
    }
    // Many readers stop after a thousand parameters, and what they have read until then is another query.
    if query.iter().filter(|byte| matches!(byte, b'&' | b';')).count() >= MAX_PARAMETERS {
        return read(Reading::Several);
    }
    for pair in query.split(|byte| *byte == b'&') {
        let is_whole = !pair.contains(&b';');
        for piece in pair.split(|byte| *byte == b';') {
            let split = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
            let (key, value) = piece.split_at_checked(split).unwrap_or_default();
            let value = value.get(1..).unwrap_or_default();
            // Old readers of ASP.NET have an encoding of their own for UTF-16.
            let is_plain = is_whole && !has(value, b"%u") && !has(value, b"%U");
            if form_decode(key).eq(name.bytes()) && is_plain {
                read(Reading::One(form_decode(value).collect()));
            } else if is_like_parameter(key, name) {
                read(Reading::Several);
            }
        }
    }
}

/// Whether a pair holds a cookie like `name` behind the first, for those who end one at a comma or a blank.
fn is_second_in(pair: &[u8], name: &str) -> bool {
    let mut pieces = pair.split(|byte| *byte == b',' || byte.is_ascii_whitespace());
    let mut pieces = pieces.by_ref().filter(|piece| !piece.is_empty());
    let Some(mut before) = pieces.next() else { return false };
    let mut is_first = true;
    pieces.any(|piece| {
        let own = match piece.iter().position(|byte| *byte == b'=') {
            Some(0) if !is_first => before,
            Some(at) => piece.get(..at).unwrap_or_default(),
            None => &[],
        };
        (is_first, before) = (false, piece);
        is_like(own, name)
    })
}

/// Whether some reader takes the cookie called `own` for the one called `name`.
#[inline(never)]
fn is_like(own: &[u8], name: &str) -> bool {
    let is_odd = |byte: &u8| !(byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    let fold = |byte: u8| underscore(byte).to_ascii_lowercase();
    let start = own.iter().position(|byte| !is_odd(byte)).unwrap_or(own.len());
    let end = own.iter().rposition(|byte| !is_odd(byte)).map_or(start, |last| last + 1);
    let own = own.get(start..end).unwrap_or_default();
    percent_decode(own).map(fold).eq(name.bytes().map(fold))
}

/// Whether some reader takes the parameter with this key for the one called `name`, or for a list of that name. PHP ends a name at a
/// NUL, and Node's `qs` takes off brackets around one.
fn is_like_parameter(key: &[u8], name: &str) -> bool {
    let fold = |byte: u8| underscore(byte).to_ascii_lowercase();
    let is_like = |own: &mut dyn Iterator<Item = u8>| {
        let mut named = name.bytes();
        loop {
            return match (own.next(), named.next()) {
                (Some(own), Some(named)) if fold(own) == fold(named) => continue,
                (rest, None) => matches!(rest, None | Some(b'[' | b']' | 0)),
                _ => false,
            };
        }
    };
    let is_blank = |byte: &u8| *byte == b' ';
    is_like(&mut form_decode(key).skip_while(is_blank))
        || is_like(&mut form_decode(key).skip_while(is_blank).skip_while(|byte| *byte == b'['))
}

/// What PHP makes of a byte of a name.
fn underscore(byte: u8) -> u8 {
    if matches!(byte, b'.' | b' ' | b'[' | b'+') { b'_' } else { byte }
}

/// What is between the quotes of a cookie's value, if it has some; `None` where readers differ about its end, or about escapes.
fn unquote(value: &[u8]) -> Option<&[u8]> {
    // The brackets, quotes and backslashes are WebOb's.
    let ends = |byte: &u8| b",\"[]\\".contains(byte) || byte.is_ascii_whitespace();
    match value {
        [b'"', inner @ .., b'"'] => (!inner.iter().any(|byte| matches!(byte, b'"' | b'\\'))).then_some(inner),
        [b'"', ..] => None,
        value => (!value.iter().any(ends) && !has_blank_end(value)).then_some(value),
    }
}

/// Whether a value begins or ends with a blank that is not a space: Django takes those off, others do not.
fn has_blank_end(value: &[u8]) -> bool {
    trim_field(value).len() < value.len()
}

/// A text without the blanks around it, as frameworks for Python, PHP and Java cut them off from what is sent to them: whatever Unicode
/// takes for one, control characters, and some that have no width.
#[inline(never)]
pub(crate) fn trim_text(text: &[u8]) -> &[u8] {
    let is_blank =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}');
    core::str::from_utf8(text).map_or(text.trim_ascii(), |text| text.trim_matches(is_blank).as_bytes())
}

/// The same of a header field, whose bytes some take for Latin-1: there, two more are blanks.
pub(crate) fn trim_field(value: &[u8]) -> &[u8] {
    let mut rest = value;
    loop {
        let is_kept = |byte: &u8| {
            !(byte.is_ascii_whitespace() || byte.is_ascii_control() || matches!(byte, 0x85 | 0xa0))
        };
        let text = trim_text(rest);
        let start = text.iter().position(is_kept).unwrap_or(text.len());
        let end = text.iter().rposition(is_kept).map_or(start, |last| last + 1);
        let trimmed = text.get(start..end).unwrap_or_default();
        if trimmed.len() == rest.len() {
            return rest;
        }
        rest = trimmed;
    }
}

/// The body of a request, if all who look for `member` in it read it as JSON; `None` if some upstream may read it as something else, or
/// find the member in the query.
///
/// What a body is, its sender says. One that is JSON and a form at once, or JSON in front of the first part of a multipart body, would
/// show us one value and the upstream another.
#[inline(never)]
pub(crate) fn json_body<'a>(request: &'a dyn Request, member: &str) -> Option<&'a [u8]> {
    let body = request.body();
    let mut is_read_otherwise = false;
    // Rails and others have parameters of all kinds in one list, where those of the query come first.
    request.target(&mut |target| parameter(query(target), member, &mut |_| is_read_otherwise = true));
    let mut types = 0;
    request.header("content-type", &mut |line| {
        types += 1;
        is_read_otherwise |= types > 1 || !is_json_type(line, body, member);
    });
    is_read_otherwise |= types == 0 && is_form_with(body, member);
    request.header("content-encoding", &mut |line| {
        is_read_otherwise |= !matches!(line.trim_ascii(), b"" | b"identity");
    });
    (!is_read_otherwise || body.is_empty()).then_some(body)
}

/// Whether a body of this `Content-Type` is read as JSON by those who look for `member`, or not at all.
fn is_json_type(line: &[u8], body: &[u8], member: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let (kind, parameters) = line.split_at_checked(end).unwrap_or_default();
    let kind = kind.trim_ascii();
    // Some look for these anywhere.
    let is_odd = |text: &[u8]| has(text, b"multipart") || has(text, b"urlencoded");
    let is_json = match kind {
        // Some programs say these of whatever they send, and some readers take all of them for a form.
        b"" | b"text/plain" | b"application/x-www-form-urlencoded" => !is_form_with(body, member),
        // `ndjson` is several documents, and `ubjson` another format.
        _ => match kind.strip_suffix(b"json").and_then(<[u8]>::last) {
            Some(b'/' | b'+' | b'-') => !is_odd(kind),
            _ => false,
        },
    };
    is_json && !is_odd(parameters) && is_utf8(parameters, body)
}

/// Whether a reader of forms finds this field in a body.
fn is_form_with(body: &[u8], field: &str) -> bool {
    let mut is_there = false;
    parameter(body, field, &mut |_| is_there = true);
    is_there
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether all charsets that parameters of a `Content-Type`, in small letters, name read these bytes as UTF-8 does.
fn is_utf8(parameters: &[u8], body: &[u8]) -> bool {
    const CHARSET: &[u8] = b"charset";
    let mut rest = parameters;
    while let Some(at) = rest.windows(CHARSET.len()).position(|window| window == CHARSET) {
        rest = rest.get(at + CHARSET.len()..).unwrap_or_default().trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=") else { return false };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let ends = |byte: &u8| matches!(byte, b'"' | b';' | b' ' | b'\t');
        let end = value.iter().position(ends).unwrap_or(value.len());
        match value.get(..end).unwrap_or_default() {
            b"utf-8" | b"utf8" => {}
            b"us-ascii" | b"iso-8859-1" if body.is_ascii() => {}
            _ => return false,
        }
    }
    true
}

fn decode(value: &[u8]) -> Reading<'_> {
    Reading::One(if value.contains(&b'%') {
        Cow::Owned(percent_decode(value).collect())
    } else {
        Cow::Borrowed(value)
    })
}

/// Undoes the encoding of form fields: `+` for a space, and percent-encoding.
fn form_decode(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (&raw, after) = rest.split_first()?;
        // An encoded plus is decoded to a plus; only one that is written is a space.
        let (byte, after) = match raw {
            b'+' => (b' ', after),
            b'%' => decode_hex(after).unwrap_or((raw, after)),
            _ => (raw, after),
        };
        rest = after;
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A request with these lines of `cookie`.
    struct Cookies<'a>(&'a [&'a [u8]]);

    impl Request for Cookies<'_> {
        fn method(&self, _: &mut dyn FnMut(&[u8])) {}
        fn target(&self, _: &mut dyn FnMut(&[u8])) {}
        fn authority(&self, _: &mut dyn FnMut(&[u8])) {}
        fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
            assert_eq!(name, "cookie");
            self.0.iter().for_each(|line| read(line));
        }
        fn peer(&self) -> Option<IpAddr> {
            None
        }
    }

    /// What is read of a line: a value, `!` for several readings; with a bar between them.
    fn read(line: &str) -> String {
        let mut found: Vec<String> = Vec::new();
        cookie(&Cookies(&[line.as_bytes()]), "t_k", &mut |reading| {
            found.push(match reading {
                Reading::One(value) => String::from_utf8_lossy(&value).into_owned(),
                Reading::Several => "!".into(),
            });
        });
        found.join("|")
    }

    #[test]
    fn cookies_are_read_as_lenient_readers_do() {
        for (line, said) in [
            ("t_k=a", "a"),
            ("x=y;t_k=a;z=w", "a"),
            (" t_k = a ;x=y", "a"),
            ("t_k\t=\ta", "a"),
            ("t_k=\"a\"", "a"),
            ("t_k=\"\"", ""),
            ("t_k=", ""),
            ("t_k=%61%2", "a%2"),
            ("t_k=\"%2561 b,c\"", "%61 b,c"),
            ("t_k=a=b==", "a=b=="),
            ("t_k=a; t_k=b", "a|b"),
            ("$Version=1; t_k=\"a\"; $Path=\"/\"", "a"),
            // Others.
            ("", ""),
            ("=t_k=a", ""),
            ("xt_k=a; t_kx=b; t-k=c; x=t_k=d; x=/?t_k=e; x=y&t_k=f", ""),
            // What has several readings.
            ("t_k", "!"),
            ("t_k; t_k=a", "!|a"),
            ("T_K=a", "!"),
            ("t.k=a", "!"),
            ("t k=a", "!"),
            ("t[k=a", "!"),
            ("%74_k=a", "!"),
            ("\u{a0}t_k=a", "!"),
            ("\"t_k\"=a", "!"),
            ("t_k=a b", "!"),
            ("t_k=a,b", "!"),
            ("t_k=\"a", "!"),
            ("t_k=\"", "!"),
            ("t_k=\"a\\\"b\"", "!"),
            ("t_k=\"a\"b\"", "!"),
            ("x=y,t_k=a", "!"),
            ("x=y t_k=a", "!"),
            ("x=y, t_k =a", "!"),
            ("x=y t_k = a", "!"),
            ("x,t_k=a", "!"),
            ("x=\"y\" T_k=a", "!"),
            ("t_k=a\u{a0}", "!"),
            ("t_k=\u{2003}a", "!"),
            ("t_k=a[b", "!"),
            ("t_k=a\\b", "!"),
            ("t_k=\u{e0}a\u{e0}", "!"),
            ("t_k=a\u{1f}", "!"),
            ("t_k=\u{e9}a\u{a0}b\u{e9}", "\u{e9}a\u{a0}b\u{e9}"),
        ] {
            assert_eq!(read(line), said, "{line}");
        }
    }

    #[test]
    fn blanks_are_cut_off_at_both_ends_alone() {
        for (text, trimmed) in [
            ("", ""),
            (" \t\u{85}\u{a0}\u{2003}\u{3000}\u{1f}a\u{a0}b\u{1}\u{200b}\u{200e}\u{feff}", "a\u{a0}b"),
            ("\u{e0}", "\u{e0}"),
        ] {
            assert_eq!(trim_text(text.as_bytes()), trimmed.as_bytes());
        }
        for (field, trimmed) in [
            (&b"\x85 \xa0V\xa0W\x1f\xa0"[..], &b"V\xa0W"[..]),
            (b"\xa0\xc2\xa0V", b"V"),
            (b"\xa0", b""),
            (b"\xff ", b"\xff"),
        ] {
            assert_eq!(trim_field(field), trimmed);
        }
    }

    #[test]
    fn parameters_are_read_as_lenient_readers_do() {
        let read = |query: &str| {
            let mut found: Vec<String> = Vec::new();
            parameter(query.as_bytes(), "user", &mut |reading| {
                found.push(match reading {
                    Reading::One(value) => String::from_utf8_lossy(&value).into_owned(),
                    Reading::Several => "!".into(),
                });
            });
            found.join("|")
        };
        for (query, said) in [
            ("user=a", "a"),
            ("user=a&user%00=b", "a|!"),
            ("user=a&%5Buser%5D=b", "a|!"),
            ("user=a&[user=b", "a|!"),
            ("user=a&user[]=b", "a|!"),
            ("user=a&users=b&xuser=c", "a"),
            ("user=a&USER=b", "a|!"),
            ("uSer=a", "!"),
            ("user=%u0061", "!"),
            ("user=%25u0061", "%u0061"),
        ] {
            assert_eq!(read(query), said, "{query}");
        }
        assert_eq!(read(&("a&".repeat(998) + "user=a")), "a");
        assert_eq!(read(&("a&".repeat(1000) + "user=a")), "!");
    }

    #[test]
    fn joined_lines_are_taken_apart_where_that_can_be_told() {
        let lines = |name: &str, value: &str| {
            let mut lines: Vec<String> = Vec::new();
            let is_split = split_joined(name, value.as_bytes(), &mut |line| {
                lines.push(String::from_utf8_lossy(line.trim_ascii()).into_owned());
            });
            is_split.then(|| lines.join("|"))
        };
        for (value, split) in [
            ("Bearer a", "Bearer a"),
            ("Bearer a,Bearer b", "Bearer a|Bearer b"),
            ("Bearer a, Bearer b,c", "Bearer a|Bearer b|c"),
            ("Basic YQ==,Basic Yg==", "Basic YQ==|Basic Yg=="),
            ("a,", "a|"),
            ("", ""),
            ("Digest a=\"b, c\", d=e , f = g", "Digest a=\"b, c\", d=e , f = g"),
            ("Digest a=\"b\\\", c\",d=e,Bearer f", "Digest a=\"b\\\", c\",d=e|Bearer f"),
            (
                "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=c;d,Signature=e",
                "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=c;d,Signature=e",
            ),
            // A quote that is never closed.
            ("a \"b,Bearer c", "a \"b,Bearer c"),
        ] {
            assert_eq!(lines("authorization", value).as_deref(), Some(split), "{value}");
        }
        assert_eq!(lines("content-type", "a/b; c=\"d,e\",f/g").as_deref(), Some("a/b; c=\"d,e\"|f/g"));
        assert_eq!(lines("accept", "a,b"), None);
    }

    proptest! {
        /// A line is read in time that grows with its length alone, and nothing in it panics.
        #[test]
        fn any_bytes_are_cookies(line in prop::collection::vec(prop::sample::select(b"t_k=;, \"\\%61.xT\xa0".as_slice()), 0..40)) {
            let mut found = 0;
            cookie(&Cookies(&[&line]), "t_k", &mut |_| found += 1);
            prop_assert!(found <= line.split(|b| *b == b';').count());
            parameter(&line, "t_k", &mut |_| found += 1);
        }
    }
}
