//! Other servers that speak HTTP in front of a Redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tollgate_tests::process::{Process, Ready, Spec};
use tollgate_tests::redis::Redis;
use tollgate_tests::{ports, tools};

use super::super::programs;
use super::cores;
use crate::step;

pub(super) async fn start_webdis(dir: &Path, redis: &Redis) -> Result<(Process, SocketAddr)> {
    let address = ports::local(ports::free()?);
    let config = dir.join("webdis.json");
    let text = json!({
        "redis_host": "127.0.0.1", "redis_port": redis.address().port(), "database": 0,
        "http_host": "127.0.0.1", "http_port": address.port(),
        // As many as the gateway takes.
        "threads": cores(), "daemonize": false, "verbosity": 1, "logfile": dir.join("webdis.own.log"),
    });
    std::fs::write(&config, text.to_string())?;
    let spec = Spec {
        name: "webdis".into(),
        program: programs::WEBDIS.path()?,
        args: vec![config.into()],
        env: vec![],
        dir: dir.to_path_buf(),
        ready: Ready::http(address, "/PING"),
        ready_within: Duration::from_secs(10),
    };
    Ok((Process::start(spec).await?, address))
}

pub(super) async fn start_npm_server(
    dir: &Path,
    redis: &Redis,
    installed: &Path,
) -> Result<(Process, SocketAddr)> {
    let address = ports::local(ports::free()?);
    let variables = [
        ("URS_TOKEN", TOKEN.to_owned()),
        ("REDIS_URL", redis.url()),
        ("PORT", address.port().to_string()),
        ("NODE_ENV", "production".to_owned()),
    ];
    let spec = Spec {
        name: "upstash-redis-server".into(),
        program: "node".into(),
        args: vec![installed.join("serve.mjs").into()],
        env: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        dir: dir.to_path_buf(),
        ready: Ready { address, question: post("/", r#"["PING"]"#), answer: b"HTTP/1.1 200".to_vec() },
        ready_within: Duration::from_secs(20),
    };
    Ok((Process::start(spec).await?, address))
}

/// Installs the npm server, as its lockfile says, where the other tools are; returns its directory.
pub(super) fn install_npm_server() -> Result<PathBuf> {
    let source = tools::workspace().join("xtask/src/bench/gateway/upstash-redis-server");
    let dir = tools::tools_dir()?.join("bench-upstash-redis-server");
    let same = |file: &str| {
        let (ours, theirs) = (std::fs::read(source.join(file)), std::fs::read(dir.join(file)));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    };
    let files = ["package.json", "package-lock.json", "serve.mjs"];
    // npm writes this file last.
    if files.iter().all(|file| same(file)) && dir.join("node_modules/.package-lock.json").is_file() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    for file in files {
        std::fs::copy(source.join(file), dir.join(file)).with_context(|| format!("cannot copy `{file}`"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir);
    step::run(
        "install @humanwhocodes/upstash-redis-server",
        &mut npm,
        "fix: Node.js 20 or newer with npm, and access to an npm registry, are needed",
    )?;
    Ok(dir)
}

/// A request as clients of the dialect send it.
pub(super) fn post(path: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n"
    );
    format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// What the gateway and the npm server accept.
pub(super) const TOKEN: &str = "bench";
