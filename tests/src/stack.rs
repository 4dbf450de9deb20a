//! Redis, the gateway, Envoys with the filter and workerds with the Worker, together.
//!
//! When a part cannot start, the error names it, and what has been started is stopped.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::envoy::{self, Envoy, Filter, Listener};
use crate::gateway::{Gateway, TOKEN_VARIABLE};
use crate::ports;
use crate::process::Process;
use crate::redis::Redis;
use crate::run_dir;
use crate::tools;
use crate::workerd::{self, Worker, Workerd};

/// What to start.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// How many Envoys.
    pub replicas: u16,
    /// Workers beside them, or in their place.
    pub edge: Option<Edge>,
    /// Worker threads of each.
    pub concurrency: u32,
    /// The policy that every replica runs.
    pub policy: Value,
    /// Fields added to the plugin configuration beside `policy` and `store`, or into them.
    pub plugin: Value,
    /// Environment variables of the Envoys that the policy names.
    pub variables: Vec<(String, String)>,
    /// Where decisions are shared.
    pub store: StoreChoice,
    /// Whether the store may take 10 s, so that a busy machine does not look like a broken store; else what the hosts
    /// grant it by themselves. What `plugin` and `edge` say goes before.
    pub patient: bool,
    /// Replica i listens on this port plus i, Workers behind the Envoys; without it, on free ports.
    pub base_port: Option<u16>,
    /// What answers an admitted request.
    pub upstream: envoy::Upstream,
    /// How Envoy treats paths.
    pub paths: envoy::Paths,
    /// Whether Envoy takes the client's address from the connection.
    pub use_remote_address: bool,
    /// Whether Envoy speaks HTTP/2 to the store.
    pub store_http2: bool,
    /// More fields of Envoy's connection manager.
    pub manager: serde_json::Map<String, Value>,
    /// Clusters that the filter calls beside the store.
    pub clusters: Vec<envoy::Cluster>,
    /// Whether the filter is the build whose clock tests turn.
    pub test_clock: bool,
}

impl StackOptions {
    /// One replica with two worker threads, patient with a Redis of its own, free ports, and Envoy's own answer to what is
    /// admitted.
    pub fn new(policy: Value) -> StackOptions {
        StackOptions {
            replicas: 1,
            edge: None,
            concurrency: 2,
            policy,
            plugin: json!({}),
            variables: Vec::new(),
            store: StoreChoice::Redis,
            patient: true,
            base_port: None,
            upstream: envoy::Upstream::Direct,
            paths: envoy::Paths::Normalised,
            use_remote_address: true,
            store_http2: false,
            manager: serde_json::Map::new(),
            clusters: Vec::new(),
            test_clock: false,
        }
    }
}

/// Workers with the policy and the store of the stack.
#[derive(Debug, Clone)]
pub struct Edge {
    /// How many, each in a workerd of its own.
    pub instances: u16,
    /// What they guard.
    pub origin: SocketAddr,
    /// Variables added to those of the policy, the store and the origin, or in their place.
    pub variables: Vec<(String, String)>,
    /// Whether they write data points, to their log.
    pub metrics: bool,
    /// Whether it is the build whose clock tests turn, and which panics when asked to.
    pub test_clock: bool,
}

impl Edge {
    /// In front of `origin`, as it is shipped.
    pub fn new(instances: u16, origin: SocketAddr) -> Edge {
        Edge { instances, origin, variables: Vec::new(), metrics: false, test_clock: false }
    }

    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Edge {
        self.variables.push((name.to_owned(), value.into()));
        self
    }
}

/// Where decisions are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// A Redis started for this stack, behind a gateway.
    Redis,
    /// A Redis that runs already, behind a gateway.
    RedisUrl(String),
    /// Something else that speaks the dialect, such as a [`crate::store_double::StoreDouble`].
    Address(SocketAddr),
    /// Nowhere: each Envoy decides from its own memory.
    None,
}

/// Everything that runs. Dropping it stops every process.
#[derive(Debug)]
pub struct Stack {
    /// The Envoys, in the order of their ports.
    pub envoys: Vec<Envoy>,
    /// The workerds, in the order of their ports.
    pub workerds: Vec<Workerd>,
    /// The gateway, when there is a Redis.
    pub gateway: Option<Gateway>,
    /// The Redis, when it is the stack's own.
    pub redis: Option<Redis>,
    /// Where configurations and logs are.
    pub dir: PathBuf,
    /// What the gateway accepts as bearer token.
    pub token: String,
}

