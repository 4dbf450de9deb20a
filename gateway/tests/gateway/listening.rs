//! Where and how clients come in: TLS, unix sockets, and the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::generate_simple_self_signed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tollgate_gateway::Gateway;

use crate::program::Program;
use crate::support::{Client, Redis, Server, config, eventually, request};

/// A certificate for `localhost` in files of its own.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new() -> Self {
        let name = |kind| format!("tollgate-listening-{}-{}.{kind}", std::process::id(), unique());
        let this = Self {
            cert: std::env::temp_dir().join(name("crt")),
            key: std::env::temp_dir().join(name("key")),
        };
        this.renew();
        this
    }

    /// Puts another one in its place; gives what clients have to trust now.
    fn renew(&self) {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&self.cert, made.cert.pem()).unwrap();
        std::fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
    }

    fn flags(&self) -> [&str; 4] {
        ["--tls-cert", self.cert.to_str().unwrap(), "--tls-key", self.key.to_str().unwrap()]
    }

    /// Connects as a client that trusts only this, and speaks `protocols`.
    async fn connect(
        &self,
        address: std::net::SocketAddr,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.cert);
        let _ = std::fs::remove_file(&self.key);
    }
}

fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn https_is_spoken_in_both_versions_and_large_answers_pass() {
    let redis = Redis::start().await;
    let certificate = Certificate::new();
    let server = Server::start_with(&redis.url(), &certificate.flags()).await;
    let large = "x".repeat(3 << 20);
    let body = Bytes::from(format!(r#"["ECHO","{large}"]"#));
    for (offered, spoken) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = certificate.connect(server.address, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
        let io = TokioIo::new(stream);
        let mut ask = if spoken == Some(b"h2") {
            let (sender, connection) =
                http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Asker::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Asker::Http1(sender)
        };
        let (status, answer) = ask.post(body.clone()).await;
        assert_eq!((status.as_u16(), answer.len()), (200, large.len() + 13), "{offered:?}");
    }
    // What does not speak TLS is let go, and harms nobody.
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), plain.read_to_end(&mut heard)).await.unwrap();
    assert!(!heard.starts_with(b"HTTP"));
    assert!(certificate.connect(server.address, &[]).await.is_ok());
}

