//! Clients that take more than their share: too much, too slowly, or nothing at all.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{H2Client, Redis, Server, TOKEN, eventually, request};

/// A connection on which the bytes are ours.
async fn raw(server: &Server, said: impl AsRef<[u8]>) -> TcpStream {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(said.as_ref()).await.unwrap();
    socket
}

/// What the server says until it closes.
async fn heard(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is reset has said what it had to say.
    let _ = timeout(Duration::from_secs(20), socket.read_to_end(&mut text)).await.expect("it is closed");
    String::from_utf8(text).unwrap()
}

/// Status and error of an answer as it stands on the wire.
fn error(text: &str) -> (u16, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{text}");
    let json: Value = serde_json::from_str(body).unwrap();
    (head[9..12].parse().unwrap(), json["error"].as_str().unwrap().to_owned())
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n{fields}\r\n")
}

/// A number of the metrics.
async fn metric(server: &Server, name: &str) -> u64 {
    let (_, text) = server.client().await.bytes(request(hyper::Method::GET, "/metrics", "")).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let name = format!("tollgate_gateway_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// The same of a number that is told of the only token.
async fn labelled(server: &Server, name: &str) -> u64 {
    metric(server, &format!(r#"{name}{{token="default"}}"#)).await
}

#[tokio::test]
async fn what_is_no_http_and_heads_too_large_are_refused_in_json() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--max-header", "8KiB"]).await;
    let field = |name: &str, size: usize| format!("{name}: {}\r\n", "x".repeat(size));
    for (said, status, text) in [
        ("\0\x01\x02\x03".to_owned(), 400, "ERR the request is not valid HTTP"),
        ("GET /\r\n\r\n".into(), 400, "ERR the request is not valid HTTP"),
        ("GET / \x7f HTTP/1.1\r\n\r\n".into(), 400, "ERR the request is not valid HTTP"),
        (head("GET", "/get/k", "no field\r\n"), 400, "ERR the request is not valid HTTP"),
        (head("GET", "/get/k", &field("x-large", 9000)), 431, "ERR max header size exceeded"),
        (head("GET", "/get/k", &"a: b\r\n".repeat(200)), 431, "ERR max header size exceeded"),
        (head("GET", &format!("/get/{}", "k".repeat(9000)), ""), 431, "ERR max header size exceeded"),
    ] {
        let text_heard = heard(&mut raw(&server, &said).await).await;
        assert_eq!(error(&text_heard), (status, text.to_owned()), "{said:?}");
    }
    // One that fits is served.
    let path = format!("/echo/{}", "k".repeat(7000));
    assert_eq!(server.client().await.get(&path).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--body-timeout", "200ms"]).await;
    let begun = Instant::now();
    for fields in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let mut socket = raw(&server, head("POST", "/", fields)).await;
        socket.write_all(if fields.starts_with('c') { b"[\"PI" } else { b"4\r\n[\"PI\r\n" }).await.unwrap();
        let answer = heard(&mut socket).await;
        assert_eq!(error(&answer), (408, "ERR the request body did not arrive in time".into()));
    }
    // One that is refused is not waited for either.
    let refused = "POST / HTTP/1.1\r\nhost: gateway\r\ncontent-length: 100\r\n\r\n";
    assert_eq!(error(&heard(&mut raw(&server, refused).await).await).0, 401);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_body_that_is_refused_over_http2_costs_its_connection_nothing() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = H2Client::connect(server.address).await;
    for size in [1, 100_000, 4 << 20] {
        for _ in 0..20 {
            let mut refused = request(hyper::Method::POST, "http://gateway/set/k", vec![b'x'; size]);
            refused.headers_mut().insert("authorization", "Bearer wrong".parse().unwrap());
            let (head, body) = client.bytes(refused).await;
            assert_eq!(head.status, 401);
            assert_eq!(&body[..], br#"{"error":"WRONGPASS invalid or missing auth token"}"#);
        }
        assert_eq!(client.post("/", r#"["PING"]"#).await.raw(), (200, r#"{"result":"PONG"}"#));
    }
}

#[tokio::test]
async fn clients_that_wait_for_a_word_are_told_before_they_send_a_body() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let fields = "content-length: 8\r\nexpect: 100-continue\r\nconnection: close\r\n";
    let mut socket = raw(&server, head("POST", "/", fields)).await;
    let mut word = [0; 25];
    socket.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"[\"PING\"]").await.unwrap();
    assert!(heard(&mut socket).await.ends_with(r#"{"result":"PONG"}"#));

    let wrong = head("POST", "/", fields).replace(TOKEN, "wrong");
    let mut socket = raw(&server, wrong).await;
    assert_eq!(error(&heard(&mut socket).await).0, 401);
}

#[tokio::test]
async fn bodies_together_take_no_more_memory_than_there_is() {
    let redis = Redis::start().await;
    let flags = ["--max-memory", "1MiB", "--max-body", "2MiB"];
    let server = Server::start_with(&redis.url(), &flags).await;
    // Two that come slowly hold most of it, and leave some for an answer that was just written.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut socket = raw(&server, head("POST", "/set/k", "content-length: 470001\r\n")).await;
        socket.write_all(&vec![b'x'; 470_000]).await.unwrap();
        slow.push(socket);
    }
    eventually("both are counted", async || metric(&server, "memory_bytes").await > 940_000).await;
    let body = vec![b'y'; 300_000];
    let answer = server.post("/set/k", body.clone()).await;
    assert_eq!(answer.error(), (503, "ERR too much memory is taken by requests under way"));
    // Small ones pass.
    assert_eq!(server.post("/set/k", vec![b'z'; 10_000]).await.status, 200);
    for mut socket in slow {
        socket.write_all(b"x").await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(metric(&server, "memory_bytes").await, 0);
    assert_eq!(server.post("/set/k", body).await.status, 200);
    // One alone may not take more either.
    assert_eq!(server.post("/set/k", vec![b'y'; 1_480_000]).await.error().0, 503);
    assert_eq!(metric(&server, "memory_bytes").await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_and_one_that_reads_slowly_is_not() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--write-timeout", "1s"]).await;
    let size = 16 << 20;
    server.post("/set/k", vec![b'x'; 8 << 20]).await;
    let mut client = server.client().await;
    client.get("/append/k/y").await;
    client.send(request(hyper::Method::POST, "/append/k", vec![b'x'; (8 << 20) - 1])).await;

    let mut deaf = raw(&server, head("GET", "/get/k", "")).await;
    let mut slow = raw(&server, head("GET", "/get/k", "connection: close\r\n")).await;
    eventually("both are under way", async || metric(&server, "in_flight").await == 2).await;
    let reading = tokio::spawn(async move {
        let (mut read, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            match slow.read(&mut buffer).await.unwrap() {
                0 => return read,
                count => read += count,
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(reading.await.unwrap() > size);
    eventually("the deaf one is let go", async || metric(&server, "in_flight").await == 0).await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(20), deaf.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() < size);
}

#[tokio::test]
async fn answers_that_are_not_read_take_memory_from_other_large_ones_and_not_from_small_ones() {
    let redis = Redis::start().await;
    let flags = ["--max-memory", "8MiB", "--write-timeout", "2s"];
    let server = Server::start_with(&redis.url(), &flags).await;
    let mut client = server.client().await;
    redis.ask(&["EVAL", "return redis.call('SET', 'k', string.rep('x', 6291456))", "0"]).await;
    let deaf = raw(&server, head("GET", "/get/k", "")).await;
    eventually("the answer is counted", async || metric(&server, "memory_bytes").await > 6_000_000).await;
    let answer = client.get("/get/k").await;
    let thrown = "ERR too much memory is taken by requests under way: the answer was thrown away, what was sent has run";
    assert_eq!(answer.error(), (503, thrown));
    // In a pipeline, what has run is said to have run.
    let answer = client.post("/pipeline", r#"[["INCR","n"],["GET","k"]]"#).await;
    assert_eq!(answer.error(), (503, thrown));
    assert_eq!(client.get("/get/n").await.raw(), (200, r#"{"result":"1"}"#));
    eventually("it is let go", async || client.get("/get/k").await.status == 200).await;
    assert_eq!(metric(&server, "memory_bytes").await, 0);
    drop(deaf);
}

#[tokio::test]
async fn every_answer_has_some_memory_before_redis_is_asked() {
    let redis = Redis::start().await;
    let flags = ["--max-memory", "1MiB", "--command-timeout", "20s"];
    let server = Server::start_with(&redis.url(), &flags).await;
    let mut client = server.client().await;
    client.get("/set/n/0").await;
    redis.signal("STOP").await;
    let mut waiting = Vec::new();
    for _ in 0..51 {
        waiting.push(raw(&server, head("GET", "/incr/n", "connection: close\r\n")).await);
    }
    eventually("all wait", async || metric(&server, "memory_bytes").await == 51 * (20 << 10)).await;
    let answer = client.get("/incr/n").await;
    assert_eq!(answer.error(), (503, "ERR too much memory is taken by requests under way"));
    redis.signal("CONT").await;
    for mut socket in waiting {
        assert!(heard(&mut socket).await.starts_with("HTTP/1.1 200"));
    }
    // What was refused has not run.
    assert_eq!(client.get("/get/n").await.json["result"], "51");
}

/// With a negative count Redis repeats what there is.
#[tokio::test]
async fn more_random_members_than_an_answer_may_have_are_not_asked_for() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--max-response", "6000B"]).await;
    let mut client = server.client().await;
    for command in [r#"["SADD","s","a"]"#, r#"["HSET","h","a","b"]"#, r#"["ZADD","z",1,"a"]"#] {
        assert_eq!(client.post("/", command).await.json["result"], 1);
    }
    for (path, answer) in [
        ("/srandmember/s/-1001", Err("SRANDMEMBER")),
        ("/sRandMember/s/-1001", Err("SRANDMEMBER")),
        ("/hrandfield/h/-2000000000", Err("HRANDFIELD")),
        ("/hrandfield/h/-501/withvalues", Err("HRANDFIELD")),
        ("/zrandmember/z/-9223372036854775808", Err("ZRANDMEMBER")),
        ("/zrandmember/z/-501/withscores", Err("ZRANDMEMBER")),
        ("/srandmember/s/-800", Ok(800)),
        ("/hrandfield/h/-400/withvalues", Ok(800)),
        ("/zrandmember/z/-800", Ok(800)),
        ("/srandmember/s/100000000", Ok(1)),
    ] {
        let got = client.get(path).await;
        match answer {
            Ok(count) => assert_eq!(got.json["result"].as_array().map(Vec::len), Some(count), "{path}"),
            Err(name) => {
                let text =
                    format!("ERR max response size exceeded: '{name}' would repeat more than 6000 bytes");
                assert_eq!(got.error(), (400, &text[..]), "{path}");
            }
        }
    }
    let calls = redis.ask(&["INFO", "commandstats"]).await;
    assert!(calls.contains("cmdstat_srandmember:calls=2,"), "{calls}");
}

/// A script chooses what its status and its error say, and how long they are.
#[tokio::test]
async fn lines_of_scripts_are_as_long_as_strings_may_be_and_harm_nobody_else() {
    let redis = Redis::start().await;
    let flags = ["--threads", "1", "--max-response", "4MiB", "--command-timeout", "20s"];
    let server = Server::start_with(&redis.url(), &flags).await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    let eval = |script: &str| serde_json::json!(["EVAL", script, 0]).to_string();
    for (script, status) in [
        ("return {ok=string.rep('x',n)}", 200),
        ("return {err='MINE '..string.rep('x',n)}", 400),
        ("return {1,{ok=string.rep('x',n)}}", 200),
        ("return {1,{err='MINE '..string.rep('x',n)}}", 200),
        ("return redis.error_reply('MINE '..string.rep('x',n))", 400),
        ("error('MINE '..string.rep('x',n))", 400),
    ] {
        for (size, too_large) in [(1_100_000, false), (3 << 20, false), (5 << 20, true)] {
            let script = eval(&format!("local n={size} {script}"));
            // The other's command waits behind the script.
            let (answer, pong) = tokio::join!(client.post("/", script.clone()), other.get("/ping"));
            assert_eq!(pong.raw(), (200, r#"{"result":"PONG"}"#), "{script}");
            if too_large {
                let text = "ERR max response size exceeded: more than 4194304 bytes, what was sent has run";
                assert_eq!(answer.error(), (502, text), "{script}");
            } else {
                assert_eq!(answer.status, status, "{script}");
                assert!(answer.text.contains(&"x".repeat(size)), "{script}: {}", answer.text.len());
            }
        }
    }
    // Others that a script can make up.
    for (script, status) in [
        ("return {ok='a\\r\\n+b\\n'}", 200),
        ("return {err='a\\r\\n+b\\n'}", 400),
        ("redis.setresp(3) return {double=1e308}", 200),
        ("redis.setresp(3) return {big_number='123456789012345678901234567890'}", 200),
        ("redis.setresp(3) return {map={a={set={b=true}}}}", 200),
        ("redis.setresp(3) return {verbatim_string={format='txt',string='a\\r\\n'}}", 200),
        ("return 2^63", 200),
        ("return 0/0", 200),
        ("local t={} for i=1,100000 do t[i]=i end return t", 200),
        ("local t={} for i=1,7000 do t={t} end return t", 200),
    ] {
        let (answer, pong) = tokio::join!(client.post("/", eval(script)), other.get("/ping"));
        assert_eq!(pong.raw(), (200, r#"{"result":"PONG"}"#), "{script}");
        assert_eq!(answer.status, status, "{script}: {}", answer.text);
    }
    assert_eq!(labelled(&server, "redis_connections_lost_total").await, 0);
}

#[tokio::test]
async fn idle_connections_over_http2_are_closed_in_peace() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--idle-timeout", "1s"]).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(socket),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..8 {
        let ping = request(hyper::Method::GET, "http://gateway/ping", "");
        assert_eq!(sender.send_request(ping).await.unwrap().status(), 200);
        sleep(Duration::from_millis(300)).await;
    }
    timeout(Duration::from_secs(20), connection).await.unwrap().unwrap().unwrap();
}

/// Over HTTP/2 a client can refuse to read one answer while it reads others.
#[tokio::test]
async fn an_answer_over_http2_that_nobody_reads_ends_its_connection() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--write-timeout", "1s"]).await;
    server.post("/set/k", vec![b'x'; 1 << 20]).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(70_000)
        .initial_connection_window_size(1 << 20)
        .handshake::<_, Full<Bytes>>(TokioIo::new(socket))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let unread = sender.send_request(request(hyper::Method::GET, "http://gateway/get/k", "")).await.unwrap();
    let mut others = 0;
    let ping = || -> Request<Full<Bytes>> { request(hyper::Method::GET, "http://gateway/ping", "") };
    while let Ok(answer) = sender.send_request(ping()).await {
        if answer.into_body().collect().await.is_err() {
            break;
        }
        others += 1;
        sleep(Duration::from_millis(50)).await;
        assert!(others < 200, "the connection goes on for ever");
    }
    assert!(others > 10, "others were answered meanwhile");
    let _ = timeout(Duration::from_secs(20), connection).await.unwrap();
    assert!(unread.into_body().collect().await.is_err());
    eventually("nothing is held", async || metric(&server, "in_flight").await == 0).await;
}

#[tokio::test]
async fn more_clients_than_the_limit_wait_to_be_accepted() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--max-connections", "2"]).await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    assert_eq!(
        (one.get("/ping").await.status, two.get("/ping").await.status),
        (200.try_into().unwrap(), 200.try_into().unwrap())
    );
    let mut third = raw(&server, head("GET", "/ping", "connection: close\r\n")).await;
    let mut byte = [0; 1];
    assert!(timeout(Duration::from_millis(300), third.read(&mut byte)).await.is_err(), "it is served");
    drop(one);
    assert!(heard(&mut third).await.ends_with(r#"{"result":"PONG"}"#));
}

/// Slow heads, handshakes and prefaces: whatever a client without a token can begin and not go on with.
#[tokio::test]
async fn a_head_that_does_not_come_holds_no_connection() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--header-timeout", "400ms"]).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    // A head that says it goes on, and does not.
    let headers = [&settings[..], &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]].concat();
    let refused = b"GET /get/k HTTP/1.1\r\nhost: gateway\r\n\r\n";
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for said in [
        &b""[..],
        b"G",
        b"GET / HTTP/1.1\r\nhost: gateway\r\nx-more: ",
        b"\r\n\r\n",
        &preface[..5],
        preface,
        &settings,
        &headers,
        refused,
        &[&refused[..], b"GET / HT"].concat(),
    ] {
        waiting.push((said.to_vec(), raw(&server, said).await));
    }
    // Bytes that come one by one make no difference.
    let mut slow = raw(&server, "GET /").await;
    let dripping = tokio::spawn(async move {
        while slow.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    for (said, mut socket) in waiting {
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_secs(8), socket.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{} is held", String::from_utf8_lossy(&said));
    }
    timeout(Duration::from_secs(8), dripping).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    // Who has shown a token may be idle for longer, but not begin and stop.
    let mut client = server.client().await;
    assert_eq!(client.get("/ping").await.status, 200);
    let mut stuck = raw(&server, head("GET", "/ping", "")).await;
    let mut answer = [0; 12];
    stuck.read_exact(&mut answer).await.unwrap();
    stuck.write_all(b"GET /ping HT").await.unwrap();
    heard_bytes(&mut stuck).await;
    sleep(Duration::from_millis(600)).await;
    assert_eq!(client.get("/ping").await.status, 200);
    // Redis may take longer than a head.
    redis.signal("STOP").await;
    let mut patient = raw(&server, head("GET", "/ping", "connection: close\r\n")).await;
    sleep(Duration::from_millis(700)).await;
    redis.signal("CONT").await;
    assert!(heard(&mut patient).await.ends_with(r#"{"result":"PONG"}"#));
}

/// Whatever comes until it is closed.
async fn heard_bytes(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(8), socket.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn a_peer_that_takes_all_connections_it_can_get_leaves_some_for_others() {
    let redis = Redis::start().await;
    let flags = ["--max-connections", "8", "--listen", "0.0.0.0:0"];
    let server = Server::start_with(&redis.url(), &flags).await;
    let dial = async |host: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 9, host], 0).into()).unwrap();
        socket.connect(([127, 0, 0, 1], server.address.port()).into()).await.unwrap()
    };
    let ping = head("GET", "/ping", "");
    let mut greedy = Vec::new();
    for _ in 0..6 {
        let mut socket = dial(1).await;
        socket.write_all(ping.as_bytes()).await.unwrap();
        socket.read_exact(&mut [0; 12]).await.unwrap();
        greedy.push(socket);
    }
    // Its share is three quarters: more are closed.
    for _ in 0..3 {
        let mut socket = dial(1).await;
        let _ = socket.write_all(ping.as_bytes()).await;
        let mut nothing = Vec::new();
        let _ =
            timeout(Duration::from_secs(8), socket.read_to_end(&mut nothing)).await.expect("it is closed");
        assert!(nothing.is_empty());
    }
    let mut other = dial(2).await;
    other.write_all(head("GET", "/ping", "connection: close\r\n").as_bytes()).await.unwrap();
    assert!(heard(&mut other).await.ends_with(r#"{"result":"PONG"}"#));
    let (_, text) = {
        let mut socket = dial(3).await;
        socket.write_all(head("GET", "/metrics", "connection: close\r\n").as_bytes()).await.unwrap();
        ((), heard(&mut socket).await)
    };
    assert!(text.contains("tollgate_gateway_connections_turned_away_total 3\n"), "{text}");
    // One that leaves makes room.
    greedy.pop();
    eventually("there is room again", async || {
        let mut socket = dial(1).await;
        let _ = socket.write_all(ping.as_bytes()).await;
        socket.read_exact(&mut [0; 12]).await.is_ok()
    })
    .await;
}
