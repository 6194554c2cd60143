//! Checking a backup: every byte of every file, and what the documents come to.

use std::io;
use std::path::Path;

use sherd_engine::verify::{Fault, Moment, ShardContents, check_backup, file_sum};

use super::directory::Directory;
use super::file::{Backup, FileSum, ShardBackup, Sums, hex, parse_sums};
use crate::error::Error;

/// What was checked of a backup.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) shards: u64,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) total: Sums,
    pub(crate) faults: u64,
    /// What is no fault of it.
    pub(crate) notes: Vec<String>,
}

/// Checks a backup; each fault is handed on as it is found. Nothing is changed. Where it has everything
/// since one `before` it, that is checked too: it must lead from the one to the other. Blocks.
///
/// # Errors
/// When a file is of a version that is not known here.
pub(crate) fn check(
    directory: &Directory,
    backup: &Backup,
    before: Option<&Backup>,
    on_fault: &mut dyn FnMut(Fault),
) -> Result<Checked, Error> {
    let dir = &directory.of(&backup.id);
    let mut checked = Checked::default();
    let mut total = sherd_engine::Sums::default();
    for shard in &backup.shards {
        let mut found = Vec::new();
        let records = check_shard(shard, dir, &mut total, &mut |fault| found.push(fault))?;
        let base = before.and_then(|before| Some((before, before.shard(&shard.identity)?)));
        if let Some((before, base)) = base.filter(|_| found.is_empty()) {
            let base_dir = directory.of(&before.id);
            let mut of_base = None;
            check_history(shard, dir, (base, &base_dir), &mut |fault| {
                // Of a damaged backup others are whole.
                if fault.file.starts_with(&base_dir) {
                    of_base.get_or_insert(fault);
                } else {
                    found.push(fault);
                }
            })?;
            if let Some(fault) = of_base {
                checked.notes.push(format!(
                    "no moment between {} and {} can be restored: {fault}",
                    before.id, backup.id
                ));
            }
        }
        checked.records += records;
        checked.shards += 1;
        checked.segments += shard.segments.len() as u64;
        checked.faults += found.len() as u64;
        found.into_iter().for_each(&mut *on_fault);
    }
    checked.bytes = backup.bytes().0;
    checked.total = Sums::new(total);
    if checked.faults == 0 && checked.total != backup.total {
        checked.faults += 1;
        on_fault(Fault {
            file: dir.join(super::file::FILE),
            offset: Some(0),
            what: "the shards do not come to what it says of all".to_owned(),
        });
    }
    Ok(checked)
}

/// Checks what there is of a shard. Returns how many records there are.
fn check_shard(
    shard: &ShardBackup,
    dir: &Path,
    total: &mut sherd_engine::Sums,
    on_fault: &mut dyn FnMut(Fault),
) -> Result<u64, Error> {
    // What the engine finds has an offset. What it does not find, for all is whole in itself, and yet
    // is not what was backed up, is found by the sums of the files.
    let mut found = Vec::new();
    let contents = check_backup(&shard.files(dir), Moment::Cut, &mut |fault| found.push(fault));
    let contents = contents.map_err(|error| Error::Failed(error.to_string()))?;
    let manifest = (shard.manifest_path(dir), &shard.manifest);
    let segments = shard.segments.iter().map(|it| (shard.segment_path(dir, it), &it.file));
    for (path, said) in std::iter::once(manifest).chain(segments) {
        if found.iter().any(|fault| fault.file == path) {
            continue;
        }
        if let Some(fault) = check_file(&path, said) {
            found.push(fault);
        }
    }
    if found.is_empty() {
        if !is_said(shard, &contents) {
            found.push(Fault {
                file: dir.join(super::file::FILE),
                offset: Some(0),
                what: format!("it says something else of shard {} than its files do", shard.name),
            });
        }
        for of_index in &shard.indexes {
            *total += contents.indexes.get(&of_index.id).map(|it| it.sums).unwrap_or_default();
        }
    }
    found.into_iter().for_each(on_fault);
    Ok(contents.records)
}

/// Whether the files of a shard come to what is said of it.
pub(super) fn is_said(shard: &ShardBackup, contents: &ShardContents) -> bool {
    let of_index = |id| contents.indexes.get(&id).map(|it| it.sums).unwrap_or_default();
    shard.indexes.iter().all(|it| of_index(it.id) == parse_sums(&it.sums))
        && contents.lsn == shard.lsn
        && hex(contents.identity) == shard.identity
}

/// Checks that what happened since an earlier backup leads to this one.
pub(super) fn check_history(
    shard: &ShardBackup,
    dir: &Path,
    (base, base_dir): (&ShardBackup, &Path),
    on_fault: &mut dyn FnMut(Fault),
) -> Result<(), Error> {
    let files = shard.files_since(dir, base, base_dir);
    let mut found = 0;
    let contents = check_backup(&files, Moment::Lsn(shard.lsn), &mut |fault| {
        found += 1;
        on_fault(fault);
    });
    let contents = contents.map_err(|error| Error::Failed(error.to_string()))?;
    let of_index = |id| contents.indexes.get(&id).map(|it| it.sums).unwrap_or_default();
    let same = shard.indexes.iter().all(|it| of_index(it.id) == parse_sums(&it.sums));
    if found == 0 && (!same || contents.lsn != shard.lsn) {
        on_fault(Fault {
            file: shard.manifest_path(dir),
            offset: Some(0),
            what: format!(
                "what shard {} did since LSN {} does not come to it",
                shard.name, base.lsn
            ),
        });
    }
    Ok(())
}

fn check_file(path: &Path, said: &FileSum) -> Option<Fault> {
    let fault = |offset, what| Some(Fault { file: path.to_owned(), offset, what });
    match file_sum(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fault(Some(0), "the file is missing".to_owned())
        }
        Err(error) => fault(None, format!("cannot be read: {error}")),
        Ok((_, length)) if length != said.length => {
            let what = format!("it has {length} bytes, {} were backed up", said.length);
            fault(Some(length.min(said.length)), what)
        }
        Ok((sum, _)) if hex(sum) != said.sum => {
            let what = "its bytes are not those that were backed up, though each record checks out";
            fault(Some(0), what.to_owned())
        }
        Ok(_) => None,
    }
}
