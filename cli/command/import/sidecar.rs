//! What an export says of a file, beside it.

use std::io;
use std::path::Path;

use serde::Deserialize;
use sherd_protocol::Digest;

use crate::error::Error;
use crate::export::Sidecar;
use crate::formats::Format;

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

    /// How a file that came to this differs.
    pub(super) fn mismatch(&self, name: &str, documents: u64, digest: Digest) -> Option<String> {
        let Self { documents: expected, digest: of_export, .. } = self;
        if documents != *expected {
            return Some(format!(
                "{name} is not what was exported: it has {documents} documents, and had {expected}"
            ));
        }
        (digest.to_string() != *of_export).then(|| {
            format!("{name} is not what was exported: its digest is {digest}, and was {of_export}")
        })
    }
}
