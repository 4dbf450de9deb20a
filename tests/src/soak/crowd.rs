//! All clients at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use super::{Moment, Soak, SoakedGateway, polite, rude};
use crate::client::Answer;
use crate::load::{Load, Report, Running};

/// Everybody who is connected. Dropping it sends them away.
pub(super) struct Crowd {
    patient: Running,
    busy: Running,
    /// Slow, deaf and leaving clients.
    rude: JoinSet<()>,
    pub(super) counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) slow: AtomicU64,
    pub(super) deaf: AtomicU64,
    pub(super) left: AtomicU64,
}

impl Crowd {
    pub(super) fn gather(soak: &Soak, address: SocketAddr) -> Result<Crowd> {
        let checked = |who: &'static str, connections, pause| Load {
            connections,
            pause,
            timeout: PATIENCE,
            request: Arc::new(move |number| polite::request(who, number)),
            check: Some(Arc::new(move |number, answer: &Answer| polite::is_right(who, number, answer))),
            ..Load::new(vec![address], u64::MAX, "/")
        };
        let counts = Arc::new(Counts::default());
        let mut impolite = JoinSet::new();
        for index in 0..soak.slow {
            impolite.spawn(rude::read_slowly(address, index, Arc::clone(&counts)));
        }
        for index in 0..soak.deaf {
            impolite.spawn(rude::read_nothing(address, index, Arc::clone(&counts)));
        }
        for index in 0..soak.leaving {
            impolite.spawn(rude::leave_early(address, index, Arc::clone(&counts)));
        }
        Ok(Crowd {
            patient: checked("patient", soak.patient, soak.patience).start()?,
            busy: checked("busy", soak.busy, Duration::from_millis(5)).start()?,
            rude: impolite,
            counts,
        })
    }

    pub(super) fn moment(&self, at: Duration, gateway: &SoakedGateway) -> Result<Moment> {
        Ok(Moment {
            at,
            resident: gateway.process.resident_memory()?,
            descriptors: gateway.descriptors()?,
            answers: self.patient.total().answers() + self.busy.total().answers(),
            departures: self.counts.left.load(Ordering::Relaxed),
        })
    }

    pub(super) async fn leave(mut self) -> Result<[Report; 2]> {
        self.rude.shutdown().await;
        self.patient.stop();
        self.busy.stop();
        Ok([self.patient.finish().await?, self.busy.finish().await?])
    }
}

/// A machine with other work may keep clients waiting; here only wrong answers and memory count.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
