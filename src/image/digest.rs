//! Content digests (image-spec, descriptor.md "Digests"): `sha256:…` and `sha512:…`, and the hasher
//! that computes them while bytes pass. A `Digest` that exists is well-formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A registered digest algorithm that `mirror` can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon, and as the directory under `blobs/`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub fn len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// No algorithm has an empty hash; here for symmetry with `len`.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The algorithm of that name, if it is one that can be verified.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Algorithm::Sha256),
            "sha512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }
}

/// The digest of some content. Ordered as its text is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("{0:?} is not a digest: expected ALGORITHM:HEX")]
    Form(String),
    #[error("digest algorithm {0:?} is not supported: sha256 and sha512 are")]
    Algorithm(String),
    #[error("{0:?} is not a digest: expected {1} lower-case hexadecimal digits after the colon")]
    Hex(String, usize),
}

impl Digest {
    /// The digest of bytes held in memory.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The sha256 digest of bytes held in memory.
    pub fn sha256(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon: lower-case hexadecimal.
    pub fn hex(&self) -> String {
        hex::encode(&self.bytes[..self.algorithm.len()])
    }

    /// Path of the blob in an OCI image layout: `blobs/sha256/…`. Safe to join to a directory.
    pub fn blob_path(&self) -> String {
        format!("blobs/{}/{}", self.algorithm.name(), self.hex())
    }

    /// The tag under which the referrers tag schema (distribution-spec) keeps an index: `sha256-…`.
    pub fn referrers_tag(&self) -> String {
        // A tag has 128 characters at most; the specification cuts there.
        let mut tag = format!("{}-{}", self.algorithm.name(), self.hex());
        tag.truncate(128);
        tag
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let short: String = text.chars().take(160).collect();
        let Some((name, digits)) = text.split_once(':') else {
            return Err(DigestError::Form(short));
        };
        let Some(algorithm) = Algorithm::from_name(name) else {
            return Err(DigestError::Algorithm(name.chars().take(40).collect()));
        };
        let length = algorithm.len();
        let lower = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut bytes = [0u8; 64];
        if !lower || digits.len() != 2 * length || hex::decode_to_slice(digits, &mut bytes[..length]).is_err() {
            return Err(DigestError::Hex(short, 2 * length));
        }
        Ok(Digest { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes bytes as they pass.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Box<sha2::Sha256>),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(Box::default()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(h) => h.update(bytes),
            State::Sha512(h) => h.update(bytes),
        }
    }

    /// As `update` with so many zeros.
    pub fn zeros(&mut self, mut count: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let n = count.min(ZEROS.len() as u64);
            self.update(&ZEROS[..n as usize]);
            count -= n;
        }
    }

    pub fn finish(self) -> Digest {
        let mut bytes = [0u8; 64];
        let algorithm = match self.0 {
            State::Sha256(h) => {
                bytes[..32].copy_from_slice(&h.finalize());
                Algorithm::Sha256
            }
            State::Sha512(h) => {
                bytes.copy_from_slice(&h.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let d = Digest::sha256(b"{}");
        assert_eq!(d.to_string(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        let d = Digest::of(Algorithm::Sha512, b"");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        for bad in ["", "sha256", "sha256:", "sha256:ABCD", "md5:00", "sha256:../../etc", "sha512:00"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = Digest::sha256(b"").to_string().to_uppercase().replace("SHA", "sha");
        assert!(upper.parse::<Digest>().is_err());
    }
}
