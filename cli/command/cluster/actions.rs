//! Actions as words of the command line.

use std::path::Path;
use std::slice::Iter;

use clap::Args;
use sherd_client::Policy;
use sherd_protocol::range_map::ShardInfo;
use sherd_protocol::{Action, RING_SIZE, Range, RangeMap, name};

use crate::error::Error;
use crate::output::say;
use crate::units::parse_limit;

/// A range of fewer positions is hardly what was meant: of ten million keys it has a hundred.
const NARROW: u32 = 100;

/// What is to be done, as it was said.
#[derive(Debug, Args)]
pub(super) struct Actions {
    /// What is to be done
    #[arg(value_name = "ACTION", required = true, num_args = 1..)]
    words: Vec<String>,
    /// With `add`: how many bytes the shard may hold [as many as the largest of the others]
    #[arg(long, value_name = "BYTES", value_parser = parse_limit)]
    size: Option<u64>,
    /// With `add`: what becomes of a write for which there is no room [it is refused]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// With `split`: where, as a fraction of the ring [where half of its bytes lie]
    #[arg(long, value_name = "FRACTION", value_parser = parse_place)]
    at: Option<u32>,
}

impl Actions {
    /// The file of a plan, where that is what was named.
    ///
    /// # Errors
    /// When there are options, of which a plan says already what they would.
    pub(super) fn file(&self) -> Result<Option<&Path>, Error> {
        let path = match &self.words[..] {
            [word] if word != "rebalance" => Path::new(word),
            _ => return Ok(None),
        };
        match self.options().into_iter().find(|(_, is_given, _)| *is_given) {
            None => Ok(Some(path)),
            Some((option, ..)) => Err(Error::Usage(format!(
                "{option} has no meaning with the file of a plan: give it to `sherd cluster plan`"
            ))),
        }
    }

    /// The options, whether they are given, and the action that they are for.
    fn options(&self) -> [(&'static str, bool, &'static str); 3] {
        [
            ("--size", self.size.is_some(), "add"),
            ("--policy", self.policy.is_some(), "add"),
            ("--at", self.at.is_some(), "split"),
        ]
    }

    /// Checks that there is an action for each option.
    fn check_options(&self, actions: &[Action]) -> Result<(), Error> {
        let is_there = |wanted: &str| {
            actions.iter().any(|action| match action {
                Action::Add { .. } => wanted == "add",
                Action::Split { .. } => wanted == "split",
                Action::Remove { .. }
                | Action::Merge { .. }
                | Action::Move { .. }
                | Action::Rebalance => false,
            })
        };
        let mut idle = self.options().into_iter().filter(|(_, is_given, _)| *is_given);
        match idle.find(|(.., action)| !is_there(action)) {
            None => Ok(()),
            Some((option, _, action)) => {
                Err(Error::Usage(format!("{option} has no meaning without {action:?}")))
            }
        }
    }

    /// The actions that the words are.
    ///
    /// # Errors
    /// Which word is none, or missing; which option is for no action.
    pub(super) fn parse(&self, map: &RangeMap) -> Result<Vec<Action>, Error> {
        let mut words = self.words.iter();
        let mut actions = Vec::new();
        while let Some(word) = words.next() {
            let mut next = |what: &str| next_word(&mut words, word, what);
            let action = match word.as_str() {
                "add" => {
                    let (name, address) = (next("NAME")?, next("HOST:PORT")?);
                    Action::Add { shard: self.shard(map, name, &address)? }
                }
                "remove" => Action::Remove { shard: next("NAME")? },
                "split" => Action::Split { shard: next("NAME")?, at: self.at },
                "merge" => Action::Merge { into: next("A")?, from: next("B")? },
                "move" => {
                    let range = parse_range(&next("START")?, &next("END")?)?;
                    Action::Move { range, to: next("TO")? }
                }
                "rebalance" => Action::Rebalance,
                other => {
                    return Err(Error::Usage(format!(
                        "{other:?} is no action: use add, remove, split, merge, move or rebalance; \
                         `sherd help cluster plan` says more"
                    )));
                }
            };
            actions.push(action);
        }
        self.check_options(&actions)?;
        Ok(actions)
    }

    fn shard(&self, map: &RangeMap, name: String, address: &str) -> Result<ShardInfo, Error> {
        name::check_shard(&name).map_err(|error| Error::Usage(error.to_string()))?;
        let wrong = || {
            Error::Usage(format!("{address:?} is no address: use HOST:PORT, such as 10.0.0.3:5052"))
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        let largest = map.shards.iter().map(|shard| shard.size).max().unwrap_or(1);
        let (size, policy) = (self.size.unwrap_or(largest), self.policy.unwrap_or_default());
        Ok(ShardInfo { name, host, port, size, policy })
    }
}

fn next_word(words: &mut Iter<'_, String>, action: &str, what: &str) -> Result<String, Error> {
    let missing = || Error::Usage(format!("{what} is missing behind {action:?}"));
    words.next().cloned().ok_or_else(missing)
}

/// Parses a place on the ring, as a fraction of it.
fn parse_place(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no fraction of the ring: use 0 to 1, such as 0.25");
    let fraction: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=1.0).contains(&fraction) {
        return Err(wrong());
    }
    Ok((fraction * f64::from(RING_SIZE)).round() as u32)
}

