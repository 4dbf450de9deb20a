//! The npm package as it would be published, installed from its file and tried in every runtime that it is for.
//!
//! What it promises is asked by `tests/clients/npm/suite.mjs`, the same in all of them, against the real gateway in front of a real
//! Redis, and against stores that fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tollgate_tests::documents::Documents;
use tollgate_tests::gateway::Gateway;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::Redis;
use tollgate_tests::stack::{Edge, Stack, StackOptions};
use tollgate_tests::store_double::{Mode, StoreDouble};
use tollgate_tests::upstream::{Reply, ReplyBody, Upstream};
use tollgate_tests::workerd::{self, Worker, Workerd};
use tollgate_tests::{client, ports, run_dir, tools};

#[path = "support/mod.rs"]
mod support;
use support::eventually;

#[tokio::test]
async fn in_node() {
    let app = App::start().await;
    let mut node = Command::new("node");
    node.arg("main.mjs");
    assert_sum(&app.run(node).await);
}

#[tokio::test]
async fn in_deno() {
    let app = App::start().await;
    let mut deno = Command::new(tools::deno().unwrap());
    deno.args(["run", "--no-remote", "--allow-env", "--allow-net=127.0.0.1", "--allow-read=.", "main.mjs"]);
    deno.env("DENO_DIR", app.dir.join("deno")).env("DENO_NO_UPDATE_CHECK", "1");
    assert_sum(&app.run(deno).await);
}

#[tokio::test]
async fn in_bun() {
    let app = App::start().await;
    let mut bun = Command::new(tools::bun().unwrap());
    bun.args(["run", "--no-install", "main.mjs"]).env("DO_NOT_TRACK", "1");
    assert_sum(&app.run(bun).await);
}

#[tokio::test]
async fn in_workerd() {
    let app = App::start().await;
    let workerd = app.workerd().await;
    let report = get(workerd.addresses()[0], "/suite", "").await;
    assert_sum(&format!("{}{}", workerd.log(), report.text()));
}

