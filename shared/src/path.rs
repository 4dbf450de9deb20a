//! Paths as limits see them.
//!
//! A wrong answer here lets a client walk around a limit by spelling its path differently, so a path is
//! brought to one form before it is matched or becomes part of a key:
//!
//! 1. scheme and authority of an absolute-form target are cut off, and everything from `?` or `#` on;
//! 2. path parameters (`;…` up to the next slash) are cut off, because servlet containers ignore them;
//! 3. percent-encoding is undone once, for every byte: `%41` is `A`, `%2F` is a slash, `%252F` stays the text `%2F`;
//! 4. a backslash, encoded or not, is a slash, as URL parsers of browsers and Node have it;
//! 5. empty segments and `.` vanish, `..` removes the segment before it (never past the root);
//! 6. a trailing slash vanishes;
//! 7. letters become lower case if the policy says `"path_case": "insensitive"` (ASCII only); they are kept otherwise.

use alloc::vec::Vec;

/// A path in normal form: starts with `/`, holds no empty segment, and ends in `/` only if it is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<u8>);

/// Whether `/Login` and `/login` are one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PathCase {
    /// They are two, as RFC 3986 has it.
    #[default]
    Sensitive,
    /// They are one, for upstreams that route so.
    Insensitive,
}

impl Path {
    /// Brings a request target to normal form.
    pub fn normalize(target: &[u8], case: PathCase) -> Self {
        let mut path = Self(Vec::with_capacity(target.len().min(256)));
        path.0.push(b'/');
        let mut segment = 1;
        let mut rest = without_authority(target);
        let mut parameters = false;
        while let Some((&raw, after)) = rest.split_first() {
            rest = after;
            let byte = match raw {
                b'?' | b'#' => break,
                b'/' | b'\\' => {
                    parameters = false;
                    segment = path.end_segment(segment);
                    continue;
                }
                _ if parameters => continue,
                b';' => {
                    parameters = true;
                    continue;
                }
                b'%' => match decode(rest) {
                    Some((byte, after)) => {
                        rest = after;
                        byte
                    }
                    None => raw,
                },
                _ => raw,
            };
            match byte {
                b'/' | b'\\' => segment = path.end_segment(segment),
                _ if case == PathCase::Insensitive => path.0.push(byte.to_ascii_lowercase()),
                _ => path.0.push(byte),
            }
        }
        path.end_segment(segment);
        if path.0.len() > 1 {
            path.0.pop();
        }
        path
    }

    /// The path's bytes; not necessarily UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The segments between slashes; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let rest = self.0.get(1..).unwrap_or_default();
        rest.split(|b| *b == b'/').filter(|segment| !segment.is_empty())
    }

    /// Closes the segment that began at `start`, and says where the next one begins.
    fn end_segment(&mut self, start: usize) -> usize {
        match self.0.get(start..) {
            None | Some([]) => {}
            Some(b".") => self.0.truncate(start),
            Some(b"..") => {
                let before = self.0.get(..start.saturating_sub(1)).unwrap_or_default();
                let parent = before.iter().rposition(|b| *b == b'/').map_or(1, |slash| slash + 1);
                self.0.truncate(parent);
            }
            Some(_) => self.0.push(b'/'),
        }
        self.0.len()
    }
}

/// The query of a target, without its `?`; empty when there is none.
pub fn query(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|b| *b == b'#').unwrap_or(target.len());
    let target = target.get(..end).unwrap_or_default();
    match target.iter().position(|b| *b == b'?') {
        Some(mark) => target.get(mark + 1..).unwrap_or_default(),
        None => &[],
    }
}

/// Undoes percent-encoding once, byte by byte; what is not valid encoding stays as it is.
pub fn percent_decode(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (&raw, after) = rest.split_first()?;
        let (byte, after) = if raw == b'%' { decode(after).unwrap_or((raw, after)) } else { (raw, after) };
        rest = after;
        Some(byte)
    })
}

fn without_authority(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let Some(scheme) = target.windows(3).position(|w| w == b"://") else { return target };
    let is_scheme = target
        .get(..scheme)
        .is_some_and(|s| !s.is_empty() && s.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)));
    if !is_scheme {
        return target;
    }
    let rest = target.get(scheme + 3..).unwrap_or_default();
    let end = rest.iter().position(|b| b"/\\?#".contains(b)).unwrap_or(rest.len());
    rest.get(end..).unwrap_or_default()
}

/// The byte that the two hexadecimal digits at the start of `rest` encode, and what follows them.
pub(crate) fn decode(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, after) = rest.split_at_checked(2)?;
    let value =
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))?;
    Some((u8::try_from(value).ok()?, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(target: &str) -> std::string::String {
        let path = Path::normalize(target.as_bytes(), PathCase::Sensitive);
        std::string::String::from_utf8_lossy(path.as_bytes()).into_owned()
    }

    #[test]
    fn spellings_of_one_path_are_one() {
        for target in [
            "/auth/login",
            "/auth/login/",
            "//auth///login",
            "/auth/./login",
            "/auth/x/../login",
            "/../auth/login",
            "/auth/%6cogin",
            "/auth%2Flogin",
            "/auth%2flogin",
            "/auth\\login",
            "/auth%5Clogin",
            "/%2e/auth/y/%2e%2E/login",
            "/auth/login?x=1",
            "/auth/login#x",
            "/auth;a=b/login;c=d?e",
            "/auth/..;/auth/login",
            "http://host.example/auth/login",
            "HTTPS://host.example:443/auth/login?x",
            "auth/login",
        ] {
            assert_eq!(normal(target), "/auth/login", "{target}");
        }
    }

    #[test]
    fn what_is_encoded_twice_is_decoded_once() {
        assert_eq!(normal("/auth%252Flogin"), "/auth%2Flogin");
        assert_eq!(normal("/%zz/%4"), "/%zz/%4");
    }

    #[test]
    fn roots_are_roots() {
        for target in ["", "/", "//", "/.", "/..", "/a/..", "?x", "http://host", "http://host?x", "/%2F"] {
            assert_eq!(normal(target), "/", "{target}");
        }
    }

    #[test]
    fn a_scheme_inside_a_path_is_no_authority() {
        assert_eq!(normal("/proxy/http://host/x"), "/proxy/http:/host/x");
    }

    #[test]
    fn case_is_folded_on_request() {
        let path = Path::normalize(b"/Auth/LOGIN%41", PathCase::Insensitive);
        assert_eq!(path.as_bytes(), b"/auth/logina");
    }

    #[test]
    fn queries_end_at_the_fragment() {
        assert_eq!(query(b"/a?b=c?d#e?f"), b"b=c?d");
        assert_eq!(query(b"/a#b?c"), b"");
    }

    proptest! {
        #[test]
        fn any_bytes_become_a_normal_form(target in prop::collection::vec(any::<u8>(), 0..200)) {
            let path = Path::normalize(&target, PathCase::Sensitive);
            prop_assert_eq!(path.as_bytes().first(), Some(&b'/'));
            prop_assert!(path.segments().all(|s| !matches!(s, b"" | b"." | b"..")));
            let mut again = Vec::new();
            for segment in path.segments() {
                again.push(b'/');
                again.extend_from_slice(segment);
            }
            prop_assert_eq!(path.as_bytes(), if again.is_empty() { b"/".as_slice() } else { &again });
        }
    }
}
