//! The built gateway in front of a Redis.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::ports;
use crate::process::{Process, Ready, Spec};
use crate::tools;

/// A running `tollgate gateway`.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    address: SocketAddr,
}

impl Gateway {
    /// Starts it on `port` in front of the Redis at `redis_url`, for clients that bring `token`, and waits until it
    /// reaches that Redis.
    pub async fn start(dir: &Path, port: u16, redis_url: &str, token: &str) -> Result<Gateway> {
        Gateway::start_with(dir, port, redis_url, token, &[]).await
    }

    /// Starts it with more arguments, such as `--redis-ca FILE`.
    pub async fn start_with(
        dir: &Path,
        port: u16,
        redis_url: &str,
        token: &str,
        more: &[&str],
    ) -> Result<Gateway> {
        Gateway::start_until("/ready", dir, port, redis_url, token, more).await
    }

    /// Starts it in front of a Redis that it cannot reach, and waits until it lives.
    pub async fn start_alone(
        dir: &Path,
        port: u16,
        redis_url: &str,
        token: &str,
        more: &[&str],
    ) -> Result<Gateway> {
        Gateway::start_until("/health", dir, port, redis_url, token, more).await
    }

    async fn start_until(
        path: &str,
        dir: &Path,
        port: u16,
        redis_url: &str,
        token: &str,
        more: &[&str],
    ) -> Result<Gateway> {
        let address = ports::local(port);
        let listen = address.to_string();
        let fixed = ["gateway", "--redis", redis_url, "--listen", &listen];
        let process = Process::start(Spec {
            name: "gateway".into(),
            program: tools::gateway()?,
            args: fixed.iter().chain(more).map(Into::into).collect(),
            env: vec![(TOKEN_VARIABLE.into(), token.into())],
            dir: dir.to_path_buf(),
            ready: Ready::http(address, path),
            ready_within: Duration::from_secs(10),
        });
        Ok(Gateway { process: process.await?, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Deref for Gateway {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The variable that holds the token, for the gateway and for the filter.
pub const TOKEN_VARIABLE: &str = "TOLLGATE_TOKEN";
