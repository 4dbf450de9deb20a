//! Other spellings of one request, as somebody would try them to get around a limit.

use std::net::IpAddr;

use crate::head::Head;

/// The same request spelled differently, by choices that `seed` makes. `fold` says that letters of the path may change
/// case.
pub fn respell(head: &Head, fold: bool, seed: u64) -> Head {
    let mut choices = Choices(seed);
    let mut other = head.clone();
    other.target = target(&head.target, fold, &mut choices);
    if choices.one_in(2) {
        other.method =
            head.method.iter().map(|byte| if choices.one_in(2) { flip_case(*byte) } else { *byte }).collect();
    }
    authority(&mut other.authority, &mut choices);
    for (name, value) in &mut other.headers {
        if name == "cookie" && choices.one_in(2) {
            value.extend_from_slice(b"; zz=1");
        }
        if choices.one_in(2) {
            *value = [b" \t", &value[..], b" "].concat();
        }
    }
    if choices.one_in(2) {
        other.headers.push(("cookie".to_owned(), b"zz=2".into()));
    }
    if let Some(IpAddr::V4(v4)) = other.peer.filter(|_| choices.one_in(2)) {
        other.peer = Some(IpAddr::V6(v4.to_ipv6_mapped()));
    }
    other
}

/// The same request with more to the left of a list of addresses, where only the client can have written it.
pub fn forge(head: &Head, field: &str) -> Head {
    let mut other = head.clone();
    match other.headers.iter_mut().find(|(name, _)| name == field) {
        Some((_, line)) => line.splice(..0, b"6.6.6.6, unknown,".iter().copied()).for_each(drop),
        None => return other,
    }
    other.headers.insert(0, (field.to_owned(), b"\"[::1]:80\", 7.7.7.7".into()));
    other
}

fn authority(authority: &mut Vec<u8>, choices: &mut Choices) {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    if !authority.iter().all(plain) || matches!(authority.last(), None | Some(b'.')) {
        return;
    }
    if choices.one_in(2) {
        authority.make_ascii_uppercase();
    }
    if choices.one_in(2) {
        authority.push(b'.');
    }
    if choices.one_in(2) {
        authority.extend_from_slice(b":8443");
    }
}

fn target(target: &[u8], fold: bool, choices: &mut Choices) -> Vec<u8> {
    // Only of a target in origin form is every byte up to the query part of the path.
    if target.first() != Some(&b'/') {
        return target.into();
    }
    let (target, fragment) = target.split_at(position(target, b"#"));
    let (path, query) = target.split_at(position(target, b"?"));
    let mut other = Vec::new();
    let mut parameters = false;
    encode(path, choices, &mut other, |byte, choices, other| match byte {
        b'/' | b'\\' => {
            // The first slash makes this an origin form; in parameters only one that is written is a slash.
            let same = match (other.is_empty(), parameters) {
                (true, _) => 7,
                (false, true) => 8,
                (false, false) => SLASHES.len(),
            };
            other.extend_from_slice(SLASHES[choices.below(same)]);
            parameters = false;
            None
        }
        b';' => {
            parameters = true;
            Some(byte)
        }
        _ if fold && choices.one_in(2) => Some(flip_case(byte)),
        _ => Some(byte),
    });
    other.extend_from_slice(ENDS[choices.below(ENDS.len())]);
    encode(query, choices, &mut other, |byte, _, _| Some(byte));
    if !query.is_empty() && choices.one_in(2) {
        other.extend_from_slice(b"&zz=1");
    }
    other.extend_from_slice(if fragment.is_empty() && choices.one_in(2) { b"#zz" } else { fragment });
    other
}

/// Writes `text`, percent-encoding some of what needs no encoding. What is encoded already stays so; `write` is asked for
/// every other byte, and returns it unless it wrote something itself.
fn encode(
    mut text: &[u8],
    choices: &mut Choices,
    to: &mut Vec<u8>,
    mut write: impl FnMut(u8, &mut Choices, &mut Vec<u8>) -> Option<u8>,
) {
    while let Some((&byte, after)) = text.split_first() {
        text = after;
        if byte == b'%'
            && let Some((digits, after)) = after.split_at_checked(2)
            && digits.iter().all(u8::is_ascii_hexdigit)
        {
            to.push(byte);
            to.extend(digits.iter().map(|b| if choices.one_in(2) { flip_case(*b) } else { *b }));
            text = after;
        } else if let Some(byte) = write(byte, choices, to) {
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            // Some servers read `%u0061`, and none `%%750061`, as an `a`.
            let is_escape = to.last() == Some(&b'%');
            if unreserved && !is_escape && choices.one_in(4) {
                to.extend_from_slice(format!("%{byte:02x}").as_bytes());
            } else {
                to.push(byte);
            }
        }
    }
}

fn position(text: &[u8], marks: &[u8]) -> usize {
    text.iter().position(|b| marks.contains(b)).unwrap_or(text.len())
}

fn flip_case(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() }
}

/// Splitmix64.
#[derive(Debug)]
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What is the same as a slash: first what begins with one, then what begins with one that is written.
const SLASHES: [&[u8]; 13] = [
    b"/",
    b"/",
    b"//",
    b"/./",
    b"/%2e/",
    b"/x/../",
    b"/;a=b/x;c/%2E./",
    b"\\x\\..\\",
    b"\\",
    b"%2F",
    b"%5c",
    b";a=b/",
    b"%2f.%2f",
];
/// What may stand behind a path.
const ENDS: [&[u8]; 6] = [b"", b"", b"/", b"/.", b";a=b", b"/x/.."];
