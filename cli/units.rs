//! Sizes (`64MiB`, `2GB`), durations (`500ms`, `30s`) and the durability made of one.
//!
//! Whole numbers only, and no unit with two meanings: `64M` could be either of two sizes, so it is
//! refused with both named.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sherd_protocol::limits::{MAX_LIMIT_BYTES, MIN_LIMIT_BYTES};

/// The units of a size, in bytes, by their names in lower case.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// The units of a duration, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a number of bytes.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text, "bytes, such as 1024, 64MiB or 2GB")?;
    let unit = unit.to_ascii_lowercase();
    if let "k" | "m" | "g" | "t" = unit.as_str() {
        let letter = unit.to_ascii_uppercase();
        return Err(format!(
            "{letter} has two meanings: use {letter}B (1000s) or {letter}iB (1024s)"
        ));
    }
    let factor = factor(&SIZE_UNITS, &unit).ok_or_else(|| {
        format!("{unit:?} is no unit of size: use B, KB, MB, GB, TB or KiB to TiB")
    })?;
    number.checked_mul(factor).ok_or_else(|| "over 2^64 bytes".to_owned())
}

/// Parses how many bytes a second something may take, which are not 0.
///
/// # Errors
/// As [`parse_size`].
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at least 1 byte a second has to move".to_owned()),
        rate => Ok(rate),
    }
}

/// Parses a limit in bytes, of a shard or of an index.
///
/// # Errors
/// As [`parse_size`], and for what is too little or too much to be meant.
pub(crate) fn parse_limit(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size @ MIN_LIMIT_BYTES..=MAX_LIMIT_BYTES => Ok(size),
        ..MIN_LIMIT_BYTES => Err(format!(
            "hardly any document has room in that: use {MIN_LIMIT_BYTES} bytes or more, such as 64MiB"
        )),
        _ => Err("no disk has room for that: use at most 1048576TiB (2^60 bytes)".to_owned()),
    }
}

/// Parses a duration.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text, "a duration, such as 500ms, 30s, 5m, 1h or 7d")?;
    let factor = factor(&DURATION_UNITS, unit).ok_or_else(|| match unit {
        "" => {
            format!("a unit is missing: {number}ms, {number}s, {number}m, {number}h or {number}d")
        }
        unit => format!("{unit:?} is no unit of time: use one of ms, s, m, h and d"),
    })?;
    let milliseconds = number.checked_mul(factor).ok_or("the duration is too long")?;
    Ok(Duration::from_millis(milliseconds))
}

/// Splits the number off its unit.
fn split<'a>(text: &'a str, expected: &str) -> Result<(u64, &'a str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(format!("expected a whole number of {expected}"));
    }
    let number = number.parse().map_err(|_| format!("{number} is over 2^64"))?;
    Ok((number, unit.trim_start()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|&(_, factor)| factor)
}

/// When a shard acknowledges a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Durability {
    /// After it is on disk.
    #[default]
    Always,
    /// Before; the disk is synced at this interval.
    Interval(Duration),
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "always" => Ok(Self::Always),
            Some(("interval", duration)) => match parse_duration(duration)? {
                Duration::ZERO => Err("the interval must be longer than 0".to_owned()),
                duration => Ok(Self::Interval(duration)),
            },
            _ => Err("use \"always\" or \"interval:1s\"".to_owned()),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(duration) => write!(f, "interval:{}ms", duration.as_millis()),
        }
    }
}

/// A size as people read it: in the largest unit that keeps it at or above one, to one decimal.
pub(crate) fn show_size(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        None => format!("{bytes} B"),
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
    }
}

