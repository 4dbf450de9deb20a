//! A shard of the embedded memory: a few counters, leases, responses and the like in one run of bytes.
//!
//! The form is flat because a host may keep a shard where several threads see it, as bytes that are replaced whole
//! if nobody else replaced them first. Finding a key is a scan, so a shard holds few keys and there are many shards.
//!
//! ```text
//! record: length u32 │ expires u64 │ key length u16 │ key │ words u64 … │ bytes …        (little-endian)
//! ```
//!
//! Only a response has bytes behind its words.

use alloc::vec::Vec;
use core::ops::Range;

use crate::key::Key;

/// Most counters in one shard. The one that lapses first makes room for another.
pub const MAX_KEYS: usize = 256;
/// Most bytes in one shard, for the same.
pub const MAX_BYTES: usize = 1 << 20;
/// Milliseconds for which a lapsed counter is kept, unless room is needed: clocks step back.
const GRACE: u64 = 1000;

/// Some counters, and when each of them means nothing any more.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    bytes: Vec<u8>,
    changed: bool,
    evicted: u32,
}

impl Shard {
    /// The shard that [`Shard::as_bytes`] wrote; bytes that are not one become as much of it as can be read.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let mut shard = Self { bytes, changed: false, evicted: 0 };
        let readable = shard.records().last().map_or(0, |record| record.range.end);
        shard.bytes.truncate(readable);
        shard
    }

    /// The shard's form outside.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it differs from what it was made of.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// How many live counters have had to make room.
    pub fn evicted(&self) -> u32 {
        self.evicted
    }

    /// The words kept under `key`. What they mean now is for the counter to say: expiry only makes room.
    pub(crate) fn get(&self, key: &Key) -> Vec<u64> {
        words(self.get_bytes(key))
    }

    /// The words kept under `key`, in the first `length` bytes, and the bytes behind them.
    pub(crate) fn get_with_bytes(&self, key: &Key, length: usize) -> (Vec<u64>, &[u8]) {
        let (first, bytes) = self.get_bytes(key).split_at_checked(length).unwrap_or_default();
        (words(first), bytes)
    }

    /// Keeps `words` under `key` until `expires`, and a little longer.
    pub(crate) fn put(&mut self, key: &Key, words: impl FnOnce(&mut dyn FnMut(u64)), expires: u64, now: u64) {
        self.put_record(key, words, &[], expires, now);
    }

    /// Keeps `words`, and `bytes` behind them, under `key` until `expires`, and a little longer.
    pub(crate) fn put_with_bytes(&mut self, key: &Key, words: &[u64], bytes: &[u8], expires: u64, now: u64) {
        self.put_record(key, |write| words.iter().for_each(|word| write(*word)), bytes, expires, now);
    }

    /// Keeps nothing under `key`.
    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(range) = self.find(key) {
            self.changed = true;
            self.bytes.drain(range);
        }
    }

    fn put_record(
        &mut self,
        key: &Key,
        words: impl FnOnce(&mut dyn FnMut(u64)),
        bytes: &[u8],
        expires: u64,
        now: u64,
    ) {
        self.changed = true;
        if let Some(range) = self.find(key) {
            self.bytes.drain(range);
        }
        let start = self.bytes.len();
        let name = key.as_str().as_bytes();
        // Keys are built of names with bounds far below this one.
        let name_length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&expires.to_le_bytes());
        self.bytes.extend_from_slice(&name_length.to_le_bytes());
        self.bytes.extend(name.iter().take(usize::from(name_length)));
        words(&mut |word| self.bytes.extend_from_slice(&word.to_le_bytes()));
        self.bytes.extend_from_slice(bytes);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        self.make_room(now);
    }

    fn get_bytes(&self, key: &Key) -> &[u8] {
        self.record(key).map_or(&[][..], |record| record.value)
    }

    fn find(&self, key: &Key) -> Option<Range<usize>> {
        self.record(key).map(|record| record.range)
    }

    fn record(&self, key: &Key) -> Option<Record<'_>> {
        self.records().find(|record| record.key == key.as_str().as_bytes())
    }

    /// Drops records that have expired, then those that expire first, until the bounds hold; never the
    /// last one, which has just been written.
    fn make_room(&mut self, now: u64) {
        loop {
            let count = self.records().count();
            let full = self.bytes.len() > MAX_BYTES || count > MAX_KEYS;
            let others = self.records().take(count.saturating_sub(1));
            let first =
                others.min_by_key(|record| record.expires).map(|record| (record.expires, record.range));
            let Some((expires, range)) =
                first.filter(|(expires, _)| full || expires.saturating_add(GRACE) <= now)
            else {
                return;
            };
            if expires > now {
                self.evicted = self.evicted.saturating_add(1);
            }
            self.bytes.drain(range);
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let record = Record::read(&self.bytes, at)?;
            at = record.range.end;
            Some(record)
        })
    }
}

