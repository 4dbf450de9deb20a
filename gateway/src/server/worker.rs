//! A thread that serves clients: a runtime and connections to Redis that no other thread touches.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use super::ids::Ids;
use super::log::Complaints;
use super::peers::Seat;
use super::report::{Ask, Report};
use super::{Role, Shared, Tenant};
use crate::backend::Backend;
use crate::listener::{self, Accepted, Tls};
use crate::metrics::Recorder;

/// A thread, seen from outside.
pub(crate) struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    count: Arc<AtomicUsize>,
    started: Option<oneshot::Receiver<anyhow::Result<()>>>,
    /// Closed when the thread ends.
    alive: watch::Sender<()>,
}

/// What a thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// To serve a client.
    Serve(Client),
    /// To say what it knows.
    Report(Ask, oneshot::Sender<Report>),
}

/// A client on its way to a thread.
#[derive(Debug)]
pub(crate) struct Client {
    accepted: Accepted,
    role: Role,
    /// Its place among all connections.
    place: Seated,
}

/// A place among all connections, and one among those of its peer.
pub(crate) type Seated = (Option<Seat>, OwnedSemaphorePermit);

impl Thread {
    /// Starts a thread, which lives until `stopping` is true or this value is gone.
    pub(crate) fn start(
        number: usize,
        shared: Arc<Shared>,
        stopping: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let (ready, started) = oneshot::channel();
        let (alive, held) = watch::channel(());
        let work = {
            let count = Arc::clone(&count);
            move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())
                    .context("cannot start a runtime");
                match runtime {
                    Ok(runtime) => runtime.block_on(work(shared, received, count, ready, stopping)),
                    Err(error) => _ = ready.send(Err(error)),
                }
                drop(held);
            }
        };
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self { orders, count, started: Some(started), alive })
    }

    /// Waits until it has connected to Redis, or tried to.
    pub(crate) async fn started(mut self) -> anyhow::Result<Self> {
        if let Some(started) = self.started.take() {
            started.await.context("a thread ended before it began")??;
        }
        Ok(self)
    }

    /// Where orders for it go, as long as it lives.
    pub(crate) fn orders(&self) -> mpsc::WeakUnboundedSender<Order> {
        self.orders.downgrade()
    }

    /// How many clients it has.
    pub(crate) fn clients(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Hands it a client.
    pub(crate) fn serve(&self, accepted: Accepted, role: Role, place: Seated) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // A thread that is gone drops the client.
        let _ = self.orders.send(Order::Serve(Client { accepted, role, place }));
    }

    /// Waits until it has finished what was under way.
    pub(crate) async fn ended(&self) {
        // What ends is the other side.
        self.alive.closed().await;
    }
}

/// A thread, seen from inside.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    /// The Redis of each tenant; some are the same.
    pub(super) backends: Box<[Backend]>,
    pub(super) recorder: Recorder,
    pub(super) ids: Ids,
    pub(super) complaints: Complaints,
}

async fn work(
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    count: Arc<AtomicUsize>,
    ready: oneshot::Sender<anyhow::Result<()>>,
    mut stopping: watch::Receiver<bool>,
) {
    let backends = match backends(&shared).await {
        Ok(backends) => backends,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let (recorder, ids, complaints) = (Recorder::default(), Ids::new(), Complaints::new());
    let worker = Rc::new(Worker { shared, backends, recorder, ids, complaints });
    let _ = ready.send(Ok(()));
    let patience = worker.shared.drain;
    let mut served = Served::new(worker, count, stopping.clone());
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = served.one_ends() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match order {
            Some(order) => served.carry_out(order),
            None => return,
        }
    }
    let drained = async {
        while !served.clients.is_empty() {
            tokio::select! {
                // Who asks for health is still told that this is the end.
                Some(order) = orders.recv() => served.carry_out(order),
                () = served.one_ends() => {}
            }
        }
    };
    if timeout(patience, drained).await.is_err() {
        tracing::warn!("some requests were still under way after {patience:?}");
    }
}

