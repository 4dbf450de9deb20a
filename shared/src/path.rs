//! Paths as limits see them.
//!
//! A wrong answer here lets a client walk around a limit by spelling its path differently, so a path is
//! brought to one form before it is matched or becomes part of a key:
//!
//! 1. scheme and authority of an absolute-form target are cut off, and everything from `?` or `#` on;
//! 2. path parameters (`;…` up to the next slash, `%3B…` too) are cut off, because servlet containers
//!    ignore them;
//! 3. percent-encoding is undone once, for every byte: `%41` is `A`, `%2F` is a slash, `%252F` stays the
//!    text `%2F`. If the policy says `"escaped_slashes": "kept"`, `%2F` is a part of a name instead;
//! 4. a backslash, encoded or not, is a slash, as URL parsers of browsers and Node have it;
//! 5. empty segments and `.` vanish, `..` removes the segment before it (never past the root);
//! 6. a trailing slash vanishes;
//! 7. letters become lower case if the policy says `"path_case": "insensitive"` (ASCII only); they are kept
//!    otherwise.
//!
//! No single form is right for all servers. `/api/..;/x` is `/x` for Tomcat, which cuts parameters off before
//! it resolves dot segments, and lies below `/api` for nginx, Flask and Express. `/a//../x` is `/x` where
//! empty segments vanish, and `/a/x` for `fetch`. So the form above is the first of several *readings*: each
//! [`Kinds`] names one rule that some servers lack, and a path has a reading for each set of the kinds that
//! occur in it. The router is asked about all of them:
//!
//! - Readings that lead to routes without guards are ignored, unless all do: a guard beats no guard.
//! - Where two readings lead to different guarded routes, neither is right, and the request is refused.
//!   Policy order cannot decide: an earlier route may be the more generous one.
//! - Some kinds are forgiving rather than ambiguous: parameters, empty segments, a slash at the end and
//!   needless encoding. A server without such a rule sees a name of no use (`login;x`). The reading that
//!   forgives decides there, unless it leads to no guard.
//! - A dot segment beside anything else that servers disagree about (`..;`, `//..`, `%2e%2e`, `..%2F`, `..\`)
//!   is refused wherever something is guarded: in a chain of servers each resolves what the one before it has
//!   left, and there is no end to the readings. Clients resolve dot segments before they send a path.
//!
//! Ordinary paths have one reading and pay for one.

use alloc::vec::Vec;

/// A path in normal form: starts with `/`, holds no empty segment, and ends in `/` only if it is the root.
#[derive(Clone, Debug)]
pub struct Path {
    bytes: Vec<u8>,
    found: Kinds,
    /// The kinds whose readings are as likely as the normal form.
    hard: Kinds,
}

/// Rules of the normal form that not every server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// `%2F` is a slash.
    pub const SLASH: Self = Self(1);
    /// A backslash is a slash.
    pub const BACKSLASH: Self = Self(1 << 1);
    /// `%5C` is a slash.
    pub const ENCODED_BACKSLASH: Self = Self(1 << 2);
    /// What follows two slashes at the beginning is no host. For `new URL(target, base)` and PHP's
    /// `parse_url` it is.
    pub const AUTHORITY: Self = Self(1 << 3);
    /// Dot segments are resolved. WSGI servers, Node and Go's handlers leave them where they are.
    pub const DOTS: Self = Self(1 << 4);
    /// Path parameters are cut off before dot segments are resolved.
    pub const PARAMETERS: Self = Self(1 << 5);
    /// So are those that begin with `%3B`, as they are for Tomcat behind an nginx that decodes paths.
    pub const ENCODED_PARAMETERS: Self = Self(1 << 9);
    /// Path parameters end at every kind of slash. For Tomcat they end at `/` alone.
    pub const LONG_PARAMETERS: Self = Self(1 << 10);
    /// Empty segments vanish before dot segments are resolved.
    pub const EMPTY: Self = Self(1 << 6);
    /// So do those in front of all others, which some servers merge that keep the others.
    pub const LEADING: Self = Self(1 << 13);
    /// A slash at the end vanishes.
    pub const TRAILING: Self = Self(1 << 11);
    /// `%2e`, `%61` and `%40`, which need no encoding, are decoded before routes are compared and dot segments
    /// resolved.
    pub const NEEDLESS: Self = Self(1 << 7);
    /// A path ends at `#`.
    pub const FRAGMENT: Self = Self(1 << 8);
    /// There is a control character or a space: some parsers of URLs and requests end there, others
    /// drop it.
    const BLANK: Self = Self(1 << 12);
    const ALL_PARAMETERS: Self = Self(Self::PARAMETERS.0 | Self::ENCODED_PARAMETERS.0);
    const FORGIVING: Self =
        Self(Self::ALL_PARAMETERS.0 | Self::EMPTY.0 | Self::LEADING.0 | Self::TRAILING.0 | Self::NEEDLESS.0);

    fn add(&mut self, kinds: Self) {
        self.0 |= kinds.0;
    }

    /// These and `other`.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `kinds` are among these.
    pub fn has(self, kinds: Self) -> bool {
        self.0 & kinds.0 == kinds.0
    }

    /// Every set of these but the empty one.
    fn subsets(self) -> impl Iterator<Item = Self> {
        core::iter::successors(Some(self.0), move |set| Some(set.checked_sub(1)? & self.0))
            .take_while(|set| *set != 0)
            .map(Self)
    }
}

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

