//! Backups: a directory that holds them, what each says of itself, and how one is taken, checked and
//! read.
//!
//! ```text
//! DIR/LOCK                                   held while a backup is taken
//! DIR/20261126T081530Z/UNFINISHED            the cluster's id, until BACKUP.json is there
//! DIR/20261126T081530Z/BACKUP.json           written last: a directory without it is no backup
//! DIR/20261126T081530Z/shard0/MANIFEST
//! DIR/20261126T081530Z/shard0/log/0000000001.log
//! ```
//!
//! A segment that an earlier backup in the same directory has, byte for byte, is a hard link to that
//! one's file. So nothing in a backup may ever be changed, only deleted as a whole.

mod check;
mod directory;
mod file;
mod moment;
mod pace;
mod restore;
mod take;

pub(crate) use check::{Checked, check};
pub(crate) use directory::Directory;
pub(crate) use file::Backup;
pub(crate) use moment::{At, sources, sources_at};
pub(crate) use pace::Pace;
pub(crate) use restore::{Evicted, Restore, Restored, Source};
pub(crate) use take::{Options, Taken, take};
