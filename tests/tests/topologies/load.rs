//! Many clients of a gateway, and a ledger of what it told them about every command.
//!
//! What was acknowledged must be there, once. What the gateway does not know may be there, at most once. What it refused
//! must not be there. The ledger keeps the three apart, so that the servers' own word at the end settles each key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tollgate_tests::rest::{Outcome, Rest};

use super::TOKEN;

/// The keys that every load uses. Where they lie decides what a failure of one server may touch.
pub(crate) fn keys() -> Vec<String> {
    let pairs = (0..PAIRS).flat_map(|number| [pair(number, 'a'), pair(number, 'b')]);
    let private = (0..CLIENTS).map(private);
    (0..COUNTERS).map(counter).chain((0..CONSTANTS).map(constant)).chain(pairs).chain(private).collect()
}

/// Clients at work. They go on until told to stop.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    /// Writes what clients will read, and begins. Each key belongs to a shard, whose answers are timed apart.
    pub(crate) async fn start(address: SocketAddr, shards: BTreeMap<String, usize>) -> Load {
        let mut rest = Rest::new(address, TOKEN);
        for number in 0..CONSTANTS {
            let set = json!(["SET", constant(number), constant(number)]);
            assert_eq!(rest.command(&set).await.unwrap(), Outcome::Done(json!("OK")));
        }
        let Outcome::Done(Value::String(digest)) =
            rest.command(&json!(["SCRIPT", "LOAD", SCRIPT])).await.unwrap()
        else {
            panic!("the script has a digest");
        };
        let now = Instant::now();
        let ledger = Ledger {
            shards: shards
                .values()
                .map(|shard| (*shard, Shard { last: now, longest: Duration::ZERO }))
                .collect(),
            ..Ledger::default()
        };
        let shared = Arc::new(Shared {
            digest,
            shard_of: shards,
            ledger: Mutex::new(ledger),
            stopped: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(Arc::clone(&shared), number, address));
        }
        let load = Load { shared, clients };
        sleep(CALM).await;
        let before = load.ledger();
        assert_eq!(before.errors, BTreeMap::new(), "nothing has happened yet");
        assert!(before.answers > 100, "only {} answers", before.answers);
        load
    }

    /// What has been said so far.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = self.shared.ledger().clone();
        ledger.shards.values_mut().for_each(|shard| shard.longest = shard.longest.max(shard.last.elapsed()));
        ledger
    }

    /// Something is about to happen. From now on what this shard acknowledged may be lost, if one is named.
    pub(crate) fn disturb(&self, doomed: Option<usize>) {
        let now = Instant::now();
        let mut ledger = self.shared.ledger();
        ledger.disturbed = Some(now);
        ledger.doomed = doomed;
        ledger.shards.values_mut().for_each(|shard| *shard = Shard { last: now, longest: Duration::ZERO });
    }

    /// Waits until every shard answers and nobody has had an error for a while. Returns how long there were errors.
    pub(crate) async fn recovered(&self, within: Duration) -> Duration {
        let deadline = Instant::now() + within;
        loop {
            {
                let ledger = self.shared.ledger();
                let disturbed = ledger.disturbed.expect("something has happened");
                let trouble = ledger.trouble.map_or(disturbed, |trouble| trouble.max(disturbed));
                let answers = ledger.shards.values().all(|shard| shard.last.elapsed() < CALM);
                if answers && trouble.elapsed() > CALM {
                    return trouble - disturbed;
                }
            }
            assert!(Instant::now() < deadline, "no recovery within {within:?}:\n{}", self.ledger());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the clients; everything they sent has been answered.
    pub(crate) async fn finish(mut self) -> Ledger {
        self.shared.stopped.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        let ledger = self.ledger();
        assert_eq!(ledger.wrong, [""; 0], "answers that cannot be\n{ledger}");
        let strange: Vec<_> = ledger.errors.keys().filter(|text| !is_expected(text)).collect();
        assert_eq!(strange, [""; 0], "errors that nothing explains\n{ledger}");
        ledger
    }
}

struct Shared {
    digest: String,
    shard_of: BTreeMap<String, usize>,
    ledger: Mutex<Ledger>,
    stopped: AtomicBool,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }
}

