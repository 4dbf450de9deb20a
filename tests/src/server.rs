//! A small HTTP/1.1 server on loopback, for the doubles.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// What a handler answers; an error, before or in the middle of the body, closes the connection.
pub(crate) type Answer = Result<Response<BoxBody<Bytes, io::Error>>, io::Error>;

/// Serves until dropped, which also closes every connection.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `port` and answers every request with `handler`.
    pub(crate) async fn start<H, F>(port: u16, handler: H) -> Result<Server>
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let wanted = crate::ports::local(port);
        let listener =
            TcpListener::bind(wanted).await.with_context(|| format!("cannot listen on {wanted}"))?;
        let address = listener.local_addr()?;
        let handler = Arc::new(handler);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let handler = Arc::clone(&handler);
                let service = service_fn(move |request| handler(request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Server { address, task })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A body of these bytes, with their length.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> BoxBody<Bytes, io::Error> {
    Full::from(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
