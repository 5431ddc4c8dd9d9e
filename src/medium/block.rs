//! Blocks for devices: memory that begins at a page, so that a driver writes it as it lies, and says at
//! once what became of it. (The tape driver copies any other memory, and reports its loss one call late.)

/// Bytes of a page; a multiple of the page size of every machine that this runs on does no harm.
const PAGE: usize = 4096;

/// Memory of a fixed capacity, filled from its start.
pub struct Block {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl Block {
    /// An empty block for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + PAGE];
        // In theory there may be no such offset; then the block lies anywhere, and is only slower.
        let start = match memory.as_ptr().align_offset(PAGE) {
            offset if offset <= PAGE => offset,
            _ => 0,
        };
        Block { memory, start, capacity, filled: 0 }
    }

    /// The bytes that are in it.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// All of its memory, for a reader; [`Self::set_len`] tells how much was read.
    pub fn memory(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.capacity]
    }

    /// Takes the first `length` bytes of the memory for its content; never more than its capacity.
    pub fn set_len(&mut self, length: usize) {
        self.filled = length.min(self.capacity);
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Takes as many of `bytes` as there is room for; gives their number.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.capacity - self.filled);
        let at = self.start + self.filled;
        self.memory[at..at + n].copy_from_slice(&bytes[..n]);
        self.filled += n;
        n
    }

    /// Fills the rest with zeros.
    pub fn pad(&mut self) {
        let (from, to) = (self.start + self.filled, self.start + self.capacity);
        self.memory[from..to].fill(0);
        self.filled = self.capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_filled_piece_by_piece_and_padded_with_zeros() {
        let mut block = Block::new(10);
        assert_eq!((block.fill(b"abc"), block.fill(b"defghijklm")), (3, 7));
        assert!(block.is_full());
        assert_eq!(block.bytes(), b"abcdefghij");
        block.clear();
        block.fill(b"xy");
        block.pad();
        assert_eq!(block.bytes(), b"xy\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn lies_at_a_page() {
        for capacity in [512, 4096, 1 << 20] {
            assert_eq!(Block::new(capacity).bytes().as_ptr() as usize % PAGE, 0);
        }
    }
}
