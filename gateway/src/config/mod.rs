//! What the gateway runs with, checked once: a value of these types cannot be nonsense, and nothing re-checks it later.

mod address;
mod describe;
mod file;
mod origin;
mod redis;
mod secret;
mod settings;
mod tenant;
#[cfg(test)]
mod tests;
mod units;

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::ensure;

use crate::cli::GatewayArgs;

pub use crate::auth::Token;
pub use crate::command::Rights;
pub use address::{Listen, Mode};
pub use origin::{Host, Origin};
pub use settings::{LogFormat, Settings};
pub use tenant::Tenant;

/// Everything the gateway needs to know.
#[derive(Debug)]
pub struct Config {
    /// The address to serve on.
    pub listen: Listen,
    /// Who may connect to it, if it is a unix socket.
    pub listen_mode: Mode,
    /// Another address for health and metrics.
    pub admin_listen: Option<Listen>,
    /// The certificate to serve HTTPS with, and its key.
    pub tls: Option<Identity>,
    /// Names by which those may ask for it who need no token.
    pub hosts: Vec<Host>,
    /// The tokens, and what each opens. At least one; one without a token is alone.
    pub tenants: Vec<Tenant>,
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// What clients may take.
    pub limits: Limits,
    /// How long requests may finish after the process was asked to end.
    pub drain: Duration,
    /// What is logged, and how.
    pub log: Log,
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, with those between it and its authority.
    pub cert: std::path::PathBuf,
    /// Its key.
    pub key: std::path::PathBuf,
}

/// Bounds on what clients may take. Bodies, what Redis sends, and what is on its way to clients take at most `memory`, and
/// 16 KiB for each body that is read and each reply that comes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long Redis may take to answer a request.
    pub command_timeout: Duration,
    /// The largest request body, in bytes.
    pub body: usize,
    /// The largest head of a request, in bytes.
    pub header: usize,
    /// The most bytes of replies to one request.
    pub response: usize,
    /// The most commands in one pipeline or transaction.
    pub pipeline: usize,
    /// The most requests under way at once.
    pub in_flight: usize,
    /// The most subscriptions and monitors at once.
    pub streams: usize,
    /// The most client connections at once.
    pub connections: usize,
    /// The most connections of one peer at once.
    pub connections_per_peer: usize,
    /// The most bytes that request bodies and answers may take, until they are written.
    pub memory: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long a client may read nothing of an answer.
    pub write_timeout: Duration,
    /// How long a client connection may stay idle.
    pub idle_timeout: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// The form.
    pub format: LogFormat,
    /// What is logged, as `RUST_LOG` has it; nothing when that variable decides.
    pub filter: Option<String>,
    /// Whether every request is.
    pub access: bool,
}

impl Config {
    /// Reads the file, if one is named, and checks everything. Tokens and URLs come from flags, files and the environment
    /// (`var`).
    ///
    /// # Errors
    /// The first thing that cannot be used: its name, what was found, and what would do.
    pub fn new(args: GatewayArgs, var: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let file = args.config.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let set = args.settings.or(file);
        let mut tenants = tenant::all(&set, &var)?;
        let in_flight = set.max_in_flight.map_or(1024, |count| count.get());
        let streams = set.max_streams.map_or(1024, |count| count.get());
        // One whose Redis stands still leaves places to the others.
        if tenants.len() > 1 {
            for tenant in &mut tenants {
                tenant.in_flight.get_or_insert(three_quarters(in_flight));
                tenant.streams.get_or_insert(three_quarters(streams));
            }
        }
        let identity = match (set.tls_cert, set.tls_key) {
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            (cert, key) => {
                ensure!(
                    cert.is_none() && key.is_none(),
                    "`tls_cert` and `tls_key` need each other: set both"
                );
                None
            }
        };
        let listen = set.listen.unwrap_or_else(|| Listen::Tcp(([127, 0, 0, 1], 8079).into()));
        let admin_is_unix = set.admin_listen.as_ref().is_some_and(|admin| admin.unix().is_some());
        ensure!(
            set.listen_mode.is_none() || listen.unix().is_some() || admin_is_unix,
            "`listen_mode` is for a unix socket, but `listen` is `{listen}`: leave it out"
        );
        ensure!(
            identity.is_none() || listen.tcp().is_some(),
            "TLS is not for a unix socket: leave out `tls_cert` and `tls_key`"
        );
        let connections = set.max_connections.map_or(4096, |count| count.get());
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            listen,
            listen_mode: set.listen_mode.unwrap_or_default(),
            admin_listen: set.admin_listen,
            tls: identity,
            hosts: set.hosts.unwrap_or_default(),
            tenants,
            threads: set.threads.map_or(cores, |threads| threads.at_least_one()),
            limits: Limits {
                command_timeout: set.command_timeout.map_or(Duration::from_secs(1), |span| span.get()),
                body: set.max_body.map_or(10 << 20, |size| size.get()),
                header: set.max_header.map_or(32 << 10, |size| size.get()),
                response: set.max_response.map_or(100 << 20, |size| size.get()),
                pipeline: set.max_pipeline.map_or(1000, |count| count.get()),
                in_flight,
                streams,
                connections,
                connections_per_peer: set
                    .max_connections_per_peer
                    .map_or_else(|| three_quarters(connections), |count| count.get()),
                memory: set.max_memory.map_or(256 << 20, |size| size.get()),
                header_timeout: set.header_timeout.map_or(Duration::from_secs(10), |span| span.get()),
                body_timeout: set.body_timeout.map_or(Duration::from_secs(30), |span| span.get()),
                write_timeout: set.write_timeout.map_or(Duration::from_secs(30), |span| span.get()),
                idle_timeout: set.idle_timeout.map_or(Duration::from_mins(5), |span| span.get()),
            },
            drain: set.drain.map_or(Duration::from_secs(10), |span| span.get()),
            log: Log {
                format: set.log_format.unwrap_or_default(),
                filter: set.log,
                access: set.access_log.unwrap_or(false),
            },
        })
    }
}

/// What one may have of `all`, which is at least 1.
fn three_quarters(all: usize) -> usize {
    all - all / 4
}