/// What one request awaits must not depend on another: workerd would take it for hung.
#[tokio::test]
async fn many_requests_share_a_guard_in_workerd() {
    let app = App::start().await;
    let workerd = app.workerd().await;
    let address = workerd.addresses()[0];
    let asked: Vec<_> = (0..100).map(|_| tokio::spawn(get(address, "/", "192.0.2.1"))).collect();
    let mut statuses = Vec::new();
    for answer in asked {
        statuses.push(answer.await.unwrap().status);
    }
    let count = |of: StatusCode| statuses.iter().filter(|status| **status == of).count();
    let told = (count(StatusCode::OK), count(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(told, (40, 60), "{statuses:?}\n{}", workerd.log());
}

#[tokio::test]
async fn in_vercels_edge_runtime() {
    let app = App::start().await;
    let (_runtime, address) = app.edge_runtime().await;
    assert_sum(&get(address, "/suite", "").await.text());
}

/// As a page of Next.js sees it: what passes goes on to the page, what does not is answered.
#[tokio::test]
async fn a_middleware_of_next_guards_pages() {
    let app = App::start().await;
    let (_runtime, address) = app.edge_runtime().await;
    for remaining in (0..3).rev() {
        let answer = get(address, "/api/things?page=1", "192.0.2.1").await;
        assert_eq!(
            (answer.status, answer.header("x-middleware-next")),
            (StatusCode::OK, Some("1")),
            "{answer}"
        );
        let expected = format!("\"api-ip\";r={remaining};t=");
        assert!(answer.header("ratelimit").is_some_and(|field| field.starts_with(&expected)), "{answer}");
    }
    let refused = get(address, "/api/things?page=1", "192.0.2.1").await;
    assert_eq!((refused.status, refused.header("x-middleware-next")), (StatusCode::TOO_MANY_REQUESTS, None));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.json().unwrap()["violated-policies"], json!(["api-ip"]));
    for (path, ip) in [("/api/things", "192.0.2.2"), ("/about", "192.0.2.1")] {
        assert_eq!(get(address, path, ip).await.header("x-middleware-next"), Some("1"), "{path} for {ip}");
    }
}

/// A limit that requests of a mesh and a function share: half of the quota through Envoy, half by its name.
#[tokio::test]
async fn envoy_and_the_package_count_together() {
    let policy = json!({ "routes": [{ "name": "all", "rate_limits": [{
        "name": "shared", "algorithm": "gcra", "quota": 10, "window": "1d",
        "key": ["const:v1", "header:x-api-key", "client_ip", "path"],
    }] }] });
    let stack = Stack::start(StackOptions::new(policy.clone())).await.unwrap();
    let app = App::install().await;
    for left in (5..10).rev() {
        let answer =
            client::get(stack.addresses()[0], "/Things/?page=1", &[("x-api-key", "k-123")]).await.unwrap();
        let expected = format!("\"shared\";r={left};t=");
        assert!(answer.header("ratelimit").is_some_and(|field| field.starts_with(&expected)), "{answer}");
    }
    let redis = json!({
        "url": format!("http://{}", stack.gateway.as_ref().unwrap().address()),
        "token": stack.token,
    });
    let mut node = Command::new("node");
    let values = json!(["k-123", "127.0.0.1", "/Things"]);
    let asked = json!({ "policy": policy, "redis": redis, "name": "shared", "key": values, "times": 6 });
    node.arg("limit.mjs").arg(asked.to_string());
    let answers: Value = serde_json::from_str(&app.run(node).await).unwrap();
    let told = |field: &str| {
        answers.as_array().unwrap().iter().map(|answer| answer[field].clone()).collect::<Value>()
    };
    assert_eq!(told("remaining"), json!([4, 3, 2, 1, 0, 0]));
    assert_eq!(told("allowed"), json!([true, true, true, true, true, false]));
    let refused = client::get(stack.addresses()[0], "/Things", &[("x-api-key", "k-123")]).await.unwrap();
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let other = client::get(stack.addresses()[0], "/Things", &[("x-api-key", "k-124")]).await.unwrap();
    assert_eq!(other.status, StatusCode::OK);
}

/// What a request holds at a Worker no program gets by its name, and the other way round.
#[tokio::test]
async fn a_worker_and_the_package_hold_one_lock() {
    let lock = json!({ "name": "job", "key": ["header:x-tenant"], "lease": "1m" });
    let policy = json!({ "routes": [{ "name": "all", "lock": lock }] });
    let origin = Upstream::start(ports::free().unwrap()).await.unwrap();
    let edge = Some(Edge::new(1, origin.address()));
    let options = StackOptions { replicas: 0, edge, ..StackOptions::new(policy.clone()) };
    let stack = Stack::start(options).await.unwrap();
    let app = App::install().await;
    let worker = stack.addresses()[0];
    let ask = async move || client::get(worker, "/", &[("x-tenant", "acme")]).await.unwrap().status;
    let redis = json!({ "url": format!("http://{}", stack.gateway.as_ref().unwrap().address()), "token": stack.token });
    let take = async |tenant: &str, lease: &str| {
        let asked = json!({ "policy": policy, "redis": redis, "name": "job", "key": tenant, "lease": lease });
        let mut node = Command::new("node");
        node.arg("lock.mjs").arg(asked.to_string());
        serde_json::from_str::<Value>(&app.run(node).await).unwrap()
    };
    // The origin answers when the program has been told.
    let body = ReplyBody::Unfinished("begun".into());
    origin.set_reply(Reply { body, ..Reply::default() });
    let mut connection = TcpStream::connect(worker).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: tollgate.test\r\nx-tenant: acme\r\n\r\n").await.unwrap();
    let mut came = [0; 12];
    connection.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"HTTP/1.1 200");
    let refused = take("acme", "1m").await;
    assert_eq!(refused["acquired"], false, "{refused}");
    assert!((1..=60_000).contains(&refused["forMs"].as_u64().unwrap()), "{refused}");
    assert_eq!(take("other", "1m").await["acquired"], true);
    // The origin breaks off, so the request is over.
    drop(origin);
    let free = async || take("acme", "3s").await;
    let held = eventually("the request lets go", free, |lock| lock["acquired"] == true).await;
    assert!(held["fence"].as_u64().unwrap() > 1, "a later one is larger: {held}");
    assert_eq!(ask().await, StatusCode::CONFLICT);
    // It gets through to the origin, which is no more, when the program's lease is over.
    eventually("the lease is over", ask, |status| *status == StatusCode::BAD_GATEWAY).await;
}