/// What `%2F` in a path is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EscapedSlashes {
    /// A slash, and a part of a name for some servers: both readings count.
    #[default]
    Ambiguous,
    /// A part of a name, and never a slash, for every server that reads the path.
    Kept,
}

/// What of the normal form the policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathRules {
    /// Whether `/Login` and `/login` are one path.
    pub case: PathCase,
    /// What `%2F` is.
    pub escaped_slashes: EscapedSlashes,
}

impl Path {
    /// Brings a request target to normal form.
    pub fn normalize(target: &[u8], rules: PathRules) -> Self {
        match ordinary(target) {
            Some(path) => {
                let mut bytes = path.to_vec();
                if rules.case == PathCase::Insensitive {
                    bytes.make_ascii_lowercase();
                }
                let mut found = Kinds::default();
                if target.get(bytes.len()) == Some(&b'/') {
                    found.add(Kinds::TRAILING);
                }
                Self { bytes, found, hard: Kinds::default() }
            }
            None => {
                let mut path = Reader::read(target, rules, Kinds::default());
                if path.found.has(Kinds::FRAGMENT) {
                    // What stands behind the `#` is a part of other readings.
                    let longer = Reader::read(target, rules, Kinds::FRAGMENT);
                    path.found.add(longer.found);
                    path.hard = path.found;
                }
                path
            }
        }
    }

    /// How a server reads a request target that lacks the rules in `without`. What such a server takes for a
    /// part of a name, and no pattern can equal, stands there as a backslash; empty segments stay.
    pub fn without(target: &[u8], rules: PathRules, without: Kinds) -> Self {
        Reader::read(target, rules, without)
    }

    /// The path's bytes; not necessarily UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The segments between slashes; none for the root. None is empty in normal form.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let rest = self.bytes.get(1..).unwrap_or_default();
        let is_root = rest.is_empty();
        rest.split(|b| *b == b'/').filter(move |_| !is_root)
    }

    /// Whether every server reads the path as this one.
    pub fn has_one_reading(&self) -> bool {
        self.found == Kinds::default()
    }

    /// Whether path parameters were cut off.
    pub(crate) fn has_parameters(&self) -> bool {
        self.found.0 & Kinds::ALL_PARAMETERS.0 != 0
    }

    /// Whether servers may disagree about more than can be looked at. No honest client sends such a path.
    pub(crate) fn is_unreadable(&self) -> bool {
        let beside_dots = Kinds(self.found.0 & !(Kinds::DOTS.0 | Kinds::TRAILING.0));
        (self.found.has(Kinds::DOTS) && beside_dots != Kinds::default())
            || self.found.has(Kinds::BLANK)
            || self.found.0.count_ones() > MAX_KINDS
    }

    /// Whether the normal form forgives whatever servers disagree about.
    pub(crate) fn is_forgiving(&self) -> bool {
        self.found.0 & self.hard.0 == 0
    }

    /// The sets of rules without which a reading is as likely as the normal form.
    pub(crate) fn likely(&self) -> impl Iterator<Item = Kinds> {
        Kinds(self.found.0 & self.hard.0).subsets()
    }

    /// The sets of forgiving rules without which there are more readings than the likely ones.
    pub(crate) fn unforgiving(&self) -> impl Iterator<Item = Kinds> {
        Kinds(self.found.0 & !self.hard.0).subsets()
    }

    /// Whether servers that route the path alike take it for the same resource: not so if some cut off what
    /// others take for a name.
    pub fn is_one_resource(&self) -> bool {
        !self.found.has(Kinds::AUTHORITY)
    }

    /// Calls `read` with the path as a part of keys: once, or twice where it may be several resources, so
    /// that it counts as a part that was sent twice.
    pub(crate) fn subject(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.bytes);
        if !self.is_one_resource() {
            read(&self.bytes);
        }
    }
}

