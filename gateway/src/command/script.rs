//! Scripts written for Upstash, made to run on any Redis.
//!
//! Newer SDKs of Upstash begin their scripts with `#!lua flags=allow-key-locking`, and Redis refuses a script with a flag it
//! does not know. So that flag is left out of the first line, and Redis knows the script by another digest than the client.
//! This is the way back: the digests that clients use, and what they are called in Redis.
//!
//! A wrong way runs another script than the one that was called. So both digests are always
//! computed here, from the text of the script: when a client sends it, or when it comes from a key
//! under which another gateway kept it, which any client can write. What is known is never
//! replaced. Each token has a map of its own, so that none pushes out what another needs. All of it
//! may be forgotten at any time: a client that is told `NOSCRIPT` sends the text.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use sha1_smol::Sha1;

use super::Info;
use crate::resp::{Arguments, write_argument};

/// A SHA-1 in lower-case hexadecimal.
pub(crate) type Digest = [u8; DIGEST];

/// Digests of scripts that were changed for one token: as clients have them, and as Redis does.
#[derive(Debug, Default)]
pub(crate) struct Scripts(RwLock<HashMap<Digest, Digest>>);

/// A script as its clients have it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Original {
    /// The digest by which they call it.
    pub(crate) digest: Digest,
    /// The text, whose digest that is.
    pub(crate) text: Vec<u8>,
}

/// What is to be known of a command that loads or calls a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// The script that was changed, if it was not known and is to be kept.
    pub(super) changed: Option<Original>,
    /// What `SCRIPT LOAD` has to answer.
    pub(super) asked: Option<Digest>,
}

impl Scripts {
    /// Changes a command that loads or calls a script, which begins at `start`, into the form in
    /// which Redis has to be sent it. The rest of it stays where it is: it may be large.
    pub(super) fn carry_over(&self, resp: &mut Vec<u8>, start: usize, info: &Info) -> Carried {
        let command = resp.get(start..).unwrap_or_default();
        let mut arguments = Arguments::of(command);
        let of_script = arguments.clone().next().is_some_and(|name| name.eq_ignore_ascii_case(b"SCRIPT"));
        match info.name {
            "EVAL" | "EVAL_RO" => {
                let Some((text, _, changed)) = arguments.nth(1).and_then(|script| self.change(script)) else {
                    return Carried::default();
                };
                replace(resp, start, 1, &text);
                Carried { changed, asked: None }
            }
            "LOAD" if of_script => {
                let Some((text, original, changed)) = arguments.nth(2).and_then(|script| self.change(script))
                else {
                    return Carried::default();
                };
                replace(resp, start, 2, &text);
                Carried { changed, asked: Some(original) }
            }
            "EVALSHA" | "EVALSHA_RO" => {
                if let Some(digest) = arguments.nth(1).and_then(|name| self.translate(name)) {
                    replace(resp, start, 1, &digest);
                }
                Carried::default()
            }
            "EXISTS" if of_script => {
                let places: Vec<_> = Arguments::places(command).collect();
                for place in places {
                    // Their digest is as long as ours.
                    let end = start + place.end - LINE_END;
                    let name = resp.get_mut(end.saturating_sub(DIGEST)..end);
                    if place.len() == WRITTEN
                        && let Some(name) = name
                        && let Some(digest) = self.translate(name)
                    {
                        name.copy_from_slice(&digest);
                    }
                }
                Carried::default()
            }
            _ => Carried::default(),
        }
    }

    /// What `script` has to be changed into, if it has to be, its own digest, and all of it if it
    /// was not known before and is to be kept.
    fn change(&self, script: &[u8]) -> Option<(Vec<u8>, Digest, Option<Original>)> {
        // No other gateway would know a larger one, and what becomes of it takes memory.
        let text = Some(script).filter(|script| script.len() <= LARGEST).and_then(without_flag)?;
        let digest_of_client = digest(script);
        let is_new = self.remember(digest_of_client, digest(&text));
        let original = is_new.then(|| Original { digest: digest_of_client, text: script.to_vec() });
        Some((text, digest_of_client, original))
    }

