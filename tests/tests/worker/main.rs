//! The Worker in a real workerd, in front of an origin, with a real gateway and Redis behind it.
//!
//! | module | what it shows |
//! | --- | --- |
//! | [`configuration`] | what is wrong is named and nobody passes; `wrangler.toml` does what it says |
//! | [`control`] | the control path, the log and the data points |
//! | [`exactness`] | one limit for workerds and Envoys, to the last request |
//! | [`failures`] | the store, the origin, clients and the Worker itself fail |
//! | [`forwarding`] | what is let through arrives as it was sent, and so does its answer |
//! | [`operators`] | what is done by name on the control path holds for all |
//! | [`guards`] | tokens, revocations, locks, duplicates and breakers, over two Workers |
//! | [`keys`] | keys of tokens are fetched, replaced, and fail to come |
//! | [`mesh_and_edge`] | the same over two Envoys and a Worker |
//! | [`panics`] | what a panic costs a request that holds something |
//!
//! Doubles stand only where no real part does what is needed on demand: the origin, a store that fails as told, and the dataset
//! of Analytics Engine, which exists at Cloudflare alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod configuration;
mod control;
mod exactness;
mod failures;
mod forwarding;
mod guards;
mod keys;
mod mesh_and_edge;
mod operators;
mod panics;
#[path = "../support/mod.rs"]
mod support;
mod urls;
#[path = "../support/walk.rs"]
mod walk;

use std::net::SocketAddr;

use serde_json::Value;
use tollgate_tests::ports;
use tollgate_tests::stack::{Edge, Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::Upstream;

/// A Worker, the origin behind it, and what they need.
#[derive(Debug)]
struct Site {
    stack: Stack,
    origin: Upstream,
}

impl Site {
    /// One Worker with a Redis of its own.
    async fn start(policy: Value) -> Site {
        Site::start_with(policy, StoreChoice::Redis, |edge| edge).await
    }

    /// One Worker, which `change` tells more.
    async fn start_with(policy: Value, store: StoreChoice, change: impl FnOnce(Edge) -> Edge) -> Site {
        let origin = Upstream::start(ports::free().unwrap()).await.unwrap();
        let edge = Some(change(Edge::new(1, origin.address())));
        let options = StackOptions { replicas: 0, edge, store, ..StackOptions::new(policy) };
        Site { stack: Stack::start(options).await.unwrap(), origin }
    }

    fn address(&self) -> SocketAddr {
        self.stack.addresses()[0]
    }

    /// Everything that the Worker has written.
    fn log(&self) -> String {
        self.stack.workerds[0].log()
    }
}
