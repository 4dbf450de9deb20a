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

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::auth::Auth;
use crate::command::Rules;
use crate::config::{Config, Limits};
use crate::listener::Listener;
use crate::target::Target;
use place::Gauge;
use worker::Thread;

/// A gateway that listens, and serves once it is [run](Self::run).
pub struct Gateway {
    listener: Listener,
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    stop: watch::Sender<bool>,
}

impl Gateway {
    /// Takes the port, starts threads and connects to Redis. A Redis that is not there yet is no failure.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let Config { listen, redis, auth, connections, threads, limits } = config;
        let listener = Listener::bind(listen).await?;
        let address = listener.address()?;
        if auth.is_open() {
            tracing::warn!("NO TOKEN IS REQUIRED: everyone who reaches {address} can read and write {redis}");
        }
        tracing::info!(%redis, "listening on http://{address}");
        let tenant = Tenant {
            redis,
            connections: connections.get(),
            rules: Rules::default(),
            in_flight: Gauge::new(usize::MAX),
        };
        let shared = Arc::new(Shared {
            auth,
            tenants: vec![tenant],
            limits,
            in_flight: Gauge::new(limits.in_flight),
            memory: Gauge::new(limits.memory),
        });
        let (stop, stopping) = watch::channel(false);
        let mut started = Vec::new();
        for number in 0..threads.get() {
            started.push(Thread::start(number, Arc::clone(&shared), stopping.clone())?);
        }
        let mut threads = Vec::new();
        for thread in started {
            threads.push(thread.started().await?);
        }
        Ok(Self { listener, address, shared, threads, stop })
    }

    /// The address listened on; tells the port when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Those who use Redis.
    Clients,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
