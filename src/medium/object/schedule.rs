//! How an archive is cut into parts: of one size, but for the last, because some stores want it so.

/// Fewest bytes of a part; a store wants 5 MiB at least.
const SMALLEST: u64 = 8 << 20;
/// A store takes so many parts.
const MOST: u64 = 10_000;
/// Sizes are whole mebibytes.
const GRAIN: u64 = 1 << 20;
/// Bytes that are on their way at once, about, and the most parts.
const MEMORY: u64 = 256 << 20;
const IN_FLIGHT: u64 = 4;

/// Size of the parts of an archive of so many bytes. Compressed, it may grow a little.
pub fn part_size(length: u64, compressed: bool) -> u64 {
    let bound = if compressed { length + length / 64 + GRAIN } else { length };
    bound.div_ceil(MOST).next_multiple_of(GRAIN).max(SMALLEST)
}

/// How many parts are sent at once.
pub fn in_flight(part_size: u64) -> usize {
    (MEMORY / part_size).clamp(1, IN_FLIGHT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_archive_has_parts_enough() {
        for length in [0, 1, 80 << 30, (80 << 30) + 1, 1 << 40, 40 << 40] {
            for compressed in [false, true] {
                let size = part_size(length, compressed);
                assert!(size >= SMALLEST && length.div_ceil(size) <= MOST, "{length}");
                assert!(in_flight(size) >= 1);
                assert!(in_flight(size) == 1 || size * in_flight(size) as u64 <= MEMORY);
            }
        }
        assert_eq!((part_size(1 << 30, false), in_flight(8 << 20)), (8 << 20, 4));
    }
}
