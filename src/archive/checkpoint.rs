//! The ledger of a run: one line of JSON for each blob whose bytes are on the medium, with the length of the
//! archive up to its end. A later run reads it, and leaves out what is surely there.

use std::path::PathBuf;

use crate::image::{Descriptor, Digest, annotation};

/// A ledger, and how much of what it tells of is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub file: PathBuf,
    /// Bytes of that part of the archive that surely reached the medium.
    pub offset: u64,
}

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct CheckpointError {
    pub line: usize,
    pub reason: String,
}

/// The line of a blob that ends at `offset`, newline included.
pub fn line(descriptor: &Descriptor, offset: u64) -> serde_json::Result<Vec<u8>> {
    let mut descriptor = descriptor.clone();
    descriptor.annotations.insert(annotation::OFFSET.into(), offset.to_string());
    let mut line = crate::image::go_json::compact(&descriptor)?;
    line.push(b'\n');
    Ok(line)
}

/// What ended before `offset` bytes. A last line that was cut is passed over.
pub fn before(ledger: &[u8], offset: u64) -> Result<Vec<Digest>, CheckpointError> {
    let mut found = Vec::new();
    if offset == 0 {
        return Ok(found);
    }
    for (at, text) in ledger.split_inclusive(|b| *b == b'\n').enumerate() {
        let bad = |reason: String| CheckpointError { line: at + 1, reason };
        if text.trim_ascii().is_empty() {
            continue;
        }
        let descriptor: Descriptor = match serde_json::from_slice(text) {
            Ok(descriptor) => descriptor,
            Err(_) if !text.ends_with(b"\n") => break,
            Err(e) => return Err(bad(format!("it is no descriptor: {e}"))),
        };
        let end = descriptor.annotation(annotation::OFFSET).and_then(|text| text.parse::<u64>().ok());
        if end.ok_or_else(|| bad(format!("it has no number as {}", annotation::OFFSET)))? >= offset {
            break;
        }
        found.push(descriptor.digest);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Vec<u8> {
        let blob = |b: &[u8]| Descriptor::new("x", Digest::sha256(b), 1);
        [line(&blob(b"a"), 1024).unwrap(), line(&blob(b"b"), 2048).unwrap(), line(&blob(b"c"), 3072).unwrap()].concat()
    }

    #[test]
    fn only_what_ended_before_is_believed() {
        let count = |offset| before(&ledger(), offset).unwrap().len();
        assert_eq!([count(0), count(1024), count(1025), count(2049), count(9999)], [0, 0, 1, 2, 3]);
    }

    #[test]
    fn a_torn_last_line_is_no_error_and_a_torn_line_within_is() {
        let whole = ledger();
        for cut in 0..whole.len() {
            before(&whole[..cut], 9999).unwrap();
        }
        let mut bad = whole.clone();
        bad[0] = b'?';
        assert_eq!(before(&bad, 9999).unwrap_err().line, 1);
        assert!(before(b"{\"digest\":\"sha256:0\"}\n", 5).is_err());
    }
}
