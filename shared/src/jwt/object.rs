//! JSON objects as tokens and keys have them: flat, small, and each name once.
//!
//! Of a name that stands there twice, one reader takes the first value and another the last, and what one of them checked
//! the other does not believe (RFC 7515 §4, RFC 8725 §2.4). So such an object is refused, whatever the name.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::json::{self, Reader, Stop};
use crate::time::Timestamp;

/// The members of an object in their order, at most 128. What they hold may be personal or secret: it has no `Debug` output.
#[derive(Clone)]
pub struct Object(Vec<(String, Value)>);

/// A value, as far as anybody here reads it.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Number(Number),
    Boolean(bool),
    /// A list of nothing but texts.
    Texts(Vec<String>),
    /// `null`, another list, an object; in a key's object, a number or a boolean as well.
    Other,
}

/// What of a number is read.
#[derive(Clone)]
pub(super) struct Number {
    /// Its value in the one way there is, unless it has too many digits for that.
    pub(super) text: Option<String>,
    /// A thousand times its value, rounded down, unless that is negative or beyond 64 bits.
    thousandfold: Option<u64>,
}

impl Object {
    /// Reads an object and nothing else.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        // A byte order mark is no part of a token, and bytes that are no text are in no part of one.
        if json.starts_with(b"\xef") || core::str::from_utf8(json).is_err() {
            return None;
        }
        let mut reader = Reader::bounded(json, MAX_DEPTH);
        let object = Self::read(&mut reader).ok()??;
        reader.is_at_end().then_some(object)
    }

    /// Reads the next value to its end: `None` if it is no object, or cannot be read as one.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Stop> {
        let value = reader.value()?;
        let json::Value::Object = value else { return reader.skip_rest(&value).map(|()| None) };
        let (mut members, mut is_first, mut is_sound) = (Vec::<(String, Value)>::new(), true, true);
        while let Some(name) = reader.member(is_first)? {
            is_first = false;
            match (name.decode(), Value::read(reader)?) {
                (Some(name), Some(value))
                    if members.len() < MAX_MEMBERS && members.iter().all(|(own, _)| *own != *name) =>
                {
                    members.push((name.into_owned(), value));
                }
                _ => is_sound = false,
            }
        }
        Ok(is_sound.then_some(Self(members)))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The text called `name`: `Ok(None)` when there is nothing of this name.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, NotOne> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(NotOne),
        }
    }

    /// The NumericDate called `name`, in whole milliseconds: `Ok(None)` when there is nothing of this name.
    pub(super) fn date(&self, name: &str) -> Result<Option<Timestamp>, NotOne> {
        let millis = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(seconds)) => seconds.thousandfold,
            Some(_) => None,
        };
        millis
            .filter(|millis| *millis <= MAX_MILLIS)
            .map(|millis| Some(Timestamp::from_millis(millis)))
            .ok_or(NotOne)
    }
}

/// A member is there and is not what it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotOne;

impl Value {
    /// Reads the next value to its end: `None` if it holds no value that can be read.
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Stop> {
        let value = reader.value()?;
        Ok(Some(match &value {
            json::Value::Text(text) => return Ok(text.decode().map(|text| Self::Text(text.into_owned()))),
            json::Value::Number(number) => {
                Self::Number(Number { text: number.text(), thousandfold: number.thousandfold() })
            }
            json::Value::Boolean(boolean) => Self::Boolean(*boolean),
            json::Value::List => {
                let (mut texts, mut is_first, mut is_sound, mut are_all) = (Vec::new(), true, true, true);
                while reader.element(is_first)? {
                    is_first = false;
                    match reader.value()? {
                        json::Value::Text(text) => match text.decode() {
                            Some(text) => texts.push(text.into_owned()),
                            None => is_sound = false,
                        },
                        other => {
                            reader.skip_rest(&other)?;
                            are_all = false;
                        }
                    }
                }
                let list = if are_all { Self::Texts(texts) } else { Self::Other };
                return Ok(is_sound.then_some(list));
            }
            json::Value::NotANumber => return Ok(None),
            json::Value::Null | json::Value::Object => {
                reader.skip_rest(&value)?;
                Self::Other
            }
        }))
    }
}

