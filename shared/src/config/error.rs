//! Configuration errors: the path, what was found, what was expected.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::de::DeserializeOwned;

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, such as `routes[0].rate_limits[1].window`; empty for the whole file.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// What must stand there, with the fix where it is known.
    pub expected: String,
}

impl ConfigError {
    /// An error at `path`. `path` and `found` may quote the configuration: what would not print in one line is escaped, and
    /// what would fill a page is cut.
    pub fn new(path: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { path: in_one_line(&path.into()), found: in_one_line(&found.into()), expected: expected.into() }
    }

    /// The same error, of something that stands at `place`.
    #[must_use]
    pub fn below(mut self, place: &str) -> Self {
        self.path = match (place, self.path.as_str()) {
            ("", _) => self.path,
            (_, "") => place.to_string(),
            (_, path) => format!("{place}.{path}"),
        };
        self
    }

    fn from_serde(path: &str, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let message = text.rfind(" at line ").and_then(|at| text.get(..at)).unwrap_or(&text);
        // serde words its messages alike: `invalid type: FOUND, expected EXPECTED` and the like.
        if let Some(field) = message.strip_prefix("missing field ") {
            return Self::new(path, format!("no {field}"), "one, it is required");
        }
        if message.starts_with("duplicate field ") {
            return Self::new(path, message, "it only once");
        }
        let kinds = ["invalid type: ", "invalid value: "];
        let message = kinds.iter().find_map(|kind| message.strip_prefix(kind)).unwrap_or(message);
        match message.split_once(", expected ") {
            Some((found, expected)) => Self::new(path, in_json_words(found), in_json_words(expected)),
            None => Self::new(path, message, "something else here"),
        }
    }
}

fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(4 * MAX_QUOTED));
    for character in text.chars().take(MAX_QUOTED) {
        match character {
            '"' | '\'' | '\\' => line.push(character),
            _ => line.extend(character.escape_debug()),
        }
    }
    if text.chars().nth(MAX_QUOTED).is_some() {
        line.push('…');
    }
    line
}

/// serde speaks to programmers; who writes a policy knows the words of JSON.
fn in_json_words(phrase: &str) -> &str {
    match phrase {
        "map" | "a map" => "an object",
        "sequence" | "a sequence" => "a list",
        "a string" => "a text",
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a nonzero u8" => "a whole number from 1 to 255",
        "a nonzero u16" => "a whole number from 1 to 65535",
        "a nonzero u32" | "a nonzero u64" => "a whole number from 1",
        _ => {
            let kinds = ["integer ", "floating point ", "boolean ", "string ", "unknown variant "];
            kinds.iter().find_map(|kind| phrase.strip_prefix(kind)).unwrap_or(phrase)
        }
    }
}

/// Reads a type from a JSON object and from nothing else. serde's derived readers take a list too, field by field, so
/// that a policy of `[]` would be one that limits nothing.
///
/// The type derives `Deserialize` with `#[serde(remote = "Self")]`, and this implements the trait on top of it.
#[macro_export]
macro_rules! from_object {
    ($($type:ty),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        <$type>::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }
    )+};
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

impl core::error::Error for ConfigError {}

/// Reads a configuration from JSON. A byte order mark in front is passed over, as RFC 8259 §8.1 allows.
///
/// # Errors
/// The first field that is unknown, missing, or not what its type asks for.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ConfigError> {
    if json.len() > super::MAX_POLICY_BYTES {
        let found = format!("{} bytes", json.len());
        return Err(ConfigError::new("", found, "at most 1 MiB of JSON"));
    }
    let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
    serde_json::from_slice(json).map_err(|error| {
        let lines = json.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
        // Of JSON that is none, the reader names the byte that it cannot go on with, which it has not read.
        let column = error.column().saturating_sub(usize::from(error.is_syntax()));
        let read = lines.map(<[u8]>::len).sum::<usize>().saturating_add(column);
        if error.is_data() {
            return ConfigError::from_serde(&path(json, read), &error);
        }
        ConfigError::new(path(json, read), format!("what cannot be read ({error})"), readable(json, read))
    })
}

/// What was expected of a text that is no JSON from its byte number `read` on, in words that help with
/// what people write instead.
fn readable(json: &[u8], read: usize) -> &'static str {
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    match (json.trim_ascii_start().first(), json.get(read)) {
        (None, _) => "an object of JSON instead of nothing",
        _ if json.iter().any(is_control) => {
            "JSON as text; Envoy hands over a `google.protobuf.StringValue` as that, and a `Struct` in binary"
        }
        (_, Some(b'/' | b'#')) => "valid JSON, which has no comments",
        (Some(b'{' | b'[' | b'"'), _) => "valid JSON",
        _ => "valid JSON, which YAML is not",
    }
}

/// The path of what a reader of JSON was at when it gave up after `read` bytes. Following the reader along the way would
/// make another copy of it for each type that is read, and a third of the code of a small host.
fn path(json: &[u8], read: usize) -> String {
    let mut places: Vec<Place<'_>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = json.get(at).filter(|_| at < read) {
        let rest = json.get(at..).unwrap_or_default();
        let mut length = 1;
        match byte {
            b'{' => places.push(Place::Key(None)),
            b'[' => places.push(Place::Index(0)),
            b'}' | b']' => drop(places.pop()),
            b',' => match places.last_mut() {
                Some(Place::Key(key)) => *key = None,
                Some(Place::Index(index)) => *index += 1,
                None => {}
            },
            b'"' => {
                length = text_length(rest);
                if let Some(Place::Key(key @ None)) = places.last_mut() {
                    *key = rest.get(..length);
                }
            }
            _ => {}
        }
        at += length;
    }
    let mut path = String::new();
    for place in places {
        match place {
            Place::Index(index) => path.push_str(&format!("[{index}]")),
            Place::Key(None) => {}
            Place::Key(Some(key)) => {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(&serde_json::from_slice::<String>(key).unwrap_or_default());
            }
        }
    }
    path
}

/// Where a reader is within an object, by its key, or within a list.
enum Place<'a> {
    Key(Option<&'a [u8]>),
    Index(usize),
}

/// How long the text is that `json` begins with, quotes included.
fn text_length(json: &[u8]) -> usize {
    let mut escaped = false;
    let end = json.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Most characters of a path or a finding.
const MAX_QUOTED: usize = 400;
