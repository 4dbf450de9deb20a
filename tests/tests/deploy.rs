//! What `deploy/` says of the gateway, held against the gateway. Whether Kubernetes takes the manifests is what
//! `cargo xtask lint` checks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tollgate_tests::gateway::TOKEN_VARIABLE;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::Redis;
use tollgate_tests::{client, ports, run_dir, tools};

#[test]
fn every_variable_that_is_named_is_one_of_the_gateways() {
    let help = Command::new(tools::gateway().unwrap()).args(["gateway", "--help"]).output().unwrap();
    let known = variables(&String::from_utf8_lossy(&help.stdout));
    let named = variables(&read_all(&tools::workspace().join("deploy")));
    for name in ["TOLLGATE_REDIS", "TOLLGATE_LISTEN", TOKEN_VARIABLE] {
        assert!(named.contains(name), "`{name}` is not among {named:?}");
    }
    let strange: Vec<_> = named.difference(&known).collect();
    assert!(strange.is_empty(), "`tollgate gateway --help` knows nothing of {strange:?}, only {known:?}");
}

/// With the variables of the deployment, and a Redis, the gateway answers on every path that Kubernetes is told to ask.
#[tokio::test]
async fn the_deployment_starts_a_gateway_that_answers_its_probes() {
    let deployment = read("deploy/kubernetes/deployment.yaml");
    let dir = run_dir::create().unwrap();
    let redis = Redis::start(&dir, ports::free().unwrap()).await.unwrap();
    let mut env: Vec<(String, String)> = plain_variables(&deployment).collect();
    // A pod has an address of its own; here only loopback will do.
    let (clients, admin) = (ports::local(ports::free().unwrap()), ports::local(ports::free().unwrap()));
    for (name, port, address) in [("TOLLGATE_LISTEN", 8079, clients), ("TOLLGATE_ADMIN_LISTEN", 8080, admin)]
    {
        let (_, value) = env.iter_mut().find(|(found, _)| found == name).unwrap();
        assert_eq!(*value, format!("0.0.0.0:{port}"));
        *value = address.to_string();
    }
    for (name, value) in [("TOLLGATE_REDIS", redis.url()), (TOKEN_VARIABLE, "a-token".into())] {
        assert!(deployment.contains(&format!("- name: {name}\n")), "`{name}` comes from the secret");
        env.push((name.to_owned(), value));
    }
    let gateway = Process::start(Spec {
        name: "gateway".into(),
        program: tools::gateway().unwrap(),
        args: vec!["gateway".into()],
        env,
        dir,
        ready: Ready::http(admin, "/health"),
        ready_within: Duration::from_secs(10),
    });
    let _gateway = gateway.await.unwrap();
    let paths: Vec<&str> = deployment.split("path: ").skip(1).map(first_word).collect();
    assert_eq!(paths, ["/metrics", "/health", "/ready"]);
    for path in paths {
        let answer = client::get(admin, path, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer}");
    }
    // Metrics need no token, so clients do not reach them.
    let answer = client::get(clients, "/metrics", &[]).await.unwrap();
    assert!(answer.status.is_client_error(), "{answer}");
    let answer = client::get(clients, "/ping?_token=a-token", &[]).await.unwrap();
    assert_eq!(answer.text(), r#"{"result":"PONG"}"#);
}

#[test]
fn versions_are_those_of_the_repository() {
    let container = read("deploy/Containerfile");
    let toolchain = read("rust-toolchain.toml");
    let compiler = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(container.contains(&format!("FROM rust:{compiler}-bookworm AS build\n")), "{container}");
    assert!(container.contains(&format!("ENV RUSTUP_TOOLCHAIN={compiler}\n")), "{container}");
    let image = format!("tollgate:{}", env!("CARGO_PKG_VERSION"));
    for file in ["deploy/Containerfile", "deploy/README.md", "deploy/kubernetes/deployment.yaml"] {
        let text = read(file);
        let images: Vec<_> = text.match_indices("tollgate:").map(|(at, _)| first_word(&text[at..])).collect();
        let tagged =
            images.iter().filter(|found| found.chars().any(|c| c.is_ascii_digit()) && !found.contains('/'));
        let tagged: Vec<_> = tagged.filter(|found| !found.ends_with(":8079")).collect();
        assert!(!tagged.is_empty() && tagged.iter().all(|found| **found == image), "{file}: {tagged:?}");
    }
}

/// Where nothing is but what the container file copies, cargo finds all that it needs for the gateway.
#[test]
fn the_image_has_all_that_it_is_built_from() {
    let container = read("deploy/Containerfile");
    let source = run_dir::create().unwrap().join("source");
    let lines = container.lines().take_while(|line| !line.starts_with("FROM scratch"));
    for copied in lines.filter_map(|line| line.strip_prefix("COPY ")) {
        let (to, from) = copied.rsplit_once(' ').unwrap();
        for name in from.split_whitespace() {
            let to = if to.ends_with('/') { source.join(to).join(name) } else { source.join(to) };
            run_dir::copy(&tools::workspace().join(name), &to).unwrap();
        }
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["check", "--locked", "--offline", "--package", "tollgate-gateway"]).current_dir(&source);
    // What the gateway depends on has been compiled there for other tests.
    cargo.env("CARGO_TARGET_DIR", tools::target_dir());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir_all(source).unwrap();
}

/// Words such as `TOLLGATE_REDIS`.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit());
    let named = words.filter(|word| word.starts_with("TOLLGATE_") && !word.ends_with('_'));
    named.map(str::to_owned).collect()
}

/// Lines such as `- { name: TOLLGATE_THREADS, value: "2" }`.
fn plain_variables(deployment: &str) -> impl Iterator<Item = (String, String)> {
    deployment.lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("- { name: TOLLGATE_")?.split_once(", value: ")?;
        let value = value.strip_suffix(" }")?.trim_matches('"');
        Some((format!("TOLLGATE_{name}"), value.to_owned()))
    })
}

fn first_word(text: &str) -> &str {
    let end = |c: char| c.is_whitespace() || matches!(c, '}' | ',' | '"' | '`' | '\'');
    text.split(end).next().unwrap_or_default()
}

fn read(path: &str) -> String {
    let path = tools::workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

/// The text of every file below a directory.
fn read_all(directory: &Path) -> String {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { read_all(&path) } else { fs::read_to_string(&path).unwrap() })
        .collect()
}
