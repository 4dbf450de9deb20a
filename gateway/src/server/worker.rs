//! A thread that serves clients: a runtime and connections to Redis that no other thread touches.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Role, Shared};
use crate::backend::Backend;
use crate::listener::{self, Accepted};

/// A thread, seen from outside.
pub(crate) struct Thread {
    clients: mpsc::UnboundedSender<Client>,
    count: Arc<AtomicUsize>,
    started: Option<oneshot::Receiver<anyhow::Result<()>>>,
    /// Ends when the thread does.
    ended: oneshot::Receiver<()>,
}

/// A client on its way to a thread.
struct Client {
    accepted: Accepted,
    role: Role,
    /// Its place among all connections.
    place: OwnedSemaphorePermit,
}

impl Thread {
    /// Starts a thread, which lives until `stopping` is true or this value is gone.
    pub(crate) fn start(
        number: usize,
        shared: Arc<Shared>,
        stopping: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (clients, received) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let (ready, started) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
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
                drop::<oneshot::Sender<()>>(alive);
            }
        };
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self { clients, count, started: Some(started), ended })
    }

    /// Waits until it has connected to Redis, or tried to.
    pub(crate) async fn started(mut self) -> anyhow::Result<Self> {
        if let Some(started) = self.started.take() {
            started.await.context("a thread ended before it began")??;
        }
        Ok(self)
    }

    /// How many clients it has.
    pub(crate) fn clients(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Hands it a client.
    pub(crate) fn serve(&self, accepted: Accepted, role: Role, place: OwnedSemaphorePermit) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // A thread that is gone drops the client.
        let _ = self.clients.send(Client { accepted, role, place });
    }

    /// Waits until it has finished what was under way.
    pub(crate) async fn ended(self) {
        let Self { clients, ended, .. } = self;
        drop(clients);
        // It sends nothing; what ends is the other side.
        let _ = ended.await;
    }
}

/// A thread, seen from inside.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    /// The Redis of each tenant.
    pub(super) backends: Box<[Backend]>,
}

async fn work(
    shared: Arc<Shared>,
    mut clients: mpsc::UnboundedReceiver<Client>,
    count: Arc<AtomicUsize>,
    ready: oneshot::Sender<anyhow::Result<()>>,
    mut stopping: watch::Receiver<bool>,
) {
    let worker = match backends(&shared).await {
        Ok(backends) => Rc::new(Worker { shared, backends }),
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            client = clients.recv() => client,
            // They are finished as they come.
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Some(Client { accepted, role, place }) = client else { return };
        let (worker, stopping, count) = (Rc::clone(&worker), stopping.clone(), Arc::clone(&count));
        connections.spawn_local(async move {
            let limits = worker.shared.limits;
            let respond = move |request, pulse| Rc::clone(&worker).respond(request, role, pulse);
            listener::serve(accepted, &limits, stopping, respond).await;
            count.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(worker.shared.drain, drained).await.is_err() {
        tracing::warn!("some requests were still under way after {:?}", worker.shared.drain);
    }
}

/// Connects to the Redis of every tenant, to all at once.
async fn backends(shared: &Arc<Shared>) -> anyhow::Result<Box<[Backend]>> {
    let mut starting = JoinSet::new();
    for (number, tenant) in shared.tenants.iter().enumerate() {
        let (redis, connections) = (tenant.redis.clone(), tenant.connections);
        let limits = shared.limits;
        starting.spawn_local(async move {
            let backend = Backend::start(&redis, connections, limits.command_timeout, limits.response).await;
            (number, backend)
        });
    }
    let mut backends = Vec::new();
    while let Some(started) = starting.join_next().await {
        let (number, backend) = started.context("a task ended before it was done")?;
        backends.push((number, backend?));
    }
    backends.sort_by_key(|(number, _)| *number);
    Ok(backends.into_iter().map(|(_, backend)| backend).collect())
}
