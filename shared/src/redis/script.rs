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
    sha1: "7aa467b36dcf1aceac4aa87b4dba4c5686e2c884",
};

/// Performs [`Op::Refund`].
pub const REFUND: Script =
    Script { text: include_str!("../scripts/refund.lua"), sha1: "5c22171bc921ed74e3c1b06b9872599fe59019fe" };

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
