//! The gateway in front of every topology, under load, while servers die, hang, move and come back.
//!
//! For each: what was acknowledged and must survive is there, every increment counts once, answers of pipelines stand in
//! their places, the time without answers is printed, and everything recovers by itself within a bound. What Redis itself
//! may lose, because it acknowledges before it replicates, is measured apart and bounded by what was replicated before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tollgate_shared::key::Key;
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::revocation::Reach;
use tollgate_shared::store::{Op, Outcome as Done};
use tollgate_shared::time::Span;
use tollgate_tests::gateway::Gateway;
use tollgate_tests::redis::{Build, Redis};
use tollgate_tests::rest::{Outcome, Rest};
use tollgate_tests::topologies::certificates::{Certificates, SERVER_NAME};
use tollgate_tests::topologies::cluster::Cluster;
use tollgate_tests::topologies::sentinel::Sentinel;
use tollgate_tests::topologies::{connect, info, replicated, settled};
use tollgate_tests::{client, ports, run_dir};

use load::{Load, Loss, Risk, keys, one_shard};

// ---- One server, which keeps what it acknowledges on disk.

#[tokio::test]
async fn one_redis_is_killed_and_comes_back() {
    one_server_dies(Build::Pinned).await;
}

#[tokio::test]
async fn one_redis_of_the_system_is_killed_and_comes_back() {
    one_server_dies(Build::System).await;
}

async fn one_server_dies(build: Build) {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start_as("redis", build, &dir, ports::free().unwrap(), &ON_DISK).await.unwrap();
    let version = info(&redis, "server", "redis_version").await.unwrap();
    let gateway = gateway(&dir, &redis.url(), &[]).await;
    killed_and_back(&format!("one Redis {version}"), redis, &gateway).await;
}

#[tokio::test]
async fn one_redis_with_tls_is_killed_and_comes_back() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    let port = ports::free().unwrap();
    let more = [certificates.arguments(port, true), ON_DISK.map(str::to_owned).into()].concat();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let redis = Redis::start_as("redis", Build::System, &dir, ports::free().unwrap(), &more).await.unwrap();
    let trust = trust(&certificates);
    let trust: Vec<&str> = trust.iter().map(String::as_str).collect();
    let gateway = gateway(&dir, &format!("rediss://127.0.0.1:{port}"), &trust).await;
    killed_and_back("one Redis with TLS", redis, &gateway).await;
}

async fn killed_and_back(name: &str, mut redis: Redis, gateway: &Gateway) {
    let load = Load::start(gateway.address(), one_shard()).await;
    load.disturb(None);
    redis.kill().await;
    sleep(Duration::from_secs(1)).await;
    redis.restart().await.unwrap();
    let trouble = load.recovered(BOUND).await;
    let ledger = load.finish().await;
    let values = read(&redis, &ledger.keys()).await;
    let loss = ledger.verify(&values, None);
    println!("{name}, killed and back after 1 s: errors for {trouble:.2?}\n{ledger}");
    assert_eq!(loss, Loss::NONE);
}

// ---- TLS: whom the gateway trusts, and who trusts it.

