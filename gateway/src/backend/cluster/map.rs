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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A map of these ranges of slots, each with the port of its master.
    pub(in crate::backend::cluster) fn map(ranges: &[(u16, u16, u16)]) -> Map {
        let mut map = Map::empty();
        for (first, last, port) in ranges {
            let master = Arc::new(Node::unconnected(*port));
            map.assign(*first, *last, Shard { master, replicas: Vec::new(), replica_addresses: Vec::new() });
        }
        map
    }

    fn port(map: &Map, slot: u16) -> Option<u16> {
        map.owner(slot).map(|(_, shard)| shard.master.address().port)
    }

    #[test]
    fn each_slot_has_the_master_it_was_assigned_last() {
        let map = map(&[(0, 99, 1), (200, 16383, 2), (100, 100, 1), (0, 0, 2)]);
        let ports = [0, 1, 99, 100, 101, 200, 16383].map(|slot| port(&map, slot));
        assert_eq!(ports, [Some(2), Some(1), Some(1), Some(1), None, Some(2), Some(2)]);
        assert_eq!((map.shards().len(), map.covered(), port(&map, SLOTS)), (2, 16284 + 1, None));
        let changed = map.with(101, Arc::new(Node::unconnected(3)));
        assert_eq!((port(&changed, 101), port(&changed, 100), port(&map, 101)), (Some(3), Some(1), None));
    }

    #[test]
    fn shards_follow_each_other_by_their_lowest_slots() {
        let map = map(&[(50, 60, 1), (10, 20, 2), (30, 40, 1), (70, 80, 3)]);
        let from = |slot| map.shard_from(slot).map(|(slot, shard)| (slot, shard.master.address().port));
        assert_eq!([from(0), from(10), from(11)], [Some((10, 2)), Some((10, 2)), Some((30, 1))]);
        assert_eq!([from(31), from(71)], [Some((70, 3)), None]);
        assert!(Map::empty().shard_from(0).is_none());
    }
}
