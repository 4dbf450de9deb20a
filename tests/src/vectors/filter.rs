//! A real Envoy with the built filter, in front of the real gateway and Redis.
//!
//! There is one Envoy with one listener for each vector, each with a plugin configuration of its own. What is not
//! as in production:
//! - **The clock.** The filter is built with the feature `test-clock`: it takes `now` from the request header
//!   `x-tollgate-test-now` and passes it on to the store, because nobody can turn the clocks of Envoy and Redis.
//! - **The network.** The road to the store is a forwarder that can be closed.
//! - **The peer.** Envoy is told to believe the header `x-tollgate-test-peer` about the other end of the connection, with its
//!   own extension for that, because all connections of a test come from loopback.
//! - **The upstream.** It answers as the step says.
//!
//! Envoy leaves paths as they are spelled, so that it is the filter's own normalisation that is seen.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tollgate_vectors::adapter::{Adapter, Answer};
use tollgate_vectors::format::{Step, Vector};
use tollgate_vectors::host::key_prefix;

use super::origin::Origin;
use super::redis::{GatewayStore, TOKEN};
use crate::envoy::{self, Listener, Options, Paths, Upstream};
use crate::gateway::TOKEN_VARIABLE;
use crate::process::{Process, Ready, Spec};
use crate::{ports, run_dir, tools};

/// Envoy with a listener for each vector.
#[derive(Debug)]
pub struct FilterAdapter {
    ports: Vec<u16>,
    store: GatewayStore,
    origin: Origin,
    envoy: Process,
}

impl FilterAdapter {
    /// Starts Redis, the gateway, an upstream and Envoy.
    pub async fn start(vectors: &[Vector]) -> Result<FilterAdapter> {
        let store = GatewayStore::start().await?;
        let origin = Origin::start().await?;
        let mut listeners = Vec::with_capacity(vectors.len());
        for (number, vector) in vectors.iter().enumerate() {
            let plugin = envoy::Filter::TollgateTestClock(plugin_config(number, vector));
            listeners.push(Listener {
                paths: Paths::Raw,
                use_remote_address: false,
                ..Listener::new(ports::free()?, Upstream::Address(origin.address())).with(plugin)
            });
        }
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
        let options = Options {
            name: "envoy".into(),
            admin_port: ports::free()?,
            concurrency: 1,
            listeners,
            clusters: vec![envoy::Cluster { name: CLUSTER.into(), address: store.address(), http2: false }],
            variables: vec![(TOKEN_VARIABLE.into(), TOKEN.into())],
        };
        let mut config = options.config()?;
        for (number, vector) in vectors.iter().enumerate() {
            let manager = manager(&mut config, number)?;
            believe_peer(manager);
            let vm = manager
                .pointer_mut("/http_filters/0/typed_config/config/vm_config")
                .context("a listener's first filter is wasm")?;
            vm["environment_variables"]["key_values"] = json!(vector.variables);
            vm["vm_id"] = json!(vm_id(vectors, number));
        }
        let envoy = start_envoy(&options, &config).await?;
        Ok(FilterAdapter { ports, store, origin, envoy })
    }
}

impl Adapter for FilterAdapter {
    async fn ask(&mut self, vector: usize, step: &Step) -> Result<Answer> {
        self.store.set_open(!step.store_down);
        let answer = self.origin.ask(ports::local(self.ports[vector]), step, PEER).await;
        answer.with_context(|| match self.envoy.ended() {
            Some(status) => format!("Envoy ended ({status})"),
            None => format!("see `{}`", self.envoy.log_path().display()),
        })
    }
}

fn plugin_config(number: usize, vector: &Vector) -> Value {
    let mut config = json!({
        "policy": vector.policy,
        "read_bodies": goes_by_bodies(&vector.policy),
        "denial_cache": { "keys": vector.denial_cache },
    });
    if let Some(max_age) = vector.denial_cache_max_age {
        config["denial_cache"]["max_age"] = max_age.to_string().into();
    }
    if !vector.without_store {
        config["store"] = json!({
            "cluster": CLUSTER,
            "authority": "tollgate",
            "token_env": TOKEN_VARIABLE,
            // Long enough for a busy machine; a road that is closed answers at once.
            "timeout": "5s",
            "clock": "host",
            "key_prefix": key_prefix(number),
            "replicas": vector.replicas,
            // A refund leaves after its refusal; with one call at a time the next request cannot overtake it.
            "calls_in_flight": 1,
        });
    }
    config
}

/// Whether a policy goes by bodies. The others run without, as most do.
fn goes_by_bodies(policy: &Value) -> bool {
    let text = policy.to_string();
    text.contains("body:/") || text.contains("\"idempotency\"")
}

/// The connection manager of a listener.
fn manager(config: &mut Value, number: usize) -> Result<&mut Value> {
    config
        .pointer_mut(&format!("/static_resources/listeners/{number}/filter_chains/0/filters/0/typed_config"))
        .context("a listener has an HTTP connection manager")
}

/// Lets the header name the peer.
fn believe_peer(manager: &mut Value) {
    manager["original_ip_detection_extensions"] = json!([{
        "name": "envoy.http.original_ip_detection.custom_header",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
            "header_name": PEER,
        },
    }]);
}

/// Vectors share a VM, whose environment is one. A plugin without a store, whose keys have no prefix of their own, has a VM of
/// its own, hence memory of its own.
fn vm_id(vectors: &[Vector], number: usize) -> String {
    let own = &vectors[number];
    let alike = |other: &Vector| !other.without_store && other.variables == own.variables;
    let first = if own.without_store { None } else { vectors.iter().position(alike) };
    key_prefix(first.unwrap_or(number))
}

async fn start_envoy(options: &Options, config: &Value) -> Result<Process> {
    let dir = run_dir::create()?;
    let file = dir.join("envoy.json");
    std::fs::write(&file, format!("{config:#}\n"))
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    let config = file.to_str().context("the run directory's name is not text")?;
    let args =
        ["--config-path", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"];
    Process::start(Spec {
        name: options.name.clone(),
        program: tools::envoy()?,
        args: args.map(Into::into).into(),
        env: options.variables.clone(),
        dir,
        ready: Ready::http(ports::local(options.admin_port), "/ready"),
        ready_within: Duration::from_secs(60),
    })
    .await
}

const CLUSTER: &str = "tollgate_store";
const PEER: &str = "x-tollgate-test-peer";
