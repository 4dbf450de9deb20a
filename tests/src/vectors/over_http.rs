//! A vector's request on its way to a server that runs vectors.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_vectors::format::Step;

use crate::client::{self, Answer};

/// Sends the request of `step` at its time; the server takes its peer's address from the header `peer`.
pub(super) async fn ask(address: SocketAddr, step: &Step, peer: &str) -> Result<Answer> {
    if step.ask.method != b"HEAD" {
        return client::raw(address, &wire(step, peer)).await;
    }
    // The raw client does not know that the answer to this method has a length and no body.
    let mut request = Request::head(std::str::from_utf8(&step.ask.target)?)
        .header("host", step.ask.host.as_slice())
        .header(NOW, step.at.as_millis())
        .header(peer, step.ask.peer.to_string());
    for (name, value) in &step.ask.headers {
        request = request.header(name.as_str(), value.as_slice());
    }
    client::send(address, request.body(Full::<Bytes>::default())?).await
}

/// Sends the same, and leaves it to the caller to read the answer.
pub(super) async fn begin(address: SocketAddr, step: &Step, peer: &str) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(&wire(step, peer)).await?;
    Ok(connection)
}

fn wire(step: &Step, peer: &str) -> Vec<u8> {
    step.ask.wire(&format!("{NOW}: {}\r\n{peer}: {}\r\n", step.at.as_millis(), step.ask.peer))
}

/// The clock of who is built with the feature `test-clock`.
const NOW: &str = "x-tollgate-test-now";
