//! An archive in several files of a fixed size: `sync-45.tar.001`, `sync-45.tar.002`, … and
//! `sync-45.tar.volumes.json`, which says what they are. Put together in order they are the archive.

pub mod listing;
pub mod pattern;
pub mod reader;
pub mod writer;

pub use listing::Listing;

/// Sizes that people call by the name of the medium, in bytes.
const NAMED: [(&str, u64); 4] = [
    // What the smaller of the DVD formats holds, less 10 MB for its file system.
    ("dvd", 4_690_000_000),
    ("bd25", 25_000_000_000),
    ("bd50", 50_000_000_000),
    // The largest file that FAT32 takes, in whole sectors.
    ("fat32", (4 << 30) - 512),
];
/// A volume has at least this many bytes: the number of volumes stays sensible.
const SMALLEST: u64 = 4096;

/// Reads `4.3GiB`, `dvd`, `bd25`, `bd50`, `fat32`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    if let Some((_, size)) = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim())) {
        return Ok(*size);
    }
    match crate::image::size::parse(text) {
        Ok(size) if size < SMALLEST => Err(format!("a volume has at least {SMALLEST} bytes")),
        Ok(size) => Ok(size),
        Err(e) => Err(format!("{e}; dvd, bd25, bd50 and fat32 are known too")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_names() {
        assert_eq!(parse_size("fat32"), Ok(4_294_966_784));
        assert_eq!(parse_size("DVD"), Ok(4_690_000_000));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert!(parse_size("100").is_err());
        assert!(parse_size("floppy").is_err_and(|e| e.contains("fat32")));
    }
}
