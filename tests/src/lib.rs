//! The harness: starts the real parts of Tollgate on loopback and talks to them.
//!
//! A test, a demonstration or a measurement usually begins with a [`stack::Stack`] (Redis, the gateway, Envoys with the
//! filter and workerds with the Worker), sends requests with [`client`] or [`load`], and drops the stack, which stops every
//! process. Two parts are doubles, because no real part misbehaves on demand: [`store_double`] and [`upstream`]; a third is in
//! [`workerd`], because the dataset that a Worker writes data points to is Cloudflare's alone.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`tools`] | where the pinned programs and the built artefacts are |
//! | [`ports`] | free ports, and a clear error for a taken one |
//! | [`process`] | a child process: started, awaited, stopped, killed, restarted, never left behind |
//! | [`run_dir`] | a directory for one run's configuration and logs |
//! | [`redis`], [`gateway`], [`envoy`], [`workerd`] | the real parts |
//! | [`stack`] | all of them together |
//! | `topologies` | a Redis Cluster, a Sentinel set, certificates; a feature, for tests only |
//! | [`store_double`] | a store that fails as told |
//! | [`upstream`] | an origin that echoes what it received |
//! | [`documents`] | a server whose documents its clients write |
//! | [`client`], [`load`] | one request, raw bytes, many requests |
//! | [`soak`] | a gateway among clients of every kind for a long time |
//! | [`rest`] | commands to the gateway and what came of each |
//! | [`metrics`] | Envoy's Prometheus page as values |
//! | [`vectors`] | policies and requests with what must come of them, on the core and on Envoy |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test, and measurements are fractions"
)]

pub mod client;
pub mod documents;
pub mod envoy;
pub mod gateway;
pub mod load;
pub mod metrics;
pub mod ports;
pub mod process;
pub mod redis;
pub mod rest;
pub mod run_dir;
mod server;
pub mod soak;
pub mod stack;
pub mod store_double;
pub mod tools;
#[cfg(feature = "topologies")]
pub mod topologies;
pub mod upstream;
pub mod vectors;
pub mod workerd;
