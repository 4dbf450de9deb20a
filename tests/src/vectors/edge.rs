//! A real workerd with the built Worker, in front of the real gateway and Redis.
//!
//! There is one workerd with one Worker for each vector, each with variables of its own. What is not as in production:
//! - **The clock.** The Worker is built with the feature `test-clock`: it takes `now` from the request header
//!   `x-tollgate-test-now` and passes it on to the store, because nobody can turn the clocks of workerd and Redis.
//! - **The network.** The road to the store is a forwarder that can be closed.
//! - **The peer.** The client writes `cf-connecting-ip`, which Cloudflare's own front would.

use anyhow::{Context as _, Result};
use tollgate_vectors::adapter::{Adapter, Answer};
use tollgate_vectors::format::{Step, Vector};
use tollgate_vectors::host::key_prefix;

use super::origin::Origin;
use super::redis::{GatewayStore, TOKEN};
use crate::workerd::{Options, Worker, Workerd};
use crate::{run_dir, tools};

/// Workerd with a Worker for each vector.
#[derive(Debug)]
pub struct EdgeAdapter {
    workerd: Workerd,
    store: GatewayStore,
    origin: Origin,
}

impl EdgeAdapter {
    /// Starts Redis, the gateway, an origin and workerd.
    pub async fn start(vectors: &[Vector]) -> Result<EdgeAdapter> {
        let store = GatewayStore::start().await?;
        let origin = Origin::start().await?;
        let (origin_url, store_url) =
            (format!("http://{}", origin.address()), format!("http://{}", store.address()));
        let mut workers = Vec::with_capacity(vectors.len());
        for (number, vector) in vectors.iter().enumerate() {
            let mut worker = Worker::new([
                ("ORIGIN_URL", origin_url.clone()),
                ("TOLLGATE_POLICY", vector.policy.to_string()),
                ("TOLLGATE_DENIAL_CACHE", vector.denial_cache.to_string()),
                ("TOLLGATE_REPLICAS", vector.replicas.to_string()),
                ("TOLLGATE_KEY_PREFIX", key_prefix(number)),
                ("TOLLGATE_STORE_CLOCK", "host".to_owned()),
                // Long enough for a busy machine; a road that is closed answers at once.
                ("TOLLGATE_STORE_TIMEOUT", "5s".to_owned()),
            ])?;
            if let Some(max_age) = vector.denial_cache_max_age {
                worker.variables.push(("TOLLGATE_DENIAL_CACHE_MAX_AGE".to_owned(), max_age.to_string()));
            }
            if !vector.without_store {
                let store = [("UPSTASH_REDIS_REST_URL", &*store_url), ("UPSTASH_REDIS_REST_TOKEN", TOKEN)];
                worker.variables.extend(store.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            worker.variables.extend(vector.variables.clone());
            workers.push(worker);
        }
        let modules = tools::worker_test_clock()?;
        let options = Options { name: "workerd".into(), modules, workers };
        let workerd = Workerd::start(&run_dir::create()?, &options).await?;
        Ok(EdgeAdapter { workerd, store, origin })
    }
}

impl Adapter for EdgeAdapter {
    async fn ask(&mut self, vector: usize, step: &Step) -> Result<Answer> {
        self.store.set_open(!step.store_down);
        let answer = self.origin.ask(self.workerd.addresses()[vector], step, "cf-connecting-ip").await;
        // What is told behind an answer must not be overtaken by the next request.
        self.store.quiet().await;
        answer.with_context(|| match self.workerd.ended() {
            Some(status) => format!("workerd ended ({status})"),
            None => format!("see `{}`", self.workerd.log_path().display()),
        })
    }
}
