//! The ways in which people run Redis, from real servers: a Cluster, a Sentinel set, TLS.
//!
//! What is asked here goes to the servers directly, without any gateway.

pub mod certificates;
pub mod cluster;
pub mod sentinel;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::redis::Redis;

/// A connection.
pub async fn connect(address: SocketAddr) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://{address}"))?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    connection.with_context(|| format!("cannot connect to {address}"))
}

/// What a server says about itself under this heading, such as `role` under `replication`.
pub async fn info(server: &Redis, section: &str, field: &str) -> Result<String> {
    let mut connection = connect(server.address()).await?;
    let info: String = redis::cmd("INFO").arg(section).query_async(&mut connection).await?;
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(str::to_owned).with_context(|| format!("{} says nothing of {field}:\n{info}", server.name()))
}

/// Waits until these replicas have everything that `master` has written so far: what it acknowledged until now
/// survives its death.
pub async fn replicated(master: &Redis, replicas: &[&Redis]) -> Result<()> {
    let written: u64 = info(master, "replication", "master_repl_offset").await?.parse()?;
    for replica in replicas {
        let what = format!("{} has what {} has written", replica.name(), master.name());
        let has =
            async || Ok(info(replica, "replication", "slave_repl_offset").await?.parse::<u64>()? >= written);
        settled(&what, PATIENCE, has).await?;
    }
    Ok(())
}

/// Asks until something is as it should be. What servers agree on among themselves is announced to nobody.
pub async fn settled(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        // A server that is just going or coming may fail to answer: that is no answer yet.
        let last = holds().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = last.err().map_or_else(String::new, |error| format!(": {error:#}"));
            bail!("{what}: not within {within:?}{why}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a replica has its master.
async fn follows(replica: &Redis) -> Result<bool> {
    Ok(info(replica, "replication", "master_link_status").await? == "up")
}

/// Longer than any answer should take.
const PATIENCE: Duration = Duration::from_secs(10);
