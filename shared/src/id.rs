//! Names of sixteen bytes, for whoever or whatever a store has to tell apart.
//!
//! They are drawn at random by the host, or are digests, so neither a store nor a log learns who is behind one. In keys and
//! scripts they are 32 hexadecimal digits.

use core::fmt;

use crate::config::Text;
use crate::key::Digest;

/// Sixteen bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id([u8; 16]);

/// Who holds a lease, a reservation or a probe: sixteen random bytes, drawn anew for each request, and the same in each
/// operation on its behalf.
pub type Holder = Id;

/// Who saw successes and failures of an upstream: sixteen random bytes, the same as long as an instance lives.
pub type Reporter = Id;

/// What a request is, for telling a retry from another request under the same idempotency key: a digest of it.
pub type Fingerprint = Id;

impl Id {
    /// The name that `bytes` are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads 32 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
        let mut bytes = [0; 16];
        if pairs.len() != bytes.len() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(bytes))
    }

    /// 32 hexadecimal digits.
    pub fn hex(self) -> [u8; 32] {
        let mut hex = [0; 32];
        for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
        }
        hex
    }

    pub(crate) fn words(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
    }

    pub(crate) fn from_words([first, second]: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        let halves = first.to_be_bytes().into_iter().chain(second.to_be_bytes());
        bytes.iter_mut().zip(halves).for_each(|(to, from)| *to = from);
        Self(bytes)
    }
}

impl From<Digest> for Id {
    fn from(digest: Digest) -> Self {
        Self(digest.bytes())
    }
}

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { expected: "32 hexadecimal digits", parse: Self::parse })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_are_hexadecimal_and_two_words() {
        let id = Id::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xab, 0xcd, 0xef, 0x10, 0x20, 0xff]);
        assert_eq!(id.to_string(), "00010203040506070809abcdef1020ff");
        assert_eq!(id.words(), [0x0001_0203_0405_0607, 0x0809_abcd_ef10_20ff]);
        assert_eq!(Id::from_words(id.words()), id);
        assert_eq!(Id::parse("00010203040506070809ABcdef1020ff"), Some(id));
    }

    #[test]
    fn names_of_another_form_are_none() {
        let short = "0".repeat(31);
        for text in
            ["", "0", &short, &(short.clone() + "00"), &(short.clone() + "g"), &(short.clone() + "\u{e9}")]
        {
            assert_eq!(Id::parse(text), None, "{text}");
        }
    }
}
