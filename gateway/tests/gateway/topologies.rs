//! Redis behind TLS, behind sentinels, and as a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tollgate_gateway::{ReadFrom, Target, TargetOptions, TlsFiles};

use crate::support::{Redis, Server, eventually, free_port};

#[tokio::test]
async fn tls_is_spoken_to_the_right_server_only() {
    let redis = Redis::start().await;
    let authority = Authority::new("right");
    let stranger = Authority::new("stranger");
    let plain = TlsFront::start(redis.port, &authority, "127.0.0.1", false).await;
    let strict = TlsFront::start(redis.port, &authority, "redis.internal", true).await;
    let ca = Some(authority.ca());
    let (cert, key) = authority.client();
    let named = Some("redis.internal".to_owned());

    let right = TlsFiles { ca: ca.clone(), ..TlsFiles::default() };
    let server = Server::start_at(tls(&plain, right.clone())).await;
    assert_eq!(server.post("/", r#"["SET","k","over tls"]"#).await.raw(), (200, r#"{"result":"OK"}"#));
    let large = "x".repeat(3 << 20);
    assert_eq!(server.post("/", format!(r#"["ECHO","{large}"]"#)).await.json["result"], large);

    let certified =
        TlsFiles { ca, cert: Some(cert.clone()), key: Some(key.clone()), server_name: named.clone() };
    let server = Server::start_at(tls(&strict, certified.clone())).await;
    assert_eq!(server.post("/", r#"["GET","k"]"#).await.json["result"], "over tls");

    let mine = TlsFiles { ca: Some(stranger.ca()), ..TlsFiles::default() };
    for (front, files, text) in [
        (&plain, mine, "comes from an authority that is not trusted"),
        (&strict, right.clone(), "is for another name"),
        (&strict, TlsFiles { server_name: named, ..right.clone() }, "wants a client certificate"),
    ] {
        let server = Server::start_at(tls(front, files)).await;
        let answer = server.post("/", r#"["PING"]"#).await;
        let (status, error) = answer.error();
        assert!(status == 503 && error.contains(text), "{status} {error}");
    }
    let url = format!("rediss://127.0.0.1:{}", redis.port);
    let target = Target::parse(&url, &TargetOptions { tls: right, ..TargetOptions::default() }).unwrap();
    let server = Server::start_at(target).await;
    let answer = server.post("/", r#"["PING"]"#).await;
    assert!(answer.error().1.contains("TLS: redis does not speak it"), "{}", answer.text);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new("files");
    let (cert, key) = authority.client();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let other = authority.write("other.key", &other);
    let some = |path: &PathBuf| Some(path.clone());
    for (files, text) in [
        (
            TlsFiles { ca: Some("/does/not/exist".into()), ..TlsFiles::default() },
            "cannot read `/does/not/exist`",
        ),
        (TlsFiles { ca: some(&key), ..TlsFiles::default() }, "holds no certificate"),
        (TlsFiles { ca: Some(authority.ca()), cert: some(&cert), ..TlsFiles::default() }, "without its key"),
        (
            TlsFiles { ca: Some(authority.ca()), key: some(&key), ..TlsFiles::default() },
            "without its certificate",
        ),
        (
            TlsFiles { ca: Some(authority.ca()), cert: some(&cert), key: some(&cert), ..TlsFiles::default() },
            "holds no private key",
        ),
        (
            TlsFiles {
                ca: Some(authority.ca()),
                cert: some(&cert),
                key: some(&other),
                ..TlsFiles::default()
            },
            "is not the key of",
        ),
        (
            TlsFiles {
                ca: Some(authority.ca()),
                server_name: Some("not a name".into()),
                ..TlsFiles::default()
            },
            "server name `not a name`",
        ),
    ] {
        let options = TargetOptions { tls: files, ..TargetOptions::default() };
        let error = format!("{:#}", Target::parse("rediss://localhost", &options).unwrap_err());
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_failover_is_followed_and_replicas_are_read() {
    let watched = Watched::start().await;
    let server = Server::start_with(&watched.url(), &[]).await;
    assert_eq!(server.post("/", r#"["SET","k","1"]"#).await.raw(), (200, r#"{"result":"OK"}"#));

    let options = TargetOptions { read_from: ReadFrom::Replica, ..TargetOptions::default() };
    let reader = Server::start_at(Target::parse(&watched.url(), &options).unwrap()).await;
    // A script that only reads tells which server it runs on.
    let at = async |server: &Server, first: &str| {
        let body = format!(r#"[{first},["EVAL_RO","return redis.call('INFO','server')","0"]]"#);
        let answer = server.post("/pipeline", body).await;
        let info = answer.json[1]["result"].as_str().unwrap_or_default();
        info.lines().find_map(|line| line.strip_prefix("tcp_port:")?.parse::<u16>().ok())
    };
    let (master, replica) = (Some(watched.master.port), Some(watched.replica.port));
    eventually("reads go to the replica", async || at(&reader, r#"["EXISTS","k"]"#).await == replica).await;
    assert_eq!(at(&reader, r#"["SET","k","2"]"#).await, master);
    assert_eq!(at(&server, r#"["GET","k"]"#).await, master);

    watched.fail_over().await;
    eventually("the new master is used", async || at(&server, r#"["INCR","n"]"#).await == replica).await;
    assert_eq!(server.post("/", r#"["GET","k"]"#).await.json["result"], "2");
}

#[tokio::test]
async fn a_write_that_a_former_master_refused_reaches_the_new_one() {
    let watched = Watched::start().await;
    let server = Server::start_with(&watched.url(), &["--command-timeout", "3s"]).await;
    assert_eq!(server.post("/", r#"["SET","k","1"]"#).await.status, 200);
    // Behind the sentinel's back, so that the connections live on; it learns of it a little later.
    watched.swap().await;
    let answer = server.post("/pipeline", r#"[["GET","k"],["INCR","k"],["INCR","k"]]"#).await;
    assert_eq!(answer.text, r#"[{"result":"1"},{"result":2},{"result":3}]"#);
    let answer = server.post("/multi-exec", r#"[["INCR","k"]]"#).await;
    assert_eq!(answer.text, r#"[{"result":4}]"#);
}

#[tokio::test]
async fn sentinels_that_are_none_or_know_nothing_are_told_apart() {
    let redis = Redis::start().await;
    let url = format!("redis+sentinel://127.0.0.1:{}/main", redis.port);
    let config = crate::support::config(&url, &[]);
    let error = tollgate_gateway::Gateway::bind(config).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("none of these is a sentinel"), "{error}");

    let watched = Watched::start().await;
    let server = Server::start_with(&watched.url().replace("/main", "/other"), &[]).await;
    let answer = server.post("/", r#"["PING"]"#).await;
    assert_eq!(answer.error(), (503, "ERR redis is unreachable: the sentinel knows no master of this name"));
}

/// Signs certificates, and keeps them in files that go with this value.
struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tollgate-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { directory, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    fn client(&self) -> (PathBuf, PathBuf) {
        let (cert, key) = self.sign("client");
        (self.write("client.pem", &cert), self.write("client.key", &key))
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Ends TLS in front of a Redis that was built without.
struct TlsFront {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TlsFront {
    async fn start(redis: u16, authority: &Authority, name: &str, asks_for_certificate: bool) -> Self {
        let (cert, key) = authority.sign(name);
        let certs = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = if asks_for_certificate {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(certs, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut redis = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut redis).await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tls(front: &TlsFront, files: TlsFiles) -> Target {
    let options = TargetOptions { tls: files, ..TargetOptions::default() };
    Target::parse(&format!("rediss://{}", front.address), &options).unwrap()
}

/// A master, its replica, and a sentinel that calls the master `main`.
struct Watched {
    master: Redis,
    replica: Redis,
    sentinel: Redis,
    config: PathBuf,
}

impl Watched {
    async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica =
            Redis::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]).await;
        let config = std::env::temp_dir().join(format!("tollgate-sentinel-{}.conf", free_port().await));
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 2000\n\
             sentinel failover-timeout main 5000\n"
        );
        std::fs::write(&config, lines).unwrap();
        let sentinel = Redis::start_sentinel(&config).await;
        let watched = Self { master, replica, sentinel, config };
        eventually("the sentinel knows the replica, which follows", async || {
            let replicas = watched.sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).await;
            let link = watched.replica.ask(&["INFO", "replication"]).await;
            replicas.contains(&watched.replica.port.to_string())
                && replicas.contains("\"ok\"")
                && link.contains("master_link_status:up")
        })
        .await;
        watched
    }

    fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port)
    }

    async fn fail_over(&self) {
        eventually("the sentinel begins a failover", async || {
            self.sentinel.ask(&["SENTINEL", "FAILOVER", "main"]).await == "Ok(ok)"
        })
        .await;
    }

    /// Makes the replica the master, and tells the sentinel afterwards.
    async fn swap(&self) {
        self.replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
        let port = self.replica.port.to_string();
        self.master.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
        let sentinel = self.sentinel.port;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            crate::support::ask(sentinel, &["SENTINEL", "REMOVE", "main"]).await;
            crate::support::ask(sentinel, &["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "1"]).await;
        });
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config);
    }
}
