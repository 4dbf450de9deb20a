//! One request and its answer: through hyper, or as raw bytes for what no well-behaved client would send.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The first value of a header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text, with what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// The answer as it looks on the wire.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HTTP/1.1 {}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        write!(f, "\n{}", self.text())
    }
}

/// Sends `GET path` with these headers on a connection of its own.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut request = Request::get(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(address, request.body(Full::default())?).await
}

/// Sends a request on a connection of its own. The request carries its own `host`.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    send_within(address, request, PATIENCE).await
}

/// The same for what may take a while.
pub async fn send_within(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<Answer> {
    let exchange = async {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let answer = whole(sender.send_request(request).await?).await;
        driver.abort();
        answer
    };
    timeout(patience, exchange)
        .await
        .with_context(|| format!("{address} did not answer within {patience:?}"))?
}

/// Sends a request over HTTP/2, without TLS, on a connection of its own. Its URI is absolute.
pub async fn send_http2(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    let exchange = async {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let answer = whole(sender.send_request(request).await?).await;
        driver.abort();
        answer
    };
    timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{address} did not answer within {PATIENCE:?}"))?
}

/// Sends these bytes on a connection of its own and reads one answer, whatever they are.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Result<Answer> {
    let exchange = async {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        // A server that has refused early may close its reading side before everything is sent; it still answers.
        let sent = stream.write_all(bytes).await;
        let answer = read_answer(&mut stream).await;
        if answer.is_err() {
            sent.context("the request could not be sent")?;
        }
        answer
    };
    timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{address} did not answer within {PATIENCE:?}"))?
}

/// Reads one answer from a connection on which the request was sent by hand.
pub async fn read(stream: &mut TcpStream) -> Result<Answer> {
    timeout(PATIENCE, read_answer(stream)).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
}

pub(crate) async fn whole<B>(response: Response<B>) -> Result<Answer>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

async fn read_answer(stream: &mut TcpStream) -> Result<Answer> {
    let mut input = BytesMut::new();
    let head = loop {
        if let Some(end) = find(&input, b"\r\n\r\n") {
            let head = input.split_to(end);
            input.advance(4);
            break head;
        }
        ensure!(
            fill(stream, &mut input).await?,
            "the connection closed before the answer's head was complete"
        );
    };
    let (status, headers) = parse_head(&head)?;
    let length = headers
        .get("content-length")
        .map(|value| value.to_str()?.parse::<usize>().map_err(anyhow::Error::from));
    let body = if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        read_chunks(stream, &mut input).await?
    } else if let Some(length) = length.transpose()? {
        read_exactly(stream, &mut input, length).await?
    } else {
        while fill(stream, &mut input).await? {}
        input.freeze()
    };
    Ok(Answer { status, headers, body })
}

fn parse_head(head: &[u8]) -> Result<(StatusCode, HeaderMap)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let code = first.split(|byte| *byte == b' ').nth(1);
    let status = code.and_then(|code| StatusCode::from_bytes(code).ok());
    let status =
        status.with_context(|| format!("not a status line: `{}`", String::from_utf8_lossy(first)))?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').context("a header without a colon")?;
        headers.append(
            HeaderName::from_bytes(&line[..colon])?,
            HeaderValue::from_bytes(line[colon + 1..].trim_ascii())?,
        );
    }
    Ok((status, headers))
}

async fn read_chunks(stream: &mut TcpStream, input: &mut BytesMut) -> Result<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let Some(end) = find(input, b"\r\n") else {
            ensure!(fill(stream, input).await?, "the connection closed between two chunks");
            continue;
        };
        let line = input.split_to(end);
        input.advance(2);
        let size =
            usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16).context("not a chunk size")?;
        let chunk = read_exactly(stream, input, size + 2).await?;
        if size == 0 {
            return Ok(body.freeze());
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

async fn read_exactly(stream: &mut TcpStream, input: &mut BytesMut, length: usize) -> Result<Bytes> {
    while input.len() < length {
        if !fill(stream, input).await? {
            bail!("the connection closed after {} of {length} bytes", input.len());
        }
    }
    Ok(input.split_to(length).freeze())
}

/// Reads some more; false at the end.
async fn fill(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<bool> {
    Ok(stream.read_buf(input).await? > 0)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Longer than any answer should take; a test that hangs ends here with a reason.
const PATIENCE: Duration = Duration::from_secs(20);
