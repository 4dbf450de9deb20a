//! The topologies themselves, without a gateway: they come up, and they do what tests of the gateway rely on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::fs;
use std::time::{Duration, Instant};

use redis::{TlsCertificates, cmd};
use tollgate_tests::redis::{Build, Redis};
use tollgate_tests::topologies::certificates::{Certificates, Pair};
use tollgate_tests::topologies::cluster::Cluster;
use tollgate_tests::topologies::sentinel::Sentinel;
use tollgate_tests::topologies::{connect, info, replicated, settled};
use tollgate_tests::{ports, run_dir};

#[tokio::test]
async fn a_replica_takes_over_the_slots_of_a_cluster_master() {
    let begun = Instant::now();
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    println!("up after {:?}", begun.elapsed());
    let keys: Vec<String> = (0..50).map(|number| format!("key-{number}")).collect();
    let owners = cluster.owners_of(&keys).await.unwrap();
    for (key, owner) in keys.iter().zip(&owners) {
        let mut master = connect(cluster.node(*owner).address()).await.unwrap();
        cmd("SET").arg(key).arg(format!("value of {key}")).exec_async(&mut master).await.unwrap();
    }
    replicated(cluster.node(0), &[cluster.node(3)]).await.unwrap();

    let killed = Instant::now();
    cluster.node(0).kill().await;
    cluster.wait_until_well(Duration::from_secs(20)).await.unwrap();
    println!("well again {:?} after its death", killed.elapsed());
    let now = cluster.owners_of(&keys).await.unwrap();
    assert!(owners.contains(&0) && owners.contains(&1) && owners.contains(&2), "{owners:?}");
    for (before, now) in owners.iter().zip(now) {
        assert_eq!(now, if *before == 0 { 3 } else { *before });
    }
    let values = cluster.read(&keys).await.unwrap();
    let expected: Vec<_> = keys.iter().map(|key| Some(format!("value of {key}"))).collect();
    assert_eq!(values, expected);
}

#[tokio::test]
async fn slots_move_with_what_is_in_them() {
    let cluster = Cluster::start(&run_dir::create().unwrap()).await.unwrap();
    let keys: Vec<String> = (0..200).map(|number| format!("{{tag}}:{number}")).collect();
    let slot = cluster.slots_of(&keys[..1]).await.unwrap()[0];
    let from = cluster.owner(slot).await.unwrap();
    let mut master = connect(cluster.node(from).address()).await.unwrap();
    for key in &keys {
        cmd("SET").arg(key).arg(key).exec_async(&mut master).await.unwrap();
    }
    let to = (from + 1) % 3;
    let moved = cluster.move_slots(&[slot], to, Duration::ZERO).await.unwrap();
    assert_eq!(moved, keys.len());
    assert_eq!(cluster.owner(slot).await.unwrap(), to);
    let error = cmd("GET").arg(&keys[0]).exec_async(&mut master).await.unwrap_err();
    assert!(error.to_string().contains(&cluster.node(to).address().port().to_string()), "{error}");
    let values = cluster.read(&keys).await.unwrap();
    assert_eq!(values, keys.iter().cloned().map(Some).collect::<Vec<_>>());
    cluster.wait_until_well(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn sentinels_choose_another_master() {
    let begun = Instant::now();
    let set = Sentinel::start(&run_dir::create().unwrap()).await.unwrap();
    println!("up after {:?}", begun.elapsed());
    assert_eq!(set.master().await.unwrap(), 0);
    let mut master = connect(set.server(0).address()).await.unwrap();
    cmd("SET").arg("key").arg("value").exec_async(&mut master).await.unwrap();
    replicated(set.server(0), &set.others(0)).await.unwrap();

    let killed = Instant::now();
    set.server(0).kill().await;
    let master = set.wait_for_another(0, Duration::from_secs(30)).await.unwrap();
    println!("another master {:?} after its death", killed.elapsed());
    assert_eq!(set.read(&["key".into()]).await.unwrap(), [Some("value".into())]);
    assert_ne!(master, 0);
}

#[tokio::test]
async fn a_server_with_tls_lets_known_clients_in() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    for clients in [false, true] {
        let port = ports::free().unwrap();
        let arguments = certificates.arguments(port, clients);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("tls-{clients}");
        let redis =
            Redis::start_as(&name, Build::System, &dir, ports::free().unwrap(), &arguments).await.unwrap();
        println!("redis-server {}", info(&redis, "server", "redis_version").await.unwrap());
        let ask = async |authority: &std::path::Path, client: Option<&Pair>| {
            let read = |path: &std::path::Path| fs::read(path).unwrap();
            let client_tls = client.map(|pair| redis::ClientTlsConfig {
                client_cert: read(&pair.certificate),
                client_key: read(&pair.key),
            });
            let certificates = TlsCertificates { client_tls, root_cert: Some(read(authority)) };
            let client = redis::Client::build_with_tls(format!("rediss://127.0.0.1:{port}"), certificates)?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            cmd("PING").query_async::<String>(&mut connection).await
        };
        let known = ask(&certificates.authority, Some(&certificates.client)).await;
        assert_eq!(known.unwrap(), "PONG");
        let unknown = ask(&certificates.authority, None).await;
        assert_eq!(unknown.is_ok(), !clients, "{unknown:?}");
        let stranger = ask(&certificates.authority, Some(&certificates.stranger)).await;
        assert_eq!(stranger.is_ok(), !clients, "{stranger:?}");
        let misled = ask(&certificates.stranger_authority, Some(&certificates.client)).await;
        assert!(misled.is_err(), "a server that the wrong authority signed is not believed");
    }
}

#[tokio::test]
async fn a_cluster_and_a_sentinel_set_come_up_with_tls() {
    let dir = run_dir::create().unwrap();
    let certificates = Certificates::create(&dir).unwrap();
    let cluster = Cluster::start_with_tls(&dir, &certificates).await.unwrap();
    assert!(cluster.url().starts_with("rediss+cluster://127.0.0.1:"), "{}", cluster.url());
    let set = Sentinel::start_with_tls(&dir, &certificates).await.unwrap();
    assert!(set.url().starts_with("rediss+sentinel://127.0.0.1:"), "{}", set.url());
    assert_eq!(set.master().await.unwrap(), 0);
}

#[tokio::test]
async fn the_systems_redis_is_at_least_7() {
    let dir = run_dir::create().unwrap();
    let redis = Redis::start_as("system", Build::System, &dir, ports::free().unwrap(), &[]).await.unwrap();
    let version = info(&redis, "server", "redis_version").await.unwrap();
    println!("the system's redis-server is {version}");
    assert!(version.split('.').next().unwrap().parse::<u32>().unwrap() >= 7, "{version}");
    settled("it is empty", Duration::from_secs(1), async || {
        let mut connection = connect(redis.address()).await?;
        Ok(cmd("DBSIZE").query_async::<u64>(&mut connection).await? == 0)
    })
    .await
    .unwrap();
}
