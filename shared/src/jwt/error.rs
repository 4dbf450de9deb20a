//! Why a token was refused, and how its bearer is told.

use alloc::string::String;

/// Why a token was refused. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// There is none.
    Missing,
    /// There are two places where one belongs, and another server may read the other.
    Repeated,
    /// More than 8 KiB.
    TooLong,
    /// Not three parts of base64url.
    Malformed,
    /// The header is no object of unique members, or says nothing of how it is signed.
    Header,
    /// The header names extensions that must be understood (`crit`), and none is.
    Critical,
    /// The claims are no object of unique members, or a registered one is not of its type.
    Claims,
    /// Signed, or not signed, in a way that the policy does not allow.
    Algorithm,
    /// No key is for this token. Where keys are fetched, it may be time to fetch them again.
    UnknownKey,
    /// None of the keys signed it.
    Signature,
    /// It does not say when it expires.
    NoExpiry,
    /// It has expired.
    Expired,
    /// It is for later.
    NotYetValid,
    /// It was issued in the future.
    IssuedInFuture,
    /// It does not say when it was issued, and the policy bounds its life.
    NoIssueTime,
    /// It lives longer than the policy allows.
    LivesTooLong,
    /// It has no `jti`, and nothing else by which it could be revoked.
    NoId,
    /// It is another issuer's, or nobody's.
    Issuer,
    /// It is for another audience, or for none.
    Audience,
}

impl TokenError {
    /// The status of the answer.
    pub const STATUS: u16 = 401;

    /// What happened, in words for the client.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Missing => "there is no token",
            Self::Repeated => "there is more than one token",
            Self::TooLong => "the token is too long",
            Self::Malformed => "the token is malformed",
            Self::Header => "the header of the token is malformed",
            Self::Critical => "the token needs an extension that is not supported",
            Self::Claims => "the claims of the token are malformed",
            Self::Algorithm => "the token is signed with an algorithm that is not accepted",
            Self::UnknownKey => "the token is signed with an unknown key",
            Self::Signature => "the signature of the token is wrong",
            Self::NoExpiry => "the token does not say when it expires",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::IssuedInFuture => "the token was issued in the future",
            Self::NoIssueTime => "the token does not say when it was issued",
            Self::LivesTooLong => "the token is valid for longer than is accepted",
            Self::NoId => "the token has no `jti` by which it could be revoked",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
        }
    }

    /// The error code of RFC 6750 §3.1; a client that sent no token is given none.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            _ => Some("invalid_token"),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3), which has at least one parameter.
    pub fn challenge(self) -> String {
        let mut challenge = String::from("Bearer realm=\"tollgate\"");
        if let Some(code) = self.code() {
            for part in [", error=\"", code, "\", error_description=\"", self.description(), "\""] {
                challenge.push_str(part);
            }
        }
        challenge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_without_a_token_is_told_no_error() {
        assert_eq!(TokenError::Missing.challenge(), "Bearer realm=\"tollgate\"");
        assert_eq!(
            TokenError::Expired.challenge(),
            "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"the token has expired\""
        );
    }
}
