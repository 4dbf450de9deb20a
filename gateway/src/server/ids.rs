//! Names of requests, for `x-request-id` and `upstash-sync-token`.

use std::cell::Cell;
use std::io::Write as _;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// Names that no other thread and no other gateway gives.
#[derive(Debug)]
pub(crate) struct Ids {
    /// What all names of this thread begin with.
    prefix: u64,
    next: Cell<u64>,
}

impl Ids {
    pub(crate) fn new() -> Self {
        // Without randomness names may repeat those of another process, which only a reader of logs would notice.
        Self { prefix: getrandom::u64().unwrap_or_default(), next: Cell::new(0) }
    }

    /// The name that the client gave its request, if it looks like one, or else a new one.
    pub(crate) fn of_request(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(&REQUEST_ID) {
            Some(id) if is_sane(id.as_bytes()) => id.clone(),
            _ => self.next(),
        }
    }

    /// A name that was never given before.
    pub(crate) fn next(&self) -> HeaderValue {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let mut text = [0; LONGEST];
        let mut rest = &mut text[..];
        // There is room for both numbers.
        let _ = write!(rest, "{:016x}-{number:x}", self.prefix);
        let unused = rest.len();
        let text = text.get(..LONGEST - unused).unwrap_or_default();
        let mut name = HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-"));
        // It never comes again: in HTTP/2's table of header fields it would only push others out.
        name.set_sensitive(true);
        name
    }
}

/// Whether an id from outside may stand in a log.
fn is_sane(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

/// The header that names a request.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Two numbers in hexadecimal, and what is between them.
const LONGEST: usize = 16 + 1 + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_new_each_time_or_taken_over_when_sane() {
        let ids = Ids::new();
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_eq!(first.as_bytes()[..17], second.as_bytes()[..17]);
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID.clone(), HeaderValue::from_bytes(id).unwrap());
            ids.of_request(&headers)
        };
        for sane in ["a", "4bf92f3577b34da6-1:2/3", &"x".repeat(128)] {
            assert_eq!(of(sane.as_bytes()), sane);
        }
        for odd in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            assert_ne!(of(odd.as_bytes()).as_bytes(), odd.as_bytes());
        }
        assert_ne!(ids.of_request(&HeaderMap::new()), second);
    }
}