struct Record<'a> {
    range: Range<usize>,
    expires: u64,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let rest = bytes.get(at..)?;
        let (length, _) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (_, body) = rest.get(..length)?.split_first_chunk::<4>()?;
        let (expires, body) = body.split_first_chunk()?;
        let (key_length, body) = body.split_first_chunk()?;
        let (key, value) = body.split_at_checked(usize::from(u16::from_le_bytes(*key_length)))?;
        Some(Self { range: at..at + length, expires: u64::from_le_bytes(*expires), key, value })
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    const NOTHING: [u64; 0] = [];

    fn key(n: usize) -> Key {
        Key::from_stored(&format!("tg:{{{n}}}:f1000:limit"))
    }

    fn put(shard: &mut Shard, n: usize, word: u64, expires: u64, now: u64) {
        shard.put(&key(n), |write| write(word), expires, now);
    }

    #[test]
    fn words_are_kept_until_a_while_after_they_lapse() {
        let mut shard = Shard::default();
        put(&mut shard, 1, 11, 100, 0);
        put(&mut shard, 2, 22, 200, 0);
        put(&mut shard, 1, 12, 150, 0);
        let mut shard = Shard::from_bytes(shard.as_bytes().to_vec());
        put(&mut shard, 3, 33, 9000, 149 + GRACE);
        assert_eq!(shard.get(&key(1)), [12]);
        put(&mut shard, 3, 33, 9000, 150 + GRACE);
        assert_eq!(shard.get(&key(1)), NOTHING);
        assert_eq!(shard.get(&key(2)), [22]);
        assert_eq!(shard.get(&key(4)), NOTHING);
    }

    #[test]
    fn bytes_are_kept_behind_words() {
        let mut shard = Shard::default();
        shard.put_with_bytes(&key(1), &[11, 12], b"a response", 100, 0);
        put(&mut shard, 2, 22, 200, 0);
        let mut shard = Shard::from_bytes(shard.as_bytes().to_vec());
        assert_eq!(shard.get_with_bytes(&key(1), 16), (Vec::from([11, 12]), &b"a response"[..]));
        assert_eq!(shard.get_with_bytes(&key(2), 16), (Vec::new(), &b""[..]), "too few words");
        shard.remove(&key(1));
        assert_eq!((shard.get(&key(1)), shard.get(&key(2))), (Vec::new(), Vec::from([22])));
    }

    #[test]
    fn responses_make_room_for_each_other() {
        let (mut shard, response) = (Shard::default(), std::vec![7; 256 * 1024]);
        for n in 0..4 {
            shard.put_with_bytes(&key(n), &[n as u64], &response, 1000 + n as u64, 0);
        }
        assert!(shard.as_bytes().len() <= MAX_BYTES);
        assert_eq!(shard.evicted(), 1);
        let left: Vec<usize> = (0..4).map(|n| shard.get_with_bytes(&key(n), 8).1.len()).collect();
        assert_eq!(left, [0, response.len(), response.len(), response.len()]);
    }

    #[test]
    fn what_is_written_stays_though_it_lapses_first() {
        let (mut shard, third) = (Shard::default(), std::vec![7; MAX_BYTES / 3 - 100]);
        for n in 0..3 {
            shard.put_with_bytes(&key(n), &[n as u64], &third, 1000 + n as u64, 0);
        }
        shard.put_with_bytes(&key(3), &[3], &std::vec![7; MAX_BYTES / 2], 10, 0);
        let left: Vec<usize> = (0..4).map(|n| shard.get_with_bytes(&key(n), 8).1.len()).collect();
        assert_eq!((left, shard.evicted()), (Vec::from([0, 0, third.len(), MAX_BYTES / 2]), 2));
    }

    #[test]
    fn a_shard_knows_whether_it_has_changed() {
        let mut shard = Shard::default();
        assert!(!shard.changed());
        put(&mut shard, 1, 11, 100, 0);
        assert!(shard.changed());
        let mut shard = Shard::from_bytes(shard.as_bytes().to_vec());
        assert_eq!((shard.get(&key(1)), shard.changed()), (Vec::from([11]), false));
        shard.remove(&key(2));
        assert!(!shard.changed(), "it was not there");
        shard.remove(&key(1));
        assert!(shard.changed());
    }

    #[test]
    fn a_full_shard_drops_what_lapsed_and_then_what_lapses_first() {
        let mut shard = Shard::default();
        for n in 0..MAX_KEYS {
            put(&mut shard, n, 1, 1000 + n as u64, 0);
        }
        put(&mut shard, MAX_KEYS, 1, 5000, 1000);
        assert_eq!((shard.evicted(), shard.records().count()), (0, MAX_KEYS));
        put(&mut shard, MAX_KEYS + 1, 1, 5, 1000);
        assert_eq!((shard.evicted(), shard.records().count()), (1, MAX_KEYS));
        assert_eq!(shard.get(&key(1)), NOTHING);
        assert_eq!(shard.get(&key(2)), [1]);
    }

    #[test]
    fn any_bytes_are_read_as_far_as_they_make_sense() {
        let mut shard = Shard::default();
        put(&mut shard, 1, 11, 100, 0);
        let mut bytes = shard.as_bytes().to_vec();
        bytes.extend_from_slice(&[9, 0, 0, 0, 1]);
        assert_eq!(Shard::from_bytes(bytes.clone()).get(&key(1)), [11]);
        bytes[0] = 0;
        assert!(Shard::from_bytes(bytes).as_bytes().is_empty());
    }
}
