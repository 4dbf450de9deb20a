//! Clients that read slowly or not at all, and clients that leave.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use super::crowd::Counts;
use super::{HUGE, LARGE, MEDIUM, TOKEN, raw_request};

/// Asks for the large value and reads some bytes of it a second; then gives up and begins again.
pub(super) async fn read_slowly(address: SocketAddr, index: usize, counts: Arc<Counts>) {
    let asks = raw_request("/", &json!(["GET", LARGE]).to_string());
    // Not all at once.
    sleep(Duration::from_millis(index as u64 * 37 % 5_000)).await;
    loop {
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            // What the kernel takes in for a client, no server can tell from what the client has read.
            socket.set_recv_buffer_size(4096)?;
            let mut stream = socket.connect(address).await?;
            stream.write_all(&asks).await?;
            let mut some = [0; 16];
            stream.read_exact(&mut some).await?;
            if some.starts_with(b"HTTP/1.1 200") {
                counts.slow.fetch_add(1, Ordering::Relaxed);
            }
            for _ in 0..20 {
                sleep(Duration::from_millis(250)).await;
                stream.read_exact(&mut some).await?;
            }
            io::Result::Ok(())
        };
        if exchange.await.is_err() {
            // The gateway may have had enough.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Asks for the very large value and reads none of it; then gives up and begins again.
pub(super) async fn read_nothing(address: SocketAddr, index: usize, counts: Arc<Counts>) {
    let asks = raw_request("/", &json!(["GET", HUGE]).to_string());
    // Not all at once.
    sleep(Duration::from_millis(index as u64 * 37 % 5_000)).await;
    loop {
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(4096)?;
            let mut stream = socket.connect(address).await?;
            stream.write_all(&asks).await?;
            let mut some = [0; 16];
            stream.read_exact(&mut some).await?;
            if some.starts_with(b"HTTP/1.1 200") {
                counts.deaf.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(10)).await;
            }
            io::Result::Ok(())
        };
        // Who is refused comes again, for there may be memory then.
        let _ = exchange.await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Leaves again and again, each time in another place.
pub(super) async fn leave_early(address: SocketAddr, index: usize, counts: Arc<Counts>) {
    let large = raw_request("/", &json!(["GET", LARGE]).to_string());
    let pipeline = raw_request("/pipeline", &json!(vec![["GET", MEDIUM]; 30]).to_string());
    let body = raw_request("/", &json!(["SET", "soak:never", "v".repeat(200_000)]).to_string());
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n\
         20000\r\n[\"SET\",\"soak:never\",\"vvvv"
    );
    let subscribe = format!(
        "POST /subscribe/soak HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n\
         accept: text/event-stream\r\ncontent-length: 0\r\n\r\n"
    );
    // The preface and settings of h2c, and then the beginning of a frame that never ends.
    let h2c = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\x04\0\0\0\x01";
    // What is sent, and how much of the answer is awaited.
    let ways: [(&[u8], usize); 8] = [
        (&body[..60], 0),
        (&body[..100_000], 0),
        (chunked.as_bytes(), 0),
        (&large, 10_000),
        (&large, 0),
        (&pipeline, 100),
        (subscribe.as_bytes(), 20),
        (h2c, 9),
    ];
    // Not all at once.
    sleep(Duration::from_millis(index as u64 * 37 % 1_000)).await;
    for turn in index.. {
        let (sent, awaited) = ways[turn % ways.len()];
        let exchange = async {
            let socket = TcpSocket::new_v4()?;
            // Who leaves first keeps the port for a minute, and one address has only so many.
            let host = u8::try_from(turn % 250).unwrap_or(0) + 1;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 7, host), 0)))?;
            let mut stream = socket.connect(address).await?;
            stream.write_all(sent).await?;
            let mut answer = vec![0; awaited];
            // Who subscribes may wait for a while; all others get that much at once.
            let _ = timeout(Duration::from_secs(2), stream.read_exact(&mut answer)).await;
            io::Result::Ok(())
        };
        if exchange.await.is_ok() {
            counts.left.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_secs(1)).await;
    }
}
