//! The file of a plan.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sherd_protocol::Plan;

use crate::error::Error;
use crate::output::json;

/// What `plan -o` writes and `apply` reads: the plan, and what else was said to `plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlanFile {
    #[serde(flatten)]
    pub(super) plan: Plan,
    /// How many bytes a second may move; as many as can where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<u64>,
}

impl PlanFile {
    /// # Errors
    /// When it is not there, or is no plan.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |what: String| Error::Failed(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| {
            failed(format!("{error} (one word is the file of a plan, or rebalance)"))
        })?;
        serde_json::from_str(&text)
            .map_err(|error| failed(format!("it is no plan of `sherd cluster plan -o`: {error}")))
    }

    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let text = json(self)? + "\n";
        fs::write(path, text).map_err(Error::file("write the plan to", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_keeps_its_rate_and_one_without_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        // As they were written before there was a rate in them.
        let old = r#"{"cluster": "c", "epoch": 3, "actions": ["rebalance"], "moves": [], "before": [],
            "after": [], "shards_after": [], "bytes": []}"#;
        fs::write(&path, old).unwrap();
        let read = PlanFile::read(&path).unwrap();
        assert_eq!((read.plan.epoch, read.rate), (3, None));
        let with_rate = PlanFile { rate: Some(20_000), ..read };
        with_rate.write(&path).unwrap();
        assert_eq!(PlanFile::read(&path).unwrap(), with_rate);
    }
}
