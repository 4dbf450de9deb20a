//! Which node serves which slot.

use std::sync::Arc;

use super::slot::SLOTS;
use crate::backend::node::Node;
use crate::target::Address;

/// Who serves each slot, at one moment. A new one is made when something changes; requests keep the one they began with.
#[derive(Debug)]
pub(super) struct Map {
    /// For each slot the place of its shard among `shards`.
    owners: Vec<u16>,
    shards: Vec<Shard>,
}

/// A master and its replicas.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    /// Who takes writes.
    pub(super) master: Arc<Node>,
    /// Who can be read from; none when nothing is read from replicas.
    pub(super) replicas: Vec<Arc<Node>>,
    /// Where all of its replicas are.
    pub(super) replica_addresses: Vec<Address>,
}

impl Map {
    /// No slot is served.
    pub(super) fn empty() -> Self {
        Self { owners: vec![NOBODY; usize::from(SLOTS)], shards: Vec::new() }
    }

    /// Adds a shard that serves these slots, both included.
    pub(super) fn assign(&mut self, first: u16, last: u16, shard: Shard) {
        let address = shard.master.address();
        let known = self.shards.iter().position(|known| known.master.address() == address);
        let place = known.unwrap_or_else(|| {
            self.shards.push(shard);
            self.shards.len() - 1
        });
        // There are fewer shards than slots.
        let place = u16::try_from(place).unwrap_or(NOBODY);
        for owner in self.owners.iter_mut().take(usize::from(last) + 1).skip(usize::from(first)) {
            *owner = place;
        }
    }

    /// The same, but `master` serves `slot`.
    pub(super) fn with(&self, slot: u16, master: Arc<Node>) -> Self {
        let mut map = Self { owners: self.owners.clone(), shards: self.shards.clone() };
        map.assign(slot, slot, Shard { master, replicas: Vec::new(), replica_addresses: Vec::new() });
        map
    }

    /// The shard that serves `slot`, and its place among [`Self::shards`].
    pub(super) fn owner(&self, slot: u16) -> Option<(usize, &Shard)> {
        let place = usize::from(*self.owners.get(usize::from(slot))?);
        Some((place, self.shards.get(place)?))
    }

    /// All shards.
    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// How many slots are served.
    pub(super) fn covered(&self) -> usize {
        self.owners.iter().filter(|owner| **owner != NOBODY).count()
    }

    /// The first shard in the order of their lowest slots, of those whose lowest slot is at least `from`; with that slot.
    pub(super) fn shard_from(&self, from: u16) -> Option<(u16, &Shard)> {
        let mut seen = vec![false; self.shards.len()];
        for (slot, owner) in (0..SLOTS).zip(&self.owners) {
            match seen.get_mut(usize::from(*owner)) {
                Some(seen) if !*seen => {
                    *seen = true;
                    if slot >= from {
                        return self.shards.get(usize::from(*owner)).map(|shard| (slot, shard));
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// No place among the shards: they are fewer than the slots.
const NOBODY: u16 = u16::MAX;
