//! One server: a few connections to it, taken in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::link::{ConnectError, Link, Options};
use super::status::{NodeStatus, Role};
use crate::target::Address;

/// The connections to one server. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Node {
    address: Address,
    links: Box<[Link]>,
    next: AtomicUsize,
}

impl Node {
    /// Begins to connect, and keeps trying in the background.
    pub(crate) fn open(address: Address, connections: usize, options: &Options) -> Self {
        let links = (0..connections).map(|_| Link::open(address.clone(), options.clone())).collect();
        Self { address, links, next: AtomicUsize::new(0) }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// What the first attempts came to, when all have come to something: the first error.
    pub(crate) async fn attempted(&self) -> Result<(), Arc<ConnectError>> {
        let mut result = Ok(());
        for link in &self.links {
            result = result.and(link.attempted().await.map(drop));
        }
        result
    }

    /// The next connection in turn that is up.
    pub(crate) fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.links.len().max(1);
        let mut reason = Arc::new(ConnectError::NotYet);
        for link in self.links.iter().cycle().skip(turn).take(self.links.len()) {
            match link.connection() {
                Ok(connection) => return Ok(connection),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// The same, but a server that was met just now gets the time until `deadline` for its first connection.
    pub(crate) async fn connection_by(&self, deadline: Instant) -> Result<Connection, Arc<ConnectError>> {
        match (self.connection(), self.links.first()) {
            (Err(error), Some(link)) if *error == ConnectError::NotYet => {
                timeout_at(deadline, link.attempted()).await.unwrap_or(Err(error))
            }
            (connection, _) => connection,
        }
    }

    /// Whether a connection is up.
    pub(crate) fn is_up(&self) -> bool {
        self.links.iter().any(|link| link.connection().is_ok())
    }

    /// What can be told of it.
    pub(crate) fn status(&self, role: Role) -> NodeStatus {
        let states: Vec<_> = self.links.iter().map(Link::state).collect();
        NodeStatus {
            address: self.address.clone(),
            role,
            up: states.iter().filter(|state| state.connection.is_ok()).count(),
            connections: states.len(),
            reconnects: states.iter().map(|state| state.connects.saturating_sub(1)).sum(),
            last_error: states.iter().find_map(|state| state.last_error.as_ref()).map(ToString::to_string),
        }
    }
}

#[cfg(test)]
impl Node {
    /// One without connections.
    pub(crate) fn unconnected(port: u16) -> Self {
        let address = Address { host: "node".into(), port };
        Self { address, links: Box::new([]), next: AtomicUsize::new(0) }
    }
}
