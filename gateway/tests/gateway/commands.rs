//! Every command that Redis knows, with arguments of every kind, from a token that may use few keys.
//!
//! Whatever reaches Redis is held against a [`Stage`]. `COMMAND GETKEYS` must name no foreign key.
//! Nothing may happen to a foreign key, and none may be looked up, as Redis tells by its
//! notifications: `COMMAND GETKEYS` itself is wrong where a destination is named twice. And no
//! answer may hold what is in a foreign key.
//!
//! Commands are made of the syntax that Redis documents, optional clauses included, and then changed a little.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{Connection, Value as Reply, cmd};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::stage::{NOTIFY, SECRET, Stage, is_own};
use crate::support::{Client, Redis, request};
use crate::tokens::serve;

#[test]
fn no_command_reaches_a_foreign_key() {
    let runtime = Runtime::new().unwrap();
    let redis =
        runtime.block_on(Redis::start_with(&[&NOTIFY[..], &["--enable-debug-command", "local"]].concat()));
    let server = runtime.block_on(serve(&redis, TOKENS));
    let connect = || redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let events = connect();
    events.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stage = Stage::new(connect(), events);
    let moving_names = moving_names(&mut stage.redis);
    let (syntaxes, moving) = (syntaxes(&mut stage.redis), syntaxes(&mut stage.redis));
    // Half of all commands are among those whose keys are hard to find.
    let moving: Vec<_> = moving.into_iter().filter(|syntax| moving_names.contains(&syntax.name[0])).collect();
    assert!(syntaxes.len() > 350 && moving.len() > 20, "{} {}", syntaxes.len(), moving.len());
    let mut random = Random { state: 0x9e37_79b9_7f4a_7c15, key: "" };
    let (mut sent, mut seen) = (0, BTreeSet::new());
    for round in 0..ROUNDS {
        let token = ["token-of-tenant", "token-of-named"][round % 2];
        let commands: Vec<Vec<String>> = (0..AT_ONCE)
            .map(|number| {
                let among = if number % 2 == 0 { &syntaxes } else { &moving };
                write(&among[(round * AT_ONCE + number) / 2 % among.len()], &mut random)
            })
            .collect();
        stage.set();
        let answers = runtime.block_on(async {
            let mut client = Client::connect(server.address).await;
            let mut request = request(hyper::Method::POST, "/pipeline", json!(commands).to_string());
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            client.send(request).await.json
        });
        let answers = answers.as_array().unwrap_or_else(|| panic!("{answers}"));
        let reached: Vec<(&Vec<String>, &Value)> =
            commands.iter().zip(answers).filter(|(_, answer)| !is_refused(answer)).collect();
        for (words, answer) in &reached {
            check(&mut stage, words, answer);
            seen.insert(words[0].to_lowercase());
        }
        sent += reached.len();
        let touched = stage.happened();
        assert!(touched.is_empty(), "{touched:#?} were touched by one of {:#?}", texts(&reached));
    }
    // It would prove nothing if all were refused.
    assert!(sent > ROUNDS * AT_ONCE / 20 && seen.len() > 150, "{sent} of {} commands", seen.len());
}

const TOKENS: &str = "\
    [[tokens]]\nname = 'tenant'\ntoken_env = 'TENANT_TOKEN'\nkey_prefixes = ['app:', 'st', 'ST']\n\
    [[tokens]]\nname = 'named'\ntoken_env = 'NAMED_TOKEN'\nkey_prefixes = ['app:', 'st', 'ST']\n\
    allow = ['SORT', 'SORT_RO', 'MIGRATE', 'RESTORE', 'RESTORE-ASKING', 'PUBLISH', 'KEYS', 'SCAN', 'PFDEBUG']";

const ROUNDS: usize = 100;
const AT_ONCE: usize = 400;

fn is_refused(answer: &Value) -> bool {
    let error = answer["error"].as_str().unwrap_or_default();
    error.starts_with("NOPERM") || error.starts_with("ERR Command is not available")
}

fn texts(commands: &[(&Vec<String>, &Value)]) -> Vec<String> {
    commands.iter().map(|(words, _)| words.join(" ")).collect()
}

