//! The gateway as a whole: a socket to listen on, and threads that serve what comes in.
//!
//! Nothing is shared on the way of a request but a few numbers: each thread has a runtime and connections to Redis of its own,
//! and a client stays with the thread that had the fewest when it came.

mod answer;
mod browsers;
mod details;
mod health;
mod ids;
mod incoming;
mod log;
mod outgoing;
mod peers;
mod perform;
mod place;
mod report;
mod request;
mod route;
mod scrape;
mod stream;
mod wire;
mod worker;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::auth::Auth;
use crate::command::Rules;
use crate::config::{self, Config, Host, Limits, Listen, Origin};
use crate::listener::{Listener, Tls};
use crate::memory::{Gauge, Memory};
use crate::target::Target;
use peers::Peers;
use place::Begun;
use report::Asked;
use worker::{Order, Thread};

pub(crate) use answer::Kind;
pub(crate) use route::Route;

/// A gateway that listens, and serves once it is [run](Self::run).
pub struct Gateway {
    listener: Listener,
    address: Listen,
    admin: Option<(Listener, Listen)>,
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
        let admin = match &config.admin_listen {
            Some(address) => {
                let listener = Listener::bind(address, config.listen_mode).await?;
                let address = listener.address()?;
                tracing::info!("health and metrics on {address}");
                Some((listener, address))
            }
            None => None,
        };
        for tenant in &config.tenants {
            let (redis, name) = (&tenant.redis, &tenant.name);
            match tenant.token {
                Some(_) => tracing::info!(token = %name, %redis, "serving"),
                None => tracing::warn!(
                    "NO TOKEN IS REQUIRED: everyone who reaches {address} can read and write {redis}"
                ),
            }
        }
        let url = url(&address, &config);
        let threads = config.threads.get();
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared::new(config, stopping.clone())?);
        let mut starting = Vec::new();
        for number in 0..threads {
            starting.push(Thread::start(number, Arc::clone(&shared), stopping.clone())?);
        }
        let mut threads = Vec::new();
        for thread in starting {
            threads.push(thread.started().await?);
        }
        tracing::info!("listening on {url}");
        // Nobody else sets it.
        let _ = shared.threads.set(threads.iter().map(Thread::orders).collect());
        Ok(Self { listener, address, admin, shared, threads, stop })
    }

    /// The address listened on; tells the port when port 0 was asked for.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// The address of health and metrics, if they have one of their own.
    pub fn admin_address(&self) -> Option<&Listen> {
        self.admin.as_ref().map(|(_, address)| address)
    }

    /// Serves until `stop` is ready, and then what is under way for as long as the configuration allows.
    ///
    /// # Errors
    /// A thread ended by itself, and the process had better begin anew.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { listener, admin, shared, threads, stop: ending, .. } = self;
        let admin_places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
        let admin = async {
            match &admin {
                Some((listener, _)) => accept(listener, Role::Admin, &admin_places, &shared, &threads).await,
                None => std::future::pending().await,
            }
        };
        let mut admin = std::pin::pin!(admin);
        let renewing = async {
            if let Some(tls) = &shared.tls {
                tls.keep_current().await;
            }
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            () = renewing => Ok(()),
            () = accept(&listener, Role::Clients, &shared.connections, &shared, &threads) => Ok(()),
            () = admin.as_mut() => Ok(()),
            () = stop => Ok(()),
            () = one_ends(&threads) => Err(anyhow!("a thread ended by itself; what it said before says why")),
        };
        drop(listener);
        tracing::info!(clients = threads.iter().map(Thread::clients).sum::<usize>(), "stopping");
        ending.send_replace(true);
        let ended = async {
            for thread in &threads {
                thread.ended().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = admin => {}
        }
        result
    }
}

