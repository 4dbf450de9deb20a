//! The program itself: its exit status, what it writes to stderr, and signals.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::{Client, Redis, TOKEN, signal};

fn tollgate(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(flags)
        .env_remove("TOLLGATE_TOKEN")
        .env_remove("RUST_LOG")
        .kill_on_drop(true)
        .stderr(Stdio::piped());
    command
}

async fn fails(command: &mut Command) -> String {
    let run = tokio::time::timeout(Duration::from_secs(20), command.output());
    let Output { status, stdout, stderr } = run.await.expect("the program ends").unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(stdout.is_empty());
    String::from_utf8(stderr).unwrap()
}

#[tokio::test]
async fn mistakes_are_one_line_on_stderr_and_exit_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let holder = TcpListener::bind(taken).await.unwrap();
    let listen = taken.to_string();
    for (redis, token, text) in [
        (
            "redis://127.0.0.1:1",
            Some(TOKEN),
            format!("tollgate: cannot listen on `{taken}`: Address already in use"),
        ),
        ("redis://127.0.0.1:1", None, "tollgate: no token: set `TOLLGATE_TOKEN`".into()),
        (
            "redis+sentinel://:hunter2@h",
            Some(TOKEN),
            "tollgate: the Redis URL names no master: write `redis+sentinel://host:port/name`".into(),
        ),
        ("redis://:hunter2@h:x", Some(TOKEN), "tollgate: a port in the Redis URL is not a number".into()),
    ] {
        let mut command = tollgate(&["gateway", "--listen", &listen, "--redis", redis]);
        if let Some(token) = token {
            command.env("TOLLGATE_TOKEN", token);
        }
        let stderr = fails(&mut command).await;
        assert!(stderr.starts_with(&text), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!stderr.contains("hunter2"));
    }
    drop(holder);
}

#[tokio::test]
async fn environment_configures_and_sigterm_ends_it_well_without_telling_secrets() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]).await;
    let mut command = tollgate(&["gateway"]);
    command
        .env("TOLLGATE_REDIS", format!("redis://:hunter2@127.0.0.1:{}", redis.port))
        .env("TOLLGATE_LISTEN", "127.0.0.1:0")
        .env("TOLLGATE_TOKEN", TOKEN)
        .env("RUST_LOG", "debug");
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = String::new();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("the address is logged");
        log += &line;
        if let Some((_, address)) = line.split_once("listening on http://") {
            break address.split_whitespace().next().unwrap().parse().unwrap();
        }
    };
    let mut client = Client::connect(address).await;
    assert_eq!(client.post("/", r#"["SET","secret-key","secret-value"]"#).await.status, 200);

    signal(&child, "TERM").await;
    while let Some(line) = lines.next_line().await.unwrap() {
        log += &line;
    }
    assert!(child.wait().await.unwrap().success());
    for secret in ["hunter2", TOKEN, "secret-key", "secret-value"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn help_keeps_the_environment_to_itself() {
    let mut command = tollgate(&["gateway", "--help"]);
    let output = command.env("TOLLGATE_REDIS", "redis://:hunter2@h").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("TOLLGATE_REDIS") && !text.contains("hunter2"), "{text}");
}
