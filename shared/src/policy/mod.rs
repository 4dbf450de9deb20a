//! The policy as compiled: what [`config`] describes, checked as a whole and ready to be asked.

mod compiler;
mod explain;
mod guard;
mod warnings;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{
    self, ClientIpConfig, ConfigError, CostConfig, CountConfig, FailureMode, HeaderCondition, HeadersConfig,
    KeyPart, MatchConfig, Name, OnDuplicate, PolicyConfig, RateLimitConfig, VerifiedBy,
};
use crate::jwt::{JwtPolicy, Lookup};
use crate::key::{Key, KeyForm};
use crate::path::{Kinds, Path, PathRules};
use crate::rate_limit::Quota;
use crate::request::Request;
use crate::router::Router;
use compiler::{Compiler, Tokens};

pub use explain::{Ambiguous, Counted, Explanation, Seen};
pub use guard::{Guard, RouteGuard, Rule};
pub use warnings::Warning;

/// A compiled policy. It cannot fail any more.
#[derive(Debug)]
pub struct Policy {
    router: Router,
    routes: Vec<Route>,
    conditions: Vec<MatchConfig>,
    /// The route of requests that match no other.
    default: Option<usize>,
    limits: Vec<Limit>,
    guards: Vec<Guard>,
    jwt: Option<JwtPolicy>,
    /// Whether any route goes by the body of its requests.
    reads_bodies: bool,
    /// The header fields that only guards may write for upstreams, as far as any route has such a guard.
    reserved: Vec<&'static str>,
    /// Whether anything of any route may refuse a request.
    is_guarded: bool,
    client_ip: ClientIpConfig,
    path_rules: PathRules,
    headers: HeadersConfig,
    /// What store keys begin with.
    key_prefix: String,
}

/// What a policy relies on where it is in use.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Looks up the variables that hold secrets.
    pub variables: Lookup<'a>,
    /// Who may stand in front of the host and verify tokens.
    pub in_front: Option<VerifiedBy>,
    /// Whether the host fetches keys of tokens.
    pub fetches: bool,
}

/// A route: what guards its requests.
#[derive(Debug)]
pub struct Route {
    name: Name,
    limits: Vec<RouteLimit>,
    /// The distinct keys of limits and guards: each is digested once for a request.
    subjects: Vec<Vec<KeyPart>>,
    /// Indices into `limits`, those that share a hash tag together.
    groups: Vec<Vec<usize>>,
    /// The same without the limits that count by claims; empty where no token is asked for.
    groups_without_token: Vec<Vec<usize>>,
    /// The guards, in the order in which they are asked.
    guards: Vec<RouteGuard>,
    reads_body: bool,
    /// Whether anything of it may refuse a request: not so where nothing guards, or all of it is in shadow mode.
    is_guarded: bool,
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
    /// Reads and compiles a policy file, to check it: what only hosts know is left out, so that no token holds.
    ///
    /// # Errors
    /// Everything that is wrong with it; a file that cannot be read as JSON of the right form gives one error.
    pub fn from_json(json: &[u8]) -> Result<Self, Vec<ConfigError>> {
        Self::read("", json, None)
    }

    /// The same for a host, which gives the policy what it relies on. Errors name `name` in front of their paths.
    ///
    /// # Errors
    /// As for [`Policy::from_json`], and what is not as the policy needs it.
    pub fn from_json_in(
        surroundings: &Surroundings<'_>,
        name: &str,
        json: &[u8],
    ) -> Result<Self, Vec<ConfigError>> {
        Self::read(name, json, Some(surroundings))
    }

    fn read(
        name: &str,
        json: &[u8],
        surroundings: Option<&Surroundings<'_>>,
    ) -> Result<Self, Vec<ConfigError>> {
        let config = config::parse(json).map_err(|error: ConfigError| Vec::from([error.below(name)]))?;
        let at = if name.is_empty() { String::new() } else { format!("{name}.") };
        Self::compile(config, &at, surroundings)
    }

