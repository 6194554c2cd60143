//! Scans: all documents of an index, shard after shard, in ring order.
//!
//! The place of a scan is a position and the last key seen there. It holds no state on any shard,
//! so it stays true while documents come and go and while ranges move: each page is asked of
//! whoever owns the place by then. Documents that are there all the time are seen exactly once;
//! others, written or removed meanwhile, may or may not be.

use std::collections::VecDeque;

use sherd_protocol::message::{self, Cursor, ShardOperation};
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{Position, Range, name};

use crate::call::{Target, unexpected};
use crate::client::Client;
use crate::error::Error;
use crate::reply::{Item, ShardReply};
use crate::topology::Topology;

/// What a scan visits and how.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// The positions to visit. Default: the whole ring.
    pub range: Range,
    /// Go on after this position and key, as after the last item of an earlier scan. Default: from
    /// the beginning.
    pub after: Option<(Position, String)>,
    /// Leave the documents' bytes out. Default: no.
    pub keys_only: bool,
    /// The most documents in a page. Default: as many as the shard gives, which ends a page when its
    /// bytes or its documents are many.
    pub page: u32,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { range: Range::FULL, after: None, keys_only: false, page: u32::MAX }
    }
}

/// A scan under way: an iterator over items, to be awaited.
pub struct Scan {
    client: Client,
    index: String,
    options: ScanOptions,
    /// Where the next page begins; at the end of the range when all is seen.
    start: u32,
    items: VecDeque<Item>,
}

impl Client {
    /// Begins a scan over an index; nothing is sent yet.
    ///
    /// # Errors
    /// When the name is none that an index may have.
    pub fn scan(&self, index: &str, options: ScanOptions) -> Result<Scan, Error> {
        name::check_index(index)?;
        let after = options.after.as_ref().map_or(0, |(position, _)| position.0);
        let start = options.range.start.max(after);
        let (client, index) = (self.clone(), index.to_owned());
        Ok(Scan { client, index, options, start, items: VecDeque::new() })
    }

    /// Begins a scan over the keys of an index, without their documents.
    ///
    /// # Errors
    /// As [`Client::scan`].
    pub fn keys(&self, index: &str) -> Result<Scan, Error> {
        self.scan(index, ScanOptions { keys_only: true, ..ScanOptions::default() })
    }
}

impl Scan {
    /// The next item; `None` at the end. After an error the same item is tried again.
    ///
    /// # Errors
    /// As [`Client::read`]; the deadline is for each page.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            match self.next_page().await? {
                Some(items) => self.items = items.into(),
                None => return Ok(None),
            }
        }
    }

    /// Where the next page begins: a position, and the last key that was seen there, if any.
    pub(crate) fn place(&self) -> (u32, Option<(Position, String)>) {
        (self.start, self.options.after.clone())
    }

    /// The next page, never empty; `None` at the end.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<Item>>, Error> {
        if !self.items.is_empty() {
            return Ok(Some(std::mem::take(&mut self.items).into()));
        }
        while self.start < self.options.range.end.min(RING_SIZE) {
            let call = self.client.call_of("scan", &self.index, "", false);
            let (start, end) = (self.start, self.options.range.end);
            let after = self.options.after.as_ref();
            let mut range = Range { start, end };
            let operation = |topology: &Topology| {
                let owned = topology.owner(Position(start)).map_or(end, |(owned, _)| owned.end);
                range.end = owned.min(end);
                ShardOperation::Scan(message::Scan {
                    index: &self.index,
                    range,
                    after: after.map(|(position, key)| Cursor { position: *position, key }),
                    limit: self.options.page.max(1),
                    keys_only: self.options.keys_only,
                })
            };
            let target = Target::Position(Position(start));
            let page = match self.client.cache.ask_shard(&call, target, operation).await? {
                ShardReply::Page(page) => page,
                other => {
                    return Err(unexpected(self.client.node_of(Position(start)), &other));
                }
            };
            match page.items.last() {
                Some(last) if page.more => {
                    self.start = last.document.position.0;
                    self.options.after = Some((last.document.position, last.key.clone()));
                }
                None if page.more => {
                    let what = "an empty page is not the last: the scan cannot go on".to_owned();
                    return Err(Error::Protocol {
                        node: self.client.node_of(Position(start)),
                        what,
                    });
                }
                _ => {
                    self.start = range.end;
                    self.options.after = None;
                }
            }
            if !page.items.is_empty() {
                return Ok(Some(page.items));
            }
        }
        Ok(None)
    }
}
