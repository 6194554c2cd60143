//! A buffered reader with a checksum of the bytes that were taken from it, by which an input is known
//! again that is read a second time.

use std::io::{self, BufRead, BufReader, Read};

/// Reads ahead, and sums up what is taken: a buffer as a whole, for line by line it takes longer.
pub(super) struct Summed<R> {
    input: R,
    buffer: Vec<u8>,
    /// Of the buffer: what is summed up, what is taken, and what was read. Each is at most the next.
    summed: usize,
    taken: usize,
    read: usize,
    crc32: crc32fast::Hasher,
}

impl<R: Read> Summed<R> {
    /// Reads what `input` has left, as much at a time as it did.
    pub(super) fn new(input: BufReader<R>) -> Self {
        let capacity = input.capacity().max(1);
        let mut buffer = input.buffer().to_vec();
        let read = buffer.len();
        buffer.resize(capacity.max(read), 0);
        let (input, crc32) = (input.into_inner(), crc32fast::Hasher::new());
        Self { input, buffer, summed: 0, taken: 0, read, crc32 }
    }

    /// What has been read, and not taken.
    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer[self.taken..self.read]
    }

    /// The CRC-32 of all bytes that were taken.
    pub(super) fn crc32(&mut self) -> u32 {
        self.sum_up();
        self.crc32.clone().finalize()
    }

    fn sum_up(&mut self) {
        self.crc32.update(&self.buffer[self.summed..self.taken]);
        self.summed = self.taken;
    }
}

impl<R: Read> BufRead for Summed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.read {
            self.sum_up();
            (self.summed, self.taken, self.read) = (0, 0, 0);
            self.read = self.input.read(&mut self.buffer)?;
        }
        Ok(self.buffer())
    }

    fn consume(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.read);
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let count = bytes.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_summed_up_however_it_is_read() {
        let all: Vec<u8> = (0..10_000u32).flat_map(u32::to_be_bytes).collect();
        for capacity in [1, 7, 4096, 1 << 20] {
            let mut input = BufReader::with_capacity(capacity, &all[..]);
            // What it had read already is not lost.
            _ = input.fill_buf().unwrap();
            let mut summed = Summed::new(input);
            assert_eq!(summed.crc32(), crc32fast::hash(b""));
            let mut offset = 0;
            while offset < all.len() {
                let mut line = Vec::new();
                offset += (&mut summed).take(33).read_until(200, &mut line).unwrap();
                assert!(all[..offset].ends_with(&line));
                if offset % 5 == 0 {
                    assert_eq!(summed.crc32(), crc32fast::hash(&all[..offset]), "{offset}");
                }
                offset += io::copy(&mut (&mut summed).take(10), &mut io::sink()).unwrap() as usize;
            }
            assert_eq!(summed.crc32(), crc32fast::hash(&all));
        }
    }
}
