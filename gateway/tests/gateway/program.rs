//! The program itself: its exit status, what it writes to stderr, and signals.

use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::support::{Client, Redis, TOKEN, request, signal};

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
    let run = timeout(Duration::from_secs(20), command.output());
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

/// A gateway as a process of its own, which dies with this value.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    /// What it has logged.
    pub(crate) log: String,
}

impl Program {
    /// Starts it on a port of its own, with the token of all tests.
    pub(crate) async fn start(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = tollgate(&["gateway"]);
        command.args(flags).env("TOLLGATE_LISTEN", "127.0.0.1:0").env("TOLLGATE_TOKEN", TOKEN);
        let mut child = command.envs(env.iter().copied()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = ([0; 4], 0).into();
        let mut program = Self { address, admin: None, child, lines, log: String::new() };
        let line = program.until("listening on http").await;
        let address = |text: &str| {
            let end = text.find(|character: char| character.is_whitespace() || character == '"');
            text[..end.unwrap_or(text.len())].parse().unwrap()
        };
        program.address = address(line.split_once("://").unwrap().1);
        let admin = program.log.split_once("health and metrics on ");
        program.admin = admin.map(|(_, admin)| address(admin));
        program
    }

    /// Waits until it logs a line with this in it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            let line = timeout(Duration::from_secs(20), self.lines.next_line()).await;
            let Ok(line) = line else { panic!("never: `{text}`\n{}", self.log) };
            let line = line.unwrap().unwrap_or_else(|| panic!("it ended without: `{text}`\n{}", self.log));
            self.log += &line;
            self.log.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// The memory it takes, as the system counts it, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        while let Some(line) =
            timeout(Duration::from_secs(20), self.lines.next_line()).await.unwrap().unwrap()
        {
            self.log += &line;
            self.log.push('\n');
        }
        self.child.wait().await.unwrap()
    }
}

#[tokio::test]
async fn environment_configures_and_sigterm_ends_it_well_without_telling_secrets() {
    let redis = Redis::start_with(&["--requirepass", "hunter2"]).await;
    let url = format!("redis://:hunter2@127.0.0.1:{}", redis.port);
    let env = [("TOLLGATE_REDIS", url.as_str()), ("RUST_LOG", "debug"), ("TOLLGATE_ACCESS_LOG", "true")];
    let mut program = Program::start(&[], &env).await;
    let mut client = Client::connect(program.address).await;
    assert_eq!(client.post("/", r#"["SET","secret-key","secret-value"]"#).await.status, 200);
    let path = format!("/get/secret-key?_token={TOKEN}");
    assert_eq!(client.get(&path).await.json["result"], "secret-value");
    client.get("/secret-command/secret-key").await;

    program.signal("TERM").await;
    assert!(program.ended().await.success());
    for secret in ["hunter2", TOKEN, "secret"] {
        assert!(!program.log.contains(secret), "{}", program.log);
    }
}

#[tokio::test]
async fn requests_are_logged_on_demand_as_text_or_json() {
    let mut redis = Redis::start().await;
    let flags = ["--redis", &redis.url(), "--access-log", "--log-format", "json"];
    let mut program = Program::start(&flags, &[]).await;
    let mut client = Client::connect(program.address).await;
    let mut asked = request(Method::POST, "/pipeline", r#"[["PING"],["GET","k"]]"#);
    asked.headers_mut().insert("x-request-id", HeaderValue::from_static("my-id"));
    let answer = client.send(asked).await;
    let line = program.until("\"route\"").await;
    let logged: Value = serde_json::from_str(&line).unwrap();
    for (name, value) in [
        ("id", json!("my-id")),
        ("method", json!("POST")),
        ("route", json!("pipeline")),
        ("status", json!(200)),
        ("bytes", json!(answer.text.len())),
        ("commands", json!(2)),
        ("message", json!("request")),
        ("level", json!("INFO")),
    ] {
        assert_eq!(logged[name], value, "{line}");
    }
    assert!(logged["micros"].is_u64() && logged["timestamp"].is_string(), "{line}");

    // What fails on our side is logged with its id, and not all of it when that is much.
    redis.kill().await;
    for _ in 0..200 {
        client.get("/ping").await;
    }
    let line = program.until("a request failed").await;
    let logged: Value = serde_json::from_str(&line).unwrap();
    assert!(["unreachable", "lost"].contains(&logged["kind"].as_str().unwrap()), "{line}");
    assert!(logged["id"].as_str().unwrap().len() > 17, "{line}");
    program.signal("TERM").await;
    assert!(program.ended().await.success());
    assert!(program.log.matches("a request failed").count() < 100, "{}", program.log);
    for line in program.log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_configuration_can_be_checked_without_serving() {
    let path = std::env::temp_dir().join(format!("tollgate-check-{}.toml", std::process::id()));
    let text = "redis = 'redis://:hunter2@127.0.0.1:1'\nmax_body = '1MiB'\n\
        [[tokens]]\nname = 'a'\ntoken_env = 'A_TOKEN'\nread_only = true\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let run =
        tollgate(&["gateway", "--config", file, "--check"]).env("A_TOKEN", TOKEN).output().await.unwrap();
    let told = String::from_utf8(run.stdout).unwrap();
    assert!(
        run.status.success()
            && told.contains("token `a`: redis://127.0.0.1:1/0")
            && told.contains("read only"),
        "{told}"
    );
    assert!(
        told.contains("limit body: 1048576") && !told.contains("hunter2") && !told.contains(TOKEN),
        "{told}"
    );

    std::fs::write(&path, format!("{text}\nmax_in_flight = 0")).unwrap();
    let stderr = fails(tollgate(&["gateway", "--config", file, "--check"]).env("A_TOKEN", TOKEN)).await;
    let expected = format!(
        "tollgate: `{file}`, line 8, `tokens[0].max_in_flight`: found `0`, expected a whole number from 1 to 65536\n"
    );
    assert_eq!(stderr, expected);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn help_keeps_the_environment_to_itself() {
    let mut command = tollgate(&["gateway", "--help"]);
    let output = command.env("TOLLGATE_REDIS", "redis://:hunter2@h").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("TOLLGATE_REDIS") && !text.contains("hunter2"), "{text}");
    for taught in ["Limits:", "[default: 10MiB]", "(1KiB to 512MiB)", "[[tokens]]", "curl -H 'Authorization"]
    {
        assert!(text.contains(taught), "{taught}");
    }
}
