//! What every host checks alike about its store, wherever it is written.

use alloc::format;
use alloc::string::{String, ToString};
use core::ops::RangeInclusive;
use core::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use crate::time::Span;

/// Whose clock counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreClock {
    /// The store's: instances need no common clock.
    #[default]
    Store,
    /// The host's: for stores whose scripts may not ask for the time.
    Host,
}

/// The value of `Authorization` for a bearer token that stands at `path`.
///
/// # Errors
/// The token would not survive in a header field.
pub fn authorization(path: &str, token: &str) -> Result<String, ConfigError> {
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let expected = "a token of visible ASCII characters";
        return Err(ConfigError::new(path, "an unusable token (not shown)", expected));
    }
    Ok(format!("Bearer {token}"))
}

/// How long a request may wait for the store; `default` where nothing is said.
///
/// # Errors
/// More than 10 s.
pub fn timeout(path: &str, found: Option<Span>, default: Duration) -> Result<Duration, ConfigError> {
    match found.map(|span| (span, Duration::from_millis(span.as_millis()))) {
        None => Ok(default),
        Some((_, timeout)) if timeout <= MAX_TIMEOUT => Ok(timeout),
        Some((span, _)) => Err(ConfigError::new(path, span.to_string(), "at most 10s")),
    }
}

/// Over how many instances a quota is split while the store fails: 1 to 100,000, and 1 where nothing is said.
///
/// # Errors
/// Another number.
pub fn replicas(path: &str, found: Option<u32>) -> Result<u32, ConfigError> {
    in_range(path, found, 1, 1..=100_000)
}

/// A number within bounds; `default` where nothing is said.
///
/// # Errors
/// Another number.
pub fn in_range(
    path: &str,
    found: Option<u32>,
    default: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, ConfigError> {
    match found {
        None => Ok(default),
        Some(number) if range.contains(&number) => Ok(number),
        Some(number) => {
            let expected = format!("{} to {}", range.start(), range.end());
            Err(ConfigError::new(path, format!("`{number}`"), expected))
        }
    }
}

/// What a host remembers between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// How many denials at most, and how many tokens; zero for none.
    pub at_most: usize,
    /// For how long a denial is believed at most before the store is asked again.
    pub denials_for: Span,
}

impl Remembered {
    /// So many denials at most, and so many tokens; zero for none.
    pub const fn at_most(at_most: usize) -> Self {
        Self { at_most, denials_for: DENIALS_FOR }
    }
}

/// What a host remembers: `keys` denials, 4,096 if left out and at most 2²⁰, each for `max_age`, 1 s
/// if left out.
pub fn remembered(keys: Option<u32>, max_age: Option<Span>) -> Remembered {
    let at_most = usize::try_from(keys.unwrap_or(4096)).unwrap_or(usize::MAX).min(1 << 20);
    Remembered { at_most, denials_for: max_age.unwrap_or(DENIALS_FOR) }
}

const DENIALS_FOR: Span = Span::from_millis(1000).unwrap();

const MAX_TIMEOUT: Duration = Duration::from_secs(10);