/// The connections of a thread.
struct Served {
    worker: Rc<Worker>,
    /// How many clients there are, for those who choose among threads.
    count: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
    clients: JoinSet<()>,
    /// Those who operate the gateway, who are served to the very end.
    admins: JoinSet<()>,
    never: watch::Sender<bool>,
}

impl Served {
    fn new(worker: Rc<Worker>, count: Arc<AtomicUsize>, stopping: watch::Receiver<bool>) -> Self {
        let (clients, admins) = (JoinSet::new(), JoinSet::new());
        Self { worker, count, stopping, clients, admins, never: watch::Sender::new(false) }
    }

    fn carry_out(&mut self, order: Order) {
        let worker = Rc::clone(&self.worker);
        match order {
            Order::Serve(Client { accepted, role, place }) => {
                let (connections, stopping) = match role {
                    Role::Clients => (&mut self.clients, self.stopping.clone()),
                    Role::Admin => (&mut self.admins, self.never.subscribe()),
                };
                let counted = Counted::new(&self.count, &worker.shared, role);
                connections.spawn_local(async move {
                    let shared = Arc::clone(&worker.shared);
                    let limits = shared.limits;
                    let tls = shared.tls.as_ref().filter(|_| role == Role::Clients).map(Tls::acceptor);
                    let respond = move |request, pulse| Rc::clone(&worker).respond(request, role, pulse);
                    listener::serve(accepted, tls, &limits, stopping, respond).await;
                    drop((counted, place));
                });
            }
            Order::Report(ask, answer) => {
                spawn_local(async move {
                    // Who does not wait any more has no use for it.
                    let _ = answer.send(worker.report(ask).await);
                });
            }
        }
    }

    /// Waits until a connection ends, as long as there are some.
    async fn one_ends(&mut self) {
        tokio::select! {
            Some(_) = self.clients.join_next() => {}
            Some(_) = self.admins.join_next() => {}
            else => std::future::pending().await,
        }
    }
}

/// A connection that counts as long as it lives, however it ends.
struct Counted {
    /// Among those of its thread, which counts it when it is on its way there.
    thread: Arc<AtomicUsize>,
    /// Among those of clients.
    shared: Option<Arc<Shared>>,
}

impl Counted {
    fn new(thread: &Arc<AtomicUsize>, shared: &Arc<Shared>, role: Role) -> Self {
        let shared = (role == Role::Clients).then(|| Arc::clone(shared));
        if let Some(shared) = &shared {
            shared.clients.take(1);
        }
        Self { thread: Arc::clone(thread), shared }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.thread.fetch_sub(1, Ordering::Relaxed);
        if let Some(shared) = &self.shared {
            shared.clients.give_back(1);
        }
    }
}

/// Connects to every Redis, to all at once, and hands each to its tenants.
async fn backends(shared: &Arc<Shared>) -> anyhow::Result<Box<[Backend]>> {
    let mut starting = JoinSet::new();
    for (number, source) in shared.sources.iter().enumerate() {
        let (redis, connections) = (source.target.clone(), source.connections);
        let (limits, memory) = (shared.limits, shared.memory.clone());
        starting.spawn_local(async move {
            let backend =
                Backend::start(&redis, connections, limits.command_timeout, limits.response, memory).await;
            (number, backend)
        });
    }
    let mut backends = Vec::new();
    while let Some(started) = starting.join_next().await {
        let (number, backend) = started.context("a task ended before it was done")?;
        backends.push((number, backend?));
    }
    backends.sort_by_key(|(number, _)| *number);
    let of = |tenant: &Tenant| backends.get(tenant.source).map(|(_, backend)| backend.share());
    shared.tenants.iter().map(|tenant| of(tenant).context("a Redis is missing")).collect()
}