/// Reads a target segment by segment.
struct Reader {
    path: Path,
    without: Kinds,
    /// Where the segment begins.
    start: usize,
    /// Whether a slash came before it.
    is_first: bool,
    /// Whether its parameters have begun.
    parameters: bool,
    /// Whether it holds needless encoding.
    needless: bool,
}

impl Reader {
    fn read(target: &[u8], rules: PathRules, without: Kinds) -> Path {
        let mut bytes = Vec::with_capacity(target.len().min(256));
        bytes.push(b'/');
        let path = Path { bytes, found: Kinds::default(), hard: Kinds::default() };
        let mut reader = Self { path, without, start: 1, is_first: true, parameters: false, needless: false };
        let mut rest = without_authority(target);
        if let [b'/' | b'\\', b'/' | b'\\', ..] = rest {
            reader.path.found.add(Kinds::AUTHORITY);
            if without.has(Kinds::AUTHORITY) {
                let host = rest.iter().position(|b| !b"/\\".contains(b)).unwrap_or(rest.len());
                rest = until_path(rest.get(host..).unwrap_or_default());
            }
        }
        while let Some((&raw, after)) = rest.split_first() {
            rest = after;
            match raw {
                b'?' => break,
                b'#' => {
                    reader.path.found.add(Kinds::FRAGMENT);
                    if !without.has(Kinds::FRAGMENT) {
                        break;
                    }
                    reader.push(b'\\');
                }
                b'/' => reader.end_segment(true),
                b'\\' => reader.slash(Kinds::BACKSLASH),
                b';' => reader.parameters(Kinds::PARAMETERS),
                b'%' => match decode(rest) {
                    Some((byte, after)) => {
                        rest = after;
                        match byte {
                            b'/' if rules.escaped_slashes == EscapedSlashes::Kept => reader.push(b'\\'),
                            b'/' => reader.slash(Kinds::SLASH),
                            b'\\' => reader.slash(Kinds::ENCODED_BACKSLASH),
                            b';' => reader.parameters(Kinds::ENCODED_PARAMETERS),
                            _ => {
                                if byte.is_ascii_alphanumeric() || UNENCODED.contains(&byte) {
                                    reader.needless |= !reader.parameters;
                                }
                                reader.push(byte);
                            }
                        }
                    }
                    None => reader.push(raw),
                },
                _ => {
                    if raw == b' ' || raw.is_ascii_control() {
                        reader.path.found.add(Kinds::BLANK);
                    }
                    reader.push(raw);
                }
            }
        }
        reader.end_segment(false);
        let Self { mut path, .. } = reader;
        if path.bytes.len() > 1 && !(path.found.has(Kinds::TRAILING) && without.has(Kinds::TRAILING)) {
            path.bytes.pop();
        }
        if rules.case == PathCase::Insensitive {
            path.bytes.make_ascii_lowercase();
        }
        path.hard.add(Kinds(path.found.0 & !Kinds::FORGIVING.0));
        path
    }

    fn push(&mut self, byte: u8) {
        if !self.parameters {
            self.path.bytes.push(byte);
        }
    }

    /// What is a slash by the rule of `kind`.
    fn slash(&mut self, kind: Kinds) {
        self.path.found.add(kind);
        if self.parameters {
            self.path.found.add(Kinds::LONG_PARAMETERS);
        }
        let is_text = self.without.has(kind) || (self.parameters && self.without.has(Kinds::LONG_PARAMETERS));
        if is_text { self.push(b'\\') } else { self.end_segment(true) }
    }