    /// Compiles a policy; without surroundings, to check it. Errors name paths below `at`, which is empty or ends in a dot.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(
        config: PolicyConfig,
        at: &str,
        surroundings: Option<&Surroundings<'_>>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut compiler = Compiler { at, policy_shadow: config.shadow, ..Compiler::default() };
        let mut jwt = None;
        if let Some(written) = &config.jwt {
            compiler.tokens = Tokens { is_read: true, live_bounded: written.max_lifetime.is_some() };
            match JwtPolicy::compile(written, at, surroundings) {
                Ok(compiled) => jwt = Some(compiled),
                Err(errors) => compiler.errors.extend(errors),
            }
        }
        compiler.bound("routes", config.routes.len(), config::MAX_ROUTES);
        if config.client_ip.ipv6_prefix.get() > 128 {
            compiler.error("client_ip.ipv6_prefix", config.client_ip.ipv6_prefix, "1 to 128 bits");
        }
        let path_rules = config.path_rules();
        let mut policy = Self {
            router: Router::default(),
            routes: Vec::new(),
            conditions: Vec::new(),
            default: None,
            limits: Vec::new(),
            guards: Vec::new(),
            jwt,
            reads_bodies: false,
            reserved: Vec::new(),
            is_guarded: false,
            client_ip: config.client_ip,
            path_rules,
            headers: config.headers,
            key_prefix: String::from(DEFAULT_PREFIX),
        };
        // A map where a set would do: the compiler has such a map already, and hosts are small.
        let mut names = BTreeMap::new();
        for (index, route) in config.routes.into_iter().enumerate() {
            let path = format!("routes[{index}]");
            let (name, conditions, guards) = route.into_parts();
            if names.insert(name.clone(), index).is_some() {
                compiler.error(&format!("{path}.name"), &name, "a name that no earlier route has");
            }
            compiler.conditions(&path, &conditions);
            let pattern = conditions.path.as_ref().map(|pattern| pattern.with_rules(path_rules));
            policy.router.insert(index, pattern.as_ref(), &conditions.hosts);
            policy.conditions.push(conditions);
            policy.routes.push(compiler.route(&path, name, guards));
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
            policy.routes.push(compiler.route("default", name, default));
        }
        compiler.bound("rate_limits of all routes", compiler.limits.len(), config::MAX_LIMITS);
        compiler.bound("guards of all routes", compiler.guards.len(), config::MAX_GUARDS);
        if compiler.errors.is_empty() {
            (policy.limits, policy.guards) = (compiler.limits, compiler.guards);
            policy.reserved = reserved(&policy.guards);
            for route in &mut policy.routes {
                let mut guards = route.guards.iter().filter_map(|place| policy.guards.get(place.guard));
                let mut parts = route.subjects.iter().flatten();
                route.reads_body = guards.any(Guard::reads_body)
                    || parts.any(|part| matches!(part.source(), KeyPart::Body(_)));
                policy.reads_bodies |= route.reads_body;
                let limits = route.limits.iter().filter_map(|place| policy.limits.get(place.limit));
                let guards = route.guards.iter().filter_map(|place| policy.guards.get(place.guard));
                route.is_guarded =
                    limits.map(Limit::is_enforced).chain(guards.map(Guard::is_enforced)).any(|is| is);
                policy.is_guarded |= route.is_guarded;
            }
            Ok(policy)
        } else {
            Err(compiler.errors)
        }
    }

    /// The same policy with store keys that begin with `prefix` instead of `tg`.
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: &Name) -> Self {
        for limit in &mut self.limits {
            limit.keys = KeyForm::new(prefix.as_str(), limit.tag(), &limit_label(&limit.quota, limit.name()));
        }
        for guard in &mut self.guards {
            guard.set_key_prefix(prefix.as_str());
        }
        self.key_prefix = String::from(prefix.as_str());
        self
    }

    /// All limits; a limit that several routes share is one.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// All guards beside the limits; one that several routes share is one.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// What is asked of tokens, if anything.
    pub fn jwt(&self) -> Option<&JwtPolicy> {
        self.jwt.as_ref()
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

    /// Whether a host has to read the body of this request before it begins the decision: its first
    /// [`MAX_BODY`](crate::request::MAX_BODY) bytes.
    pub fn reads_body(&self, request: &dyn Request) -> bool {
        self.reads_bodies
            && self
                .find_route(&self.path(request), request)
                .ok()
                .flatten()
                .and_then(|route| self.routes.get(route))
                .is_some_and(|route| route.reads_body)
    }

    /// The first route with a `body:` in its keys, which a host that reads no bodies cannot tell requests apart by. Idempotency
    /// goes by what else there is.
    pub fn route_with_body_keys(&self) -> Option<&Route> {
        let is_body = |part: &KeyPart| matches!(part.source(), KeyPart::Body(_));
        self.routes.iter().find(|route| route.subjects.iter().flatten().any(is_body))
    }

    /// The key that is asked for to see whether the store answers; nothing is ever kept there.
    pub(crate) fn ping_key(&self) -> Key {
        KeyForm::new(&self.key_prefix, Some("ping"), "ping").whole()
    }

    /// The header fields that a client must not write, in every spelling that an upstream may take for them.
    pub(crate) fn reserved(&self) -> &[&'static str] {
        &self.reserved
    }

    pub(crate) fn client_ip(&self) -> &ClientIpConfig {
        &self.client_ip
    }

    /// The path of a request, in normal form.
    pub(crate) fn path(&self, request: &dyn Request) -> Path {
        let mut path = None;
        request.target(&mut |target| path = Some(Path::normalize(target, self.path_rules)));
        path.unwrap_or_else(|| Path::normalize(b"/", self.path_rules))
    }

    /// The number of the route that `request` takes.
    ///
    /// # Errors
    /// Servers may read the path as several that take different guarded routes.
    pub(crate) fn find_route(
        &self,
        path: &Path,
        request: &dyn Request,
    ) -> Result<Option<usize>, AmbiguousPath> {
        let route = self.route_of(path, request);
        let is_guarded = |route: Option<usize>| route.is_some_and(|route| self.is_guarded(route));
        if path.has_one_reading() || !self.is_guarded || (path.is_forgiving() && is_guarded(route)) {
            return Ok(route);
        }
        if path.is_unreadable() {
            return Err(AmbiguousPath);
        }
        let (mut guarded, mut differ) = (None, false);
        let mut meet = |route: Option<usize>| {
            differ |= guarded.is_some() && is_guarded(route) && guarded != route;
            guarded = guarded.or(route.filter(|_| is_guarded(route)));
        };
        request.target(&mut |target| {
            let read = |without| self.route_of(&Path::without(target, self.path_rules, without), request);
            let normal = core::iter::once((Kinds::default(), route));
            for (without, route) in normal.chain(path.likely().map(|without| (without, read(without)))) {
                meet(route);
                if !is_guarded(route) {
                    path.unforgiving().for_each(|more| meet(read(without.and(more))));
                }
            }
        });
        if differ { Err(AmbiguousPath) } else { Ok(guarded.or(route)) }
    }

    /// The number of the route that a request takes whose path is `path`.
    fn route_of(&self, path: &Path, request: &dyn Request) -> Option<usize> {
        let mut found = None;
        let mut accept =
            |route: usize| self.conditions.get(route).is_some_and(|conditions| holds(conditions, request));
        request.authority(&mut |host| found = self.router.find(path, host, &mut accept));
        found.or(self.default)
    }

    /// Whether anything of a route may refuse a request.
    fn is_guarded(&self, route: usize) -> bool {
        self.routes.get(route).is_some_and(|route| route.is_guarded)
    }
}

