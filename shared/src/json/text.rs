//! Texts in JSON: escapes, and names that are the same.

use alloc::borrow::Cow;
use alloc::string::String;
use core::str;

use super::Stop;

/// A text between its quotes.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    raw: &'a [u8],
    has_escapes: bool,
}

impl<'a> Text<'a> {
    pub(super) fn new(raw: &'a [u8], has_escapes: bool) -> Self {
        Self { raw, has_escapes }
    }

    /// What it says. `None` if it holds bytes that are not UTF-8, or half of a surrogate pair: of those each language makes
    /// something else.
    #[inline(never)]
    pub(crate) fn decode(&self) -> Option<Cow<'a, str>> {
        let mut rest = str::from_utf8(self.raw).ok()?;
        if !self.has_escapes {
            return Some(Cow::Borrowed(rest));
        }
        let mut text = String::with_capacity(rest.len());
        while let Some((before, escape)) = rest.split_once('\\') {
            text.push_str(before);
            let (kind, after) = escape.split_at_checked(1)?;
            rest = after;
            text.push(match kind {
                "b" => '\u{8}',
                "f" => '\u{c}',
                "n" => '\n',
                "r" => '\r',
                "t" => '\t',
                "u" => {
                    let mut units = [unit(&mut rest)?, 0];
                    let mut known = 1;
                    if (0xd800..0xdc00).contains(&units[0]) {
                        rest = rest.strip_prefix("\\u")?;
                        units[1] = unit(&mut rest)?;
                        known = 2;
                    }
                    let mut characters = char::decode_utf16(units.into_iter().take(known));
                    characters.next()?.ok()?
                }
                // A quote, a backslash or a slash.
                kind => kind.chars().next()?,
            });
        }
        text.push_str(rest);
        Some(Cow::Owned(text))
    }

    /// Whether a member of this name is the one that is called `name` for some reader: the case of ASCII letters makes no
    /// difference, and ſ is an s and K a k, as in Go.
    #[inline(never)]
    pub(crate) fn names(&self, name: &str) -> bool {
        if !self.has_escapes && self.raw.is_ascii() && name.is_ascii() {
            return self.raw.eq_ignore_ascii_case(name.as_bytes());
        }
        self.decode().is_some_and(|own| own.chars().map(fold).eq(name.chars().map(fold)))
    }
}

