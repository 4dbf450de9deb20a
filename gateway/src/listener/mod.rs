//! Where clients come in: sockets to listen on, and the connections that come of them.

mod connection;
mod pulse;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

pub(crate) use connection::serve;
pub(crate) use pulse::{Pulse, Underway, Waiting};
pub(crate) use socket::Accepted;

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Takes an address.
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(address).await;
        Ok(Self(bound.with_context(|| format!("cannot listen on `{address}`"))?))
    }

    /// The address taken; tells the port when port 0 was asked for.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        self.0.local_addr().context("cannot tell the address listened on")
    }

    /// The next client. Failing to accept is either about one client, who is gone, or about the process having too many
    /// open files, which passes; neither may end the gateway.
    pub(crate) async fn accept(&self) -> Accepted {
        loop {
            let accepted = self.0.accept().await.and_then(|(socket, _)| {
                // An answer is one write, and holding it back for more would only cost time.
                let _ = socket.set_nodelay(true);
                // Another thread is going to serve it.
                Ok(Accepted::Tcp(socket.into_std()?))
            });
            let error = match accepted {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            let about_one_client = matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
            );
            if !about_one_client {
                tracing::error!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A future that is ready when the process is asked to end, by SIGTERM or SIGINT. The signals are caught from now on.
pub(crate) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
