//! A vector's request on its way to a server that runs vectors.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tollgate_vectors::adapter::Answer;
use tollgate_vectors::format::Step;

use crate::client;

/// Sends the request of `step` at its time; the server takes its peer's address from the header `peer`.
pub(super) async fn ask(address: SocketAddr, step: &Step, peer: &str) -> Result<Answer> {
    let now = step.at.as_millis();
    let answer = if step.ask.method == b"HEAD" {
        // The raw client does not know that the answer to this method has a length and no body.
        let mut request = Request::head(std::str::from_utf8(&step.ask.target)?)
            .header("host", step.ask.host.as_slice())
            .header(NOW, now)
            .header(peer, step.ask.peer.to_string());
        for (name, value) in &step.ask.headers {
            request = request.header(name.as_str(), value.as_slice());
        }
        client::send(address, request.body(Full::<Bytes>::default())?).await?
    } else {
        let more = format!("{NOW}: {now}\r\n{peer}: {}\r\n", step.ask.peer);
        client::raw(address, &step.ask.wire(&more)).await?
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers =
        answer.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())));
    let (status, body) = (answer.status.as_u16(), text(&answer.body));
    Ok(Answer { status, passed: status == 200, headers: headers.collect(), body, seen: Vec::new() })
}

/// The clock of who is built with the feature `test-clock`.
const NOW: &str = "x-tollgate-test-now";
