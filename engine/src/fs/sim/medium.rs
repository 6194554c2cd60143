//! What a crash may leave on a disk.
//!
//! A [`Medium`] takes the events of a journal one by one. At any point it says what is *settled*,
//! and of everything else which states it may be in ([`Pending`]): a name may stand for what it
//! stood for at the last sync of its directory or at any moment since, a file may have any length
//! that it had since its last sync, and each piece of it may hold what it held then or at any
//! moment since. All of these are independent of each other: names survive without the bytes
//! behind them, a length without data (zeros), later writes without earlier ones, and of a rename
//! the new name, the old one, both or none.
//!
//! What a failed sync was for stays open for good: a later sync that succeeds does not settle it,
//! only one of the same bytes written again does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::journal::{Event, FileId};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Directory,
    File(FileId),
}

/// A filesystem at rest: what is on the disk while the machine is off.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub(super) names: BTreeMap<Arc<Path>, Node>,
    pub(super) files: BTreeMap<FileId, Arc<Vec<u8>>>,
}

/// A disk, as far as it is known while events come in.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    /// What each name may stand for: first what is settled, last what the process sees.
    names: BTreeMap<Arc<Path>, Vec<Option<Node>>>,
    files: BTreeMap<FileId, Contents>,
}

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
struct Contents {
    settled: Arc<Vec<u8>>,
    /// The lengths that the file may have: first the settled one, last the one that is seen.
    lengths: Vec<usize>,
    changes: Vec<(Change, Fate)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write {
        offset: usize,
        bytes: Arc<[u8]>,
    },
    /// Everything from here on became zeros.
    Cut {
        length: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not synced yet.
    Pending,
    /// Its sync failed.
    Lost,
    /// Synced, and lies over something that is lost.
    Settled,
}

impl Medium {
    /// A disk that holds an image.
    pub fn new(image: &Image) -> Self {
        let names = image.names.iter().map(|(path, node)| (Arc::clone(path), vec![Some(*node)]));
        let files = image.files.iter().map(|(file, bytes)| {
            let lengths = vec![bytes.len()];
            (*file, Contents { settled: Arc::clone(bytes), lengths, changes: Vec::new() })
        });
        Self { names: names.collect(), files: files.collect() }
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::MakeDir { path } => self.point(path, Some(Node::Directory)),
            Event::Create { path, file } => {
                self.files.insert(*file, Contents { lengths: vec![0], ..Contents::default() });
                self.point(path, Some(Node::File(*file)));
            }
            Event::Rename { from, to } => {
                let node = self.names.get(from).and_then(|nodes| nodes.last().copied().flatten());
                self.point(from, None);
                self.point(to, node);
            }
            Event::Remove { path } => self.point(path, None),
            Event::SyncDir { dir } => self.names.retain(|path, nodes| {
                if path.parent() != Some(dir) {
                    return true;
                }
                nodes.drain(..nodes.len() - 1);
                nodes[0].is_some()
            }),
            Event::Write { file, offset, bytes } => {
                let change = Change::Write { offset: *offset, bytes: Arc::clone(bytes) };
                self.contents(*file).change(change, |length| length.max(offset + bytes.len()));
            }
            Event::SetLength { file, length } => {
                self.contents(*file).change(Change::Cut { length: *length }, |_| *length);
            }
            Event::SyncFile { file, failed } => self.contents(*file).sync(*failed),
            Event::Damage { file, bytes } => {
                let settled = Arc::new(bytes.to_vec());
                let lengths = vec![bytes.len()];
                self.files.insert(*file, Contents { settled, lengths, changes: Vec::new() });
            }
            Event::Mark(_) => {}
        }
    }

    /// What the power may leave if it goes now, with the bytes of files in pieces of
    /// `piece_bytes`.
    pub fn pending(&self, piece_bytes: usize) -> Pending {
        let mut settled = Image::default();
        let mut choices = Vec::new();
        let mut reachable = BTreeSet::new();
        for (path, nodes) in &self.names {
            for node in nodes {
                if let Some(Node::File(file)) = node {
                    reachable.insert(*file);
                }
            }
            match nodes[..] {
                [Some(node)] => _ = settled.names.insert(Arc::clone(path), node),
                [None] => {}
                _ => choices.push(Choice::Name { path: Arc::clone(path), nodes: nodes.clone() }),
            }
        }
        for (&file, contents) in self.files.iter().filter(|(file, _)| reachable.contains(file)) {
            let bytes = contents.pending(file, piece_bytes, &mut choices);
            settled.files.insert(file, bytes);
        }
        Pending { settled, choices }
    }

