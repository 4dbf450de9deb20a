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

use redis::Value;
use tollgate_gateway::config::Rights;
use tollgate_gateway::fuzzing::sent;

use self::stage::{NOTIFY, OWN, SECRET, Stage};

#[path = "../../gateway/tests/gateway/stage.rs"]
mod stage;

/// Sends what the token of [`rights`] may send.
pub fn run(data: &[u8]) {
    // Fuzzers see what is compared, and who sends the secret himself may get it back.
    if data.windows(6).any(|sent| SECRET.as_bytes().windows(6).any(|part| part == sent)) {
        return;
    }
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
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = &mut server.get_or_insert_with(Server::start).stage;
    stage.set();
    for words in &commands {
        send(stage, words);
    }
    let touched = stage.happened();
    assert!(touched.is_empty(), "{touched:?} were touched");
}

fn rights() -> Rights {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Rights {
        key_prefixes: owned(&OWN),
        allow: owned(&["SORT", "SORT_RO", "MIGRATE", "PUBLISH", "KEYS", "SCAN", "PFDEBUG"]),
        ..Rights::default()
    }
}

/// The stage, and the server that it is on.
struct Server {
    stage: Stage,
    _child: Child,
}

impl Server {
    fn start() -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        // Its input ends with this process, and then the server does.
        let flags = NOTIFY.join(" ");
        let line = format!("'{}' --port {port} {FLAGS} {flags} >&2 & cat; kill $!", server().display());
        let child = Command::new("sh")
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
        Self { stage: Stage::new(connect(), connect()), _child: child }
    }
}

fn send(stage: &mut Stage, words: &[Vec<u8>]) {
    let foreign = stage.foreign_keys(words);
    assert!(foreign.is_empty(), "{foreign:?} are reached");
    // Redis would take its time, or memory, for what is large, and ends for nothing that is here.
    let is_large = |word: &Vec<u8>| word.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 4);
    // An error that repeats what is not text could not be read here.
    let is_text = |word: &Vec<u8>| word.iter().all(|byte| byte.is_ascii_graphic() || *byte == 0);
    if words.iter().any(is_large) || !words.iter().all(is_text) {
        return;
    }
    let mut command = redis::Cmd::new();
    command.arg(words);
    let answer = match command.query::<Value>(&mut stage.redis) {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    };
    assert!(!answer.contains(SECRET), "{answer}");
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

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

const FLAGS: &str = "--bind 127.0.0.1 --save '' --dir /tmp";
const MOST: usize = 20;
