//! The scripts and their digests.

use crate::store::Op;

/// A Lua script, and the SHA-1 by which Redis knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// The whole text, for `EVAL`: that of the file, without comments and indents.
    pub text: &'static str,
    /// The text's SHA-1 in hexadecimal, for `EVALSHA`.
    pub sha1: &'static str,
}

impl Script {
    /// The script that performs `op`; `None` where a plain `GETEX` or `DEL` of its key does.
    pub const fn of(op: &Op) -> Option<&'static Self> {
        match op {
            Op::RateLimit(_) => Some(&RATE_LIMIT),
            Op::Refund { .. } => Some(&REFUND),
            Op::Acquire { .. } | Op::Extend { .. } | Op::Release { .. } => Some(&LEASE),
            Op::Reserve { .. } | Op::Keep { .. } | Op::Abandon { .. } => Some(&IDEMPOTENCY),
            Op::View { .. } | Op::Probe { .. } | Op::Report { .. } | Op::Force { .. } => {
                Some(&CIRCUIT_BREAKER)
            }
            Op::Revoke { .. } => Some(&REVOKE),
            Op::IsRevoked { .. } | Op::Reset { .. } => None,
        }
    }
}

/// The command that performs an operation without a script.
///
/// `GETEX` without options reads as `GET` does, but Redis counts it among the commands that write. So no replica answers it,
/// behind a gateway that reads from replicas as behind Upstash's read regions: a revocation that was acknowledged is seen by
/// the next question. A master that may not write, because it lost its replicas or its disk, does not answer it either.
pub(super) const fn plain(op: &Op) -> &'static str {
    if matches!(op, Op::Reset { .. }) { "DEL" } else { "GETEX" }
}

/// Makes a script of a file when the core is compiled, and nothing else of it is shipped.
macro_rules! script {
    ($file:literal, $sha1:literal) => {{
        const FILE: &str = include_str!($file);
        const TEXT: [u8; shortened::<0>(FILE).1] = shortened(FILE).0;
        // What is left of a text is one: whole lines, or their ends.
        Script {
            text: match core::str::from_utf8(&TEXT) {
                Ok(text) => text,
                Err(_) => FILE,
            },
            sha1: $sha1,
        }
    }};
}

/// The first `N` bytes of a script without comments that have a line of their own, blank lines and indents; and how many there are.
#[allow(clippy::indexing_slicing, reason = "the compiler runs it, and says so if it goes too far")]
pub(crate) const fn shortened<const N: usize>(file: &str) -> ([u8; N], usize) {
    let (bytes, mut at) = (file.as_bytes(), 0);
    let (mut text, mut length) = ([0; N], 0);
    while at < bytes.len() {
        while at < bytes.len() && bytes[at] == b' ' {
            at += 1;
        }
        let is_comment = at + 1 < bytes.len() && bytes[at] == b'-' && bytes[at + 1] == b'-';
        let is_left_out = is_comment || (at < bytes.len() && bytes[at] == b'\n');
        while at < bytes.len() {
            if !is_left_out {
                if length < N {
                    text[length] = bytes[at];
                }
                length += 1;
            }
            at += 1;
            if bytes[at - 1] == b'\n' {
                break;
            }
        }
    }
    (text, length)
}

/// Performs [`Op::RateLimit`].
pub const RATE_LIMIT: Script =
    script!("../scripts/rate_limit.lua", "072d4adbe40a9534791e15578352e5e9a7cd3b5c");

/// Performs [`Op::Refund`].
pub const REFUND: Script = script!("../scripts/refund.lua", "873bf64512d7ca13909ece5d2dd499ad56f85b97");

/// Performs [`Op::Acquire`], [`Op::Extend`] and [`Op::Release`].
pub const LEASE: Script = script!("../scripts/lease.lua", "b179f2bf407ba441ddcaff67a39161c8bfb5c5f9");

/// Performs [`Op::Reserve`], [`Op::Keep`] and [`Op::Abandon`].
pub const IDEMPOTENCY: Script =
    script!("../scripts/idempotency.lua", "526c65b9e14bbc2d5d1c365095b56da869b80678");

/// Performs [`Op::View`], [`Op::Probe`], [`Op::Report`] and [`Op::Force`].
pub const CIRCUIT_BREAKER: Script =
    script!("../scripts/circuit_breaker.lua", "edd7280e45e482bec7bc5d6487ea982b002b11aa");

/// Performs [`Op::Revoke`].
pub const REVOKE: Script = script!("../scripts/revoke.lua", "d0979ef20c77449d97c2475a1ef032272e38b55c");

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn what_is_for_readers_is_left_out() {
        const FILE: &str = "-- first\n\nlocal a = 1 -- one\n  -- second\n  return a -- two\nend";
        const TEXT: ([u8; 40], usize) = shortened(FILE);
        let (text, length) = TEXT;
        assert_eq!(&text[..length], b"local a = 1 -- one\nreturn a -- two\nend");
    }

    #[test]
    fn digests_are_those_of_the_texts() {
        for script in [RATE_LIMIT, REFUND, LEASE, IDEMPOTENCY, CIRCUIT_BREAKER, REVOKE] {
            assert_eq!(script.sha1, sha1_smol::Sha1::from(script.text).digest().to_string());
        }
    }
}
