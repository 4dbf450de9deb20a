//! What stands in a document at a pointer (RFC 6901), if there is one reading of it.

use alloc::borrow::Cow;
use alloc::string::String;

use super::{Reader, Stop, Value};

/// What a document says at a pointer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// Nothing that tells anybody apart: no value, or `null`.
    Nothing,
    /// One value: a text, or a number or a boolean as a text.
    One(Cow<'a, str>),
    /// A number that is not whole.
    Fraction(String),
    /// Several values, or one with several readings. A list or an object is one: what takes it for a text has its own way, and
    /// JavaScript reads `[7]` as `"7"`.
    Several,
}

/// Reads `document` as far as it is there.
///
/// A member that stands in an object twice, by the names of any reader, anywhere along the pointer, has several values. So has
/// every one of a document that stops being JSON, because a reader that accepts more may find it, or find it again. Where the document is
/// cut off, what has been found counts; what has not may still come, and has several values too.
#[inline(never)]
pub(crate) fn find<'a>(document: &'a [u8], pointer: &str) -> Found<'a> {
    let mut search = Search { reader: Reader::new(document), found: Found::Nothing };
    match (search.walk(pointer), search.found) {
        (Err(Stop::Broken), _) => Found::Several,
        (Err(Stop::End), Found::Nothing) if !document.trim_ascii().is_empty() => Found::Several,
        (_, found) => found,
    }
}

struct Search<'a> {
    reader: Reader<'a>,
    found: Found<'a>,
}

impl<'a> Search<'a> {
    /// Reads the next value, in which `pointer` is to be followed.
    fn walk(&mut self, pointer: &str) -> Result<(), Stop> {
        let value = self.reader.value()?;
        let Some(pointer) = pointer.strip_prefix('/') else {
            self.found = match &value {
                Value::Text(text) => text.decode().map_or(Found::Several, Found::One),
                Value::Number(number) => match number.text() {
                    Some(text) if text.contains('.') => Found::Fraction(text),
                    Some(text) => Found::One(Cow::Owned(text)),
                    None => Found::Several,
                },
                Value::NotANumber | Value::List | Value::Object => Found::Several,
                Value::Boolean(boolean) => Found::One(Cow::Borrowed(if *boolean { "true" } else { "false" })),
                Value::Null => Found::Nothing,
            };
            return self.reader.skip_rest(&value);
        };
        let length = pointer.find('/').unwrap_or(pointer.len());
        let Some((token, below)) = pointer.split_at_checked(length) else { return Ok(()) };
        match value {
            Value::Object => self.members(&unescape(token), below),
            Value::List => self.elements(index(token), below),
            _ => Ok(()),
        }
    }

    fn members(&mut self, token: &str, below: &str) -> Result<(), Stop> {
        let mut is_there = false;
        let mut is_first = true;
        while let Some(name) = self.reader.member(is_first)? {
            is_first = false;
            if !name.names(token) {
                self.reader.skip()?;
            } else if is_there {
                // Whatever follows, it is not one.
                self.found = Found::Several;
                return Err(Stop::End);
            } else {
                is_there = true;
                self.walk(below)?;
            }
        }
        Ok(())
    }

    fn elements(&mut self, index: Option<usize>, below: &str) -> Result<(), Stop> {
        let mut number = 0;
        while self.reader.element(number == 0)? {
            if Some(number) == index {
                self.walk(below)?;
            } else {
                self.reader.skip()?;
            }
            number += 1;
        }
        Ok(())
    }
}

/// The number of an element, without a sign or leading zeros.
fn index(token: &str) -> Option<usize> {
    let is_plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if is_plain { token.parse().ok() } else { None }
}

