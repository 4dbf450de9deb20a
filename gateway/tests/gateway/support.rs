//! A Redis, a gateway and a client for one test.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::HeaderMap;
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tollgate_gateway::cli::{Cli, Task};
use tollgate_gateway::config::Config;
use tollgate_gateway::{Gateway, Target};
use tollgate_tests::tools;

pub(crate) const TOKEN: &str = "a-token-for-tests";

/// A `redis-server` that dies with this value.
pub(crate) struct Redis {
    pub(crate) port: u16,
    flags: Vec<String>,
    child: Child,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let port = free_port().await;
        let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let child = spawn_redis(port, &flags);
        let redis = Self { port, flags, child };
        redis.reachable().await;
        redis
    }

    /// A sentinel that keeps its configuration in this file.
    pub(crate) async fn start_sentinel(config: &std::path::Path) -> Self {
        let port = free_port().await;
        let flags = vec![config.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        let child = Command::new(tools::redis_server().unwrap())
            .args(&flags)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let redis = Self { port, flags, child };
        redis.reachable().await;
        redis
    }

    /// Asks it directly; the answer is for people to read.
    pub(crate) async fn ask(&self, words: &[&str]) -> String {
        ask(self.port, words).await
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.child = spawn_redis(self.port, &self.flags);
        self.reachable().await;
    }

    /// Sends a signal such as `STOP` or `CONT`.
    pub(crate) async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    async fn reachable(&self) {
        eventually("redis-server accepts connections", async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }
}

/// A gateway in this process, stopped with this value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub(crate) async fn start(redis: &Redis) -> Self {
        Self::start_with(&redis.url(), &[]).await
    }

    pub(crate) async fn start_with(redis: &str, flags: &[&str]) -> Self {
        Self::start_configured(config(redis, flags)).await
    }

    /// In front of a Redis that a URL alone does not describe.
    pub(crate) async fn start_at(redis: Target) -> Self {
        let mut config = config("redis://unused", &[]);
        config.tenants[0].redis = redis;
        Self::start_configured(config).await
    }

    pub(crate) async fn start_configured(config: Config) -> Self {
        let gateway = Gateway::bind(config).await.unwrap();
        // One on a unix socket has no address; its tests know the path.
        let address = gateway.address().tcp().unwrap_or(([0; 4], 0).into());
        let admin = gateway.admin_address().and_then(|address| address.tcp());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(gateway.run(async move { _ = stopped.await }));
        Self { address, admin, stop: Some(stop), task }
    }

    /// Stops, and returns when everything under way has finished.
    pub(crate) async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap().unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Posts over a connection of its own.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.client().await.post(path, body).await
    }
}

pub(crate) fn config(redis: &str, flags: &[&str]) -> Config {
    let listen = if flags.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
    let args = ["tollgate", "gateway", "--redis", redis];
    match Cli::parse_from(args.iter().chain(listen).chain(flags)).task {
        Task::Gateway(args) => Config::new(*args, variable).unwrap(),
        Task::Check { .. } => unreachable!(),
    }
}

/// What a test's environment holds.
fn variable(name: &str) -> Option<String> {
    match name {
        "TOLLGATE_TOKEN" => Some(TOKEN.to_owned()),
        _ => name.strip_suffix("_TOKEN").map(|name| format!("token-of-{}", name.to_lowercase())),
    }
}

/// One HTTP/1.1 connection that is kept alive.
pub(crate) struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(dial(address).await)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path, body)).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "")).await
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.0.ready().await.unwrap();
        Answer::read(self.0.send_request(request).await.unwrap()).await
    }

    /// The status alone, however long the answer goes on.
    pub(crate) async fn status(&mut self, request: Request<Full<Bytes>>) -> u16 {
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap().status().as_u16()
    }

    /// Whatever comes, as it comes.
    pub(crate) async fn bytes(&mut self, request: Request<Full<Bytes>>) -> (Parts, Bytes) {
        self.0.ready().await.unwrap();
        read(self.0.send_request(request).await.unwrap()).await
    }
}

/// One h2c connection, whose clones share it.
#[derive(Clone)]
pub(crate) struct H2Client(http2::SendRequest<Full<Bytes>>);

impl H2Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let io = TokioIo::new(dial(address).await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = request(Method::POST, &format!("http://gateway{path}"), body);
        Answer::read(self.0.send_request(request).await.unwrap()).await
    }

    pub(crate) async fn bytes(&mut self, request: Request<Full<Bytes>>) -> (Parts, Bytes) {
        read(self.0.send_request(request).await.unwrap()).await
    }
}

/// An answer, whose body has already been found to be JSON that says it is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = read(response).await;
        let text = String::from_utf8(body.into()).unwrap();
        assert_eq!(head.headers["content-type"], "application/json", "{} {text}", head.status);
        let json = serde_json::from_str(&text).unwrap();
        Self { status: head.status, headers: head.headers, text, json }
    }

    /// The text of an error, which stands alone.
    pub(crate) fn error(&self) -> (u16, &str) {
        let object = self.json.as_object().unwrap();
        assert_eq!(object.len(), 1, "{}", self.text);
        (self.status.as_u16(), object["error"].as_str().unwrap())
    }

    /// Status and body as they came.
    pub(crate) fn raw(&self) -> (u16, &str) {
        (self.status.as_u16(), &self.text)
    }
}

async fn read(response: Response<Incoming>) -> (Parts, Bytes) {
    let (head, body) = response.into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// A request with the token.
pub(crate) fn request(method: Method, uri: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "gateway")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Full::new(body.into()))
        .unwrap()
}

/// Asks until the answer is yes. The bound is for a broken program; a slow machine stays far below it.
pub(crate) async fn eventually(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !question().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Asks the server at this port directly; the answer is for people to read.
pub(crate) async fn ask(port: u16, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let mut redis = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
        redis::cmd(&words[0]).arg(&words[1..]).query::<redis::Value>(&mut redis)
    });
    format!("{:?}", asked.await.unwrap())
}

pub(crate) async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

pub(crate) async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("the process still runs");
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await.unwrap();
    assert!(status.success());
}

async fn dial(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

fn spawn_redis(port: u16, flags: &[String]) -> Child {
    Command::new(tools::redis_server().unwrap())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(flags)
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
