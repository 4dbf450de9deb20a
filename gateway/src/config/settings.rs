//! What can be set: by a flag, by an environment variable or in a file.
//!
//! One struct is all three. The flag `--max-body` is the variable `TOLLGATE_MAX_BODY` and the line `max_body = "10MiB"`; a flag
//! wins over a variable, a variable over the file. Only what cannot be said in one line, several tokens, is for the file alone.
//!
//! Secrets are not flags, because a process list shows those: a token is named or read from a file, and so can the URL of
//! Redis be, which may hold a password. What clap shows of the environment is kept free of both.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::address::{Listen, Mode};
use super::origin::{Host, Origin};
use super::units::{Count, Size, Span};
use crate::target::ReadFrom;

/// What can be set; what is not set has the default that its text names.
#[derive(Args, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where Redis is: `redis://[user:password@]host[:port][/db]`
    ///
    /// A cluster is `redis+cluster://[user:password@]host:port[,host:port…]`, one behind sentinels
    /// `redis+sentinel://[user:password@]host:port[,host:port…]/master[/db]`; all of them speak TLS with `rediss` instead of
    /// `redis`. A password in a flag is for everyone to see who can list processes: set the variable instead, or one of the
    /// next two.
    #[arg(long, env = "TOLLGATE_REDIS", hide_env_values = true, value_name = "URL", help_heading = REDIS)]
    pub(super) redis: Option<String>,

    /// The environment variable that holds the URL of Redis
    #[arg(long, env = "TOLLGATE_REDIS_ENV", value_name = "NAME", help_heading = REDIS)]
    pub(super) redis_env: Option<String>,

    /// The file that holds the URL of Redis
    #[arg(long, env = "TOLLGATE_REDIS_FILE", value_name = "PATH", help_heading = REDIS)]
    pub(super) redis_file: Option<PathBuf>,

    /// The authorities to trust for `rediss://`, a PEM file [default: those that this machine trusts]
    #[arg(long, env = "TOLLGATE_REDIS_CA", value_name = "PATH", help_heading = REDIS)]
    pub(super) redis_ca: Option<PathBuf>,

    /// Our certificate for `rediss://`, a PEM file
    #[arg(long, env = "TOLLGATE_REDIS_CERT", value_name = "PATH", help_heading = REDIS)]
    pub(super) redis_cert: Option<PathBuf>,

    /// The key of that certificate, a PEM file
    #[arg(long, env = "TOLLGATE_REDIS_KEY", value_name = "PATH", help_heading = REDIS)]
    pub(super) redis_key: Option<PathBuf>,

    /// The name to ask for and to verify instead of the host of a `rediss://` URL
    #[arg(long, env = "TOLLGATE_REDIS_SERVER_NAME", value_name = "NAME", help_heading = REDIS)]
    pub(super) redis_server_name: Option<String>,

    /// The user at the sentinels, if they ask for one
    #[arg(long, env = "TOLLGATE_SENTINEL_USER", value_name = "NAME", help_heading = REDIS)]
    pub(super) sentinel_user: Option<String>,

    /// The environment variable that holds the password for the sentinels
    #[arg(long, env = "TOLLGATE_SENTINEL_PASSWORD_ENV", value_name = "NAME", help_heading = REDIS)]
    pub(super) sentinel_password_env: Option<String>,

    /// The file that holds the password for the sentinels
    #[arg(long, env = "TOLLGATE_SENTINEL_PASSWORD_FILE", value_name = "PATH", help_heading = REDIS)]
    pub(super) sentinel_password_file: Option<PathBuf>,

    /// Who answers commands that only read: `replica` may answer what is a little old [default: master]
    #[arg(long, env = "TOLLGATE_READ_FROM", value_name = "WHO", value_enum, help_heading = REDIS)]
    pub(super) read_from: Option<ReadFrom>,

    /// Connections to Redis for each thread, each shared by many requests, and by all tokens with the same Redis (1 to 64)
    /// [default: 1]
    #[arg(long, env = "TOLLGATE_CONNECTIONS", value_name = "N", help_heading = REDIS)]
    pub(super) connections: Option<Count<1, 64>>,

    /// How long Redis may take to answer a request (1ms to 5m) [default: 1s]
    #[arg(long, env = "TOLLGATE_COMMAND_TIMEOUT", value_name = "SPAN", help_heading = REDIS)]
    pub(super) command_timeout: Option<Span<1, 300_000>>,

    /// The environment variable that holds the token clients present [default: TOLLGATE_TOKEN]
    #[arg(long, env = "TOLLGATE_TOKEN_ENV", value_name = "NAME", help_heading = TOKENS)]
    pub(super) token_env: Option<String>,

    /// The file that holds the token; wins over the environment variable
    #[arg(long, env = "TOLLGATE_TOKEN_FILE", value_name = "PATH", help_heading = TOKENS)]
    pub(super) token_file: Option<PathBuf>,

    /// Serve without a token: everyone who reaches the port owns the Redis
    ///
    /// But for web pages, which browsers let send requests from anywhere: those of other origins
    /// are refused, see --origins, and so is a `Host` that may be a page's own, see --hosts. Nor
    /// may a browser open a command in a window: use a program.
    #[arg(long, env = "TOLLGATE_NO_AUTH", value_name = "BOOL", help_heading = TOKENS,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) no_auth: Option<bool>,

    /// Commands that have to be named to be allowed, separated by commas: `SHUTDOWN,CONFIG SET`
    ///
    /// These are what stops or changes the server, disturbs its other clients, tells its passwords or reaches into another
    /// database; the error that refuses one says its name. `[[tokens]]` have lists of their own.
    #[arg(long, env = "TOLLGATE_ALLOW", value_name = "COMMANDS", value_delimiter = ',', help_heading = TOKENS)]
    pub(super) allow: Option<Vec<String>>,

    /// Origins whose web pages may use the gateway, such as `https://app.example`, with commas between; browsers are told so
    /// (CORS), and pages of others are refused. What a page can read, everybody can who reads the page, its token included
    #[arg(long, env = "TOLLGATE_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', help_heading = TOKENS)]
    pub(super) origins: Option<Vec<Origin>>,

    /// Names by which those may ask for the gateway who need no token, with commas between; addresses, `localhost`, names without a
    /// dot and those below `local`, `internal`, `svc` and `test` need not be named
    #[arg(long, env = "TOLLGATE_HOSTS", value_name = "HOSTS", value_delimiter = ',', help_heading = TOKENS)]
    pub(super) hosts: Option<Vec<Host>>,

    /// The address to serve on: `host:port`, where port 0 takes a free one and logs it, or `unix:/path` [default: 127.0.0.1:8079]
    #[arg(long, env = "TOLLGATE_LISTEN", value_name = "ADDRESS", help_heading = LISTENER)]
    pub(super) listen: Option<Listen>,

    /// Who may connect to a unix socket, as an octal mode [default: 600]
    #[arg(long, env = "TOLLGATE_LISTEN_MODE", value_name = "MODE", help_heading = LISTENER)]
    pub(super) listen_mode: Option<Mode>,

    /// Another address, for health and metrics of all tokens, without a token; `/health/detailed` and `/metrics` are then on no
    /// other
    #[arg(long, env = "TOLLGATE_ADMIN_LISTEN", value_name = "ADDRESS", help_heading = LISTENER)]
    pub(super) admin_listen: Option<Listen>,

    /// The certificate to serve HTTPS with, a PEM file with those between it and its authority
    #[arg(long, env = "TOLLGATE_TLS_CERT", value_name = "PATH", help_heading = LISTENER)]
    pub(super) tls_cert: Option<PathBuf>,

    /// The key of that certificate, a PEM file; both files are read again when they change
    #[arg(long, env = "TOLLGATE_TLS_KEY", value_name = "PATH", help_heading = LISTENER)]
    pub(super) tls_key: Option<PathBuf>,

    /// Worker threads (1 to 256) [default: the number of cores]
    #[arg(long, env = "TOLLGATE_THREADS", value_name = "N", help_heading = LISTENER)]
    pub(super) threads: Option<Count<1, 256>>,

    /// The largest request body (1KiB to 512MiB) [default: 10MiB]
    #[arg(long, env = "TOLLGATE_MAX_BODY", value_name = "SIZE", help_heading = LIMITS)]
    pub(super) max_body: Option<Size<{ KIB }, { 512 * MIB }>>,

    /// The largest head of a request, its path included (4KiB to 256KiB) [default: 32KiB]
    #[arg(long, env = "TOLLGATE_MAX_HEADER", value_name = "SIZE", help_heading = LIMITS)]
    pub(super) max_header: Option<Size<{ 4 * KIB }, { 256 * KIB }>>,

    /// The most that Redis may answer to one request (1KiB to 1GiB) [default: 100MiB]
    ///
    /// What is longer is thrown away as it comes. Redis itself has all of it in memory: see its
    /// `client-output-buffer-limit`.
    #[arg(long, env = "TOLLGATE_MAX_RESPONSE", value_name = "SIZE", help_heading = LIMITS)]
    pub(super) max_response: Option<Size<{ KIB }, { GIB }>>,

    /// The most commands in one pipeline or transaction (1 to 100000) [default: 1000]
    #[arg(long, env = "TOLLGATE_MAX_PIPELINE", value_name = "N", help_heading = LIMITS)]
    pub(super) max_pipeline: Option<Count<1, 100_000>>,

    /// The most requests under way at once; more are answered 503 (1 to 65536) [default: 1024]
    #[arg(long, env = "TOLLGATE_MAX_IN_FLIGHT", value_name = "N", help_heading = LIMITS)]
    pub(super) max_in_flight: Option<Count<1, 65_536>>,

    /// The most requests of one token under way at once; more are answered 429 (1 to 65536)
    /// [default: three quarters of --max-in-flight where there are several tokens]
    #[arg(long, env = "TOLLGATE_MAX_IN_FLIGHT_PER_TOKEN", value_name = "N", help_heading = LIMITS)]
    pub(super) max_in_flight_per_token: Option<Count<1, 65_536>>,

    /// The most subscriptions and monitors at once; more are answered 503 (1 to 65536) [default: 1024]
    #[arg(long, env = "TOLLGATE_MAX_STREAMS", value_name = "N", help_heading = LIMITS)]
    pub(super) max_streams: Option<Count<1, 65_536>>,

    /// The most subscriptions and monitors of one token at once; more are answered 429 (1 to 65536)
    /// [default: three quarters of --max-streams where there are several tokens]
    #[arg(long, env = "TOLLGATE_MAX_STREAMS_PER_TOKEN", value_name = "N", help_heading = LIMITS)]
    pub(super) max_streams_per_token: Option<Count<1, 65_536>>,

    /// The most client connections at once; more wait to be accepted (1 to 65536) [default: 4096]
    #[arg(long, env = "TOLLGATE_MAX_CONNECTIONS", value_name = "N", help_heading = LIMITS)]
    pub(super) max_connections: Option<Count<1, 65_536>>,

    /// The most connections of one peer, an address or an IPv6 network of 64 bits, at once; more are closed (1 to 65536)
    /// [default: three quarters of --max-connections]
    ///
    /// A load balancer in front is one peer: it can use as many as this says. Unix sockets have no peers.
    #[arg(long, env = "TOLLGATE_MAX_CONNECTIONS_PER_PEER", value_name = "N", help_heading = LIMITS)]
    pub(super) max_connections_per_peer: Option<Count<1, 65_536>>,

    /// The most memory for request bodies and answers, until they are written (1MiB to 64GiB) [default: 256MiB]
    ///
    /// What is read from a body is counted: 6 bytes more for each argument, 256 for each command,
    /// and three times as much in a cluster where several nodes get a part. 20 KiB are reserved for
    /// an answer before Redis is asked; without them the request is answered 503, and nothing has
    /// run. A larger answer takes what Redis sends, from the moment Redis says how long that is;
    /// without memory for it, it is thrown away, and the request is answered 503 with a text that
    /// says that it has run. A sixteenth is left to small requests. The process takes up to 64 MiB
    /// more, and 20 to 50 KiB for each client connection, over HTTP/2 another KiB for each of the up
    /// to 100 streams that it has had at once.
    #[arg(long, env = "TOLLGATE_MAX_MEMORY", value_name = "SIZE", help_heading = LIMITS)]
    pub(super) max_memory: Option<Size<{ MIB }, { 64 * GIB }>>,

    /// How long the head of a request may take, from its first byte or from the beginning of the connection, a TLS handshake
    /// included (100ms to 10m) [default: 10s]
    ///
    /// A connection on which nobody has shown a token may be idle for no longer either.
    #[arg(long, env = "TOLLGATE_HEADER_TIMEOUT", value_name = "SPAN", help_heading = LIMITS)]
    pub(super) header_timeout: Option<Span<100, 600_000>>,

    /// How long a request body may take to arrive (100ms to 10m) [default: 30s]
    #[arg(long, env = "TOLLGATE_BODY_TIMEOUT", value_name = "SPAN", help_heading = LIMITS)]
    pub(super) body_timeout: Option<Span<100, 600_000>>,

    /// How long a client may read nothing of its answer before it is let go (100ms to 10m) [default: 30s]
    #[arg(long, env = "TOLLGATE_WRITE_TIMEOUT", value_name = "SPAN", help_heading = LIMITS)]
    pub(super) write_timeout: Option<Span<100, 600_000>>,

    /// How long a client connection may stay idle (1s to 24h) [default: 5m]
    #[arg(long, env = "TOLLGATE_IDLE_TIMEOUT", value_name = "SPAN", help_heading = LIMITS)]
    pub(super) idle_timeout: Option<Span<1_000, 86_400_000>>,

    /// How long requests may finish after SIGTERM (0s to 10m) [default: 10s]
    #[arg(long, env = "TOLLGATE_DRAIN", value_name = "SPAN", help_heading = OPERATION)]
    pub(super) drain: Option<Span<0, 600_000>>,

    /// The form of logs, which go to stderr [default: text]
    #[arg(long, env = "TOLLGATE_LOG_FORMAT", value_name = "FORMAT", value_enum, help_heading = OPERATION)]
    pub(super) log_format: Option<LogFormat>,

    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter as in `RUST_LOG` [default: info]
    #[arg(long, env = "TOLLGATE_LOG", value_name = "FILTER", help_heading = OPERATION)]
    pub(super) log: Option<String>,

    /// Log every request: method, route, status, time, bytes and commands; never a path, which may hold keys
    #[arg(long, env = "TOLLGATE_ACCESS_LOG", value_name = "BOOL", help_heading = OPERATION,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) access_log: Option<bool>,

    /// Several tokens; then those above that are about one must not be set.
    #[arg(skip)]
    #[serde(default)]
    pub(super) tokens: Vec<TokenSettings>,
}

