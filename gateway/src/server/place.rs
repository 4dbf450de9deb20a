//! Places: what is under way at once.
//!
//! These, and the memory that is taken, are the only numbers that all threads share on the way of a request.

use std::sync::Arc;

use super::Shared;
use crate::config::Limits;
use crate::memory::Gauge;

/// A place among the requests or streams under way, of a token and of all.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    tenant: usize,
    among: Among,
}

/// What a place is among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// Requests.
    Requests,
    /// Subscriptions and monitors.
    Streams,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The token has too many.
    Token,
    /// All together have too many.
    All,
}

impl Place {
    /// Takes a place for the token of this number.
    pub(crate) fn take(shared: &Arc<Shared>, tenant: usize, among: Among) -> Result<Self, Full> {
        let (own, all) = among.gauges(shared, tenant).ok_or(Full::All)?;
        if !own.take(1) {
            return Err(Full::Token);
        }
        if !all.take(1) {
            own.give_back(1);
            return Err(Full::All);
        }
        Ok(Self { shared: Arc::clone(shared), tenant, among })
    }
}

/// A request that is read and not answered yet, with or without a token. Connections over HTTP/2 may
/// begin so many at once that what is known of them takes more memory than there is.
#[derive(Debug)]
pub(crate) struct Begun(Arc<Shared>);

impl Begun {
    /// Nothing where there are too many.
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        shared.begun.take(1).then(|| Self(Arc::clone(shared)))
    }

    /// How many there may be: those with a place, one for each connection, and some more.
    pub(crate) fn most(limits: &Limits) -> usize {
        limits.in_flight + limits.streams + limits.connections + BEGUN
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.begun.give_back(1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((own, all)) = self.among.gauges(&self.shared, self.tenant) {
            own.give_back(1);
            all.give_back(1);
        }
    }
}

impl Among {
    /// Those of the token, and of all tokens.
    fn gauges(self, shared: &Shared, tenant: usize) -> Option<(&Gauge, &Gauge)> {
        let tenant = shared.tenants.get(tenant)?;
        Some(match self {
            Self::Requests => (&tenant.in_flight, &shared.in_flight),
            Self::Streams => (&tenant.streams, &shared.streams),
        })
    }
}

/// Requests without a place, besides one for each connection.
const BEGUN: usize = 4096;
