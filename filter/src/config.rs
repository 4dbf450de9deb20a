//! The plugin configuration: the policy, and where the store is.
//!
//! ```json
//! { "policy": { … }, "store": { "cluster": "tollgate_store", "token_env": "TOLLGATE_TOKEN" } }
//! ```

use serde::Deserialize;
use std::time::Duration;

use tollgate_shared::config::store::{self, Remembered, StoreClock, in_range};
use tollgate_shared::config::{self, ConfigError, Name, PolicyConfig, VerifiedBy};
use tollgate_shared::control::Control;
use tollgate_shared::jwt::MAX_JWKS_WAIT;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::time::Span;

/// What the plugin is configured with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct PluginConfig {
    policy: PolicyConfig,
    #[serde(default)]
    store: Option<StoreConfig>,
    #[serde(default)]
    control: Option<ControlConfig>,
    #[serde(default)]
    jwks: Option<JwksConfig>,
    #[serde(default)]
    read_bodies: bool,
    #[serde(default)]
    denial_cache: DenialCacheConfig,
}

/// Where the store is and how it is called. See the README for the meaning of each field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct StoreConfig {
    cluster: String,
    #[serde(default = "default_authority")]
    authority: String,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    token_env: Option<String>,
    #[serde(default)]
    timeout: Option<Span>,
    #[serde(default)]
    batch: Option<u16>,
    #[serde(default)]
    calls_in_flight: Option<u8>,
    #[serde(default)]
    clock: StoreClock,
    #[serde(default)]
    key_prefix: Option<Name>,
    #[serde(default)]
    replicas: Option<u32>,
}

/// How `jwt.jwks` of the policy is fetched.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct JwksConfig {
    cluster: String,
    #[serde(default)]
    timeout: Option<Span>,
}

/// Who gets to the control path, and where it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ControlConfig {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    token_env: Option<String>,
    #[serde(default)]
    prefix: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
struct DenialCacheConfig {
    keys: Option<u32>,
    max_age: Option<Span>,
}

tollgate_shared::from_object!(PluginConfig, StoreConfig, ControlConfig, JwksConfig, DenialCacheConfig);

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) policy: Policy,
    pub(crate) store: Option<Store>,
    pub(crate) control: Option<Control>,
    pub(crate) jwks: Option<Jwks>,
    /// Whether requests wait for their bodies where the policy goes by them.
    pub(crate) read_bodies: bool,
    /// What each worker thread remembers.
    pub(crate) remembered: Remembered,
}

/// How the store is called.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) endpoints: Endpoints,
    /// The value of `authorization`.
    pub(crate) authorization: String,
    /// How long a request may wait, from the moment it queues.
    pub(crate) timeout: Duration,
    /// Most operations in one call.
    pub(crate) batch: usize,
    /// Most calls under way at once, for each worker thread.
    pub(crate) calls_in_flight: usize,
    pub(crate) clock: StoreClock,
    /// Over how many instances a quota is split while the store fails.
    pub(crate) replicas: u32,
}

/// Where keys of tokens are fetched.
#[derive(Debug)]
pub(crate) struct Jwks {
    pub(crate) endpoint: Endpoint,
    pub(crate) path: String,
    pub(crate) timeout: Duration,
}

/// The REST endpoints of the store: one, for now.
#[derive(Debug)]
pub(crate) struct Endpoints {
    only: Endpoint,
}

/// Whom to call.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// An Envoy cluster.
    pub(crate) cluster: String,
    /// The value of `:authority`.
    pub(crate) authority: String,
}

impl Endpoints {
    /// The endpoint of the next call.
    pub(crate) fn choose(&self) -> &Endpoint {
        &self.only
    }
}

