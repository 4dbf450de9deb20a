//! A real redis-server that keeps nothing on disk.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::ports;
use crate::process::{Process, Ready, Spec};
use crate::tools;

/// A running redis-server. What it holds is gone when it ends.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
}

impl Redis {
    /// Starts it on `port` with its log in `dir`.
    pub async fn start(dir: &Path, port: u16) -> Result<Redis> {
        Redis::start_with(dir, port, &[]).await
    }

    /// Starts it with more arguments, such as `--maxmemory 1mb`.
    pub async fn start_with(dir: &Path, port: u16, more: &[&str]) -> Result<Redis> {
        let address = ports::local(port);
        let port = port.to_string();
        let fixed =
            ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let process = Process::start(Spec {
            name: "redis".into(),
            program: tools::redis_server()?,
            args: fixed.iter().chain(more).map(Into::into).collect(),
            env: Vec::new(),
            dir: dir.to_path_buf(),
            ready: Ready { address, question: b"PING\r\n".to_vec(), answer: b"+PONG\r\n".to_vec() },
            ready_within: Duration::from_secs(10),
        });
        Ok(Redis { process: process.await?, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Deref for Redis {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
