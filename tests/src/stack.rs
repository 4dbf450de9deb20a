//! Redis, the gateway and Envoys with the filter, together.
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

/// What to start.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// How many Envoys.
    pub replicas: u16,
    /// Worker threads of each.
    pub concurrency: u32,
    /// The policy that every replica runs.
    pub policy: Value,
    /// Fields added to the plugin configuration beside `policy` and `store`, or into them.
    pub plugin: Value,
    /// Where decisions are shared.
    pub store: StoreChoice,
    /// Replica i listens on this port plus i; without it, on free ports.
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
}

impl StackOptions {
    /// One replica with two worker threads, a Redis of its own, free ports, and Envoy's own answer to what is admitted.
    pub fn new(policy: Value) -> StackOptions {
        StackOptions {
            replicas: 1,
            concurrency: 2,
            policy,
            plugin: json!({}),
            store: StoreChoice::Redis,
            base_port: None,
            upstream: envoy::Upstream::Direct,
            paths: envoy::Paths::Normalised,
            use_remote_address: true,
            store_http2: false,
            manager: serde_json::Map::new(),
        }
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
        ensure!(options.replicas > 0, "a stack has at least one replica");
        let listeners = listener_ports(&options)?;
        let dir = run_dir::create()?;
        let token = std::env::var(TOKEN_VARIABLE).unwrap_or_else(|_| random_token());
        let mut stack = Stack { envoys: Vec::new(), gateway: None, redis: None, dir, token };

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
        for (index, port) in listeners.into_iter().enumerate() {
            let mut listener =
                Listener::new(port, options.upstream.clone()).with(Filter::Tollgate(plugin.clone()));
            listener.paths = options.paths;
            listener.use_remote_address = options.use_remote_address;
            listener.manager = options.manager.clone();
            let envoy = envoy::Options {
                name: format!("envoy-{index}"),
                admin_port: ports::free()?,
                concurrency: options.concurrency,
                listeners: vec![listener],
                store: store.map(|address| envoy::Store {
                    cluster: STORE_CLUSTER.into(),
                    address,
                    http2: options.store_http2,
                }),
                token: Some(stack.token.clone()),
            };
            stack.envoys.push(Envoy::start(&stack.dir, envoy).await?);
        }
        Ok(stack)
    }

    /// Where the replicas listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.envoys.iter().map(Envoy::address).collect()
    }

    /// Every process, the store first.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let redis = self.redis.iter().map(|redis| &**redis);
        let gateway = self.gateway.iter().map(|gateway| &**gateway);
        redis.chain(gateway).chain(self.envoys.iter().map(|envoy| &**envoy))
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

fn listener_ports(options: &StackOptions) -> Result<Vec<u16>> {
    let ports = (0..options.replicas).map(|index| match options.base_port {
        Some(base) => base.checked_add(index).with_context(|| format!("there is no port {base} + {index}")),
        None => ports::free(),
    });
    let ports = ports.collect::<Result<Vec<_>>>()?;
    for (index, port) in ports.iter().enumerate() {
        ports::expect_free(*port, &format!("envoy-{index}"))?;
    }
    Ok(ports)
}

fn plugin_config(options: &StackOptions, with_store: bool) -> Value {
    let mut config = json!({ "policy": options.policy });
    if with_store {
        config["store"] = json!({
            "cluster": STORE_CLUSTER,
            "authority": "tollgate",
            "token_env": TOKEN_VARIABLE,
            "timeout": "50ms",
            "key_prefix": "tg",
        });
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