    /// Takes in a script that was kept under the digest `original`; `false` when it is another one, or one that Redis knows by
    /// this digest.
    pub(crate) fn learn(&self, original: Digest, script: &[u8]) -> bool {
        let text = without_flag(script).filter(|_| digest(script) == original);
        text.map(|text| self.remember(original, digest(&text))).is_some()
    }

    /// What Redis calls the script that a client calls `name`, in any case, if that is something else.
    fn translate(&self, name: &[u8]) -> Option<Digest> {
        let original = parse(name)?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&original).copied()
    }

    /// Remembers that Redis calls the script `original` by the digest `changed`; whether that is new.
    fn remember(&self, original: Digest, changed: Digest) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&original) {
            return false;
        }
        let mut scripts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if scripts.len() >= MOST {
            scripts.clear();
        }
        scripts.entry(original).or_insert(changed);
        true
    }
}

/// Writes `text` in place of an argument of the command that begins at `start`.
fn replace(resp: &mut Vec<u8>, start: usize, argument: usize, text: &[u8]) {
    let Some(place) = Arguments::places(resp.get(start..).unwrap_or_default()).nth(argument) else { return };
    let mut written = Vec::with_capacity(text.len() + 16);
    write_argument(&mut written, text);
    resp.splice(start + place.start..start + place.end, written);
}

/// The digest that `name` is.
pub(crate) fn parse(name: &[u8]) -> Option<Digest> {
    let mut digest = Digest::try_from(name).ok()?;
    digest.make_ascii_lowercase();
    digest.iter().all(u8::is_ascii_hexdigit).then_some(digest)
}

fn digest(text: &[u8]) -> Digest {
    let mut hexadecimal = [0; DIGEST];
    let digits = Sha1::from(text).digest().to_string();
    hexadecimal.iter_mut().zip(digits.bytes()).for_each(|(to, digit)| *to = digit);
    hexadecimal
}

/// `script` without the flag in its first line; nothing when it is not there. Line numbers stay as they are.
fn without_flag(script: &[u8]) -> Option<Vec<u8>> {
    if !script.starts_with(b"#!") {
        return None;
    }
    let end = memchr::memchr(b'\n', script).unwrap_or(script.len());
    let (line, rest) = script.split_at_checked(end)?;
    let line = std::str::from_utf8(line).ok()?;
    let mut found = false;
    let mut words = Vec::new();
    for word in line.split(' ') {
        match word.strip_prefix("flags=") {
            None => words.push(word.to_owned()),
            Some(flags) => {
                let known: Vec<&str> = flags.split(',').filter(|flag| flag.trim() != FLAG).collect();
                found |= known.len() < flags.split(',').count();
                if !known.is_empty() {
                    words.push(format!("flags={}", known.join(",")));
                }
            }
        }
    }
    // Redis would take a carriage return for a part of the last word.
    found.then(|| [words.join(" ").trim_end().as_bytes(), rest].concat())
}

/// An extension of Upstash.
const FLAG: &str = "allow-key-locking";

/// Bytes of a digest; of one that is an argument; and of the line end behind it.
const DIGEST: usize = 40;
const WRITTEN: usize = b"$40\r\n".len() + DIGEST + LINE_END;
const LINE_END: usize = b"\r\n".len();

/// The largest text that is changed, and kept for other gateways, in bytes; scripts of SDKs are far
/// smaller.
pub(crate) const LARGEST: usize = 64 << 10;

