//! The command line: what can be asked for, with the defaults and bounds of every number.
//!
//! Every flag is an environment variable too, so that a container needs no arguments. Secrets are not flags: a process
//! list shows those. The token is named (`--token-env`) or read from a file; the Redis URL, which may hold a password, is
//! kept out of `--help` and is checked after parsing, because clap repeats a value that it refuses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Rate limits, revocation and the rest of the Redis migration, outside the application.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// The things the program can do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Serve a Redis over HTTP in the Upstash REST dialect
    Gateway(Box<GatewayArgs>),
    /// Check a policy file without serving anything
    Check {
        /// The policy to check
        policy: PathBuf,
    },
}

/// The flags of `tollgate gateway`.
#[derive(Args)]
pub struct GatewayArgs {
    /// Where Redis is: `redis://[user:password@]host[:port][/db]`
    #[arg(long, env = "TOLLGATE_REDIS", hide_env_values = true, value_name = "URL")]
    pub redis: String,

    /// The address to serve on; port 0 takes a free one and logs it
    #[arg(long, env = "TOLLGATE_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8079")]
    pub listen: SocketAddr,

    /// The environment variable that holds the token clients present
    #[arg(long, env = "TOLLGATE_TOKEN_ENV", value_name = "NAME", default_value = "TOLLGATE_TOKEN")]
    pub token_env: String,

    /// The file that holds the token; wins over the environment variable
    #[arg(long, env = "TOLLGATE_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// Serve without a token: everyone who reaches the port owns the Redis
    #[arg(long, env = "TOLLGATE_NO_AUTH", conflicts_with = "token_file")]
    pub no_auth: bool,

    /// Connections to Redis, each shared by many requests (1 to 64)
    #[arg(long, env = "TOLLGATE_CONNECTIONS", value_name = "N", default_value = "2",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: u16,

    /// How long Redis may take to answer a request (1ms to 5m)
    #[arg(long, env = "TOLLGATE_COMMAND_TIMEOUT", value_name = "SPAN", default_value = "1s", value_parser = command_timeout)]
    pub command_timeout: Duration,

    /// The largest request body (1KiB to 512MiB)
    #[arg(long, env = "TOLLGATE_MAX_BODY", value_name = "SIZE", default_value = "10MiB", value_parser = max_body)]
    pub max_body: usize,

    /// The most commands in one pipeline or transaction (1 to 100000)
    #[arg(long, env = "TOLLGATE_MAX_PIPELINE", value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_pipeline: u32,

    /// The most requests under way at once; more are answered 503 (1 to 65536)
    #[arg(long, env = "TOLLGATE_MAX_IN_FLIGHT", value_name = "N", default_value = "1024",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_in_flight: u32,

    /// The most client connections at once; more wait to be accepted (1 to 65536)
    #[arg(long, env = "TOLLGATE_MAX_CONNECTIONS", value_name = "N", default_value = "4096",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections: u32,

    /// How long an HTTP/1.1 client connection may stay idle (1s to 24h)
    #[arg(long, env = "TOLLGATE_IDLE_TIMEOUT", value_name = "SPAN", default_value = "5m", value_parser = idle_timeout)]
    pub idle_timeout: Duration,

    /// Worker threads (1 to 256) [default: the number of cores]
    #[arg(long, env = "TOLLGATE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

/// Without the Redis URL, which may hold a password.
impl std::fmt::Debug for GatewayArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayArgs").field("listen", &self.listen).finish_non_exhaustive()
    }
}

fn command_timeout(text: &str) -> Result<Duration, String> {
    span(text, Duration::from_millis(1), Duration::from_mins(5))
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    span(text, Duration::from_secs(1), Duration::from_hours(24))
}

fn span(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let (count, unit) = split_unit(text)?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number and `ms`, `s`, `m` or `h`".into()),
    };
    let span = Duration::from_millis(count.saturating_mul(unit));
    if (least..=most).contains(&span) { Ok(span) } else { Err(format!("expected {least:?} to {most:?}")) }
}

fn max_body(text: &str) -> Result<usize, String> {
    let (count, unit) = split_unit(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err("expected a number and `B`, `KiB` or `MiB`".into()),
    };
    usize::try_from(count.saturating_mul(unit))
        .ok()
        .filter(|bytes| (1 << 10..=512 << 20).contains(bytes))
        .ok_or_else(|| "expected 1KiB to 512MiB".into())
}

fn split_unit(text: &str) -> Result<(u64, &str), String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    Ok((count.parse().map_err(|_| "expected a whole number and a unit")?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_carry_units_and_bounds() {
        assert_eq!(command_timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(command_timeout("5m"), Ok(Duration::from_secs(300)));
        assert!(command_timeout("6m").is_err());
        assert!(command_timeout("0s").is_err());
        assert!(command_timeout("1").is_err());
        assert!(command_timeout("99999999999999999999s").is_err());
        assert!(idle_timeout("18446744073709551615h").is_err());
        assert_eq!(max_body("10MiB"), Ok(10 << 20));
        assert_eq!(max_body("2048"), Ok(2048));
        assert!(max_body("1B").is_err());
        assert!(max_body("1GB").is_err());
        assert!(max_body("").is_err());
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn debug_output_keeps_the_password_out() {
        let cli = Cli::parse_from(["tollgate", "gateway", "--redis", "redis://:hunter2@localhost"]);
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
