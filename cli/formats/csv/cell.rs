//! The value of a cell: what its column is, or what it looks like where nothing is lost by that.

use rmp::encode::{self, ValueWriteError};

use crate::document::{Duplicates, JsonReader};
use crate::formats::Fault;

use super::Type;

/// A cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    pub(super) text: &'a str,
    pub(super) is_quoted: bool,
}

/// Why a cell is not what its column is.
pub(super) enum NotIts {
    Type(Type),
    Json(Fault),
}

/// Appends the value of a cell.
pub(super) fn push_cell(
    out: &mut Vec<u8>,
    cell: &Cell<'_>,
    of: Option<Type>,
) -> Result<(), NotIts> {
    let Cell { text, is_quoted } = *cell;
    if text.is_empty() && !is_quoted {
        in_memory(encode::write_nil(out).map_err(ValueWriteError::InvalidMarkerWrite));
        return Ok(());
    }
    let value = match of {
        None if is_quoted => Scalar::String,
        None => infer(text),
        Some(Type::String) => Scalar::String,
        Some(Type::Json) => {
            let value = JsonReader::read_value(text, Duplicates::Refused);
            out.extend_from_slice(&value.map_err(|fault| NotIts::Json(fault.into()))?);
            return Ok(());
        }
        Some(of) => {
            let text = text.trim();
            let value = match of {
                Type::Int => integer(text),
                Type::Float => {
                    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Scalar::Float)
                }
                _ if text.eq_ignore_ascii_case("true") => Some(Scalar::Bool(true)),
                _ if text.eq_ignore_ascii_case("false") => Some(Scalar::Bool(false)),
                _ => None,
            };
            value.ok_or(NotIts::Type(of))?
        }
    };
    let written = match value {
        Scalar::Bool(value) => {
            encode::write_bool(out, value).map_err(ValueWriteError::InvalidMarkerWrite)
        }
        Scalar::Unsigned(value) => encode::write_uint(out, value).map(drop),
        Scalar::Signed(value) => encode::write_sint(out, value).map(drop),
        Scalar::Float(value) => encode::write_f64(out, value),
        Scalar::String => encode::write_str(out, text),
    };
    in_memory(written);
    Ok(())
}

/// What the text of a cell is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String,
}

/// What a cell without quotes looks like, where nothing is lost by that.
pub(super) fn infer(text: &str) -> Scalar {
    match text {
        "true" => return Scalar::Bool(true),
        "false" => return Scalar::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    if whole == 0 || (whole > 1 && digits.starts_with('0')) {
        return Scalar::String;
    }
    if whole == digits.len() {
        return match integer(text) {
            Some(number) if text != "-0" => number,
            _ => Scalar::String,
        };
    }
    match text.parse::<f64>() {
        Ok(value)
            if value.is_finite()
                && let Some(written) = Decimal::of(text)
                && Decimal::of(&format!("{value:?}")).is_some_and(|printed| printed == written) =>
        {
            Scalar::Float(value)
        }
        _ => Scalar::String,
    }
}

fn integer(text: &str) -> Option<Scalar> {
    match text.parse() {
        Ok(value) => Some(Scalar::Unsigned(value)),
        Err(_) => text.parse().ok().map(Scalar::Signed),
    }
}

/// A decimal number as JSON writes floats, apart from how it is written.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// Without zeros at either end.
    digits: String,
    /// Of the last digit.
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits =
            |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let digits = whole.to_owned() + fraction;
        let significant = digits.trim_end_matches('0');
        let zeros = (digits.len() - significant.len()) as i64;
        let exponent = i64::from(exponent) - fraction.len() as i64 + zeros;
        let digits = significant.trim_start_matches('0').to_owned();
        let exponent = if digits.is_empty() { 0 } else { exponent };
        Some(Self { is_negative, digits, exponent })
    }
}

/// Writing to memory does not fail.
#[expect(clippy::needless_pass_by_value, reason = "given what was written")]
pub(super) fn in_memory(written: Result<(), ValueWriteError>) {
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cell_looks_like_is_taken_only_where_nothing_is_lost() {
        for (text, expected) in [
            ("0", Scalar::Unsigned(0)),
            ("-1", Scalar::Signed(-1)),
            ("18446744073709551615", Scalar::Unsigned(u64::MAX)),
            ("-9223372036854775808", Scalar::Signed(i64::MIN)),
            ("0.1", Scalar::Float(0.1)),
            ("1.10", Scalar::Float(1.1)),
            ("-0.0", Scalar::Float(-0.0)),
            ("1e5", Scalar::Float(1e5)),
            ("1.5E-7", Scalar::Float(1.5e-7)),
            ("1e+16", Scalar::Float(1e16)),
            ("5e-324", Scalar::Float(5e-324)),
            ("9007199254740993", Scalar::Unsigned(9_007_199_254_740_993)),
            ("true", Scalar::Bool(true)),
        ] {
            assert_eq!(infer(text), expected, "{text}");
        }
        for text in [
            "007",
            "-007",
            "00",
            "-0",
            "+1",
            ".5",
            "5.",
            "1e",
            "e5",
            "1_000",
            "1,5",
            " 1",
            "1 ",
            "18446744073709551616",
            "-9223372036854775809",
            "9007199254740993.0",
            "3.141592653589793238",
            "1e999",
            "1e-999",
            "NaN",
            "inf",
            "True",
            "null",
            "0x10",
            "",
            "1e99999999999999999999",
            "abc",
            "1.2.3",
            "--1",
            "1e5.0",
        ] {
            assert_eq!(infer(text), Scalar::String, "{text}");
        }
    }
}
