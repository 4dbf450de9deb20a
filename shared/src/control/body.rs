//! Bodies of requests: which action they ask for.

use alloc::string::String;
use alloc::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::Verb;
use crate::by_name::{Action, Revoked};
use crate::circuit_breaker::Force;
use crate::config::{self, ConfigError};
use crate::id::Holder;
use crate::time::Span;

/// A limit or guard, and for whom.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Subject {
    name: String,
    #[serde(default)]
    key: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Breaker {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Open {
    name: String,
    #[serde(rename = "for")]
    time: Span,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Acquire {
    name: String,
    #[serde(default)]
    key: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    holder: Option<Holder>,
    #[serde(default, deserialize_with = "given")]
    lease: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Extend {
    name: String,
    #[serde(default)]
    key: Vec<String>,
    holder: Holder,
    #[serde(default, deserialize_with = "given")]
    lease: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Release {
    name: String,
    #[serde(default)]
    key: Vec<String>,
    holder: Holder,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Mark {
    name: String,
    #[serde(default)]
    key: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    holder: Option<Holder>,
}

/// One of `token`, `jti` and `subject`; the issuer belongs to the latter two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct Revoke {
    #[serde(default, deserialize_with = "given")]
    token: Option<String>,
    #[serde(default, deserialize_with = "given")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "given")]
    subject: Option<String>,
    #[serde(default, deserialize_with = "given")]
    issuer: Option<String>,
}

/// What may be left out is no `null` either: whoever sends one may have lost what he wanted to send.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

crate::from_object!(Subject, Breaker, Open, Acquire, Extend, Release, Mark, Revoke);

/// Reads the body of a request and has `act` do what it asks for.
///
/// # Errors
/// The first field that is unknown, missing, or not what it has to be.
pub(super) fn read<T>(verb: Verb, json: &[u8], act: impl FnOnce(&Action<'_>) -> T) -> Result<T, ConfigError> {
    match verb {
        Verb::InspectLimit | Verb::ResetLimit | Verb::Forget => {
            let Subject { name, key } = parse(json)?;
            let (name, key) = (name.as_str(), &texts(&key)[..]);
            Ok(act(&match verb {
                Verb::InspectLimit => Action::InspectLimit { name, key },
                Verb::ResetLimit => Action::ResetLimit { name, key },
                _ => Action::Forget { name, key },
            }))
        }
        Verb::OpenBreaker => {
            let Open { name, time } = parse(json)?;
            Ok(act(&Action::SetBreaker { name: &name, to: Force::Open(time) }))
        }
        Verb::CloseBreaker => {
            let Breaker { name } = parse(json)?;
            Ok(act(&Action::SetBreaker { name: &name, to: Force::Closed }))
        }
        Verb::AcquireLock => {
            let Acquire { name, key, holder, lease } = parse(json)?;
            Ok(act(&Action::Acquire { name: &name, key: &texts(&key), holder, lease }))
        }
        Verb::ExtendLock => {
            let Extend { name, key, holder, lease } = parse(json)?;
            Ok(act(&Action::Extend { name: &name, key: &texts(&key), holder, lease }))
        }
        Verb::ReleaseLock => {
            let Release { name, key, holder } = parse(json)?;
            Ok(act(&Action::Release { name: &name, key: &texts(&key), holder }))
        }
        Verb::Mark => {
            let Mark { name, key, holder } = parse(json)?;
            Ok(act(&Action::Mark { name: &name, key: &texts(&key), holder }))
        }
        Verb::Revoke => {
            let body: Revoke = parse(json)?;
            Ok(act(&Action::Revoke(body.revoked()?)))
        }
        Verb::InspectBreaker => {
            let Breaker { name } = parse(json)?;
            Ok(act(&Action::InspectBreaker { name: &name }))
        }
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ConfigError> {
    config::parse(json)
}

fn texts(key: &[String]) -> Vec<&str> {
    key.iter().map(String::as_str).collect()
}

impl Revoke {
    fn revoked(&self) -> Result<Revoked<'_>, ConfigError> {
        let issuer = self.issuer.as_deref();
        match (self.token.as_deref(), self.jti.as_deref(), self.subject.as_deref()) {
            (Some(token), None, None) if issuer.is_none() => Ok(Revoked::Token(token)),
            (None, Some(id), None) => Ok(Revoked::Id { issuer, id }),
            (None, None, Some(subject)) => Ok(Revoked::Subject { issuer, subject }),
            _ => {
                let fields = [
                    ("`token`", &self.token),
                    ("`jti`", &self.jti),
                    ("`subject`", &self.subject),
                    ("`issuer`", &self.issuer),
                ];
                let given: Vec<&str> =
                    fields.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect();
                let found = if given.is_empty() { "none of them".into() } else { given.join(" and ") };
                let expected = "`token` alone, or `jti` or `subject`, with `issuer` if tokens name theirs";
                Err(ConfigError::new("", found, expected))
            }
        }
    }
}
