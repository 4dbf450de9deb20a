//! How many connections each peer has: one that takes all it can get leaves some for the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of each peer that has some; the number of all connections bounds it.
#[derive(Debug)]
pub(super) struct Peers {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection of a peer, as long as it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    /// So many for each.
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// Counts a connection of the peer at `address`; nothing when it has its share already.
    pub(super) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let peer = peer(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat { peers: Arc::clone(self), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// Who is at an address: with IPv6 everybody has as many as they like, of one network.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_share_and_gets_it_back() {
        let peers = Arc::new(Peers::new(2));
        let seat = |address: &str| peers.seat(address.parse().unwrap());
        let (one, two) = (seat("10.0.0.1"), seat("::ffff:10.0.0.1"));
        assert!(one.is_some() && two.is_some() && seat("10.0.0.1").is_none());
        let other = (seat("10.0.0.2"), seat("2001:db8::1"), seat("2001:db8:0:0:ffff::2"));
        assert!(other.0.is_some() && other.1.is_some() && other.2.is_some());
        assert!(seat("2001:db8::3").is_none() && seat("2001:db8:0:1::3").is_some());
        drop((one, two, other));
        assert!(peers.counts.lock().unwrap().is_empty());
    }
}
