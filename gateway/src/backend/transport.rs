//! The stream to a server, encrypted or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::link::ConnectError;
use crate::target::{Address, Tls, TlsError};

/// A stream to a server.
#[derive(Debug)]
pub(crate) enum Transport {
    /// As it is.
    Plain(TcpStream),
    /// Inside TLS.
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Connects to `address`. A name may stand for several addresses; they share the time `within`.
    pub(super) async fn connect(
        address: &Address,
        tls: Option<&Tls>,
        within: Duration,
    ) -> Result<Self, ConnectError> {
        let candidates: Vec<_> = lookup_host((address.host.as_str(), address.port)).await?.collect();
        let share = within / u32::try_from(candidates.len()).unwrap_or(1).max(1);
        let mut failure = ConnectError::Io("the host has no address".into());
        for candidate in candidates {
            match timeout(share, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
                    // Less than all of the time, so that the reason can still be told: a server that does not speak
                    // TLS may wait for the rest of a command.
                    let stream = timeout(within * 3 / 4, tls.connect(address, stream)).await;
                    return Ok(Self::Encrypted(Box::new(stream.map_err(|_| TlsError::NotSpoken)??)));
                }
                Ok(Err(error)) => failure = error.into(),
                Err(_) => failure = ConnectError::TimedOut,
            }
        }
        Err(failure)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
