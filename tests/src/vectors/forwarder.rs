//! A road that can be closed: a TCP forwarder in front of the store, the double for a network that fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::ports;

/// Forwards connections until it is closed, which also breaks those that are open.
#[derive(Debug)]
pub(super) struct Forwarder {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    moved: Arc<watch::Sender<Instant>>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on a free port for connections to `to`.
    pub(super) async fn start(to: SocketAddr) -> Result<Forwarder> {
        let listener = TcpListener::bind(ports::local(ports::free()?)).await?;
        let address = listener.local_addr()?;
        let open = Arc::new(watch::Sender::new(true));
        let state = Arc::clone(&open);
        let moved = Arc::new(watch::Sender::new(Instant::now()));
        let moves = Arc::clone(&moved);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut changes = state.subscribe();
                // A connection that is closed right after it was accepted is, to its client, one that was refused.
                if *changes.borrow_and_update() {
                    let moves = Arc::clone(&moves);
                    connections.spawn(async move {
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = forward(client, to, &moves) => {}
                        }
                    });
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Forwarder { address, open, moved, task })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until nothing has passed for a while.
    pub(super) async fn quiet(&self) {
        loop {
            let quiet_at = *self.moved.borrow() + QUIET;
            if quiet_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(quiet_at).await;
        }
    }

    /// Opens or closes the road.
    pub(super) fn set_open(&self, open: bool) {
        self.open.send_if_modified(|now| std::mem::replace(now, open) != open);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut client: TcpStream, to: SocketAddr, moved: &watch::Sender<Instant>) {
    if let Ok(mut server) = TcpStream::connect(to).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let _ = tokio::try_join!(pass(from_client, to_server, moved), pass(from_server, to_client, moved));
    }
}

async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    moved: &watch::Sender<Instant>,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(16 << 10);
    while from.read_buf(&mut bytes).await? > 0 {
        moved.send_replace(Instant::now());
        to.write_all(&bytes).await?;
        bytes.clear();
    }
    to.shutdown().await
}

/// Longer than who answers takes to tell the store what comes of that.
const QUIET: Duration = Duration::from_millis(15);
