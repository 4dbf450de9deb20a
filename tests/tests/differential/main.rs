//! The two interpreters of store operations against each other: the embedded memory, and Redis by way of the scripts.
//!
//! Random sequences of operations must have equal outcomes on both. Time is virtual: scripts are given the time, so nothing
//! waits, and the clock sometimes steps back. Redis gets the commands that a host would post, [`Pipeline::body`], as commands.
//!
//! `TOLLGATE_DIFFERENTIAL_CASES` sets the number of sequences of each test, `TOLLGATE_DIFFERENTIAL_SEED` the seed of the
//! first one.
//!
//! What keeps Redis' real expiry out of virtual time: a counter lives for at least its window in real time, windows
//! here have 10 s or more, everything else lives for a minute or more, and a sequence takes milliseconds.
//!
//! [`Pipeline::body`]: tollgate_shared::redis::Pipeline::body

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod guards;
mod limits;
mod random;
mod sequence;
mod store;

/// Midnight UTC of a day in 2027.
const BASE: u64 = 20_834 * 86_400_000;
