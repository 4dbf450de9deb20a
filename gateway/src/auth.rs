//! Who may use the Redis behind the gateway.
//!
//! A wrong "yes" gives away every key, so the token is compared without a shortcut that its timing could tell; a wrong
//! "no" is a 401 that an operator sees at once.

use std::borrow::Cow;
use std::fmt;

use anyhow::ensure;
use hyper::header::{self, HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq as _;

/// Who may use the gateway: holders of a token, or everyone.
pub struct Auth(Option<Box<str>>);

impl Auth {
    /// Only holders of `token`. It has to fit a header, so it is visible ASCII.
    pub fn token(token: &str) -> anyhow::Result<Self> {
        ensure!(!token.is_empty(), "it is empty");
        ensure!(
            token.bytes().all(|byte| byte.is_ascii_graphic()),
            "it has other characters than visible ASCII"
        );
        Ok(Self(Some(token.into())))
    }

    /// Everyone who reaches the port.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether everyone is let in.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the token is presented, as `Authorization: Bearer …`, or, without such a header, as the parameter `_token` of
    /// the query. Takes as long for a wrong token as for the right one; only the token's length shows.
    pub(crate) fn admits(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let Some(token) = &self.0 else { return true };
        let presented = match headers.get(header::AUTHORIZATION) {
            Some(value) => bearer(value).map(Cow::Borrowed),
            None => query.and_then(parameter),
        };
        presented.is_some_and(|presented| presented.ct_eq(token.as_bytes()).into())
    }
}

/// Without the token.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() { "Auth(open)" } else { "Auth(token)" })
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token.trim_ascii())
}

fn parameter(query: &str) -> Option<Cow<'_, [u8]>> {
    query.split('&').find_map(|parameter| match parameter.split_once('=')? {
        (TOKEN, value) => Some(percent_decode_str(value).into()),
        _ => None,
    })
}

const SCHEME: &[u8] = b"Bearer ";

const TOKEN: &str = "_token";

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(auth: &Auth, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        auth.admits(&headers, None)
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let auth = Auth::token("secret").unwrap();
        assert!(admits(&auth, "Bearer secret"));
        assert!(admits(&auth, "bearer  secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "secret", "Basic secret", ""] {
            assert!(!admits(&auth, wrong), "{wrong}");
        }
        assert!(!auth.admits(&HeaderMap::new(), None));
        assert!(Auth::open().admits(&HeaderMap::new(), None));
    }

    #[test]
    fn debug_output_keeps_the_token_out() {
        assert_eq!(format!("{:?}", Auth::token("secret").unwrap()), "Auth(token)");
    }
}
