//! A real Envoy: its configuration as JSON, its process, and what its admin page tells.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client;
use crate::metrics::Metrics;
use crate::ports;
use crate::process::{Process, Ready, Spec};
use crate::tools;

/// What an Envoy runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What errors and the log file call it.
    pub name: String,
    /// Where its admin page listens, on loopback.
    pub admin_port: u16,
    /// How many worker threads it has; each has a VM of its own.
    pub concurrency: u32,
    /// The ports that it serves.
    pub listeners: Vec<Listener>,
    /// The clusters that the filter calls.
    pub clusters: Vec<Cluster>,
    /// Environment variables that filters may read, such as [`TOKEN_VARIABLE`](crate::gateway::TOKEN_VARIABLE).
    pub variables: Vec<(String, String)>,
}

/// One port.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The port, on loopback.
    pub port: u16,
    /// The HTTP filters in front of the router, in order.
    pub filters: Vec<Filter>,
    /// What answers an admitted request.
    pub upstream: Upstream,
    /// How Envoy treats the path before the filters see it.
    pub paths: Paths,
    /// Whether the client's address is the connection's; otherwise Envoy believes `x-forwarded-for`.
    pub use_remote_address: bool,
    /// The largest request head in kilobytes.
    pub max_request_headers_kb: u32,
    /// More fields of Envoy's connection manager, or others in place of those above.
    pub manager: serde_json::Map<String, Value>,
}

impl Listener {
    /// A port without filters, with paths normalised and the client's address taken from the connection.
    pub fn new(port: u16, upstream: Upstream) -> Listener {
        Listener {
            port,
            filters: Vec::new(),
            upstream,
            paths: Paths::Normalised,
            use_remote_address: true,
            max_request_headers_kb: 96,
            manager: serde_json::Map::new(),
        }
    }

    /// With one more filter, behind those that are there.
    #[must_use]
    pub fn with(mut self, filter: Filter) -> Listener {
        self.filters.push(filter);
        self
    }
}

/// An HTTP filter.
#[derive(Debug, Clone)]
pub enum Filter {
    /// The built Tollgate filter with its plugin configuration.
    Tollgate(Value),
    /// The same, built with the clock that tests turn.
    TollgateTestClock(Value),
    /// Any other wasm file, with a configuration if it has one.
    Wasm {
        /// The file.
        path: PathBuf,
        /// What it is told.
        config: Option<Value>,
    },
    /// Envoy's own limiter, with a bucket per process that this load does not empty.
    LocalRateLimit {
        /// The bucket, also its refill each second.
        per_second: u32,
    },
    /// A filter as Envoy's configuration has it.
    Other(Value),
}

/// What answers an admitted request.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Envoy itself, 200 with `ok`.
    Direct,
    /// The server at this address.
    Address(SocketAddr),
}

/// How Envoy treats paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// Dot segments resolved, slashes merged, encoded slashes decoded.
    Normalised,
    /// As the client spelled them, so that the filter's own normalisation is what counts.
    Raw,
}

/// A cluster that the filter calls, such as the store's.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name in the plugin configuration.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether Envoy speaks HTTP/2 to it instead of HTTP/1.1.
    pub http2: bool,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    ports: Vec<u16>,
}

impl Envoy {
    /// Writes the configuration to `dir`, starts it and waits until it serves.
    pub async fn start(dir: &Path, options: Options) -> Result<Envoy> {
        ensure!(!options.listeners.is_empty(), "{} has no listener", options.name);
        let ports: Vec<u16> = options.listeners.iter().map(|listener| listener.port).collect();
        for port in &ports {
            ports::expect_free(*port, &options.name)?;
        }
        let config = dir.join(format!("{}.json", options.name));
        let text = format!("{:#}\n", options.config()?);
        std::fs::write(&config, text).with_context(|| format!("cannot write `{}`", config.display()))?;
        let admin = ports::local(options.admin_port);
        let concurrency = options.concurrency.to_string();
        let args = [
            "--config-path",
            config.to_str().context("the run directory's name is not text")?,
            "--concurrency",
            &concurrency,
            // Hot restart would leave a shared memory segment behind for every run.
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--component-log-level",
            "wasm:info",
        ];
        let process = Process::start(Spec {
            name: options.name,
            program: tools::envoy()?,
            args: args.iter().map(Into::into).collect(),
            env: options.variables,
            dir: dir.to_path_buf(),
            ready: Ready::http(admin, "/ready"),
            ready_within: Duration::from_secs(30),
        });
        Ok(Envoy { process: process.await?, admin, ports })
    }

    /// Where its first listener is.
    pub fn address(&self) -> SocketAddr {
        ports::local(self.ports[0])
    }

    /// Where its listeners are.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().copied().map(ports::local).collect()
    }

    /// Where its admin page is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its metrics now. Envoy's own histograms are gathered from the worker threads because of a reading and after it,
    /// so the page is read twice; on busy threads they may still lag. Counters and gauges do not.
    pub async fn metrics(&self) -> Result<Metrics> {
        client::get(self.admin, "/stats/prometheus", &[]).await?;
        let answer = client::get(self.admin, "/stats/prometheus", &[]).await?;
        ensure!(answer.status.is_success(), "the admin page answered {}", answer.status);
        Ok(Metrics::parse(&answer.text()))
    }

    /// The bytes that its allocator has handed out, without those of the wasm VMs' own memories.
    pub async fn allocated_memory(&self) -> Result<u64> {
        let memory = client::get(self.admin, "/memory", &[]).await?.json()?;
        let allocated = memory["allocated"].as_str().and_then(|text| text.parse().ok());
        allocated.with_context(|| format!("no `allocated` in {memory}"))
    }
}

