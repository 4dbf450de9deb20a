//! A real Redis behind the real gateway, in the place of the core's store.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::{Op, StoreError};
use tollgate_shared::time::Timestamp;
use tollgate_vectors::host::Store;

use super::forwarder::Forwarder;
use crate::gateway::Gateway;
use crate::redis::Redis;
use crate::{client, ports, run_dir};

/// A real Redis behind the real gateway, and a road there that can be closed.
#[derive(Debug)]
pub struct GatewayStore {
    road: Forwarder,
    _gateway: Gateway,
    _redis: Redis,
}

impl GatewayStore {
    pub(super) async fn start() -> Result<GatewayStore> {
        let dir = run_dir::create()?;
        let redis = Redis::start(&dir, ports::free()?).await?;
        let gateway = Gateway::start(&dir, ports::free()?, &redis.url(), TOKEN).await?;
        let road = Forwarder::start(gateway.address()).await?;
        Ok(GatewayStore { road, _gateway: gateway, _redis: redis })
    }

    /// Where the road to the gateway begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.road.address()
    }

    /// Waits until nobody asks any more, and nobody is answered.
    pub(super) async fn quiet(&self) {
        self.road.quiet().await;
    }

    pub(super) fn set_open(&self, open: bool) {
        self.road.set_open(open);
    }
}

impl Store for GatewayStore {
    async fn perform(&mut self, ops: &[Op], down: bool, now: Timestamp) -> Outcomes {
        self.set_open(!down);
        let mut pipeline = Pipeline::new(vec![ops]);
        loop {
            let body = pipeline.body(Clock::Host(now));
            let progress = match post(self.address(), body).await {
                Ok((status, body)) => pipeline.receive(status, &body),
                Err(_) => pipeline.fail(&StoreError::Unreachable),
            };
            if progress == Progress::Done {
                return pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect();
            }
        }
    }
}

async fn post(address: SocketAddr, body: String) -> Result<(u16, Bytes)> {
    let request = Request::post("/pipeline")
        .header("host", "tollgate")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let answer = client::send(address, request).await?;
    Ok((answer.status.as_u16(), answer.body))
}

/// What the gateway accepts as bearer token.
pub(super) const TOKEN: &str = "vectors";
