//! The scripts and their digests.

use crate::store::Op;

/// A Lua script, and the SHA-1 by which Redis knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// The whole text, for `EVAL`.
    pub text: &'static str,
    /// The text's SHA-1 in hexadecimal, for `EVALSHA`.
    pub sha1: &'static str,
}

impl Script {
    /// The script that performs `op`; `None` where a plain `GET` of its key does.
    pub const fn of(op: &Op) -> Option<&'static Self> {
        match op {
            Op::RateLimit(_) => Some(&RATE_LIMIT),
            Op::Refund { .. } => Some(&REFUND),
            #[cfg(feature = "guards")]
            Op::Acquire { .. } | Op::Extend { .. } | Op::Release { .. } => Some(&LEASE),
            #[cfg(feature = "guards")]
            Op::Reserve { .. } | Op::Keep { .. } | Op::Abandon { .. } => Some(&IDEMPOTENCY),
            #[cfg(feature = "guards")]
            Op::View { .. } | Op::Probe { .. } | Op::Report { .. } | Op::Force { .. } => {
                Some(&CIRCUIT_BREAKER)
            }
            #[cfg(feature = "guards")]
            Op::Revoke { .. } => Some(&REVOKE),
            #[cfg(feature = "guards")]
            Op::IsRevoked { .. } => None,
        }
    }
}

/// Performs [`Op::RateLimit`].
pub const RATE_LIMIT: Script = Script {
    text: include_str!("../scripts/rate_limit.lua"),
    sha1: "9a0e9c07be54b64b3e3722d0bac6ba6fe85ee6bc",
};

/// Performs [`Op::Refund`].
pub const REFUND: Script =
    Script { text: include_str!("../scripts/refund.lua"), sha1: "94d91a9cbb561a360483addbb0bc2f17de3c9732" };

/// Performs [`Op::Acquire`], [`Op::Extend`] and [`Op::Release`].
#[cfg(feature = "guards")]
pub const LEASE: Script =
    Script { text: include_str!("../scripts/lease.lua"), sha1: "e1d1855b51a60a0aa058599bb1a10108ef71f0c0" };

/// Performs [`Op::Reserve`], [`Op::Keep`] and [`Op::Abandon`].
#[cfg(feature = "guards")]
pub const IDEMPOTENCY: Script = Script {
    text: include_str!("../scripts/idempotency.lua"),
    sha1: "9ca6a0f12d8cd36b9d5ac4ec9bdc4f124aa922af",
};

/// Performs [`Op::View`], [`Op::Probe`], [`Op::Report`] and [`Op::Force`].
#[cfg(feature = "guards")]
pub const CIRCUIT_BREAKER: Script = Script {
    text: include_str!("../scripts/circuit_breaker.lua"),
    sha1: "4ca1ae64ecb8817be9d964b0eedca126a3c85ae9",
};

/// Performs [`Op::Revoke`].
#[cfg(feature = "guards")]
pub const REVOKE: Script =
    Script { text: include_str!("../scripts/revoke.lua"), sha1: "90b90e215c9ea675f99b9013cdff9f67a53cfd5d" };

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn digests_are_those_of_the_texts() {
        for script in [RATE_LIMIT, REFUND, LEASE, IDEMPOTENCY, CIRCUIT_BREAKER, REVOKE] {
            assert_eq!(script.sha1, sha1_smol::Sha1::from(script.text).digest().to_string());
        }
    }
}
