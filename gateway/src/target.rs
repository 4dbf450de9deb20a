//! Which Redis to serve, and how to reach it: a URL and what a URL cannot say.

mod tls;

use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

pub use tls::TlsFiles;
pub(crate) use tls::{Tls, TlsError};

/// One Redis, whatever its topology. Two that are equal can share connections.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub(crate) place: Place,
    /// Who we are there.
    pub(crate) credentials: Arc<Credentials>,
    /// How connections are encrypted; nothing when they are not.
    pub(crate) tls: Option<Tls>,
    /// Who answers commands that only read.
    pub(crate) read_from: ReadFrom,
}

/// What a URL cannot say.
#[derive(Clone, Default)]
pub struct TargetOptions {
    /// Certificates and keys, for the schemes that begin with `rediss`.
    pub tls: TlsFiles,
    /// Who answers commands that only read.
    pub read_from: ReadFrom,
    /// The user at the sentinels; nothing for the default one.
    pub sentinel_user: Option<String>,
    /// The password at the sentinels, which is not the one of the servers they watch.
    pub sentinel_password: Option<String>,
}

/// Who answers commands that only read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadFrom {
    /// The master: what was written can be read.
    #[default]
    Master,
    /// A replica that is up, else the master: what is read may be a little old.
    Replica,
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At one address.
    Single(Address),
    /// Where these nodes say.
    Cluster(Vec<Address>),
    /// Where these sentinels say.
    Sentinel(Sentinels),
}

/// Who knows where the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sentinels {
    /// Where they are.
    pub(crate) addresses: Vec<Address>,
    /// What they call the master.
    pub(crate) master: String,
    /// Who we are there.
    pub(crate) credentials: Arc<Credentials>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    /// The TCP port.
    pub(crate) port: u16,
}

/// What a connection begins with.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The ACL user; nothing for the default one.
    pub(crate) user: Option<String>,
    /// The password.
    pub(crate) password: Option<String>,
    /// The database number.
    pub(crate) database: u32,
}

impl Target {
    /// Reads one of
    ///
    /// ```text
    /// redis://[user:password@]host[:port][/database]
    /// redis+cluster://[user:password@]host[:port][,host[:port]…]
    /// redis+sentinel://[user:password@]host[:port][,host[:port]…]/master[/database]
    /// ```
    ///
    /// or the same with `rediss` for TLS. User and password are those of the servers; percent signs encode what a URL
    /// cannot hold. No error repeats the URL, because it may hold a password.
    ///
    /// # Errors
    /// The URL or a file cannot be used; the error says why and what would do.
    pub fn parse(url: &str, options: &TargetOptions) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context(
            "the Redis URL has no scheme: write `redis://host:port`, `redis+cluster://…` or `redis+sentinel://…`",
        )?;
        ensure!(
            !rest.contains(['?', '#']),
            "the Redis URL has a query or a fragment, which mean nothing here (in a password write `%3F` or `%23`)"
        );
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let mut credentials = login.map(Credentials::parse).transpose()?.unwrap_or_default();
        let (encrypted, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis").unwrap_or(scheme)),
        };
        let place = match kind {
            "" => {
                credentials.database = database(path)?;
                Place::Single(one(hosts)?)
            }
            "+cluster" => {
                ensure!(
                    matches!(path, "" | "0"),
                    "the Redis URL names a database, but a cluster has only number 0: leave it out"
                );
                Place::Cluster(Address::parse_list(hosts, REDIS_PORT)?)
            }
            "+sentinel" => {
                let (master, number) = path.split_once('/').unwrap_or((path, ""));
                credentials.database = database(number)?;
                Place::Sentinel(Sentinels {
                    addresses: Address::parse_list(hosts, SENTINEL_PORT)?,
                    master: master_name(master)?,
                    credentials: Arc::new(options.sentinel_credentials()?),
                })
            }
            _ => bail!(
                "the Redis URL has the scheme `{scheme}`, expected `redis`, `redis+cluster` or `redis+sentinel`, \
                 or one with `rediss` for TLS"
            ),
        };
        if !matches!(place, Place::Sentinel(_)) {
            ensure!(
                options.sentinel_user.is_none() && options.sentinel_password.is_none(),
                "a user or password for sentinels is given, but the Redis URL is not `redis+sentinel://`"
            );
        }
        ensure!(
            options.read_from == ReadFrom::Master || !matches!(place, Place::Single(_)),
            "reads from replicas need `redis+cluster://` or `redis+sentinel://`: \
             behind `redis://` no other servers are known"
        );
        let tls = if encrypted {
            Some(Tls::load(&options.tls)?)
        } else {
            ensure!(
                options.tls == TlsFiles::default(),
                "settings for TLS are given, but the Redis URL begins with `redis`: write `rediss` for TLS"
            );
            None
        };
        Ok(Self { place, credentials: Arc::new(credentials), tls, read_from: options.read_from })
    }
}

