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
//! Where the policy goes by bodies, a request is paused until as much of its body has come as the core looks at; that stays in the host's
//! buffer and goes on with the rest. A request of the control path is answered here, and what it asks the store travels with the others.
//!
//! What a request leaves to be done meets its response: whether a logout's answer may go is asked in the same way while the
//! response is paused, and what a breaker, a limit or a lock is told afterwards rides along in the next pipeline.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`config`] | the plugin configuration |
//! | [`exports`] | what the host calls in the place of the SDK's functions |
//! | [`root`] | configuration, and the events of a worker thread |
//! | [`http`] | the events of one request and its response |
//! | [`exchange`] | the decision about a request, its answer, its end |
//! | [`control`] | the control path |
//! | [`keys`] | keys of tokens, fetched once for all who wait for them |
//! | [`commit`] | the calls, and what becomes of their members |
//! | [`queue`] | who waits for the store |
//! | [`later`] | who waits for a lock |
//! | [`thread`] | what a worker thread's root and requests share |
//! | [`host`] | everything that is asked of the host; nothing here panics on what a client sends |
//! | [`header_map`] | header fields, fetched at once |
//! | [`metadata`] | what `jwt_authn` has verified |
//! | [`metrics`] | counters and histograms |
//! | [`shards`] | the embedded memory in the host's shared data, exact across worker threads |

mod commit;
mod config;
mod control;
mod entry;
mod exchange;
mod exports;
mod header_map;
mod host;
mod http;
mod keys;
mod later;
mod metadata;
mod metrics;
mod queue;
mod root;
mod shards;
mod thread;
