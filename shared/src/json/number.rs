//! Numbers in JSON, by their exact value.

use alloc::string::String;

/// A number as it is written.
#[derive(Clone, Copy)]
pub(crate) struct Number<'a> {
    is_negative: bool,
    /// From the first digit that is not zero to the last; there may be a point among them. Empty if the number is zero.
    digits: &'a [u8],
    /// How many digits these are.
    count: usize,
    /// The power of ten of the first digit.
    exponent: i64,
}

impl<'a> Number<'a> {
    /// Reads a number by the grammar of JSON (RFC 8259 §6) and nothing else.
    #[inline(never)]
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let (is_negative, unsigned) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let split = unsigned.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(unsigned.len());
        let (mantissa, power) = unsigned.split_at_checked(split)?;
        let power = match power {
            [] => 0,
            [_, b'-', digits @ ..] => -whole(digits)?,
            [_, b'+', digits @ ..] | [_, digits @ ..] => whole(digits)?,
        };
        let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
        let (before, after) = mantissa.split_at_checked(point)?;
        match before {
            [b'0'] => {}
            [b'1'..=b'9', ..] => {
                whole(before)?;
            }
            _ => return None,
        }
        if let [_, fraction @ ..] = after {
            whole(fraction)?;
        }
        let is_significant = |byte: &u8| matches!(byte, b'1'..=b'9');
        let (first, last) =
            (mantissa.iter().position(is_significant), mantissa.iter().rposition(is_significant));
        let (Some(first), Some(last)) = (first, last) else {
            return Some(Self { is_negative: false, digits: &[], count: 0, exponent: 0 });
        };
        // The power of ten of what stands at `at`.
        let power_of = |at: usize| {
            let (at, point) = (i64::try_from(at).ok()?, i64::try_from(point).ok()?);
            Some(if at < point { point - 1 - at } else { point - at })
        };
        Some(Self {
            is_negative,
            digits: mantissa.get(first..=last)?,
            count: usize::try_from(power_of(first)? - power_of(last)?).ok()? + 1,
            exponent: power_of(first)?.saturating_add(power),
        })
    }

    /// Its value in plain decimal, in the one way there is: `7`, `-7.5`, `0.001`.
    ///
    /// `None` for what is beyond 64 digits or an exponent of 64; and for a fraction beyond 15 digits, which a reader of floating
    /// point numbers takes for another number.
    #[inline(never)]
    pub(crate) fn text(&self) -> Option<String> {
        let least = self.exponent.saturating_add(1).saturating_sub(i64::try_from(self.count).ok()?);
        let is_exact = self.count <= if least < 0 { DIGITS_OF_A_FRACTION } else { MAX_DIGITS };
        if !is_exact || self.exponent.unsigned_abs() > MAX_EXPONENT {
            return None;
        }
        let mut text = String::new();
        if self.is_negative {
            text.push('-');
        }
        let highest = self.exponent.max(0);
        for power in (least.min(0)..=highest).rev() {
            if power == -1 {
                text.push('.');
            }
            text.push(char::from(self.digit(power)));
        }
        Some(text)
    }

    /// A thousand times its value, rounded down; `None` if that is negative or beyond 64 bits.
    #[inline(never)]
    pub(crate) fn thousandfold(&self) -> Option<u64> {
        if self.is_negative || self.exponent > 20 {
            return None;
        }
        (-3..=self.exponent).rev().try_fold(0_u64, |sum, power| {
            sum.checked_mul(10)?.checked_add(u64::from(self.digit(power) - b'0'))
        })
    }

    /// The digit at a power of ten.
    #[inline(never)]
    fn digit(&self, power: i64) -> u8 {
        let place = usize::try_from(self.exponent.saturating_sub(power)).ok();
        let mut digits = self.digits.iter().filter(|byte| **byte != b'.');
        place.and_then(|place| digits.nth(place)).copied().unwrap_or(b'0')
    }
}

/// The whole number that one or more digits are; beyond any size that counts here they are one.
#[inline(never)]
fn whole(digits: &[u8]) -> Option<i64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |sum: i64, digit: &u8| (sum * 10 + i64::from(digit - b'0')).min(BEYOND);
    all.then(|| digits.iter().fold(0, add))
}

const MAX_DIGITS: usize = 64;
const MAX_EXPONENT: u64 = 64;
/// Floating point numbers of 64 bits tell apart all decimal ones of so many digits.
const DIGITS_OF_A_FRACTION: usize = 15;
/// More than any document has digits, so that no exponent brings them back.
const BEYOND: i64 = 1 << 40;

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString as _;

    use proptest::prelude::*;

    use super::*;

    fn text(written: &str) -> Option<String> {
        Number::parse(written.as_bytes()).unwrap().text()
    }

    #[test]
    fn one_value_is_one_text() {
        for (spellings, said) in [
            (&["7", "7.0", "70e-1", "0.07E+2", "7e0", "7000e-3", "7.000E-0"][..], "7"),
            (&["-7", "-70e-1"], "-7"),
            (&["0", "-0", "0.0", "-0.0e9", "0e999999999999", "0E-5"], "0"),
            (&["7.5", "75e-1", "0.75e1"], "7.5"),
            (&["-0.001", "-1e-3", "-10E-4"], "-0.001"),
            (&["1200", "12e2", "1.2e+3"], "1200"),
            (&["18446744073709551617", "18446744073709551617.0"], "18446744073709551617"),
            (&["100.25"], "100.25"),
        ] {
            for spelling in spellings {
                assert_eq!(text(spelling).as_deref(), Some(said), "{spelling}");
            }
        }
        assert_eq!(text("1e64").unwrap(), format!("1{}", "0".repeat(64)));
        assert_eq!(text("1e-64").unwrap(), format!("0.{}1", "0".repeat(63)));
        assert_eq!(text(&"9".repeat(64)), Some("9".repeat(64)));
        assert_eq!(text(&format!("1{}e-70000", "0".repeat(70_000))).as_deref(), Some("1"));
    }

    #[test]
    fn beyond_the_bounds_there_is_none() {
        for number in [
            "1e65",
            "1e-65",
            "1e999999999",
            "-1e-999999999",
            "1e99999999999999999999999999",
            "0.1234567890123456",
        ] {
            assert_eq!(text(number), None, "{number}");
        }
        assert_eq!(text(&"9".repeat(65)), None);
    }

    #[test]
    fn what_is_no_number_is_none() {
        for wrong in [
            "", "-", "+1", "01", "-01", "1.", ".1", "1e", "1e+", "1e-", "1.e1", "1..2", "1e1.5", "1-2",
            "1e1e1",
        ] {
            assert!(Number::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_what_they_are(number: i64, zeros in 0..50_usize) {
            let shifted = format!("{number}{}e-{zeros}", "0".repeat(zeros));
            prop_assert_eq!(text(&shifted), Some(number.to_string()));
        }

        #[test]
        fn a_thousandfold_is_rounded_down(number in 0..1_u64 << 50, more in 0..1000_u32) {
            let written = format!("{}.{:03}{more:03}", number / 1000, number % 1000);
            prop_assert_eq!(Number::parse(written.as_bytes()).unwrap().thousandfold(), Some(number));
        }
    }
}
