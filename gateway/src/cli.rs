//! The command line: what can be asked for.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tollgate_shared::config::KeyPart;

use crate::config::Settings;

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
    #[command(after_help = EXAMPLES)]
    Gateway(Box<GatewayArgs>),
    /// Check a policy file without serving anything
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Box<CheckArgs>),
}

/// The flags of `tollgate check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The policy to check: JSON, or a Worker's wrangler.toml
    pub policy: PathBuf,

    /// Exit with status 1 if there are warnings
    #[arg(long)]
    pub strict: bool,

    /// A key part that clients cannot choose, because a proxy in front sets it, such as `header:x-user-id`; repeatable
    #[arg(long, value_name = "KEY_PART", value_parser = key_part)]
    pub trust: Vec<KeyPart>,

    /// Say which route this request takes and what it would count under, such as `POST /users/7`
    #[arg(long, value_name = "METHOD PATH")]
    pub request: Option<String>,

    /// A header field of the request, such as `x-api-key: k`; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "request")]
    pub headers: Vec<String>,

    /// The host that the request names
    #[arg(long, default_value = "localhost", requires = "request")]
    pub host: String,

    /// The body of the request
    #[arg(long, requires = "request")]
    pub body: Option<String>,

    /// The address at the other end of the connection
    #[arg(long, value_name = "ADDRESS", default_value = "192.0.2.1", requires = "request")]
    pub peer_ip: IpAddr,
}

fn key_part(text: &str) -> Result<KeyPart, String> {
    KeyPart::parse(text).ok_or_else(|| "expected a part of a key, such as `header:x-user-id`".to_owned())
}

/// The flags of `tollgate gateway`.
#[derive(Args, Default)]
pub struct GatewayArgs {
    /// A TOML file with the names of the flags: `max_body = "10MiB"`; flags and variables win over it
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// Check the configuration and print what would run, without serving anything
    #[arg(long)]
    pub check: bool,

    /// What a file can say too.
    #[command(flatten)]
    pub settings: Settings,
}

/// Without the Redis URL, which may hold a password.
impl std::fmt::Debug for GatewayArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

const CHECK_EXAMPLES: &str = r#"Warnings (a path segment that matches only itself, a route that is never reached, a limit that a client
can leave by making up a value) leave the exit status 0; with --strict it is 1.

Examples:
  tollgate check policy.json --strict
  tollgate check policy.json --request 'POST /users/7' --header 'x-api-key: k' --peer-ip 203.0.113.9"#;

const EXAMPLES: &str = r#"Examples:
  One token, one Redis:
    TOLLGATE_TOKEN=secret TOLLGATE_REDIS=redis://localhost tollgate gateway
    curl -H 'Authorization: Bearer secret' -d '["SET","key","value"]' http://127.0.0.1:8079

  Several tokens, in gateway.toml:
    listen = "0.0.0.0:8079"
    redis_env = "REDIS_URL"
    max_body = "1MiB"

    [[tokens]]
    name = "app"
    token_env = "APP_TOKEN"

    [[tokens]]
    name = "browser"
    token_file = "/run/secrets/browser"
    read_only = true
    key_prefixes = ["public:"]
    max_in_flight = 100

    tollgate gateway --config gateway.toml --check"#;

#[cfg(test)]
mod tests {
    use super::*;

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
