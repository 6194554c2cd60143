//! What the pages of a range are known to show of the source's log.
//!
//! A page is read after the log had come so far, and shows all up to there. So what the log says of the
//! page's documents up to there need not be stored once more, which for a range that is written to all over is
//! half of what the log has to say by the time that all pages have come.

/// Up to which LSN pages show what became of their documents: in memory alone, for without it all is stored
/// that the log says, and comes to the same.
#[derive(Default)]
pub(super) struct Shown {
    /// By place, and by LSN.
    marks: Vec<Mark>,
}

/// The pages behind a place show all up to an LSN, at least.
struct Mark {
    index: u32,
    /// `None` for the whole index.
    after: Option<u32>,
    lsn: u64,
}

impl Shown {
    /// Notes that the page of an index after a position, and those to come, are read when everything up to
    /// an LSN was done.
    pub(super) fn note(&mut self, index: u32, after: Option<u32>, lsn: u64) {
        // A page that could not be imported is asked for again, and the next one may begin before it did.
        while self.marks.pop_if(|mark| (mark.index, mark.after) >= (index, after)).is_some() {}
        self.marks.push(Mark { index, after, lsn });
    }

    /// Whether a page has shown what becomes of a position's documents up to an LSN.
    pub(super) fn covers(&self, index: u32, position: u32, lsn: u64) -> bool {
        // Of the position behind which a page begins, some documents came with the page before it.
        let is_before = |mark: &Mark| {
            mark.index < index
                || mark.index == index && mark.after.is_none_or(|after| after < position)
        };
        let before = self.marks.partition_point(is_before);
        before.checked_sub(1).is_some_and(|last| self.marks[last].lsn >= lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_show_what_was_done_before_they_were_asked_for() {
        let mut shown = Shown::default();
        assert!(!shown.covers(1, 0, 0));
        shown.note(1, Some(10), 100);
        shown.note(1, Some(20), 200);
        shown.note(3, None, 300);
        for (index, position, lsn) in
            [(1, 10, 0), (1, 20, 100), (1, 21, 200), (2, 0, 200), (3, 0, 300), (9, 9, 300)]
        {
            assert!(lsn == 0 || shown.covers(index, position, lsn), "{index} {position}");
            assert!(!shown.covers(index, position, lsn + 1), "{index} {position}");
        }
        shown.note(1, Some(15), 400);
        assert!(shown.covers(1, 16, 400) && !shown.covers(1, 15, 200));
        assert_eq!(shown.marks.len(), 2);
    }
}