#[tokio::test]
async fn tls_that_is_not_to_be_trusted_is_refused_with_the_reason() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    let port = ports::free().unwrap();
    let arguments = certificates.arguments(port, true);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let redis =
        Redis::start_as("redis", Build::System, &dir, ports::free().unwrap(), &arguments).await.unwrap();
    let secure = format!("rediss://127.0.0.1:{port}");
    let plain = format!("redis://127.0.0.1:{port}");
    let unspoken = format!("rediss://{}", redis.address());
    let file = |path: &Path| path.display().to_string();
    let authority = ["--redis-ca".to_owned(), file(&certificates.authority)];
    let stranger_authority = ["--redis-ca".to_owned(), file(&certificates.stranger_authority)];
    let pair = |pair: &tollgate_tests::topologies::certificates::Pair| {
        ["--redis-cert".to_owned(), file(&pair.certificate), "--redis-key".to_owned(), file(&pair.key)]
    };
    let known = pair(&certificates.client);
    let stranger = pair(&certificates.stranger);
    let named = |name: &str| ["--redis-server-name".to_owned(), name.to_owned()];

    // What is done, and the word that a refusal must hold for whoever has to find out.
    for (what, url, arguments, reason) in [
        ("everything is right", &secure, [&authority[..], &known].concat(), None),
        ("the server's name is right", &secure, [&authority[..], &known, &named(SERVER_NAME)].concat(), None),
        (
            "the server has another name",
            &secure,
            [&authority[..], &known, &named("other.test")].concat(),
            Some("name"),
        ),
        ("nobody vouches for the server", &secure, known.to_vec(), Some("not trusted")),
        (
            "the wrong authority vouches",
            &secure,
            [&stranger_authority[..], &known].concat(),
            Some("not trusted"),
        ),
        ("the client shows nothing", &secure, authority.to_vec(), Some("client certificate")),
        (
            "the client is a stranger",
            &secure,
            [&authority[..], &stranger].concat(),
            Some("client certificate"),
        ),
        ("the server wants TLS", &plain, Vec::new(), Some("")),
        ("the server knows no TLS", &unspoken, [&authority[..], &known].concat(), Some("TLS")),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let dir = run_dir::create().unwrap();
        let gateway =
            Gateway::start_alone(&dir, ports::free().unwrap(), url, TOKEN, &arguments).await.unwrap();
        let mut rest = Rest::new(gateway.address(), TOKEN);
        let outcome = rest.command(&json!(["SET", "key", what])).await.unwrap();
        let ready = client::get(gateway.address(), "/ready", &[]).await.unwrap();
        println!("{what}: {outcome:?}\n  /ready: {} {}", ready.status, ready.text());
        let Some(reason) = reason else {
            assert_eq!(outcome, Outcome::Done(json!("OK")), "{what}");
            assert_eq!(ready.status, 200, "{what}: {ready}");
            assert_eq!(read(&redis, &["key".into()]).await, [Some(what.to_owned())]);
            continue;
        };
        let Outcome::Refused(error) = outcome else { panic!("{what}: {outcome:?}") };
        assert!(error.starts_with("ERR redis is unreachable: ") && error.contains(reason), "{what}: {error}");
        assert_eq!(ready.status, 503, "{what}: {ready}");
        // Why is told to the token.
        let authorization = format!("Bearer {TOKEN}");
        let ready =
            client::get(gateway.address(), "/ready", &[("authorization", &authorization)]).await.unwrap();
        assert!(ready.text().contains(reason), "{what}: {ready}");
    }
}

