//! Where a Redis is, as the gateway or one of its tokens says it.

use std::path::PathBuf;

use super::secret::Places;
use super::settings::{Settings, TokenSettings};
use crate::target::{ReadFrom, Target, TargetOptions, TlsFiles};

/// What is said of a Redis.
pub(super) struct Redis<'a> {
    url: Places<'a>,
    ca: Option<&'a PathBuf>,
    cert: Option<&'a PathBuf>,
    key: Option<&'a PathBuf>,
    server_name: Option<&'a String>,
    sentinel_user: Option<&'a String>,
    sentinel_password: Places<'a>,
    read_from: Option<ReadFrom>,
}

/// The same fields of two structs.
macro_rules! of {
    ($set:expr) => {
        Redis {
            url: Places {
                what: "the URL of Redis",
                inline: $set.redis.as_deref(),
                env: $set.redis_env.as_deref(),
                file: $set.redis_file.as_deref(),
            },
            ca: $set.redis_ca.as_ref(),
            cert: $set.redis_cert.as_ref(),
            key: $set.redis_key.as_ref(),
            server_name: $set.redis_server_name.as_ref(),
            sentinel_user: $set.sentinel_user.as_ref(),
            sentinel_password: Places {
                what: "the password for the sentinels",
                inline: None,
                env: $set.sentinel_password_env.as_deref(),
                file: $set.sentinel_password_file.as_deref(),
            },
            read_from: $set.read_from,
        }
    };
}

impl<'a> Redis<'a> {
    /// That of the gateway.
    pub(super) fn common(set: &'a Settings) -> Self {
        of!(set)
    }

    /// That of a token. One that has a Redis of its own takes over what is said for all, where that applies to its URL.
    pub(super) fn own(own: &'a TokenSettings) -> Self {
        of!(own)
    }

    /// Finds the URL and reads it; nothing when there is none. `common` is what is said for all tokens, if this is for one.
    pub(super) fn target(
        &self,
        common: Option<&Self>,
        var: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<Target>> {
        let Some((url, _)) = self.url.read(var)? else { return Ok(None) };
        let scheme = url.split("://").next().unwrap_or_default();
        let encrypted = common.filter(|_| scheme.starts_with("rediss"));
        let watched = common.filter(|_| scheme.ends_with("+sentinel"));
        let several = common.filter(|_| scheme.contains('+'));
        let password = match self.sentinel_password.read(var)? {
            None => watched.map(|common| common.sentinel_password.read(var)).transpose()?.flatten(),
            password => password,
        };
        let options = TargetOptions {
            tls: TlsFiles {
                ca: self.ca.or_else(|| encrypted?.ca).cloned(),
                cert: self.cert.or_else(|| encrypted?.cert).cloned(),
                key: self.key.or_else(|| encrypted?.key).cloned(),
                server_name: self.server_name.or_else(|| encrypted?.server_name).cloned(),
            },
            read_from: self.read_from.or_else(|| several?.read_from).unwrap_or_default(),
            sentinel_user: self.sentinel_user.or_else(|| watched?.sentinel_user).cloned(),
            sentinel_password: password.map(|(password, _)| password),
        };
        Target::parse(&url, &options).map(Some)
    }
}
