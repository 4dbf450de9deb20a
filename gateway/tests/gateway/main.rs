//! The gateway in front of a real Redis, over real sockets.
//!
//! Every test starts its own `redis-server`, which `cargo xtask setup` installs, on a port of its own, so all can run at
//! once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what it is for"
)]

mod anything;
mod browsers;
mod commands;
mod dialect;
mod listening;
mod memory;
mod operation;
mod outages;
mod paths;
mod pressure;
mod program;
mod stage;
mod streams;
mod support;
mod tokens;
mod topologies;
mod wire;
