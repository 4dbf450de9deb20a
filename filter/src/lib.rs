//! Tollgate as a proxy-wasm filter.
//!
//! The filter decides nothing: it carries requests to the core and the core's operations to the store.
//!
//! Requests commit in groups, like transactions of a database. A callout belongs to the context that sent it and dies
//! with that stream, so only the root context of a worker thread calls the store: a request pushes its operations
//! to the root's queue and wakes it through a shared queue of one reader; by the time the root runs, at the next turn of
//! the thread's event loop, every request of this turn has queued. The root sends what is queued as one pipeline, and
//! when the answer comes it resumes or refuses each member under that member's own context.
//!
//! ```text
//! request ─▶ http: begin ─▶ queue ─┐                     ┌─▶ resume ─▶ upstream
//! request ─▶ http: begin ─▶ queue ─┼▶ root: one pipeline ┼─▶ resume ─▶ upstream
//! request ─▶ http: begin ─▶ queue ─┘      to the store   └─▶ refuse ─▶ 429
//! ```
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`config`] | the plugin configuration |
//! | [`root`] | configuration, the queue, calls in flight |
//! | [`http`] | one request and its response |
//! | [`commit`] | the queue, the calls, what becomes of members |
//! | [`host`] | everything that is asked of the host; nothing here panics on what a client sends |
//! | [`header_map`] | header fields, fetched at once |
//! | [`metrics`] | counters and histograms |
//! | [`shards`] | the embedded memory in the host's shared data, exact across worker threads |

mod commit;
mod config;
mod entry;
mod header_map;
mod host;
mod http;
mod metrics;
mod root;
mod shards;
