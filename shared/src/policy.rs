//! The policy as compiled: what [`config`] describes, checked as a whole and ready to be asked.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::config::{
    self, ClientIpConfig, ConfigError, CostConfig, FailureMode, HeaderCondition, HeadersConfig, KeyPart,
    MatchConfig, Name, PolicyConfig, RateLimitConfig,
};
use crate::key::KeyForm;
use crate::path::{Path, PathCase};
use crate::rate_limit::{Algorithm, Quota};
use crate::request::Request;
use crate::router::Router;

/// A compiled policy. It cannot fail any more.
#[derive(Debug)]
pub struct Policy {
    router: Router,
    routes: Vec<Route>,
    conditions: Vec<MatchConfig>,
    /// The route of requests that match no other.
    default: Option<usize>,
    limits: Vec<Limit>,
    client_ip: ClientIpConfig,
    path_case: PathCase,
    headers: HeadersConfig,
}

/// A route: the limits that hold for its requests.
#[derive(Debug)]
pub struct Route {
    name: Name,
    limits: Vec<RouteLimit>,
    /// The distinct keys of the limits: each is digested once for a request.
    subjects: Vec<Vec<KeyPart>>,
    /// Indices into `limits`, those that share a hash tag together.
    groups: Vec<Vec<usize>>,
    /// The value of `RateLimit-Policy`; empty when there is nothing to say.
    policy_field: String,
}

/// A limit's place in a route.
#[derive(Clone, Copy, Debug)]
pub struct RouteLimit {
    /// Which limit of [`Policy::limits`].
    pub limit: usize,
    /// Which of the route's subjects.
    pub subject: usize,
}

/// A rate limit.
#[derive(Debug)]
pub struct Limit {
    config: RateLimitConfig,
    quota: Quota,
    keys: KeyForm,
    enforced: bool,
    /// Whether what it charged may be given back, because limits of another hash tag may refuse the same request.
    refundable: bool,
}

impl Policy {
    /// Reads and compiles a policy file.
    ///
    /// # Errors
    /// Everything that is wrong with it; a file that cannot be read as JSON of the right form gives one error.
    pub fn from_json(json: &[u8]) -> Result<Self, Vec<ConfigError>> {
        Self::from_json_at("", json)
    }

    /// The same for a policy that the user knows as `name`, which errors name in front of their paths.
    ///
    /// # Errors
    /// As for [`Policy::from_json`].
    pub fn from_json_at(name: &str, json: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let config = config::parse(json).map_err(|error: ConfigError| Vec::from([error.below(name)]))?;
        let at = if name.is_empty() { String::new() } else { format!("{name}.") };
        Self::compile(config, &at)
    }

