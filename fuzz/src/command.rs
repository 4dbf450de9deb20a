//! Lines of words, each a command of a token that may use few keys: what reaches Redis is held against a real one.
//!
//! ```text
//! GEORADIUS app:g 1 1 9 km STORE app:x STORE victim:s
//! ```
//!
//! A Redis is started once, of those that `cargo xtask setup` has installed; it ends with this process.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Connection, Value, cmd};
use tollgate_gateway::config::Rights;
use tollgate_gateway::fuzzing::sent;

/// Sends what the token of [`rights`] may send.
pub fn run(data: &[u8]) {
    let rights = rights();
    let commands: Vec<Vec<Vec<u8>>> = data
        .split(|byte| *byte == b'\n')
        .take(MOST)
        .map(|line| line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .filter_map(|words| sent(&words, &rights))
        .collect();
    if commands.is_empty() {
        return;
    }
    let mut stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = stage.get_or_insert_with(Stage::start);
    stage.set();
    for words in &commands {
        stage.send(words);
    }
    for key in stage.happened() {
        assert!(is_own(&key), "{} was touched", String::from_utf8_lossy(&key));
    }
}

fn rights() -> Rights {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Rights {
        key_prefixes: owned(&OWN),
        allow: owned(&["SORT", "SORT_RO", "MIGRATE", "PUBLISH", "KEYS", "SCAN", "PFDEBUG"]),
        ..Rights::default()
    }
}

fn is_own(key: &[u8]) -> bool {
    OWN.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

/// A Redis with keys of every type, some of which are foreign.
struct Stage {
    redis: Connection,
    /// What happens to keys, and which are looked up and not found.
    events: Connection,
    _server: Child,
}

impl Stage {
    fn start() -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        // Its input ends with this process, and then the server does.
        let line = format!("'{}' --port {port} {FLAGS} >&2 & cat; kill $!", server().display());
        let server = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let begun = Instant::now();
        let connect = || loop {
            let connection =
                redis::Client::open(("127.0.0.1", port)).and_then(|client| client.get_connection());
            match connection {
                Ok(connection) => return connection,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            sleep(Duration::from_millis(20));
        };
        let (redis, mut events) = (connect(), connect());
        let listen = cmd("PSUBSCRIBE").arg("__keyevent@*").arg(FENCE).get_packed_command();
        events.send_packed_command(&listen).expect("redis listens");
        for _ in 0..2 {
            events.recv_response().expect("redis answers");
        }
        Self { redis, events, _server: server }
    }

    /// Puts every key into its place.
    fn set(&mut self) {
        let mut pipe = redis::pipe();
        pipe.cmd("FLUSHALL");
        for prefix in ["app:", "victim:"] {
            let key = |name: &str| format!("{prefix}{name}");
            let text = if prefix == "app:" { "own" } else { SECRET };
            pipe.cmd("SET").arg(key("s")).arg(text);
            pipe.cmd("RPUSH").arg(key("l")).arg(&[text, "a", "b"]);
            pipe.cmd("SADD").arg(key("e")).arg(&[text, "a", "b"]);
            pipe.cmd("HSET").arg(key("h")).arg(&["f", text, "a", "1"]);
            pipe.cmd("GEOADD").arg(key("g")).arg(&["1", "1", text, "2", "2", "a"]);
            pipe.cmd("XADD").arg(key("x")).arg(&["1-1", "f", text]);
            pipe.cmd("XGROUP").arg("CREATE").arg(key("x")).arg(&["streams", "0"]);
        }
        pipe.exec(&mut self.redis).expect("redis answers");
        self.happened();
    }

    fn send(&mut self, words: &[Vec<u8>]) {
        let keys = cmd("COMMAND").arg("GETKEYS").arg(words).query::<Vec<Vec<u8>>>(&mut self.redis);
        for key in keys.unwrap_or_default() {
            assert!(is_own(&key), "{} is reached", String::from_utf8_lossy(&key));
        }
        // Redis would take its time, or memory, for what is large, and ends for nothing that is here.
        let is_large =
            |word: &Vec<u8>| word.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 4);
        // An error that repeats what is not text could not be read here.
        let is_text = |word: &Vec<u8>| word.iter().all(u8::is_ascii_graphic);
        if words.iter().any(is_large) || !words.iter().all(is_text) {
            return;
        }
        let mut command = redis::Cmd::new();
        command.arg(words);
        let answer = match command.query::<Value>(&mut self.redis) {
            Ok(value) => format!("{value:?}"),
            Err(error) => error.to_string(),
        };
        assert!(!answer.contains(SECRET), "{answer}");
    }

    /// The keys that something happened to up to now.
    fn happened(&mut self) -> Vec<Vec<u8>> {
        cmd("PUBLISH").arg(FENCE).arg("").exec(&mut self.redis).expect("redis answers");
        let mut happened = Vec::new();
        loop {
            let message = self.events.recv_response().expect("redis sends messages");
            let mut message: Vec<Vec<u8>> = redis::from_redis_value(message).expect("a message has parts");
            if message.get(2).is_some_and(|channel| channel == FENCE.as_bytes()) {
                return happened;
            }
            happened.extend(message.pop());
        }
    }
}

/// The server that `cargo xtask setup` has installed.
fn server() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let tools = set("TOLLGATE_TOOLS").or_else(|| cache().map(|cache| cache.join("tollgate/tools")));
    let files = tools.and_then(|tools| fs::read_dir(tools).ok()).into_iter().flatten().flatten();
    let is_server = |name: &str| {
        name.strip_prefix("redis-server-")
            .is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut servers: Vec<PathBuf> = files
        .filter(|file| file.file_name().to_str().is_some_and(is_server))
        .map(|file| file.path())
        .collect();
    servers.sort();
    servers.pop().expect("there is no Redis: run `cargo xtask setup`")
}

static STAGE: Mutex<Option<Stage>> = Mutex::new(None);

const OWN: [&str; 3] = ["app:", "st", "ST"];
const FLAGS: &str = "--bind 127.0.0.1 --save '' --dir /tmp --notify-keyspace-events EAm";
const FENCE: &str = "the-fence";
const SECRET: &str = "what-is-in-a-foreign-key";
const MOST: usize = 20;
