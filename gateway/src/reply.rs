//! From what Redis answered to the JSON of the dialect, written into one buffer without a tree in between.
//!
//! Values have the shapes of RESP2, whatever Redis was asked with: nil is null, integers are numbers, doubles are
//! strings, booleans are 1 and 0, maps are flat arrays. Errors keep the text Redis gave them, because clients match on
//! the code in front (`NOSCRIPT …`).

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{ServerError, Value};

/// How the strings of results are written. Errors are always plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON strings; what is not UTF-8 becomes U+FFFD.
    Text,
    /// As base64, except a bare `OK`: `Upstash-Encoding: base64`.
    Base64,
}

/// `{"result":…}`, or `{"error":"…"}` when Redis answered an error.
pub(crate) fn write_reply(out: &mut Vec<u8>, reply: &Value, encoding: Encoding) {
    if let Value::ServerError(error) = reply {
        return write_error(out, &error_text(error));
    }
    out.extend_from_slice(br#"{"result":"#);
    match reply {
        // SDKs take a bare OK as it is; inside an array they decode every string.
        Value::Okay => out.extend_from_slice(br#""OK""#),
        value => write_value(out, value, encoding),
    }
    out.push(b'}');
}

/// `{"error":"…"}`.
pub(crate) fn write_error(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(br#"{"error":"#);
    write_text(out, text.as_bytes());
    out.push(b'}');
}

/// An error as Redis sent it: redis-rs keeps code and detail apart.
pub(crate) fn error_text(error: &ServerError) -> String {
    match error.details() {
        Some(detail) => format!("{} {detail}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Recursion is bounded: redis-rs refuses replies nested deeper than 100.
fn write_value(out: &mut Vec<u8>, value: &Value, encoding: Encoding) {
    match value {
        Value::Int(number) => write_number(out, *number),
        Value::BulkString(bytes) | Value::BigNumber(bytes) => write_string(out, bytes, encoding),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => {
            write_string(out, text.as_bytes(), encoding);
        }
        Value::Okay => write_string(out, b"OK", encoding),
        Value::Array(items) | Value::Set(items) | Value::Push { data: items, .. } => {
            write_array(out, items.iter(), encoding);
        }
        Value::Map(pairs) => write_array(out, pairs.iter().flat_map(|(key, value)| [key, value]), encoding),
        Value::Attribute { data, .. } => write_value(out, data, encoding),
        Value::Double(number) => write_string(out, number.to_string().as_bytes(), encoding),
        Value::Boolean(truth) => write_number(out, i64::from(*truth)),
        // A script can put an error into a table. It has no place of its own in the dialect, so its text stands there.
        Value::ServerError(error) => write_string(out, error_text(error).as_bytes(), encoding),
        // `Value` may gain kinds; RESP2, which is what Redis is asked with, has no more than those above.
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_array<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a Value>, encoding: Encoding) {
    out.push(b'[');
    for (position, item) in items.enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_value(out, item, encoding);
    }
    out.push(b']');
}

fn write_number(out: &mut Vec<u8>, number: i64) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{number}");
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::Text => write_text(out, bytes),
        Encoding::Base64 => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

fn write_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        write_escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

/// Copies runs of plain bytes at once; only what JSON forbids inside a string is replaced.
fn write_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(plain) = text.iter().position(|&byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        let (run, rest) = text.split_at(plain);
        out.extend_from_slice(run);
        let Some((&special, rest)) = rest.split_first() else { break };
        text = rest;
        match special {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            control => _ = write!(out, "\\u{control:04x}"),
        }
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::{PushKind, VerbatimFormat, parse_redis_value};

    use super::*;

    fn json(value: &Value, encoding: Encoding) -> String {
        let mut out = Vec::new();
        write_reply(&mut out, value, encoding);
        String::from_utf8(out).unwrap()
    }

    fn text(resp: &[u8]) -> String {
        json(&parse_redis_value(resp).unwrap(), Encoding::Text)
    }

    #[test]
    fn values_have_the_shapes_of_resp2() {
        for (resp, expected) in [
            (&b"$-1\r\n"[..], r#"{"result":null}"#),
            (b"*-1\r\n", r#"{"result":null}"#),
            (b"_\r\n", r#"{"result":null}"#),
            (b":-9223372036854775808\r\n", r#"{"result":-9223372036854775808}"#),
            (b"+OK\r\n", r#"{"result":"OK"}"#),
            (b"+PONG\r\n", r#"{"result":"PONG"}"#),
            (b"$5\r\na\"\\\n\x01\r\n", r#"{"result":"a\"\\\n\u0001"}"#),
            (b"$3\r\na\xffb\r\n", "{\"result\":\"a\u{fffd}b\"}"),
            (b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n", r#"{"result":[1,["a"],null]}"#),
            (b"*0\r\n", r#"{"result":[]}"#),
            (b"%1\r\n$1\r\na\r\n:1\r\n", r#"{"result":["a",1]}"#),
            (b"~1\r\n:1\r\n", r#"{"result":[1]}"#),
            (b",1.5\r\n", r#"{"result":"1.5"}"#),
            (b",inf\r\n", r#"{"result":"inf"}"#),
            (b"#t\r\n", r#"{"result":1}"#),
            (b"#f\r\n", r#"{"result":0}"#),
            (b"(12345678901234567890\r\n", r#"{"result":"12345678901234567890"}"#),
            (b"=5\r\ntxt:a\r\n", r#"{"result":"a"}"#),
        ] {
            assert_eq!(text(resp), expected);
        }
    }

    #[test]
    fn errors_keep_the_text_of_redis() {
        for error in [
            "NOSCRIPT No matching script. Please use EVAL.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'x', with args beginning with: 'y'",
            "MYCODE  two spaces",
            "ALONE",
            "ERR",
            "MOVED 3999 127.0.0.1:6381",
        ] {
            assert_eq!(text(format!("-{error}\r\n").as_bytes()), format!(r#"{{"error":"{error}"}}"#));
        }
        assert_eq!(text(b"*2\r\n:1\r\n-ERR inside\r\n"), r#"{"result":[1,"ERR inside"]}"#);
    }

    #[test]
    fn base64_leaves_a_bare_ok_numbers_and_errors_alone() {
        let encoded = |resp: &[u8]| json(&parse_redis_value(resp).unwrap(), Encoding::Base64);
        assert_eq!(encoded(b"+OK\r\n"), r#"{"result":"OK"}"#);
        assert_eq!(encoded(b"+PONG\r\n"), r#"{"result":"UE9ORw=="}"#);
        assert_eq!(encoded(b"*2\r\n+OK\r\n:1\r\n"), r#"{"result":["T0s=",1]}"#);
        assert_eq!(encoded(b"$2\r\n\xff\xfe\r\n"), r#"{"result":"//4="}"#);
        assert_eq!(encoded(b"-ERR no\r\n"), r#"{"error":"ERR no"}"#);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            any::<String>().prop_map(Value::SimpleString),
            any::<f64>().prop_map(Value::Double),
            any::<bool>().prop_map(Value::Boolean),
            any::<String>().prop_map(|text| Value::VerbatimString { format: VerbatimFormat::Text, text }),
            any::<Vec<u8>>().prop_map(Value::BigNumber),
            "[A-Z]{1,8}( [^\r\n]{0,20})?"
                .prop_map(|error| parse_redis_value(format!("-{error}\r\n").as_bytes()).unwrap()),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let items = || prop::collection::vec(inner.clone(), 0..6);
            prop_oneof![
                items().prop_map(Value::Array),
                items().prop_map(Value::Set),
                items().prop_map(|data| Value::Push { kind: PushKind::Invalidate, data }),
                prop::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(Value::Map),
                inner.clone().prop_map(|data| Value::Attribute { data: Box::new(data), attributes: vec![] }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_becomes_one_json_object_with_one_field(value in values()) {
            for encoding in [Encoding::Text, Encoding::Base64] {
                let text = json(&value, encoding);
                let parsed: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
                let field = if matches!(value, Value::ServerError(_)) { "error" } else { "result" };
                prop_assert_eq!(parsed.keys().collect::<Vec<_>>(), [field]);
            }
        }

        #[test]
        fn strings_survive_the_way_out_and_back(bytes: Vec<u8>) {
            let value = Value::BulkString(bytes.clone());
            let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["result"].clone();
            let text = parse(json(&value, Encoding::Text));
            prop_assert_eq!(text.as_str().unwrap(), String::from_utf8_lossy(&bytes));
            let encoded = parse(json(&value, Encoding::Base64));
            prop_assert_eq!(STANDARD.decode(encoded.as_str().unwrap()).unwrap(), bytes);
        }
    }
}
