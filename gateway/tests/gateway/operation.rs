//! What those who operate the gateway see of it.

use std::collections::BTreeMap;

use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use tollgate_tests::run_dir;
use tollgate_tests::topologies::cluster::Cluster;

use crate::support::{Client, H2Client, Redis, Server, eventually, request};

/// Each sample of the metrics with its value.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && name.starts_with("tollgate_gateway_"), "{line}");
    }
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect()
}

#[tokio::test]
async fn metrics_count_what_happened_on_all_threads() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--threads", "3"]).await;
    // Connections go to the threads in turn, so every one has some of these.
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = server.client().await;
        client
            .post(
                "/pipeline",
                r#"[["SET","k","v"],["INCR","k"],["nosuch"],["QUIT"],["script","load","return 1"]]"#,
            )
            .await;
        client.get("/get/k").await;
        client.get("/incr/k").await;
        client.post("/", "nonsense").await;
        clients.push(client);
    }
    let mut wrong = request(Method::GET, "/get/k", "");
    wrong.headers_mut().remove("authorization");
    clients[0].send(wrong).await;
    let (head, body) = clients[0].bytes(request(Method::GET, "/metrics", "")).await;
    assert_eq!(
        (head.status.as_u16(), &head.headers["content-type"]),
        (200, &HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))
    );
    let text = String::from_utf8(body.to_vec()).unwrap();
    let samples = samples(&text);
    for (name, value) in [
        (r#"requests_total{route="pipeline",status="2xx"}"#, "6"),
        (r#"requests_total{route="path",status="2xx"}"#, "6"),
        (r#"requests_total{route="path",status="4xx"}"#, "7"),
        (r#"requests_total{route="command",status="4xx"}"#, "6"),
        (r#"request_duration_seconds_count{route="pipeline"}"#, "6"),
        (r#"request_duration_seconds_bucket{route="pipeline",le="+Inf"}"#, "6"),
        (r#"commands_total{command="get"}"#, "6"),
        (r#"commands_total{command="incr"}"#, "12"),
        (r#"commands_total{command="script|load"}"#, "6"),
        (r#"commands_total{command="other"}"#, "6"),
        (r#"batch_commands_bucket{le="5"}"#, "6"),
        (r#"batch_commands_bucket{le="2"}"#, "0"),
        ("batch_commands_sum", "30"),
        (r#"errors_total{kind="redis"}"#, "18"),
        (r#"errors_total{kind="refused"}"#, "6"),
        (r#"errors_total{kind="syntax"}"#, "6"),
        (r#"errors_total{kind="token"}"#, "1"),
        ("connections", "6"),
        ("threads", "3"),
        ("in_flight", "0"),
        ("memory_bytes", "0"),
        (r#"redis_connections{token="default"}"#, "3"),
        (r#"redis_nodes{token="default"}"#, "1"),
        (r#"redis_commands_total{token="default"}"#, "36"),
        (r#"redis_reconnects_total{token="default"}"#, "0"),
    ] {
        assert_eq!(samples.get(format!("tollgate_gateway_{name}").as_str()), Some(&value), "{name}\n{text}");
    }
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn details_have_the_shape_of_health_checks_and_need_a_token() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--threads", "2", "--connections", "2"]).await;
    let mut client = server.client().await;
    let answer = client.get("/health/detailed").await;
    let health = &answer.json;
    assert_eq!(
        (answer.status.as_u16(), &health["status"], &health["overall"]),
        (200, &json!("ok"), &json!("healthy"))
    );
    let timestamp = health["timestamp"].as_str().unwrap();
    assert!(
        timestamp.len() > 20 && timestamp.ends_with('Z') && timestamp.as_bytes()[10] == b'T',
        "{timestamp}"
    );
    assert!(health["uptime"].is_u64());
    let check = &health["checks"][0];
    assert_eq!((&check["name"], &check["status"]), (&json!("redis"), &json!("healthy")));
    let details = &check["details"];
    let latency = details["latency"].as_u64().unwrap();
    assert_eq!(check["message"], format!("Redis connection is working (latency: {latency}ms, nodes: 1)"));
    assert_eq!((&details["nodeCount"], &details["circuitBreakerOpen"]), (&json!(1), &json!(false)));
    assert_eq!((&details["clusterState"], &details["topology"]), (&json!(null), &json!("single")));
    let node = json!({
        "address": format!("127.0.0.1:{}", redis.port), "role": "master", "connections": 4, "connectionsWanted": 4,
        "reconnects": 0, "lastError": null,
    });
    assert_eq!(details["nodes"], json!([node]));

    for path in ["/health/detailed", "/metrics"] {
        let mut without = request(Method::GET, path, "");
        without.headers_mut().remove("authorization");
        assert_eq!(client.send(without).await.error(), (401, "WRONGPASS invalid or missing auth token"));
    }
    for (path, body) in [("/health", r#"{"status":"ok"}"#), ("/ready", r#"{"status":"ready"}"#)] {
        let mut without = request(Method::GET, path, "");
        without.headers_mut().remove("authorization");
        assert_eq!(client.send(without).await.raw(), (200, body));
    }
    drop(redis);
    eventually("the breaker opens", async || {
        let answer = server.client().await.get("/health/detailed").await;
        let details = &answer.json["checks"][0]["details"];
        answer.status == 503 && answer.json["overall"] == "unhealthy" && details["circuitBreakerOpen"] == true
    })
    .await;
}

#[tokio::test]
async fn an_address_of_their_own_has_health_and_metrics_without_a_token_and_nothing_else() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--admin-listen", "127.0.0.1:0"]).await;
    let mut admin = Client::connect(server.admin.unwrap()).await;
    for path in ["/health", "/ready", "/health/detailed", "/metrics"] {
        let mut without = request(Method::GET, path, "");
        without.headers_mut().remove("authorization");
        assert_eq!(admin.bytes(without).await.0.status, 200, "{path}");
    }
    for path in ["/get/k", "/pipeline", "/subscribe/x"] {
        assert_eq!(
            admin.post(path, "[]").await.error(),
            (404, "ERR there is nothing at this path"),
            "{path}"
        );
    }
    let mut client = server.client().await;
    for path in ["/health/detailed", "/metrics"] {
        assert_eq!(client.get(path).await.error().0, 404, "{path}");
    }
    for path in ["/health", "/ready", "/ping"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn requests_have_ids_and_answers_sync_tokens_that_differ() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    let mut tokens = std::collections::BTreeSet::new();
    for path in ["/", "/pipeline", "/multi-exec"] {
        let body = if path == "/" { r#"["PING"]"# } else { r#"[["PING"]]"# };
        for _ in 0..5 {
            let answer = client.post(path, body).await;
            tokens.insert(answer.headers["upstash-sync-token"].clone());
            assert!(answer.headers["x-request-id"].len() > 17);
        }
    }
    let h2 = H2Client::connect(server.address).await.post("/", r#"["PING"]"#).await;
    tokens.insert(h2.headers["upstash-sync-token"].clone());
    assert_eq!(tokens.len(), 16);

    for (given, kept) in [("trace-1:2", true), ("a b", false), ("\"", false)] {
        for path in ["/ping", "/nosuch", "/health"] {
            let mut request = request(Method::GET, path, "");
            request.headers_mut().insert("x-request-id", HeaderValue::from_static(given));
            assert_eq!(client.send(request).await.headers["x-request-id"] == given, kept, "{given} {path}");
        }
    }
}

#[tokio::test]
async fn details_of_a_cluster_name_its_nodes_and_its_state() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let server = Server::start_with(&cluster.url(), &["--threads", "2"]).await;
    let answer = server.client().await.get("/health/detailed").await;
    let details = &answer.json["checks"][0]["details"];
    assert_eq!((answer.status.as_u16(), &details["topology"]), (200, &json!("cluster")), "{}", answer.text);
    assert_eq!((&details["clusterState"], &details["slotsCovered"]), (&json!("ok"), &json!(16384)));
    assert_eq!((&details["nodeCount"], &details["circuitBreakerOpen"]), (&json!(3), &json!(false)));
    let nodes = details["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().filter(|node| node["role"] == "master").count(), 3);
    assert!(
        nodes.iter().filter(|node| node["role"] == "master").all(|node| node["connections"] == 2),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn those_who_ask_whether_it_is_ready_put_no_load_on_redis() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--threads", "1"]).await;
    let pings = async || -> u128 {
        let told = redis.ask(&["INFO", "commandstats"]).await;
        let calls = told.split_once("cmdstat_ping:calls=").map_or("0", |(_, rest)| rest);
        calls.split(',').next().unwrap().parse().unwrap()
    };
    let (before, begun) = (pings().await, Instant::now());
    let mut asking = JoinSet::new();
    for _ in 0..16 {
        let mut client = server.client().await;
        asking.spawn(async move {
            for _ in 0..50 {
                let mut request = request(Method::GET, "/ready", "");
                request.headers_mut().remove("authorization");
                assert_eq!(client.send(request).await.raw(), (200, r#"{"status":"ready"}"#));
            }
        });
    }
    asking.join_all().await;
    // One in a tenth of a second, and those of the connection itself.
    let most = begun.elapsed().as_millis() / 100 + 1 + begun.elapsed().as_millis() / 1000 + 2;
    let asked = pings().await - before;
    assert!(asked <= most, "{asked} for 800 requests in {:?}", begun.elapsed());
    // What is told is not old.
    redis.signal("STOP").await;
    eventually("it is not ready", async || server.client().await.get("/ready").await.status == 503).await;
    redis.signal("CONT").await;
    eventually("it is ready", async || server.client().await.get("/ready").await.status == 200).await;
}