#[tokio::test]
async fn a_cluster_with_tls_is_used() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    let cluster = Cluster::start_with_tls(&dir, &certificates).await.unwrap();
    let trust = trust(&certificates);
    let trust: Vec<&str> = trust.iter().map(String::as_str).collect();
    let gateway = gateway(&dir, &cluster.url(), &trust).await;
    let keys = write_some(&gateway).await;
    assert_eq!(cluster.owners_of(&keys).await.unwrap().into_iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(cluster.read(&keys).await.unwrap(), keys.iter().cloned().map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sentinel_set_with_tls_is_used() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    let set = Sentinel::start_with_tls(&dir, &certificates).await.unwrap();
    let trust = trust(&certificates);
    let trust: Vec<&str> = trust.iter().map(String::as_str).collect();
    let gateway = gateway(&dir, &set.url(), &trust).await;
    let keys = write_some(&gateway).await;
    assert_eq!(set.read(&keys).await.unwrap(), keys.iter().cloned().map(Some).collect::<Vec<_>>());
}

// ---- A Cluster.

#[tokio::test]
async fn a_cluster_master_is_killed_and_comes_back() {
    let came_back = async |cluster: &mut Cluster| {
        // It comes back empty, with slots that are another's now.
        cluster.node_mut(DOOMED).restart().await.unwrap();
        let demoted = async || Ok(info(cluster.node(DOOMED), "replication", "role").await? == "slave");
        settled("it is a replica now", BOUND, demoted).await.unwrap();
        sleep(Duration::from_secs(2)).await;
    };
    a_cluster_master_fails("killed", async |master| master.kill().await, came_back).await;
}

/// Its connections stay open and nothing answers: only time tells.
#[tokio::test]
async fn a_cluster_master_hangs() {
    a_cluster_master_fails("hung", async |master| master.suspend().unwrap(), async |_| ()).await;
}

async fn a_cluster_master_fails(
    how: &str,
    fail: impl AsyncFnOnce(&Redis),
    and_then: impl AsyncFnOnce(&mut Cluster),
) {
    let (dir, mut cluster) = cluster().await;
    let gateway = gateway(&dir, &cluster.url(), &[]).await;
    let load = Load::start(gateway.address(), shards(&cluster).await).await;
    let before = load.ledger();
    replicated(cluster.node(DOOMED), &[cluster.node(SUCCESSOR)]).await.unwrap();
    load.disturb(Some(DOOMED));
    fail(cluster.node(DOOMED)).await;
    cluster.wait_until_well(BOUND).await.unwrap();
    let after = load.ledger();
    let trouble = load.recovered(BOUND).await;
    and_then(&mut cluster).await;
    let ledger = load.finish().await;
    let keys = ledger.keys();
    let values = cluster.read(&keys).await.unwrap();
    // Its replica took over its slots, and nobody else's.
    let owners = cluster.owners_of(&keys).await.unwrap();
    let taken_over = keys.iter().zip(owners).filter(|(_, owner)| *owner == SUCCESSOR);
    let taken_over: BTreeSet<&str> = taken_over.map(|(key, _)| key.as_str()).collect();
    let had = |key: &str| taken_over.contains(key);
    let loss = ledger.verify(&values, Some(&Risk { before: &before, after: &after, had: &had }));
    println!("a cluster's master {how}: errors for {trouble:.2?}\n{ledger}{loss}");
}

#[tokio::test]
async fn slots_of_a_cluster_move() {
    let (dir, cluster) = cluster().await;
    let gateway = gateway(&dir, &cluster.url(), &[]).await;
    let load = Load::start(gateway.address(), shards(&cluster).await).await;
    let slots: BTreeSet<u16> = cluster.slots_of(&keys()).await.unwrap().into_iter().collect();
    let mut shares: BTreeMap<usize, Vec<u16>> = BTreeMap::new();
    for slot in slots.into_iter().step_by(4) {
        shares.entry(cluster.owner(slot).await.unwrap()).or_default().push(slot);
    }
    load.disturb(None);
    let mut moved = 0;
    for (from, slots) in &shares {
        // Each stays between two masters for a while, where keys that are missing are asked for with ASK.
        moved += cluster.move_slots(slots, (from + 1) % 3, Duration::from_millis(20)).await.unwrap();
    }
    let trouble = load.recovered(BOUND).await;
    let ledger = load.finish().await;
    let values = cluster.read(&ledger.keys()).await.unwrap();
    let loss = ledger.verify(&values, None);
    let slots: usize = shares.values().map(Vec::len).sum();
    println!("{slots} slots with {moved} keys moved: errors for {trouble:.2?}\n{ledger}");
    assert!(moved >= slots, "{moved} keys moved with {slots} slots that hold at least one each");
    assert_eq!(loss, Loss::NONE);
}

#[tokio::test]
async fn a_cluster_is_spoken_to_as_one() {
    let (dir, cluster) = cluster().await;
    let gateway = gateway(&dir, &cluster.url(), &[]).await;
    let mut rest = Rest::new(gateway.address(), TOKEN);
    let keys = write_some(&gateway).await;
    assert_eq!(cluster.owners_of(&keys).await.unwrap().into_iter().collect::<BTreeSet<_>>().len(), 3);
    let with_all =
        |name: &str| json!([name].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>());

    // What is told of several keys is put together again.
    assert_eq!(done(&mut rest, with_all("MGET")).await, json!(keys));
    assert_eq!(done(&mut rest, with_all("EXISTS")).await, json!(keys.len()));
    assert_eq!(done(&mut rest, with_all("TOUCH")).await, json!(keys.len()));
    assert_eq!(done(&mut rest, json!(["DBSIZE"])).await, json!(keys.len()));
    let mut found = Vec::new();
    let mut cursor = json!("0");
    loop {
        let page = done(&mut rest, json!(["SCAN", cursor, "COUNT", 20])).await;
        found.extend(page[1].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()));
        cursor = page[0].clone();
        if cursor == "0" {
            break;
        }
    }
    found.sort();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(found, sorted);

    // A script is on every master, whichever runs it.
    let digest = done(&mut rest, json!(["SCRIPT", "LOAD", "return KEYS[1]"])).await;
    for key in &keys {
        assert_eq!(done(&mut rest, json!(["EVALSHA", digest, 1, key])).await, json!(key));
    }

    // A pipeline goes to all of them and comes back in order.
    let commands: Vec<Value> = keys.iter().cycle().take(600).map(|key| json!(["GET", key])).collect();
    let outcomes = rest.batch("/pipeline", &commands).await.unwrap();
    let expected: Vec<_> = keys.iter().cycle().take(600).map(|key| Outcome::Done(json!(key))).collect();
    assert_eq!(outcomes, expected);

    // What one server has to do alone cannot be done for keys of two.
    for command in [
        json!(["RENAME", keys[0], keys[1]]),
        json!(["SINTERSTORE", keys[0], keys[1], keys[2]]),
        json!(["EVAL", "return 1", 2, keys[0], keys[1]]),
    ] {
        let (status, answer) = rest.post("/", &command).await.unwrap();
        assert_eq!(status, 400, "{command}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with("CROSSSLOT"), "{command}: {answer}");
    }
    let apart = [json!(["INCR", "one"]), json!(["INCR", "two"])];
    let (status, answer) = rest.post("/multi-exec", &json!(apart)).await.unwrap();
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("CROSSSLOT"), "{answer}");
    assert_eq!(done(&mut rest, json!(["EXISTS", "one", "two"])).await, json!(0));

    assert_eq!(done(&mut rest, with_all("UNLINK")).await, json!(keys.len()));
    assert_eq!(done(&mut rest, json!(["DBSIZE"])).await, json!(0));
}

