//! An archive taken apart into its entries.

/// Name and whole bytes (headers, content, padding) of each entry; the trailer last.
pub fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    use airgap_mirror::archive::tar::{Header, Headers};
    let (mut headers, mut found, mut at, mut start) = (Headers::default(), Vec::new(), 0, 0);
    while at < archive.len() {
        match headers.block(archive[at..at + 512].try_into().unwrap()).unwrap() {
            Header::Zeros => break,
            Header::Extension { kind, size } => {
                headers.extension(kind, &archive[at + 512..at + 512 + size as usize]).unwrap();
                at += 512 + (size as usize).next_multiple_of(512);
            }
            Header::Entry { name, size, .. } => {
                at += 512 + (size as usize).next_multiple_of(512);
                found.push((name, archive[start..at].to_vec()));
                start = at;
            }
        }
    }
    found.push(("trailer".into(), archive[start..].to_vec()));
    found
}
