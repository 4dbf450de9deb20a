//! The vectors on the core with its embedded memory, compiled for this machine: the quickest way to hold a change against them.

#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tollgate_vectors::host::CoreAdapter;
use tollgate_vectors::{Plan, Target, files};

#[test]
fn vectors_pass_on_memory() {
    let plan = Plan::new(files::vectors().unwrap(), Target::Memory);
    let adapter = CoreAdapter::in_memory(plan.vectors()).unwrap();
    // Memory answers at once, so nothing is waited for.
    let running = pin!(plan.run(adapter));
    let Poll::Ready(summary) = running.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("memory keeps somebody waiting")
    };
    println!("{summary}");
    assert!(summary.failures.is_empty(), "{} failed, see above", summary.failures.len());
}