/// `types/errors.ts` says of each of its mistakes that it is one: the compiler refuses it if one is none.
#[tokio::test]
async fn types_let_pass_what_works_and_nothing_else() {
    let app = App::install().await;
    let mut typescript = Command::new("node");
    typescript.arg(tools::typescript().unwrap()).args(["--project", "types"]);
    app.run(typescript).await;
}

/// Nothing but what is needed, and nothing that would have to be installed too.
#[tokio::test]
async fn what_is_published() {
    let app = App::install().await;
    let package = app.dir.join("node_modules/tollgate");
    let mut files: Vec<String> = fs::read_dir(&package)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let expected = "LICENSE README.md browser.js core.js core.wasm edge-light.js from-node.js guard.js index.d.ts node.js package.json workerd.js";
    assert_eq!(files.join(" "), expected);
    let manifest: Value = serde_json::from_slice(&fs::read(package.join("package.json")).unwrap()).unwrap();
    for field in ["dependencies", "peerDependencies", "optionalDependencies", "scripts"] {
        assert_eq!(manifest[field], Value::Null, "{field}");
    }
    let installed = fs::read_dir(app.dir.join("node_modules")).unwrap().flatten();
    let installed = installed.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(installed.count(), 1, "it is installed alone");
}

/// An application that has the package installed, and what it talks to.
struct App {
    dir: PathBuf,
    /// What the suite is told.
    settings: Value,
    _stores: Option<Stores>,
}

/// A store that works, some that fail, and a server of documents.
struct Stores {
    _redis: Redis,
    _gateway: Gateway,
    _doubles: [StoreDouble; 3],
    _documents: Documents,
}

impl App {
    /// Installed, with stores.
    async fn start() -> App {
        let mut app = App::install().await;
        let redis = Redis::start(&app.dir, ports::free().unwrap()).await.unwrap();
        let gateway = Gateway::start(&app.dir, ports::free().unwrap(), &redis.url(), TOKEN).await.unwrap();
        let double = async |mode| StoreDouble::start(ports::free().unwrap(), mode).await.unwrap();
        let status = Mode::Status(StatusCode::INTERNAL_SERVER_ERROR);
        let doubles = [double(Mode::Silent).await, double(Mode::Garbage).await, double(status).await];
        let documents = Documents::start(ports::free().unwrap()).await.unwrap();
        let url = |address: SocketAddr| format!("http://{address}");
        app.settings = json!({
            "url": url(gateway.address()),
            "token": TOKEN,
            "failing": {
                "down": url(ports::local(ports::free().unwrap())),
                "silent": url(doubles[0].address()),
                "garbage": url(doubles[1].address()),
                "broken": url(doubles[2].address()),
            },
            "documents": url(documents.address()),
        });
        app._stores =
            Some(Stores { _redis: redis, _gateway: gateway, _doubles: doubles, _documents: documents });
        app
    }