impl Plugin {
    /// Reads a plugin configuration; `variables` looks up an environment variable.
    pub(crate) fn from_json(
        json: &[u8],
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigError>> {
        let config: PluginConfig = config::parse(json).map_err(|error| vec![error])?;
        let surroundings = Surroundings { variables, in_front: Some(VerifiedBy::Envoy), fetches: true };
        let mut policy = Policy::compile(config.policy, "policy.", Some(&surroundings))?;
        let reader = match policy.route_with_body_keys() {
            Some(route) => Some(format!("a key with `body:` on the route `{}`", route.name())),
            None => config.control.as_ref().map(|_| "`control`, whose requests have bodies".to_owned()),
        };
        if let Some(reader) = reader
            && !config.read_bodies
        {
            let found = format!("`false`, and {reader}");
            let expected =
                "`true`, and `allow_on_headers_stop_iteration` in Envoy's own configuration of the plugin";
            return Err(vec![ConfigError::new("read_bodies", found, expected)]);
        }
        let store = match config.store {
            None => None,
            Some(store) => {
                if let Some(prefix) = &store.key_prefix {
                    policy = policy.with_key_prefix(prefix);
                }
                Some(Store::new(store, variables).map_err(|error| vec![error])?)
            }
        };
        let control = config.control.map(|control| control.opened(variables)).transpose();
        let control = control.map_err(|error| vec![error])?;
        let jwks = Jwks::new(config.jwks, &policy).map_err(|error| vec![error])?;
        let DenialCacheConfig { keys, max_age } = config.denial_cache;
        let remembered = store::remembered(keys, max_age);
        Ok(Self { policy, store, control, jwks, read_bodies: config.read_bodies, remembered })
    }
}

impl Store {
    fn new(config: StoreConfig, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let cluster = cluster("store.cluster", config.cluster)?;
        let token = token("store", config.token, config.token_env, variables)?;
        let authorization = store::authorization("store.token", &token)?;
        let timeout = store::timeout("store.timeout", config.timeout, DEFAULT_TIMEOUT)?;
        let batch = in_range("store.batch", config.batch.map(u32::from), 64, 1..=1000)?;
        let calls = in_range("store.calls_in_flight", config.calls_in_flight.map(u32::from), 4, 1..=64)?;
        let replicas = store::replicas("store.replicas", config.replicas)?;
        Ok(Self {
            endpoints: Endpoints { only: Endpoint { cluster, authority: config.authority } },
            authorization,
            timeout,
            batch: usize::try_from(batch).unwrap_or(1),
            calls_in_flight: usize::try_from(calls).unwrap_or(1),
            clock: config.clock,
            replicas,
        })
    }
}

impl Jwks {
    /// Where the keys of a policy are; `None` if it has all of them in it.
    fn new(config: Option<JwksConfig>, policy: &Policy) -> Result<Option<Self>, ConfigError> {
        let Some(jwks) = policy.jwt().and_then(|jwt| jwt.jwks()) else { return Ok(None) };
        let Some(JwksConfig { cluster: name, timeout }) = config else {
            let expected = "`{\"cluster\": …}`: the Envoy cluster that has the host of `policy.jwt.jwks`";
            return Err(ConfigError::new("jwks", "nothing", expected));
        };
        let cluster = cluster("jwks.cluster", name)?;
        if let Some(span) = timeout.filter(|span| span.as_millis() > MAX_JWKS_WAIT) {
            return Err(ConfigError::new("jwks.timeout", format!("`{span}`"), "at most 5s"));
        }
        let timeout = Duration::from_millis(timeout.map_or(MAX_JWKS_WAIT, Span::as_millis));
        let place = jwks.url().split_once("://").map_or(jwks.url(), |(_, place)| place);
        let (authority, path) = place.split_at(place.find(['/', '?']).unwrap_or(place.len()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        let endpoint = Endpoint { cluster, authority: authority.to_owned() };
        Ok(Some(Self { endpoint, path: format!("{slash}{path}"), timeout }))
    }
}

/// The name of a cluster that stands at `path`.
fn cluster(path: &str, name: String) -> Result<String, ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new(path, "an empty text", "the name of an Envoy cluster"));
    }
    Ok(name)
}

impl ControlConfig {
    fn opened(self, variables: &dyn Fn(&str) -> Option<String>) -> Result<Control, ConfigError> {
        Control::new(self.prefix.as_deref(), &token("control", self.token, self.token_env, variables)?)
    }
}

/// The token that stands at `path`, or in the variable that is named there.
fn token(
    path: &str,
    written: Option<String>,
    variable: Option<String>,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ConfigError> {
    match (written, variable) {
        (Some(token), None) => Ok(token),
        (None, Some(name)) => variables(&name).ok_or_else(|| {
            let expected =
                "a variable that is set and that `vm_config.environment_variables.host_env_keys` names";
            let found = format!("`{name}`, which the filter is not given");
            ConfigError::new(format!("{path}.token_env"), found, expected)
        }),
        (found, _) => {
            let found = if found.is_some() { "both `token` and `token_env`" } else { "no token" };
            Err(ConfigError::new(path, found, "either `token` or `token_env`"))
        }
    }
}

fn default_authority() -> String {
    "tollgate".to_owned()
}

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);
