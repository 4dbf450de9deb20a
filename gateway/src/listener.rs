//! Client connections: accepting them, serving HTTP/1.1 and h2c on each, and letting them finish at the end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use crate::config::Limits;

/// Serves `router` on `listener` until `stop` is ready, and then what is under way for at most [`DRAIN`].
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let http = http(limits);
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (accept(&listener).await, place)
        };
        let (socket, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection =
            http.serve_connection(TokioIo::new(Prompt::new(socket, limits.idle)), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "client connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    tracing::info!(connections = graceful.count(), "stopping");
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still under way after {DRAIN:?}");
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

fn http(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // hyper counts the idle time before a request's first byte as time to read its head.
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    http
}

/// The next client. Failing to accept is either about one client, who is gone, or about the process having too many open
/// files, which passes; neither may end the gateway.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        let error = match listener.accept().await {
            Ok((socket, _)) => {
                // An answer is one write, and holding it back for more would only cost time.
                let _ = socket.set_nodelay(true);
                return socket;
            }
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

/// A client that has to say something in time. hyper waits for as long as it takes until it can tell h2c from HTTP/1.1,
/// which a client that says nothing, or half of h2c's preface, would never let it.
struct Prompt {
    socket: TcpStream,
    /// Until when, and how many bytes are missing; nothing once they have come.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Prompt {
    fn new(socket: TcpStream, patience: Duration) -> Self {
        Self { socket, waiting: Some((Box::pin(sleep(patience)), PREFACE)) }
    }
}

impl AsyncRead for Prompt {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, out);
        if let Some((deadline, missing)) = &mut this.waiting {
            *missing = missing.saturating_sub(out.filled().len() - before);
            if *missing == 0 {
                this.waiting = None;
            } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// The length of h2c's preface; no HTTP/1.1 request with a `Host` is shorter.
const PREFACE: usize = 24;

/// How long requests may finish after the process was asked to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Requests that one h2c connection may have under way.
const STREAMS: u32 = 1024;

/// An h2c connection that is silent this long is asked for a sign of life, and closed without one after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
