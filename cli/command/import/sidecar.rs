//! What an export says of a file, beside it.

use std::io;
use std::path::Path;

use serde::Deserialize;
use sherd_protocol::Digest;

use crate::error::Error;
use crate::export::Sidecar;
use crate::formats::Format;
use crate::units::show_count;

/// What a file should hold, by its sidecar.
#[derive(Debug, Deserialize)]
pub(super) struct Expected {
    pub(super) index: String,
    pub(super) documents: u64,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) format: Option<Format>,
}

impl Expected {
    /// What is said of a file, if anything.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Error> {
        let path = Sidecar::path_of(path);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let expected = serde_json::from_slice(&text).map_err(|error| {
            Error::Failed(format!(
                "{} does not say what its file holds ({error}); put it right, or remove it to import \
                 the file unchecked",
                path.display()
            ))
        })?;
        Ok(Some(expected))
    }

    /// All that counts of it, to be known again.
    pub(super) fn says(&self) -> String {
        let Self { index, documents, digest, .. } = self;
        format!("{documents} of {index}: {digest}")
    }

    /// What is to be said of a file that came to this. With `has_own_keys` its rows were read by
    /// --key or --schema, which may make other keys and documents of them than were exported: then
    /// another digest says nothing.
    pub(super) fn compare(
        &self,
        name: &str,
        documents: u64,
        digest: Digest,
        has_own_keys: bool,
    ) -> Option<Finding> {
        let Self { documents: expected, digest: of_export, .. } = self;
        if documents != *expected {
            let found = show_count(documents, "document");
            return Some(Finding::Differs(format!(
                "{name} is not what was exported: it has {found}, and had {expected}"
            )));
        }
        if digest.to_string() == *of_export {
            return None;
        }
        Some(if has_own_keys {
            Finding::Unchecked(format!(
                "{name} has as many documents as were exported, {documents}; their digest cannot be \
                 checked, for --key or --schema makes others of them"
            ))
        } else {
            Finding::Differs(format!(
                "{name} is not what was exported: its digest is {digest}, and was {of_export}"
            ))
        })
    }
}

/// What comes of comparing a file with its sidecar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is another one.
    Differs(String),
    /// It could not be compared as a whole.
    Unchecked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_compared_always_and_digests_where_documents_are_those_of_the_export() {
        let of = Digest(7);
        let expected =
            Expected { index: "i".to_owned(), documents: 1, digest: of.to_string(), format: None };
        let compare =
            |documents, digest, own| expected.compare("a.csv", documents, Digest(digest), own);
        assert_eq!([compare(1, 7, false), compare(1, 7, true)], [None, None]);
        for own in [false, true] {
            let Some(Finding::Differs(why)) = compare(2, 7, own) else { panic!("{own}") };
            assert_eq!(why, "a.csv is not what was exported: it has 2 documents, and had 1");
        }
        assert!(matches!(compare(1, 8, false), Some(Finding::Differs(_))));
        assert!(matches!(compare(1, 8, true), Some(Finding::Unchecked(_))));
    }
}
