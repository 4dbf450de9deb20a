//! What answers take of memory, as the system counts it.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tollgate_tests::run_dir;
use tollgate_tests::topologies::cluster::Cluster;

use crate::program::Program;
use crate::support::{Client, H2Client, Redis, TOKEN, ask, eventually, request};

const MIB: u64 = 1 << 20;

/// What the program may take for clients, and what it may take besides.
const ALLOWED: &str = "256MiB";
const MOST: u64 = (256 + 64) * MIB;

/// Redis with a value of ten MiB below each of these keys: of NULs, each of which JSON writes as six characters.
async fn values() -> Redis {
    let redis = Redis::start().await;
    for (key, script) in [("nuls", "string.rep('\\0', 10485760)"), ("text", "string.rep('x', 10485760)")] {
        redis.ask(&["EVAL", &format!("return redis.call('SET', '{key}', {script})"), "0"]).await;
    }
    redis
}

async fn serve(redis: &Redis, flags: &[&str]) -> Program {
    let url = redis.url();
    let common = ["--redis", &url, "--max-memory", ALLOWED, "--command-timeout", "30s"];
    Program::start(&[&common[..], flags].concat(), &[]).await
}

/// A client that asks and reads nothing; what the kernel takes in for it is little.
async fn deaf(program: &Program, path: &str, body: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(program.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n");
    let asked = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(asked.as_bytes()).await.unwrap();
    stream
}

/// What every client is answered with, and the most memory that is taken until no more comes.
async fn answered(program: &Program, clients: &mut [TcpStream]) -> (Vec<u16>, u64) {
    let (mut statuses, mut peak) = (Vec::new(), 0);
    for client in clients {
        let mut head = [0; 12];
        let mut read = Box::pin(client.read_exact(&mut head));
        let deadline = Instant::now() + Duration::from_secs(40);
        while timeout(Duration::from_millis(10), &mut read).await.is_err() {
            assert!(Instant::now() < deadline, "no answer begins");
            peak = peak.max(program.resident());
        }
        drop(read);
        statuses.push(std::str::from_utf8(&head[9..]).unwrap().parse().unwrap());
    }
    // Whatever is still encoded for those that do not read is encoded now.
    for _ in 0..100 {
        peak = peak.max(program.resident());
        sleep(Duration::from_millis(10)).await;
    }
    (statuses, peak)
}

/// Back to what it had before, but for what threads keep at hand.
async fn is_given_back(program: &Program, before: u64) {
    let begun = Instant::now();
    eventually("memory is given back", async || program.resident() < before + 24 * MIB).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn answers_that_nobody_reads_take_no_more_memory_than_is_allowed() {
    let redis = values().await;
    let program = serve(&redis, &[]).await;
    let before = program.resident();
    let mut clients = Vec::new();
    for number in 0..200 {
        let key = if number % 2 == 0 { "text" } else { "nuls" };
        clients.push(deaf(&program, "/", &format!(r#"["GET","{key}"]"#)).await);
    }
    let (statuses, peak) = answered(&program, &mut clients).await;
    assert!(peak <= MOST, "{} MiB", peak / MIB);
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((15..=25).contains(&served), "{served} were served");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    // What is small is answered meanwhile.
    let mut polite = Client::connect(program.address).await;
    assert_eq!(polite.post("/", r#"["ECHO","hello"]"#).await.raw(), (200, r#"{"result":"hello"}"#));
    let refused = polite.post("/", r#"["GET","text"]"#).await;
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.error().1,
        "ERR too much memory is taken by requests under way: the answer was thrown away, what was sent has run"
    );
    drop(clients);
    is_given_back(&program, before).await;
    let whole = polite.post("/", r#"["GET","text"]"#).await;
    assert_eq!((whole.status.as_u16(), whole.json["result"].as_str().unwrap().len()), (200, 10 << 20));
}

#[tokio::test]
async fn a_pipeline_whose_json_is_six_times_as_large_is_answered_piece_by_piece() {
    let redis = values().await;
    let program = serve(&redis, &[]).await;
    let before = program.resident();
    let body = format!("[{}]", [r#"["GET","nuls"]"#; 9].join(","));
    let mut client = [deaf(&program, "/pipeline", &body).await];
    let (statuses, peak) = answered(&program, &mut client).await;
    assert_eq!(statuses, [200]);
    assert!(peak <= MOST && peak < before + 200 * MIB, "{} MiB", peak / MIB);
    // It goes on for a client that reads.
    let [mut client] = client;
    let (mut read, mut nuls, mut buffer) = (0, 0, vec![0; 1 << 20]);
    while nuls < 12 << 20 {
        let count = timeout(Duration::from_secs(30), client.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "it ends after {read} bytes and {nuls} NULs");
        read += count;
        nuls += buffer[..count].iter().filter(|byte| **byte == b'\\').count();
    }
    assert!(program.resident() <= MOST);
    drop(client);
    is_given_back(&program, before).await;
    // And all of it comes.
    redis.ask(&["EVAL", "return redis.call('SET', 'some', string.rep('a\\0é\"', 50000))", "0"]).await;
    let mut polite = Client::connect(program.address).await;
    let answer = polite
        .post("/pipeline", r#"[["GET","some"],["NOSUCH"],["GET","some"],["ECHO","x"],["STRLEN","some"]]"#)
        .await;
    let results = answer.json.as_array().unwrap();
    assert_eq!(results[0]["result"].as_str().unwrap(), "a\0é\"".repeat(50_000));
    assert_eq!(
        (&results[2], &results[3]["result"], &results[4]["result"]),
        (&results[0], &"x".into(), &250_000.into())
    );
    assert!(results[1]["error"].as_str().unwrap().starts_with("ERR unknown command"));
    assert_eq!((results.len(), answer.status.as_u16()), (5, 200));
}

#[tokio::test]
async fn bodies_for_a_redis_that_does_not_answer_take_no_more_memory_than_is_allowed() {
    let redis = values().await;
    let url = redis.url();
    let flags = ["--redis", &url, "--max-memory", ALLOWED, "--command-timeout", "1s"];
    let program = Program::start(&flags, &[]).await;
    let before = program.resident();
    redis.signal("STOP").await;
    let value = "v".repeat(8 << 20);
    let mut clients = Vec::new();
    let mut peak = 0;
    for _ in 0..100 {
        clients.push(deaf(&program, "/set/k", &value).await);
        peak = peak.max(program.resident());
    }
    let (statuses, later) = answered(&program, &mut clients).await;
    redis.signal("CONT").await;
    assert!(peak.max(later) <= MOST, "{} MiB", peak.max(later) / MIB);
    assert!(statuses.iter().all(|status| [503, 504].contains(status)), "{statuses:?}");
    drop(clients);
    is_given_back(&program, before).await;
}

#[tokio::test]
async fn messages_for_subscribers_that_do_not_read_take_no_more_memory_than_is_allowed() {
    let redis = Redis::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]).await;
    let program = serve(&redis, &[]).await;
    let before = program.resident();
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(deaf(&program, "/subscribe/news", "").await);
    }
    let (statuses, _) = answered(&program, &mut clients).await;
    assert!(statuses.iter().all(|status| *status == 200));
    eventually("all listen", async || redis.ask(&["PUBSUB", "NUMSUB", "news"]).await.contains("int(60)"))
        .await;
    redis.ask(&["EVAL", "return redis.call('PUBLISH', 'news', string.rep('x', 10485760))", "0"]).await;
    let mut peak = 0;
    for _ in 0..300 {
        peak = peak.max(program.resident());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(peak <= MOST, "{} MiB", peak / MIB);
    drop(clients);
    is_given_back(&program, before).await;
}

/// A command of many arguments: two bytes of JSON are seven for Redis, and some more while they are
/// looked at.
fn many_arguments(name: &str, size: usize) -> String {
    format!(r#"["{name}",{}1]"#, "1,".repeat((size - 16) / 2))
}

#[tokio::test]
async fn commands_of_many_arguments_and_pipelines_take_no_more_memory_than_is_allowed() {
    let redis = Redis::start().await;
    let url = redis.url();
    // Redis stands still meanwhile, and a busy machine takes long to send all that.
    let flags = ["--max-memory", "64MiB", "--command-timeout", "60s", "--threads", "4"];
    let flags = [&flags[..], &["--max-pipeline", "100000", "--redis", &url]].concat();
    let program = Program::start(&flags, &[]).await;
    let before = program.resident();
    let pipeline = |command: &str, times: usize| format!(r#"[{},["PING"]]"#, vec![command; times].join(","));
    let script = |number| format!("#!lua flags=allow-key-locking\n--{number}{}", "x".repeat(60_000));
    for (what, path, body) in [
        ("a large command", "/", many_arguments("DEL", 10 << 20)),
        ("a command", "/", many_arguments("DEL", 1_900_000)),
        ("commands", "/pipeline", pipeline(&many_arguments("NOSUCH", 8000), 500)),
        ("small commands", "/pipeline", pipeline("[1]", 99_000)),
        ("refused commands", "/pipeline", pipeline(r#"["QUIT"]"#, 99_000)),
        ("scripts", "/pipeline", "".into()),
    ] {
        redis.signal("STOP").await;
        let (mut clients, mut peak) = (Vec::new(), 0);
        for client in 0..12 {
            let scripts: Vec<_> =
                (0..60).map(|number| json!(["EVAL", script(100 * client + number), 0]).to_string()).collect();
            let body = if body.is_empty() { format!("[{}]", scripts.join(",")) } else { body.clone() };
            clients.push(deaf(&program, path, &body).await);
            peak = peak.max(program.resident());
        }
        for _ in 0..100 {
            peak = peak.max(program.resident());
            sleep(Duration::from_millis(10)).await;
        }
        redis.signal("CONT").await;
        let (statuses, later) = answered(&program, &mut clients).await;
        assert!(peak.max(later) <= (64 + 64) * MIB, "{what}: {} MiB", peak.max(later) / MIB);
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{what}: {statuses:?}");
        assert_eq!(statuses.contains(&200), what != "a large command", "{what}: {statuses:?}");
        drop(clients);
        is_given_back(&program, before).await;
    }
}

/// In a cluster they are written again for each node.
#[tokio::test]
async fn commands_for_several_nodes_take_no_more_memory_than_is_allowed() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let url = cluster.url();
    let flags = ["--max-memory", "64MiB", "--command-timeout", "10s", "--threads", "4", "--redis", &url];
    let program = Program::start(&flags, &[]).await;
    let before = program.resident();
    let value = "v".repeat(2 << 20);
    let keys = ["a", "b", "c", "d"];
    let one: Vec<&str> =
        ["MSET"].into_iter().chain(keys.iter().flat_map(|key| [*key, value.as_str()])).collect();
    let each: Vec<[&str; 3]> = keys.iter().map(|key| ["SET", *key, &value]).collect();
    for (path, body) in [("/", json!(one).to_string()), ("/pipeline", json!(each).to_string())] {
        for node in 0..6 {
            ask(cluster.node(node).address().port(), &["CLIENT", "PAUSE", "2000", "ALL"]).await;
        }
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(deaf(&program, path, &body).await);
        }
        let (statuses, peak) = answered(&program, &mut clients).await;
        assert!(peak <= (64 + 64) * MIB, "{path}: {} MiB", peak / MIB);
        assert!(
            statuses.contains(&200) && statuses.iter().all(|status| [200, 503].contains(status)),
            "{statuses:?}"
        );
        drop(clients);
        is_given_back(&program, before).await;
    }
}

/// One HTTP/2 connection, as the bytes that a client sends.
struct Said(Vec<u8>);

impl Said {
    /// Its beginning, with this window for each answer.
    fn with_window(window: u32) -> Self {
        let mut said = Self(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
        said.frame(4, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        said
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        self.0.extend([kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
    }

    /// The fields of a head, of which the method has this number in HPACK's table.
    fn head(method: u8, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let text = |to: &mut Vec<u8>, text: &[u8]| {
            match text.len().checked_sub(127) {
                None => to.push(u8::try_from(text.len()).unwrap()),
                Some(rest) => {
                    let (low, high) = (rest % 128, rest / 128);
                    to.extend([127, 128 | u8::try_from(low).unwrap(), u8::try_from(high).unwrap()]);
                }
            }
            to.extend_from_slice(text);
        };
        // The method, http, the path and the authority.
        let mut head = vec![0x80 | method, 0x86, 0x04];
        text(&mut head, path.as_bytes());
        head.push(0x01);
        text(&mut head, b"gateway");
        for (name, value) in fields {
            head.push(0);
            text(&mut head, name.as_bytes());
            text(&mut head, value.as_bytes());
        }
        head
    }
}

const GET: u8 = 2;
const POST: u8 = 3;

/// Requests over one HTTP/2 connection, each with a head of 30 KB and without the body it
/// announces.
fn heads(token: &str, requests: u32) -> Vec<u8> {
    let (x, y) = ("x".repeat(14_000), "y".repeat(14_000));
    let head = Said::head(POST, "/", &[("authorization", token), ("x-1", &x), ("x-2", &y)]);
    let mut said = Said::with_window(65_535);
    let (begin, rest) = head.split_at(16_000);
    for number in 0..requests {
        said.frame(1, 0, 2 * number + 1, begin);
        said.frame(9, 4, 2 * number + 1, rest);
    }
    said.0
}

/// How many of the answers that have come on an HTTP/2 connection are over with their heads.
async fn over_with_their_heads(connection: &mut TcpStream) -> usize {
    let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_millis(200), connection.read(&mut buffer)).await {
        heard.extend_from_slice(&buffer[..count]);
    }
    let (mut rest, mut over) = (&heard[..], 0);
    while let [a, b, c, kind, flags, _, _, _, _, frame @ ..] = rest {
        over += usize::from(*kind == 1 && flags & 1 == 1);
        rest = frame.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
    }
    over
}

#[tokio::test]
async fn answers_for_which_no_window_opens_take_no_more_memory_than_is_allowed() {
    const CONNECTIONS: u64 = 300;
    let redis = Redis::start().await;
    let url = redis.url();
    let program = Program::start(&["--redis", &url, "--max-memory", "64MiB"], &[]).await;
    let right = format!("Bearer {TOKEN}");
    for (path, token) in [
        ("/get/k", "Bearer wrong"),
        ("/no/such/path", &right),
        ("/get/k", &right),
        ("/metrics", &right),
        ("/health/detailed", &right),
        ("/ready", &right),
        ("/health", "Bearer wrong"),
    ] {
        let mut said = Said::with_window(0);
        let head = Said::head(GET, path, &[("authorization", token)]);
        for number in 0..1024 {
            said.frame(1, 5, 2 * number + 1, &head);
        }
        let (mut connections, mut peak) = (Vec::new(), 0);
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(program.address).await.unwrap();
            stream.write_all(&said.0).await.unwrap();
            connections.push(stream);
            peak = peak.max(program.resident());
        }
        for _ in 0..300 {
            peak = peak.max(program.resident());
            sleep(Duration::from_millis(10)).await;
        }
        // A connection of a program that is built for tests takes a little more.
        assert!(peak <= (64 + 64) * MIB + CONNECTIONS * 180 * 1024, "{path} {token}: {} MiB", peak / MIB);
        // Those for which there is no memory are told their status alone.
        let mut found = false;
        for connection in connections.iter_mut().rev() {
            found = found || over_with_their_heads(connection).await >= 90;
        }
        assert!(found, "{path} {token}");
        if token != right {
            // Who has shown no token takes nothing from those who have.
            let mut polite = H2Client::connect(program.address).await;
            assert_eq!(polite.post("/", r#"["ECHO","hello"]"#).await.raw(), (200, r#"{"result":"hello"}"#));
        }
        // The allocator keeps what was small, for the next.
        drop(connections);
        eventually("places are given back", async || {
            let mut polite = H2Client::connect(program.address).await;
            polite.bytes(request(Method::GET, "http://gateway/ping", "")).await.0.status == 200
        })
        .await;
    }
}

/// All of them have come before the program looks at the first.
#[tokio::test]
async fn streams_that_begin_at_once_take_no_more_memory_than_is_allowed() {
    const CONNECTIONS: u64 = 1000;
    let redis = Redis::start().await;
    let url = redis.url();
    let program = Program::start(&["--redis", &url, "--max-memory", "64MiB", "--threads", "2"], &[]).await;
    let head = Said::head(GET, "/get/k", &[("authorization", "Bearer wrong")]);
    let mut begins = Said(Vec::new());
    for number in 0..100 {
        begins.frame(1, 5, 2 * number + 1, &head);
    }
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        stream.write_all(&Said::with_window(0).0).await.unwrap();
        connections.push(stream);
    }
    let mut polite = H2Client::connect(program.address).await;
    assert_eq!(polite.post("/", r#"["PING"]"#).await.raw(), (200, r#"{"result":"PONG"}"#));
    program.signal("STOP").await;
    for stream in &mut connections {
        stream.write_all(&begins.0).await.unwrap();
    }
    program.signal("CONT").await;
    let mut peak = 0;
    for _ in 0..300 {
        peak = peak.max(program.resident());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(peak <= (64 + 64) * MIB + CONNECTIONS * 150 * 1024, "{} MiB", peak / MIB);
    assert_eq!(polite.post("/", r#"["PING"]"#).await.raw(), (200, r#"{"result":"PONG"}"#));
}

/// A body with one string of many megabytes, which is there twice while it is read.
#[tokio::test]
async fn one_large_command_takes_no_more_memory_than_is_allowed() {
    const SIZE: usize = 119 << 20;
    let redis = Redis::start().await;
    let program = serve(&redis, &["--max-body", "128MiB"]).await;
    let before = program.resident();
    let mut wrong = Vec::new();
    let flag = r"#!lua flags=allow-key-locking\nreturn 1";
    let mut client = Client::connect(program.address).await;
    for (what, body, status) in [
        ("a script", format!(r#"["EVAL","{flag} --{}",0]"#, "x".repeat(SIZE)), 400),
        ("an argument of a script", format!(r#"["EVAL","{flag}",0,"{}"]"#, "x".repeat(SIZE)), 200),
        ("a string", format!(r#"["SET","k","\n{}"]"#, "x".repeat(SIZE)), 200),
        ("escapes", format!(r#"["SET","k","{}"]"#, r"\u000a".repeat(SIZE / 6)), 200),
    ] {
        let mut asking = Box::pin(client.post("/", body));
        let mut peak = 0;
        let answer = loop {
            peak = peak.max(program.resident());
            if let Ok(answer) = timeout(Duration::from_millis(2), &mut asking).await {
                break answer;
            }
        };
        drop(asking);
        if peak > MOST || answer.status != status {
            wrong.push((what, peak / MIB, answer.text));
        }
        is_given_back(&program, before).await;
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What looks like JSON inside of a string is no argument.
#[tokio::test]
async fn commas_in_a_string_take_no_memory() {
    let redis = Redis::start().await;
    let url = redis.url();
    let program = Program::start(&["--redis", &url, "--max-memory", "64MiB"], &[]).await;
    let mut client = Client::connect(program.address).await;
    let value = format!(r#"["\",[{}1]"#, "1,".repeat(9 << 19));
    let answer = client.post("/", json!(["SET", "k", value]).to_string()).await;
    assert_eq!(answer.raw(), (200, r#"{"result":"OK"}"#));
    let length = client.post("/", r#"["STRLEN","k"]"#).await;
    assert_eq!(length.json["result"], value.len());
    let answer = client.post("/", many_arguments("DEL", 9 << 20)).await;
    assert_eq!(answer.error(), (503, "ERR too much memory is taken by requests under way"));
}

#[tokio::test]
async fn heads_of_requests_without_a_token_take_no_memory_while_their_bodies_do_not_come() {
    let redis = Redis::start().await;
    let program = serve(&redis, &[]).await;
    let before = program.resident();
    let said = heads("Bearer wrong", 1000);
    let mut peak = 0;
    let mut connections = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        for part in said.chunks(1 << 20) {
            stream.write_all(part).await.unwrap();
            peak = peak.max(program.resident());
        }
        connections.push(stream);
    }
    for _ in 0..100 {
        peak = peak.max(program.resident());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(peak < before + 64 * MIB, "{} MiB", peak / MIB);
    drop(connections);
    is_given_back(&program, before).await;
}