    /// What begins path parameters by the rule of `kind`.
    fn parameters(&mut self, kind: Kinds) {
        self.path.found.add(kind);
        if self.without.has(kind) { self.push(b'\\') } else { self.parameters = true }
    }

    /// Closes a segment. `by_slash` says that another one follows, be it empty.
    fn end_segment(&mut self, by_slash: bool) {
        let Self { path, without, start, is_first, parameters, needless } = self;
        let is_encoded = *needless && without.has(Kinds::NEEDLESS);
        let segment = path.bytes.get(*start..).unwrap_or_default();
        let is_up = segment == b"..";
        let is_dots = is_up || segment == b".";
        if *needless {
            path.found.add(Kinds::NEEDLESS);
        }
        if (segment.is_empty() || is_dots) && !by_slash {
            path.found.add(Kinds::TRAILING);
        }
        if segment.is_empty() {
            if *parameters && by_slash {
                // A segment that vanishes for some servers is any name for a `*` of others.
                path.hard.add(Kinds::ALL_PARAMETERS);
            } else if by_slash && !*is_first {
                let is_leading = path.bytes.get(1).is_none_or(|first| *first == b'/');
                let kind = if is_leading { Kinds::LEADING } else { Kinds::EMPTY };
                path.found.add(kind);
                if without.has(kind) {
                    path.bytes.push(b'/');
                }
            }
        } else if is_dots && !is_encoded && !without.has(Kinds::DOTS) {
            path.bytes.truncate(*start);
            if is_up {
                let before = path.bytes.get(..start.saturating_sub(1)).unwrap_or_default();
                let parent = before.iter().rposition(|b| *b == b'/').map_or(1, |slash| slash + 1);
                path.bytes.truncate(parent);
            }
        } else {
            path.bytes.extend_from_slice(if is_encoded { b"\\/" } else { b"/" });
        }
        if is_dots {
            path.found.add(Kinds::DOTS);
        }
        *start = path.bytes.len();
        (*is_first, *parameters, *needless) = (false, false, false);
    }
}

/// The path of a target that is in normal form but for its query and a trailing slash.
fn ordinary(target: &[u8]) -> Option<&[u8]> {
    if target.first() != Some(&b'/') {
        return None;
    }
    let mut before = 0;
    let mut end = 0;
    for byte in target {
        match (byte, before) {
            (b'?', _) => break,
            (b'%' | b'\\' | b';' | b'#' | ..=b' ' | 0x7f, _) | (b'/' | b'.', b'/') => return None,
            _ => {}
        }
        before = *byte;
        end += 1;
    }
    if end > 1 && before == b'/' {
        end -= 1;
    }
    target.get(..end)
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
    until_path(target.get(scheme + 3..).unwrap_or_default())
}

