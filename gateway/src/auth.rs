//! Who may use the Redis behind the gateway.
//!
//! A wrong "yes" gives away every key, so nothing of a token can be told from how long its refusal takes: what is compared are
//! digests, all of them to their end. A wrong "no" is a 401 that an operator sees at once.

use std::borrow::Cow;
use std::fmt;

use anyhow::ensure;
use hyper::header::{self, HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use crate::command::TOKEN_PARAMETER;

/// What a client presents, as its digest.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// Who may use the gateway: holders of tokens, or everyone.
#[derive(Debug)]
pub(crate) struct Auth(Option<Box<[Token]>>);

impl Token {
    /// The token of this text. It has to fit a header, so it is visible ASCII.
    ///
    /// # Errors
    /// It is empty, or has other characters.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        ensure!(!text.is_empty(), "it is empty");
        ensure!(
            text.bytes().all(|byte| byte.is_ascii_graphic()),
            "it has other characters than visible ASCII"
        );
        Ok(Self(Sha256::digest(text).into()))
    }
}

impl Auth {
    /// Only holders of one of these.
    pub(crate) fn tokens(tokens: impl IntoIterator<Item = Token>) -> Self {
        Self(Some(tokens.into_iter().collect()))
    }

    /// Everyone who reaches the port.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// Whether that is everyone.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The number of the token that is presented, as `Authorization: Bearer …`, or, without such a header, as the
    /// parameter `_token` of the query.
    pub(crate) fn admits(&self, headers: &HeaderMap, query: Option<&str>) -> Option<usize> {
        let Some(tokens) = &self.0 else { return Some(0) };
        let presented = match headers.get(header::AUTHORIZATION) {
            Some(value) => Cow::Borrowed(bearer(value)?),
            None => query.and_then(parameter)?,
        };
        let digest: [u8; 32] = Sha256::digest(&presented).into();
        let mut found = 0_u64;
        for (number, token) in (1..).zip(tokens) {
            found.conditional_assign(&number, digest.ct_eq(&token.0));
        }
        usize::try_from(found).ok()?.checked_sub(1)
    }
}

/// Without the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token.trim_ascii())
}

fn parameter(query: &str) -> Option<Cow<'_, [u8]>> {
    query.split('&').find_map(|parameter| match parameter.split_once('=')? {
        (TOKEN_PARAMETER, value) => Some(percent_decode_str(value).into()),
        _ => None,
    })
}

const SCHEME: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(auth: &Auth, value: &str) -> Option<usize> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        auth.admits(&headers, Some("_token=other"))
    }

    #[test]
    fn only_whole_tokens_are_admitted_each_as_itself() {
        let auth = Auth::tokens(["secret", "other", "third"].map(|text| Token::new(text).unwrap()));
        assert_eq!(admits(&auth, "Bearer secret"), Some(0));
        assert_eq!(admits(&auth, "bearer  other"), Some(1));
        assert_eq!(admits(&auth, "BEARER third "), Some(2));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "secret", "Basic secret", ""] {
            assert_eq!(admits(&auth, wrong), None, "{wrong}");
        }
        let none = HeaderMap::new();
        for (query, expected) in [
            ("_token=third", Some(2)),
            ("a=b&_token=%73ecret&c", Some(0)),
            ("_token=wrong&_token=third", None),
            ("_token", None),
            ("_token=", None),
            ("x_token=third", None),
        ] {
            assert_eq!(auth.admits(&none, Some(query)), expected, "{query}");
        }
        assert_eq!(auth.admits(&none, None), None);
        assert_eq!(Auth::tokens([]).admits(&none, Some("_token=")), None);
        assert_eq!(Auth::open().admits(&none, None), Some(0));
    }

    #[test]
    fn debug_output_keeps_the_token_out() {
        assert_eq!(format!("{:?}", Auth::tokens([Token::new("secret").unwrap()])), "Auth(Some([Token]))");
    }
}
