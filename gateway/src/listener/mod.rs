//! Where clients come in: sockets to listen on, and the connections that come of them.

mod connection;
mod pulse;
mod refusal;
mod socket;
mod tls;
mod unix;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

pub(crate) use connection::serve;
pub(crate) use pulse::{Pulse, Reading, Underway, Waiting};
pub(crate) use socket::Accepted;
pub(crate) use tls::Tls;

use crate::config::{Listen, Mode};
use unix::Path;

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Path),
}

impl Listener {
    /// Takes an address.
    pub(crate) async fn bind(address: &Listen, mode: Mode) -> anyhow::Result<Self> {
        let listener = match address {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Listen::Unix(path) => unix::bind(path, mode).map(|(listener, path)| Self::Unix(listener, path)),
        };
        listener.with_context(|| format!("cannot listen on `{address}`"))
    }

    /// The address taken; tells the port when port 0 was asked for.
    pub(crate) fn address(&self) -> anyhow::Result<Listen> {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map(Listen::Tcp).context("cannot tell the address listened on")
            }
            Self::Unix(_, path) => Ok(Listen::Unix(path.to_path_buf())),
        }
    }

    /// The next client, and where it is if it comes over a network. Failing to accept is either about one client, who is gone, or about the process having too many
    /// open files, which passes; neither may end the gateway.
    pub(crate) async fn accept(&self) -> (Accepted, Option<IpAddr>) {
        loop {
            let error = match self.try_accept().await {
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

    /// The socket leaves this thread's runtime: another thread is going to serve it.
    async fn try_accept(&self) -> io::Result<(Accepted, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                // An answer is one write, and holding it back for more would only cost time.
                let _ = socket.set_nodelay(true);
                Ok((Accepted::Tcp(socket.into_std()?), Some(peer.ip())))
            }
            Self::Unix(listener, _) => Ok((Accepted::Unix(listener.accept().await?.0.into_std()?), None)),
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