/// As a policy and a set of keys hold one.
impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members: Vec<(String, Value)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.iter().any(|(own, _)| *own == name) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("more than 128 members"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.into()))
            }

            // Nothing of a key is a number or a boolean.
            fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut texts = Some(Vec::new());
                while let Some(value) = list.next_element()? {
                    match (value, &mut texts) {
                        (Value::Text(text), Some(texts)) => texts.push(text),
                        _ => texts = None,
                    }
                }
                Ok(texts.map_or(Value::Other, Value::Texts))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Object { .. }")
    }
}

/// Names are looked for one by one, so that there must not be many.
const MAX_MEMBERS: usize = 128;
/// How deep members may be that nobody reads.
const MAX_DEPTH: usize = 127;
/// The end of the year 9999. A time in milliseconds is later than that: refused, where it would mean a token for ever.
const MAX_MILLIS: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;

    fn date(json: &str) -> Option<u64> {
        let object = Object::parse(format!("{{\"exp\": {json}}}").as_bytes()).unwrap();
        object.date("exp").ok().flatten().map(Timestamp::as_millis)
    }

    #[test]
    fn dates_are_seconds_with_or_without_a_fraction() {
        for (json, millis) in [
            ("0", 0),
            ("1300819380", 1_300_819_380_000),
            ("1300819380.5", 1_300_819_380_500),
            ("1300819380.0", 1_300_819_380_000),
            ("1.30081938e9", 1_300_819_380_000),
            ("0.001953125", 1),
            ("1e-300", 0),
            ("5e-324", 0),
            ("253402300799", 253_402_300_799_000),
            ("253402300799.0", 253_402_300_799_000),
        ] {
            assert_eq!(date(json), Some(millis), "{json}");
        }
    }

    #[test]
    fn what_is_out_of_range_or_no_number_is_no_date() {
        for json in [
            "-1",
            "-0.5",
            "253402300800",
            "253402300800.0",
            "1800000000000",
            "1e17",
            "1e300",
            "18446744073709551615",
            "18446744073709551616",
            "\"1300819380\"",
            "null",
            "true",
            "[1300819380]",
        ] {
            assert_eq!(date(json), None, "{json}");
        }
    }

    #[test]
    fn names_stand_once_however_they_are_written() {
        for json in [r#"{"a": 1, "a": 1}"#, r#"{"a": 1, "b": {}, "\u0061": 2}"#, r#"{"": 0, "": 0}"#] {
            assert!(Object::parse(json.as_bytes()).is_none(), "{json}");
        }
        assert!(
            Object::parse(br#"{"a": {"a": 1, "a": 2}, "b": [{"a": 1}]}"#).is_some(),
            "nobody reads these"
        );
    }

    #[test]
    fn an_object_is_all_there_is() {
        for json in [
            "",
            "[]",
            "null",
            "\"a\"",
            "{} {}",
            "{}x",
            "\u{feff}{}",
            "{\"a\": 01}",
            "{'a': 1}",
            "{\"a\": 1,}",
            "{\"a\": NaN}",
            "{\"a\": \"\\ud800\"}",
        ] {
            assert!(Object::parse(json.as_bytes()).is_none(), "{json}");
        }
        assert!(Object::parse(b"{\"a\": {\"b\": \"\xff\"}}").is_none());
        assert!(Object::parse(b" {\r\n} ").is_some());
        assert!(Object::parse(b"{\"a\": 1e400}").is_some(), "nobody reads it");
    }

    #[test]
    fn members_are_bounded() {
        let of = |count: usize| {
            let members: Vec<String> = (0..count).map(|number| format!("\"{number}\": 0")).collect();
            Object::parse(format!("{{{}}}", members.join(",")).as_bytes())
        };
        assert!(of(MAX_MEMBERS).is_some());
        assert!(of(MAX_MEMBERS + 1).is_none());
    }

    proptest! {
        #[test]
        fn decimals_are_what_they_say(millis in 0..MAX_MILLIS) {
            let read = date(&format!("{}.{:03}", millis / 1000, millis % 1000)).unwrap();
            prop_assert_eq!(read, millis);
        }
    }
}