    fn point(&mut self, path: &Arc<Path>, node: Option<Node>) {
        let nodes = self.names.entry(Arc::clone(path)).or_insert_with(|| vec![None]);
        if nodes.last() != Some(&node) {
            nodes.push(node);
        }
    }

    fn contents(&mut self, file: FileId) -> &mut Contents {
        let new = || Contents { lengths: vec![0], ..Contents::default() };
        self.files.entry(file).or_insert_with(new)
    }
}

impl Contents {
    fn change(&mut self, change: Change, length: impl FnOnce(usize) -> usize) {
        let before = self.lengths[self.lengths.len() - 1];
        let length = length(before);
        self.changes.push((change, Fate::Pending));
        if length != before {
            self.lengths.push(length);
        }
    }

    fn sync(&mut self, failed: bool) {
        if failed {
            for (change, fate) in &mut self.changes {
                // A length is settled by the next sync all the same.
                if *fate == Fate::Pending && matches!(change, Change::Write { .. }) {
                    *fate = Fate::Lost;
                }
            }
            return;
        }
        for (_, fate) in &mut self.changes {
            if *fate == Fate::Pending {
                *fate = Fate::Settled;
            }
        }
        self.lengths.drain(..self.lengths.len() - 1);
        let length = self.lengths[0];
        let lost = self.changes.iter().any(|(_, fate)| *fate == Fate::Lost);
        if !lost || !self.touched(1).any(|start| self.versions(start, 1).len() > 1) {
            let settled = Arc::make_mut(&mut self.settled);
            settled.resize(settled.len().max(length), 0);
            for (change, _) in self.changes.drain(..) {
                change.apply(0, settled);
            }
            settled.resize(length, 0);
        }
    }

    /// The starts of the pieces that changes lie in.
    fn touched(&self, piece_bytes: usize) -> impl Iterator<Item = usize> + use<> {
        let longest = self.longest();
        let pieces: BTreeSet<_> = self
            .changes
            .iter()
            .flat_map(|(change, _)| {
                let range = change.range(longest);
                (range.start / piece_bytes..range.end.div_ceil(piece_bytes))
                    .map(move |piece| piece * piece_bytes)
            })
            .collect();
        pieces.into_iter()
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// What a piece may hold: first what is settled, last what is seen.
    fn versions(&self, start: usize, piece_bytes: usize) -> Vec<Vec<u8>> {
        let mut oldest = vec![0; piece_bytes];
        let settled = self.settled.get(start..).unwrap_or_default();
        let settled = &settled[..settled.len().min(piece_bytes)];
        oldest[..settled.len()].copy_from_slice(settled);
        let mut versions = vec![oldest];
        for (change, fate) in &self.changes {
            if *fate == Fate::Settled {
                for version in &mut versions {
                    change.apply(start, version);
                }
                versions.dedup();
            } else {
                let mut newest = versions[versions.len() - 1].clone();
                change.apply(start, &mut newest);
                if versions.last() != Some(&newest) {
                    versions.push(newest);
                }
            }
        }
        versions
    }

    /// Adds what is open of this file to `choices`; returns the rest, at its greatest length.
    fn pending(&self, file: FileId, piece_bytes: usize, choices: &mut Vec<Choice>) -> Arc<Vec<u8>> {
        if self.changes.is_empty() && self.lengths.len() == 1 {
            return Arc::clone(&self.settled);
        }
        let mut bytes = self.settled.as_ref().clone();
        bytes.resize(self.longest(), 0);
        if self.lengths.len() > 1 {
            choices.push(Choice::Length { file, lengths: self.lengths.clone() });
        }
        for start in self.touched(piece_bytes) {
            let versions = self.versions(start, piece_bytes);
            if versions.len() > 1 {
                choices.push(Choice::Piece { file, start, versions });
            } else {
                lay(&mut bytes, start, &versions[0]);
            }
        }
        Arc::new(bytes)
    }
}

impl Change {
    fn range(&self, longest: usize) -> std::ops::Range<usize> {
        match self {
            Self::Write { offset, bytes } => *offset..offset + bytes.len(),
            Self::Cut { length } => *length..longest.max(*length),
        }
    }