impl TargetOptions {
    fn sentinel_credentials(&self) -> anyhow::Result<Credentials> {
        ensure!(
            self.sentinel_user.is_none() || self.sentinel_password.is_some(),
            "a user for the sentinels is given, but no password"
        );
        let (user, password) = (self.sentinel_user.clone(), self.sentinel_password.clone());
        Ok(Credentials { user, password, database: 0 })
    }
}

impl Address {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    fn parse(text: &str, usual: u16) -> anyhow::Result<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => {
                let port = port.strip_prefix(':');
                (host, Some(port.context("something follows a `]` in the Redis URL that is no `:port`")?))
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        ensure!(!host.is_empty(), "the Redis URL names no host: write `redis://host:port`");
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .context("a port in the Redis URL is not a number from 1 to 65535")?,
            None => usual,
        };
        Ok(Self { host: host.to_owned(), port })
    }

    fn parse_list(text: &str, usual: u16) -> anyhow::Result<Vec<Self>> {
        let addresses = text.split(',').map(|address| Self::parse(address, usual));
        addresses.collect::<anyhow::Result<Vec<_>>>()
    }
}

impl Credentials {
    fn parse(login: &str) -> anyhow::Result<Self> {
        let (user, password) = login.split_once(':').context(
            "the Redis URL has a user without a password: write `user:password@` or `:password@` before the host",
        )?;
        let user = Some(decode(user, "the user")?).filter(|user| !user.is_empty());
        let password = Some(decode(password, "the password")?).filter(|password| !password.is_empty());
        ensure!(user.is_none() || password.is_some(), "the Redis URL has a user with an empty password");
        Ok(Self { user, password, database: 0 })
    }
}

fn one(hosts: &str) -> anyhow::Result<Address> {
    ensure!(
        !hosts.contains(','),
        "the Redis URL names several hosts: write `redis+cluster://` or `redis+sentinel://`, or give one host"
    );
    Address::parse(hosts, REDIS_PORT)
}

fn database(number: &str) -> anyhow::Result<u32> {
    if number.is_empty() {
        return Ok(0);
    }
    number.parse().ok().context("the database in the Redis URL is not a number")
}

fn master_name(text: &str) -> anyhow::Result<String> {
    ensure!(
        !text.is_empty(),
        "the Redis URL names no master: write `redis+sentinel://host:port/name`, with the name the sentinels use"
    );
    decode(text, "the master's name")
}

fn decode(text: &str, what: &str) -> anyhow::Result<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok();
    decoded.map(String::from).with_context(|| format!("{what} in the Redis URL is not UTF-8"))
}

/// Hosts, ports and database: what a log may say.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let database = self.credentials.database;
        match &self.place {
            Place::Single(address) => write!(f, "{scheme}://{address}/{database}"),
            Place::Cluster(nodes) => {
                write!(f, "{scheme}+cluster://")?;
                write_list(f, nodes)
            }
            Place::Sentinel(Sentinels { addresses, master, .. }) => {
                write!(f, "{scheme}+sentinel://")?;
                write_list(f, addresses)?;
                write!(f, "/{master}/{database}")
            }
        }
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