/// That Redis takes none but own arguments for keys, and that an answer tells of nobody else's.
fn check(stage: &mut Stage, words: &[String], answer: &Value) {
    assert!(!answer.to_string().contains(SECRET), "{words:?} told {answer}");
    let foreign = stage.foreign_keys(words);
    assert!(foreign.is_empty(), "{words:?} reached {foreign:?}");
    if let ("KEYS" | "SCAN", result) = (words[0].to_uppercase().as_str(), &answer["result"]) {
        let names = if words[0].eq_ignore_ascii_case("KEYS") { result } else { &result[1] };
        for name in names.as_array().into_iter().flatten() {
            assert!(is_own(name.as_str().unwrap().as_bytes()), "{words:?} listed {name}");
        }
    }
}

/// An argument, as `COMMAND DOCS` describes it.
#[derive(Debug)]
struct Argument {
    kind: String,
    /// The word in front of it, or the word that it is.
    token: Option<String>,
    optional: bool,
    multiple: bool,
    parts: Vec<Argument>,
}

/// A command or subcommand, as `COMMAND DOCS` describes it.
#[derive(Debug)]
struct Syntax {
    name: Vec<String>,
    /// An own key of the type that it is for.
    key: &'static str,
    arguments: Vec<Argument>,
}

/// The syntax of every command and subcommand.
fn syntaxes(redis: &mut Connection) -> Vec<Syntax> {
    let docs: Reply = cmd("COMMAND").arg("DOCS").query(redis).unwrap();
    let mut syntaxes = Vec::new();
    for (name, doc) in fields(&docs) {
        let subcommands = doc.get("subcommands").map(fields).unwrap_or_default();
        let all =
            subcommands.into_iter().map(|(name, doc)| (name.split('|').map(str::to_owned).collect(), doc));
        syntaxes.extend([(vec![name], doc)].into_iter().chain(all).map(|(name, doc)| Syntax {
            name,
            key: match doc.get("group").map(text).unwrap_or_default().as_str() {
                "geo" | "sorted-set" => "app:g",
                "hash" => "app:h",
                "hyperloglog" => "app:p",
                "list" => "app:l",
                "set" => "app:e",
                "stream" => "app:x",
                _ => "app:s",
            },
            arguments: arguments(&doc),
        }));
    }
    syntaxes
}

/// The commands whose keys are not always at the same places.
fn moving_names(redis: &mut Connection) -> BTreeSet<String> {
    let commands: Vec<Vec<Reply>> = cmd("COMMAND").query(redis).unwrap();
    let moving = commands.into_iter().filter(|command| match &command[2] {
        Reply::Array(flags) => flags.iter().any(|flag| text(flag) == "movablekeys"),
        other => panic!("{other:?}"),
    });
    moving.map(|command| text(&command[0])).collect()
}

fn arguments(doc: &BTreeMap<String, Reply>) -> Vec<Argument> {
    let Some(Reply::Array(arguments)) = doc.get("arguments") else { return Vec::new() };
    let arguments = arguments.iter().map(|argument| {
        let fields: BTreeMap<String, Reply> = pairs(argument).collect();
        let text = |name: &str| fields.get(name).map(text);
        let flags = match fields.get("flags") {
            Some(Reply::Array(flags)) => flags.iter().map(text_of).collect(),
            _ => Vec::new(),
        };
        let has = |flag: &str| flags.iter().any(|it| it == flag);
        Argument {
            kind: text("type").unwrap_or_default(),
            token: text("token"),
            optional: has("optional"),
            multiple: has("multiple"),
            parts: self::arguments(&fields),
        }
    });
    arguments.collect()
}

fn fields(map: &Reply) -> Vec<(String, BTreeMap<String, Reply>)> {
    pairs(map).map(|(name, value)| (name, pairs(&value).collect())).collect()
}

fn pairs(map: &Reply) -> impl Iterator<Item = (String, Reply)> {
    let Reply::Array(items) = map else { panic!("{map:?}") };
    items.as_chunks::<2>().0.iter().map(|[name, value]| (text(name), value.clone()))
}

