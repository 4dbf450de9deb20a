//! Places: what is under way at once, and the memory it takes.
//!
//! These are the only numbers that all threads share on the way of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shared;

/// How many of something there are, and how many there may be.
#[derive(Debug)]
pub(crate) struct Gauge {
    count: AtomicUsize,
    most: usize,
}

impl Gauge {
    pub(crate) fn new(most: usize) -> Self {
        Self { count: AtomicUsize::new(0), most }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Takes `more` if that is not too much.
    pub(super) fn take(&self, more: usize) -> bool {
        let before = self.count.fetch_add(more, Ordering::Relaxed);
        let fits = before.saturating_add(more) <= self.most;
        if !fits {
            self.give_back(more);
        }
        fits
    }

    /// Whether there is no room for any more.
    pub(super) fn is_full(&self) -> bool {
        self.count() >= self.most
    }

    fn add(&self, more: usize) {
        self.count.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }
}

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

/// Memory that a request body or an answer takes, as far as it is more than [`FREE`].
#[derive(Debug)]
pub(crate) struct Grant {
    shared: Arc<Shared>,
    taken: usize,
}

impl Grant {
    /// For an answer of this size, which is there already, whether there is memory for it or not. What is left for requests is
    /// less by that.
    pub(crate) fn held(shared: &Arc<Shared>, size: usize) -> Option<Self> {
        let taken = size.checked_sub(FREE)?;
        shared.memory.add(taken);
        Some(Self { shared: Arc::clone(shared), taken })
    }

    /// None yet.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), taken: 0 }
    }

    /// Whether there is memory for a body that has grown to `size`.
    pub(crate) fn grow(&mut self, size: usize) -> bool {
        let more = size.saturating_sub(FREE).saturating_sub(self.taken);
        if more == 0 {
            return true;
        }
        let granted = self.shared.memory.take(more);
        if granted {
            self.taken += more;
        }
        granted
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.shared.memory.give_back(self.taken);
        }
    }
}

/// What every request may take without asking: the number of requests bounds it.
const FREE: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_gives_what_it_has_and_takes_it_back() {
        let gauge = Gauge::new(3);
        assert!(gauge.take(2) && !gauge.take(2) && gauge.take(1) && !gauge.take(1));
        gauge.give_back(2);
        assert!(gauge.take(2) && gauge.count() == 3);
        assert!(!gauge.take(usize::MAX - 3), "no overflow");
    }
}