/// Parses a range by its ends.
fn parse_range(start: &str, end: &str) -> Result<Range, Error> {
    let place = |text| parse_place(text).map_err(Error::Usage);
    let range = Range { start: place(start)?, end: place(end)? };
    match range.end.checked_sub(range.start) {
        None => Err(Error::Usage(format!("{range} does not end after its start"))),
        Some(0) => Err(Error::Usage(format!(
            "{start} to {end} is no position: the ring has {RING_SIZE}, so the ends of a range are at \
             least {} apart",
            1.0 / f64::from(RING_SIZE)
        ))),
        Some(positions) => {
            if positions < NARROW {
                say!("warning: {range} has only {positions} of the ring's {RING_SIZE} positions");
            }
            Ok(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::{HashMethod, Policy};

    use super::*;

    fn actions(words: &[&str]) -> Actions {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Actions { words, size: None, policy: None, at: None }
    }

    fn map() -> RangeMap {
        let (cluster, hash_method) = ("c".to_owned(), HashMethod::Md5);
        let shard = |size| ShardInfo {
            name: format!("s{size}"),
            host: "h".to_owned(),
            port: 1,
            size,
            policy: Policy::Reject,
        };
        let shards = vec![shard(3), shard(9)];
        RangeMap { cluster, epoch: 1, hash_method, shards, ranges: Vec::new() }
    }

    #[test]
    fn several_actions_are_told_apart() {
        let words = ["add", "n", "[::1]:5", "move", "0.25", "1", "n", "split", "s9", "rebalance"];
        let parsed = Actions { at: Some(7), ..actions(&words) }.parse(&map()).unwrap();
        let shard = ShardInfo {
            name: "n".to_owned(),
            host: "::1".to_owned(),
            port: 5,
            size: 9,
            policy: Policy::Reject,
        };
        let range = Range { start: 2_500_000, end: 10_000_000 };
        assert_eq!(
            parsed,
            [
                Action::Add { shard },
                Action::Move { range, to: "n".to_owned() },
                Action::Split { shard: "s9".to_owned(), at: Some(7) },
                Action::Rebalance,
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            (&["add", "n"][..], "HOST:PORT is missing"),
            (&["add", "n", "h"], "is no address"),
            (&["add", "n", "h:0"], "is no address"),
            (&["move", "0.5", "1.5", "n"], "is no fraction"),
            (&["move", "a", "1", "n"], "is no fraction"),
            (&["move", "0.5", "0.2", "n"], "does not end after"),
            (&["add", "", "h:1"], "a shard's name has 1 to 64"),
            (&["add", "a/b", "h:1"], "a shard's name has 1 to 64"),
            (&["move", "0.1", "0.10000001", "n"], "0.1 to 0.10000001 is no position"),
            (&["grow"], "is no action"),
            (&["remove"], "NAME is missing"),
        ];
        for (words, what) in wrong {
            let error = actions(words).parse(&map()).unwrap_err().to_string();
            assert!(error.contains(what), "{words:?}: {error}");
        }
    }

    #[test]
    fn a_single_word_is_a_file() {
        assert_eq!(actions(&["plan.json"]).file().unwrap(), Some(Path::new("plan.json")));
        assert_eq!(actions(&["rebalance"]).file().unwrap(), None);
        assert_eq!(actions(&["remove", "a"]).file().unwrap(), None);
    }

    #[test]
    fn an_option_that_would_be_ignored_is_refused() {
        let with = |words: &[&str], option: &str| {
            let mut actions = actions(words);
            match option {
                "--size" => actions.size = Some(1),
                "--policy" => actions.policy = Some(Policy::Lru),
                _ => actions.at = Some(7),
            }
            actions
        };
        for (option, action, other) in [
            ("--size", &["add", "n", "h:1"][..], &["split", "add"][..]),
            ("--policy", &["add", "n", "h:1"], &["rebalance"]),
            ("--at", &["split", "s9"], &["remove", "split"]),
        ] {
            assert!(with(action, option).parse(&map()).is_ok(), "{option}");
            let error = with(other, option).parse(&map()).unwrap_err();
            assert!(matches!(&error, Error::Usage(_)), "{error:?}");
            assert!(error.to_string().starts_with(option), "{error}");
            let error = with(&["plan.json"], option).file().unwrap_err().to_string();
            assert!(error.starts_with(option), "{error}");
        }
    }
}