/// A character as names are compared.
fn fold(character: char) -> char {
    match character {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// A text in small letters, each character for itself. What is not UTF-8 stays as it is, but for letters of ASCII.
#[inline(never)]
pub(crate) fn lower(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_lower = |byte: &u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if bytes.iter().all(is_lower) {
        return Cow::Borrowed(bytes);
    }
    let Ok(text) = str::from_utf8(bytes) else { return Cow::Owned(bytes.to_ascii_lowercase()) };
    let lower: String = text.chars().map(small).collect();
    Cow::Owned(lower.into_bytes())
}

/// The small letter of a Latin, Greek or Cyrillic one, as Unicode has it. The tables for all alphabets would be 11 kB.
///
/// What some language makes a letter of ASCII is that letter, or an address would have a spelling for each of its letters: the
/// Kelvin sign, the long s, the dotted İ. And ς is a σ.
fn small(character: char) -> char {
    let code = u32::from(character);
    let distance = match code {
        // A to Z; À to Þ without the sign of multiplication; Greek; Cyrillic.
        0x41..=0x5a | 0xc0..=0xd6 | 0xd8..=0xde | 0x391..=0x3a1 | 0x3a3..=0x3ab | 0x410..=0x42f => 32,
        0x400..=0x40f => 80,
        // Letters with marks: a capital, and behind it the small one.
        0x130 => return 'i',
        0x100..=0x137
        | 0x14a..=0x177
        | 0x460..=0x481
        | 0x48a..=0x4bf
        | 0x4d0..=0x52f
        | 0x1e00..=0x1e95
        | 0x1ea0..=0x1eff => 1 - code % 2,
        0x139..=0x148 | 0x179..=0x17e | 0x4c1..=0x4ce => code % 2,
        0x178 => return 'ÿ',
        0x17f => return 's',
        0x386 => 38,
        0x388..=0x38a => 37,
        0x38c => 64,
        0x38e | 0x38f => 63,
        0x3c2 => 1,
        0x4c0 => 15,
        0x1e9e => return 'ß',
        0x2126 => return 'ω',
        0x212a => return 'k',
        0x212b => return 'å',
        _ => 0,
    };
    char::from_u32(code + distance).unwrap_or(character)
}

/// The bytes of the escape at the start of `rest`.
pub(super) fn escape_length(rest: &[u8]) -> Result<usize, Stop> {
    match *rest.get(1).ok_or(Stop::End)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(2),
        b'u' => {
            let digits = rest.get(2..).unwrap_or_default();
            match digits.iter().take(4).all(u8::is_ascii_hexdigit) {
                false => Err(Stop::Broken),
                true if digits.len() < 4 => Err(Stop::End),
                true => Ok(6),
            }
        }
        _ => Err(Stop::Broken),
    }
}

/// Takes four hexadecimal digits off the front.
fn unit(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str) -> Text<'_> {
        Text::new(raw.as_bytes(), raw.contains('\\'))
    }

    #[test]
    fn escapes_are_what_they_stand_for() {
        for (raw, said) in [
            ("plain é", Some("plain é")),
            (r#"\"\\\/\b\f\n\r\t"#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r"a\u0041\u00e9\u20AC", Some("aAé€")),
            (r"\ud83d\ude00", Some("😀")),
            (r"\ud83d", None),
            (r"\ude00", None),
            (r"\ud83dx", None),
            (r"\ud83d\n", None),
            (r"\ud83d\ud83d", None),
        ] {
            assert_eq!(text(raw).decode().as_deref(), said, "{raw}");
        }
        assert_eq!(Text::new(b"a\xff", false).decode(), None);
    }

    #[test]
    fn names_are_compared_as_lenient_readers_do() {
        for same in ["tasks", "TASKS", "ta\u{17f}ks", "tas\u{212a}s", r"\u0074asks", r"TA\u017fks"] {
            assert!(text(same).names("tasks") && text(same).names("Tas\u{212a}s"), "{same}");
        }
        for other in ["task", "tasks ", "täsks", "", r"tasks\ud800", r"tasks\u0000"] {
            assert!(!text(other).names("tasks"), "{other}");
        }
        // Other letters are compared as they are.
        assert!(text("é").names("é") && !text("É").names("é"));
    }

    #[test]
    fn small_letters_are_those_of_unicode() {
        for character in (0..0x180)
            .chain(0x370..0x530)
            .chain(0x1e00..0x1f00)
            .chain(0x2100..0x2140)
            .filter_map(char::from_u32)
        {
            let mut theirs = character.to_lowercase();
            let expected = match (character, theirs.next(), theirs.next()) {
                ('İ', ..) => 'i',
                ('ſ', ..) => 's',
                ('ς', ..) => 'σ',
                // Not among the letters of today's alphabets, and none of them has a letter of ASCII.
                ('\u{370}'..='\u{37f}' | '\u{3cf}'..='\u{3ff}' | '\u{2132}', ..) => continue,
                (_, Some(small), None) => small,
                other => panic!("{other:?}"),
            };
            assert_eq!(small(character), expected, "{character} {:x}", u32::from(character));
        }
        // Whatever becomes a letter of ASCII.
        for character in
            ('\u{80}'..=char::MAX).filter(|character| character.to_lowercase().all(|small| small.is_ascii()))
        {
            assert!(small(character).is_ascii(), "{character}");
        }
        assert_eq!(*lower("plain 7".as_bytes()), *b"plain 7");
        assert_eq!(*lower("\u{212a}ATE \u{17f}É ΟΔΟΣ Ёж".as_bytes()), *"kate sé οδοσ ёж".as_bytes());
        assert_eq!(*lower(b"A\xff"), *b"a\xff");
    }
}
