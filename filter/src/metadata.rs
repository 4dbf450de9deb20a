//! What Envoy's `jwt_authn` says of the token that it has verified, in the dynamic metadata of the request.
//!
//! No client can write there, and a request that `jwt_authn` let through without verifying anything has no entry.
//!
//! Envoy gives all metadata as one protobuf message, `envoy.config.core.v3.Metadata`; single values of it are given without
//! their types. This reads the little of protobuf's wire format that such a message has: a library that reads all of it
//! makes the filter larger by a twentieth.

use serde_json::{Map, Number, Value};

/// The claims that `jwt_authn` has put under `name` in serialised metadata, as JSON; `None` if there are none.
pub(crate) fn jwt_payload(metadata: &[u8], name: &str) -> Option<String> {
    let of_filter = entry(metadata, JWT_AUTHN)?;
    Some(value(entry(of_filter, name)?, DEEPEST)?.to_string())
}

/// The value under `name` in a message whose first field is a map.
fn entry<'a>(mut message: &'a [u8], name: &str) -> Option<&'a [u8]> {
    while !message.is_empty() {
        if let (1, Payload::Bytes(entry)) = field(&mut message)?
            && let (key, value) = pair(entry)?
            && key == name.as_bytes()
        {
            return Some(value);
        }
    }
    None
}

/// Key and value of an entry of a map.
fn pair(mut entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut key, mut value) = (&[][..], &[][..]);
    while !entry.is_empty() {
        match field(&mut entry)? {
            (1, Payload::Bytes(bytes)) => key = bytes,
            (2, Payload::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Some((key, value))
}

/// A `google.protobuf.Value`, which may hold others, so many deep.
fn value(mut message: &[u8], deepest: u32) -> Option<Value> {
    let deepest = deepest.checked_sub(1)?;
    let mut found = Value::Null;
    while !message.is_empty() {
        found = match field(&mut message)? {
            (2, Payload::Fixed(bits)) => number(f64::from_bits(bits)),
            (3, Payload::Bytes(text)) => Value::String(String::from_utf8(text.to_vec()).ok()?),
            (4, Payload::Varint(boolean)) => Value::Bool(boolean != 0),
            (5, Payload::Bytes(members)) => object(members, deepest)?,
            (6, Payload::Bytes(list)) => array(list, deepest)?,
            _ => Value::Null,
        };
    }
    Some(found)
}

/// A `google.protobuf.Struct`.
fn object(mut message: &[u8], deepest: u32) -> Option<Value> {
    let mut members = Map::new();
    while !message.is_empty() {
        if let (1, Payload::Bytes(entry)) = field(&mut message)? {
            let (name, member) = pair(entry)?;
            members.insert(String::from_utf8(name.to_vec()).ok()?, value(member, deepest)?);
        }
    }
    Some(Value::Object(members))
}

/// A `google.protobuf.ListValue`.
fn array(mut message: &[u8], deepest: u32) -> Option<Value> {
    let mut values = Vec::new();
    while !message.is_empty() {
        if let (1, Payload::Bytes(element)) = field(&mut message)? {
            values.push(value(element, deepest)?);
        }
    }
    Some(Value::Array(values))
}

/// Metadata has floating point numbers alone. A whole number of 2⁵³ or more may have been another one in the token, so that two
/// subjects could not be told apart: it is no claim.
#[allow(
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    reason = "a whole number below 2⁵³ loses nothing"
)]
fn number(number: f64) -> Value {
    if number.is_nan() || number.abs() >= EXACT {
        Value::Null
    } else if number == number.trunc() {
        Value::from(number as i64)
    } else {
        Number::from_f64(number).map_or(Value::Null, Value::Number)
    }
}

/// What a field holds.
enum Payload<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
    /// Of a type that is not needed here.
    Other,
}

/// Takes the first field off a message: its number, and what it holds.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Payload<'a>)> {
    let tag = varint(message)?;
    let payload = match tag & 7 {
        0 => Payload::Varint(varint(message)?),
        1 => Payload::Fixed(u64::from_le_bytes(take(message, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(message)?).ok()?;
            Payload::Bytes(take(message, length)?)
        }
        5 => take(message, 4).map(|_| Payload::Other)?,
        _ => return None,
    };
    Some((tag >> 3, payload))
}

/// Takes a number off the front: seven bits in each byte, the lowest first, as long as the eighth is set.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let byte = *take(bytes, 1)?.first()?;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// 2⁵³: every whole number below has a floating point number of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// How deep values may lie in others, so that no token exhausts the stack.
const DEEPEST: u32 = 64;
