//! Several tokens in front of several Redis, and what each may do.

use std::sync::Arc;

use hyper::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Redis, Server, config, eventually, request};

/// A gateway with the tokens of a configuration file; each is `token-of-` and what stands before `_TOKEN`.
pub(crate) async fn serve(redis: &Redis, toml: &str) -> Server {
    let name = format!("tollgate-tokens-{}.toml", crate::support::free_port().await);
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, toml).unwrap();
    let config = config(&redis.url(), &["--config", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
    Server::start_configured(config).await
}

async fn ask(server: &Server, token: &str, path: &str, body: &str) -> Answer {
    let mut request = request(Method::POST, path, body.to_owned());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    server.client().await.send(request).await
}

/// A Redis that stands still holds every request that is sent to it.
#[tokio::test]
async fn one_token_leaves_places_to_the_others() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let toml = format!(
        "max_in_flight = 8\nmax_streams = 8\ncommand_timeout = '20s'\n\
         [[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\nredis = '{}'",
        two.url()
    );
    let server = serve(&one, &toml).await;
    for path in ["/incr/n", "/subscribe/news"] {
        one.signal("STOP").await;
        let ask = |token: &str| {
            let mut request = request(Method::GET, path, "");
            let token = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", token);
            request
        };
        let mut asking = Vec::new();
        for _ in 0..8 {
            let (mut client, request) = (server.client().await, ask("token-of-a"));
            asking.push(tokio::spawn(async move { client.status(request).await }));
        }
        // Two of them are too many, whichever those are.
        eventually("two are refused", async || asking.iter().filter(|one| one.is_finished()).count() == 2)
            .await;
        assert_eq!(server.client().await.status(ask("token-of-b")).await, 200, "{path}");
        one.signal("CONT").await;
        let mut statuses = Vec::new();
        for one in asking {
            statuses.push(one.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429], "{path}");
    }
}