/// What clients were told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    counters: BTreeMap<String, Increments>,
    written: BTreeMap<String, Said>,
    /// Texts of errors, with numbers left out, and how many commands had them.
    errors: BTreeMap<String, u64>,
    /// Answers that no failure explains.
    wrong: Vec<String>,
    answers: u64,
    shards: BTreeMap<usize, Shard>,
    disturbed: Option<Instant>,
    doomed: Option<usize>,
    /// When the last error came.
    trouble: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Increments {
    acknowledged: u64,
    unknown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Acknowledged,
    Unknown,
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct Shard {
    last: Instant,
    longest: Duration,
}

impl Ledger {
    /// Every key that holds something, or might.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.counters.keys().chain(self.written.keys()).cloned().collect()
    }

    /// Fails unless the servers hold what clients were told. `values` are those of [`Ledger::keys`]. Returns how much
    /// of what was at risk is lost.
    pub(crate) fn verify(&self, values: &[Option<String>], risk: Option<&Risk<'_>>) -> Loss {
        let values: BTreeMap<String, Option<&str>> =
            self.keys().into_iter().zip(values.iter().map(Option::as_deref)).collect();
        let mut loss = Loss::default();
        for (key, said) in &self.counters {
            let value: u64 = values[key].unwrap_or("0").parse().unwrap();
            let most = said.acknowledged + said.unknown;
            assert!(value <= most, "`{key}` is {value}, more than {said:?} can have made it\n{self}");
            let at_risk = risk.map_or(0, |risk| risk.increments(key));
            let safe = said.acknowledged - at_risk;
            assert!(value >= safe, "`{key}` is {value}, but {safe} must have survived of {said:?}\n{self}");
            loss.at_risk += at_risk;
            loss.lost += said.acknowledged.saturating_sub(value);
        }
        for number in 0..PAIRS {
            let value = |half| values.get(&pair(number, half));
            assert_eq!(value('a'), value('b'), "a transaction was carried out in part\n{self}");
        }
        for (key, said) in &self.written {
            let value = values[key];
            match said {
                Said::Acknowledged if risk.is_some_and(|risk| risk.has_write(key)) => {
                    loss.at_risk += 1;
                    loss.lost += u64::from(value.is_none());
                }
                Said::Acknowledged => assert_eq!(value, Some(&key[..]), "a write is lost\n{self}"),
                Said::Unknown => assert!(value.is_none_or(|value| value == key), "`{key}` is {value:?}"),
                Said::Refused => {
                    assert_eq!(value, None, "`{key}` was refused and written all the same\n{self}");
                }
            }
        }
        loss
    }

    fn note(&mut self, shared: &Shared, ask: &Ask, outcome: &Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Done(_) => {
                self.answers += 1;
                for shard in ask.keys().iter().filter_map(|key| shared.shard_of.get(*key)) {
                    let shard = self.shards.get_mut(shard).expect("every shard is there from the beginning");
                    shard.longest = shard.longest.max(now - shard.last);
                    shard.last = now;
                }
            }
            Outcome::Refused(error) if error.starts_with("NOSCRIPT") => {}
            Outcome::Unknown(error) | Outcome::Refused(error) => {
                self.trouble = Some(now);
                *self.errors.entry(without_numbers(error)).or_default() += 1;
            }
        }
        match ask {
            Ask::Increment(key) | Ask::ByDigest(key) | Ask::ByScript(key) => {
                self.note_increment(shared, key, outcome);
            }
            Ask::Write(keys) => self.note_write(keys, outcome),
            Ask::Read(keys) => {
                let expected = match &keys[..] {
                    [key] => json!(key),
                    keys => json!(keys),
                };
                self.note_read(outcome, &expected);
            }
            Ask::ReadBack(key) => {
                let expected = match self.written.get(key) {
                    // Its master may have died between the two.
                    Some(Said::Acknowledged) if self.doomed.is_none() => json!(key),
                    Some(Said::Refused) => Value::Null,
                    _ => return,
                };
                self.note_read(outcome, &expected);
            }
        }
    }

    fn note_increment(&mut self, shared: &Shared, key: &str, outcome: &Outcome) {
        let said = self.counters.entry(key.to_owned()).or_default();
        match outcome {
            Outcome::Done(value) => {
                // Where nobody else counts, each answer says how often it was counted until now.
                let least = match self.doomed {
                    Some(doomed) if shared.shard_of.get(key) == Some(&doomed) => 1,
                    _ => said.acknowledged + 1,
                };
                let most = said.acknowledged + said.unknown + 1;
                let fits = value.as_u64().is_some_and(|value| (least..=most).contains(&value));
                if key.starts_with(PRIVATE) && !fits {
                    self.wrong.push(format!("`{key}`: {value}, expected {least} to {most} after {said:?}"));
                }
                if !value.is_u64() {
                    self.wrong.push(format!("`{key}`: {value} is no count"));
                }
                said.acknowledged += 1;
            }
            Outcome::Unknown(_) => said.unknown += 1,
            Outcome::Refused(_) => {}
        }
    }

    fn note_write(&mut self, keys: &[String], outcome: &Outcome) {
        let said = match outcome {
            Outcome::Done(value) if *value == json!("OK") => Said::Acknowledged,
            Outcome::Done(value) => return self.wrong.push(format!("{value} as the answer to a write")),
            Outcome::Unknown(_) => Said::Unknown,
            // A part of it may have been on another server.
            Outcome::Refused(_) if keys.len() > 1 => Said::Unknown,
            Outcome::Refused(_) => Said::Refused,
        };
        self.written.extend(keys.iter().map(|key| (key.clone(), said)));
    }

    fn note_read(&mut self, outcome: &Outcome, expected: &Value) {
        if let Outcome::Done(value) = outcome
            && value != expected
        {
            self.wrong.push(format!("read {value}, expected {expected}"));
        }
    }
}

