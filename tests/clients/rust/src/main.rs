//! What the released crate `upstash-redis-rs` does with the gateway, which is in the environment.
//!
//! The crate knows eleven commands and looks at no status. Where its answer is optional it takes an error for success
//! with nothing in it: the checks named `silent_…` say so, as a warning to whoever reads an `Ok` there.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::LazyLock;

use async_trait::async_trait;
use reqwest::{Client, Url, header};
use serde::Serialize;
use serde_json::{Value, json};
use upstash_redis_rs::commands::ReCmd;
use upstash_redis_rs::commands::set::{Constraint, Expire};
use upstash_redis_rs::{Command, ReResponse, Redis, Result};

fn main() -> ExitCode {
    let mut checks = Checks::default();
    checks.check("strings", strings);
    checks.check("values", values);
    checks.check("hashes", hashes);
    checks.check("sets", sets);
    checks.check("commands_of_ones_own", commands_of_ones_own);
    checks.check("errors_are_reported_where_an_answer_must_hold_something", reported_errors);
    checks.check("silent_errors_of_commands", silent_errors_of_commands);
    checks.check("silent_refusal_of_a_wrong_token", silent_refusal_of_a_wrong_token);
    checks.check("several_members_at_once_are_not_understood", several_members_at_once);
    checks.conclude()
}

async fn strings() {
    let redis = redis();
    assert_eq!(success(redis.set("rs:a", "one").unwrap().send().await), Some("OK".into()));
    assert_eq!(success(redis.get("rs:a").unwrap().send().await), Some("one".into()));
    assert_eq!(success(redis.get("rs:missing").unwrap().send().await), None);
    let mut set = redis.set("rs:a", "two").unwrap();
    assert_eq!(success(set.constraint(Constraint::NX).unwrap().send().await), None);
    let mut set = redis.set("rs:a", "two").unwrap();
    assert_eq!(success(set.get().unwrap().send().await), Some("one".into()));
    let mut set = redis.set("rs:b", 2.5).unwrap();
    assert_eq!(success(set.expire(Expire::EX(100)).unwrap().send().await), Some("OK".into()));
    assert_eq!(run("TTL", &["rs:b"]).await, json!(100));
    assert_eq!(success(redis.getdel("rs:b").unwrap().send().await), Some("2.5".into()));
    let mut delete = redis.del("rs:a").unwrap();
    assert_eq!(success(delete.add_keys(["rs:b", "rs:c"]).unwrap().send().await), 1);
}

async fn values() {
    let redis = redis();
    let long = "ü€😀".repeat(10_000);
    for value in ["", " ", "Füße 日本語 👩‍👩‍👧‍👦", "line\r\n\0\t", "\"quoted\" \\ /", "SGVsbG8=", &long]
    {
        assert_eq!(success(redis.set("rs:v", value).unwrap().send().await), Some("OK".into()));
        assert_eq!(success(redis.get("rs:v").unwrap().send().await).as_deref(), Some(value));
    }
    assert_eq!(success(redis.set("rs:v", u64::MAX).unwrap().send().await), Some("OK".into()));
    assert_eq!(success(redis.get("rs:v").unwrap().send().await), Some(u64::MAX.to_string()));
}

async fn hashes() {
    let redis = redis();
    let mut set = redis.hset("rs:h", "name", "Ada").unwrap();
    assert_eq!(success(set.add_field_to_value("born", 1815).unwrap().send().await), 2);
    assert_eq!(success(redis.hget("rs:h", "name").unwrap().send().await), Some("Ada".into()));
    assert_eq!(success(redis.hget("rs:h", "nothing").unwrap().send().await), None);
    let all = success(redis.hgetall("rs:h").unwrap().send().await);
    assert_eq!(all, ["name", "Ada", "born", "1815"]);
    let mut delete = redis.hdel("rs:h", "name").unwrap();
    assert_eq!(success(delete.add_field("nothing").unwrap().send().await), 1);
}

async fn sets() {
    let redis = redis();
    assert_eq!(success(redis.sadd("rs:s", "x").unwrap().send().await), 1);
    assert_eq!(success(redis.sadd("rs:s", "x").unwrap().send().await), 0);
    assert_eq!(success(redis.smembers("rs:s").unwrap().send().await), ["x"]);
    assert_eq!(success(redis.spop("rs:s").unwrap().send().await), Some("x".into()));
    assert_eq!(success(redis.spop("rs:s").unwrap().send().await), None);
}

async fn commands_of_ones_own() {
    assert_eq!(run("PING", &[]).await, json!("PONG"));
    assert_eq!(run("INCRBY", &["rs:n", "41"]).await, json!(41));
    let script = "return {KEYS[1], tonumber(ARGV[1]) + 1, {'deep', false}}";
    assert_eq!(run("EVAL", &[script, "1", "rs:k", "2"]).await, json!(["rs:k", 3, ["deep", null]]));
    let error = answer("EVALSHA", &[&"0".repeat(40), "0"]).await.unwrap_err();
    assert!(error.starts_with("NOSCRIPT"), "{error}");
}