fn text(value: &Reply) -> String {
    match value {
        Reply::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Reply::SimpleString(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn text_of(value: &Reply) -> String {
    text(value)
}

/// A command of this syntax, more or less.
fn write(syntax: &Syntax, random: &mut Random) -> Vec<String> {
    let mut words = Vec::new();
    random.key = syntax.key;
    syntax.arguments.iter().for_each(|argument| write_argument(argument, &mut words, random));
    for _ in 0..random.below(3) {
        change(&mut words, random);
    }
    let mut command = syntax.name.clone();
    command.append(&mut words);
    if command.len() > 1 && random.below(4) == 0 {
        // Redis compares words only up to a NUL.
        let place = 1 + random.below(command.len() - 1);
        command[place].push_str("\0x");
    }
    for word in &mut command {
        match random.below(6) {
            0 if !word.contains(':') => *word = word.to_lowercase(),
            1 if !word.contains(':') => *word = word.to_uppercase(),
            _ => {}
        }
    }
    command
}

fn write_argument(argument: &Argument, to: &mut Vec<String>, random: &mut Random) {
    let is_word = argument.kind == "pure-token";
    if argument.optional && random.below(if is_word { 5 } else { 2 }) > 0 {
        return;
    }
    let times = if argument.multiple { 1 + random.below(3) } else { 1 };
    to.extend(argument.token.clone());
    if is_word {
        return;
    }
    for _ in 0..times {
        match argument.kind.as_str() {
            "block" => argument.parts.iter().for_each(|part| write_argument(part, to, random)),
            "oneof" if !argument.parts.is_empty() => {
                let part = random.below(argument.parts.len());
                write_argument(&argument.parts[part], to, random);
            }
            "key" => to.push(key(random)),
            "integer" | "double" | "unix-time" => to.push(random.of(&NUMBERS)),
            _ => to.push(if random.below(4) == 0 { key(random) } else { random.of(&WORDS) }),
        }
    }
}

fn change(words: &mut Vec<String>, random: &mut Random) {
    let place = random.below(words.len() + 1);
    match random.below(6) {
        // A clause with a key once more, with another key.
        0 => {
            let has_key = |clause: &&[String; 2]| clause[1].contains(':') && !clause[0].contains(':');
            let clauses: Vec<&[String; 2]> = words.array_windows().filter(has_key).collect();
            if let Some([keyword, _]) = clauses.last() {
                let other = if random.below(2) == 0 { key(random) } else { "victim:s".to_owned() };
                words.extend([keyword.clone(), other]);
            }
        }
        1 => {
            let keyword = random.of(&KEYWORDS);
            let value = if random.below(3) == 0 { random.of(&WORDS) } else { key(random) };
            words.splice(place..place, [keyword, value]);
        }
        2 => {
            let (keyword, value) = (random.of(&KEYWORDS), key(random));
            words.extend([keyword, value]);
        }
        3 if place < words.len() => words[place] = random.of(&KEYWORDS),
        4 if place < words.len() => words[place] = random.of(&NUMBERS),
        5 if place < words.len() => {
            words.remove(place);
        }
        _ => {}
    }
}

/// Mostly an own one: one that is seen to be foreign is the end of a command.
fn key(random: &mut Random) -> String {
    match random.below(12) {
        0 => random.of(&[
            "victim:s",
            "victim:l",
            "victim:e",
            "victim:h",
            "victim:g",
            "victim:p",
            "victim:x",
            "victim:none",
        ]),
        1 => random.of(&KEYWORDS),
        2..9 => random.key.to_owned(),
        _ => {
            random.of(&["app:s", "app:l", "app:e", "app:h", "app:g", "app:p", "app:x", "app:none", "streams"])
        }
    }
}

const NUMBERS: [&str; 12] =
    ["0", "1", "1", "1", "2", "2", "3", "-1", "9223372036854775807", "18446744073709551616", "+2", "x"];

const WORDS: [&str; 12] = ["a", "b", "f", "km", "streams", "0", "1-1", ">", "$", "*", "app:*", "victim:*"];

const KEYWORDS: [&str; 20] = [
    "STORE",
    "STOREDIST",
    "STREAMS",
    "GROUP",
    "COUNT",
    "NOACK",
    "LIMIT",
    "BY",
    "GET",
    "KEYS",
    "MATCH",
    "WEIGHTS",
    "AGGREGATE",
    "REPLACE",
    "DB",
    "WITHSCORES",
    "km",
    "ASC",
    "TYPE",
    "BLOCK",
];

/// Choices that are the same in every run.
struct Random {
    state: u64,
    /// The key that is taken most often.
    key: &'static str,
}

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % bound as u64) as usize
    }

    fn of(&mut self, words: &[&str]) -> String {
        words[self.below(words.len())].to_owned()
    }
}
