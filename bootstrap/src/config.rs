//! The cluster's config: Pyshard's JSON, and what Sherd adds to it.
//!
//! ```json
//! {
//!   "bootstrap": {"host": "127.0.0.1", "port": 9192},
//!   "hash_method": "md5",
//!   "shards": [
//!     {"name": "shard0-0.5", "start": 0.0, "end": 0.5, "size": 1024, "host": "127.0.0.1", "port": 5050},
//!     {"name": "shard0.5-1", "start": 0.5, "end": 1.0, "size": 1024, "host": "127.0.0.1", "port": 5051}
//!   ]
//! }
//! ```
//!
//! `bootstrap` and `hash_method` may be left out (127.0.0.1:9192, `md5`). Either all shards are
//! marked with `start` and `end`, or none is: the ring is then split by their sizes. Shards may be
//! listed in any order. A shard may have a `policy` (`reject` unless told). Every fault is reported with
//! the shard and the field.

use std::collections::HashSet;

use serde_json::{Map, Value};
use sherd_protocol::limits::{MAX_LIMIT_BYTES, MIN_LIMIT_BYTES};
use sherd_protocol::name::{MAX_SHARD_NAME_BYTES, NameError, check_shard};
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{HashMethod, Policy, ShardInfo};
use thiserror::Error;

/// Where bootstrap listens unless told otherwise, as in Pyshard.
pub const DEFAULT_HOST: &str = "127.0.0.1";
/// The port bootstrap listens on unless told otherwise, as in Pyshard.
pub const DEFAULT_PORT: u16 = 9192;

/// A checked config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The host that bootstrap listens on.
    pub host: String,
    /// The port that bootstrap listens on.
    pub port: u16,
    /// How keys become positions.
    pub hash_method: HashMethod,
    /// The shards, in the order of the config.
    pub shards: Vec<ShardInfo>,
    /// The ranges, in ring order, covering the ring.
    pub ranges: Vec<OwnedRange>,
}

/// What is wrong with a config.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("{place}: {field}: unknown field; known are {known}")]
    UnknownField { place: String, field: String, known: String },
    #[error("{place}: {field}: missing")]
    MissingField { place: String, field: &'static str },
    #[error("{place}: {field}: {found} is not {expected}")]
    WrongType { place: String, field: String, found: String, expected: &'static str },
    #[error("shards: there must be at least one")]
    NoShards,
    #[error("shard {name:?}: name: {error}")]
    Name { name: String, error: NameError },
    #[error(
        "shard {name:?}: size: {size} bytes cannot be meant: hardly any document has room in less than \
         {MIN_LIMIT_BYTES}, and on no disk is room for more than {MAX_LIMIT_BYTES}"
    )]
    Size { name: String, size: u64 },
    #[error("shard {name:?}: name: another shard has it")]
    DuplicateName { name: String },
    #[error("shard {name:?}: port: shard {other:?} has {address} already")]
    DuplicateAddress { name: String, other: String, address: String },
    #[error("shard {name:?}: port: bootstrap itself has {address}; give one of them another port")]
    BootstrapsAddress { name: String, address: String },
    #[error(
        "shard {name:?}: {field}: missing, though other shards have it; mark all shards with \
         start and end, or none"
    )]
    SomeMarked { name: String, field: &'static str },
    #[error("shard {name:?}: {field}: {value} is outside 0.0 to 1.0")]
    OutsideRing { name: String, field: &'static str, value: String },
    #[error("shard {name:?}: end: {end} is not after its start, {start}")]
    EndNotAfterStart { name: String, start: String, end: String },
    #[error("shard {name:?}: start: the first range starts at {start}, not at 0.0")]
    NotStartingAtZero { name: String, start: String },
    #[error("shard {name:?}: start: {start} leaves a gap after {end}, the end of shard {before:?}")]
    Gap { name: String, start: String, before: String, end: String },
    #[error("shard {name:?}: start: {start} overlaps with shard {before:?}, which ends at {end}")]
    Overlap { name: String, start: String, before: String, end: String },
    #[error("shard {name:?}: end: the last range ends at {end}, not at 1.0")]
    NotEndingAtOne { name: String, end: String },
    #[error("shard {name:?}: size: too small beside the others to get a part of the ring")]
    NoPart { name: String },
}

type Result<T> = std::result::Result<T, ConfigError>;

const TOP_FIELDS: &[&str] = &["bootstrap", "hash_method", "shards"];
const BOOTSTRAP_FIELDS: &[&str] = &["host", "port"];
const SHARD_FIELDS: &[&str] = &["name", "start", "end", "size", "policy", "host", "port"];

impl ClusterConfig {
    /// Checks the names, the sizes and the addresses of shards that are new: where bootstrap listens itself
    /// no shard will ever be found. A cluster that is there keeps those that it has.
    ///
    /// # Errors
    /// The first that is none.
    pub(crate) fn check_new(&self) -> Result<()> {
        let brief = |name: &str| name.chars().take(MAX_SHARD_NAME_BYTES + 1).collect();
        self.shards.iter().try_for_each(|shard| {
            let ShardInfo { name, size, host, port, .. } = shard;
            let size = *size;
            check_shard(name).map_err(|error| ConfigError::Name { name: brief(name), error })?;
            if (host, *port) == (&self.host, self.port) {
                let (name, address) = (name.clone(), shard.address());
                return Err(ConfigError::BootstrapsAddress { name, address });
            }
            match size {
                MIN_LIMIT_BYTES..=MAX_LIMIT_BYTES => Ok(()),
                _ => Err(ConfigError::Size { name: name.clone(), size }),
            }
        })
    }

    /// Parses and checks a config.
    ///
    /// # Errors
    /// The first fault found.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
        let top = Object::new("config".to_owned(), &value, TOP_FIELDS)?;
        let (host, port) = match top.fields.get("bootstrap") {
            Some(value) => {
                let bootstrap = Object::new("bootstrap".to_owned(), value, BOOTSTRAP_FIELDS)?;
                (
                    bootstrap.optional("host", Object::string)?,
                    bootstrap.optional("port", Object::port)?,
                )
            }
            None => (None, None),
        };
        let hash_method = top.optional("hash_method", |top, field| {
            let name = top.string(field)?;
            name.parse().map_err(|_| top.wrong(field, "\"md5\" or \"xxh3\""))
        })?;
        let shards = parse_shards(&top)?;
        check_unique(&shards)?;
        let ranges = if shards.iter().any(|shard| shard.start.is_some() || shard.end.is_some()) {
            marked_ranges(&shards)?
        } else {
            split_by_size(&shards)?
        };
        Ok(Self {
            host: host.unwrap_or_else(|| DEFAULT_HOST.to_owned()),
            port: port.unwrap_or(DEFAULT_PORT),
            hash_method: hash_method.unwrap_or_default(),
            shards: shards.into_iter().map(|shard| shard.info).collect(),
            ranges,
        })
    }
}