enum Asker {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Asker {
    async fn post(&mut self, body: Bytes) -> (StatusCode, Bytes) {
        use http_body_util::BodyExt as _;
        let answer = match self {
            Self::Http1(sender) => sender.send_request(request(Method::POST, "/", body)).await,
            Self::Http2(sender) => sender.send_request(request(Method::POST, "https://gateway/", body)).await,
        };
        let (head, body) = answer.unwrap().into_parts();
        (head.status, body.collect().await.unwrap().to_bytes())
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_on_sighup_and_nonsense_is_not_taken_over() {
    let redis = Redis::start().await;
    let certificate = Certificate::new();
    let flags = ["--redis", &redis.url()];
    let mut program = Program::start(&[&flags[..], &certificate.flags()].concat(), &[]).await;
    assert!(certificate.connect(program.address, &[]).await.is_ok());
    certificate.renew();
    program.signal("HUP").await;
    program.until("the certificate was renewed").await;
    assert!(certificate.connect(program.address, &[]).await.is_ok());

    let good = std::fs::read(&certificate.cert).unwrap();
    std::fs::write(&certificate.cert, "nonsense").unwrap();
    program.signal("HUP").await;
    program.until("the certificate is not renewed").await;
    std::fs::write(&certificate.cert, good).unwrap();
    assert!(certificate.connect(program.address, &[]).await.is_ok());
}

#[tokio::test]
async fn files_of_a_certificate_that_cannot_be_used_are_named() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    for (cert, key, text) in [
        (path(&one.cert), "/does/not/exist".into(), "cannot read `/does/not/exist`".to_owned()),
        (path(&one.key), path(&one.key), "holds no certificate".into()),
        (path(&one.cert), path(&one.cert), "holds no private key".into()),
        (path(&one.cert), path(&other.key), format!("is not the key of `{}`", path(&one.cert))),
    ] {
        let config = config("redis://127.0.0.1:1", &["--tls-cert", &cert, "--tls-key", &key]);
        let error = format!("{:#}", Gateway::bind(config).await.map(drop).unwrap_err());
        assert!(error.contains(&text), "{error}");
    }
}

#[tokio::test]
async fn unix_sockets_are_served_and_left_as_they_were_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let redis = Redis::start().await;
    let path = std::env::temp_dir().join(format!("tollgate-{}-{}.sock", std::process::id(), unique()));
    let listen = format!("unix:{}", path.display());
    // One that a killed process left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let flags = ["--listen", &listen, "--listen-mode", "660"];
    let mut server = Server::start_with(&redis.url(), &flags).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let (sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(UnixStream::connect(&path).await.unwrap()))
            .await
            .unwrap();
    tokio::spawn(connection);
    let (status, body) = Asker::Http1(sender).post(r#"["PING"]"#.into()).await;
    assert_eq!((status.as_u16(), &body[..]), (200, &br#"{"result":"PONG"}"#[..]));
    // One that is listened on is somebody's.
    let error = format!("{:#}", Gateway::bind(config(&redis.url(), &flags)).await.map(drop).unwrap_err());
    assert!(error.starts_with(&format!("cannot listen on `{listen}`: Address already in use")), "{error}");
    server.stop().await;
    assert!(!path.exists());
    // And what is no socket is not ours to remove.
    std::fs::write(&path, "precious").unwrap();
    assert!(Gateway::bind(config(&redis.url(), &flags)).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn the_end_is_announced_and_what_is_under_way_is_finished() {
    let redis = Redis::start().await;
    let flags = [
        "--redis",
        &redis.url(),
        "--admin-listen",
        "127.0.0.1:0",
        "--command-timeout",
        "20s",
        "--drain",
        "20s",
    ];
    let mut program = Program::start(&flags, &[]).await;
    let mut admin = Client::connect(program.admin.unwrap()).await;
    assert_eq!(admin.get("/ready").await.raw(), (200, r#"{"status":"ready"}"#));
    let mut idle = TcpStream::connect(program.address).await.unwrap();
    let mut client = Client::connect(program.address).await;
    redis.signal("STOP").await;
    let answer = tokio::spawn(async move { client.post("/", r#"["ECHO","late"]"#).await });
    eventually("the request is under way", async || {
        let (_, text) = admin.bytes(request(Method::GET, "/metrics", "")).await;
        String::from_utf8_lossy(&text).contains("tollgate_gateway_in_flight 1\n")
    })
    .await;
    program.signal("TERM").await;
    program.until("stopping").await;
    let ready = Client::connect(program.admin.unwrap()).await.get("/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json["status"].as_str()), (503, Some("stopping")));
    assert_eq!(admin.get("/health").await.status, 200);
    let mut nothing = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), idle.read_to_end(&mut nothing)).await.unwrap();
    assert!(TcpStream::connect(program.address).await.is_err(), "it still accepts");
    redis.signal("CONT").await;
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.json["result"].as_str(), &answer.headers["connection"]),
        (Some("late"), &"close".parse().unwrap())
    );
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn what_does_not_finish_is_not_waited_for() {
    let redis = Redis::start().await;
    let flags = ["--redis", &redis.url(), "--command-timeout", "1m", "--drain", "200ms"];
    let mut program = Program::start(&flags, &[]).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.get("/ping").await.status, 200);
    redis.signal("STOP").await;
    tokio::spawn(async move { client.bytes(request(Method::GET, "/ping", "")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    program.signal("TERM").await;
    program.until("some requests were still under way after 200ms").await;
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_its_end_holds_no_connection() {
    let redis = Redis::start().await;
    let certificate = Certificate::new();
    let flags = [&certificate.flags()[..], &["--header-timeout", "400ms"]].concat();
    let server = Server::start_with(&redis.url(), &flags).await;
    // Nothing, and the beginning of a record that says it holds a greeting.
    for said in [&b""[..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(8), socket.read_to_end(&mut heard)).await;
        assert!(closed.is_ok(), "{said:?}");
    }
    // Nor does one that shakes hands and says nothing.
    let mut silent = certificate.connect(server.address, &[b"http/1.1"]).await.unwrap();
    let mut heard = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(8), silent.read_to_end(&mut heard)).await;
    assert!(closed.is_ok());
}