impl Stack {
    /// Starts the parts one after the other and returns when all of them answer.
    pub async fn start(options: StackOptions) -> Result<Stack> {
        let workers = options.edge.as_ref().map_or(0, |edge| edge.instances);
        ensure!(options.replicas > 0 || workers > 0, "a stack has at least one replica");
        let listeners = listener_ports(&options, options.replicas.saturating_add(workers))?;
        let (envoy_ports, worker_ports) = listeners.split_at(options.replicas.into());
        let dir = run_dir::create()?;
        let token = std::env::var(TOKEN_VARIABLE).unwrap_or_else(|_| random_token());
        let mut stack =
            Stack { envoys: Vec::new(), workerds: Vec::new(), gateway: None, redis: None, dir, token };

        let redis_url = match &options.store {
            StoreChoice::Redis => {
                let redis = Redis::start(&stack.dir, ports::free()?).await?;
                Some(stack.redis.insert(redis).url())
            }
            StoreChoice::RedisUrl(url) => Some(url.clone()),
            StoreChoice::Address(_) | StoreChoice::None => None,
        };
        if let Some(url) = redis_url {
            let gateway = Gateway::start(&stack.dir, ports::free()?, &url, &stack.token).await?;
            stack.gateway = Some(gateway);
        }
        let store = match &options.store {
            StoreChoice::Address(address) => Some(*address),
            _ => stack.gateway.as_ref().map(Gateway::address),
        };
        let plugin = plugin_config(&options, store.is_some());
        let store_cluster = store.map(|address| envoy::Cluster {
            name: STORE_CLUSTER.into(),
            address,
            http2: options.store_http2,
        });
        for (index, port) in envoy_ports.iter().enumerate() {
            let filter = if options.test_clock { Filter::TollgateTestClock } else { Filter::Tollgate };
            let mut listener = Listener::new(*port, options.upstream.clone()).with(filter(plugin.clone()));
            listener.paths = options.paths;
            listener.use_remote_address = options.use_remote_address;
            listener.manager = options.manager.clone();
            let token = (TOKEN_VARIABLE.to_owned(), stack.token.clone());
            let variables = options.variables.iter().cloned().chain([token]).collect();
            let envoy = envoy::Options {
                name: format!("envoy-{index}"),
                admin_port: ports::free()?,
                concurrency: options.concurrency,
                listeners: vec![listener],
                clusters: store_cluster.iter().chain(&options.clusters).cloned().collect(),
                variables,
            };
            stack.envoys.push(Envoy::start(&stack.dir, envoy).await?);
        }
        if let Some(edge) = &options.edge {
            let variables = variables(&options, edge, store, &stack.token);
            for (index, port) in worker_ports.iter().enumerate() {
                let worker = Worker { port: *port, variables: variables.clone(), metrics: edge.metrics };
                let options = workerd::Options {
                    name: format!("workerd-{index}"),
                    modules: if edge.test_clock { tools::worker_test_clock()? } else { tools::worker()? },
                    workers: vec![worker],
                };
                stack.workerds.push(Workerd::start(&stack.dir, &options).await?);
            }
        }
        Ok(stack)
    }

    /// Where the replicas listen, the Envoys first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let workers = self.workerds.iter().flat_map(|workerd| workerd.addresses().iter().copied());
        self.envoys.iter().map(Envoy::address).chain(workers).collect()
    }

    /// Every process, the store first.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let redis = self.redis.iter().map(|redis| &**redis);
        let gateway = self.gateway.iter().map(|gateway| &**gateway);
        let workerds = self.workerds.iter().map(|workerd| &**workerd);
        redis.chain(gateway).chain(self.envoys.iter().map(|envoy| &**envoy)).chain(workerds)
    }

    /// Waits until one of the processes ends, which none does by itself, and says which.
    pub async fn wait_for_an_end(&self) -> String {
        let mut waits = tokio::task::JoinSet::new();
        for process in self.processes() {
            let (name, wait) = (process.name().to_owned(), process.ending());
            waits.spawn(async move { format!("{name} ended ({})", wait.await) });
        }
        match waits.join_next().await {
            Some(Ok(sentence)) => sentence,
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // All at once; each one's own drop then waits for it.
        self.processes().for_each(Process::ask_to_end);
    }
}

fn listener_ports(options: &StackOptions, replicas: u16) -> Result<Vec<u16>> {
    let ports = (0..replicas).map(|index| match options.base_port {
        Some(base) => base.checked_add(index).with_context(|| format!("there is no port {base} + {index}")),
        None => ports::free(),
    });
    let ports = ports.collect::<Result<Vec<_>>>()?;
    for (index, port) in ports.iter().enumerate() {
        ports::expect_free(*port, &format!("replica {index}"))?;
    }
    Ok(ports)
}

/// What a Worker is told.
fn variables(
    options: &StackOptions,
    edge: &Edge,
    store: Option<SocketAddr>,
    token: &str,
) -> Vec<(String, String)> {
    let mut variables = vec![
        ("ORIGIN_URL", format!("http://{}", edge.origin)),
        ("TOLLGATE_POLICY", options.policy.to_string()),
    ];
    if let Some(store) = store {
        variables.push(("UPSTASH_REDIS_REST_URL", format!("http://{store}")));
        variables.push(("UPSTASH_REDIS_REST_TOKEN", token.to_owned()));
    }
    if options.patient {
        variables.push(("TOLLGATE_STORE_TIMEOUT", PATIENCE.to_owned()));
    }
    variables.retain(|(name, _)| edge.variables.iter().all(|(other, _)| other != name));
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    variables.chain(edge.variables.iter().cloned()).collect()
}

fn plugin_config(options: &StackOptions, with_store: bool) -> Value {
    let mut config = json!({ "policy": options.policy });
    if with_store {
        config["store"] = json!({
            "cluster": STORE_CLUSTER,
            "authority": "tollgate",
            "token_env": TOKEN_VARIABLE,
            "key_prefix": "tg",
        });
        if options.patient {
            config["store"]["timeout"] = PATIENCE.into();
        }
    }
    merge(&mut config, &options.plugin);
    config
}

/// Puts the fields of `from` into `into`, object by object.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A token nobody else knows; the standard library seeds its hashers from the system's randomness.
fn random_token() -> String {
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}

const STORE_CLUSTER: &str = "tollgate_store";

/// The most that a Worker can be told.
const PATIENCE: &str = "10s";