/// A shard as the config has it.
struct ShardConfig {
    info: ShardInfo,
    start: Option<f64>,
    end: Option<f64>,
}

fn parse_shards(top: &Object<'_>) -> Result<Vec<ShardConfig>> {
    let list = top.required("shards")?;
    let Value::Array(list) = list else { return Err(top.wrong("shards", "a list")) };
    if list.is_empty() {
        return Err(ConfigError::NoShards);
    }
    list.iter().enumerate().map(|(i, value)| parse_shard(i, value)).collect()
}

fn parse_shard(i: usize, value: &Value) -> Result<ShardConfig> {
    // By its name where it has one, so that the fault is found in a long file.
    let place = match value.get("name") {
        Some(Value::String(name)) => format!("shard {name:?}"),
        _ => format!("shards[{i}]"),
    };
    let shard = Object::new(place, value, SHARD_FIELDS)?;
    let info = ShardInfo {
        name: shard.string("name")?,
        host: shard.string("host")?,
        port: shard.port("port")?,
        size: shard.size("size")?,
        policy: shard.optional("policy", Object::policy)?.unwrap_or_default(),
    };
    let start = shard.optional("start", Object::number)?;
    let end = shard.optional("end", Object::number)?;
    Ok(ShardConfig { info, start, end })
}

fn check_unique(shards: &[ShardConfig]) -> Result<()> {
    let mut names = HashSet::new();
    for (i, shard) in shards.iter().enumerate() {
        let info = &shard.info;
        if !names.insert(&info.name) {
            return Err(ConfigError::DuplicateName { name: info.name.clone() });
        }
        let same = |other: &&ShardConfig| other.info.address() == info.address();
        if let Some(other) = shards[..i].iter().find(same) {
            return Err(ConfigError::DuplicateAddress {
                name: info.name.clone(),
                other: other.info.name.clone(),
                address: info.address(),
            });
        }
    }
    Ok(())
}