    /// Changes the piece that begins at `start`.
    fn apply(&self, start: usize, piece: &mut [u8]) {
        let range = self.range(start + piece.len());
        let from = range.start.clamp(start, start + piece.len());
        let until = range.end.clamp(start, start + piece.len());
        if from >= until {
            return;
        }
        let target = &mut piece[from - start..until - start];
        match self {
            Self::Write { offset, bytes } => {
                target.copy_from_slice(&bytes[from - offset..until - offset]);
            }
            Self::Cut { .. } => target.fill(0),
        }
    }
}

/// Copies a piece to its place, as far as it fits.
fn lay(bytes: &mut [u8], start: usize, piece: &[u8]) {
    let Some(target) = bytes.get_mut(start..) else { return };
    let count = target.len().min(piece.len());
    target[..count].copy_from_slice(&piece[..count]);
}

/// All that a crash may leave at one point.
#[derive(Clone, Debug)]
pub struct Pending {
    settled: Image,
    choices: Vec<Choice>,
}

/// Something that may be in more than one state: first the settled one, last the one seen.
#[derive(Clone, Debug)]
enum Choice {
    Name { path: Arc<Path>, nodes: Vec<Option<Node>> },
    Length { file: FileId, lengths: Vec<usize> },
    Piece { file: FileId, start: usize, versions: Vec<Vec<u8>> },
}

impl Choice {
    fn options(&self) -> usize {
        match self {
            Self::Name { nodes, .. } => nodes.len(),
            Self::Length { lengths, .. } => lengths.len(),
            Self::Piece { versions, .. } => versions.len(),
        }
    }
}

impl Pending {
    /// How many states each thing that is not settled may be in. In a pick, 0 is the settled
    /// state and the last one is what the process saw.
    pub fn options(&self) -> Vec<usize> {
        self.choices.iter().map(Choice::options).collect()
    }

    /// Makes equal the picks that lead to equal images: what is picked for a file without a name,
    /// or for bytes behind the end of a file, does not matter.
    pub fn normalize(&self, picks: &mut [usize]) {
        let names = self.names(picks);
        let named: BTreeSet<_> = names.values().copied().collect();
        let mut lengths = BTreeMap::new();
        for (choice, pick) in self.choices.iter().zip(picks) {
            let matters = match choice {
                Choice::Name { path, nodes } => nodes[*pick].is_none() || names.contains_key(path),
                Choice::Length { file, lengths: of_file } => {
                    lengths.insert(*file, of_file[*pick]);
                    named.contains(&Node::File(*file))
                }
                Choice::Piece { file, start, .. } => {
                    named.contains(&Node::File(*file))
                        && lengths.get(file).is_none_or(|length| start < length)
                }
            };
            if !matters {
                *pick = 0;
            }
        }
    }

    /// The image that a pick of states amounts to.
    pub fn image(&self, picks: &[usize]) -> Image {
        let names = self.names(picks);
        let named: BTreeSet<_> = names.values().copied().collect();
        let mut files = self.settled.files.clone();
        files.retain(|file, _| named.contains(&Node::File(*file)));
        let mut lengths = BTreeMap::new();
        for (choice, &pick) in self.choices.iter().zip(picks) {
            match choice {
                Choice::Name { .. } => {}
                Choice::Length { file, lengths: of_file } => {
                    lengths.insert(*file, of_file[pick]);
                }
                Choice::Piece { file, start, versions } => {
                    if let Some(bytes) = files.get_mut(file) {
                        let bytes: &mut Vec<u8> = Arc::make_mut(bytes);
                        lay(bytes, *start, &versions[pick]);
                    }
                }
            }
        }
        for (file, length) in lengths {
            if let Some(bytes) = files.get_mut(&file) {
                Arc::make_mut(bytes).resize(length, 0);
            }
        }
        Image { names, files }
    }

