//! What the gateway runs with, checked once: a value of these types cannot be nonsense, and nothing re-checks it later.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};

use crate::auth::Auth;
use crate::cli::GatewayArgs;

/// Everything the gateway needs to know.
#[derive(Debug)]
pub struct Config {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The Redis to serve.
    pub redis: RedisTarget,
    /// Who may use it.
    pub auth: Auth,
    /// Connections to Redis.
    pub connections: NonZeroUsize,
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// What a client may take.
    pub limits: Limits,
}

/// Bounds on what clients may take. The memory of request bodies is at most `in_flight` × `body`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long Redis may take to answer a request.
    pub command_timeout: Duration,
    /// The largest request body, in bytes.
    pub body: usize,
    /// The most commands in one pipeline or transaction.
    pub pipeline: usize,
    /// The most requests under way at once.
    pub in_flight: usize,
    /// The most client connections at once.
    pub connections: usize,
    /// How long an HTTP/1.1 connection may stay idle.
    pub idle: Duration,
}

/// One Redis, reached over plain TCP.
#[derive(Clone)]
pub struct RedisTarget {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User, password and database, as the handshake needs them.
    pub settings: RedisConnectionInfo,
}

impl Config {
    /// Checks the flags, and takes the token from the environment (`var`) or a file.
    pub fn new(args: &GatewayArgs, var: impl FnOnce(&str) -> Option<String>) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            listen: args.listen,
            redis: RedisTarget::parse(&args.redis)?,
            auth: auth(args, var)?,
            connections: at_least_one(args.connections.into()),
            threads: args.threads.map_or(cores, |threads| at_least_one(threads.into())),
            limits: Limits {
                command_timeout: args.command_timeout,
                body: args.max_body,
                pipeline: args.max_pipeline as usize,
                in_flight: args.max_in_flight as usize,
                connections: args.max_connections as usize,
                idle: args.idle_timeout,
            },
        })
    }
}

impl RedisTarget {
    /// Reads `redis://[user:password@]host[:port][/db]`. No error repeats the URL, because it may hold a password.
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
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
        ensure!(!hosts.contains(','), "several hosts (Cluster or Sentinel) are not supported yet, give one");

        // redis-rs names what is wrong and never the URL itself.
        let info = url.into_connection_info().context("the Redis URL cannot be used")?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            bail!("the Redis URL is not a TCP address")
        };
        // RESP2 shapes are what the dialect speaks, and RESP3 would push messages that nobody asked for.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        Ok(Self { host: host.clone(), port: *port, settings })
    }
}

/// Host, port and database: what a log may say.
impl fmt::Display for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}:{}/{}", self.host, self.port, self.settings.db())
    }
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn auth(args: &GatewayArgs, var: impl FnOnce(&str) -> Option<String>) -> anyhow::Result<Auth> {
    if args.no_auth {
        return Ok(Auth::open());
    }
    let (source, token) = match &args.token_file {
        Some(path) => {
            let token = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the token file `{}`", path.display()))?;
            (format!("the file `{}`", path.display()), token)
        }
        None => {
            let name = &args.token_env;
            let token = var(name).with_context(|| {
                format!("no token: set `{name}`, or give `--token-file`, or `--no-auth` to serve everyone")
            })?;
            (format!("the variable `{name}`"), token)
        }
    };
    Auth::token(token.trim()).with_context(|| format!("the token in {source} cannot be used"))
}

fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Task};

    fn config(flags: &[&str], token: Option<&str>) -> anyhow::Result<Config> {
        let args = ["tollgate", "gateway", "--redis", "redis://localhost"].iter().chain(flags);
        match Cli::parse_from(args).task {
            Task::Gateway(args) => Config::new(&args, |_| token.map(str::to_owned)),
            Task::Check { .. } => unreachable!(),
        }
    }

    #[test]
    fn a_token_is_required_unless_refused_explicitly() {
        assert!(config(&[], None).unwrap_err().to_string().contains("no token: set `TOLLGATE_TOKEN`"));
        assert!(config(&[], Some(" ")).is_err());
        assert!(config(&[], Some("two words")).is_err());
        assert!(config(&[], Some("secret")).is_ok());
        assert!(config(&["--no-auth"], None).is_ok());
        assert!(config(&["--token-file", "/does/not/exist"], Some("secret")).is_err());
    }

    #[test]
    fn redis_url_gives_host_port_user_and_database() {
        let target = RedisTarget::parse("redis://bob:p%40ss@db.local:6390/3").unwrap();
        assert_eq!((target.host.as_str(), target.port, target.settings.db()), ("db.local", 6390, 3));
        assert_eq!((target.settings.username(), target.settings.password()), (Some("bob"), Some("p@ss")));
        assert_eq!(format!("{target} {target:?}"), "redis://db.local:6390/3 redis://db.local:6390/3");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_and_without_the_password() {
        for (url, text) in [
            ("rediss://:hunter2@h", "TLS"),
            ("redis+sentinel://:hunter2@h/mymaster", "Sentinel"),
            ("redis://:hunter2@a:1,b:2", "several hosts"),
            ("unix:///hunter2", "scheme `unix`"),
            ("hunter2", "no scheme"),
            ("redis://:hunter2@h:99999", "cannot be used"),
            ("redis://:hunter2@h/notanumber", "cannot be used"),
        ] {
            let error = format!("{:#}", RedisTarget::parse(url).unwrap_err());
            assert!(error.contains(text), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