#[tokio::test]
async fn each_token_opens_its_own_redis() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let toml = format!(
        "[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\nredis = '{}'",
        two.url()
    );
    let server = serve(&one, &toml).await;
    for (token, value) in [("token-of-a", "one"), ("token-of-b", "two")] {
        ask(&server, token, "/", &json!(["SET", "k", value]).to_string()).await;
    }
    for (token, value) in [("token-of-a", "one"), ("token-of-b", "two")] {
        assert_eq!(ask(&server, token, "/get/k", "").await.json["result"], value);
    }
    assert_eq!(ask(&server, "token-of-c", "/get/k", "").await.error().0, 401);

    // One Redis that is gone is no matter of the other token.
    drop(one);
    eventually("the dead redis is noticed", async || {
        ask(&server, "token-of-a", "/ping", "").await.status == 503
    })
    .await;
    assert_eq!(ask(&server, "token-of-b", "/ping", "").await.status, 200);
    // Those who ask without a token learn nothing of any, and that the gateway serves.
    assert_eq!(get(&server, None, "/ready").await.raw(), (200, r#"{"status":"ready"}"#));
    assert_eq!(get(&server, Some("token-of-b"), "/ready").await.raw(), (200, r#"{"status":"ready"}"#));
    let ready = get(&server, Some("token-of-a"), "/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json["status"]), (503, &json!("unavailable")));
    let error = ready.json["error"].as_str().unwrap();
    assert!(error.starts_with("ERR redis is unreachable: ") && !ready.text.contains("`a`"), "{}", ready.text);
    // Each token is told of its own.
    let own = ask_details(&server, "token-of-b").await;
    assert_eq!((own.status.as_u16(), &own.json["checks"][0]["token"]), (200, &json!("b")));
    let other = ask_details(&server, "token-of-a").await;
    assert_eq!((other.status.as_u16(), &other.json["checks"][0]["token"]), (503, &json!("a")));
    assert_eq!(other.json["checks"].as_array().unwrap().len(), 1);
}

async fn get(server: &Server, token: Option<&str>, path: &str) -> Answer {
    let mut request = request(Method::GET, path, "");
    request.headers_mut().remove("authorization");
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    server.client().await.send(request).await
}

/// What metrics say to a token, or to those who operate the gateway.
async fn metrics(address: std::net::SocketAddr, token: Option<&str>) -> String {
    let mut request = request(Method::GET, "/metrics", "");
    request.headers_mut().remove("authorization");
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let (_, text) = crate::support::Client::connect(address).await.bytes(request).await;
    String::from_utf8(text.to_vec()).unwrap()
}

#[tokio::test]
async fn the_gateway_is_ready_while_any_redis_can_be_used() {
    let (mut one, mut two) = (Redis::start().await, Redis::start().await);
    let toml = format!(
        "admin_listen = '127.0.0.1:0'\n[[tokens]]\nname = 'secret-a'\ntoken_env = 'A_TOKEN'\n\
         [[tokens]]\nname = 'secret-b'\ntoken_env = 'B_TOKEN'\nredis = '{}'",
        two.url()
    );
    let server = serve(&one, &toml).await;
    let admin = async || {
        let mut client = crate::support::Client::connect(server.admin.unwrap()).await;
        client.get("/ready").await
    };
    assert_eq!(admin().await.raw(), (200, r#"{"status":"ready"}"#));
    one.kill().await;
    eventually("the operator is told", async || admin().await.json["unavailable"]["secret-a"].is_string())
        .await;
    assert_eq!(admin().await.status, 200);
    assert_eq!(get(&server, None, "/ready").await.raw(), (200, r#"{"status":"ready"}"#));
    two.kill().await;
    eventually("nothing can be used", async || get(&server, None, "/ready").await.status == 503).await;
    for token in [None, Some("wrong")] {
        let answer = get(&server, token, "/ready").await;
        assert_eq!(answer.raw(), (503, r#"{"error":"ERR no Redis can be used","status":"unavailable"}"#));
    }
    let answer = admin().await;
    assert_eq!((answer.status.as_u16(), answer.json["unavailable"].as_object().unwrap().len()), (503, 2));
    two.restart().await;
    eventually("one can be used", async || get(&server, None, "/ready").await.status == 200).await;
}

#[tokio::test]
async fn a_token_sees_its_own_metrics_and_no_others() {
    let redis = Redis::start().await;
    let toml = "admin_listen = '127.0.0.1:0'\n[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'";
    let server = serve(&redis, toml).await;
    for _ in 0..5 {
        ask(&server, "token-of-b", "/hset/h/f/v", "").await;
    }
    ask(&server, "token-of-a", "/ping", "").await;
    let all = metrics(server.admin.unwrap(), None).await;
    for sample in [
        r#"redis_commands_total{token="a"} 1"#,
        r#"redis_commands_total{token="b"} 5"#,
        r#"token_in_flight{token="b"} 0"#,
        r#"commands_total{command="hset"} 5"#,
    ] {
        assert!(all.contains(&format!("\ntollgate_gateway_{sample}\n")), "{sample}\n{all}");
    }
    let toml = toml.replace("admin_listen = '127.0.0.1:0'\n", "");
    let server = serve(&redis, &toml).await;
    for _ in 0..5 {
        ask(&server, "token-of-b", "/hset/h/f/v", "").await;
    }
    ask(&server, "token-of-a", "/ping", "").await;
    let own = metrics(server.address, Some("token-of-a")).await;
    assert!(own.contains("\ntollgate_gateway_redis_commands_total{token=\"a\"} 1\n"), "{own}");
    assert!(own.contains("\ntollgate_gateway_token_in_flight{token=\"a\"} 0\n"), "{own}");
    assert!(own.contains("\ntollgate_gateway_redis_connections{token=\"a\"} "), "{own}");
    // Nor what all together do, which is the others'.
    for foreign in ["token=\"b\"", "hset", "requests_total", "memory_bytes", "errors_total"] {
        assert!(!own.contains(foreign), "{foreign}\n{own}");
    }
    // Connections are its own too, but not what became of others' commands.
    for (told, name) in
        [(true, "connects"), (true, "connections_lost"), (false, "retries"), (false, "redirects")]
    {
        assert_eq!(own.contains(&format!("redis_{name}_total{{")), told, "{name}\n{own}");
        assert!(all.contains(&format!("redis_{name}_total{{")), "{name}\n{all}");
    }
    // Where the Redis is nobody else's, they are.
    let server = Server::start(&redis).await;
    let own = metrics(server.address, Some(crate::support::TOKEN)).await;
    assert!(own.contains("redis_retries_total{token=\"default\"} 0\n"), "{own}");
}

/// How many connections a Redis has besides the one that asks.
async fn connections(redis: &Redis) -> usize {
    let clients = redis.ask(&["CLIENT", "LIST"]).await;
    clients.matches("addr=").count() - clients.matches("laddr=").count() - 1
}

fn many(count: usize, redis: &str) -> String {
    use std::fmt::Write as _;
    let mut toml = "threads = 2\nconnections = 2\n".to_owned();
    for number in 0..count {
        write!(toml, "[[tokens]]\nname = 't{number}'\ntoken_env = 'T{number}_TOKEN'\nredis = '{redis}'\n")
            .unwrap();
    }
    toml
}

#[tokio::test]
async fn tokens_with_one_redis_share_its_connections() {
    let redis = Redis::start_with(&["--maxclients", "40"]).await;
    let server = serve(&redis, &many(250, &redis.url())).await;
    assert_eq!(connections(&redis).await, 4);
    for number in [0, 1, 124, 249] {
        let token = format!("token-of-t{number}");
        assert_eq!(ask(&server, &token, &format!("/set/k{number}/{number}"), "").await.status, 200);
        assert_eq!(ask(&server, &token, "/get/k0", "").await.json["result"], "0");
    }
    assert_eq!(connections(&redis).await, 4);
    // What is counted is each token's own.
    let own = metrics(server.address, Some("token-of-t124")).await;
    assert!(own.contains("\ntollgate_gateway_redis_commands_total{token=\"t124\"} 2\n"), "{own}");
    assert_eq!(get(&server, Some("token-of-t249"), "/ready").await.status, 200);
    assert_eq!(ask_details(&server, "token-of-t3").await.status, 200);
}

#[tokio::test]
async fn tokens_share_connections_only_to_the_same_database_as_the_same_user() {
    let redis = Redis::start_with(&["--user", "bob", "on", ">pass", "~*", "+@all"]).await;
    let (url, port) = (redis.url(), redis.port);
    let urls = [
        url.clone(),
        format!("redis://127.0.0.1:{port}/0"),
        format!("redis://127.0.0.1:{port}/1"),
        format!("redis://bob:pass@127.0.0.1:{port}/0"),
        format!("redis://bob:pass@127.0.0.1:{port}/1"),
    ];
    let mut toml = "threads = 1\n".to_owned();
    for (number, url) in urls.iter().enumerate() {
        toml += &format!("[[tokens]]\nname = 't{number}'\ntoken_env = 'T{number}_TOKEN'\nredis = '{url}'\n");
    }
    let server = serve(&redis, &toml).await;
    // The first two are the same.
    assert_eq!(connections(&redis).await, 4);
    for number in 0..urls.len() {
        ask(&server, &format!("token-of-t{number}"), &format!("/set/k/{number}"), "").await;
    }
    for (number, value) in [(0, "3"), (1, "3"), (2, "4"), (3, "3"), (4, "4")] {
        let answer = ask(&server, &format!("token-of-t{number}"), "/get/k", "").await;
        assert_eq!(answer.json["result"], value, "{number}");
    }
    let user = ask(&server, "token-of-t3", "/acl/whoami", "").await;
    assert_eq!(user.json["result"], "bob");
    assert_eq!(ask(&server, "token-of-t0", "/acl/whoami", "").await.json["result"], "default");
}

/// Whatever one does to a connection that others share.
#[tokio::test]
async fn nothing_of_one_token_reaches_another_over_a_shared_connection() {
    let redis = Redis::start().await;
    let server = serve(&redis, &many(2, &redis.url()).replace("connections = 2", "connections = 1")).await;
    for path in [
        "/select/1",
        "/multi",
        "/exec",
        "/watch/k",
        "/subscribe",
        "/client/reply/off",
        "/reset",
        "/quit",
        "/hello/3",
        "/auth/x",
    ] {
        let answer = ask(&server, "token-of-t0", path, "").await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(ask(&server, "token-of-t1", "/echo/mine", "").await.raw(), (200, r#"{"result":"mine"}"#));
    }
    // Transactions that break, with others in between.
    let mut asked = Vec::new();
    let server = Arc::new(server);
    for number in 0..60 {
        let server = Arc::clone(&server);
        asked.push(tokio::spawn(async move {
            let (token, other) = (format!("token-of-t{}", number % 2), number % 3 == 0);
            let body = if other {
                r#"[["SET","x","1"],["NOSUCH"],["GET","x"]]"#.to_owned()
            } else {
                format!(r#"[["SET","n{number}","{number}"],["GET","n{number}"]]"#)
            };
            let answer = ask(&server, &token, "/multi-exec", &body).await;
            if other {
                assert_eq!(answer.status, 400);
            } else {
                assert_eq!(answer.json, json!([{"result": "OK"}, {"result": number.to_string()}]));
            }
            let echoed = ask(&server, &token, &format!("/echo/{number}"), "").await;
            assert_eq!(echoed.json["result"], number.to_string());
        }));
    }
    for asked in asked {
        asked.await.unwrap();
    }
    // One that gives up leaves no reply behind for the other.
    redis.signal("STOP").await;
    let gives_up = ask(&server, "token-of-t0", "/echo/foreign", "");
    tokio::time::timeout(std::time::Duration::from_millis(200), gives_up).await.unwrap_err();
    redis.signal("CONT").await;
    assert_eq!(ask(&server, "token-of-t1", "/echo/mine", "").await.json["result"], "mine");
}

async fn ask_details(server: &Server, token: &str) -> Answer {
    let mut request = request(Method::GET, "/health/detailed", "");
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    server.client().await.send(request).await
}

#[tokio::test]
async fn rights_are_refused_by_name_and_inline_in_pipelines() {
    let redis = Redis::start().await;
    let toml = "[[tokens]]\nname = 'all'\ntoken_env = 'ALL_TOKEN'\n\
         [[tokens]]\nname = 'reader'\ntoken_env = 'READER_TOKEN'\nread_only = true\n\
         [[tokens]]\nname = 'app'\ntoken_env = 'APP_TOKEN'\nkey_prefixes = ['app:']\ncommands = ['GET', 'SET', 'EVAL']";
    let server = serve(&redis, toml).await;
    assert_eq!(ask(&server, "token-of-all", "/set/app:k/v", "").await.status, 200);
    for (token, path, text) in [
        ("token-of-reader", "/set/k/v", "NOPERM this token may not use 'set', because it is `read_only`"),
        (
            "token-of-reader",
            "/keys/*",
            "NOPERM this token may not use 'keys': it has to be allowed by name, `allow = [\"KEYS\"]`",
        ),
        (
            "token-of-app",
            "/del/app:k",
            "NOPERM this token may not use 'del', which is not among its `commands`",
        ),
        ("token-of-app", "/get/other", "NOPERM this token may not use a key given to 'get'"),
    ] {
        assert_eq!(ask(&server, token, path, "").await.error(), (400, text), "{path}");
    }
    assert_eq!(ask(&server, "token-of-reader", "/get/app:k", "").await.json["result"], "v");
    let answer =
        ask(&server, "token-of-app", "/pipeline", r#"[["GET","app:k"],["GET","x"],["SET","app:n",1]]"#).await;
    let refused = json!({"error": "NOPERM this token may not use a key given to 'GET'"});
    assert_eq!(answer.json, json!([{"result": "v"}, refused, {"result": "OK"}]));
    let answer = ask(&server, "token-of-app", "/multi-exec", r#"[["SET","app:n",2],["GET","x"]]"#).await;
    assert_eq!(answer.error(), (400, "NOPERM this token may not use a key given to 'GET'"));
    assert_eq!(ask(&server, "token-of-all", "/get/app:n", "").await.json["result"], "1");
}

#[tokio::test]
async fn a_key_that_is_named_twice_is_no_way_to_a_foreign_one() {
    let redis = Redis::start().await;
    let toml = "[[tokens]]\nname = 'app'\ntoken_env = 'APP_TOKEN'\nkey_prefixes = ['app:', 's']";
    let server = serve(&redis, toml).await;
    redis.ask(&["SET", "victim", "secret"]).await;
    redis.ask(&["XADD", "other", "1-1", "a", "secret"]).await;
    redis.ask(&["XGROUP", "CREATE", "other", "streams", "0"]).await;
    redis.ask(&["GEOADD", "app:g", "1", "1", "x"]).await;
    for words in [
        json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "STORE", "app:x", "STORE", "victim"]),
        json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "store", "app:x", "Store", "victim"]),
        json!(["GEORADIUSBYMEMBER", "app:g", "x", 9, "km", "STOREDIST", "app:x", "STOREDIST", "victim"]),
        json!(["XREADGROUP", "NOACK", "GROUP", "streams", "g", "streams", "other", ">"]),
    ] {
        let answer = ask(&server, "token-of-app", "/", &words.to_string()).await;
        let name = words[0].as_str().unwrap();
        let text = format!("NOPERM this token may not use a key given to '{name}'");
        assert_eq!(answer.error(), (400, text.as_str()), "{words}");
    }
    assert_eq!(redis.ask(&["GET", "victim"]).await, "Ok(bulk-string('\"secret\"'))");
    let own = json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "STORE", "app:x", "STORE", "app:y"]).to_string();
    assert_eq!(ask(&server, "token-of-app", "/", &own).await.json["result"], 1);
}

/// Redis compares names and options as C strings, which end at a NUL.
#[tokio::test]
async fn a_nul_hides_no_name_and_no_option() {
    let redis = Redis::start().await;
    redis.ask(&["GEOADD", "app:g", "1", "1", "here"]).await;
    redis.ask(&["SET", "app:s", "own"]).await;
    redis.ask(&["SET", "victim:s", "foreign"]).await;
    redis.ask(&["XGROUP", "CREATE", "app:x", "g", "0", "MKSTREAM"]).await;
    let toml = "[[tokens]]\nname = 'all'\ntoken_env = 'ALL_TOKEN'\n\
                [[tokens]]\nname = 'app'\ntoken_env = 'APP_TOKEN'\nkey_prefixes = ['app:']\nallow = ['SCAN']";
    let server = serve(&redis, toml).await;
    for (token, words) in [
        ("app", json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "STORE\0x", "victim:s"])),
        ("app", json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "storedist\0", "victim:s"])),
        ("app", json!(["SCAN", 0, "MATCH", "app:*", "MATCH\0", "*", "COUNT", 100])),
        ("all", json!(["COPY", "app:s", "app:s", "DB\0", 1])),
        ("all", json!(["XREAD", "BLOCK\0", 0, "STREAMS", "app:x", "$"])),
        ("all", json!(["XREADGROUP", "GROUP", "g", "c", "Block\0x", 0, "STREAMS", "app:x", ">"])),
    ] {
        let answer = ask(&server, &format!("token-of-{token}"), "/", &words.to_string()).await;
        let error = answer.json["error"].as_str().unwrap_or_default();
        assert!(
            error.starts_with("NOPERM") || error.starts_with("ERR Command is not"),
            "{words} {}",
            answer.text
        );
    }
    assert_eq!(redis.ask(&["GET", "victim:s"]).await, "Ok(bulk-string('\"foreign\"'))");
    // Values may hold one, and options that only look like another.
    for words in
        [json!(["SET", "app:s\0STORE", "a\0b"]), json!(["GEORADIUS", "app:g", 1, 1, 9, "km", "STOR"])]
    {
        let answer = ask(&server, "token-of-app", "/", &words.to_string()).await;
        assert!(!answer.text.contains("NOPERM"), "{words} {answer:?}");
    }
    // Redis looks names up in a hash table, where one with a NUL may meet the one in front of it:
    // in one of some hundred tries.
    for (name, rest) in
        [("CLIENT", &["SETNAME", "x"][..]), ("CONFIG", &["GET", "dir"]), ("SCRIPT", &["DEBUG", "NO"])]
    {
        for place in 0..2 {
            for round in 0..8 {
                let commands: Vec<Vec<String>> = (0..500)
                    .map(|number| {
                        let mut words: Vec<String> =
                            [name].iter().chain(rest).map(|word| (*word).to_owned()).collect();
                        words[place] += &format!("\0{round}{number}");
                        words
                    })
                    .collect();
                let answer = ask(&server, "token-of-all", "/pipeline", &json!(commands).to_string()).await;
                for (words, answer) in commands.iter().zip(answer.json.as_array().unwrap()) {
                    let error = answer["error"].as_str().unwrap_or_default();
                    let refused =
                        error.starts_with("ERR Command is not available") || error.starts_with("NOPERM");
                    assert!(refused, "{words:?} {answer}");
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_changes_which_script_a_digest_calls() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let toml = format!(
        "[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'\n\
         [[tokens]]\nname = 'c'\ntoken_env = 'C_TOKEN'\nredis = '{}'",
        two.url()
    );
    let server = serve(&one, &toml).await;
    let call = async |token: &str, words: Value| ask(&server, token, "/", &words.to_string()).await.json;
    let load = async |redis: &Redis, script: &str| {
        let loaded = redis.ask(&["SCRIPT", "LOAD", script]).await;
        loaded
            .chars()
            .filter(char::is_ascii_hexdigit)
            .rev()
            .take(40)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<String>()
    };
    // What `a` calls, and what `b` would have run in its place: by a key that both can write, for the Redis of `c` as well.
    let (right, wrong) = ("return 'right'", "return 'wrong'");
    let right_digest = load(&one, right).await;
    let wrong_digest = load(&one, wrong).await;
    load(&two, wrong).await;
    one.ask(&["SCRIPT", "FLUSH"]).await;
    load(&one, wrong).await;
    for value in [wrong_digest.as_str(), wrong, "#!lua flags=allow-key-locking\nreturn 'wrong'"] {
        let key = format!("tollgate:script:{right_digest}");
        assert_eq!(call("token-of-b", json!(["SET", key, value])).await["result"], "OK");
        for _ in 0..2 {
            for token in ["token-of-a", "token-of-b", "token-of-c"] {
                let answer = call(token, json!(["EVALSHA", right_digest, 0])).await;
                assert!(
                    answer["error"].as_str().is_some_and(|text| text.starts_with("NOSCRIPT")),
                    "{answer}"
                );
            }
        }
    }
    for token in ["token-of-a", "token-of-c"] {
        assert_eq!(call(token, json!(["EVAL", right, 0])).await["result"], "right");
        assert_eq!(call(token, json!(["EVALSHA", right_digest, 0])).await["result"], "right");
    }
}

#[tokio::test]
async fn scripts_of_one_token_are_forgotten_for_none_of_another_and_kept_for_no_reader() {
    let redis = Redis::start().await;
    let toml = "max_pipeline = 1000\n[[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\n\
                [[tokens]]\nname = 'greedy'\ntoken_env = 'GREEDY_TOKEN'\n\
                [[tokens]]\nname = 'reader'\ntoken_env = 'READER_TOKEN'\nread_only = true\n\
                allow = ['EVAL_RO', 'EVALSHA_RO']";
    let server = serve(&redis, toml).await;
    let text = |number: usize| format!("#!lua flags=no-writes,allow-key-locking\nreturn {number}");
    let digest = |text: &str| sha1_smol::Sha1::from(text).digest().to_string();
    let call = async |server: &Server, token: &str, words: Value| {
        // With another command beside it, a script is not looked for in Redis.
        let body = json!([["PING"], words]).to_string();
        ask(server, &format!("token-of-{token}"), "/pipeline", &body).await.json[1].clone()
    };
    // Whoever may not write does not, and calls its script nevertheless.
    assert_eq!(call(&server, "reader", json!(["EVAL_RO", text(1), 0])).await, json!({ "result": 1 }));
    let of_reader = json!(["EVALSHA_RO", digest(&text(1)), 0]);
    assert_eq!(call(&server, "reader", of_reader).await, json!({ "result": 1 }));
    assert_eq!(redis.ask(&["DBSIZE"]).await, "Ok(int(0))");
    // What another has kept it finds, and does not touch.
    let loaded = call(&server, "a", json!(["SCRIPT", "LOAD", text(2)])).await;
    assert_eq!(loaded, json!({ "result": digest(&text(2)) }));
    let key = format!("tollgate:script:{}", digest(&text(2)));
    assert_eq!(redis.ask(&["EXPIRE", &key, "100"]).await, "Ok(int(1))");
    let read =
        ask(&server, "token-of-reader", "/", &json!(["EVALSHA_RO", digest(&text(2)), 0]).to_string()).await;
    assert_eq!(read.json, json!({ "result": 2 }));
    assert!(["Ok(int(100))", "Ok(int(99))"].contains(&redis.ask(&["TTL", &key]).await.as_str()));
    // A token that has more than any application does not take the others'.
    for round in 0..11 {
        let all: Vec<Value> =
            (0..1000).map(|number| json!(["EVAL", text(1000 * (round + 1) + number), 0])).collect();
        ask(&server, "token-of-greedy", "/pipeline", &json!(all).to_string()).await;
    }
    // Redis itself forgets those that were not loaded.
    let of_a = json!(["EVALSHA", digest(&text(2)), 0]);
    assert_eq!(call(&server, "a", of_a).await, json!({ "result": 2 }));
}

#[tokio::test]
async fn what_is_dangerous_has_to_be_allowed_by_name() {
    let redis = Redis::start().await;
    let toml = "[[tokens]]\nname = 'all'\ntoken_env = 'ALL_TOKEN'\n\
         [[tokens]]\nname = 'admin'\ntoken_env = 'ADMIN_TOKEN'\nallow = ['config set', 'CLIENT']\n\
         [[tokens]]\nname = 'reader'\ntoken_env = 'READER_TOKEN'\nread_only = true";
    let server = serve(&redis, toml).await;
    for (token, words, text) in [
        (
            "token-of-all",
            json!(["SHUTDOWN", "NOSAVE"]),
            "'SHUTDOWN', because it stops the server: it has to be allowed by name, `allow = [\"SHUTDOWN\"]`",
        ),
        (
            "token-of-all",
            json!(["config", "set", "maxmemory", "1"]),
            "'CONFIG SET', because it changes the server: it has to be allowed by name, `allow = [\"CONFIG SET\"]`",
        ),
        (
            "token-of-all",
            json!(["CLIENT", "PAUSE", "60000"]),
            "'CLIENT PAUSE', because it disturbs other clients: it has to be allowed by name, `allow = [\"CLIENT PAUSE\"]`",
        ),
        (
            "token-of-admin",
            json!(["DEBUG", "SLEEP", "60"]),
            "'DEBUG', because it can crash and block the server: it has to be allowed by name, `allow = [\"DEBUG\"]`",
        ),
        (
            "token-of-reader",
            json!(["EVAL_RO", "return redis.call('KEYS', '*')", 0]),
            "'EVAL_RO': it has to be allowed by name, `allow = [\"EVAL_RO\"]`",
        ),
        (
            "token-of-reader",
            json!(["RANDOMKEY"]),
            "'RANDOMKEY': it has to be allowed by name, `allow = [\"RANDOMKEY\"]`",
        ),
    ] {
        let answer = ask(&server, token, "/", &words.to_string()).await;
        assert_eq!(
            answer.error(),
            (400, format!("NOPERM this token may not use {text}").as_str()),
            "{words}"
        );
        let piped = ask(&server, token, "/pipeline", &json!([words, ["PING"]]).to_string()).await;
        assert_eq!(piped.json[0]["error"], answer.json["error"]);
        assert_eq!(piped.json[1], json!({ "result": "PONG" }));
    }
    for words in [json!(["CONFIG", "SET", "maxmemory", "100mb"]), json!(["CLIENT", "UNPAUSE"])] {
        assert_eq!(
            ask(&server, "token-of-admin", "/", &words.to_string()).await.json["result"],
            "OK",
            "{words}"
        );
    }
    // The one token that flags describe.
    let server = Server::start_with(&redis.url(), &["--allow", "CLIENT PAUSE,client unpause"]).await;
    assert_eq!(server.post("/", r#"["CLIENT","UNPAUSE"]"#).await.json["result"], "OK");
    assert_eq!(server.post("/", r#"["SHUTDOWN"]"#).await.error().0, 400);
}

/// What Tollgate's hosts send works with no more rights than these.
#[tokio::test]
async fn a_token_for_the_keys_of_tollgate_is_enough_for_tollgate() {
    let redis = Redis::start().await;
    let toml = "[[tokens]]\nname = 'tollgate'\ntoken_env = 'TOLLGATE_TOKEN'\nkey_prefixes = ['tg:']\n\
         commands = ['EVALSHA', 'EVAL', 'GETEX', 'DEL']";
    let server = serve(&redis, toml).await;
    let commands = json!([
        ["EVALSHA", "0".repeat(40), 1, "tg:{a}", 1],
        ["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "tg:{a}", "x"],
        ["GETEX", "tg:{a}"],
        ["DEL", "tg:{a}"],
        ["GETEX", "other"],
        ["EVAL", "return 1", 1, "other"],
    ]);
    let answer = server.post("/pipeline", commands.to_string()).await.json;
    assert!(answer[0]["error"].as_str().unwrap().starts_with("NOSCRIPT"), "{answer}");
    assert_eq!(answer[1], json!({ "result": "OK" }));
    assert_eq!(answer[2], json!({ "result": "x" }));
    assert_eq!(answer[3], json!({ "result": 1 }));
    for refused in [&answer[4], &answer[5]] {
        assert!(refused["error"].as_str().unwrap().starts_with("NOPERM"), "{answer}");
    }
}

#[tokio::test]
async fn a_token_that_asks_for_too_much_does_not_take_the_place_of_others() {
    let redis = Redis::start().await;
    let toml = "command_timeout = '10s'\n\
         [[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\nmax_in_flight = 1\n\
         [[tokens]]\nname = 'b'\ntoken_env = 'B_TOKEN'";
    let server = Arc::new(serve(&redis, toml).await);
    redis.signal("STOP").await;
    let waiting = |token: &'static str| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let answer = ask(&server, token, "/ping", "").await;
                if answer.status != 429 {
                    return answer.status;
                }
            }
        })
    };
    let a = waiting("token-of-a");
    eventually("the token is at its limit", async || {
        let answer = ask(&server, "token-of-a", "/", "[]").await;
        answer.status == 429 && answer.error().1 == "ERR max requests limit exceeded"
    })
    .await;
    let b = waiting("token-of-b");
    assert_eq!(ask(&server, "token-of-b", "/", "[]").await.error(), (400, "ERR empty command"));
    redis.signal("CONT").await;
    assert_eq!((a.await.unwrap(), b.await.unwrap()), (200.try_into().unwrap(), 200.try_into().unwrap()));
}

#[tokio::test]
async fn without_tokens_everyone_is_let_in() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--no-auth"]).await;
    let mut request = request(Method::GET, "/ping", "");
    request.headers_mut().remove("authorization");
    assert_eq!(server.client().await.send(request).await.raw(), (200, r#"{"result":"PONG"}"#));
}

/// Some errors are written by Redis with the line breaks that a script or an argument put into them. What stands behind is no reply to
/// anybody else.
#[tokio::test]
async fn no_line_break_in_an_error_moves_the_answers_of_others() {
    let redis = Redis::start().await;
    redis.ask(&["SET", "app:secret", "of-app"]).await;
    let toml = "[[tokens]]\nname = 'all'\ntoken_env = 'ALL_TOKEN'\n\
                [[tokens]]\nname = 'app'\ntoken_env = 'APP_TOKEN'\nkey_prefixes = ['app:']";
    let server = Arc::new(serve(&redis, toml).await);
    let mut others = Vec::new();
    for (token, path, result) in [("app", "/get/app:secret", "of-app"), ("all", "/ping", "PONG")] {
        for _ in 0..4 {
            let server = Arc::clone(&server);
            others.push(tokio::spawn(async move {
                for round in 0..200 {
                    let answer = ask(&server, &format!("token-of-{token}"), path, "").await;
                    assert_eq!(answer.json["result"], result, "{token} {round}: {}", answer.text);
                }
            }));
        }
    }
    let made_up = "x\r\n$6\r\nforged\r\n+y";
    let busy = "for i=1,200000 do end ";
    let attacks = [
        json!(["EVAL", format!("{busy}error(ARGV[1])"), 0, made_up]),
        json!(["EVAL", format!("{busy}error({{err=ARGV[1]}})"), 0, made_up]),
        json!(["EVAL", format!("{busy}return {{err=ARGV[1]}}"), 0, made_up]),
        json!(["EVAL_RO", format!("{busy}error(ARGV[1])"), 0, "first line\nsecond line"]),
        json!(["EVAL", format!("{busy}error(ARGV[1])"), 0, "x\r\n*9\r\n+y"]),
        json!(["EVAL", "#!lua \"flags=x\\r\\n+y\"\nreturn 1", 0]),
        json!(["SCRIPT", "LOAD", "#!lua \"bad\\r\\n+y\"\nreturn 1"]),
        json!(["FUNCTION", "LOAD", "#!lua \"zzz=x\\r\\n+y\"\nreturn 1"]),
        json!(["FUNCTION", "LIST", made_up]),
    ];
    while !others.iter().all(tokio::task::JoinHandle::is_finished) {
        for attack in &attacks {
            let answer = ask(&server, "token-of-all", "/", &attack.to_string()).await;
            assert!(answer.json["error"].is_string(), "{attack} {}", answer.text);
            let two = json!([attack, ["PING"]]).to_string();
            let answer = ask(&server, "token-of-all", "/pipeline", &two).await;
            assert!(!answer.text.contains("of-app"), "{attack} {}", answer.text);
        }
    }
    for other in others {
        other.await.unwrap();
    }
}