    /// Installed, and nothing more.
    async fn install() -> App {
        let dir = run_dir::create().unwrap();
        let clients = tools::workspace().join("tests/clients");
        run_dir::copy(&clients.join("npm"), &dir).unwrap();
        fs::copy(clients.join("js/checks.mjs"), dir.join("checks.mjs")).unwrap();
        fs::copy(tools::workspace().join("policy.json"), dir.join("types/policy.json")).unwrap();
        fs::write(dir.join("package.json"), r#"{ "private": true, "type": "module" }"#).unwrap();
        let app = App { dir, settings: Value::Null, _stores: None };
        let mut npm = Command::new("npm");
        npm.args(["install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.arg(tools::npm_package().unwrap());
        app.run(npm).await;
        app
    }

    /// Runs a program to its end, which must be a good one; returns what it wrote.
    async fn run(&self, mut program: Command) -> String {
        program.current_dir(&self.dir).env("SETTINGS", self.settings.to_string());
        program.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(LIMIT, program.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{program:?} did not end within {LIMIT:?}"));
        let output = output.unwrap_or_else(|error| panic!("cannot run {program:?}: {error}"));
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{program:?}: {}\n{}\n{}", output.status, said[0], said[1]);
        let [said, _] = said;
        said
    }

    /// Bundles a module with the package in it, as the platform's own bundler does; the wasm stays a file of its own.
    async fn bundle(&self, module: &str, format: &str, conditions: &str, file: &str) -> PathBuf {
        let directory = self.dir.join(format!("bundle-{format}"));
        let mut esbuild = Command::new(tools::esbuild().unwrap());
        esbuild.args([
            module,
            "--bundle",
            "--log-level=warning",
            "--loader:.wasm=copy",
            "--asset-names=[name]",
        ]);
        esbuild.arg(format!("--format={format}")).arg(format!("--conditions={conditions}"));
        esbuild.arg(format!("--outfile={}", directory.join(file).display()));
        self.run(esbuild).await;
        directory
    }

    async fn workerd(&self) -> Workerd {
        let modules = self.bundle("worker.mjs", "esm", "workerd,worker", "index.js").await;
        let worker = Worker::new([("SETTINGS", self.settings.to_string())]).unwrap();
        let options = workerd::Options { name: "workerd".into(), modules, workers: vec![worker] };
        Workerd::start(&self.dir, &options).await.unwrap()
    }

    async fn edge_runtime(&self) -> (Process, SocketAddr) {
        let bundled = self.bundle("edge.mjs", "iife", "edge-light", "bundle.js").await;
        let port = ports::free().unwrap();
        let address = ports::local(port);
        let script = tools::js_clients().unwrap().join("edge_runtime.mjs");
        let files = [script, bundled.join("bundle.js"), bundled.join("core.wasm")];
        let variable =
            |name: &str, value: &Value| (name.to_owned(), value.as_str().unwrap_or_default().to_owned());
        let process = Process::start(Spec {
            name: "edge-runtime".into(),
            program: tools::on_path("node").expect("Node is installed (Debian: `apt install nodejs`)"),
            args: files.into_iter().map(Into::into).chain([port.to_string().into()]).collect(),
            env: vec![
                ("SETTINGS".into(), self.settings.to_string()),
                variable("UPSTASH_REDIS_REST_URL", &self.settings["url"]),
                variable("UPSTASH_REDIS_REST_TOKEN", &self.settings["token"]),
            ],
            dir: self.dir.clone(),
            ready: Ready::listens(address),
            ready_within: Duration::from_secs(20),
        });
        (process.await.unwrap(), address)
    }
}

/// Sends a request as a platform passes it on, which knows the client's address.
async fn get(address: SocketAddr, path: &str, ip: &str) -> client::Answer {
    let request = Request::get(path)
        .header("host", "app.example")
        .header("x-real-ip", ip)
        .header("cf-connecting-ip", ip);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    client::send_within(address, request, LIMIT).await.unwrap()
}

/// The last line of a report is its sum: nothing may have failed, and not less may have run than there is.
fn assert_sum(report: &str) {
    let sum = report.lines().last().and_then(|line| line.strip_suffix(" passed, 0 failed"));
    let passed = sum.and_then(|passed| passed.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed >= CHECKS), "at least {CHECKS} pass:\n{report}");
    println!("{report}");
}

/// How many checks the suite has at least.
const CHECKS: u32 = 82;

const TOKEN: &str = "the-token-of-the-npm-package";

/// For a whole suite. Each check in it has a limit of its own, which is shorter.
const LIMIT: Duration = Duration::from_secs(120);
