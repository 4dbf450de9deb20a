//! A real redis-server that keeps nothing on disk.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::ports;
use crate::process::{Process, Ready, Spec};
use crate::tools;

/// Which redis-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The newest that is pinned, 8.2.3. It knows no TLS.
    Pinned,
    /// That of the system, 7.0.15 on Debian 12. It speaks TLS.
    System,
}

impl Build {
    /// The program.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Build::Pinned => tools::redis_server(),
            Build::System => tools::system_redis_server(),
        }
    }
}

/// A running redis-server. What it holds is gone when it ends, unless it is started with a file to keep it in.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
}

impl Redis {
    /// Starts the pinned one on `port` with its log in `dir`.
    pub async fn start(dir: &Path, port: u16) -> Result<Redis> {
        Redis::start_with(dir, port, &[]).await
    }

    /// Starts it with more arguments, such as `--maxmemory 1mb`.
    pub async fn start_with(dir: &Path, port: u16, more: &[&str]) -> Result<Redis> {
        Redis::start_as("redis", Build::Pinned, dir, port, more).await
    }

    /// Starts the one of choice under a name of its own; several with different names share a directory.
    pub async fn start_as(name: &str, build: Build, dir: &Path, port: u16, more: &[&str]) -> Result<Redis> {
        let address = ports::local(port);
        let port = port.to_string();
        // Replicas receive what they hold as a file, which is named after them and deleted when it is read.
        let file = format!("{name}.rdb");
        let fixed = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--daemonize", "no"],
            ["--dbfilename", &file],
            ["--rdb-del-sync-files", "yes"],
        ];
        let process = Process::start(Spec {
            name: name.into(),
            program: build.program()?,
            args: fixed.as_flattened().iter().chain(more).map(Into::into).collect(),
            env: Vec::new(),
            dir: dir.to_path_buf(),
            ready: pong(address),
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

/// Ready when it answers a PING.
pub(crate) fn pong(address: SocketAddr) -> Ready {
    Ready { address, question: b"PING\r\n".to_vec(), answer: b"+PONG\r\n".to_vec() }
}
