//! Subscriptions and monitors over server-sent events.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::http::response::Parts;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Redis, Server, eventually, request};

/// A stream that is being read.
struct Events {
    head: Parts,
    body: Incoming,
    text: String,
}

impl Events {
    async fn open(server: &Server, method: Method, path: &str) -> Self {
        Self::ask(server, request(method, path, "[]")).await
    }

    async fn ask(server: &Server, request: Request<Full<Bytes>>) -> Self {
        let socket = TcpStream::connect(server.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        Self { head, body, text: String::new() }
    }

    /// The next line that is neither empty nor a comment; nothing at the end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.text = rest;
                if !line.is_empty() && !line.starts_with(':') {
                    return Some(line);
                }
                continue;
            }
            let frame =
                timeout(Duration::from_secs(20), self.body.frame()).await.expect("something comes")?;
            let Ok(frame) = frame else { return None };
            self.text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
    }

    /// Everything up to the end.
    async fn rest(mut self) -> String {
        while let Some(Ok(frame)) =
            timeout(Duration::from_secs(20), self.body.frame()).await.expect("it ends")
        {
            self.text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
        self.text
    }
}

#[tokio::test]
async fn messages_of_channels_and_patterns_arrive_in_order() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    for method in [Method::GET, Method::POST] {
        let mut channel = Events::open(&server, method.clone(), "/subscribe/news").await;
        let mut pattern = Events::open(&server, method, "/psubscribe/n%2A").await;
        assert_eq!(
            (channel.head.status.as_u16(), &channel.head.headers["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        assert_eq!(channel.line().await.unwrap(), "data: subscribe,news,1");
        assert_eq!(pattern.line().await.unwrap(), "data: psubscribe,n*,1");
        for number in 0..200 {
            assert_eq!(server.post(&format!("/publish/news/{number}"), "").await.json["result"], 2);
        }
        server.post("/publish/nothing", "{\"a\": [1,\n2]}").await;
        server.post("/publish/news", "last\nmessage,other,forged").await;
        for number in 0..200 {
            assert_eq!(channel.line().await.unwrap(), format!("data: message,news,{number}"));
            assert_eq!(pattern.line().await.unwrap(), format!("data: pmessage,n*,news,{number}"));
        }
        assert_eq!(pattern.line().await.unwrap(), "data: pmessage,n*,nothing,{\"a\": [1,");
        assert_eq!(pattern.line().await.unwrap(), "data:2]}");
        assert_eq!(channel.line().await.unwrap(), "data: message,news,last");
        assert_eq!(channel.line().await.unwrap(), "data:message,other,forged");
    }
    // Who leaves is not listened for any more.
    eventually("nobody is subscribed", async || server.post("/publish/news/x", "").await.json["result"] == 0)
        .await;
}

#[tokio::test]
async fn monitors_see_what_everybody_does() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut monitor = Events::open(&server, Method::POST, "/monitor").await;
    assert_eq!(monitor.line().await.unwrap(), "data: \"OK\"");
    server.post("/set/k/v", "").await;
    loop {
        let line = monitor.line().await.unwrap();
        assert!(line.starts_with("data: 1"), "{line}");
        if line.ends_with(r#"] "set" "k" "v""#) {
            break;
        }
    }
}

#[tokio::test]
async fn streams_flow_over_http2_beside_requests() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |path: &str| {
        let path = format!("http://gateway{path}");
        sender.send_request(request(Method::POST, &path, "")).await.unwrap().into_parts()
    };
    let (head, body) = ask("/subscribe/a").await;
    let mut events = Events { head, body, text: String::new() };
    assert_eq!(events.line().await.unwrap(), "data: subscribe,a,1");
    for number in 0..5 {
        ask(&format!("/publish/a/{number}")).await;
        assert_eq!(events.line().await.unwrap(), format!("data: message,a,{number}"));
    }
}

#[tokio::test]
async fn streams_are_refused_like_everything_else() {
    let redis = Redis::start().await;
    let flags = ["--max-streams", "2", "--max-streams-per-token", "1"];
    let server = Server::start_with(&redis.url(), &flags).await;
    let mut client = server.client().await;
    for (path, status, text) in [
        ("/subscribe", 400, "ERR wrong number of arguments for 'subscribe' command"),
        ("/psubscribe/", 400, "ERR wrong number of arguments for 'psubscribe' command"),
    ] {
        assert_eq!(client.get(path).await.error(), (status, text));
    }
    let mut without = request(Method::GET, "/subscribe/a", "");
    without.headers_mut().remove("authorization");
    assert_eq!(client.send(without).await.error().0, 401);

    let open = Events::open(&server, Method::GET, "/subscribe/a").await;
    assert_eq!(client.get("/monitor").await.error(), (429, "ERR max requests limit exceeded"));
    // A stream is no request, and holds none up.
    assert_eq!(client.get("/ping").await.status, 200);
    drop(open);
    eventually("its place is free", async || {
        Events::open(&server, Method::GET, "/subscribe/a").await.head.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_user_that_may_not_subscribe_is_told_so() {
    let redis =
        Redis::start_with(&["--user", "default", "on", "nopass", "~*", "+@all", "resetchannels", "&mine"])
            .await;
    let server = Server::start(&redis).await;
    let (status, text) = {
        let answer = server.client().await.get("/subscribe/other").await;
        (answer.status.as_u16(), answer.json["error"].as_str().unwrap().to_owned())
    };
    assert!(status == 400 && text.starts_with("NOPERM"), "{status} {text}");
    assert_eq!(
        Events::open(&server, Method::GET, "/subscribe/mine").await.line().await.unwrap(),
        "data: subscribe,mine,1"
    );
}

#[tokio::test]
async fn streams_end_with_redis_and_with_the_gateway_and_say_why() {
    let mut redis = Redis::start().await;
    let mut server = Server::start(&redis).await;
    let mut events = Events::open(&server, Method::GET, "/subscribe/a").await;
    events.line().await.unwrap();
    redis.kill().await;
    let rest = events.rest().await;
    assert!(rest.ends_with(": redis closed the connection\n\n"), "{rest:?}");
    let answer = server.client().await.get("/subscribe/a").await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().1.starts_with("ERR redis is unreachable: "), "{}", answer.text);

    redis.restart().await;
    eventually("the gateway recovers", async || server.client().await.get("/ping").await.status == 200).await;
    let mut events = Events::open(&server, Method::GET, "/subscribe/a").await;
    events.line().await.unwrap();
    server.stop().await;
    let rest = events.rest().await;
    assert!(rest.ends_with(": the gateway is stopping\n\n"), "{rest:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_stream_is_let_go() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--write-timeout", "1s"]).await;
    let deaf = Events::open(&server, Method::GET, "/subscribe/a").await;
    let message = Bytes::from(vec![b'x'; 1 << 20]);
    eventually("redis has nobody left to tell", async || {
        server.post("/publish/a", message.clone()).await.json["result"] == 0
    })
    .await;
    drop(deaf);
}