/// The name that a token stands for.
pub(crate) fn unescape(token: &str) -> Cow<'_, str> {
    if token.contains('~') {
        Cow::Owned(token.replace("~1", "/").replace("~0", "~"))
    } else {
        Cow::Borrowed(token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn one(text: &str) -> Found<'_> {
        Found::One(Cow::Borrowed(text))
    }

    #[test]
    fn pointers_lead_through_objects_and_lists() {
        let json = br#"{"a":{"b":[10,{"c":"x"},[true]],"":"empty"},"a/b":1,"m~n":2,"~1":3,"0":4,"-":5}"#;
        for (pointer, found) in [
            ("/a/b/0", one("10")),
            ("/a/b/1/c", one("x")),
            ("/a/b/2/0", one("true")),
            ("/a/", one("empty")),
            ("/a~1b", one("1")),
            ("/m~0n", one("2")),
            ("/~01", one("3")),
            ("/0", one("4")),
            ("/-", one("5")),
            ("/a/b/3", Found::Nothing),
            ("/a/b/00", Found::Nothing),
            ("/a/b/+0", Found::Nothing),
            ("/a/b/-", Found::Nothing),
            ("/a/b/99999999999999999999", Found::Nothing),
            ("/a/b", Found::Several),
            ("/a", Found::Several),
            ("/a/b/0/c", Found::Nothing),
        ] {
            assert_eq!(find(json, pointer), found, "{pointer}");
        }
    }

    #[test]
    fn what_has_been_found_counts_where_the_document_is_cut_off() {
        let json = br#"{"x":[1,{"id":8}],"id":"v","y":{"id":[[3]],"z":"zz"}}"#;
        let from = json.iter().position(|b| *b == b'v').unwrap() + 2;
        for length in 0..=json.len() {
            let found = match length {
                0 => Found::Nothing,
                _ if length < from => Found::Several,
                _ => one("v"),
            };
            assert_eq!(find(&json[..length], "/id"), found, "{length}");
        }
        // More digits might follow.
        assert_eq!(find(br#"{"id":12"#, "/id"), Found::Several);
        assert_eq!(find(br#"{"id":12,"#, "/id"), one("12"));
    }

    #[test]
    fn what_has_several_readings_is_several() {
        for json in [
            r#"{"id":1,"id":1}"#,
            r#"{"id":1,"ID":2}"#,
            r#"{"id":{},"Id":1}"#,
            r#"{"id":1,"iD""#,
            r#"{"id":1} "#,
        ] {
            let expected = if json.contains("} ") { one("1") } else { Found::Several };
            let found = find(json.as_bytes(), "/id");
            // A name that is cut off before its colon is none yet.
            assert_eq!(found, if json.ends_with('"') { one("1") } else { expected }, "{json}");
        }
        assert_eq!(find(br#"{"id":1, oops"#, "/id"), Found::Several);
        assert_eq!(find(br#"{oops, "id":1}"#, "/id"), Found::Several);
        assert_eq!(find(br#"{"id":"\ud800"}"#, "/id"), Found::Several);
        assert_eq!(find(br#"{"id":1e999999999}"#, "/id"), Found::Several);
    }

    proptest! {
        /// Where names differ in more than their case, it finds what another reader finds.
        #[test]
        fn it_finds_what_serde_json_finds(value in json(), steps in prop::collection::vec("[abc01]", 0..4)) {
            let pointer: String = steps.iter().flat_map(|step| ["/", step]).collect();
            let text = serde_json::to_vec(&value).unwrap();
            let theirs = match value.pointer(&pointer) {
                Some(serde_json::Value::String(text)) => Some(text.clone()),
                Some(other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => Some(std::format!("{other}")),
                _ => None,
            };
            let holds_others = value.pointer(&pointer).is_some_and(|found| found.is_array() || found.is_object());
            let ours = match find(&[text, Vec::from(b" ")].concat(), &pointer) {
                Found::One(text) => Some(text.into_owned()),
                Found::Nothing => None,
                Found::Fraction(text) => Some(text),
                Found::Several => {
                    prop_assert!(holds_others, "each name stands once");
                    return Ok(());
                }
            };
            prop_assert!(!holds_others);
            prop_assert_eq!(ours, theirs);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,4}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[abc01]", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
