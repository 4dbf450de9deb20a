//! The memory that clients take: counted before it is taken, and given back to the system.
//!
//! What is counted is what clients decide: bodies of requests, replies to them from the moment Redis says how long they are, and
//! what is on its way to a client that does not read. A wrong "yes" lets one client take the memory of all; a wrong "no" is a 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// How many of something there are, and how many there may be.
#[derive(Debug)]
pub(crate) struct Gauge {
    count: AtomicUsize,
    most: usize,
}

/// All the memory there is for clients. Its clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Gauge>);

/// Some of that memory. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Grant {
    memory: Memory,
    taken: usize,
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
    pub(crate) fn take(&self, more: usize) -> bool {
        self.take_and_leave(more, 0)
    }

    /// Takes `more` if so much is left then.
    fn take_and_leave(&self, more: usize, left: usize) -> bool {
        let before = self.count.fetch_add(more, Ordering::Relaxed);
        let fits = before.saturating_add(more).saturating_add(left) <= self.most;
        if !fits {
            self.give_back(more);
        }
        fits
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Memory {
    /// This many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Gauge::new(most)))
    }

    /// How much of it is taken, and how much there is.
    pub(crate) fn gauge(&self) -> &Gauge {
        &self.0
    }

    /// None of it yet.
    pub(crate) fn grant(&self) -> Grant {
        Grant { memory: self.clone(), taken: 0 }
    }

    /// Bytes that are there already, counted as long as they are, whether there is memory for them or not. For copies of what
    /// was counted.
    pub(crate) fn hold(&self, bytes: Bytes) -> Bytes {
        let mut grant = self.grant();
        grant.take_anyway(bytes.len().saturating_sub(FREE));
        grant.hold(bytes)
    }
}

impl Grant {
    /// Whether there is memory for something that has grown to `size`, as far as it is more than [`FREE`]. What is large never
    /// takes the last of it.
    pub(crate) fn grow(&mut self, size: usize) -> bool {
        self.reach(size.saturating_sub(FREE), self.memory.0.most() / KEPT_FOR_SMALL)
    }

    /// Whether there is memory for `size` bytes in all, which are few.
    pub(crate) fn reserve(&mut self, size: usize) -> bool {
        self.reach(size, 0)
    }

    /// Whether there is memory for `size` bytes in all for somebody who has shown no token. Half of
    /// it is left to those who have.
    pub(crate) fn spare(&mut self, size: usize) -> bool {
        self.reach(size, self.memory.0.most() / KEPT_FOR_TOKENS)
    }

    fn reach(&mut self, size: usize, left: usize) -> bool {
        let more = size.saturating_sub(self.taken);
        if more == 0 {
            return true;
        }
        let granted = self.memory.0.take_and_leave(more, left);
        if granted {
            self.taken += more;
        }
        granted
    }

    /// Takes so much more, whether it is there or not: what others may take is less by that.
    pub(crate) fn take_anyway(&mut self, more: usize) {
        self.memory.0.count.fetch_add(more, Ordering::Relaxed);
        self.taken += more;
    }

    /// Gives back what is more than `size`.
    pub(crate) fn shrink(&mut self, size: usize) {
        let less = self.taken.saturating_sub(size);
        self.taken -= less;
        self.memory.0.give_back(less);
    }

    /// Whether nothing is taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// The same grant, and none of it left here.
    pub(crate) fn take(&mut self) -> Self {
        let rest = self.memory.grant();
        std::mem::replace(self, rest)
    }

    /// Splits the first bytes off what was received, which this grant is for. Large ones have an allocation of their own:
    /// nothing small keeps them, and they keep nothing.
    pub(crate) fn split(&mut self, received: &mut BytesMut, size: usize) -> Bytes {
        if self.is_empty() {
            return received.split_to(size.min(received.len())).freeze();
        }
        let rest = BytesMut::from(received.get(size..).unwrap_or_default());
        let mut whole = std::mem::replace(received, rest);
        whole.truncate(size);
        self.take().hold(whole.freeze())
    }

    /// These bytes, which count until nobody has them any more.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        if self.is_empty() { bytes } else { Bytes::from_owner(Held { bytes, _grant: self }) }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.memory.0.give_back(self.taken);
        }
    }
}

/// Bytes, and the memory they take.
struct Held {
    bytes: Bytes,
    _grant: Grant,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Makes the allocator ask the system for whatever is large, and give it back as soon as nobody has it. By itself glibc keeps
/// what was freed: once a block of some megabytes was, all of its size come from a heap that shrinks only at its end. Other
/// allocators give back after a while, and not before something else is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc is told by a call, or by a variable before the process starts")]
pub(crate) fn give_back_what_is_large() {
    // SAFETY: it only sets a parameter of the allocator, and takes the allocator's lock for that.
    let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    if done == 0 {
        tracing::debug!("the allocator keeps what is freed");
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back_what_is_large() {}

/// Bytes: more than what connections use again and again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 256 << 10;

/// What every request body and every reply may take without being counted, 16 KiB and what is around them: the number of
/// requests bounds it.
pub(crate) const FREE: usize = (16 << 10) + 512;

/// The part of all memory that only small requests get: a client that takes what it can leaves the others that.
const KEPT_FOR_SMALL: usize = 16;

/// The part of all memory that only requests with a token get.
const KEPT_FOR_TOKENS: usize = 2;

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

    #[test]
    fn bytes_count_until_the_last_part_of_them_is_gone() {
        let memory = Memory::new(4 * FREE);
        let mut grant = memory.grant();
        assert!(grant.grow(FREE) && grant.is_empty() && grant.grow(3 * FREE) && !grant.grow(5 * FREE));
        assert_eq!(memory.gauge().count(), 2 * FREE);
        let whole = grant.take().hold(vec![1; 3 * FREE].into());
        let part = whole.slice(5..6);
        drop((whole, grant));
        assert_eq!((&part[..], memory.gauge().count()), (&[1][..], 2 * FREE));
        drop(part);
        assert_eq!(memory.gauge().count(), 0);
        let (mut large, mut small) = (memory.grant(), memory.grant());
        assert!(
            large.grow(4 * FREE)
                && !large.grow(5 * FREE - 1)
                && small.reserve(FREE)
                && !small.reserve(FREE + 1)
        );
        drop((large, small));
        let (mut stranger, mut known) = (memory.grant(), memory.grant());
        assert!(stranger.spare(2 * FREE) && !stranger.spare(2 * FREE + 1) && known.reserve(2 * FREE));
        drop((stranger, known));
        let copy = memory.hold(vec![1; 9 * FREE].into());
        assert_eq!(memory.gauge().count(), 8 * FREE);
        drop(copy);
        assert_eq!(memory.gauge().count(), 0);
    }
}