impl Deref for Envoy {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Envoy {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Options {
    /// The configuration that Envoy is started with.
    pub fn config(&self) -> Result<Value> {
        let variables: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        let listeners = self.listeners.iter().map(|listener| listener.config(&variables));
        let listeners = listeners.collect::<Result<Vec<_>>>()?;
        let mut clusters: Vec<Value> = self.listeners.iter().filter_map(Listener::cluster).collect();
        clusters
            .extend(self.clusters.iter().map(|called| cluster(&called.name, called.address, called.http2)));
        Ok(json!({
            "admin": { "address": socket_address(self.admin_port) },
            "stats_config": { "stats_tags": stats_tags() },
            // Histograms are otherwise gathered every five seconds.
            "stats_flush_on_admin": true,
            "static_resources": { "listeners": listeners, "clusters": clusters },
        }))
    }
}

impl Listener {
    fn config(&self, variables: &[&str]) -> Result<Value> {
        let filters = self.filters.iter().map(|filter| filter.config(variables));
        let mut filters = filters.collect::<Result<Vec<_>>>()?;
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }));
        let mut route = json!({ "match": { "prefix": "/" } });
        let (kind, action) = match &self.upstream {
            Upstream::Direct => {
                ("direct_response", json!({ "status": 200, "body": { "inline_string": "ok" } }))
            }
            Upstream::Address(_) => ("route", json!({ "cluster": self.cluster_name() })),
        };
        route[kind] = action;
        let normalised = self.paths == Paths::Normalised;
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": format!("port_{}", self.port),
            "use_remote_address": self.use_remote_address,
            "normalize_path": normalised,
            "merge_slashes": normalised,
            "path_with_escaped_slashes_action": if normalised { "UNESCAPE_AND_FORWARD" } else { "KEEP_UNCHANGED" },
            "generate_request_id": false,
            "max_request_headers_kb": self.max_request_headers_kb,
            "http_filters": filters,
            "route_config": {
                "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }],
            },
        });
        manager.as_object_mut().context("an object")?.extend(self.manager.clone());
        Ok(json!({
            "name": format!("port_{}", self.port),
            "address": socket_address(self.port),
            "filter_chains": [{
                "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
            }],
        }))
    }

    fn cluster(&self) -> Option<Value> {
        match self.upstream {
            Upstream::Direct => None,
            Upstream::Address(address) => Some(cluster(&self.cluster_name(), address, false)),
        }
    }

    fn cluster_name(&self) -> String {
        format!("upstream_of_{}", self.port)
    }
}

impl Filter {
    fn config(&self, variables: &[&str]) -> Result<Value> {
        Ok(match self {
            Filter::Tollgate(config) => wasm("tollgate", &tools::filter_wasm()?, Some(config), variables)?,
            Filter::TollgateTestClock(config) => {
                wasm("tollgate", &tools::filter_test_clock_wasm()?, Some(config), variables)?
            }
            Filter::Wasm { path, config } => {
                let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("wasm");
                wasm(name, path, config.as_ref(), variables)?
            }
            Filter::LocalRateLimit { per_second } => json!({
                "name": "envoy.filters.http.local_ratelimit",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                    "stat_prefix": "local_ratelimit",
                    "token_bucket": {
                        "max_tokens": per_second, "tokens_per_fill": per_second, "fill_interval": "1s",
                    },
                    "filter_enabled": all_requests(),
                    "filter_enforced": all_requests(),
                },
            }),
            Filter::Other(config) => config.clone(),
        })
    }
}

/// A plugin that is told to read bodies may.
fn wasm(name: &str, path: &Path, config: Option<&Value>, variables: &[&str]) -> Result<Value> {
    ensure!(path.is_file(), "there is no wasm file `{}`", path.display());
    let mut plugin = json!({
        "name": name,
        "root_id": name,
        "failure_policy": "FAIL_CLOSED",
        "vm_config": {
            "vm_id": name,
            "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": path } },
        },
    });
    if let Some(config) = config {
        if config["read_bodies"] == true {
            plugin["allow_on_headers_stop_iteration"] = json!(true);
        }
        plugin["configuration"] = json!({
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": config.to_string(),
        });
        // Only the variables' names are in the configuration; their values come from Envoy's own environment.
        plugin["vm_config"]["environment_variables"] = json!({ "host_env_keys": variables });
    }
    Ok(json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": plugin,
        },
    }))
}

fn cluster(name: &str, address: SocketAddr, http2: bool) -> Value {
    let protocol = if http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let roomy = |priority: &str| {
        json!({
            "priority": priority, "max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536,
        })
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "circuit_breakers": { "thresholds": [roomy("DEFAULT"), roomy("HIGH")] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { protocol: {} },
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": address.ip().to_string(), "port_value": address.port() },
            } } }] }],
        },
    })
}

/// The parts of a wasm metric's name that become Prometheus labels: `….limit.per-client` is `{limit="per-client"}`.
/// The first group of a pattern is cut out of the name, the second is the label's value, which may hold dots.
fn stats_tags() -> Value {
    let tag =
        |name: &str, regex: &str| json!({ "tag_name": name, "regex": format!(r"^wasmcustom\.{regex}") });
    json!([
        tag("limit", r"rate_limit_\w+(\.limit\.(.+))$"),
        tag("mode", r"rate_limit_\w+(\.mode\.(.+))$"),
        tag("kind", r"(?:redis|guard)_\w+(\.kind\.(\w+))"),
        tag("name", r"guard_\w+\.kind\.\w+(\.name\.(.+))$"),
        tag("le", r"redis_\w+(\.le\.(.+))$"),
    ])
}

fn all_requests() -> Value {
    json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } })
}

fn socket_address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}