/// The ranges of shards that are all marked.
fn marked_ranges(shards: &[ShardConfig]) -> Result<Vec<OwnedRange>> {
    let mut marked = Vec::new();
    for shard in shards {
        let name = || shard.info.name.clone();
        let end_of_range = |field, value: Option<f64>| {
            let value = value.ok_or_else(|| ConfigError::SomeMarked { name: name(), field })?;
            let outside =
                || ConfigError::OutsideRing { name: name(), field, value: fraction(value) };
            position(value).ok_or_else(outside)
        };
        let start = end_of_range("start", shard.start)?;
        let end = end_of_range("end", shard.end)?;
        marked.push(OwnedRange { start, end, shard: name() });
    }
    for range in &marked {
        if range.end <= range.start {
            return Err(ConfigError::EndNotAfterStart {
                name: range.shard.clone(),
                start: shown(range.start),
                end: shown(range.end),
            });
        }
    }
    marked.sort_by_key(|range| range.start);
    let mut before: Option<&OwnedRange> = None;
    for range in &marked {
        let name = range.shard.clone();
        let start = shown(range.start);
        match before {
            None if range.start > 0 => return Err(ConfigError::NotStartingAtZero { name, start }),
            Some(last) if range.start != last.end => {
                let (before, end) = (last.shard.clone(), shown(last.end));
                return Err(if range.start > last.end {
                    ConfigError::Gap { name, start, before, end }
                } else {
                    ConfigError::Overlap { name, start, before, end }
                });
            }
            _ => before = Some(range),
        }
    }
    match before {
        Some(last) if last.end < RING_SIZE => {
            Err(ConfigError::NotEndingAtOne { name: last.shard.clone(), end: shown(last.end) })
        }
        _ => Ok(marked),
    }
}

/// Splits the ring in proportion to the shards' sizes, in their order.
fn split_by_size(shards: &[ShardConfig]) -> Result<Vec<OwnedRange>> {
    let total: u128 = shards.iter().map(|shard| u128::from(shard.info.size)).sum();
    let mut until = 0;
    let mut start = 0;
    let mut ranges = Vec::new();
    for shard in shards {
        until += u128::from(shard.info.size);
        let end = (until * u128::from(RING_SIZE) / total) as u32;
        if end == start {
            return Err(ConfigError::NoPart { name: shard.info.name.clone() });
        }
        ranges.push(OwnedRange { start, end, shard: shard.info.name.clone() });
        start = end;
    }
    Ok(ranges)
}

/// The position nearest to a fraction of the ring; `None` outside 0.0 to 1.0.
fn position(fraction: f64) -> Option<u32> {
    let inside = (0.0..=1.0).contains(&fraction);
    inside.then(|| (fraction * f64::from(RING_SIZE)).round() as u32)
}

fn shown(position: u32) -> String {
    fraction(f64::from(position) / f64::from(RING_SIZE))
}

fn fraction(value: f64) -> String {
    format!("{value:?}")
}

/// A JSON object and what to call it in a fault.
struct Object<'a> {
    place: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    fn new(place: String, value: &'a Value, known: &[&str]) -> Result<Self> {
        let Value::Object(fields) = value else {
            let field = "value".to_owned();
            let expected = "an object";
            return Err(ConfigError::WrongType { place, field, found: brief(value), expected });
        };
        match fields.keys().find(|field| !known.contains(&field.as_str())) {
            Some(field) => {
                let (field, known) = (field.clone(), known.join(", "));
                Err(ConfigError::UnknownField { place, field, known })
            }
            None => Ok(Self { place, fields }),
        }
    }

    fn required(&self, field: &'static str) -> Result<&'a Value> {
        let missing = || ConfigError::MissingField { place: self.place.clone(), field };
        self.fields.get(field).ok_or_else(missing)
    }

    fn optional<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(&Self, &'static str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.fields.contains_key(field).then(|| read(self, field)).transpose()
    }

    fn string(&self, field: &'static str) -> Result<String> {
        match self.required(field)? {
            Value::String(string) if !string.is_empty() => Ok(string.clone()),
            _ => Err(self.wrong(field, "a string of at least one character")),
        }
    }

    fn number(&self, field: &'static str) -> Result<f64> {
        self.required(field)?.as_f64().ok_or_else(|| self.wrong(field, "a number"))
    }

    fn size(&self, field: &'static str) -> Result<u64> {
        match self.required(field)?.as_u64() {
            Some(size) if size > 0 => Ok(size),
            _ => Err(self.wrong(field, "a whole number of bytes, at least 1")),
        }
    }

    fn policy(&self, field: &'static str) -> Result<Policy> {
        let policy = self.string(field)?.parse();
        policy.map_err(|_| {
            self.wrong(field, "\"reject\", \"lru\", \"lfu\", \"fifo\", \"random\" or \"ttl\"")
        })
    }

    fn port(&self, field: &'static str) -> Result<u16> {
        let port = self.required(field)?.as_u64().and_then(|port| u16::try_from(port).ok());
        port.filter(|&port| port > 0).ok_or_else(|| self.wrong(field, "a port, 1 to 65535"))
    }

    fn wrong(&self, field: &'static str, expected: &'static str) -> ConfigError {
        let found = self.fields.get(field).map_or_else(String::new, brief);
        let (place, field) = (self.place.clone(), field.to_owned());
        ConfigError::WrongType { place, field, found, expected }
    }
}