/// Without user and password.
impl fmt::Debug for TargetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, read_from, .. } = self;
        f.debug_struct("TargetOptions")
            .field("tls", tls)
            .field("read_from", read_from)
            .finish_non_exhaustive()
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, addresses: &[Address]) -> fmt::Result {
    for (number, address) in addresses.iter().enumerate() {
        if number > 0 {
            f.write_str(",")?;
        }
        fmt::Display::fmt(address, f)?;
    }
    Ok(())
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> anyhow::Result<Target> {
        Target::parse(url, &TargetOptions::default())
    }

    #[test]
    fn a_url_gives_host_port_user_and_database() {
        let target = parse("redis://bob:p%40ss@db.local:6390/3").unwrap();
        assert_eq!(target.place, Place::Single(Address { host: "db.local".into(), port: 6390 }));
        let Credentials { user, password, database } = &*target.credentials;
        assert_eq!((user.as_deref(), password.as_deref(), *database), (Some("bob"), Some("p@ss"), 3));
        assert_eq!(format!("{target} {target:?}"), "redis://db.local:6390/3 redis://db.local:6390/3");
        assert_eq!(parse("redis://[::1]").unwrap().to_string(), "redis://[::1]:6379/0");
        assert_eq!(parse("redis://:p:w@h/").unwrap().credentials.password.as_deref(), Some("p:w"));
        assert_eq!(*parse("redis://:@h").unwrap().credentials, Credentials::default());
    }

    #[test]
    fn clusters_and_sentinels_have_several_hosts() {
        let target = parse("redis+cluster://bob:hunter2@a,b:1,[::1]:2").unwrap();
        assert_eq!(target.to_string(), "redis+cluster://a:6379,b:1,[::1]:2");
        assert_eq!(target.credentials.user.as_deref(), Some("bob"));

        let options = TargetOptions {
            sentinel_user: Some("watcher".into()),
            sentinel_password: Some("hunter3".into()),
            read_from: ReadFrom::Replica,
            ..TargetOptions::default()
        };
        let target = Target::parse("redis+sentinel://:hunter2@a,b:1/my%20master/3", &options).unwrap();
        assert_eq!(target.to_string(), "redis+sentinel://a:26379,b:1/my master/3");
        let Place::Sentinel(sentinels) = &target.place else { panic!("{target}") };
        assert_eq!(sentinels.credentials.password.as_deref(), Some("hunter3"));
        assert_eq!(target.credentials.password.as_deref(), Some("hunter2"));
        assert_eq!((target.credentials.database, target.read_from), (3, ReadFrom::Replica));
        assert!(!format!("{target:?} {options:?} {sentinels:?}").contains("hunter"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_and_without_the_password() {
        for (url, text) in [
            ("redis://:hunter2@a:1,b:2", "several hosts: write `redis+cluster://`"),
            ("unix:///hunter2", "scheme `unix`"),
            ("redis+clusters://:hunter2@h", "scheme `redis+clusters`"),
            ("hunter2", "no scheme: write `redis://host:port`"),
            ("redis://:hunter2@h:99999", "port"),
            ("redis://:hunter2@h:0", "port"),
            ("redis://:hunter2@[::1]6379", "follows a `]`"),
            ("redis://:hunter2@h/notanumber", "database"),
            ("redis://:hunter2@", "no host"),
            ("redis://:hunter2@h/0?x", "query"),
            ("redis://:%ffhunter2@h", "password in the Redis URL is not UTF-8"),
            ("redis://hunter2@h", "user without a password"),
            ("redis://hunter2:@h", "empty password"),
            ("redis+cluster://:hunter2@h/3", "a cluster has only number 0"),
            ("redis+cluster://:hunter2@a,,b", "no host"),
            ("redis+sentinel://:hunter2@h", "names no master"),
            ("redis+sentinel://:hunter2@h/m/x", "database"),
        ] {
            let error = format!("{:#}", parse(url).unwrap_err());
            assert!(error.contains(text), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn settings_that_would_have_no_effect_are_refused() {
        let replica = TargetOptions { read_from: ReadFrom::Replica, ..TargetOptions::default() };
        let named = TlsFiles { server_name: Some("redis.local".into()), ..TlsFiles::default() };
        let tls = TargetOptions { tls: named, ..TargetOptions::default() };
        let user = TargetOptions { sentinel_user: Some("bob".into()), ..TargetOptions::default() };
        for (url, options, text) in [
            ("redis://h", &replica, "reads from replicas need"),
            ("redis://h", &tls, "write `rediss` for TLS"),
            ("redis+cluster://h", &tls, "write `rediss` for TLS"),
            ("redis://h", &user, "is not `redis+sentinel://`"),
            ("redis+sentinel://h/m", &user, "but no password"),
        ] {
            let error = Target::parse(url, options).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
