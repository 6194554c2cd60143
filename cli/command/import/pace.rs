//! How fast an import may go.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::Point;
use crate::units::parse_size;

/// How much may be read in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    Rows(u64),
    Bytes(u64),
}

pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let rate = match text.trim().parse() {
        Ok(rows) => Rate::Rows(rows),
        Err(_) => Rate::Bytes(parse_size(text)?),
    };
    match rate {
        Rate::Rows(0) | Rate::Bytes(0) => Err("at that rate it would never end".to_owned()),
        rate => Ok(rate),
    }
}

/// Keeps to a rate.
pub(super) struct Pace {
    rate: Option<Rate>,
    began: Instant,
    /// Rows or bytes since then.
    taken: u64,
    place: Point,
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>, place: Point) -> Self {
        Self { rate, began: Instant::now(), taken: 0, place }
    }

    /// Waits until a batch that ends there may be sent.
    pub(super) async fn wait(&mut self, end: Point) {
        let before = std::mem::replace(&mut self.place, end);
        let Some(rate) = self.rate else { return };
        let is_same = before.input == end.input;
        let since = |of_end: u64, of_before: u64| if is_same { of_end - of_before } else { of_end };
        let a_second = match rate {
            Rate::Rows(rows) => {
                self.taken += since(end.place.row, before.place.row);
                rows
            }
            Rate::Bytes(bytes) => {
                self.taken += since(end.place.offset, before.place.offset);
                bytes
            }
        };
        let due = Duration::from_secs_f64(self.taken as f64 / a_second as f64);
        tokio::time::sleep_until(self.began + due).await;
    }
}
