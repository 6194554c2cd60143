//! Exact LRU: a ring of the documents in the order of their last accesses.

use crate::Replayed;
use crate::trace::Trace;

/// Not in the ring.
const NOWHERE: u32 = u32::MAX;

struct Ring {
    /// Of each key, and last of the place between the newest and the oldest.
    older: Vec<u32>,
    newer: Vec<u32>,
}

impl Ring {
    fn new(numbers: usize) -> Self {
        let mut links = vec![NOWHERE; numbers + 1];
        links[numbers] = numbers as u32;
        Self { older: links.clone(), newer: links }
    }

    fn between(&self) -> u32 {
        self.older.len() as u32 - 1
    }

    fn holds(&self, number: u32) -> bool {
        self.older[number as usize] != NOWHERE
    }

    fn remove(&mut self, number: u32) {
        let (older, newer) = (self.older[number as usize], self.newer[number as usize]);
        self.newer[older as usize] = newer;
        self.older[newer as usize] = older;
        self.older[number as usize] = NOWHERE;
    }

    fn push(&mut self, number: u32) {
        let end = self.between();
        let newest = self.older[end as usize];
        self.older[number as usize] = newest;
        self.newer[number as usize] = end;
        self.newer[newest as usize] = number;
        self.older[end as usize] = number;
    }

    fn oldest(&self) -> u32 {
        self.newer[self.between() as usize]
    }
}

pub(crate) fn replay(trace: &Trace, documents: usize) -> Replayed {
    let mut ring = Ring::new(trace.numbers);
    let (mut held, mut hits) = (0, 0);
    for &number in &trace.accesses {
        if ring.holds(number) {
            hits += 1;
            ring.remove(number);
        } else if held == documents {
            ring.remove(ring.oldest());
        } else {
            held += 1;
        }
        ring.push(number);
    }
    Replayed { hits, documents: held as f64, bytes: 8.0 }
}