async fn reported_errors() {
    let redis = redis();
    success(redis.set("rs:text", "text").unwrap().send().await);
    for (what, error) in [
        ("HSET", failure(redis.hset("rs:text", "f", "v").unwrap().send().await)),
        ("HGETALL", failure(redis.hgetall("rs:text").unwrap().send().await)),
        ("SMEMBERS", failure(redis.smembers("rs:text").unwrap().send().await)),
    ] {
        assert!(error.starts_with("WRONGTYPE"), "{what}: {error}");
    }
    let refused = stranger().del("rs:text").unwrap().send().await;
    let refused = failure(refused);
    assert!(refused.starts_with("WRONGPASS"), "{refused}");
}

/// The gateway answers 400 and an error, and the crate says that all is well and nothing there.
async fn silent_errors_of_commands() {
    let redis = redis();
    success(redis.hset("rs:hash", "f", "v").unwrap().send().await);
    let error = answer("GET", &["rs:hash"]).await.unwrap_err();
    assert!(error.starts_with("WRONGTYPE"), "{error}");
    assert_eq!(success(redis.get("rs:hash").unwrap().send().await), None);
    let error = answer("SET", &["rs:a", "v", "EX", "0"]).await.unwrap_err();
    assert!(error.starts_with("ERR invalid expire time"), "{error}");
    let mut set = redis.set("rs:a", "v").unwrap();
    assert_eq!(success(set.expire(Expire::EX(0)).unwrap().send().await), None);
}

/// A write that was refused looks like a write that was done, but for the missing `OK`.
async fn silent_refusal_of_a_wrong_token() {
    let refused = stranger().set("rs:refused", "v").unwrap().send().await;
    assert_eq!(success(refused), None);
    assert_eq!(run("EXISTS", &["rs:refused"]).await, json!(0));
}

/// The crate expects one text from `SPOP` with a count, which answers with a list.
async fn several_members_at_once() {
    let redis = redis();
    success(redis.sadd("rs:many", "x").unwrap().send().await);
    let mut pop = redis.spop("rs:many").unwrap();
    assert!(pop.add_count(2).unwrap().send().await.is_err());
}

/// The client with the right token.
fn redis() -> Redis {
    Redis::new(GATEWAY.url.as_str(), GATEWAY.token.as_str()).unwrap()
}

/// The client with a wrong one.
fn stranger() -> Redis {
    Redis::new(GATEWAY.url.as_str(), "wrong").unwrap()
}

/// What a command that must succeed answered.
fn success<T>(response: Result<ReResponse<T>>) -> T {
    match response.unwrap() {
        ReResponse::Success { result } => result,
        ReResponse::Error { error } => panic!("an error: {error}"),
    }
}

/// The error of a command that must fail.
fn failure<T: std::fmt::Debug>(response: Result<ReResponse<T>>) -> String {
    match response.unwrap() {
        ReResponse::Success { result } => panic!("a success: {result:?}"),
        ReResponse::Error { error } => error,
    }
}

/// Runs a command that the crate does not know.
async fn run(name: &str, arguments: &[&str]) -> Value {
    answer(name, arguments).await.unwrap()
}

/// The same, for commands that may fail. What holds any value has no place for one that is missing, so that here the
/// crate tells an error from success.
async fn answer(name: &str, arguments: &[&str]) -> std::result::Result<Value, String> {
    let mut words = ReCmd::new(name);
    for argument in arguments {
        words.add_arg(argument).unwrap();
    }
    let bearer = format!("Bearer {}", GATEWAY.token).parse().unwrap();
    let client = Client::builder().default_headers([(header::AUTHORIZATION, bearer)].into_iter().collect());
    let own = Own { client: client.build().unwrap(), url: GATEWAY.url.parse().unwrap(), words };
    match own.send().await.unwrap() {
        ReResponse::Success { result } => Ok(result),
        ReResponse::Error { error } => Err(error),
    }
}

/// A command through the crate's own trait.
struct Own {
    client: Client,
    url: Url,
    words: ReCmd,
}

#[async_trait]
impl Command for Own {
    type Output = Value;

    fn as_cmd(&self) -> &ReCmd {
        &self.words
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn url(&self) -> &Url {
        &self.url
    }

    fn set_options<S: Serialize>(&mut self, option: S) -> Result<&mut Self> {
        self.words.add_arg(option)?;
        Ok(self)
    }
}

/// Checks with names: each runs whatever became of the others, and the last line counts them.
#[derive(Default)]
struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    fn check(&mut self, name: &str, body: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        match panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(body()))) {
            Ok(()) => self.passed += 1,
            Err(_) => {
                self.failed += 1;
                println!("FAILED {name}: as the panic above says");
            }
        }
    }

    fn conclude(&self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

struct Gateway {
    url: String,
    token: String,
}

static GATEWAY: LazyLock<Gateway> = LazyLock::new(|| Gateway {
    url: env::var("GATEWAY_URL").expect("`GATEWAY_URL` is set"),
    token: env::var("GATEWAY_TOKEN").expect("`GATEWAY_TOKEN` is set"),
});
