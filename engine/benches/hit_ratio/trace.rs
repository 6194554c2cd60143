//! The accesses, the same for all.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Arguments, KEY_BYTES};

/// Of so many accesses one is of the scan, where there is one.
const SCAN_EVERY: usize = 4;

/// What is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Keys by a Zipf distribution.
    Zipf,
    /// Three quarters of that; the others are of keys that come only once, one after another.
    Scan,
}

impl Mix {
    pub(crate) const ALL: [Self; 2] = [Self::Zipf, Self::Scan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zipf => "Zipf(0.99)",
            Self::Scan => "scan-heavy",
        }
    }
}

/// Numbers of keys, in the order of their accesses.
pub(crate) struct Trace {
    pub(crate) accesses: Vec<u32>,
    /// All numbers are lower.
    pub(crate) numbers: usize,
}

impl Trace {
    pub(crate) fn draw(mix: Mix, arguments: &Arguments) -> Self {
        println!("{}: {} accesses, seed {}", mix.name(), arguments.accesses, arguments.seed);
        let mut rng = StdRng::seed_from_u64(arguments.seed);
        let zipf = Zipf::new(arguments.keys, 0.99);
        let mut next_of_scan = arguments.keys;
        let accesses = (0..arguments.accesses).map(|i| {
            if mix == Mix::Scan && i % SCAN_EVERY == SCAN_EVERY - 1 {
                next_of_scan += 1;
                next_of_scan - 1
            } else {
                zipf.draw(&mut rng)
            }
        });
        let accesses = accesses.collect();
        Self { accesses, numbers: next_of_scan as usize }
    }
}

struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=keys).map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        });
        Self(cumulated.collect())
    }

    /// A rank, from 0.
    fn draw(&self, rng: &mut StdRng) -> u32 {
        let drawn = rng.random::<f64>() * self.0[self.0.len() - 1];
        self.0.partition_point(|&sum| sum < drawn).min(self.0.len() - 1) as u32
    }
}

/// The key of a number: those of neighbours are no neighbours (the finalizer of `SplitMix64`,
/// Steele, Lea and Flood, which gives no two numbers the same).
pub(crate) fn scramble(number: u32) -> u64 {
    let mut hash = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

pub(crate) fn key(number: u32) -> [u8; KEY_BYTES] {
    let hash = scramble(number);
    std::array::from_fn(|place| b"0123456789abcdef"[(hash >> (60 - 4 * place)) as usize & 0xf])
}