/// What it amounts to, in a few lines.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown: u64 = self.counters.values().map(|said| said.unknown).sum();
        writeln!(f, "  {} commands answered, {unknown} increments unknown", self.answers)?;
        let silent: Vec<Duration> = self.shards.values().map(|shard| shard.longest).collect();
        writeln!(f, "  longest time without an answer, by shard: {silent:.2?}")?;
        for (error, count) in &self.errors {
            writeln!(f, "  {count:>6} × {error}")?;
        }
        Ok(())
    }
}

/// What Redis itself may lose, because it acknowledges before it replicates: what was acknowledged after all had been
/// replicated and before there was another master.
pub(crate) struct Risk<'a> {
    /// When everything had been replicated.
    pub(crate) before: &'a Ledger,
    /// When another master answered.
    pub(crate) after: &'a Ledger,
    /// Which keys the dead one had.
    pub(crate) had: &'a dyn Fn(&str) -> bool,
}

impl Risk<'_> {
    fn increments(&self, key: &str) -> u64 {
        let acknowledged = |ledger: &Ledger| ledger.counters.get(key).map_or(0, |said| said.acknowledged);
        if (self.had)(key) { acknowledged(self.after) - acknowledged(self.before) } else { 0 }
    }

    fn has_write(&self, key: &str) -> bool {
        let acknowledged = |ledger: &Ledger| ledger.written.get(key) == Some(&Said::Acknowledged);
        (self.had)(key) && acknowledged(self.after) && !acknowledged(self.before)
    }
}

/// How much was at risk, and how much of it is lost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss {
    at_risk: u64,
    lost: u64,
}

impl Loss {
    /// Nothing was at risk.
    pub(crate) const NONE: Loss = Loss { at_risk: 0, lost: 0 };
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  lost by Redis's own replication: {} of {} writes at risk", self.lost, self.at_risk)
    }
}

/// A command and what is to come of it.
enum Ask {
    Increment(String),
    ByDigest(String),
    ByScript(String),
    /// Writes each key's own name.
    Write(Vec<String>),
    /// Reads constants.
    Read(Vec<String>),
    /// Reads what the same pipeline has written.
    ReadBack(String),
}

impl Ask {
    fn keys(&self) -> Vec<&str> {
        match self {
            Ask::Increment(key) | Ask::ByDigest(key) | Ask::ByScript(key) | Ask::ReadBack(key) => vec![key],
            Ask::Write(keys) | Ask::Read(keys) => keys.iter().map(String::as_str).collect(),
        }
    }

