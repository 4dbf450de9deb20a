//! Tokens, and what each opens.

use std::fmt;
use std::num::NonZeroUsize;

use anyhow::{Context as _, bail, ensure};

use super::origin::Origin;
use super::redis::Redis;
use super::secret::Places;
use super::settings::{Settings, TokenSettings};
use crate::auth::Token;
use crate::command::{Rights, Rules};
use crate::target::Target;

/// A token, and what it opens.
pub struct Tenant {
    /// What logs and metrics call it.
    pub name: String,
    /// What its holders present; nothing when everyone is let in.
    pub token: Option<Token>,
    /// The Redis.
    pub redis: Target,
    /// Connections to it, for each thread.
    pub connections: NonZeroUsize,
    /// What it may do.
    pub rights: Rights,
    /// Where web pages come from that may use it.
    pub origins: Vec<Origin>,
    /// The most requests it may have under way, if it may not have all.
    pub in_flight: Option<usize>,
    /// The most subscriptions and monitors it may have, if it may not have all.
    pub streams: Option<usize>,
}

/// All of them: those of the file, or the one that flags describe.
pub(super) fn all(set: &Settings, var: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Vec<Tenant>> {
    if set.tokens.is_empty() {
        return Ok(vec![only(set, var)?]);
    }
    ensure!(
        set.token_env.is_none() && set.token_file.is_none() && set.no_auth != Some(true),
        "there are `[[tokens]]`, so `token_env`, `token_file` and `no_auth` must not be set, in whichever way"
    );
    ensure!(
        set.allow.is_none(),
        "there are `[[tokens]]`, so `allow` must not be set for all of them: write it into each token that needs it"
    );
    let mut tenants: Vec<Tenant> = Vec::new();
    for (number, own) in set.tokens.iter().enumerate() {
        let tenant = one(own, set, var).with_context(|| format!("`tokens[{number}]` (`{}`)", own.name))?;
        for (other, before) in tenants.iter().enumerate() {
            ensure!(before.name != tenant.name, "`tokens[{number}]` has the name of `tokens[{other}]`");
            ensure!(before.token != tenant.token, "`tokens[{number}]` has the token of `tokens[{other}]`");
        }
        tenants.push(tenant);
    }
    Ok(tenants)
}

fn only(set: &Settings, var: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Tenant> {
    let token = if set.no_auth == Some(true) {
        ensure!(
            set.token_file.is_none() && set.token_env.is_none(),
            "`no_auth` and a token cannot be had together: leave one out"
        );
        None
    } else {
        let name = set.token_env.as_deref().unwrap_or("TOLLGATE_TOKEN");
        let place =
            Places { what: "the token", inline: None, env: Some(name), file: set.token_file.as_deref() };
        if place.file.is_none() && var(name).is_none() {
            bail!(
                "no token: set `{name}`, or give `--token-file`, or `--no-auth` to serve everyone, \
                 or `[[tokens]]` in a file"
            );
        }
        token(&place, var)?
    };
    let redis = Redis::common(set).target(None, var)?.context(
        "no Redis: give `--redis URL`, or set `TOLLGATE_REDIS`, or name a variable or file that holds the URL",
    )?;
    let mut allow = set.allow.clone().unwrap_or_default();
    // An environment variable may be set to nothing.
    allow.retain(|name| !name.trim().is_empty());
    let rights = Rights { allow, ..Rights::default() };
    Rules::new(rights.clone()).context("`allow`")?;
    Ok(Tenant {
        name: "default".into(),
        token,
        redis,
        connections: set.connections.map_or(NonZeroUsize::MIN, |count| count.at_least_one()),
        rights,
        origins: set.origins.clone().unwrap_or_default(),
        in_flight: set.max_in_flight_per_token.map(|count| count.get()),
        streams: set.max_streams_per_token.map(|count| count.get()),
    })
}

fn one(own: &TokenSettings, set: &Settings, var: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Tenant> {
    ensure!(
        !own.name.is_empty()
            && own.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        "`name` is for logs and metrics: expected letters, digits and `-`, `_` and `.`"
    );
    let (env, file) = (own.token_env.as_deref(), own.token_file.as_deref());
    let token = token(&Places { what: "the token", inline: None, env, file }, var)?
        .context("it has no token: set `token_env` or `token_file`")?;
    let common = Redis::common(set);
    let redis = match Redis::own(own).target(Some(&common), var)? {
        Some(redis) => redis,
        None => common
            .target(None, var)?
            .context("it has no Redis: set `redis_env`, `redis_file` or `redis`, here or for all tokens")?,
    };
    let rights = Rights {
        read_only: own.read_only,
        commands: own.commands.clone(),
        allow: own.allow.clone(),
        key_prefixes: own.key_prefixes.clone(),
    };
    Rules::new(rights.clone())?;
    Ok(Tenant {
        name: own.name.clone(),
        token: Some(token),
        redis,
        connections: own
            .connections
            .or(set.connections)
            .map_or(NonZeroUsize::MIN, |count| count.at_least_one()),
        rights,
        origins: own.origins.as_ref().or(set.origins.as_ref()).cloned().unwrap_or_default(),
        in_flight: own.max_in_flight.or(set.max_in_flight_per_token).map(|count| count.get()),
        streams: own.max_streams.or(set.max_streams_per_token).map(|count| count.get()),
    })
}

fn token(places: &Places<'_>, var: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<Token>> {
    let Some((text, place)) = places.read(var)? else { return Ok(None) };
    Token::new(&text).map(Some).with_context(|| format!("the token in {place} cannot be used"))
}

/// Without the token.
impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenant").field("name", &self.name).field("redis", &self.redis).finish_non_exhaustive()
    }
}
