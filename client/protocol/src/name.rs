//! Names of indexes and keys: what is allowed, in one place for client and node.

use thiserror::Error;

/// The longest key, in bytes of UTF-8; the shortest has one.
pub const MAX_KEY_BYTES: usize = 1024;

/// The longest index name, in characters; the shortest has one.
pub const MAX_INDEX_NAME_BYTES: usize = 64;

/// The longest name of a new shard, in characters; the shortest has one.
pub const MAX_SHARD_NAME_BYTES: usize = 64;

/// The longest label: the name of a shard that is there already, the id of a cluster, the owner of a
/// lock. They come back in errors and stand in each manifest.
pub const MAX_LABEL_BYTES: usize = 256;

/// Why a name is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NameError {
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes, this one has {0}")]
    KeyLength(usize),
    #[error(
        "an index name has 1 to {MAX_INDEX_NAME_BYTES} of the characters A-Z a-z 0-9 _ . -: {0:?} is not one"
    )]
    IndexName(String),
    #[error(
        "a shard's name has 1 to {MAX_SHARD_NAME_BYTES} of the characters A-Z a-z 0-9 _ . -: {0:?} is not \
         one"
    )]
    ShardName(String),
    #[error("a {what} has 1 to {MAX_LABEL_BYTES} bytes, this one has {length}")]
    LabelLength { what: &'static str, length: usize },
}

/// Checks a key: 1 to 1024 bytes.
///
/// # Errors
/// When its length is outside.
pub fn check_key(key: &str) -> Result<(), NameError> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        length => Err(NameError::KeyLength(length)),
    }
}

/// Checks an index name: 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
///
/// # Errors
/// When its length or a character is outside.
pub fn check_index(name: &str) -> Result<(), NameError> {
    check_plain(name, MAX_INDEX_NAME_BYTES).map_err(NameError::IndexName)
}

/// Checks the name of a new shard: 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
///
/// # Errors
/// When its length or a character is outside.
pub fn check_shard(name: &str) -> Result<(), NameError> {
    check_plain(name, MAX_SHARD_NAME_BYTES).map_err(NameError::ShardName)
}

/// Checks a name of few characters that need no quotes anywhere. The error is the name, cut.
fn check_plain(name: &str, longest: usize) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=longest).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        // A name as long as a frame must not come back whole in an error.
        Err(name.chars().take(longest + 1).collect())
    }
}

/// Checks a label: 1 to 256 bytes. `what` it is, is for the error.
///
/// # Errors
/// When its length is outside.
pub fn check_label(what: &'static str, label: &str) -> Result<(), NameError> {
    match label.len() {
        1..=MAX_LABEL_BYTES => Ok(()),
        length => Err(NameError::LabelLength { what, length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_and_beyond_the_limits() {
        assert_eq!(check_key("k"), Ok(()));
        assert_eq!(check_key(&"ä".repeat(512)), Ok(()));
        assert_eq!(check_key(""), Err(NameError::KeyLength(0)));
        assert_eq!(check_key(&"ä".repeat(513)), Err(NameError::KeyLength(1026)));
        assert_eq!(check_index("cities_v1.2-A"), Ok(()));
        assert_eq!(check_index(&"i".repeat(64)), Ok(()));
        for bad in ["", "a b", "a/b", "ä", &"i".repeat(65)] {
            assert_eq!(check_index(bad), Err(NameError::IndexName(bad.to_owned())));
            assert_eq!(check_shard(bad), Err(NameError::ShardName(bad.to_owned())));
        }
        assert_eq!(check_shard("shard0-0.5"), Ok(()));
        assert_eq!(check_label("name", &"n".repeat(256)), Ok(()));
        for length in [0, 257] {
            let refused = Err(NameError::LabelLength { what: "name", length });
            assert_eq!(check_label("name", &"n".repeat(length)), refused);
        }
    }
}
