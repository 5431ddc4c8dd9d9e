//! The names of archives in a batch directory: `000001-tools.tar`, a number that counts all archives of the
//! directory and the name of the image. The name becomes a tag on the high side, so it is one.

use std::fmt;
use std::str::FromStr;

use crate::archive::Compression;
use crate::image::reference::is_tag;
use crate::store::error::printable;

/// Numbers have no more digits than this.
const MAX_DIGITS: usize = 18;

/// The name of one archive. Ordered by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncName {
    pub number: u64,
    /// What the batch list calls the image.
    pub name: String,
    /// What comes after the name: `.tar`, `.tar.zst` or `.tar.gz`.
    suffix: &'static str,
}

/// The longest come first: each of them ends a name, and only one fits.
const SUFFIXES: [&str; 3] = [".tar.zst", ".tar.gz", ".tar"];

impl SyncName {
    pub fn new(number: u64, name: &str, compression: Option<Compression>) -> Self {
        let suffix = match compression {
            None => ".tar",
            Some(Compression::Zstd) => ".tar.zst",
            Some(Compression::Gzip) => ".tar.gz",
        };
        SyncName { number, name: name.into(), suffix }
    }

    pub fn is_compressed(&self) -> bool {
        self.suffix != ".tar"
    }

    /// Whether a file of that name is meant to be an archive, whatever else is wrong with its name.
    pub fn is_archive(file: &str) -> bool {
        SUFFIXES.iter().any(|suffix| file.ends_with(suffix))
    }
}

impl fmt::Display for SyncName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{}{}", self.number, self.name, self.suffix)
    }
}

impl FromStr for SyncName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{}\" is not named as archives of a batch are, 000001-NAME.tar", printable(text));
        let (number, rest) = text.split_once('-').ok_or_else(bad)?;
        if number.is_empty() || number.len() > MAX_DIGITS || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let cut = SUFFIXES.iter().find_map(|suffix| Some((rest.strip_suffix(suffix)?, *suffix)));
        let (name, suffix) = cut.ok_or_else(bad)?;
        check(name)?;
        Ok(SyncName { number: number.parse().map_err(|_| bad())?, name: name.into(), suffix })
    }
}

/// Refuses a name that cannot be a tag.
pub fn check(name: &str) -> Result<(), String> {
    if is_tag(name) {
        return Ok(());
    }
    let name = printable(name);
    Err(format!("\"{name}\" cannot be a name: it becomes a tag (letters, digits, . _ -, at most 128)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for name in ["tools", "tools-v1.2", "a.b-c", "x.tar", "x.tar.gz", "_", "1-2-3"] {
            for compression in [None, Some(Compression::Zstd), Some(Compression::Gzip)] {
                let sync = SyncName::new(45, name, compression);
                assert_eq!(sync.to_string().parse::<SyncName>().unwrap(), sync);
            }
        }
        assert_eq!(SyncName::new(1, "tools", None).to_string(), "000001-tools.tar");
        assert_eq!(SyncName::new(1_234_567, "a.b", Some(Compression::Zstd)).to_string(), "1234567-a.b.tar.zst");
    }

    #[test]
    fn other_names_are_refused() {
        for bad in ["tools.tar", "000001tools.tar", "-tools.tar", "0x1-a.tar", "1-.tar", "1-a.tgz", "1-a b.tar", ""] {
            assert!(bad.parse::<SyncName>().is_err(), "{bad}");
        }
        assert!(format!("1-{}.tar", "a".repeat(129)).parse::<SyncName>().is_err());
        assert!("9999999999999999999999-a.tar".parse::<SyncName>().is_err());
        assert!("1-../a.tar".parse::<SyncName>().is_err());
    }

    #[test]
    fn numbers_order() {
        let mut names: Vec<SyncName> =
            ["1000000-a.tar", "000002-z.tar", "999999-b.tar"].iter().map(|n| n.parse().unwrap()).collect();
        names.sort();
        assert_eq!(names.iter().map(|n| n.number).collect::<Vec<_>>(), [2, 999_999, 1_000_000]);
    }
}
