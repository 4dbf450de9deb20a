//! Numbers with units and bounds, read in the same way wherever they are written: in a flag, a variable or a file.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, Visitor};

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count<const LEAST: u64, const MOST: u64>(u64);

/// A span of time from `LEAST` to `MOST` milliseconds, such as `250ms`, `5s`, `2m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<const LEAST: u64, const MOST: u64>(u64);

/// A number of bytes from `LEAST` to `MOST`, such as `512`, `4KiB`, `10MiB` or `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size<const LEAST: u64, const MOST: u64>(u64);

impl<const LEAST: u64, const MOST: u64> Count<LEAST, MOST> {
    /// The number.
    pub(crate) fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number, for those that begin with 1.
    pub(crate) fn at_least_one(self) -> NonZeroUsize {
        NonZeroUsize::new(self.get()).unwrap_or(NonZeroUsize::MIN)
    }
}

impl<const LEAST: u64, const MOST: u64> Span<LEAST, MOST> {
    /// The span.
    pub(crate) fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const LEAST: u64, const MOST: u64> Size<LEAST, MOST> {
    /// The number of bytes.
    pub(crate) fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Says what is expected.
impl<const LEAST: u64, const MOST: u64> FromStr for Count<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or_else(|| format!("expected a whole number from {LEAST} to {MOST}"))
    }
}

impl<const LEAST: u64, const MOST: u64> FromStr for Span<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = with_unit(text, &SPANS).filter(|span| (LEAST..=MOST).contains(span));
        span.map(Self).ok_or_else(|| {
            let (least, most) = (with_largest_unit(LEAST, &SPANS), with_largest_unit(MOST, &SPANS));
            format!("expected a span from {least} to {most}, with one of the units ms, s, m and h")
        })
    }
}

impl<const LEAST: u64, const MOST: u64> FromStr for Size<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = with_unit(text, &SIZES).filter(|size| (LEAST..=MOST).contains(size));
        size.map(Self).ok_or_else(|| {
            let (least, most) = (with_largest_unit(LEAST, &SIZES), with_largest_unit(MOST, &SIZES));
            format!(
                "expected a size from {least} to {most}, in bytes or with one of the units KiB, MiB and GiB"
            )
        })
    }
}

/// Reads from a file what would be read from a flag.
macro_rules! as_in_flags {
    ($(($($generics:tt)*) $type:ty),+ $(,)?) => {$(
        impl<'de, $($generics)*> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::config::units::Written(core::marker::PhantomData))
            }
        }
    )+};
}
pub(super) use as_in_flags;

as_in_flags!(
    (const LEAST: u64, const MOST: u64) Count<LEAST, MOST>,
    (const LEAST: u64, const MOST: u64) Span<LEAST, MOST>,
    (const LEAST: u64, const MOST: u64) Size<LEAST, MOST>,
);

/// A value that is written as text, or as a number that is nothing but that.
pub(super) struct Written<T>(pub(super) PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a whole number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|expected| E::custom(format_args!("found `{text}`, {expected}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// A number and its unit, as one number; nothing when there is no such unit.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The number with the largest unit that divides it.
fn with_largest_unit(number: u64, units: &[(&str, u64)]) -> String {
    let divides = |(_, factor): &&(&str, u64)| number >= *factor && number.is_multiple_of(*factor);
    match units.iter().rev().find(divides) {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => number.to_string(),
    }
}

const SPANS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 5] = [("B", 1), ("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

#[cfg(test)]
mod tests {
    use super::*;

    type Few = Count<1, 64>;
    type Short = Span<1, 300_000>;
    type Body = Size<1024, { 512 << 20 }>;

    #[test]
    fn numbers_carry_units_and_bounds() {
        assert_eq!("64".parse(), Ok(Count::<1, 64>(64)));
        assert_eq!("250ms".parse::<Short>().map(Span::get), Ok(Duration::from_millis(250)));
        assert_eq!("5m".parse::<Short>().map(Span::get), Ok(Duration::from_mins(5)));
        assert_eq!("10MiB".parse::<Body>().map(Size::get), Ok(10 << 20));
        assert_eq!("4 KiB".parse::<Body>().map(Size::get), Ok(4096));
        assert_eq!("2048".parse::<Body>().map(Size::get), Ok(2048));
        for wrong in ["", "0", "65", "-1", "1.0", "1s", "99999999999999999999"] {
            assert_eq!(wrong.parse::<Few>(), Err("expected a whole number from 1 to 64".into()));
        }
        for wrong in ["", "0s", "1", "301s", "1d", "s", "99999999999999999999s", "18446744073709551615h"] {
            let expected = "expected a span from 1ms to 5m, with one of the units ms, s, m and h";
            assert_eq!(wrong.parse::<Short>(), Err(expected.into()), "{wrong}");
        }
        for wrong in ["", "1B", "1023", "1GB", "1GiB", "513MiB", "1mib", "18446744073709551615GiB"] {
            let expected =
                "expected a size from 1KiB to 512MiB, in bytes or with one of the units KiB, MiB and GiB";
            assert_eq!(wrong.parse::<Body>(), Err(expected.into()), "{wrong}");
        }
    }
}