/// A value as a fault shows it: not longer than a line.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Pyshard's README.
    const SEED: &str = r#"{
      "shards": [
        {
          "name": "shard0-0.5",
          "start": 0.0,
          "end": 0.5,
          "size": 1024,
          "host": "127.0.0.1",
          "port": 5050
        },
        {
          "name": "shard0.5-1",
          "start": 0.5,
          "end": 1.0,
          "size": 1024,
          "host": "127.0.0.1",
          "port": 5051
        }
      ]
    }"#;

    fn shards(marks: &[(&str, &str)]) -> String {
        let shards: Vec<_> = marks
            .iter()
            .enumerate()
            .map(|(i, (name, rest))| {
                let port = 5050 + i;
                format!(r#"{{"name": "{name}", "size": 10, "host": "h", "port": {port}{rest}}}"#)
            })
            .collect();
        format!(r#"{{"shards": [{}]}}"#, shards.join(", "))
    }

    fn fault(text: &str) -> String {
        ClusterConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_seeds_config_is_taken_as_it_stands() {
        let config = ClusterConfig::parse(SEED).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 9192));
        assert_eq!(config.hash_method, HashMethod::Md5);
        let range = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
        let halves =
            [range(0, 5_000_000, "shard0-0.5"), range(5_000_000, 10_000_000, "shard0.5-1")];
        assert_eq!(config.ranges, halves);
        assert_eq!(config.shards[1].address(), "127.0.0.1:5051");
        assert_eq!(config.shards[1].size, 1024);
    }

    #[test]
    fn a_name_that_no_command_can_take_is_none_of_a_new_shard() {
        let text = |name| shards(&[(name, "")]).replacen("10", "256", 1);
        let check = |name| ClusterConfig::parse(&text(name)).unwrap().check_new();
        assert_eq!(check("shard0-0.5"), Ok(()));
        for name in ["a b", "a/b", "\\u001b[2J", "é"] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.starts_with("shard \"") && error.contains("1 to 64"), "{error}");
        }
    }

    #[test]
    fn a_size_that_nobody_means_is_none_of_a_new_shard() {
        let check = |size: &str| {
            let text = shards(&[("a", "")]).replacen("10", size, 1);
            ClusterConfig::parse(&text).unwrap().check_new()
        };
        assert_eq!((check("256"), check("1152921504606846976")), (Ok(()), Ok(())));
        for size in ["1", "255", "1152921504606846977"] {
            let error = check(size).unwrap_err().to_string();
            assert!(error.starts_with("shard \"a\": size: ") && error.contains(size), "{error}");
        }
    }

    #[test]
    fn no_new_shard_is_where_bootstrap_listens() {
        let check = |port: u16| {
            let at = format!(r#""bootstrap": {{"port": {port}}}, "shards""#);
            let text = SEED.replacen("\"shards\"", &at, 1);
            ClusterConfig::parse(&text).unwrap().check_new()
        };
        assert_eq!(check(5052), Ok(()));
        let error = check(5051).unwrap_err().to_string();
        assert!(error.starts_with("shard \"shard0.5-1\": port: bootstrap"), "{error}");
        assert!(error.contains("127.0.0.1:5051"), "{error}");
    }

    #[test]
    fn our_own_fields_are_taken() {
        let text = SEED.replacen(
            '{',
            r#"{"bootstrap": {"host": "0.0.0.0", "port": 7000}, "hash_method": "xxh3","#,
            1,
        );
        let config = ClusterConfig::parse(&text).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 7000));
        assert_eq!(config.hash_method, HashMethod::Xxh3);
    }

    #[test]
    fn the_ring_is_split_by_size_where_no_shard_is_marked() {
        let text = shards(&[("a", ""), ("b", ""), ("c", "")]).replacen("10", "30", 1);
        let ranges = ClusterConfig::parse(&text).unwrap().ranges;
        let ends: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
        assert_eq!(ends, [(0, 6_000_000), (6_000_000, 8_000_000), (8_000_000, 10_000_000)]);
        let text = text.replacen("30", "300000000000", 1);
        assert!(fault(&text).starts_with(r#"shard "b": size: too small"#), "{}", fault(&text));
    }

    #[test]
    fn shards_may_be_listed_in_any_order() {
        let text =
            shards(&[("b", r#", "start": 0.5, "end": 1"#), ("a", r#", "start": 0, "end": 0.5"#)]);
        let ranges = ClusterConfig::parse(&text).unwrap().ranges;
        assert_eq!((ranges[0].shard.as_str(), ranges[1].shard.as_str()), ("a", "b"));
    }

    #[test]
    fn faults_of_the_ranges_name_shard_and_field() {
        let marked = |a: &str, b: &str| fault(&shards(&[("a", a), ("b", b)]));
        let lower = r#", "start": 0.0, "end": 0.5"#;
        let upper = r#", "start": 0.5, "end": 1.0"#;
        let cases = [
            (
                marked(lower, ""),
                r#"shard "b": start: missing, though other shards have it; mark all shards with start and end, or none"#,
            ),
            (
                marked(lower, r#", "start": 0.5"#),
                r#"shard "b": end: missing, though other shards have it; mark all shards with start and end, or none"#,
            ),
            (
                marked(lower, r#", "start": 0.6, "end": 1.0"#),
                r#"shard "b": start: 0.6 leaves a gap after 0.5, the end of shard "a""#,
            ),
            (
                marked(lower, r#", "start": 0.4, "end": 1.0"#),
                r#"shard "b": start: 0.4 overlaps with shard "a", which ends at 0.5"#,
            ),
            (
                marked(lower, r#", "start": 0.7, "end": 0.6"#),
                r#"shard "b": end: 0.6 is not after its start, 0.7"#,
            ),
            (
                marked(lower, r#", "start": 0.5, "end": 0.9"#),
                r#"shard "b": end: the last range ends at 0.9, not at 1.0"#,
            ),
            (
                marked(r#", "start": 0.1, "end": 0.5"#, upper),
                r#"shard "a": start: the first range starts at 0.1, not at 0.0"#,
            ),
            (
                marked(lower, r#", "start": 0.5, "end": 1.5"#),
                r#"shard "b": end: 1.5 is outside 0.0 to 1.0"#,
            ),
            (
                marked(lower, r#", "start": "half", "end": 1.0"#),
                r#"shard "b": start: "half" is not a number"#,
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn faults_of_the_fields_name_shard_and_field() {
        let change = |from: &str, to: &str| fault(&SEED.replacen(from, to, 1));
        let cases = [
            (
                change("shard0.5-1", "shard0-0.5"),
                r#"shard "shard0-0.5": name: another shard has it"#,
            ),
            (
                change("5051", "5050"),
                r#"shard "shard0.5-1": port: shard "shard0-0.5" has 127.0.0.1:5050 already"#,
            ),
            (
                change(r#""size""#, r#""sise""#),
                r#"shard "shard0-0.5": sise: unknown field; known are name, start, end, size, policy, host, port"#,
            ),
            (
                change(r#""shards""#, r#""shard""#),
                "config: shard: unknown field; known are bootstrap, hash_method, shards",
            ),
            (
                change("1024", "0"),
                r#"shard "shard0-0.5": size: 0 is not a whole number of bytes, at least 1"#,
            ),
            (
                change("1024", r#""1k""#),
                r#"shard "shard0-0.5": size: "1k" is not a whole number of bytes, at least 1"#,
            ),
            (
                change("5050", "70000"),
                r#"shard "shard0-0.5": port: 70000 is not a port, 1 to 65535"#,
            ),
            (change(r#""name": "shard0-0.5","#, ""), "shards[0]: name: missing"),
            (
                change(r#""127.0.0.1""#, r#""""#),
                r#"shard "shard0-0.5": host: "" is not a string of at least one character"#,
            ),
            (
                change("{", r#"{"hash_method": "sha1","#),
                r#"config: hash_method: "sha1" is not "md5" or "xxh3""#,
            ),
            (fault(r#"{"shards": []}"#), "shards: there must be at least one"),
            (fault(r#"{"shards": 3}"#), "config: shards: 3 is not a list"),
            (fault("{}"), "config: shards: missing"),
            (fault("[]"), "config: value: [] is not an object"),
            (fault("{\n nope"), "not JSON: key must be a string at line 2 column 2"),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }
}
