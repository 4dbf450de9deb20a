//! Tollgate's decision core.
//!
//! This crate performs no I/O, reads no clock, draws no randomness, starts no thread and keeps no global. It is
//! `no_std` without a switch, and it cannot panic on input. What it does: it compiles a [policy](policy::Policy) once,
//! and turns every request into a decision: begun in one call, resumed in another if the store has to be asked.
//!
//! ```text
//! Request ─▶ begin(policy, local, request, now) ─▶ Step::Call(call)  ── the host performs call.batch() ──┐
//!                                                   ▲                                                     │
//!                                                   └── call.resume(local, Vec<Result<Outcome>>, now) ◀───┘
//!                                                 ─▶ Step::Decide(decision)   answer, or forward the request
//! decision.settle(now) ─▶ Vec<Op>                     to the store, without waiting
//! ```
//!
//! **An exchange has at most one call outstanding.** Store operations are data ([`store::Op`]) with two interpreters:
//! [`store::Memory`] and Redis over REST ([`redis`]). Only the store can fail; `on_store_error` of each limit
//! turns that into a decision, so after a policy compiles, deciding cannot fail.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`config`] | the policy as written: JSON types, bounds, errors that name the field |
//! | [`policy`] | the policy as compiled: routes, limits, answers |
//! | [`path`], [`router`] | normalised paths and the route they lead to |
//! | [`request`], [`client_ip`], [`key`] | what is read of a request, and the digest that becomes a key |
//! | [`rate_limit`] | quotas and the four algorithms |
//! | [`id`] | names of holders, reporters and fingerprints |
//! | [`store`] | operations, outcomes, the embedded memory |
//! | [`redis`] | commands, scripts, and the Upstash REST dialect, both directions |
//! | [`exchange`] | `begin`, `resume`, `settle` |
//! | [`by_name`], [`control`] | what people and programs do with limits and guards by name; the same over HTTP |
//! | [`local`] | what a host remembers between requests: denials, the store's health, the memory to fall back on |
//! | [`answer`] | statuses, header fields and bodies that clients see |
//! | `json` | what a body or a token says, without a copy of the whole |
//!
//! With the feature `guards` there are also `lease` and `idempotency` (who may do something, and what became of it the first time),
//! `circuit_breaker` (whether an upstream is left alone), `revocation` (tokens that are valid no more) and `jwt` (tokens: found,
//! parsed, verified, and their claims checked). No policy speaks of these yet, so no host is built with them.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod answer;
pub mod by_name;
pub mod circuit_breaker;
pub mod client_ip;
pub mod config;
pub mod control;
pub mod exchange;
pub mod id;
pub mod idempotency;
mod json;
pub mod jwt;
pub mod key;
pub mod lease;
pub mod local;
pub mod path;
pub mod policy;
pub mod rate_limit;
pub mod redis;
pub mod request;
pub mod revocation;
pub mod router;
pub mod store;
pub mod time;