/// A path that servers may read as several, which take different guarded routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AmbiguousPath;

impl Route {
    /// The route's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The limits, in the order of the policy.
    pub fn limits(&self) -> &[RouteLimit] {
        &self.limits
    }

    /// The guards, in the order in which they are asked.
    pub fn guards(&self) -> &[RouteGuard] {
        &self.guards
    }

    pub(crate) fn subjects(&self) -> &[Vec<KeyPart>] {
        &self.subjects
    }

    pub(crate) fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// The limits that a request meets although its token is refused: those that count without claims.
    pub(crate) fn groups_without_token(&self) -> &[Vec<usize>] {
        &self.groups_without_token
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

    /// After which answers it stays consumed.
    pub fn count(&self) -> &CountConfig {
        &self.config.count
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

    /// Whether it counts by what a token claims.
    pub(crate) fn counts_claims(&self) -> bool {
        self.config.key.iter().any(|part| matches!(part.source(), KeyPart::Claim(_)))
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

/// What guards tell upstreams in header fields, and how CGI and WSGI let a client spell the same.
fn reserved(guards: &[Guard]) -> Vec<&'static str> {
    let has = |is: fn(&Rule) -> bool| guards.iter().any(|guard| is(guard.rule()));
    let locks = has(|rule| matches!(rule, Rule::Lock { .. }));
    let marks = has(|rule| matches!(rule, Rule::Dedup { on_duplicate: OnDuplicate::Mark, .. }));
    let spellings = [(locks, FENCE_SPELLINGS), (marks, DUPLICATE_SPELLINGS)];
    spellings.into_iter().filter(|(is_used, _)| *is_used).flat_map(|(_, spellings)| spellings).collect()
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

fn read_number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    // Digits that do not fit are a very large number, which `max` cuts.
    digits.then(|| core::str::from_utf8(text).ok()?.parse().ok().or(Some(u64::MAX)))?
}

/// What keys of a limit end in: another way of counting starts afresh.
fn limit_label(quota: &Quota, name: &str) -> String {
    format!("{}{}:{name}", quota.algorithm().letter(), quota.window())
}

/// Tells the upstream the fence of the lock.
pub(crate) const FENCE: &str = "x-tollgate-fence";
/// Tells the upstream that it was asked the same before.
pub(crate) const DUPLICATE: &str = "x-tollgate-duplicate";
const FENCE_SPELLINGS: [&str; 4] = [FENCE, "x_tollgate_fence", "x-tollgate_fence", "x_tollgate-fence"];
const DUPLICATE_SPELLINGS: [&str; 4] =
    [DUPLICATE, "x_tollgate_duplicate", "x-tollgate_duplicate", "x_tollgate-duplicate"];

/// What store keys begin with unless the host says otherwise.
const DEFAULT_PREFIX: &str = "tg";
