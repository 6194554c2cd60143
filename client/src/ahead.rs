//! Scans that ask ahead: while a page is consumed, others are read and sent already.
//!
//! Where a page ends is where the next one begins, so the pages of a range come one after the other. For
//! several to be under way the range is cut into *pieces* of about a page each; how wide that is, the
//! pages before have shown. Each piece is a [`Scan`] of its own, and what is true of scans while
//! ranges move is true of all of them together. They come in ring order.
//!
//! A piece holds a page at most that nobody has asked for, however many documents it turns out to have. So
//! what is held is bounded by the number of pieces.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::client::Client;
use crate::error::Error;
use crate::reply::Item;
use crate::scan::{Scan, ScanOptions};

/// The bytes of keys and documents, and the documents, that a piece is to have. A shard ends a page at
/// 512 KiB and at 8192 documents: a piece that has a few more than expected is still one page.
const PIECE_BYTES: u64 = 448 << 10;
const PIECE_DOCUMENTS: u64 = 7 << 10;

/// How much wider a piece may be than the one before: what follows may be fuller.
const MAX_GROWTH: u64 = 4;

/// A scan that asks ahead.
pub struct Ahead {
    client: Client,
    index: String,
    options: ScanOptions,
    pages: usize,
    /// Where the next piece begins.
    start: u32,
    /// How wide it is to be; nothing before the first page.
    width: Option<u64>,
    pieces: VecDeque<Piece>,
    /// Why there is no going on.
    failed: Option<Error>,
}

/// A part of the range whose documents are asked for.
struct Piece {
    width: u64,
    /// Pages, and nothing at the end: a task that is gone is not taken for it.
    pages: mpsc::Receiver<Result<Option<Vec<Item>>, Error>>,
    task: AbortHandle,
    seen: Seen,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What came of a piece so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    documents: u64,
    bytes: u64,
}

impl Seen {
    fn add(&mut self, items: &[Item]) {
        let bytes = items.iter().map(|item| item.key.len() + item.document.bytes.len());
        self.documents += items.len() as u64;
        self.bytes += bytes.sum::<usize>() as u64;
    }

    /// How wide a piece has about a page, where one of `width` had this.
    fn next_width(self, width: u64, most_documents: u64) -> u64 {
        let of_bytes = (width * PIECE_BYTES).checked_div(self.bytes);
        let of_documents = (width * most_documents).checked_div(self.documents);
        let wanted = of_bytes.unwrap_or(u64::MAX).min(of_documents.unwrap_or(u64::MAX));
        wanted.clamp(1, width.saturating_mul(MAX_GROWTH).max(1))
    }
}

impl Client {
    /// Begins a scan that has up to `pages` pages on their way while one is consumed. Needs a tokio runtime
    /// of its own to go on in; it stops when it is dropped.
    ///
    /// # Errors
    /// When the name is none that an index may have.
    pub fn scan_ahead(
        &self,
        index: &str,
        options: ScanOptions,
        pages: usize,
    ) -> Result<Ahead, Error> {
        let start = self.scan(index, options.clone())?.place().0;
        Ok(Ahead {
            client: self.clone(),
            index: index.to_owned(),
            options,
            pages: pages.max(1),
            start,
            width: None,
            pieces: VecDeque::new(),
            failed: None,
        })
    }
}

impl Ahead {
    /// The next page, never empty; `None` at the end. Unlike a [`Scan`] it does not go on after an error:
    /// begin another one after the last item.
    ///
    /// # Errors
    /// As [`Scan::next_page`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<Item>>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let page = match self.width {
            None => self.first_page().await,
            Some(_) => self.page_of_pieces().await,
        };
        self.failed = page.as_ref().err().cloned();
        page
    }

    /// The page from which the width of pieces follows.
    async fn first_page(&mut self) -> Result<Option<Vec<Item>>, Error> {
        let mut scan = self.client.scan(&self.index, self.options.clone())?;
        let page = scan.next_page().await?;
        let begun = self.start;
        (self.start, self.options.after) = scan.place();
        let mut seen = Seen::default();
        seen.add(page.as_deref().unwrap_or_default());
        let width = u64::from(self.start.saturating_sub(begun)).max(1);
        self.width = Some(seen.next_width(width, self.piece_documents()));
        Ok(page)
    }

    async fn page_of_pieces(&mut self) -> Result<Option<Vec<Item>>, Error> {
        loop {
            self.ask()?;
            let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
            match piece.pages.recv().await {
                Some(Ok(Some(items))) => {
                    piece.seen.add(&items);
                    return Ok(Some(items));
                }
                Some(Ok(None)) => {
                    let (seen, width) = (piece.seen, piece.width);
                    self.width = Some(seen.next_width(width, self.piece_documents()));
                    self.pieces.pop_front();
                }
                Some(Err(error)) => return Err(error),
                None => {
                    let (node, reason) = ("a shard".to_owned(), "the scan was stopped".to_owned());
                    return Err(Error::NotSent { node, reason });
                }
            }
        }
    }

    /// Has as many pieces asked for as may be.
    fn ask(&mut self) -> Result<(), Error> {
        let end = self.options.range.end;
        while self.pieces.len() < self.pages && self.start < end {
            let width = self.width.unwrap_or(1).min(u64::from(end - self.start)) as u32;
            let mut options = self.options.clone();
            options.range.start = self.start;
            options.range.end = self.start + width;
            self.options.after = None;
            self.start += width;
            let scan = self.client.scan(&self.index, options)?;
            // A page is asked for when there is room for it.
            let (sender, pages) = mpsc::channel(1);
            let task = tokio::spawn(send_pages(scan, sender)).abort_handle();
            let (width, seen) = (u64::from(width), Seen::default());
            self.pieces.push_back(Piece { width, pages, task, seen });
        }
        Ok(())
    }

    fn piece_documents(&self) -> u64 {
        let of_page = u64::from(self.options.page);
        PIECE_DOCUMENTS.min(of_page - of_page / 8).max(1)
    }
}

async fn send_pages(mut scan: Scan, pages: mpsc::Sender<Result<Option<Vec<Item>>, Error>>) {
    loop {
        let Ok(room) = pages.reserve().await else { return };
        let page = scan.next_page().await;
        let is_last = !matches!(page, Ok(Some(_)));
        room.send(page);
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_as_wide_as_the_one_before_had_documents() {
        let width =
            |documents, bytes, width| Seen { documents, bytes }.next_width(width, PIECE_DOCUMENTS);
        assert_eq!(width(100, PIECE_BYTES, 1000), 1000);
        assert_eq!(width(100, PIECE_BYTES * 2, 1000), 500);
        assert_eq!(width(PIECE_DOCUMENTS * 5, PIECE_BYTES / 2, 1000), 200);
        assert_eq!(width(0, 0, 1000), 4000, "it does not jump");
        assert_eq!(width(1, u64::MAX, 1), 1, "and never ends");
        assert_eq!(width(0, 0, u64::from(u32::MAX)), 4 * u64::from(u32::MAX));
    }
}
