//! Conditions of a route: methods, paths, hosts, header fields.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::names::text_type;
use super::{CostConfig, HeaderCost, HeaderName};
use crate::path::{Path, PathRules};
use crate::request::is_method;

/// A method, in capitals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

impl Method {
    /// Reads a method: 1 to 32 capitals, digits or hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(text.into()))
    }

    /// The method as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request with the method `sent` is meant.
    pub fn includes(&self, sent: &[u8]) -> bool {
        is_method(sent, &self.0)
    }
}

/// A path pattern as written; see [`PathPattern`].
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: String,
    segments: Vec<PatternSegment>,
    prefix: bool,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternSegment {
    /// This text, in normal form.
    Literal(Vec<u8>),
    /// Any one segment.
    Any,
}

impl PathPattern {
    /// Reads a pattern: `/exact`, `/prefix/*`, `/a/*/b`, `/*`.
    ///
    /// Percent-encoding is undone as in requests. Refused: no leading slash, empty or dot segments, a trailing slash,
    /// `*` as a part of a segment, a query, path parameters (`%3B` too), more than 512 bytes or 32 segments.
    pub fn parse(text: &str, rules: PathRules) -> Option<Self> {
        let rest = text.strip_prefix('/').filter(|_| text.len() <= 512)?;
        if text.contains(['?', '#', ';', '\\']) {
            return None;
        }
        let mut written: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        let prefix = written.last() == Some(&"*");
        if prefix {
            written.pop();
        }
        if written.len() > 32 {
            return None;
        }
        let segments =
            written.into_iter().map(|segment| parse_segment(segment, rules)).collect::<Option<_>>()?;
        Some(Self { text: text.into(), segments, prefix })
    }

    /// The same pattern under other rules.
    #[must_use]
    pub fn with_rules(&self, rules: PathRules) -> Self {
        Self::parse(&self.text, rules).unwrap_or_else(|| self.clone())
    }

    /// The segments, without the `*` that ends a prefix.
    pub fn segments(&self) -> &[PatternSegment] {
        &self.segments
    }

    /// Whether everything below the segments matches, and they themselves.
    pub fn is_prefix(&self) -> bool {
        self.prefix
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn parse_segment(text: &str, rules: PathRules) -> Option<PatternSegment> {
    if text == "*" {
        return Some(PatternSegment::Any);
    }
    if text.contains('*') {
        return None;
    }
    // A literal must be one segment in normal form too, or it could never match.
    let path = Path::normalize(&[b"/", text.as_bytes()].concat(), rules);
    if path.has_parameters() {
        return None;
    }
    let mut segments = path.segments();
    match (segments.next(), segments.next()) {
        (Some(segment), None) => Some(PatternSegment::Literal(segment.into())),
        _ => None,
    }
}

/// A host condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name.
    Exact(String),
    /// Every name that ends in a dot and this one.
    Subdomains(String),
}

impl HostPattern {
    /// Reads `api.example.com` or `*.example.com`, in any case, without port.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let bracketed = name.starts_with('[') && name.ends_with(']');
        let fits = (1..=253).contains(&name.len())
            && !name.ends_with('.')
            && name.bytes().all(|b| {
                b.is_ascii_alphanumeric()
                    || matches!(b, b'.' | b'-' | b'_')
                    || (bracketed && b"[]:".contains(&b))
            });
        let lower = name.to_ascii_lowercase();
        fits.then_some(if name.len() == text.len() { Self::Exact(lower) } else { Self::Subdomains(lower) })
    }
}

/// A condition on a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    /// One of its lines is this text.
    Equals(String),
    /// It is there, with any value.
    Present,
    /// It is not there.
    Absent,
}

impl<'de> Deserialize<'de> for HeaderCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Condition;
        impl Visitor<'_> for Condition {
            type Value = HeaderCondition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the value to equal (a text of at most 1024 bytes), true (present) or false (absent)",
                )
            }

            fn visit_bool<E: Error>(self, present: bool) -> Result<HeaderCondition, E> {
                Ok(if present { HeaderCondition::Present } else { HeaderCondition::Absent })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<HeaderCondition, E> {
                if text.len() > 1024 {
                    return Err(E::invalid_value(Unexpected::Other("a longer text"), &self));
                }
                // Lines are compared without the space around them, so such a condition would never hold.
                if text.trim_ascii() != text || text.chars().any(|c| c.is_control() && c != '\t') {
                    let expected = "what a field can say: no space around it and no control characters";
                    return Err(E::invalid_value(Unexpected::Str(text), &expected));
                }
                Ok(HeaderCondition::Equals(text.into()))
            }
        }
        deserializer.deserialize_any(Condition)
    }
}

/// Reads conditions by field name. Of a name that stands there twice, in whatever case, the second would silently
/// take the place of the first.
pub(super) fn header_conditions<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<HeaderName, HeaderCondition>, D::Error> {
    struct Conditions;
    impl<'de> Visitor<'de> for Conditions {
        type Value = BTreeMap<HeaderName, HeaderCondition>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object such as {\"x-debug\": true}")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut conditions = BTreeMap::new();
            while let Some((name, condition)) = map.next_entry::<HeaderName, HeaderCondition>()? {
                if conditions.contains_key(&name) {
                    let found = format!("`{}` twice", name.as_str());
                    return Err(A::Error::invalid_value(
                        Unexpected::Other(&found),
                        &"each name once, in whatever case",
                    ));
                }
                conditions.insert(name, condition);
            }
            Ok(conditions)
        }
    }
    deserializer.deserialize_map(Conditions)
}

impl<'de> Deserialize<'de> for CostConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cost;
        impl<'de> Visitor<'de> for Cost {
            type Value = CostConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a whole number from 1, or an object such as {\"header\": \"x-cost\", \"max\": 10}",
                )
            }

            fn visit_u64<E: Error>(self, cost: u64) -> Result<CostConfig, E> {
                let cost = core::num::NonZeroU64::new(cost)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(cost), &self))?;
                Ok(CostConfig::Fixed(cost))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CostConfig, A::Error> {
                let object = serde::de::value::MapAccessDeserializer::new(map);
                HeaderCost::deserialize(object).map(CostConfig::Header)
            }
        }
        deserializer.deserialize_any(Cost)
    }
}

text_type!(Method, "Method", "a method in capitals such as \"POST\"", Method::parse);
text_type!(
    PathPattern,
    "PathPattern",
    "a path such as \"/login\", \"/api/*\" (the prefix and all below it) or \"/users/*/orders\" (one segment): \
     it starts with /, does not end in /, and has no empty or dot segment, no query or `;`, and * only as a whole segment",
    |text| PathPattern::parse(text, PathRules::default())
);
text_type!(
    HostPattern,
    "HostPattern",
    "a host such as \"api.example.com\" or \"*.example.com\", without port",
    HostPattern::parse
);

#[cfg(feature = "schema")]
impl schemars::JsonSchema for HeaderCondition {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "HeaderCondition".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "boolean"],
            "maxLength": 1024,
            "description": "The value to equal, true (present) or false (absent)."
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CostConfig {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Cost".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let header = generator.subschema_for::<HeaderCost>();
        schemars::json_schema!({
            "description": "What one request consumes: a number, or what a header field says.",
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 1_000_000_000 }, header]
        })
    }
}