    fn words(&self, digest: &str) -> Value {
        match self {
            Ask::Increment(key) => json!(["INCR", key]),
            Ask::ByDigest(key) => json!(["EVALSHA", digest, 1, key]),
            Ask::ByScript(key) => json!(["EVAL", SCRIPT, 1, key]),
            Ask::ReadBack(key) => json!(["GET", key]),
            Ask::Write(keys) if keys.len() == 1 => json!(["SET", keys[0], keys[0]]),
            Ask::Write(keys) => {
                let pairs = keys.iter().flat_map(|key| [key.as_str(), key]);
                json!(["MSET"].into_iter().chain(pairs).collect::<Vec<_>>())
            }
            Ask::Read(keys) if keys.len() == 1 => json!(["GET", keys[0]]),
            Ask::Read(keys) => {
                json!(["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>())
            }
        }
    }
}

/// One client: a request, a short pause, the next request.
async fn client(shared: Arc<Shared>, number: usize, address: SocketAddr) {
    let mut rest = Rest::new(address, TOKEN);
    // Each begins elsewhere, so that they do not all do the same at the same time.
    let mut turn = number * 7;
    while !shared.stopped.load(Ordering::Relaxed) {
        let (path, asks) = asks(number, turn);
        let asked = ask(&shared, &mut rest, path, asks).await;
        if let Err(error) = asked {
            shared.ledger().wrong.push(format!("`POST {path}`: {error:#}"));
            rest = Rest::new(address, TOKEN);
        }
        turn += 1;
        sleep(PAUSE).await;
    }
}

async fn ask(shared: &Shared, rest: &mut Rest, path: &str, asks: Vec<Ask>) -> Result<()> {
    let words: Vec<Value> = asks.iter().map(|ask| ask.words(&shared.digest)).collect();
    let outcomes = match path {
        "/" => vec![rest.command(&words[0]).await?],
        batch => rest.batch(batch, &words).await?,
    };
    let mut again = Vec::new();
    {
        let mut ledger = shared.ledger();
        for (ask, outcome) in asks.into_iter().zip(&outcomes) {
            ledger.note(shared, &ask, outcome);
            // A server that took over has never seen the script: clients send it whole then, as the SDKs do.
            if let (Ask::ByDigest(key), Outcome::Refused(error)) = (ask, outcome)
                && error.starts_with("NOSCRIPT")
            {
                again.push(Ask::ByScript(key));
            }
        }
    }
    for ask in again {
        let outcome = rest.command(&ask.words("")).await?;
        shared.ledger().note(shared, &ask, &outcome);
    }
    Ok(())
}

/// What a client sends in this turn, and where to.
fn asks(client: usize, turn: usize) -> (&'static str, Vec<Ask>) {
    // Steps that share no factor with the number of keys, so that every one of them has its turn.
    let round = turn / KINDS;
    let some = |step: usize| counter((round * 7 + client * 11 + step * 17) % COUNTERS);
    let fixed = |step: usize| constant((round + step) % CONSTANTS);
    let own = |step: usize| format!("written:{client}:{turn}:{step}");
    match turn % KINDS {
        0 => ("/", vec![Ask::Increment(some(0))]),
        1 => ("/", vec![Ask::ByDigest(some(0))]),
        2 => ("/multi-exec", ['a', 'b'].map(|half| Ask::Increment(pair(round % PAIRS, half))).into()),
        3 => ("/", vec![Ask::Read((0..4).map(fixed).collect())]),
        4 => ("/", vec![Ask::Write((0..4).map(own).collect())]),
        _ => (
            "/pipeline",
            vec![
                Ask::Read(vec![fixed(0)]),
                Ask::Increment(private(client)),
                Ask::Write(vec![own(0)]),
                Ask::ByDigest(some(1)),
                Ask::Read(vec![fixed(1)]),
                Ask::Increment(private(client)),
                Ask::Increment(some(2)),
                Ask::ReadBack(own(0)),
                Ask::Read(vec![fixed(2)]),
                Ask::Increment(private(client)),
                Ask::Write(vec![own(1)]),
                Ask::Read(vec![fixed(3)]),
            ],
        ),
    }
}

fn counter(number: usize) -> String {
    format!("counter:{number}")
}

fn constant(number: usize) -> String {
    format!("constant:{number}")
}

fn pair(number: usize, half: char) -> String {
    format!("{{pair-{number}}}:{half}")
}

fn private(client: usize) -> String {
    format!("{PRIVATE}{client}")
}

fn without_numbers(text: &str) -> String {
    let mut words = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if words.ends_with('#') => {}
            '0'..='9' => words.push('#'),
            other => words.push(other),
        }
    }
    words
}

/// Errors that a server which goes or comes may cause: the gateway's own, and those in which Redis says that it did not.
fn is_expected(error: &str) -> bool {
    let own = ["redis is unreachable", "may have run"];
    let of_redis = ["CLUSTERDOWN", "EXECABORT", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN", "UNBLOCKED"];
    own.iter().any(|text| error.contains(text)) || of_redis.iter().any(|code| error.starts_with(code))
}

const SCRIPT: &str = "return redis.call('INCR', KEYS[1])";
const CLIENTS: usize = 24;
const COUNTERS: usize = 120;
const CONSTANTS: usize = 40;
const PAIRS: usize = 30;
const PRIVATE: &str = "private:";
/// Of requests: see [`asks`].
const KINDS: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
/// For how long nothing may go wrong before all is well.
const CALM: Duration = Duration::from_secs(1);

/// The shards of keys that all lie on one server.
pub(crate) fn one_shard() -> BTreeMap<String, usize> {
    keys().into_iter().map(|key| (key, 0)).collect()
}

/// Which shards there are.
pub(crate) fn shards(of: &BTreeMap<String, usize>) -> BTreeSet<usize> {
    of.values().copied().collect()
}