// ---- Sentinels.

#[tokio::test]
async fn a_master_under_sentinels_is_killed_and_comes_back() {
    let dir = run_dir::create().unwrap();
    let mut set = Sentinel::start(&dir).await.unwrap();
    let gateway = gateway(&dir, &set.url(), &[]).await;
    let load = Load::start(gateway.address(), one_shard()).await;
    let before = load.ledger();
    replicated(set.server(0), &set.others(0)).await.unwrap();
    load.disturb(Some(0));
    set.server(0).kill().await;
    set.wait_for_another(0, BOUND).await.unwrap();
    let after = load.ledger();
    let trouble = load.recovered(BOUND).await;
    // It comes back empty and takes itself for a master, until the sentinels tell it that there is another.
    set.server_mut(0).restart().await.unwrap();
    assert_eq!(info(set.server(0), "replication", "role").await.unwrap(), "master");
    sleep(Duration::from_secs(3)).await;
    let ledger = load.finish().await;
    let values = set.read(&ledger.keys()).await.unwrap();
    let loss = ledger.verify(&values, Some(&Risk { before: &before, after: &after, had: &|_| true }));
    println!("a master under sentinels killed: errors for {trouble:.2?}\n{ledger}{loss}");
}

#[tokio::test]
async fn a_master_under_sentinels_hangs() {
    let dir = run_dir::create().unwrap();
    let set = Sentinel::start(&dir).await.unwrap();
    let gateway = gateway(&dir, &set.url(), &[]).await;
    let load = Load::start(gateway.address(), one_shard()).await;
    let before = load.ledger();
    replicated(set.server(0), &set.others(0)).await.unwrap();
    load.disturb(Some(0));
    // Its connections stay open and nothing answers: only time tells.
    set.server(0).suspend().unwrap();
    set.wait_for_another(0, BOUND).await.unwrap();
    let after = load.ledger();
    let trouble = load.recovered(BOUND).await;
    let ledger = load.finish().await;
    set.server(0).kill().await;
    let values = set.read(&ledger.keys()).await.unwrap();
    let loss = ledger.verify(&values, Some(&Risk { before: &before, after: &after, had: &|_| true }));
    println!("a master under sentinels hung: errors for {trouble:.2?}\n{ledger}{loss}");
}

