//! The gateway as a whole: a socket to listen on, and threads that serve what comes in.
//!
//! Nothing is shared on the way of a request but a few numbers: each thread has a runtime and connections to Redis of its own,
//! and a client stays with the thread that had the fewest when it came.

mod answer;
mod health;
mod incoming;
mod outgoing;
mod place;
mod request;
mod route;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::auth::Auth;
use crate::command::{Rules, Scripts};
use crate::config::{self, Config, Limits, Listen};
use crate::listener::Listener;
use crate::target::Target;
use place::Gauge;
use worker::Thread;

/// A gateway that listens, and serves once it is [run](Self::run).
pub struct Gateway {
    listener: Listener,
    address: Listen,
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    stop: watch::Sender<bool>,
}

impl Gateway {
    /// Takes the port, starts threads and connects to Redis. A Redis that is not there yet is no failure.
    ///
    /// # Errors
    /// The address cannot be taken, or a Redis will never do.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let listener = Listener::bind(&config.listen, config.listen_mode).await?;
        let address = listener.address()?;
        for tenant in &config.tenants {
            let (redis, name) = (&tenant.redis, &tenant.name);
            match tenant.token {
                Some(_) => tracing::info!(token = %name, %redis, "serving"),
                None => tracing::warn!(
                    "NO TOKEN IS REQUIRED: everyone who reaches {address} can read and write {redis}"
                ),
            }
        }
        tracing::info!("listening on {}", url(&address, &config));
        let threads = config.threads.get();
        let shared = Arc::new(Shared::new(config)?);
        let (stop, stopping) = watch::channel(false);
        let mut starting = Vec::new();
        for number in 0..threads {
            starting.push(Thread::start(number, Arc::clone(&shared), stopping.clone())?);
        }
        let mut threads = Vec::new();
        for thread in starting {
            threads.push(thread.started().await?);
        }
        Ok(Self { listener, address, shared, threads, stop })
    }

    /// The address listened on; tells the port when port 0 was asked for.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// Serves until `stop` is ready, and then what is under way for a few seconds more.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, shared, threads, stop: ending, .. } = self;
        let places = Arc::new(Semaphore::new(shared.limits.connections));
        let accept = async {
            loop {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let accepted = listener.accept().await;
                if let Some(thread) = threads.iter().min_by_key(|thread| thread.clients()) {
                    thread.serve(accepted, Role::Clients, place);
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
        drop(listener);
        tracing::info!(clients = threads.iter().map(Thread::clients).sum::<usize>(), "stopping");
        ending.send_replace(true);
        for thread in threads {
            thread.ended().await;
        }
    }
}

/// What all threads share.
pub(crate) struct Shared {
    auth: Auth,
    /// What the tokens open, in the order in which [`Auth`] counts them.
    tenants: Vec<Tenant>,
    limits: Limits,
    drain: Duration,
    in_flight: Gauge,
    memory: Gauge,
}

/// What a token opens.
struct Tenant {
    redis: Target,
    connections: usize,
    rules: Rules,
    in_flight: Gauge,
}

impl Shared {
    fn new(config: Config) -> anyhow::Result<Self> {
        let Config { tenants, limits, drain, .. } = config;
        let open = tenants.iter().any(|tenant| tenant.token.is_none());
        let auth = match open {
            true => Auth::open(),
            false => Auth::tokens(tenants.iter().filter_map(|tenant| tenant.token.clone())),
        };
        let scripts = Arc::<Scripts>::default();
        let tenants = tenants.into_iter().map(|tenant| Tenant::new(tenant, Arc::clone(&scripts)));
        Ok(Self {
            auth,
            tenants: tenants.collect::<anyhow::Result<_>>()?,
            limits,
            drain,
            in_flight: Gauge::new(limits.in_flight),
            memory: Gauge::new(limits.memory),
        })
    }
}

impl Tenant {
    fn new(config: config::Tenant, scripts: Arc<Scripts>) -> anyhow::Result<Self> {
        let config::Tenant { redis, connections, rights, in_flight, .. } = config;
        Ok(Self {
            redis,
            connections: connections.get(),
            rules: Rules::new(rights, scripts)?,
            in_flight: Gauge::new(in_flight.unwrap_or(usize::MAX)),
        })
    }
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Those who use Redis.
    Clients,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn url(address: &Listen, config: &Config) -> String {
    match (address.tcp(), &config.tls) {
        (None, _) => address.to_string(),
        (Some(address), None) => format!("http://{address}"),
        (Some(address), Some(_)) => format!("https://{address}"),
    }
}
