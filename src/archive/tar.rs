//! Tar headers: the exact bytes that the archive format has, and a strict reader of what others write
//! (ustar, PAX `path` and `size`, GNU long names). A header that is read was checked by its checksum; a
//! name is only a name, never a path on this machine.

/// Everything in a tar is a multiple of this many bytes.
pub const BLOCK: usize = 512;
/// Two blocks of zeros end an archive.
pub const TRAILER: usize = 2 * BLOCK;
/// Size that a ustar header cannot hold any more: 8 GiB.
const USTAR_LIMIT: u64 = 8 << 30;
/// Largest PAX header or long name that is read.
pub const MAX_EXTENSION: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// A link, device or anything else that holds no content of its own.
    Other,
}

/// `size` rounded up to whole blocks.
pub fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
}

/// The header of an entry, with a PAX header before it where ustar does not suffice.
pub fn header(name: &str, size: u64, directory: bool) -> Vec<u8> {
    let mut records = String::new();
    if name.len() > 100 {
        records += &pax_record("path", name);
    }
    if size >= USTAR_LIMIT {
        records += &pax_record("size", &size.to_string());
    }
    let mut out = Vec::with_capacity(3 * BLOCK);
    if !records.is_empty() {
        let (parent, base) = name.rsplit_once('/').unwrap_or(("", name));
        let slash = if parent.is_empty() { "" } else { "/" };
        let pax_name = format!("{parent}{slash}PaxHeaders.0/{base}");
        out.extend_from_slice(&ustar(&pax_name, records.len() as u64, b'x', "0000000"));
        out.extend_from_slice(records.as_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    let (kind, mode) = if directory { (b'5', "0000777") } else { (b'0', "0000666") };
    out.extend_from_slice(&ustar(name, if size >= USTAR_LIMIT { 0 } else { size }, kind, mode));
    out
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn ustar(name: &str, size: u64, kind: u8, mode: &str) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, mode.as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    if kind != b'x' {
        put(329, b"0000000");
        put(337, b"0000000");
    }
    put(148, b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Why bytes are not a tar that can be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TarError {
    #[error("no tar header there: its checksum is wrong")]
    Checksum,
    #[error("the tar header there is damaged: {0}")]
    Header(&'static str),
    #[error("the extended tar header there is damaged: {0}")]
    Extension(&'static str),
    #[error("the extended tar header there has {0} bytes, more than any that is used")]
    ExtensionSize(u64),
    #[error("there is a sparse file, which holds no blob as it is: write the archive without --sparse")]
    Sparse,
}

/// One block, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// A block of zeros: part of a trailer or of padding.
    Zeros,
    /// `size` bytes follow that must be given to [`Headers::extension`].
    Extension { kind: u8, size: u64 },
    /// An entry whose `size` bytes follow, padded to whole blocks.
    Entry { name: String, size: u64, kind: Kind },
}

/// Reads headers in their order; keeps what an extended header says of the next entry.
#[derive(Debug, Default)]
pub struct Headers {
    path: Option<String>,
    size: Option<u64>,
}

impl Headers {
    /// Understands the next header block.
    pub fn block(&mut self, block: &[u8; BLOCK]) -> Result<Header, TarError> {
        if block.iter().all(|b| *b == 0) {
            return Ok(Header::Zeros);
        }
        let claimed = octal(&block[148..156]).ok_or(TarError::Checksum)?;
        let byte = |i: usize| if (148..156).contains(&i) { b' ' } else { block[i] };
        let unsigned: i64 = (0..BLOCK).map(|i| i64::from(byte(i))).sum();
        let signed: i64 = (0..BLOCK).map(|i| i64::from(byte(i) as i8)).sum();
        if claimed as i64 != unsigned && claimed as i64 != signed {
            return Err(TarError::Checksum);
        }
        let size = number(&block[124..136]).ok_or(TarError::Header("its size is not a number"))?;
        let kind = block[156];
        match kind {
            b'x' | b'g' | b'L' | b'K' => {
                if size > MAX_EXTENSION {
                    return Err(TarError::ExtensionSize(size));
                }
                return Ok(Header::Extension { kind, size });
            }
            b'S' => return Err(TarError::Sparse),
            _ => {}
        }
        let size = self.size.take().unwrap_or(size);
        let name = match self.path.take() {
            Some(name) => name,
            None => {
                let name = text(&block[..100]);
                let prefix = if block[257..263] == *b"ustar\0" { text(&block[345..500]) } else { String::new() };
                if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
            }
        };
        if padded(size).is_none_or(|s| s > i64::MAX as u64) {
            return Err(TarError::Header("its size is impossible"));
        }
        let kind = match kind {
            b'0' | 0 | b'7' if name.ends_with('/') => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'5' => Kind::Directory,
            _ => Kind::Other,
        };
        // Links may carry the size of what they point to, and no bytes.
        let size = if kind == Kind::Other && matches!(block[156], b'1'..=b'6') { 0 } else { size };
        Ok(Header::Entry { name, size, kind })
    }

    /// Takes the body of an extended header.
    pub fn extension(&mut self, kind: u8, body: &[u8]) -> Result<(), TarError> {
        match kind {
            b'L' => self.path = Some(text(body)),
            b'x' => self.pax(body)?,
            _ => {}
        }
        Ok(())
    }

    fn pax(&mut self, mut body: &[u8]) -> Result<(), TarError> {
        let bad = TarError::Extension;
        while !body.is_empty() && body[0] != 0 {
            let space = body.iter().take(8).position(|b| *b == b' ').ok_or(bad("a record has no length"))?;
            let length = std::str::from_utf8(&body[..space]).ok().and_then(|t| t.parse::<usize>().ok());
            let length = length.filter(|l| *l > space + 1 && *l <= body.len()).ok_or(bad("a length is wrong"))?;
            let record = body[space + 1..length].strip_suffix(b"\n").ok_or(bad("a record does not end"))?;
            body = &body[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or(bad("a record has no value"))?;
            let value = String::from_utf8_lossy(&record[equals + 1..]).into_owned();
            match &record[..equals] {
                b"path" => self.path = Some(value),
                b"size" => self.size = Some(value.parse().map_err(|_| bad("a size is not a number"))?),
                key if key.starts_with(b"GNU.sparse.") => return Err(TarError::Sparse),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A field up to its NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(field).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Octal digits, or GNU's base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    if field[0] != 0x80 {
        return None;
    }
    field[1..].iter().try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (String, u64, Kind) {
        let mut headers = Headers::default();
        let mut blocks = bytes.as_chunks::<BLOCK>().0.iter();
        while let Some(block) = blocks.next() {
            match headers.block(block).unwrap() {
                Header::Extension { kind, size } => {
                    let body: Vec<u8> = (0..size.div_ceil(512)).flat_map(|_| *blocks.next().unwrap()).collect();
                    headers.extension(kind, &body[..size as usize]).unwrap();
                }
                Header::Entry { name, size, kind } => return (name, size, kind),
                Header::Zeros => panic!("zeros"),
            }
        }
        panic!("no entry")
    }

    #[test]
    fn what_is_written_is_read() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        for (name, size) in [("index.json", 5), (long.as_str(), 7), ("x", 8 << 30), (long.as_str(), 1 << 40)] {
            assert_eq!(read(&header(name, size, false)), (name.to_owned(), size, Kind::File));
        }
        assert_eq!(read(&header("blobs", 0, true)), ("blobs".into(), 0, Kind::Directory));
    }

    #[test]
    fn eight_gibibytes_need_a_pax_header() {
        assert_eq!(header("a/b", (8 << 30) - 1, false).len(), 512);
        let bytes = header("a/b", 8 << 30, false);
        assert_eq!(bytes.len(), 3 * 512);
        assert!(bytes.starts_with(b"a/PaxHeaders.0/b\0"));
        assert!(bytes[512..].starts_with(b"19 size=8589934592\n"));
        assert_eq!(&bytes[1024 + 124..1024 + 136], b"00000000000\0");
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let bytes = header("index.json", 5, false);
        for i in (0..BLOCK).filter(|i| *i != 155 && *i != 154) {
            let mut block: [u8; BLOCK] = bytes.clone().try_into().unwrap();
            block[i] ^= 1;
            assert!(Headers::default().block(&block).is_err(), "byte {i}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_extension_is_survived(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Headers::default().extension(b'x', &body);
            let _ = Headers::default().extension(b'L', &body);
        }
    }
}
