//! Released clients of other people, unmodified, against the real gateway in front of a real Redis.
//!
//! What they are asked is in `tests/clients`: scripts that print one line for each failure and a sum at the end. A
//! failed test here shows what its script printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::any::Any;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::process::Command;
use tokio::time::timeout;
use tollgate_tests::gateway::Gateway;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::{Build, Redis};
use tollgate_tests::topologies::cluster::Cluster;
use tollgate_tests::topologies::info;
use tollgate_tests::{client, ports, run_dir, tools};

#[tokio::test]
async fn upstash_redis_for_javascript_in_node() {
    Behind::start(Build::Pinned).await.node("redis", 85).await;
}

#[tokio::test]
async fn upstash_redis_for_javascript_in_node_on_the_systems_redis() {
    Behind::start(Build::System).await.node("redis", 75).await;
}

#[tokio::test]
async fn upstash_redis_for_javascript_in_workerd() {
    Behind::start(Build::Pinned).await.workerd("redis", 85).await;
}

#[tokio::test]
async fn upstash_ratelimit_for_javascript_in_node() {
    Behind::start(Build::Pinned).await.node("ratelimit", 30).await;
}

#[tokio::test]
async fn upstash_ratelimit_for_javascript_in_node_on_the_systems_redis() {
    Behind::start(Build::System).await.node("ratelimit", 30).await;
}

#[tokio::test]
async fn upstash_ratelimit_for_javascript_in_workerd() {
    Behind::start(Build::Pinned).await.workerd("ratelimit", 30).await;
}

#[tokio::test]
async fn upstash_redis_for_python() {
    Behind::start(Build::Pinned).await.python("redis_checks.py", 50).await;
}

#[tokio::test]
async fn upstash_redis_for_python_on_the_systems_redis() {
    Behind::start(Build::System).await.python("redis_checks.py", 45).await;
}

#[tokio::test]
async fn upstash_ratelimit_for_python() {
    Behind::start(Build::Pinned).await.python("ratelimit_checks.py", 15).await;
}

/// Its silent errors are a part of what is checked: see `tests/clients/rust`.
#[tokio::test]
async fn upstash_redis_rs() {
    Behind::start(Build::Pinned).await.rust(9).await;
}

// Keys that belong together have a part in braces, as a Cluster wants it; pipelines go everywhere.

#[tokio::test]
async fn upstash_redis_for_javascript_on_a_cluster() {
    Behind::start_cluster().await.node("redis", 85).await;
}

#[tokio::test]
async fn upstash_ratelimit_for_javascript_on_a_cluster() {
    Behind::start_cluster().await.node("ratelimit", 30).await;
}

#[tokio::test]
async fn upstash_redis_for_python_on_a_cluster() {
    Behind::start_cluster().await.python("redis_checks.py", 50).await;
}

/// A gateway, the Redis behind it, and the environment in which clients find it.
struct Behind {
    dir: PathBuf,
    environment: Vec<(String, String)>,
    _gateway: Gateway,
    _servers: Box<dyn Any>,
}

impl Behind {
    async fn start(build: Build) -> Behind {
        let dir = run_dir::create().unwrap();
        let redis = Redis::start_as("redis", build, &dir, ports::free().unwrap(), &[]).await.unwrap();
        let version = info(&redis, "server", "redis_version").await.unwrap();
        let url = redis.url();
        Behind::gateway(dir, &url, version, Box::new(redis)).await
    }

    async fn start_cluster() -> Behind {
        let dir = run_dir::create().unwrap();
        let cluster = Cluster::start(&dir).await.unwrap();
        let version = info(cluster.node(0), "server", "redis_version").await.unwrap();
        let url = cluster.url();
        Behind::gateway(dir, &url, version, Box::new(cluster)).await
    }