    /// Compiles a policy. Errors name paths below `at`, which is empty or ends in a dot.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(config: PolicyConfig, at: &str) -> Result<Self, Vec<ConfigError>> {
        let mut compiler = Compiler { at, policy_shadow: config.shadow, ..Compiler::default() };
        compiler.bound("routes", config.routes.len(), config::MAX_ROUTES);
        if config.client_ip.ipv6_prefix.get() > 128 {
            compiler.error("client_ip.ipv6_prefix", config.client_ip.ipv6_prefix, "1 to 128 bits");
        }
        let mut policy = Self {
            router: Router::default(),
            routes: Vec::new(),
            conditions: Vec::new(),
            default: None,
            limits: Vec::new(),
            client_ip: config.client_ip,
            path_case: config.path_case,
            headers: config.headers,
        };
        // A map where a set would do: the compiler has such a map already, and hosts are small.
        let mut names = BTreeMap::new();
        for (index, route) in config.routes.into_iter().enumerate() {
            let path = format!("routes[{index}]");
            if names.insert(route.name.clone(), index).is_some() {
                compiler.error(&format!("{path}.name"), &route.name, "a name that no earlier route has");
            }
            compiler.conditions(&path, &route.matches);
            let pattern = route.matches.path.as_ref().map(|pattern| pattern.with_case(config.path_case));
            policy.router.insert(index, pattern.as_ref(), &route.matches.hosts);
            policy.conditions.push(route.matches);
            policy.routes.push(compiler.route(&path, route.name, route.rate_limits));
        }
        if let (Some(default), Some(name)) = (config.default, Name::parse("default")) {
            if names.contains_key(&name) {
                compiler.error_in_words(
                    "default",
                    "a route named `default` beside it",
                    "no other route of this name",
                );
            }
            policy.default = Some(policy.routes.len());
            policy.routes.push(compiler.route("default", name, default.rate_limits));
        }
        compiler.bound("rate_limits of all routes", compiler.limits.len(), config::MAX_LIMITS);
        if compiler.errors.is_empty() {
            policy.limits = compiler.limits;
            Ok(policy)
        } else {
            Err(compiler.errors)
        }
    }

    /// The same policy with store keys that begin with `prefix` instead of `tg`.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: &Name) -> Self {
        for limit in &mut self.limits {
            limit.keys = KeyForm::new(prefix.as_str(), limit.tag(), &limit.quota, limit.name());
        }
        self
    }

    /// All limits; a limit that several routes share is one.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// All routes in order, the default route last.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Which requests take route number `route`; `None` for the default route.
    pub fn conditions(&self, route: usize) -> Option<&MatchConfig> {
        self.conditions.get(route)
    }

    /// Whether requests that match no other route have a route too.
    pub fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Which header fields answers carry.
    pub fn headers(&self) -> HeadersConfig {
        self.headers
    }

    pub(crate) fn client_ip(&self) -> &ClientIpConfig {
        &self.client_ip
    }

    /// The path of a request, in normal form.
    pub(crate) fn path(&self, request: &dyn Request) -> Path {
        let mut path = None;
        request.target(&mut |target| path = Some(Path::normalize(target, self.path_case)));
        path.unwrap_or_else(|| Path::normalize(b"/", self.path_case))
    }

    /// The number of the route that `request` takes.
    pub(crate) fn find_route(&self, path: &Path, request: &dyn Request) -> Option<usize> {
        let mut found = None;
        let mut accept =
            |route: usize| self.conditions.get(route).is_some_and(|conditions| holds(conditions, request));
        request.authority(&mut |host| found = self.router.find(path, host, &mut accept));
        found.or(self.default)
    }
}

impl Route {
    /// The route's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The limits, in the order of the policy.
    pub fn limits(&self) -> &[RouteLimit] {
        &self.limits
    }

    pub(crate) fn subjects(&self) -> &[Vec<KeyPart>] {
        &self.subjects
    }

    pub(crate) fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    pub(crate) fn policy_field(&self) -> &str {
        &self.policy_field
    }
}

impl Limit {
    /// The limit's name.
    pub fn name(&self) -> &str {
        self.config.name.as_str()
    }

    /// How much may pass.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Whose requests are counted together.
    pub fn key(&self) -> &[KeyPart] {
        &self.config.key
    }

    /// What one request consumes.
    pub fn cost(&self) -> &CostConfig {
        &self.config.cost
    }

    /// The tag shared with other limits, if one is named.
    pub fn tag(&self) -> Option<&str> {
        self.config.tag.as_ref().map(Name::as_str)
    }

    /// What happens when the store cannot be asked.
    pub fn on_store_error(&self) -> FailureMode {
        self.config.on_store_error
    }

    /// `false` in shadow mode, of this limit or of the policy.
    pub fn is_enforced(&self) -> bool {
        self.enforced
    }

    pub(crate) fn keys(&self) -> &KeyForm {
        &self.keys
    }

    pub(crate) fn is_refundable(&self) -> bool {
        self.refundable
    }

    /// What a request consumes that says nothing about it.
    pub(crate) fn usual_cost(&self) -> u64 {
        match &self.config.cost {
            CostConfig::Fixed(cost) => cost.get(),
            CostConfig::Header(cost) => cost.default.get(),
        }
    }

