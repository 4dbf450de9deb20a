//! Tollgate at the edge: for runtimes that speak `fetch`.
//!
//! Nothing is decided here: requests are carried to the core, and the core's operations to the store, one call for each decision
//! whose route claims nothing.
//!
//! ```text
//! request ─▶ head ─▶ guard: begin ─▶ store: one POST ─▶ guard: resume ─┬─▶ origin ─▶ after ─▶ answer with header fields
//!                                                                       └─▶ 429; what was charged is given back behind it
//! ```
//!
//! JavaScript carries a request from one call of Rust to the next: what waits there, waits here under a ticket.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`after`] | what is left to do with an answer, and to tell the store |
//! | [`answers`] | answers that no policy has a part in |
//! | [`guard`] | a policy, what this isolate remembers, the way to the store |
//! | [`head`] | the head of a request |
//! | [`settings`] | what a guard is told beside its policy |
//! | [`store`] | one call to the store |
//! | [`host`] | everything that is asked of the runtime |
//! | [`tickets`] | what waits outside of wasm |
//! | `worker` | the Cloudflare Worker, with the feature `worker` |
//! | `package` | what the npm package calls, with the feature `package` |

#![cfg_attr(
    not(all(feature = "package", feature = "worker")),
    allow(
        dead_code,
        reason = "either host leaves something to the other; with both features nothing is left over"
    )
)]

mod after;
mod answers;
mod guard;
mod head;
mod host;
#[cfg(feature = "package")]
pub mod package;
mod settings;
mod store;
mod tickets;
#[cfg(feature = "worker")]
mod worker;