/// Scripts remembered for a token; more than any application has.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::command;

    #[test]
    fn only_the_flag_goes() {
        for (script, expected) in [
            ("#!lua flags=allow-key-locking\nreturn 1", Some("#!lua\nreturn 1")),
            ("#!lua flags=no-writes,allow-key-locking\nreturn 1", Some("#!lua flags=no-writes\nreturn 1")),
            ("#!lua flags=allow-key-locking,allow-oom name=x\r\nx", Some("#!lua flags=allow-oom name=x\nx")),
            ("#!lua flags=allow-key-locking\r\nreturn 1", Some("#!lua\nreturn 1")),
            ("#!lua flags=allow-key-locking", Some("#!lua")),
            ("#!lua flags=no-writes\nreturn 1 -- allow-key-locking", None),
            ("#!lua\nreturn 1", None),
            ("return 1", None),
            ("\n#!lua flags=allow-key-locking\n", None),
            ("#!lua flags=allow-key-lockings\n", None),
        ] {
            let changed = without_flag(script.as_bytes());
            assert_eq!(
                changed.as_deref().map(String::from_utf8_lossy),
                expected.map(Into::into),
                "{script:?}"
            );
        }
        assert_eq!(without_flag(b"#!lua flags=allow-key-locking \xff\n"), None);
    }

    #[test]
    fn digests_are_translated_in_any_case() {
        let scripts = Scripts::default();
        let text = "#!lua flags=allow-key-locking\nreturn 1";
        let original = String::from_utf8_lossy(&digest(text.as_bytes())).into_owned();
        let changed = String::from_utf8_lossy(&digest(b"#!lua\nreturn 1")).into_owned();
        let carried = |words: &[&str]| {
            let before = b"*1\r\n$4\r\nPING\r\n";
            let mut resp = [&before[..], &command(words)].concat();
            let info = Info::of(Arguments::of(&command(words))).unwrap();
            let Carried { changed, asked } = scripts.carry_over(&mut resp, before.len(), info);
            let sent = Arguments::of(&resp[before.len()..]);
            let sent = sent.map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>();
            assert_eq!(resp, [&before[..], &command(&sent)].concat());
            (sent != words).then(|| (sent.join(" "), changed.is_some(), asked.is_some()))
        };
        assert_eq!(carried(&["EVALSHA", &original, "0"]), None);
        assert_eq!(
            carried(&["eval", text, "1", "k"]),
            Some(("eval #!lua\nreturn 1 1 k".into(), true, false))
        );
        assert_eq!(
            carried(&["eval_ro", text, "0"]),
            Some(("eval_ro #!lua\nreturn 1 0".into(), false, false))
        );
        assert_eq!(
            carried(&["SCRIPT", "load", text]),
            Some(("SCRIPT load #!lua\nreturn 1".into(), false, true))
        );
        assert_eq!(
            carried(&["EVALSHA", &original.to_uppercase(), "0"]),
            Some((format!("EVALSHA {changed} 0"), false, false))
        );
        let exists = carried(&["SCRIPT", "EXISTS", "x", &original]);
        assert_eq!(exists, Some((format!("SCRIPT EXISTS x {changed}"), false, false)));
        let large = format!("#!lua flags=allow-key-locking\nreturn 1 --{}", "x".repeat(LARGEST));
        let most = &large[..LARGEST];
        assert!(carried(&["SCRIPT", "LOAD", most]).is_some_and(|(_, kept, asked)| kept && asked));
        for words in [
            &["EVAL", "return 1", "0"][..],
            &["EVAL", &large, "0"],
            &["SCRIPT", "LOAD", &large[..=LARGEST]],
            &["EVAL"],
            &["SCRIPT", "LOAD"],
            &["EXISTS", &original],
            &["FUNCTION", "LOAD", text],
        ] {
            assert_eq!(carried(words), None, "{words:?}");
        }
        // A text that does not have the digest teaches nothing, nor does one that is not changed.
        let (other, plain) = ("#!lua flags=allow-key-locking\nreturn 2", "return 1");
        let fresh = Scripts::default();
        assert!(!fresh.learn(digest(text.as_bytes()), other.as_bytes()));
        assert!(!fresh.learn(digest(plain.as_bytes()), plain.as_bytes()));
        assert!(!fresh.learn(digest(plain.as_bytes()), changed.as_bytes()));
        assert_eq!(fresh.translate(original.as_bytes()), None);
        assert!(fresh.learn(digest(text.as_bytes()), text.as_bytes()));
        assert_eq!(fresh.translate(original.as_bytes()), Some(digest(b"#!lua\nreturn 1")));
        // What Redis itself says of this text.
        assert_eq!(&digest(b"return 1"), b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    proptest! {
        #[test]
        fn any_script_is_looked_at_without_a_panic(script: Vec<u8>, line in "#!(lua|x)?( ?(flags=|,)(allow-key-locking|a)?){0,3}\n?") {
            without_flag(&script);
            if let Some(changed) = without_flag(line.as_bytes()) {
                prop_assert!(without_flag(&changed).is_none());
            }
        }
    }
}
