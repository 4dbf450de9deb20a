//! One client connection: HTTP/1.1 or HTTP/2, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::pulse::{Patience, Pulse, Verdict};
use super::socket::{Accepted, Socket, Version};
use crate::config::Limits;

/// Serves a client until it leaves, does not read or is idle for too long; once `stopping` is true, until what it has asked
/// for is answered.
pub(crate) async fn serve<R, F, B>(
    accepted: Accepted,
    tls: Option<&TlsAcceptor>,
    limits: &Limits,
    mut stopping: watch::Receiver<bool>,
    respond: R,
) where
    R: Fn(Request<Incoming>, Rc<Pulse>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + 'static,
    B: Body<Error = Infallible> + 'static,
{
    let pulse = Rc::new(Pulse::new(Patience {
        write: limits.write_timeout,
        idle: limits.idle_timeout,
        head: limits.header_timeout,
    }));
    let opened = async {
        let mut socket = Socket::new(accepted, tls, Rc::clone(&pulse)).await?;
        let version = socket.version().await?;
        io::Result::Ok((socket, version))
    };
    let opened = tokio::select! {
        // The beginning is a part of the first head, a handshake included.
        opened = timeout(limits.header_timeout.min(limits.idle_timeout), opened) => opened.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
        // One that came just before the end has perhaps said it already.
        () = async { _ = stopping.wait_for(|stopping| *stopping).await; sleep(GRACE).await } => return,
    };
    let (socket, version) = match opened {
        Ok(opened) => opened,
        Err(error) => return tracing::debug!(%error, "a client connection ended before its first request"),
    };
    let service = service_fn(|request| respond(request, Rc::clone(&pulse)));
    let io = TokioIo::new(socket);
    let ended = match version {
        Version::Http1 => drive(http1(limits).serve_connection(io, service), &pulse, stopping).await,
        Version::Http2 => drive(http2(limits).serve_connection(io, service), &pulse, stopping).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client connection ended early");
    }
}

async fn drive<C>(connection: C, pulse: &Pulse, mut stopping: watch::Receiver<bool>) -> Result<(), String>
where
    C: GracefulConnection,
    C::Error: ToString,
{
    let mut connection = pin!(connection);
    let mut ticks = interval(pulse.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
            _ = ticks.tick() => match pulse.check(Instant::now()) {
                Verdict::Alive => continue,
                Verdict::Stuck => return Err("the client does not read".into()),
                Verdict::Slow => return Err("the head of a request did not come in time".into()),
                Verdict::Idle => {}
            },
            // An error means that the thread is going away, which ends this too.
            _ = stopping.wait_for(|stopping| *stopping), if !ending => ending = true,
        }
        connection.as_mut().graceful_shutdown();
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper counts the idle time before a request's first byte as time to read its head, so it is the pulse that bounds heads.
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_header_size(limits.header)
        .max_buf_size(limits.header.max(BUFFER));
    http
}

fn http2(limits: &Limits) -> http2::Builder<Local> {
    let mut http = http2::Builder::new(Local);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.header).unwrap_or(u32::MAX))
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(limits.idle_timeout.min(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    http
}

/// Runs the requests of an HTTP/2 connection on its own thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F> Executor<F> for Local
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Bytes of an answer that are on their way into a socket, and of a request on their way out of one.
const BUFFER: usize = 128 << 10;

/// Bytes of a request body over HTTP/2 that a client may send ahead, and of all on a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Requests that one HTTP/2 connection may have under way: as few as RFC 9113 recommends, because
/// the library keeps some room for each as long as the connection lives. Clients that want more
/// queue them, or open more connections, as Envoy does.
const STREAMS: u32 = 100;

/// An HTTP/2 connection that is silent this long is asked for a sign of life, and closed without one after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What a client that said nothing yet is still given at the end.
const GRACE: Duration = Duration::from_millis(100);