    /// What `request` consumes.
    pub(crate) fn cost_of(&self, request: &dyn Request) -> u64 {
        match &self.config.cost {
            CostConfig::Fixed(cost) => cost.get(),
            CostConfig::Header(cost) => {
                let (mut lines, mut value) = (0_u32, None);
                request.header(cost.header.as_str(), &mut |line| {
                    lines = lines.saturating_add(1);
                    value = read_number(line.trim_ascii());
                });
                let named = value.filter(|_| lines == 1);
                named.unwrap_or(cost.default.get()).min(cost.max.get())
            }
        }
    }
}

/// What limits of one group share: a tag, or else a subject.
type Group = (Option<Name>, Option<usize>);

#[derive(Default)]
struct Compiler<'a> {
    at: &'a str,
    policy_shadow: bool,
    limits: Vec<Limit>,
    by_name: BTreeMap<Name, usize>,
    errors: Vec<ConfigError>,
}

impl Compiler<'_> {
    fn error(&mut self, path: &str, found: impl core::fmt::Display, expected: impl Into<String>) {
        self.error_in_words(path, format!("`{found}`"), expected);
    }

    fn error_in_words(&mut self, path: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.errors.push(ConfigError::new(format!("{}{path}", self.at), found, expected));
    }

    fn bound(&mut self, path: &str, found: usize, at_most: usize) {
        if found > at_most {
            self.error_in_words(path, format!("{found} entries"), format!("at most {at_most}"));
        }
    }

    fn conditions(&mut self, path: &str, conditions: &MatchConfig) {
        let lengths = [
            ("methods", conditions.methods.len()),
            ("hosts", conditions.hosts.len()),
            ("headers", conditions.headers.len()),
        ];
        for (field, length) in lengths {
            self.bound(&format!("{path}.match.{field}"), length, config::MAX_PER_ROUTE);
        }
    }

    fn route(&mut self, path: &str, name: Name, configs: Vec<RateLimitConfig>) -> Route {
        self.bound(&format!("{path}.rate_limits"), configs.len(), config::MAX_PER_ROUTE);
        let mut route = Route {
            name,
            limits: Vec::new(),
            subjects: Vec::new(),
            groups: Vec::new(),
            policy_field: String::new(),
        };
        let mut groups: Vec<(Group, Vec<usize>)> = Vec::new();
        for (index, config) in configs.into_iter().enumerate() {
            let path = format!("{path}.rate_limits[{index}]");
            let subject = match route.subjects.iter().position(|key| *key == config.key) {
                Some(subject) => subject,
                None => {
                    route.subjects.push(config.key.clone());
                    route.subjects.len() - 1
                }
            };
            let group = match &config.tag {
                Some(tag) => (Some(tag.clone()), None),
                None => (None, Some(subject)),
            };
            let Some(limit) = self.limit(&path, config) else { continue };
            if route.limits.iter().any(|other| other.limit == limit) {
                let name = self.limits.get(limit).map(Limit::name).unwrap_or_default();
                self.error(
                    &format!("{path}.name"),
                    String::from(name),
                    "a name that no other limit of this route has",
                );
            }
            match groups.iter_mut().find(|(of, _)| *of == group) {
                Some((_, limits)) => limits.push(route.limits.len()),
                None => groups.push((group, Vec::from([route.limits.len()]))),
            }
            route.limits.push(RouteLimit { limit, subject });
        }
        route.groups = groups.into_iter().map(|(_, limits)| limits).collect();
        if route.groups.len() > 1 {
            for place in &route.limits {
                if let Some(limit) = self.limits.get_mut(place.limit) {
                    limit.refundable = true;
                }
            }
        }
        let limits = route.limits.iter().filter_map(|place| self.limits.get(place.limit));
        route.policy_field = policy_field(limits.filter(|limit| limit.enforced));
        route
    }

    /// The number of the limit that `config` describes; `None` if it is wrong.
    fn limit(&mut self, path: &str, config: RateLimitConfig) -> Option<usize> {
        let before = self.errors.len();
        if let Some(known) = self.by_name.get(&config.name).copied() {
            if self.limits.get(known).is_some_and(|limit| limit.config == config) {
                return Some(known);
            }
            let expected =
                "a name of its own, or the very fields of the other limit of this name: they are one counter";
            self.error(&format!("{path}.name"), &config.name, expected);
            return None;
        }
        if config.key.is_empty() || config.key.len() > config::MAX_KEY_PARTS {
            let found = format!("{} key parts", config.key.len());
            self.error_in_words(
                &format!("{path}.key"),
                found,
                "1 to 8; [\"const:all\"] counts everybody together",
            );
        }
        if let (Some(burst), false) = (config.burst, config.algorithm == Algorithm::Gcra) {
            self.error(&format!("{path}.burst"), burst, "no burst: only `gcra` has one");
        }
        let burst = config.burst.unwrap_or(config.quota).get();
        let quota = match Quota::new(config.algorithm, config.quota.get(), config.window, burst) {
            Ok(quota) => Some(quota),
            Err(error) => {
                let found = if error.field == "burst" { burst } else { config.quota.get() };
                let (algorithm, window) = (config.algorithm.as_str(), config.window);
                let expected =
                    format!("at most {} for `{algorithm}` with a window of {window}", error.at_most);
                self.error(&format!("{path}.{}", error.field), found, expected);
                None
            }
        };
        let capacity = quota.map_or(u64::MAX, |quota| quota.capacity());
        let never = format!("at most {capacity}, or no request could ever pass");
        match &config.cost {
            CostConfig::Fixed(cost) if cost.get() > capacity => {
                self.error(&format!("{path}.cost"), cost, never);
            }
            CostConfig::Header(cost) if cost.max.get() > capacity => {
                self.error(&format!("{path}.cost.max"), cost.max, never);
            }
            CostConfig::Header(cost) if cost.default > cost.max => {
                self.error(
                    &format!("{path}.cost.default"),
                    cost.default,
                    format!("at most `max`, {}", cost.max),
                );
            }
            _ => {}
        }
        let quota = quota.filter(|_| self.errors.len() == before)?;
        let enforced = !(self.policy_shadow || config.shadow);
        self.by_name.insert(config.name.clone(), self.limits.len());
        let tag = config.tag.as_ref().map(Name::as_str);
        let keys = KeyForm::new(DEFAULT_PREFIX, tag, &quota, config.name.as_str());
        self.limits.push(Limit { config, quota, keys, enforced, refundable: false });
        Some(self.limits.len() - 1)
    }
}

