//! What a guard is told: its policy, and what is beside that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use tollgate_shared::config::store::{self, Remembered, StoreClock};
use tollgate_shared::config::{self, ConfigError, Name};
use tollgate_shared::jwt::{Jwks, JwtPolicy, Lookup};
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::time::Span;

use crate::host;

/// Where the store is and how it is asked, as the npm package is told; a Worker's variables come to the same.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase", remote = "Self")]
pub(crate) struct Settings {
    redis: Option<RedisSettings>,
    timeout: Option<Span>,
    clock: StoreClock,
    key_prefix: Option<Name>,
    replicas: Option<u32>,
    denial_cache: Option<u32>,
    denial_cache_max_age: Option<Span>,
    variables: BTreeMap<String, String>,
}

/// A Redis behind the Upstash dialect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct RedisSettings {
    url: String,
    token: String,
}

tollgate_shared::from_object!(Settings, RedisSettings);

/// Settings that are wrong.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Everything that is wrong with them.
    pub(crate) errors: Vec<ConfigError>,
    /// As far as they could be read: a policy asks for them too.
    pub(crate) variables: Variables,
}

/// The same, checked.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) store: Option<StoreSettings>,
    pub(crate) key_prefix: Option<Name>,
    /// Over how many instances a quota is split while the store fails.
    pub(crate) replicas: u32,
    pub(crate) remembered: Remembered,
    /// What policies name secrets by.
    pub(crate) variables: Variables,
}

/// Variables by their names.
#[derive(Clone, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// Without the secrets.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where the store is and how it is asked, checked.
#[derive(Clone, Debug)]
pub(crate) struct StoreSettings {
    /// Where pipelines are posted to.
    pub(crate) url: String,
    /// The value of `authorization`.
    pub(crate) authorization: String,
    /// How long a request may wait for it, in all.
    pub(crate) timeout: Duration,
    pub(crate) clock: StoreClock,
}

impl Settings {
    /// Reads settings from JSON.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn from_json(json: &str) -> Result<Checked, Refused> {
        match config::parse::<Self>(json.as_bytes()) {
            Ok(settings) => settings.checked(),
            Err(first) => Err(Self::refused(json, first)),
        }
    }

    /// Everything that is wrong with settings of which `first` is: reading stops there, so each is read by itself.
    fn refused(json: &str, first: ConfigError) -> Refused {
        let (mut errors, mut variables) = (Vec::new(), Variables::default());
        for (name, value) in serde_json::from_str::<Map<String, Value>>(json).unwrap_or_default() {
            let alone = Value::Object(Map::from_iter([(name, value)])).to_string();
            match config::parse::<Self>(alone.as_bytes()).map(Self::checked) {
                Ok(Ok(checked)) if checked.variables.0.is_empty() => {}
                Ok(Ok(checked)) => variables = checked.variables,
                Ok(Err(refused)) => errors.extend(refused.errors),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            errors.push(first);
        }
        Refused { errors, variables }
    }

    fn checked(self) -> Result<Checked, Refused> {
        let mut errors = Vec::new();
        let mut note = |error: ConfigError| errors.push(error);
        let timeout = store::timeout("timeout", self.timeout, DEFAULT_TIMEOUT).map_err(&mut note);
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        let store = self.redis.and_then(|RedisSettings { url, token }| {
            let url = pipeline_url(&url).map_err(&mut note).ok();
            let authorization = store::authorization("redis.token", &token).map_err(&mut note).ok();
            Some(StoreSettings { url: url?, authorization: authorization?, timeout, clock: self.clock })
        });
        let replicas = store::replicas("replicas", self.replicas).map_err(&mut note).unwrap_or(1);
        let variables = Variables(self.variables);
        if !errors.is_empty() {
            return Err(Refused { errors, variables });
        }
        let remembered = store::remembered(self.denial_cache, self.denial_cache_max_age);
        Ok(Checked { store, key_prefix: self.key_prefix, replicas, remembered, variables })
    }
}

/// Reads a policy; errors name paths below `name`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn policy(name: &str, json: &str, variables: Lookup<'_>) -> Result<Policy, Vec<ConfigError>> {
    let surroundings = Surroundings { variables, in_front: None, fetches: true };
    let policy = Policy::from_json_in(&surroundings, name, json.as_bytes())?;
    match policy.jwt().and_then(JwtPolicy::jwks).map(Jwks::url) {
        // Whoever is on the way there could put keys of his own in the place of these.
        Some(url) if !is_private(url) => {
            let expected = "`https://…`; `http://…` is for this machine, in development";
            Err(vec![ConfigError::new(format!("{name}.jwt.jwks.url"), quoted(url), expected)])
        }
        Some(url) if host::serialized(url).is_none() => {
            let error = ConfigError::new(format!("{name}.jwt.jwks.url"), quoted(url), "a URL");
            Err(vec![error])
        }
        _ => Ok(policy),
    }
}

/// Whether nobody on the way to a URL can read or change what comes from there.
fn is_private(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return true };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Where pipelines are posted to.
fn pipeline_url(url: &str) -> Result<String, ConfigError> {
    let base = base_url(url).ok_or_else(|| {
        let expected =
            "the REST URL of an Upstash database or of a gateway, such as `https://example.upstash.io`";
        ConfigError::new("redis.url", quoted(url), expected)
    })?;
    Ok(format!("{base}/pipeline"))
}

/// A URL that paths can be put behind, without a slash at its end, as the runtime writes it; one for HTTP that has no credentials, query or
/// fragment.
pub(crate) fn base_url(url: &str) -> Option<String> {
    let has_scheme =
        |scheme: &&str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let scheme = ["https://", "http://"].into_iter().find(has_scheme)?;
    let rest = url.get(scheme.len()..)?;
    let is_plain = rest.bytes().all(|byte| byte.is_ascii_graphic()) && !rest.contains(['?', '#', '@', '\\']);
    if !is_plain || rest.is_empty() || rest.starts_with('/') {
        return None;
    }
    // Whether host and port are any, `fetch` knows.
    Some(host::serialized(url)?.trim_end_matches('/').to_owned())
}

/// A URL that is wrong, for an error. One that seems to have credentials is not shown.
pub(crate) fn quoted(url: &str) -> String {
    if url.contains('@') { "a URL with credentials (not shown)".to_owned() } else { format!("`{url}`") }
}

/// A round trip to a database in another part of the world, and some patience.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_where_nobody_can_change_them() {
        for url in [
            "https://a.example/k",
            "http://localhost:8/k",
            "http://127.0.0.1/k",
            "http://127.9.9.9?k",
            "http://[::1]:8/k",
        ] {
            assert!(is_private(url), "{url}");
        }
        for url in [
            "http://a.example/k",
            "http://localhost.a.example",
            "http://127.0.0.1.a.example/",
            "http://[::2]:8/k",
            "http://10.0.0.1/",
            "http://a.example/?http://localhost",
        ] {
            assert!(!is_private(url), "{url}");
        }
    }
}