/// What follows the authority at the beginning of `rest`.
fn until_path(rest: &[u8]) -> &[u8] {
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

/// What a segment of a path holds without encoding beside letters and digits (RFC 3986 §3.3), semicolons aside.
const UNENCODED: &[u8] = b"-._~!$&'()*+,=:@";
/// Most kinds of a path whose readings are all looked at: sixteen readings.
const MAX_KINDS: u32 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(target: &str) -> std::string::String {
        let path = Path::normalize(target.as_bytes(), PathRules::default());
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
            "/auth/login%3Bc",
            "/auth/..;/auth/login",
            "http://host.example/auth/login",
            "HTTPS://host.example:443/auth/login?x",
            "auth/login",
        ] {
            assert_eq!(normal(target), "/auth/login", "{target}");
        }
    }

    #[test]
    fn an_escaped_slash_that_is_kept_is_a_part_of_a_name() {
        let rules = PathRules { escaped_slashes: EscapedSlashes::Kept, ..PathRules::default() };
        let path = Path::normalize(b"/a%2Fb/c", rules);
        assert!(path.has_one_reading() && path.segments().eq([&b"a\\b"[..], b"c"]), "{path:?}");
        // Every other kind of slash is one still.
        assert!(!Path::normalize(b"/a%5Cb/c", rules).has_one_reading());
        // In a parameter it is cut off with it.
        assert_eq!(Path::normalize(b"/a;x%2Fb/c", rules).as_bytes(), b"/a/c");
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

    /// What a server makes of a target that lacks some of our rules.
    fn read(target: &str, without: Kinds) -> std::string::String {
        let path = Path::without(target.as_bytes(), PathRules::default(), without);
        std::string::String::from_utf8_lossy(path.as_bytes()).into_owned()
    }

    #[test]
    fn servers_without_a_rule_read_another_path() {
        for (target, without, expected) in [
            ("/api/..%3B/x", Kinds::ENCODED_PARAMETERS, r"/api/..\/x"),
            (r"/auth/login;\x", Kinds::LONG_PARAMETERS, "/auth/login"),
            ("/auth/login/", Kinds::TRAILING, "/auth/login/"),
            ("/auth/login/x/..", Kinds::TRAILING, "/auth/login/"),
            ("/api/..;/x", Kinds::PARAMETERS, r"/api/..\/x"),
            ("/api/%2e%2e;/x", Kinds::PARAMETERS, r"/api/..\/x"),
            ("/api/../x", Kinds::DOTS, "/api/../x"),
            ("/api//../x", Kinds::EMPTY, "/api/x"),
            ("/api/%2e%2e/x", Kinds::NEEDLESS, r"/api/..\/x"),
            ("/api%2F..%2Fx", Kinds::SLASH, r"/api\..\x"),
            (r"/api\..\x", Kinds::BACKSLASH, r"/api\..\x"),
            ("/api%5C..%5Cx", Kinds::ENCODED_BACKSLASH, r"/api\..\x"),
            ("//host/api/x", Kinds::AUTHORITY, "/api/x"),
            (r"/\host/api/x", Kinds::AUTHORITY, "/api/x"),
            ("/x#/../api/y", Kinds::FRAGMENT, "/api/y"),
            ("/users/;x/orders", Kinds::PARAMETERS, r"/users/\x/orders"),
            ("/users//orders", Kinds::EMPTY, "/users//orders"),
            ("/login;x", Kinds::PARAMETERS, r"/login\x"),
            ("/%61pi", Kinds::NEEDLESS, r"/api\"),
            ("/%40me", Kinds::NEEDLESS, r"/@me\"),
            ("/a%20b", Kinds::NEEDLESS, "/a b"),
        ] {
            let path = Path::normalize(target.as_bytes(), PathRules::default());
            assert!(path.found.has(without) || target == "/a%20b", "{target}");
            assert_eq!(read(target, without), expected, "{target}");
        }
    }

    #[test]
    fn a_blank_is_no_part_of_a_path_unless_it_is_encoded() {
        let is_unreadable =
            |target: &str| Path::normalize(target.as_bytes(), PathRules::default()).is_unreadable();
        for target in ["/v1 ", "/v1  ?a", "/ v1", "/a b", "/a\tb", "/a\x7f", "/\0", " /v1"] {
            assert!(is_unreadable(target), "{target:?}");
        }
        for target in ["/v1%20", "/a%20b", "/a?b c", "/a%09b"] {
            assert!(!is_unreadable(target), "{target:?}");
        }
    }

    #[test]
    fn many_slashes_take_no_longer_than_other_bytes() {
        let slashes = "/".repeat(1 << 20);
        for without in [Kinds::default(), Kinds::LEADING, Kinds::LEADING.and(Kinds::EMPTY)] {
            let path = Path::without(slashes.as_bytes(), PathRules::default(), without);
            assert!(path.as_bytes().iter().all(|b| *b == b'/'));
        }
    }

    #[test]
    fn ordinary_paths_have_one_reading() {
        for target in
            ["/", "/api/x", "/v1/users:batchGet", "/a.b/c..d/...?x=/../;%2F", "/caf%C3%A9", "/a%20b"]
        {
            assert!(Path::normalize(target.as_bytes(), PathRules::default()).has_one_reading(), "{target}");
        }
    }

    #[test]
    fn case_is_folded_on_request() {
        let path = Path::normalize(
            b"/Auth/LOGIN%41",
            PathRules { case: PathCase::Insensitive, ..PathRules::default() },
        );
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
            let path = Path::normalize(&target, PathRules::default());
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
