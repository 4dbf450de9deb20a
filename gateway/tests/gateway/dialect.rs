//! What clients of the dialect rely on: statuses, texts and values.

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, H2Client, Redis, Server, request};

async fn pair() -> (Redis, Server) {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    (redis, server)
}

#[tokio::test]
async fn values_have_the_shapes_of_resp2() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    for (command, expected) in [
        (r#"["SET","text","a\"é\n"]"#, r#"{"result":"OK"}"#),
        (r#"["GET","text"]"#, r#"{"result":"a\"é\n"}"#),
        (r#"["GET","nothing"]"#, r#"{"result":null}"#),
        (r#"["PING"]"#, r#"{"result":"PONG"}"#),
        (r#"["INCRBY","n",9007199254740993]"#, r#"{"result":9007199254740993}"#),
        (r#"["ZADD","z",1.5,"m"]"#, r#"{"result":1}"#),
        (r#"["ZSCORE","z","m"]"#, r#"{"result":"1.5"}"#),
        (r#"["HSET","h","f",1,"g",true]"#, r#"{"result":2}"#),
        (r#"["HGETALL","h"]"#, r#"{"result":["f","1","g","true"]}"#),
        (
            r#"["EVAL","return {1,{'a',{false}},redis.error_reply('NO way')}",0]"#,
            r#"{"result":[1,["a",[null]],"NO way"]}"#,
        ),
    ] {
        assert_eq!(client.post("/", command).await.raw(), (200, expected), "{command}");
    }
}

#[tokio::test]
async fn numbers_reach_redis_as_they_were_written() {
    let (_redis, server) = pair().await;
    for number in ["1.0", "1e21", "-0", "0.10", "18446744073709551617", "9007199254740993", "1E-7"] {
        let answer = server.post("/pipeline", format!(r#"[["SET","k",{number}],["GET","k"]]"#)).await;
        assert_eq!(answer.json[1]["result"], number);
    }
}

#[tokio::test]
async fn errors_of_redis_keep_their_text_and_are_400() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    client.post("/", r#"["SET","k","v"]"#).await;
    for (command, text) in [
        (
            r#"["EVALSHA","ffffffffffffffffffffffffffffffffffffffff",0]"#,
            "NOSCRIPT No matching script. Please use EVAL.",
        ),
        (r#"["LPUSH","k","x"]"#, "WRONGTYPE Operation against a key holding the wrong kind of value"),
        (r#"["INCR","k"]"#, "ERR value is not an integer or out of range"),
        (r#"["GET"]"#, "ERR wrong number of arguments for 'get' command"),
        (r#"["EVAL","return redis.error_reply('MYCODE  kept: as is')",0]"#, "MYCODE  kept: as is"),
    ] {
        assert_eq!(client.post("/", command).await.error(), (400, text));
    }
}

#[tokio::test]
async fn bodies_that_are_no_commands_are_400_with_the_known_texts() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    for (path, body, text) in [
        ("/", "", "ERR failed to parse command"),
        ("/", "{\"a\":1}", "ERR failed to parse command"),
        ("/", "[\"GET\",null]", "ERR failed to parse command: argument 1 is null"),
        ("/", "[\"GET\",{}]", "ERR failed to parse command: argument 1 is an object"),
        ("/", "[\"GET\",[]]", "ERR failed to parse command: argument 1 is an array"),
        ("/", "[]", "ERR empty command"),
        ("/pipeline", "[\"GET\",\"k\"]", "ERR failed to parse pipeline request"),
        ("/pipeline", "[[\"GET\",null]]", "ERR failed to parse pipeline request"),
        ("/pipeline", "[]", "ERR empty pipeline request"),
        ("/pipeline", "[[\"PING\"],[]]", "ERR empty pipeline command"),
        ("/multi-exec", "[]", "ERR empty pipeline request"),
        ("/multi-exec", "[[]]", "ERR empty pipeline command"),
        ("/multi-exec", "nonsense", "ERR failed to parse pipeline request"),
    ] {
        let answer = client.post(path, body).await;
        let (status, error) = answer.error();
        assert_eq!(status, 400);
        assert!(error.starts_with(text), "{path} {body}: {error}");
    }
    let answer = client.post("/", &b"[\"GET\",\"\xff\"]"[..]).await;
    assert_eq!(answer.error(), (400, "ERR failed to parse command: not UTF-8 after byte 8"));
}

#[tokio::test]
async fn pipelines_have_their_errors_inline() {
    let (_redis, server) = pair().await;
    let body = r#"[["SET","k","v"],["INCR","k"],["EVALSHA","0000",0],["sUbScRiBe","c"],["BLPOP","k",0],["GET","k"],
                  ["XREAD","BLOCK",0,"STREAMS","s","$"],["CLIENT","REPLY","OFF"],["ECHO","last"]]"#;
    let answer = server.post("/pipeline", body).await;
    assert_eq!(answer.status, 200);
    let items = answer.json.as_array().unwrap();
    let refused = |name: &str| format!("ERR Command is not available: '{name}': ");
    assert_eq!(items.len(), 9);
    assert_eq!(items[0], json!({"result": "OK"}));
    assert_eq!(items[1], json!({"error": "ERR value is not an integer or out of range"}));
    assert_eq!(items[2], json!({"error": "NOSCRIPT No matching script. Please use EVAL."}));
    assert!(items[3]["error"].as_str().unwrap().starts_with(&refused("sUbScRiBe")));
    assert!(items[4]["error"].as_str().unwrap().starts_with(&refused("BLPOP")));
    assert_eq!(items[5], json!({"result": "v"}));
    assert!(items[6]["error"].as_str().unwrap().starts_with(&refused("XREAD")));
    assert!(items[7]["error"].as_str().unwrap().starts_with(&refused("CLIENT")));
    assert_eq!(items[8], json!({"result": "last"}));

    let answer = server.post("/pipeline", r#"[["MULTI"],["MONITOR"]]"#).await;
    assert_eq!((answer.status.as_u16(), answer.json.as_array().unwrap().len()), (200, 2));
    let answer = server.post("/", r#"["monitor"]"#).await;
    assert!(answer.error().1.starts_with(&refused("monitor")));
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn transactions_run_whole_or_are_discarded_whole() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    let answer = client.post("/multi-exec", r#"[["SET","a",1],["LPUSH","a","x"],["INCR","a"]]"#).await;
    let wrong = r#"{"error":"WRONGTYPE Operation against a key holding the wrong kind of value"}"#;
    assert_eq!(answer.raw(), (200, format!(r#"[{{"result":"OK"}},{wrong},{{"result":2}}]"#).as_str()));

    let answer = client.post("/multi-exec", r#"[["SET","a",9],["NOSUCHCOMMAND"]]"#).await;
    assert_eq!(answer.error(), (400, "EXECABORT Transaction discarded because of previous errors."));
    let answer = client.post("/multi-exec", r#"[["SET","a",9],["WATCH","a"]]"#).await;
    assert_eq!(answer.error().0, 400);
    assert!(answer.error().1.starts_with("ERR Command is not available: 'WATCH'"));
    assert_eq!(client.post("/", r#"["GET","a"]"#).await.json["result"], "2");
}

#[tokio::test]
async fn transactions_of_many_clients_never_interleave() {
    let (_redis, server) = pair().await;
    let h2 = H2Client::connect(server.address).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut client = h2.clone();
        tasks.spawn(async move {
            let answer = client.post("/multi-exec", r#"[["INCR","a"],["INCR","b"],["MGET","a","b"]]"#).await;
            let (a, b) = (&answer.json[0]["result"], &answer.json[1]["result"]);
            assert_eq!(a, b);
            assert_eq!(answer.json[2]["result"], json!([a.to_string(), b.to_string()]));
        });
        let mut client = h2.clone();
        tasks.spawn(async move {
            let pair = client.post("/", r#"["MGET","a","b"]"#).await.json;
            assert_eq!(pair["result"][0], pair["result"][1]);
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_pipelines_are_answered_in_order_and_apart() {
    let (_redis, server) = pair().await;
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..4 {
        let h2 = H2Client::connect(server.address).await;
        for stream in 0..250 {
            let mut client = h2.clone();
            tasks.spawn(async move {
                let id = connection * 250 + stream;
                let commands: Vec<_> = (0..20)
                    .flat_map(|n| {
                        [
                            json!(["SET", format!("k:{id}:{n}"), id * 100 + n]),
                            json!(["GET", format!("k:{id}:{n}")]),
                        ]
                    })
                    .collect();
                let answer = client.post("/pipeline", serde_json::to_vec(&commands).unwrap()).await;
                let expected: Vec<Value> = (0..20)
                    .flat_map(|n| [json!({"result": "OK"}), json!({"result": (id * 100 + n).to_string()})])
                    .collect();
                assert_eq!((answer.status.as_u16(), answer.json), (200, Value::Array(expected)));
            });
        }
    }
    assert_eq!(tasks.join_all().await.len(), 1000);
}

#[tokio::test]
async fn only_the_token_opens() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    for wrong in
        ["Bearer wrong", "Bearer", "Basic YTpi", "Bearer a-token-for-test", "Bearer a-token-for-tests2"]
    {
        for path in ["/", "/pipeline", "/multi-exec"] {
            let mut request = request(Method::POST, path, r#"["PING"]"#);
            request.headers_mut().insert("authorization", wrong.parse().unwrap());
            assert_eq!(client.send(request).await.error(), (401, "WRONGPASS invalid or missing auth token"));
        }
    }
    let mut missing = request(Method::POST, "/", r#"["PING"]"#);
    missing.headers_mut().remove("authorization");
    assert_eq!(client.send(missing).await.error().0, 401);

    let mut health = request(Method::GET, "/health", "");
    health.headers_mut().remove("authorization");
    assert_eq!(client.send(health).await.raw(), (200, r#"{"status":"ok"}"#));
}

#[tokio::test]
async fn other_methods_are_refused_as_json() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    for (path, allowed) in [
        ("/", "POST"),
        ("/pipeline", "POST"),
        ("/multi-exec", "POST"),
        ("/get/key", "GET, HEAD, POST, PUT"),
        ("/subscribe/ch", "GET, POST"),
        ("/monitor", "GET, POST"),
        ("/health", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "WHATEVER"] {
            if !allowed.contains(method) {
                let answer = client.send(request(method.parse().unwrap(), path, "[]")).await;
                assert_eq!(answer.error(), (405, "ERR method not allowed"), "{method} {path}");
                assert_eq!(answer.headers["allow"], allowed);
            }
        }
    }
}

#[tokio::test]
async fn limits_are_refused_and_the_connection_goes_on() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--max-body", "4KiB", "--max-pipeline", "3"]).await;
    let mut client = server.client().await;
    let body = |size: usize| format!(r#"["ECHO","{}"]"#, "x".repeat(size - 11));
    assert_eq!(client.post("/", body(4096)).await.status, 200);
    assert_eq!(client.post("/", body(4097)).await.error(), (413, "ERR max request size exceeded"));
    assert_eq!(client.post("/", body(8192)).await.error().0, 413);
    assert_eq!(client.post("/pipeline", "[[\"PING\"],[\"PING\"],[\"PING\"]]").await.status, 200);
    let answer = client.post("/pipeline", "[[\"PING\"],[\"PING\"],[\"PING\"],[\"PING\"]]").await;
    assert_eq!(answer.error(), (400, "ERR pipeline request has more than 3 commands"));
    // Far too large: refused by its announced length, unread.
    assert_eq!(server.post("/", body(60_000)).await.error().0, 413);
}

#[tokio::test]
async fn clients_that_say_nothing_are_let_go() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--idle-timeout", "1s"]).await;
    for said in [
        "",
        "PRI * HTTP",
        "POST / HTTP/1.1\r\nhost: gateway\r\n",
        "GET /health HTTP/1.1\r\nhost: gateway\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        let closed =
            tokio::time::timeout(std::time::Duration::from_secs(20), socket.read_to_end(&mut Vec::new()))
                .await;
        assert!(closed.is_ok(), "still open after `{said}`");
    }
}

#[tokio::test]
async fn large_values_pass_in_both_directions() {
    let (_redis, server) = pair().await;
    let value = "é".repeat(1 << 20);
    let answer = server.post("/pipeline", json!([["SET", "k", value], ["GET", "k"]]).to_string()).await;
    assert_eq!(answer.json[1]["result"].as_str().unwrap().len(), value.len());
    assert!(answer.json[1]["result"] == value);
}

#[tokio::test]
async fn bytes_that_are_not_utf8_become_replacement_characters_or_base64() {
    let (_redis, server) = pair().await;
    let mut client = server.client().await;
    let command = r#"["EVAL","return {'a\\255b',redis.status_reply('OK'),7}",0]"#;
    assert_eq!(client.post("/", command).await.raw(), (200, "{\"result\":[\"a\u{fffd}b\",\"OK\",7]}"));

    let with = |name: &'static str, value: &'static str, path: &str, body: &'static str| {
        let mut request = request(Method::POST, path, body);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let base64 = |path: &str, body| with("upstash-encoding", "base64", path, body);
    let answer = client.send(base64("/", command)).await;
    assert_eq!(answer.raw(), (200, r#"{"result":["Yf9i","T0s=",7]}"#));
    let answer = client.send(base64("/pipeline", r#"[["SET","k","v"],["GET","k"],["INCR","k"]]"#)).await;
    let error = r#"{"error":"ERR value is not an integer or out of range"}"#;
    assert_eq!(answer.raw(), (200, format!(r#"[{{"result":"OK"}},{{"result":"dg=="}},{error}]"#).as_str()));
    assert_eq!(client.send(with("upstash-encoding", "hex", "/", r#"["PING"]"#)).await.error().0, 400);
}

/// redis-rs would end the shared connection on these replies, and every other request with it.
#[tokio::test]
async fn odd_replies_of_one_client_do_not_disturb_the_others() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--connections", "1"]).await;
    let h2 = H2Client::connect(server.address).await;
    let before = h2.clone().post("/", r#"["CLIENT","ID"]"#).await.json;
    let cut_off = format!(r#"["NOSUCHCOMMAND","a{}"]"#, "é".repeat(200));
    let deep = r#"["EVAL","local t={} for i=1,300 do t={t,i} end return t",0]"#.to_owned();
    let status = r#"["EVAL","return redis.status_reply('\\255')",0]"#.to_owned();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..90 {
        let odd = [&cut_off, &deep, &status][n % 3].clone();
        let (mut client, mut other) = (h2.clone(), h2.clone());
        tasks.spawn(async move {
            let Answer { status, text, .. } = client.post("/", odd).await;
            assert!(status == 200 || status == 400, "{status} {text}");
        });
        tasks
            .spawn(async move { assert_eq!(other.post("/", r#"["ECHO","me"]"#).await.json["result"], "me") });
    }
    tasks.join_all().await;
    assert_eq!(h2.clone().post("/", r#"["CLIENT","ID"]"#).await.json, before);
}

#[tokio::test]
async fn database_and_password_come_from_the_url() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]).await;
    let server = Server::start_with(&format!("redis://:hunter2@127.0.0.1:{}/5", redis.port), &[]).await;
    let answer = server.post("/", r#"["CLIENT","INFO"]"#).await;
    assert!(answer.json["result"].as_str().unwrap().contains(" db=5 "));

    for url in [redis.url(), format!("redis://:wrong@127.0.0.1:{}", redis.port)] {
        let server = Server::start_with(&url, &[]).await;
        let answer = server.post("/", r#"["PING"]"#).await;
        assert_eq!(answer.status, 503);
        assert!(answer.error().1.starts_with("ERR redis is unreachable: redis refuses: "), "{}", answer.text);
        assert!(!answer.text.contains("wrong@"));
    }
}

/// Newer SDKs of Upstash begin scripts with a flag that only Upstash knows.
#[tokio::test]
async fn scripts_with_the_flag_of_upstash_run_and_keep_their_digest() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let script = "#!lua flags=allow-key-locking\nreturn redis.call('INCR', KEYS[1])";
    // Its SHA-1, which is not what Redis calls it.
    let digest = "5c6e36d70d4ec2144321a8f9c663f6c612440510";
    let call = async |server: &Server, words: Value| server.post("/", words.to_string()).await.json;
    assert_eq!(call(&server, json!(["SCRIPT", "LOAD", script])).await["result"], digest);
    assert_eq!(call(&server, json!(["EVALSHA", digest, 1, "n"])).await["result"], 1);
    assert_eq!(call(&server, json!(["EVAL", script, 1, "n"])).await["result"], 2);
    assert_eq!(call(&server, json!(["SCRIPT", "EXISTS", digest, "x"])).await["result"], json!([1, 0]));
    // A gateway that has never seen the text.
    let other = Server::start(&redis).await;
    assert_eq!(call(&other, json!(["EVALSHA", digest, 1, "n"])).await["result"], 3);
    let pipeline = json!([["EVALSHA", digest, 1, "n"], ["SCRIPT", "LOAD", script]]).to_string();
    assert_eq!(other.post("/pipeline", pipeline).await.json, json!([{ "result": 4 }, { "result": digest }]));
    // Redis forgets; so does everybody else, and the client sends the text again.
    call(&other, json!(["SCRIPT", "FLUSH"])).await;
    let gone = call(&other, json!(["EVALSHA", digest, 1, "n"])).await;
    assert!(gone["error"].as_str().unwrap().starts_with("NOSCRIPT"), "{gone}");
    assert_eq!(call(&server, json!(["EVAL", script, 1, "n"])).await["result"], 5);
    assert_eq!(call(&other, json!(["EVALSHA", digest, 1, "n"])).await["result"], 6);
}