fn holds(conditions: &MatchConfig, request: &dyn Request) -> bool {
    let mut method_holds = conditions.methods.is_empty();
    if !method_holds {
        request.method(&mut |method| method_holds = conditions.methods.iter().any(|m| m.includes(method)));
    }
    method_holds
        && conditions.headers.iter().all(|(name, condition)| {
            let (mut present, mut equal) = (false, false);
            request.header(name.as_str(), &mut |line| {
            present = true;
            equal |=
                matches!(condition, HeaderCondition::Equals(text) if text.as_bytes() == line.trim_ascii());
        });
            match condition {
                HeaderCondition::Equals(_) => equal,
                HeaderCondition::Present => present,
                HeaderCondition::Absent => !present,
            }
        })
}

/// `"burst";q=100;w=60`, …: draft-ietf-httpapi-ratelimit-headers-10, where a window has whole seconds or is left out.
fn policy_field<'a>(limits: impl Iterator<Item = &'a Limit>) -> String {
    let mut field = String::new();
    for limit in limits {
        let separator = if field.is_empty() { "" } else { ", " };
        // Writing to a String does not fail.
        let _ = write!(field, "{separator}\"{}\";q={}", limit.name(), limit.quota.limit());
        if limit.quota.window().is_multiple_of(1000) {
            let _ = write!(field, ";w={}", limit.quota.window() / 1000);
        }
    }
    field
}

fn read_number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    // Digits that do not fit are a very large number, which `max` cuts.
    digits.then(|| core::str::from_utf8(text).ok()?.parse().ok().or(Some(u64::MAX)))?
}

/// What store keys begin with unless the host says otherwise.
const DEFAULT_PREFIX: &str = "tg";
