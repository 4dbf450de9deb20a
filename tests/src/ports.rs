//! Free ports, and a clear error for a taken one.
//!
//! Envoy listens with `SO_REUSEPORT`: a second one on the same port would start without a word and take half of the
//! first one's connections. So every port is tried before anything is started on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use tokio::net::TcpSocket;

/// An address on loopback.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port nobody listens on. It lies below the range from which the system takes the ports of outgoing connections,
/// and is not handed out twice by this process; processes start at different places.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..SPAN {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = u16::try_from(u64::from(std::process::id()) * 61 % u64::from(SPAN)).unwrap_or(0);
        let port = FIRST + (start + step % SPAN) % SPAN;
        if try_bind(port).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + SPAN)
}

/// Fails when something listens on `port` already; `part` is who wanted it.
pub fn expect_free(port: u16, part: &str) -> Result<()> {
    try_bind(port).with_context(|| {
        format!("port {port}, wanted by {part}, cannot be used (is something listening there already?)")
    })
}

/// Binds without listening. A process that another thread starts in this moment holds a copy of the socket until it
/// runs its own program, and a copy that does not listen is in nobody's way.
fn try_bind(port: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(local(port))
}

const FIRST: u16 = 22_000;
const SPAN: u16 = 10_000;
