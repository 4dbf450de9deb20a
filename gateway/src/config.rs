//! What the gateway runs with, checked once: a value of these types cannot be nonsense, and nothing re-checks it later.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;

use crate::auth::Auth;
use crate::cli::GatewayArgs;
use crate::target::Target;

/// Everything the gateway needs to know.
#[derive(Debug)]
pub struct Config {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The Redis to serve.
    pub redis: Target,
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
    /// How long a client connection may stay idle.
    pub idle: Duration,
    /// The largest head of a request, in bytes.
    pub header: usize,
    /// The most bytes of replies to one request.
    pub response: usize,
    /// The most bytes that the bodies of all requests may take.
    pub memory: usize,
    /// How long the body of a request may take.
    pub body_time: Duration,
    /// How long a client may read nothing of an answer.
    pub write: Duration,
}

impl Config {
    /// Checks the flags, and takes the token from the environment (`var`) or a file.
    pub fn new(args: &GatewayArgs, var: impl FnOnce(&str) -> Option<String>) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            listen: args.listen,
            redis: Target::parse(&args.redis)?,
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
                header: 32 << 10,
                response: 100 << 20,
                memory: 1 << 30,
                body_time: Duration::from_secs(30),
                write: Duration::from_secs(30),
            },
        })
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
}
