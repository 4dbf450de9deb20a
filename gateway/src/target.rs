//! Which Redis to serve, as a URL says it.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use percent_encoding::percent_decode_str;

/// One Redis, whatever its topology.
#[derive(Clone)]
pub struct Target {
    /// Where it is.
    pub(crate) address: Address,
    /// Who we are there.
    pub(crate) credentials: Arc<Credentials>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    /// The TCP port.
    pub(crate) port: u16,
}

/// What a connection begins with.
#[derive(Default)]
pub(crate) struct Credentials {
    /// The ACL user; nothing for the default one.
    pub(crate) user: Option<String>,
    /// The password.
    pub(crate) password: Option<String>,
    /// The database number.
    pub(crate) database: u32,
}

impl Target {
    /// Reads `redis://[user:password@]host[:port][/database]`. No error repeats the URL, because it may hold a password.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) =
            url.split_once("://").context("the Redis URL has no scheme, expected `redis://`")?;
        match scheme {
            "redis" => {}
            "rediss" => bail!("TLS to Redis (`rediss://`) is not supported yet, only `redis://` is"),
            "redis+sentinel" | "rediss+sentinel" | "redis-sentinel" => {
                bail!("Sentinel (`{scheme}://`) is not supported yet, only a single `redis://` is")
            }
            _ => bail!("the Redis URL has the scheme `{scheme}`, expected `redis://`"),
        }
        ensure!(
            !rest.contains(['?', '#']),
            "the Redis URL has a query or a fragment, which mean nothing here"
        );
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        ensure!(!hosts.contains(','), "several hosts (Cluster or Sentinel) are not supported yet, give one");
        let mut credentials = login.map(Credentials::parse).transpose()?.unwrap_or_default();
        if !path.is_empty() {
            credentials.database =
                path.parse().ok().context("the database in the Redis URL is not a number")?;
        }
        Ok(Self { address: Address::parse(hosts, REDIS_PORT)?, credentials: Arc::new(credentials) })
    }
}

impl Address {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    pub(crate) fn parse(text: &str, usual: u16) -> anyhow::Result<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        ensure!(!host.is_empty(), "the Redis URL names no host");
        let port = match port {
            Some(port) => port.parse().ok().context("the port in the Redis URL is not one")?,
            None => usual,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Credentials {
    fn parse(login: &str) -> anyhow::Result<Self> {
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(String::from).ok().context("the user or password in the Redis URL is not UTF-8")
        };
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, Some(decode(password)?)),
            None => (decode(login)?, None),
        };
        Ok(Self { user: Some(user).filter(|user| !user.is_empty()), password, database: 0 })
    }
}

/// Host, port and database: what a log may say.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}/{}", self.address, self.credentials.database)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Without user and password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("database", &self.database).finish_non_exhaustive()
    }
}

const REDIS_PORT: u16 = 6379;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_user_and_database() {
        let target = Target::parse("redis://bob:p%40ss@db.local:6390/3").unwrap();
        assert_eq!((target.address.host.as_str(), target.address.port), ("db.local", 6390));
        let Credentials { user, password, database } = &*target.credentials;
        assert_eq!((user.as_deref(), password.as_deref(), *database), (Some("bob"), Some("p@ss"), 3));
        assert_eq!(format!("{target} {target:?}"), "redis://db.local:6390/3 redis://db.local:6390/3");
        assert_eq!(Target::parse("redis://[::1]").unwrap().to_string(), "redis://[::1]:6379/0");
        assert_eq!(Target::parse("redis://:p:w@h/").unwrap().credentials.password.as_deref(), Some("p:w"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_and_without_the_password() {
        for (url, text) in [
            ("rediss://:hunter2@h", "TLS"),
            ("redis+sentinel://:hunter2@h/mymaster", "Sentinel"),
            ("redis://:hunter2@a:1,b:2", "several hosts"),
            ("unix:///hunter2", "scheme `unix`"),
            ("hunter2", "no scheme"),
            ("redis://:hunter2@h:99999", "port"),
            ("redis://:hunter2@h/notanumber", "database"),
            ("redis://:hunter2@", "no host"),
            ("redis://:hunter2@h/0?x", "query"),
            ("redis://:%ffhunter2@h", "not UTF-8"),
        ] {
            let error = format!("{:#}", Target::parse(url).unwrap_err());
            assert!(error.contains(text), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
