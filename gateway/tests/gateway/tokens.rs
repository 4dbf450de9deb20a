//! Several tokens in front of several Redis, and what each may do.

use std::sync::Arc;

use hyper::Method;
use serde_json::json;

use crate::support::{Answer, Redis, Server, config, eventually, request};

/// A gateway with the tokens of a configuration file; each is `token-of-` and what stands before `_TOKEN`.
async fn serve(redis: &Redis, toml: &str) -> Server {
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
    let ready = server.client().await.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.json["error"].as_str().unwrap().starts_with("`a`: ERR redis is unreachable: "),
        "{}",
        ready.text
    );
    // Each token is told of its own.
    let own = ask_details(&server, "token-of-b").await;
    assert_eq!((own.status.as_u16(), &own.json["checks"][0]["token"]), (200, &json!("b")));
    let other = ask_details(&server, "token-of-a").await;
    assert_eq!((other.status.as_u16(), &other.json["checks"][0]["token"]), (503, &json!("a")));
    assert_eq!(other.json["checks"].as_array().unwrap().len(), 1);
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
        ("token-of-reader", "/set/k/v", "NOPERM this token may not use 'set'"),
        ("token-of-reader", "/keys/*", "NOPERM this token may not use 'keys'"),
        ("token-of-app", "/del/app:k", "NOPERM this token may not use 'del'"),
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
