//! Patterns that people write for the volumes of an archive: `sync-45.tar.0*`, `/media/*/sync-45.tar.*`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::listing::archive_of;

/// What makes a name a pattern.
pub const WILD: [char; 3] = ['*', '?', '['];

/// The archive that the files which match belong to, by its path in each directory that has some of them. Empty: it is no
/// pattern, or nothing that matches is a volume or a listing. Fails where they belong to archives of several names.
pub fn archives(pattern: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let Some(text) = pattern.to_str().filter(|text| text.contains(WILD) && !pattern.exists()) else {
        return Ok(BTreeSet::new());
    };
    let options = glob::MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..glob::MatchOptions::new()
    };
    let matching = glob::glob_with(text, options)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("it is no pattern: {e}")))?;
    let mut archives = BTreeSet::new();
    for path in matching {
        archives.extend(archive_of(&path.map_err(io::Error::from)?).map(|(archive, _)| archive));
    }
    let names: BTreeSet<_> = archives.iter().filter_map(|archive| archive.file_name()).collect();
    if names.len() > 1 {
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        let what = format!("volumes of several archives match ({}): name one of them", names.join(", "));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(archives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_match_belong_to_one_archive() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for disk in ["disk1", "disk2", "disk3"] {
            std::fs::create_dir(at(disk)).unwrap();
        }
        for name in ["disk1/a.tar.001", "disk1/a.tar.volumes.json", "disk2/a.tar.002", "disk2/a.tar", "disk3/b.tar.001"]
        {
            std::fs::write(at(name), "").unwrap();
        }
        let found = |pattern: &str| archives(&at(pattern)).map(|found| found.into_iter().collect::<Vec<_>>());
        assert_eq!(found("disk1/a.tar.0*").unwrap(), [at("disk1/a.tar")]);
        assert_eq!(found("disk1/a*").unwrap(), [at("disk1/a.tar")]);
        assert_eq!(found("disk[12]/a.tar.00?").unwrap(), [at("disk1/a.tar"), at("disk2/a.tar")]);
        assert_eq!(found("disk?/a.*").unwrap(), [at("disk1/a.tar"), at("disk2/a.tar")]);
        assert!(found("*/*.001").unwrap_err().to_string().contains("(a.tar, b.tar)"));
        assert!(found("disk1/a.tar.[").unwrap_err().to_string().contains("it is no pattern"));
        for nothing in ["disk1/a.tar.001", "disk9/*", "disk2/*.tar"] {
            assert!(found(nothing).unwrap().is_empty(), "{nothing}");
        }
    }
}