    async fn gateway(dir: PathBuf, url: &str, version: String, servers: Box<dyn Any>) -> Behind {
        let gateway = Gateway::start(&dir, ports::free().unwrap(), url, TOKEN).await.unwrap();
        println!("Redis {version}");
        let environment = [
            ("GATEWAY_URL", format!("http://{}", gateway.address())),
            ("GATEWAY_TOKEN", TOKEN.into()),
            ("REDIS_VERSION", version),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Behind { dir, environment, _gateway: gateway, _servers: servers }
    }

    async fn node(&self, suite: &str, at_least: u32) {
        let clients = tools::js_clients().unwrap();
        let mut node = Command::new("node");
        node.arg(clients.join("node.mjs")).arg(suite);
        self.run(node, at_least).await;
    }

    async fn python(&self, script: &str, at_least: u32) {
        let mut python = Command::new("python3");
        python.arg(tools::python_scripts().join(script));
        python.env("PYTHONPATH", tools::python_clients().unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
        self.run(python, at_least).await;
    }

    async fn rust(&self, at_least: u32) {
        self.run(Command::new(tools::rust_client().unwrap()), at_least).await;
    }

    /// Runs a program to its end, which must be a good one.
    async fn run(&self, mut program: Command, at_least: u32) {
        program.envs(self.environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(LIMIT, program.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{program:?} did not end within {LIMIT:?}"));
        let output = output.unwrap_or_else(|error| panic!("cannot run {program:?}: {error}"));
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_sum(&said[0], at_least, &said[1]);
        assert!(output.status.success(), "{}\n{}\n{}", output.status, said[0], said[1]);
    }

    /// Runs a suite inside workerd, bundled with its client as its users do it.
    async fn workerd(&self, suite: &str, at_least: u32) {
        let clients = tools::js_clients().unwrap();
        let mut esbuild = Command::new(tools::esbuild().unwrap());
        esbuild.arg(clients.join("worker.mjs")).args(["--bundle", "--format=esm", "--log-level=warning"]);
        esbuild.arg(format!("--outfile={}", self.dir.join("worker.js").display()));
        let bundled = esbuild.output().await.unwrap();
        assert!(bundled.status.success(), "{}", String::from_utf8_lossy(&bundled.stderr));
        fs::write(self.dir.join("worker.capnp"), WORKER).unwrap();
        let address = ports::local(ports::free().unwrap());
        let workerd = Process::start(Spec {
            name: "workerd".into(),
            program: tools::workerd().unwrap(),
            args: ["serve", "worker.capnp", "--socket-addr", &format!("http={address}")]
                .map(Into::into)
                .into(),
            env: self.environment.clone(),
            dir: self.dir.clone(),
            ready: Ready::http(address, "/"),
            ready_within: Duration::from_secs(20),
        });
        let workerd = workerd.await.unwrap();
        let request =
            Request::get(format!("/{suite}")).header("host", "worker").body(Full::<Bytes>::default());
        let report = client::send_within(address, request.unwrap(), LIMIT).await;
        let report = report.unwrap_or_else(|error| panic!("{error:#}\n{}", workerd.log())).text();
        assert_sum(&report, at_least, &workerd.log());
    }
}

/// The last line of a report is its sum: nothing may have failed, and not less may have run than there is.
fn assert_sum(report: &str, at_least: u32, more: &str) {
    let sum = report.lines().last().and_then(|line| line.strip_suffix(" passed, 0 failed"));
    let sum = sum.and_then(|passed| passed.parse::<u32>().ok());
    assert!(sum.is_some_and(|passed| passed >= at_least), "at least {at_least} pass:\n{report}\n{more}");
    println!("{report}");
}

const TOKEN: &str = "the-token-of-released-clients";

/// For a whole suite. Each check in it has a limit of its own, which is shorter.
const LIMIT: Duration = Duration::from_secs(120);

const WORKER: &str = r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    (name = "network", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const worker :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2026-10-01",
  globalOutbound = "network",
  bindings = [
    (name = "GATEWAY_URL", fromEnvironment = "GATEWAY_URL"),
    (name = "GATEWAY_TOKEN", fromEnvironment = "GATEWAY_TOKEN"),
    (name = "REDIS_VERSION", fromEnvironment = "REDIS_VERSION"),
  ],
);
"#;