/// Waits until one of the threads ends.
async fn one_ends(threads: &[Thread]) {
    let mut ends: Vec<_> = threads.iter().map(|thread| Box::pin(thread.ended())).collect();
    std::future::poll_fn(|cx| match ends.iter_mut().any(|end| end.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Hands clients to the threads with the fewest.
async fn accept(
    listener: &Listener,
    role: Role,
    places: &Arc<Semaphore>,
    shared: &Shared,
    threads: &[Thread],
) {
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        let (accepted, peer) = listener.accept().await;
        let seat = match peer.filter(|_| role == Role::Clients).map(|peer| shared.peers.seat(peer)) {
            // It is closed at once: what waits to be accepted stands in front of others.
            Some(None) => {
                shared.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            seat => seat.flatten(),
        };
        // In this order they are given up: the next client is accepted when the share of its peer is free again.
        let place = (seat, place);
        if let Some(thread) = threads.iter().min_by_key(|thread| thread.clients()) {
            thread.serve(accepted, role, place);
        }
    }
}

/// What all threads share.
pub(crate) struct Shared {
    auth: Auth,
    /// What the tokens open, in the order in which [`Auth`] counts them.
    tenants: Vec<Tenant>,
    /// Each Redis, which tokens may share.
    sources: Vec<Source>,
    /// What speaks TLS to clients.
    tls: Option<Tls>,
    limits: Limits,
    drain: Duration,
    log_access: bool,
    /// Whether health and metrics have an address of their own.
    has_admin: bool,
    /// Whether clients come over a network, and may be browsers.
    over_tcp: bool,
    /// Whether any token is for web pages.
    has_origins: bool,
    /// Names by which those may ask for it who need no token.
    hosts: Vec<Host>,
    began: Instant,
    stopping: watch::Receiver<bool>,
    threads: OnceLock<Box<[mpsc::WeakUnboundedSender<Order>]>>,
    /// Places for client connections, the one that is waited for included.
    connections: Arc<Semaphore>,
    peers: Arc<Peers>,
    /// Connections that were closed because their peer had its share.
    turned_away: AtomicU64,
    /// What is known of each Redis.
    asked: Asked,
    clients: Gauge,
    begun: Gauge,
    in_flight: Gauge,
    streams: Gauge,
    memory: Memory,
}

/// A Redis, and how many connections each thread has to it.
struct Source {
    target: Target,
    /// The most that one of its tokens asks for.
    connections: usize,
    /// The first of its tokens.
    tenant: usize,
}

/// What a token opens.
struct Tenant {
    name: String,
    /// The number of its Redis.
    source: usize,
    rules: Rules,
    /// Where web pages come from that may use it.
    origins: Vec<Origin>,
    in_flight: Gauge,
    streams: Gauge,
}

impl Shared {
    fn new(config: Config, stopping: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let Config { listen, hosts, tenants, limits, drain, admin_listen, log, tls, .. } = config;
        let open = tenants.iter().any(|tenant| tenant.token.is_none());
        let auth = match open {
            true => Auth::open(),
            false => Auth::tokens(tenants.iter().filter_map(|tenant| tenant.token.clone())),
        };
        let mut sources = Vec::new();
        let tenants = tenants.into_iter().enumerate().map(|(number, tenant)| {
            let source = Source::of(number, &tenant, &mut sources);
            Tenant::new(tenant, source, &limits)
        });
        let tenants = tenants.collect::<anyhow::Result<Vec<_>>>()?;
        let has_origins = tenants.iter().any(|tenant: &Tenant| !tenant.origins.is_empty());
        Ok(Self {
            auth,
            has_origins,
            tenants,
            sources,
            tls: tls.as_ref().map(Tls::load).transpose()?,
            limits,
            drain,
            log_access: log.access,
            has_admin: admin_listen.is_some(),
            over_tcp: listen.tcp().is_some(),
            hosts,
            began: Instant::now(),
            stopping,
            threads: OnceLock::new(),
            connections: Arc::new(Semaphore::new(limits.connections)),
            peers: Arc::new(Peers::new(limits.connections_per_peer)),
            turned_away: AtomicU64::new(0),
            asked: Asked::new(),
            clients: Gauge::new(limits.connections),
            begun: Gauge::new(Begun::most(&limits)),
            in_flight: Gauge::new(limits.in_flight),
            streams: Gauge::new(limits.streams),
            memory: Memory::new(limits.memory),
        })
    }

    /// Whether there is something at this route for those whom a listener is for.
    fn has(&self, route: Route, role: Role) -> bool {
        match route {
            Route::Health | Route::Ready => true,
            Route::Details | Route::Metrics => role == Role::Admin || !self.has_admin,
            _ => role == Role::Clients,
        }
    }

    /// Whether the gateway finishes what is under way and then ends.
    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl Source {
    /// The number of the Redis that a token opens. Tokens with the same server, user, database and the like share it.
    fn of(number: usize, tenant: &config::Tenant, sources: &mut Vec<Self>) -> usize {
        let connections = tenant.connections.get();
        if let Some(known) = sources.iter().position(|source| source.target == tenant.redis) {
            if let Some(source) = sources.get_mut(known) {
                source.connections = source.connections.max(connections);
            }
            return known;
        }
        let target = tenant.redis.clone();
        sources.push(Self { target, connections, tenant: number });
        sources.len() - 1
    }
}

impl Tenant {
    fn new(config: config::Tenant, source: usize, limits: &Limits) -> anyhow::Result<Self> {
        let config::Tenant { name, rights, origins, in_flight, streams, .. } = config;
        Ok(Self {
            name,
            source,
            rules: Rules::new(rights)?.with_largest_answer(limits.response),
            origins,
            in_flight: Gauge::new(in_flight.unwrap_or(usize::MAX)),
            streams: Gauge::new(streams.unwrap_or(usize::MAX)),
        })
    }
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Those who use Redis.
    Clients,
    /// Those who operate the gateway.
    Admin,
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

/// Connections of those who operate the gateway.
const ADMIN_CONNECTIONS: usize = 64;