/// A token, what it opens and what it may do: a `[[tokens]]` table. What it leaves out is as for the gateway as a whole.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSettings {
    /// What logs and metrics call it.
    pub(super) name: String,
    pub(super) token_env: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) redis: Option<String>,
    pub(super) redis_env: Option<String>,
    pub(super) redis_file: Option<PathBuf>,
    pub(super) redis_ca: Option<PathBuf>,
    pub(super) redis_cert: Option<PathBuf>,
    pub(super) redis_key: Option<PathBuf>,
    pub(super) redis_server_name: Option<String>,
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password_env: Option<String>,
    pub(super) sentinel_password_file: Option<PathBuf>,
    pub(super) read_from: Option<ReadFrom>,
    pub(super) connections: Option<Count<1, 64>>,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) commands: Vec<String>,
    #[serde(default)]
    pub(super) allow: Vec<String>,
    #[serde(default)]
    pub(super) key_prefixes: Vec<String>,
    pub(super) origins: Option<Vec<Origin>>,
    pub(super) max_in_flight: Option<Count<1, 65_536>>,
    pub(super) max_streams: Option<Count<1, 65_536>>,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object for each line, for machines.
    Json,
}

impl Settings {
    /// What is not set here is as in `file`.
    pub(super) fn or(self, file: Self) -> Self {
        Self {
            redis: self.redis.or(file.redis),
            redis_env: self.redis_env.or(file.redis_env),
            redis_file: self.redis_file.or(file.redis_file),
            redis_ca: self.redis_ca.or(file.redis_ca),
            redis_cert: self.redis_cert.or(file.redis_cert),
            redis_key: self.redis_key.or(file.redis_key),
            redis_server_name: self.redis_server_name.or(file.redis_server_name),
            sentinel_user: self.sentinel_user.or(file.sentinel_user),
            sentinel_password_env: self.sentinel_password_env.or(file.sentinel_password_env),
            sentinel_password_file: self.sentinel_password_file.or(file.sentinel_password_file),
            read_from: self.read_from.or(file.read_from),
            connections: self.connections.or(file.connections),
            command_timeout: self.command_timeout.or(file.command_timeout),
            token_env: self.token_env.or(file.token_env),
            token_file: self.token_file.or(file.token_file),
            no_auth: self.no_auth.or(file.no_auth),
            allow: self.allow.or(file.allow),
            origins: self.origins.or(file.origins),
            hosts: self.hosts.or(file.hosts),
            listen: self.listen.or(file.listen),
            listen_mode: self.listen_mode.or(file.listen_mode),
            admin_listen: self.admin_listen.or(file.admin_listen),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            threads: self.threads.or(file.threads),
            max_body: self.max_body.or(file.max_body),
            max_header: self.max_header.or(file.max_header),
            max_response: self.max_response.or(file.max_response),
            max_pipeline: self.max_pipeline.or(file.max_pipeline),
            max_in_flight: self.max_in_flight.or(file.max_in_flight),
            max_in_flight_per_token: self.max_in_flight_per_token.or(file.max_in_flight_per_token),
            max_streams: self.max_streams.or(file.max_streams),
            max_streams_per_token: self.max_streams_per_token.or(file.max_streams_per_token),
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_peer: self.max_connections_per_peer.or(file.max_connections_per_peer),
            max_memory: self.max_memory.or(file.max_memory),
            header_timeout: self.header_timeout.or(file.header_timeout),
            body_timeout: self.body_timeout.or(file.body_timeout),
            write_timeout: self.write_timeout.or(file.write_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            drain: self.drain.or(file.drain),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
            access_log: self.access_log.or(file.access_log),
            tokens: file.tokens,
        }
    }
}

const REDIS: &str = "Redis";
const TOKENS: &str = "Who may use it";
const LISTENER: &str = "Listening";
const LIMITS: &str = "Limits";
const OPERATION: &str = "Operation";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