#[tokio::test]
async fn replicas_answer_reads_if_told_to() {
    let dir = run_dir::create().unwrap();
    let set = Sentinel::start(&dir).await.unwrap();
    let gateway = gateway(&dir, &set.url(), &["--read-from", "replica"]).await;
    let keys = write_some(&gateway).await;
    replicated(set.server(0), &set.others(0)).await.unwrap();
    let mut rest = Rest::new(gateway.address(), TOKEN);
    for key in &keys {
        assert_eq!(done(&mut rest, json!(["GET", key])).await, json!(key));
    }
    let mut reads = Vec::new();
    for index in 0..3 {
        let calls = info(set.server(index), "commandstats", "cmdstat_get").await.unwrap_or_default();
        reads.push(calls);
    }
    assert_eq!(reads[0], "", "the master answered reads");
    assert_ne!(&reads[1..], ["", ""], "no replica answered reads");
    // Without replicas the master answers, after a moment in which their end is noticed.
    set.server(1).kill().await;
    set.server(2).kill().await;
    settled("the master answers reads", BOUND, async || {
        let outcome = rest.command(&json!(["GET", keys[0]])).await?;
        Ok(outcome == Outcome::Done(json!(keys[0])))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_revocation_that_was_acknowledged_is_seen_before_replicas_have_it() {
    let dir = run_dir::create().unwrap();
    let set = Sentinel::start(&dir).await.unwrap();
    let sentinel_gateway = gateway(&dir, &set.url(), &["--read-from", "replica"]).await;
    seen_before_replicas_have_it(&sentinel_gateway, set.server(0), &set.others(0)).await;

    let (dir, cluster) = cluster().await;
    let owner = cluster.owners_of(&[REVOKED.to_owned()]).await.unwrap()[0];
    let cluster_gateway = gateway(&dir, &cluster.url(), &["--read-from", "replica"]).await;
    // The replica of a master is three further on.
    seen_before_replicas_have_it(&cluster_gateway, cluster.node(owner), &[cluster.node(owner + 3)]).await;
}

/// Revokes, takes the revocation from the replicas as if it had not come to them yet, and asks.
async fn seen_before_replicas_have_it(gateway: &Gateway, master: &Redis, replicas: &[&Redis]) {
    let mut rest = Rest::new(gateway.address(), TOKEN);
    let key = || Key::from_stored(REVOKED);
    let revoke = Op::Revoke { key: key(), ttl: Span::from_millis(60_000).unwrap(), reach: Reach::default() };
    let revoked = performed(&mut rest, revoke).await;
    assert!(matches!(revoked, Done::RevokedUpTo(_)), "{revoked:?}");
    replicated(master, replicas).await.unwrap();
    for replica in replicas {
        let mut replica = connect(replica.address()).await.unwrap();
        let mut late = redis::pipe();
        late.cmd("CONFIG").arg(&["SET", "replica-read-only", "no"]).ignore().cmd("FLUSHALL").ignore();
        late.query_async::<()>(&mut replica).await.unwrap();
    }
    settled("a plain read is answered by a replica", 4 * BOUND, async || {
        Ok(rest.command(&json!(["GET", REVOKED])).await? == Outcome::Done(Value::Null))
    })
    .await
    .unwrap();
    for _ in 0..20 {
        let answer = performed(&mut rest, Op::IsRevoked { key: key() }).await;
        assert!(matches!(answer, Done::Revoked(Some(_))), "{answer:?}");
    }
}

/// What comes of an operation, sent as hosts send it.
async fn performed(rest: &mut Rest, op: Op) -> Done {
    let mut pipeline = Pipeline::new(vec![[op]]);
    loop {
        let body: Value = serde_json::from_str(&pipeline.body(Clock::Store)).unwrap();
        let (status, answer) = rest.post("/pipeline", &body).await.unwrap();
        if pipeline.receive(status.as_u16(), answer.to_string().as_bytes()) == Progress::Done {
            return pipeline.finish().next().unwrap().1.remove(0).unwrap();
        }
    }
}

// ---- What the tests share.

async fn cluster() -> (std::path::PathBuf, Cluster) {
    let dir = run_dir::create().unwrap();
    let cluster = Cluster::start(&dir).await.unwrap();
    (dir, cluster)
}

/// The master of each key that a load uses.
async fn shards(cluster: &Cluster) -> BTreeMap<String, usize> {
    let keys = keys();
    let owners = cluster.owners_of(&keys).await.unwrap();
    let shards: BTreeMap<String, usize> = keys.into_iter().zip(owners).collect();
    assert_eq!(load::shards(&shards), BTreeSet::from([0, 1, 2]), "keys lie everywhere");
    shards
}

async fn gateway(dir: &Path, url: &str, more: &[&str]) -> Gateway {
    Gateway::start_with(dir, ports::free().unwrap(), url, TOKEN, more).await.unwrap()
}

/// What makes the gateway trust the server, and the server trust it.
fn trust(certificates: &Certificates) -> Vec<String> {
    let file = |path: &Path| path.display().to_string();
    vec![
        "--redis-ca".into(),
        file(&certificates.authority),
        "--redis-cert".into(),
        file(&certificates.client.certificate),
        "--redis-key".into(),
        file(&certificates.client.key),
    ]
}

/// Writes some keys, each with its own name in it.
async fn write_some(gateway: &Gateway) -> Vec<String> {
    let mut rest = Rest::new(gateway.address(), TOKEN);
    let keys: Vec<String> = (0..60).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(done(&mut rest, json!(["SET", key, key])).await, json!("OK"));
    }
    keys
}

/// The answer to a command that must succeed.
async fn done(rest: &mut Rest, command: Value) -> Value {
    match rest.command(&command).await.unwrap() {
        Outcome::Done(answer) => answer,
        failed => panic!("{command}: {failed:?}"),
    }
}

/// What a server holds, without the gateway.
async fn read(redis: &Redis, keys: &[String]) -> Vec<Option<String>> {
    let mut connection = connect(redis.address()).await.unwrap();
    redis::cmd("MGET").arg(keys).query_async(&mut connection).await.unwrap()
}

/// The first master of a cluster, and its replica.
const DOOMED: usize = 0;
const SUCCESSOR: usize = 3;

pub(crate) const TOKEN: &str = "the-token-of-topologies";

/// The key of a revoked token.
const REVOKED: &str = "tg:{revoked}";

/// Everything is on disk before it is acknowledged, so that nothing acknowledged may be lost.
const ON_DISK: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Within which all is well again, whatever happened: Redis's own part is 6 s at most, the rest is the gateway's.
const BOUND: Duration = Duration::from_secs(15);
