//! The control path: who gets there, what each request does to the traffic, and that the description says the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod actions;
mod description;
mod document;
mod host;
mod spellings;
