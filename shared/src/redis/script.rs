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
    /// The script that performs `op`.
    pub const fn of(op: &Op) -> &'static Self {
        match op {
            Op::RateLimit(_) => &RATE_LIMIT,
            Op::Refund { .. } => &REFUND,
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

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn digests_are_those_of_the_texts() {
        for script in [RATE_LIMIT, REFUND] {
            assert_eq!(script.sha1, sha1_smol::Sha1::from(script.text).digest().to_string());
        }
    }
}
