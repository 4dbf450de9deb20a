//! Names: of routes and limits, of header fields, of the parts of a key.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ClientIpSource, Sent};

/// The name of a route, a limit or a tag: 1 to 64 of `A-Z a-z 0-9 . _ -`.
///
/// Names stand in store keys, header fields and metrics, so they hold nothing that needs quoting there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        fits.then(|| Self(text.into()))
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a header field, in lower case: 1 to 64 token characters (RFC 9110 §5.6.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderName(String);

impl HeaderName {
    /// Reads a field name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One part of what tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart {
    /// The client's address, see [`ClientIp`](crate::client_ip::ClientIp).
    ClientIp,
    /// The method.
    Method,
    /// The path in normal form.
    Path,
    /// The route's name, which tells apart the routes that share a limit.
    Route,
    /// A header field.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
    /// A claim of the request's token.
    Claim(String),
    /// A value in the request's body, JSON, by its pointer (RFC 6901).
    Body(String),
    /// A text of the policy's own: one counter for everybody.
    Const(String),
    /// What a part says, in small letters; the part is one that holds a text of the client's.
    Lower(Box<KeyPart>),
}

impl KeyPart {
    /// Reads `client_ip`, `method`, `path`, `route`, `header:NAME`, `cookie:NAME`, `query:NAME`, `claim:NAME`, `body:/POINTER`,
    /// `const:TEXT`, and `lower:` in front of any of these but `client_ip`, `route` and `const:`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once(':') {
            None => match text {
                "client_ip" => Self::ClientIp,
                "method" => Self::Method,
                "path" => Self::Path,
                "route" => Self::Route,
                _ => return None,
            },
            Some(("header", name)) => Self::Header(HeaderName::parse(name)?),
            Some(("cookie", name)) if is_token(name) => Self::Cookie(name.to_owned()),
            Some(("query", name)) if (1..=64).contains(&name.len()) => Self::Query(name.to_owned()),
            Some(("claim", name)) if (1..=64).contains(&name.len()) => Self::Claim(name.to_owned()),
            // An empty pointer is the whole body, which is no value that tells anybody apart.
            Some(("body", pointer))
                if pointer.starts_with('/') && pointer.len() <= 255 && is_escaped(pointer) =>
            {
                Self::Body(pointer.to_owned())
            }
            Some(("const", text)) if text.len() <= 256 => Self::Const(text.to_owned()),
            Some(("lower", part)) => match Self::parse(part)? {
                Self::ClientIp | Self::Route | Self::Const(_) | Self::Lower(_) => return None,
                part => Self::Lower(Box::new(part)),
            },
            Some(_) => return None,
        })
    }

    /// What is read of a request: the part itself, or the one whose letters are made small.
    pub fn source(&self) -> &Self {
        match self {
            Self::Lower(part) => part,
            part => part,
        }
    }
}

impl core::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client_ip"),
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Route => f.write_str("route"),
            Self::Header(name) => write!(f, "header:{}", name.as_str()),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Claim(name) => write!(f, "claim:{name}"),
            Self::Body(pointer) => write!(f, "body:{pointer}"),
            Self::Const(text) => write!(f, "const:{text}"),
            Self::Lower(part) => write!(f, "lower:{part}"),
        }
    }
}

/// Whether each `~` of a pointer is one of the two escapes (RFC 6901 §3): with another one it would lead nowhere.
fn is_escaped(pointer: &str) -> bool {
    pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

pub(super) fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads a value from a text that `parse` understands; `expected` is what an error says it must be.
pub(crate) struct Text<T> {
    pub(crate) expected: &'static str,
    pub(crate) parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Implements `Deserialize` for a text type by way of [`Text`], and its schema.
macro_rules! text_type {
    ($type:ty, $schema:literal, $expected:expr, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::config::names::Text { expected: $expected, parse: $parse })
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> alloc::borrow::Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $expected })
            }
        }
    };
}
pub(super) use text_type;

text_type!(Sent, "Sent", "\"always\", \"refusals\" or \"never\"", Sent::parse);
text_type!(Name, "Name", "a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -", Name::parse);
text_type!(HeaderName, "HeaderName", "the name of a header field such as \"x-api-key\"", HeaderName::parse);
text_type!(
    KeyPart,
    "KeyPart",
    "a key part: client_ip, method, path, route, header:NAME, cookie:NAME, query:NAME, claim:NAME, \
     body:/POINTER or const:TEXT; lower: in front of one that holds text of the client's, as in lower:body:/email",
    KeyPart::parse
);
text_type!(
    ClientIpSource,
    "ClientIpSource",
    "\"connection\" or the name of a header field such as \"x-forwarded-for\"",
    |text| match text {
        "connection" => Some(ClientIpSource::Connection),
        name => HeaderName::parse(name).map(ClientIpSource::Header),
    }
);
