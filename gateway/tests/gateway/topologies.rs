//! Redis behind TLS, behind sentinels, and as a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use redis::cmd;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tollgate_gateway::{ReadFrom, Target, TargetOptions, TlsFiles};
use tollgate_tests::run_dir;
use tollgate_tests::topologies::cluster::Cluster;
use tollgate_tests::topologies::connect;

use crate::support::{Redis, Server, config, eventually, free_port};

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
    let server = Server::start_with(&watched.url(), &["--command-timeout", "30s"]).await;
    assert_eq!(server.post("/", r#"["SET","k","1"]"#).await.status, 200);
    // Behind the sentinel's back, so that the connections live on; it learns of it a little later.
    watched.swap().await;
    let answer = server.post("/pipeline", r#"[["GET","k"],["INCR","k"],["INCR","k"]]"#).await;
    assert_eq!(answer.text, r#"[{"result":"1"},{"result":2},{"result":3}]"#);
    let answer = server.post("/multi-exec", r#"[["INCR","k"]]"#).await;
    assert_eq!(answer.text, r#"[{"result":4}]"#);
}

#[tokio::test]
async fn servers_of_another_kind_are_refused_and_sentinels_that_know_nothing_are_not() {
    let redis = Redis::start().await;
    for (scheme, path, text) in [
        ("redis+sentinel", "/main", "none of these is a sentinel, use `redis://` or `redis+cluster://`"),
        ("redis+cluster", "", "redis runs for itself: use `redis://`"),
    ] {
        let url = format!("{scheme}://127.0.0.1:{}{path}", redis.port);
        let error = tollgate_gateway::Gateway::bind(config(&url, &[])).await.map(drop).unwrap_err();
        assert!(error.to_string().ends_with(text), "{error}");
    }

    let watched = Watched::start().await;
    let server = Server::start_with(&watched.url().replace("/main", "/other"), &[]).await;
    let answer = server.post("/", r#"["PING"]"#).await;
    assert_eq!(answer.error(), (503, "ERR redis is unreachable: the sentinel knows no master of this name"));
}

#[tokio::test]
async fn a_cluster_answers_as_a_single_redis_does() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let redis = Redis::start().await;
    let (of_cluster, of_redis) = (Server::start_with(&cluster.url(), &[]).await, Server::start(&redis).await);
    let (mut of_cluster, mut of_redis) = (of_cluster.client().await, of_redis.client().await);
    let mut runner = TestRunner::deterministic();
    for _ in 0..150 {
        let batch = prop::collection::vec(a_command(), 1..25).new_tree(&mut runner).unwrap().current();
        let body = serde_json::to_string(&batch).unwrap();
        let mut expected = of_redis.post("/pipeline", body.clone()).await;
        let mut answer = of_cluster.post("/pipeline", body.clone()).await;
        let expected = expected.json.as_array_mut().unwrap();
        let results = answer.json.as_array_mut().unwrap();
        for (command, (result, expected)) in batch.iter().zip(results.iter_mut().zip(expected)) {
            if command[0] == "KEYS" {
                sort(result);
                sort(expected);
            }
            assert_eq!(result, expected, "{command:?} in {body}");
        }
    }
    // By itself a command is answered as in a pipeline.
    for command in [r#"["MGET","a","b","c","d"]"#, r#"["DBSIZE"]"#, r#"["GET","a"]"#] {
        assert_eq!(of_cluster.post("/", command).await.raw(), of_redis.post("/", command).await.raw());
    }
}

#[tokio::test]
async fn what_lies_in_several_slots_and_cannot_be_split_is_refused() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let server = Server::start_with(&cluster.url(), &[]).await;
    let text = "CROSSSLOT Keys in request don't hash to the same slot";
    assert_eq!(server.post("/", r#"["RENAME","a","b"]"#).await.error(), (400, text));
    assert_eq!(server.post("/multi-exec", r#"[["SET","a","1"],["SET","b","1"]]"#).await.error(), (400, text));
    assert_eq!(
        server.post("/pipeline", r#"[["SET","a","1"],["MSETNX","a","1","b","2"],["GET","a"]]"#).await.text,
        format!(r#"[{{"result":"OK"}},{{"error":"{text}"}},{{"result":"1"}}]"#)
    );
    assert_eq!(
        server.post("/multi-exec", r#"[["SET","{t}a","1"],["INCR","{t}b"],["PING"]]"#).await.text,
        r#"[{"result":"OK"},{"result":1},{"result":"PONG"}]"#
    );
    let wide = server.post("/multi-exec", r#"[["SET","{t}a","1"],["DBSIZE"]]"#).await;
    assert!(wide.error().1.contains("'DBSIZE' concerns every node"), "{}", wide.text);
    assert_eq!(server.post("/", r#"["SCAN","x"]"#).await.error(), (400, "ERR invalid cursor"));
}

/// Slots wander from node to node while pipelines and transactions run. Every increment counts once, and what reads several
/// keys between increments sees those before it and not those behind it; in a pipeline it may be told that it came too late.
#[tokio::test]
async fn slots_that_move_lose_and_repeat_and_reorder_nothing() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let server = Arc::new(Server::start_with(&cluster.url(), &["--command-timeout", "5s"]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..4).map(|client| {
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut connection = server.client().await;
            let (mut rounds, mut late) = (0_u64, 0);
            while !stop.load(Ordering::SeqCst) {
                rounds += 1;
                let (once, twice) = (Value::from(2 * rounds - 1), Value::from(2 * rounds));
                // One transaction is about one slot, a pipeline about all.
                let tags = if client == 0 { 0..1 } else { 0..5 };
                let batch = tags.clone().flat_map(|tag| {
                    let keys: Vec<_> = (0..4).map(|key| format!("{{{tag}}}:{client}:{key}")).collect();
                    let increments = keys.iter().map(|key| vec!["INCR".to_owned(), key.clone()]);
                    let read = [vec!["MGET".to_owned()], keys.clone()].concat();
                    increments.clone().chain([read]).chain(increments).collect::<Vec<_>>()
                });
                let path = if client == 0 { "/multi-exec" } else { "/pipeline" };
                let batch = serde_json::to_string(&batch.collect::<Vec<_>>()).unwrap();
                let answer = connection.post(path, batch).await;
                let read = Value::from(vec![once.to_string(); 4]);
                let expected = [vec![once; 4], vec![read], vec![twice; 4]].concat();
                let expected = tags.flat_map(|_| expected.iter().map(|result| json!({ "result": result })));
                for (result, expected) in answer.json.as_array().unwrap().iter().zip(expected) {
                    let too_late =
                        || result["error"].as_str().is_some_and(|error| error.starts_with("TRYAGAIN "));
                    let may_be_late = client != 0 && expected["result"].is_array();
                    assert!(*result == expected || may_be_late && too_late(), "{}", answer.text);
                    late += u64::from(*result != expected);
                }
            }
            (rounds, late)
        })
    });
    let clients: Vec<_> = clients.collect();
    let tags: Vec<String> = (0..5).map(|tag| tag.to_string()).collect();
    for step in [1, 1, 2] {
        for slot in cluster.slots_of(&tags).await.unwrap() {
            let from = cluster.owner(slot).await.unwrap();
            move_key_by_key(&cluster, slot, from, (from + step) % 3).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        let (rounds, late) = client.await.unwrap();
        assert!(rounds > 5 && late < rounds, "{late} of {rounds}");
    }
}

/// Moves a slot as slowly as that can be done: most of the time some of its keys are here and some there.
async fn move_key_by_key(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let mut old = connect(cluster.node(from).address()).await.unwrap();
    let mut new = connect(cluster.node(to).address()).await.unwrap();
    let id = async |node: &mut _| cmd("CLUSTER").arg("MYID").query_async::<String>(node).await.unwrap();
    let (old_id, new_id) = (id(&mut old).await, id(&mut new).await);
    let set = |state: &str, id: &str| cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(state).arg(id).clone();
    set("IMPORTING", &old_id).exec_async(&mut new).await.unwrap();
    set("MIGRATING", &new_id).exec_async(&mut old).await.unwrap();
    loop {
        let get = cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(1).clone();
        let keys: Vec<String> = get.query_async(&mut old).await.unwrap();
        let Some(key) = keys.first() else { break };
        let port = cluster.node(to).address().port();
        let migrate = cmd("MIGRATE").arg("127.0.0.1").arg(port).arg(key).arg(0).arg(5000).clone();
        migrate.exec_async(&mut old).await.unwrap();
    }
    set("NODE", &new_id).exec_async(&mut new).await.unwrap();
    set("NODE", &new_id).exec_async(&mut old).await.unwrap();
}

/// A command as somebody may send it, of those that answer the same whatever the number of nodes.
fn a_command() -> impl Strategy<Value = Vec<String>> {
    let key = || "[a-f]|\\{t\\}[a-c]";
    let value = || "[0-9]{1,2}|x{0,3}";
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let with_keys = |name: &'static str| {
        prop::collection::vec(key(), 1..6).prop_map(move |keys| [vec![name.to_owned()], keys].concat())
    };
    let pairs = prop::collection::vec((key(), value()), 1..6).prop_map(|pairs| {
        [vec!["MSET".to_owned()], pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()].concat()
    });
    let uneven = (key(), key()).prop_map(move |(one, other)| words(&["MSET", &one, "1", &other]));
    let simple = (
        prop::sample::select(vec![
            "GET",
            "INCR",
            "STRLEN",
            "TYPE",
            "LLEN",
            "PERSIST",
            "GETDEL",
            "TTL",
            "UNHEARDOF",
        ]),
        key(),
    );
    let with_value =
        (prop::sample::select(vec!["SET", "APPEND", "RPUSH", "SADD", "GETSET", "SETNX"]), key(), value());
    prop_oneof![
        6 => simple.prop_map(move |(name, key)| words(&[name, &key])),
        6 => with_value.prop_map(move |(name, key, value)| words(&[name, &key, &value])),
        2 => pairs,
        1 => uneven,
        2 => with_keys("MGET"),
        1 => with_keys("DEL"),
        1 => with_keys("UNLINK"),
        1 => with_keys("EXISTS"),
        1 => with_keys("TOUCH"),
        1 => (key(), value()).prop_map(move |(key, value)| {
            words(&["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", &key, &value])
        }),
        2 => prop::sample::select(vec![
            vec!["DBSIZE"],
            vec!["KEYS", "*"],
            vec!["FLUSHALL"],
            vec!["PING"],
            vec!["ECHO", "x"],
            vec!["SCRIPT", "EXISTS", "x"],
            vec!["SCRIPT", "LOAD", "return 1"],
            vec!["SCRIPT", "NONSENSE"],
            vec!["PUBLISH", "nobody", "x"],
            vec!["MGET"],
            vec!["DEL"],
            vec!["EVAL", "return 7", "0"],
            vec!["GET"],
        ])
        .prop_map(move |command| words(&command)),
    ]
}

fn sort(result: &mut Value) {
    if let Some(keys) = result["result"].as_array_mut() {
        keys.sort_by_key(ToString::to_string);
    }
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
