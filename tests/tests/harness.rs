//! The harness itself, on the real Envoy and Redis, without the filter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::json;
use tollgate_tests::envoy::{Envoy, Filter, Listener, Options, Paths, Upstream as Behind};
use tollgate_tests::load::Load;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::Redis;
use tollgate_tests::store_double::{Mode, StoreDouble};
use tollgate_tests::upstream::{Reply, Upstream};
use tollgate_tests::{client, ports, run_dir};

#[tokio::test]
async fn envoy_answers_from_every_listener() {
    let dir = run_dir::create().unwrap();
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let direct = Listener::new(ports::free().unwrap(), Behind::Direct);
    let echo = Listener::new(ports::free().unwrap(), Behind::Address(upstream.address()));
    let raw = Listener {
        paths: Paths::Raw,
        ..Listener::new(ports::free().unwrap(), Behind::Address(upstream.address()))
    };
    let envoy = Envoy::start(&dir, options(vec![direct, echo, raw])).await.unwrap();
    let [direct, echo, raw] = envoy.addresses()[..] else { panic!("three listeners") };

    assert_eq!(client::get(direct, "/", &[]).await.unwrap().text(), "ok");

    let spelled = "/a/../b//c%2Fd";
    let seen = client::get(echo, spelled, &[("x-probe", "1")]).await.unwrap().json().unwrap();
    assert_eq!(seen["path"], "/b/c/d");
    assert!(seen["headers"].as_array().unwrap().contains(&json!(["x-probe", "1"])), "{seen}");
    assert_eq!(client::get(raw, spelled, &[]).await.unwrap().json().unwrap()["path"], spelled);
    assert_eq!(upstream.requests(), 2);

    upstream.set_reply(Reply { status: StatusCode::IM_A_TEAPOT, ..Reply::default() });
    assert_eq!(client::get(echo, "/", &[]).await.unwrap().status, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn envoy_passes_odd_bytes_to_the_filters() {
    let dir = run_dir::create().unwrap();
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let listener = Listener::new(ports::free().unwrap(), Behind::Address(upstream.address()));
    let envoy = Envoy::start(&dir, options(vec![listener])).await.unwrap();

    let odd =
        client::raw(envoy.address(), b"GET / HTTP/1.1\r\nhost: a\r\nx-odd: \xff\xfe\r\n\r\n").await.unwrap();
    assert_eq!(odd.status, StatusCode::OK, "{odd}");
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "a".repeat(60_000));
    let long = client::raw(envoy.address(), long.as_bytes()).await.unwrap();
    assert_eq!(long.status, StatusCode::OK, "{long}");
    assert!(long.text().contains(&"a".repeat(60_000)));
}

#[tokio::test]
async fn metrics_and_resources_of_an_envoy_are_readable() {
    let dir = run_dir::create().unwrap();
    let listener =
        Listener::new(ports::free().unwrap(), Behind::Direct).with(Filter::LocalRateLimit { per_second: 5 });
    let envoy = Envoy::start(&dir, options(vec![listener])).await.unwrap();
    let report = Load { connections: 4, ..Load::new(vec![envoy.address()], 40, "/") }.run().await.unwrap();
    assert_eq!(report.answers(), 40);

    let metrics = envoy.metrics().await.unwrap();
    let prefix = format!("port_{}", envoy.address().port());
    let answered = |class| {
        let labels =
            [("envoy_http_conn_manager_prefix", prefix.as_str()), ("envoy_response_code_class", class)];
        metrics.sum("envoy_http_downstream_rq_xx", &labels)
    };
    assert_eq!(answered("2") + answered("4"), 40.0);
    assert!(envoy.resident_memory().unwrap() > 1_000_000);
    assert!(envoy.allocated_memory().await.unwrap() > 100_000);
    assert!(envoy.cpu_time().unwrap() > Duration::ZERO);
}

#[tokio::test]
async fn load_counts_every_request_once() {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let load = Load {
        connections: 8,
        sources: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8))],
        request: Arc::new(|number| {
            Request::get(format!("/{number}")).header("host", "x").body(Full::<Bytes>::default()).unwrap()
        }),
        marker: Some("content-type"),
        ..Load::new(vec![upstream.address()], 500, "/")
    };
    let report = load.run().await.unwrap();
    assert_eq!((report.count(200), report.failed(), report.marked()), (500, 0, 500));
    assert_eq!(report.latencies.len(), 500);
    assert_eq!(upstream.requests(), 500);

    upstream.set_reply(Reply { delay: Duration::from_secs(30), ..Reply::default() });
    let waits = Load {
        connections: 2,
        timeout: Duration::from_millis(50),
        ..Load::new(vec![upstream.address()], 4, "/")
    };
    let report = waits.run().await.unwrap();
    assert_eq!(report.failures.get("timeout"), Some(&4));
    assert!(report.longest < Duration::from_secs(2), "{:?}", report.longest);

    let gone = upstream.address();
    drop(upstream);
    let report = Load { connections: 1, ..Load::new(vec![gone], 3, "/") }.run().await.unwrap();
    assert_eq!(report.failed(), 3);
}