/// How many there are of something that is called so.
pub(crate) fn show_count(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The time in milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time to live in milliseconds.
///
/// # Errors
/// As [`parse_duration`], and for none at all.
pub(crate) fn parse_ttl(text: &str) -> Result<u64, String> {
    match u64::try_from(parse_duration(text)?.as_millis()) {
        Ok(0) => Err("a time to live is at least 1ms".to_owned()),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err("the duration is too long".to_owned()),
    }
}

/// Milliseconds as people read them: whole, in the largest unit that keeps them so.
pub(crate) fn show_duration(milliseconds: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| milliseconds.is_multiple_of(*factor);
    let units = DURATION_UNITS.iter().rev();
    let (unit, factor) = units.filter(|_| milliseconds > 0).find(whole).unwrap_or(&("ms", 1));
    format!("{}{unit}", milliseconds / factor)
}

/// A time in milliseconds since 1970 as people read it, in UTC: `2026-11-26 08:15:30`.
///
/// The date is computed as by Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013.
pub(crate) fn show_time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day is the last; eras have 400 of them.
    let since_era_0 = days + 719_468;
    let (era, of_era) = (since_era_0 / 146_097, since_era_0 % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Parses a time in UTC as [`show_time`] prints it, with or without a `T` and a `Z`, a fraction of a
/// second, or the time of day: milliseconds since 1970.
///
/// # Errors
/// When it is none.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time, such as 2026-11-26 08:15:30.250 (UTC)");
    let text = text.trim().trim_end_matches('Z');
    let (date, of_day) = text.split_once([' ', 'T']).unwrap_or((text, "0:0:0"));
    let numbers = |text: &str, by: char| -> Option<Vec<u64>> {
        text.split(by).map(|part| part.parse().ok()).collect()
    };
    let (of_day, fraction) = of_day.split_once('.').unwrap_or((of_day, "0"));
    let (date, of_day) = numbers(date, '-').zip(numbers(of_day, ':')).ok_or_else(wrong)?;
    let &[year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = &date[..] else {
        return Err(wrong());
    };
    let (hour, minute, second) = match of_day[..] {
        [hour @ 0..24, minute @ 0..60] => (hour, minute, 0),
        [hour @ 0..24, minute @ 0..60, second @ 0..60] => (hour, minute, second),
        _ => return Err(wrong()),
    };
    if fraction.is_empty() || fraction.len() > 3 {
        return Err(wrong());
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    // As in `show_time`, the other way round.
    let from_march = (month + 9) % 12;
    let years = year - u64::from(month <= 2);
    let (era, of_era) = (years / 400, years % 400);
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let time = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + fraction;
    // The 31st of a month that has none would be the 1st of the next.
    let is_day = show_time(time).starts_with(&format!("{year}-{month:02}-{day:02}"));
    if is_day { Ok(time) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        // From `date -u -d @SECONDS`.
        let times = [
            (0, "1970-01-01 00:00:00"),
            (951_782_399_999, "2000-02-28 23:59:59"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_704_067_199_000, "2023-12-31 23:59:59"),
            (1_795_680_930_123, "2026-11-26 08:15:30"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ];
        for (milliseconds, shown) in times {
            assert_eq!(show_time(milliseconds), shown);
            assert_eq!(parse_time(shown), Ok(milliseconds / 1000 * 1000));
        }
        for text in ["2026-11-26T08:15:30.123Z", "2026-11-26 08:15:30.123"] {
            assert_eq!(parse_time(text), Ok(1_795_680_930_123));
        }
        assert_eq!(parse_time("2000-02-29"), parse_time("2000-02-29 00:00"));
        for text in ["", "1", "2026-02-29", "2026-1", "2026-01-01 24:00", "2026-01-01 1:2:3.1234"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("7B", 7),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("2GB", 2_000_000_000),
            ("1kb", 1000),
            ("16777215TiB", 16_777_215 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1,5GiB", "64M", "1 2", "1XB", "1e3", "ä"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_size("18446744073709551616"),
            Err("18446744073709551616 is over 2^64".into())
        );
        assert_eq!(parse_size("16777216TiB"), Err("over 2^64 bytes".into()));
        assert_eq!(
            parse_size("64M"),
            Err("M has two meanings: use MB (1000s) or MiB (1024s)".into())
        );
    }

    #[test]
    fn limits_that_nobody_means_are_refused_with_what_is_taken() {
        for (text, bytes) in [("256", 256), ("1KB", 1000), ("1048576TiB", 1 << 60)] {
            assert_eq!(parse_limit(text), Ok(bytes), "{text}");
        }
        for (text, taken) in [
            ("0", "256 bytes or more"),
            ("1", "256 bytes or more"),
            ("255B", "256 bytes or more"),
            ("1152921504606846977", "at most 1048576TiB"),
            ("16777215TiB", "at most 1048576TiB"),
        ] {
            let error = parse_limit(text).unwrap_err();
            assert!(error.contains(taken), "{text}: {error}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5 m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "5", "1.5s", "-1s", "1w", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_come_back_as_they_are_shown() {
        for text in ["1ms", "1500ms", "2s", "90s", "5m", "36h", "7d"] {
            assert_eq!(parse_ttl(text).map(show_duration), Ok(text.to_owned()));
        }
        assert_eq!(show_duration(0), "0ms");
        assert!(parse_ttl("0s").is_err());
    }

    #[test]
    fn durabilities_come_back_as_they_are_shown() {
        for (text, shown) in [
            ("always", "always"),
            ("interval:1s", "interval:1000ms"),
            ("interval:5ms", "interval:5ms"),
        ] {
            let durability: Durability = text.parse().unwrap();
            assert_eq!(durability.to_string(), shown);
            assert_eq!(shown.parse(), Ok(durability));
        }
        for text in ["", "never", "interval", "interval:", "interval:0s", "always:1s"] {
            assert!(text.parse::<Durability>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_shown() {
        for (bytes, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (4 << 30, "4.0 GiB")]
        {
            assert_eq!(show_size(bytes), shown);
        }
    }
}
