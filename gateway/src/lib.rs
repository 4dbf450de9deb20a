//! The gateway: Redis over HTTP in the Upstash REST dialect, in front of a Redis of your own.
//!
//! A wasm filter or an edge isolate cannot hold a pool of TCP connections; it can post JSON. The gateway takes those
//! posts (HTTP/1.1 or HTTP/2, with TLS or without) and hands the commands to Redis over a few multiplexed connections, a
//! pipeline as one write.
//!
//! ```text
//! listener ─▶ server ─▶ auth ─▶ command ─▶ relay ─▶ backend ─▶ reply
//! sockets     routes    token   JSON → RESP  scripts  Redis      RESP → JSON
//! ```
//!
//! Each thread does all of that by itself, with connections to Redis of its own; a client stays with its thread. What threads
//! share are a few numbers: what is under way, and what memory it takes.
//!
//! What it never does:
//! - It never sends a command twice that may have run. One that was sent and not answered is reported as such, and the client
//!   decides.
//! - It never keeps anything but what scripts are called, and in Redis their texts (`relay.rs` says why). What else is not in
//!   Redis is gone with the request.
//! - It never logs a token, a password, a path, a key or an argument.
//! - It never grows without a bound: [`config::Limits`] says which.

mod auth;
mod backend;
pub mod check;
pub mod cli;
mod command;
pub mod config;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod listener;
mod log;
mod memory;
mod metrics;
mod pem;
mod relay;
mod reply;
mod resp;
mod server;
mod target;

pub use server::Gateway;
pub use target::{ReadFrom, Target, TargetOptions, TlsFiles};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use cli::{Cli, GatewayArgs, Task};
use config::Config;

/// Does what the command line asks for, and returns when that is done.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.task {
        Task::Gateway(args) => gateway(*args),
        Task::Check(args) => check::run(&args),
    }
}

fn gateway(args: GatewayArgs) -> anyhow::Result<()> {
    let check = args.check;
    let config = Config::new(args, |name| std::env::var(name).ok())?;
    if check {
        if let Some(identity) = &config.tls {
            listener::Tls::load(identity)?;
        }
        print!("{config}");
        return Ok(());
    }
    log::to_stderr(&config.log)?;
    memory::give_back_what_is_large();
    raise_open_files(config.limits.connections);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(async {
            let stop = listener::stop_signal()?;
            Gateway::bind(config).await?.run(stop).await
        })
}

/// Takes as many open files as the system gives: every client is one, and what shells give by default is soon used up.
fn raise_open_files(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    // Without a number there is no limit.
    let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    if let Some(most) = most.filter(|most| *most < clients.saturating_add(FILES_OF_OUR_OWN)) {
        tracing::warn!(
            "only {most} files may be open, too few for {clients} client connections: raise `ulimit -n`"
        );
    }
}

/// Connections to Redis, logs and whatever else is no client.
const FILES_OF_OUR_OWN: usize = 256;