#[tokio::test]
async fn the_store_double_fails_as_told() {
    let double = StoreDouble::start(ports::free().unwrap(), Mode::Answer(json!(1))).await.unwrap();
    let pipeline = || {
        let body = Full::from(r#"[["GET","a"],["GET","b"],["GET","c"]]"#);
        Request::post("/pipeline").header("host", "x").body(body).unwrap()
    };
    let ask = || client::send(double.address(), pipeline());

    assert_eq!(ask().await.unwrap().json().unwrap(), json!([{"result": 1}, {"result": 1}, {"result": 1}]));
    double.set_mode(Mode::HalfPipeline(json!(1)));
    assert_eq!(ask().await.unwrap().json().unwrap(), json!([{"result": 1}]));
    double.set_mode(Mode::Status(StatusCode::UNAUTHORIZED));
    assert_eq!(ask().await.unwrap().status, StatusCode::UNAUTHORIZED);
    double.set_mode(Mode::Garbage);
    ask().await.unwrap().json().unwrap_err();
    double.set_mode(Mode::NotAnArray);
    assert!(ask().await.unwrap().json().unwrap().is_object());
    double.set_mode(Mode::CloseMidAnswer);
    ask().await.unwrap_err();
    let raw = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let cut = client::raw(double.address(), raw).await.unwrap_err();
    assert!(format!("{cut:#}").contains("between two chunks"), "the body began: {cut:#}");
    double.set_mode(Mode::Late(Duration::from_millis(80), json!(null)));
    let begun = Instant::now();
    ask().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(80));
    double.set_mode(Mode::Silent);
    tokio::time::timeout(Duration::from_millis(100), ask()).await.unwrap_err();
    assert_eq!((double.requests(), double.commands()), (9, 8 * 3 + 1));
}

#[tokio::test]
async fn redis_is_killed_suspended_and_restarted_on_its_port() {
    let dir = run_dir::create().unwrap();
    let mut redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    let ready = Ready { address: redis.address(), question: b"PING\r\n".to_vec(), answer: b"+PONG".to_vec() };
    assert!(ready.holds().await);
    redis.suspend().unwrap();
    assert!(!ready.holds().await, "a suspended Redis accepts and says nothing");
    redis.resume().unwrap();
    assert!(ready.holds().await);
    redis.kill().await;
    assert!(redis.ended().is_some() && !ready.holds().await);
    redis.restart().await.unwrap();
    assert!(redis.ended().is_none() && ready.holds().await);
    redis.suspend().unwrap();
    let begun = Instant::now();
    drop(redis);
    assert!(begun.elapsed() < Duration::from_secs(3), "a suspended process ends too");
    assert!(!ready.holds().await);
}

#[tokio::test]
async fn an_error_names_the_part_and_shows_its_log() {
    let dir = run_dir::create().unwrap();
    let spec = |script: &str| Spec {
        name: "part".into(),
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".into(), script.into()],
        env: Vec::new(),
        dir: dir.clone(),
        ready: Ready::http(ports::local(ports::free().unwrap()), "/"),
        ready_within: Duration::from_millis(300),
    };
    let ended = Process::start(spec("echo no such file >&2; exit 3")).await.unwrap_err().to_string();
    assert!(ended.contains("part ended (exit status: 3)") && ended.contains("no such file"), "{ended}");
    let late = Process::start(spec("echo still thinking; exec sleep 1000")).await.unwrap_err().to_string();
    assert!(late.contains("not ready within 300ms") && late.contains("still thinking"), "{late}");
    let absent = Process::start(Spec { program: "/nowhere/part".into(), ..spec("") }).await.unwrap_err();
    assert!(format!("{absent:#}").contains("/nowhere/part"), "{absent:#}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    let port = redis.address().port();
    let taken = Envoy::start(&dir, options(vec![Listener::new(port, Behind::Direct)])).await.unwrap_err();
    assert!(format!("{taken:#}").contains(&format!("port {port}, wanted by envoy-under-test")), "{taken:#}");
}

#[tokio::test]
async fn a_dropped_process_is_gone() {
    let dir = run_dir::create().unwrap();
    let listener = Listener::new(ports::free().unwrap(), Behind::Direct);
    let envoy = Envoy::start(&dir, options(vec![listener])).await.unwrap();
    let process = format!("/proc/{}", envoy.id());
    assert!(Path::new(&process).exists());
    drop(envoy);
    assert!(!Path::new(&process).exists());
}

/// The kernel ends a child whose owner was killed before it could do so itself.
#[tokio::test]
async fn a_killed_owner_leaves_no_process_behind() {
    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args(["--exact", "owner_that_is_killed", "--ignored", "--nocapture"]).stdout(Stdio::piped());
    let mut owner = owner.spawn().unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let id =
        output.lines().find_map(|line| Some(line.unwrap().rsplit_once("redis is ")?.1.to_owned())).unwrap();
    let process = Path::new("/proc").join(id);
    assert!(process.exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let gone = async {
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the kernel ends it");
}

#[tokio::test]
#[ignore = "runs as a process of its own, for a_killed_owner_leaves_no_process_behind"]
async fn owner_that_is_killed() {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    println!("redis is {}", redis.id());
    redis.wait().await;
}

fn options(listeners: Vec<Listener>) -> Options {
    Options {
        name: "envoy-under-test".into(),
        admin_port: ports::free().unwrap(),
        concurrency: 1,
        listeners,
        clusters: Vec::new(),
        variables: Vec::new(),
    }
}
