//! The driver of a move: it knows nothing but pages of the source and its log, and what it noted at the target.

use bytes::Bytes;
use sherd_engine::{Document, Engine, Error, Import, Imported, Key, Scan, Span, TailCursor};

use super::shards::{INDEXES, MOVE, MOVING};

/// How far the target is, which its log remembers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    /// The index that is being read, by its place in [`INDEXES`]; beyond them when all are.
    index: usize,
    after: Option<Key>,
    pub(super) tail: TailCursor,
    /// Before which pages everything was done up to which LSN: by index, and the position after which. Not
    /// remembered.
    shown: Vec<((usize, Option<u32>), u64)>,
}

impl Progress {
    pub(super) fn begin(source: &Engine) -> Self {
        Self { index: 0, after: None, tail: source.tail_end(), shown: Vec::new() }
    }

    /// Whether a page has shown what became of a document up to an LSN.
    fn is_shown(&self, imported: &Imported, lsn: u64) -> bool {
        let (Imported::Put { index, key, .. } | Imported::Removed { index, key, .. }) = imported;
        let place = INDEXES.iter().position(|id| id == index).unwrap();
        let is_behind = |(page, after): (usize, Option<u32>)| {
            page < place || page == place && after.is_none_or(|after| after < key.position)
        };
        self.shown.iter().any(|&(page, done)| is_behind(page) && done >= lsn)
    }

    fn encode(&self) -> Vec<u8> {
        let TailCursor { lsn, segment, offset } = self.tail;
        let after = self.after.as_ref().map_or_else(String::new, |key| {
            format!("{} {}", key.position, std::str::from_utf8(&key.bytes).unwrap())
        });
        format!("{} {lsn} {segment} {offset} {after}", self.index).into_bytes()
    }

    pub(super) fn of(target: &Engine) -> Option<Self> {
        let note = target.stat().incoming?.note;
        let text = String::from_utf8(note).unwrap();
        let mut words = text.split_whitespace();
        let index = words.next()?.parse().unwrap();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let tail = TailCursor { lsn: number(), segment: number() as u32, offset: number() as u32 };
        let after = words.next().map(|position| Key {
            position: position.parse().unwrap(),
            bytes: Bytes::copy_from_slice(words.next().unwrap().as_bytes()),
        });
        Some(Self { index, after, tail, shown: Vec::new() })
    }

    /// Brings the next documents. Returns whether the target has all that is durable at the source.
    pub(super) fn step(&mut self, source: &Engine, target: &Engine) -> Result<bool, Error> {
        let mut next = self.clone();
        let (documents, whole, done) = match INDEXES.get(self.index) {
            Some(&index) => {
                let after = self.after.as_ref().map(|key| key.position);
                next.shown.push(((self.index, after), source.stat().durable_lsn));
                let scan = Scan {
                    index,
                    range: MOVING,
                    after: self.after.clone(),
                    max_documents: 5,
                    max_bytes: 1 << 20,
                    keys_only: false,
                };
                let page = source.export(&scan)?;
                let last = page.items.last().map(|(key, _)| key.clone());
                let until = if page.more { last.clone() } else { None };
                let put = |(key, document): (Key, Document)| Imported::Put {
                    index,
                    key,
                    version: document.version,
                    expires_at: document.expires_at,
                    document: document.bytes,
                };
                let after = self.after.clone();
                let whole = Span { index, range: MOVING, after, until };
                (next.index, next.after) =
                    if page.more { (self.index, last) } else { (self.index + 1, None) };
                (page.items.into_iter().map(put).collect(), Some(whole), false)
            }
            None => match source.tail(self.tail, &[MOVING], 300) {
                Ok(tail) => {
                    next.tail = tail.next;
                    let is_new = |it: &Imported| !self.is_shown(it, tail.next.lsn - 1);
                    let documents = tail.documents.into_iter().filter(is_new).collect();
                    (documents, None, tail.next.lsn > tail.durable_lsn)
                }
                Err(Error::LogGone { .. }) => {
                    *self = Self::begin(source);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            },
        };
        let (id, note) = (MOVE.to_owned(), next.encode());
        let as_of = next.tail.lsn - 1;
        target.import(Import { id, documents, whole, as_of, note })?;
        *self = next;
        Ok(done)
    }
}
