//! What happens when Redis goes away, hangs, or was never there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tollgate_gateway::Gateway;

use crate::support::{Answer, Client, Redis, Server, config, eventually, free_port, request};

#[tokio::test]
async fn a_redis_that_dies_means_503_at_once_until_it_is_back() {
    let mut redis = Redis::start().await;
    let server = Server::start(&redis).await;
    assert_eq!(server.post("/", r#"["PING"]"#).await.status, 200);

    redis.kill().await;
    eventually("a dead redis is noticed", async || server.post("/", r#"["PING"]"#).await.status == 503).await;
    for (path, body) in
        [("/", r#"["PING"]"#), ("/pipeline", r#"[["PING"]]"#), ("/multi-exec", r#"[["PING"]]"#)]
    {
        let begun = Instant::now();
        let answer = server.post(path, body).await;
        assert_eq!(answer.error().0, 503);
        assert!(answer.error().1.starts_with("ERR redis is unreachable: "), "{}", answer.text);
        assert!(begun.elapsed() < Duration::from_millis(500), "a request waited for redis");
    }
    let ready = server.client().await.send(request(Method::GET, "/ready", "")).await;
    assert_eq!((ready.status.as_u16(), &ready.json["status"]), (503, &"unavailable".into()));
    assert!(ready.json["error"].as_str().unwrap().starts_with("ERR redis is unreachable: "));
    // To restart the gateway would not help.
    assert_eq!(server.client().await.send(request(Method::GET, "/health", "")).await.status, 200);

    redis.restart().await;
    eventually("the gateway recovers by itself", async || {
        server.post("/", r#"["PING"]"#).await.status == 200
    })
    .await;
    eventually("every thread has recovered", async || {
        server.client().await.send(request(Method::GET, "/ready", "")).await.raw()
            == (200, r#"{"status":"ready"}"#)
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_is_awaited() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let server = Server::start(&redis).await;
    assert_eq!(server.post("/", r#"["PING"]"#).await.error().0, 503);
    redis.restart().await;
    eventually("redis is found", async || server.post("/", r#"["PING"]"#).await.status == 200).await;
}

#[tokio::test]
async fn a_redis_that_hangs_means_504_then_503_and_recovers() {
    let redis = Redis::start().await;
    let flags = ["--command-timeout", "100ms", "--max-in-flight", "1"];
    let server = Arc::new(Server::start_with(&redis.url(), &flags).await);
    redis.signal("STOP").await;
    let answer = server.post("/", r#"["INCR","n"]"#).await;
    assert_eq!(answer.error(), (504, "ERR redis did not answer within 100ms, what was sent may have run"));
    let ready = server.client().await.send(request(Method::GET, "/ready", "")).await;
    assert_eq!(ready.status, 503);

    eventually("the silent connection is given up", async || {
        server.post("/", r#"["PING"]"#).await.error().1.starts_with("ERR redis is unreachable: ")
    })
    .await;
    redis.signal("CONT").await;
    eventually("the gateway recovers by itself", async || {
        server.post("/", r#"["PING"]"#).await.status == 200
    })
    .await;
    eventually("the increment ran once", async || {
        server.post("/", r#"["GET","n"]"#).await.json["result"] == "1"
    })
    .await;
}

/// Posts until there is a place for it: the question whether one is taken takes it for a moment.
async fn placed(client: &mut Client, body: &'static str) -> Answer {
    loop {
        let answer = client.post("/", body).await;
        if answer.status != 503 {
            return answer;
        }
    }
}

#[tokio::test]
async fn more_requests_than_the_limit_are_refused() {
    let redis = Redis::start().await;
    let server = Arc::new(Server::start_with(&redis.url(), &["--max-in-flight", "1"]).await);
    redis.signal("STOP").await;
    let waiting = tokio::spawn({
        let server = Arc::clone(&server);
        async move { placed(&mut server.client().await, r#"["PING"]"#).await.status }
    });
    eventually("the second request is refused", async || {
        server.post("/", "[]").await.error() == (503, "ERR too many requests are under way")
    })
    .await;
    redis.signal("CONT").await;
    assert_eq!(waiting.await.unwrap(), 200);
}

/// A Redis that answers the greeting and hangs up on `INCR`, as one that dies in the middle of a command does.
#[tokio::test]
async fn a_command_that_may_have_run_is_never_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let increments = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&increments);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    if text.contains("INCR") {
                        seen.fetch_add(text.matches("INCR").count(), Ordering::SeqCst);
                        return;
                    }
                    let answers = text.matches("SETINFO").count()
                        + text.matches("PING").count()
                        + text.matches("ECHO\r\n$8\r\ntollgate").count()
                        + text.matches("INFO\r\n").count();
                    socket.write_all("+OK\r\n".repeat(answers).as_bytes()).await.unwrap();
                }
            });
        }
    });
    let server = Server::start_with(&url, &["--connections", "2"]).await;
    for (sent, path, body) in [(1, "/", r#"["INCR","n"]"#), (2, "/pipeline", r#"[["INCR","n"]]"#)] {
        eventually("connected", async || server.post("/", r#"["ECHO","PING"]"#).await.status == 200).await;
        let answer = server.post(path, body).await;
        let text = "ERR the connection to redis ended before the answer, what was sent may have run";
        assert_eq!(answer.error(), (503, text));
        assert_eq!(increments.load(Ordering::SeqCst), sent);
    }
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_gateway_ends() {
    let redis = Redis::start().await;
    let flags = ["--command-timeout", "10s", "--max-in-flight", "1"];
    let mut server = Server::start_with(&redis.url(), &flags).await;
    let mut client = server.client().await;
    redis.signal("STOP").await;
    let answer = tokio::spawn(async move { placed(&mut client, r#"["ECHO","late"]"#).await.json });
    eventually("the request is under way", async || server.post("/", "[]").await.status == 503).await;
    let (answer, ()) = tokio::join!(answer, async {
        tokio::join!(server.stop(), redis.signal("CONT"));
    });
    assert_eq!(answer.unwrap()["result"], "late");
}

#[tokio::test]
async fn cluster_mode_is_refused_at_start() {
    let config_file = format!("nodes-{}.conf", free_port().await);
    let redis = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", &config_file]).await;
    let error = Gateway::bind(config(&redis.url(), &[])).await.map(drop).unwrap_err().to_string();
    assert!(error.ends_with("redis runs in cluster mode: use `redis+cluster://`"), "{error}");
    let _ = std::fs::remove_file(std::env::temp_dir().join(config_file));
}