    /// The names there are. A directory that is missing takes along what is in it.
    fn names(&self, picks: &[usize]) -> BTreeMap<Arc<Path>, Node> {
        let mut names = self.settled.names.clone();
        let mut missing = Vec::new();
        for (choice, &pick) in self.choices.iter().zip(picks) {
            let Choice::Name { path, nodes } = choice else { continue };
            match nodes[pick] {
                Some(node) => _ = names.insert(Arc::clone(path), node),
                None => missing.push(Arc::clone(path)),
            }
        }
        names.retain(|path, _| {
            !missing.iter().any(|dir: &Arc<Path>| path.starts_with(dir.as_ref()))
        });
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> Arc<Path> {
        Arc::from(Path::new(name))
    }

    fn write(offset: usize, bytes: &[u8]) -> Event {
        Event::Write { file: 1, offset, bytes: bytes.into() }
    }

    fn synced(bytes: &[u8]) -> Medium {
        let mut medium = Medium::default();
        medium.apply(&Event::Create { path: path("/f"), file: 1 });
        medium.apply(&write(0, bytes));
        medium.apply(&Event::SyncFile { file: 1, failed: false });
        medium.apply(&Event::SyncDir { dir: path("/") });
        medium
    }

    /// Every image that may be left: the names, and the bytes of file 1.
    fn images(medium: &Medium, piece_bytes: usize) -> BTreeSet<(Vec<String>, Vec<u8>)> {
        let pending = medium.pending(piece_bytes);
        let options = pending.options();
        let mut images = BTreeSet::new();
        for number in 0..options.iter().product::<usize>() {
            let mut rest = number;
            let mut picks: Vec<_> = options
                .iter()
                .map(|options| {
                    let pick = rest % options;
                    rest /= options;
                    pick
                })
                .collect();
            let image = pending.image(&picks);
            let content = |image: &Image| {
                let names = image.names.keys().map(|path| path.display().to_string()).collect();
                let bytes = image.files.get(&1).map(|bytes| bytes.to_vec());
                (names, bytes.unwrap_or_default())
            };
            pending.normalize(&mut picks);
            assert_eq!(content(&pending.image(&picks)), content(&image), "normalised");
            images.insert(content(&image));
        }
        images
    }

    fn contents(medium: &Medium, piece_bytes: usize) -> Vec<Vec<u8>> {
        images(medium, piece_bytes).into_iter().map(|(_, bytes)| bytes).collect()
    }

    #[test]
    fn what_is_synced_is_settled_and_pieces_of_the_rest_survive_in_any_mixture() {
        let mut medium = synced(b"aaaa");
        assert_eq!(contents(&medium, 2), [b"aaaa"]);
        medium.apply(&write(1, b"bbb"));
        assert_eq!(contents(&medium, 2), [b"aaaa", b"aabb", b"abaa", b"abbb"]);
        assert_eq!(contents(&medium, 4), [b"aaaa", b"abbb"]);
        medium.apply(&write(3, b"c"));
        let states = contents(&medium, 2);
        assert_eq!(states, [b"aaaa", b"aabb", b"aabc", b"abaa", b"abbb", b"abbc"]);
        medium.apply(&Event::SyncFile { file: 1, failed: false });
        assert_eq!(contents(&medium, 2), [b"abbc"]);
    }

    #[test]
    fn a_file_grows_without_its_bytes_and_is_cut_or_not() {
        let mut medium = synced(b"aa");
        medium.apply(&write(2, b"bb"));
        let states = contents(&medium, 2);
        assert_eq!(states, [b"aa".to_vec(), b"aa\0\0".to_vec(), b"aabb".to_vec()]);
        let mut medium = synced(b"aabb");
        medium.apply(&Event::SetLength { file: 1, length: 2 });
        let states = contents(&medium, 2);
        assert_eq!(states, [b"aa".to_vec(), b"aa\0\0".to_vec(), b"aabb".to_vec()]);
        medium.apply(&Event::SyncFile { file: 1, failed: false });
        assert_eq!(contents(&medium, 2), [b"aa"]);
    }

    #[test]
    fn a_later_sync_does_not_settle_what_a_failed_one_was_for() {
        let mut medium = synced(b"aaaa");
        medium.apply(&write(0, b"bb"));
        medium.apply(&Event::SyncFile { file: 1, failed: true });
        medium.apply(&write(2, b"cc"));
        medium.apply(&Event::SyncFile { file: 1, failed: false });
        assert_eq!(contents(&medium, 2), [b"aacc", b"bbcc"]);
        medium.apply(&write(0, b"bbcc"));
        assert_eq!(contents(&medium, 4), [b"aacc", b"bbcc"]);
        medium.apply(&Event::SyncFile { file: 1, failed: false });
        assert_eq!(contents(&medium, 2), [b"bbcc"], "written again and synced");
    }

    #[test]
    fn each_name_of_a_rename_survives_or_not_until_the_directory_is_synced() {
        let mut medium = synced(b"aa");
        medium.apply(&Event::Rename { from: path("/f"), to: path("/g") });
        let names: Vec<_> = images(&medium, 2).into_iter().map(|(names, _)| names).collect();
        assert_eq!(
            names,
            [vec![], vec!["/f".to_owned()], vec!["/f".into(), "/g".into()], vec!["/g".into()]]
        );
        medium.apply(&Event::SyncDir { dir: path("/other") });
        assert_eq!(images(&medium, 2).len(), 4);
        medium.apply(&Event::SyncDir { dir: path("/") });
        assert_eq!(images(&medium, 2).len(), 1);
    }

    #[test]
    fn a_directory_that_did_not_survive_takes_its_files_along() {
        let mut medium = Medium::default();
        medium.apply(&Event::MakeDir { path: path("/d") });
        medium.apply(&Event::Create { path: path("/d/f"), file: 1 });
        medium.apply(&Event::SyncDir { dir: path("/d") });
        let names: Vec<_> = images(&medium, 2).into_iter().map(|(names, _)| names).collect();
        assert_eq!(names, [vec![], vec!["/d".to_owned(), "/d/f".to_owned()]]);
    }
}
