//! Bodies of requests: which action they ask for.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer};

use super::Verb;
use crate::by_name::{Action, Revoked};
use crate::circuit_breaker::Force;
use crate::config::{self, ConfigError};
use crate::id::Holder;
use crate::time::Span;

/// All fields that a body may have. One form for all verbs: a reader for each would be most of what the control path weighs.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
struct Body {
    #[serde(deserialize_with = "given")]
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    key: Option<Vec<String>>,
    #[serde(rename = "for", deserialize_with = "given")]
    time: Option<Span>,
    #[serde(deserialize_with = "given")]
    holder: Option<Holder>,
    #[serde(deserialize_with = "given")]
    lease: Option<Span>,
    #[serde(deserialize_with = "given")]
    token: Option<String>,
    #[serde(deserialize_with = "given")]
    jti: Option<String>,
    #[serde(deserialize_with = "given")]
    subject: Option<String>,
    #[serde(deserialize_with = "given")]
    issuer: Option<String>,
}

/// What may be left out is no `null` either: whoever sends one may have lost what he wanted to send.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

crate::from_object!(Body);

/// Reads the body of a request and has `act` do what it asks for.
///
/// # Errors
/// The first field that is unknown, missing, or not what it has to be.
pub(super) fn read<T>(verb: Verb, json: &[u8], act: impl FnOnce(&Action<'_>) -> T) -> Result<T, ConfigError> {
    let body: Body = config::parse(json)?;
    body.has_only(fields(verb))?;
    let name = || required("name", body.name.as_deref());
    let texts: Vec<&str> = body.key.iter().flatten().map(String::as_str).collect();
    let (key, holder, lease) = (&texts[..], body.holder, body.lease);
    Ok(act(&match verb {
        Verb::InspectLimit => Action::InspectLimit { name: name()?, key },
        Verb::ResetLimit => Action::ResetLimit { name: name()?, key },
        Verb::Forget => Action::Forget { name: name()?, key },
        Verb::OpenBreaker => {
            Action::SetBreaker { name: name()?, to: Force::Open(required("for", body.time)?) }
        }
        Verb::CloseBreaker => Action::SetBreaker { name: name()?, to: Force::Closed },
        Verb::AcquireLock => Action::Acquire { name: name()?, key, holder, lease },
        Verb::ExtendLock => Action::Extend { name: name()?, key, holder: required("holder", holder)?, lease },
        Verb::ReleaseLock => Action::Release { name: name()?, key, holder: required("holder", holder)? },
        Verb::Mark => Action::Mark { name: name()?, key, holder },
        Verb::InspectBreaker => Action::InspectBreaker { name: name()? },
        Verb::Revoke => Action::Revoke(body.revoked()?),
    }))
}

/// The fields that a body may have.
const fn fields(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::InspectLimit | Verb::ResetLimit | Verb::Forget => &["name", "key"],
        Verb::InspectBreaker | Verb::CloseBreaker => &["name"],
        Verb::OpenBreaker => &["name", "for"],
        Verb::AcquireLock | Verb::ExtendLock => &["name", "key", "holder", "lease"],
        Verb::ReleaseLock | Verb::Mark => &["name", "key", "holder"],
        Verb::Revoke => &["token", "jti", "subject", "issuer"],
    }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or_else(|| ConfigError::new("", format!("no `{field}`"), "one, it is required"))
}

impl Body {
    /// The names of its fields.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("name", self.name.is_some()),
            ("key", self.key.is_some()),
            ("for", self.time.is_some()),
            ("holder", self.holder.is_some()),
            ("lease", self.lease.is_some()),
            ("token", self.token.is_some()),
            ("jti", self.jti.is_some()),
            ("subject", self.subject.is_some()),
            ("issuer", self.issuer.is_some()),
        ];
        fields.into_iter().filter_map(|(name, is_given)| is_given.then_some(name))
    }

    fn has_only(&self, fields: &[&str]) -> Result<(), ConfigError> {
        match self.given().find(|name| !fields.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let expected = format!("one of {}", quoted(fields, ", "));
                Err(ConfigError::new(name, format!("unknown field `{name}`"), expected))
            }
        }
    }

    fn revoked(&self) -> Result<Revoked<'_>, ConfigError> {
        let issuer = self.issuer.as_deref();
        match (self.token.as_deref(), self.jti.as_deref(), self.subject.as_deref()) {
            (Some(token), None, None) if issuer.is_none() => Ok(Revoked::Token(token)),
            (None, Some(id), None) => Ok(Revoked::Id { issuer, id }),
            (None, None, Some(subject)) => Ok(Revoked::Subject { issuer, subject }),
            _ => {
                let given: Vec<&str> = self.given().collect();
                let found = if given.is_empty() { "none of them".into() } else { quoted(&given, " and ") };
                let expected = "`token` alone, or `jti` or `subject`, with `issuer` if tokens name theirs";
                Err(ConfigError::new("", found, expected))
            }
        }
    }
}

fn quoted(names: &[&str], between: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(between)
}
