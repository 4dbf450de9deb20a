//! A road that can be closed: a TCP forwarder in front of the store, the double for a network that fails.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;

/// Forwards connections until it is closed, which also breaks those that are open.
#[derive(Debug)]
pub(super) struct Forwarder {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on a free port for connections to `to`.
    pub(super) async fn start(to: SocketAddr) -> Result<Forwarder> {
        let listener = TcpListener::bind(ports::local(ports::free()?)).await?;
        let address = listener.local_addr()?;
        let open = Arc::new(watch::Sender::new(true));
        let state = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut changes = state.subscribe();
                // A connection that is closed right after it was accepted is, to its client, one that was refused.
                if *changes.borrow_and_update() {
                    connections.spawn(async move {
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = forward(client, to) => {}
                        }
                    });
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Forwarder { address, open, task })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
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

async fn forward(mut client: TcpStream, to: SocketAddr) {
    if let Ok(mut server) = TcpStream::connect(to).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
