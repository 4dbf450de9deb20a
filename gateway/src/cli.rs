//! The command line: what can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    Check {
        /// The policy to check
        policy: PathBuf,
    },
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
