//! A part of an archive: sent, and compared with what the store says it stored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use serde::{Deserialize, Serialize};

use super::Object;
use crate::image::{Algorithm, Digest, Hasher};

/// How often a part is sent whose answer tells of other bytes.
const TRIES: u32 = 3;

/// What the store has of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its number, from 0.
    pub number: usize,
    pub size: u64,
    pub digest: Digest,
    /// MD5 of its bytes, which is what most stores call its ETag.
    pub md5: [u8; 16],
    /// The store's name for it.
    pub content_id: String,
    /// Whether the store's answer proved that it has these bytes.
    pub proved: bool,
}

/// A part that is being filled. Its bytes are hashed as they come.
pub struct Filling {
    pieces: Vec<Bytes>,
    size: u64,
    sha256: Hasher,
    md5: Md5,
}

impl Filling {
    pub fn new() -> Self {
        Filling { pieces: Vec::new(), size: 0, sha256: Hasher::new(Algorithm::Sha256), md5: Md5::new() }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.md5.update(bytes);
        self.size += bytes.len() as u64;
        self.pieces.push(Bytes::copy_from_slice(bytes));
    }

    /// Ends it.
    pub fn seal(self) -> Sealed {
        let (digest, md5) = (self.sha256.finish(), <[u8; 16]>::from(self.md5.finalize()));
        Sealed { payload: PutPayload::from_iter(self.pieces), size: self.size, digest, md5 }
    }
}

/// A part to send.
pub struct Sealed {
    payload: PutPayload,
    size: u64,
    digest: Digest,
    md5: [u8; 16],
}

impl Sealed {
    /// Whether the store has these bytes already.
    pub fn is(&self, part: &Part) -> bool {
        (self.size, self.digest) == (part.size, part.digest)
    }

    /// Sends it. After an answer that tells of other bytes it is sent again, and in the end left unproved; at once by
    /// a store of which it is known that its answers do not prove anything.
    pub async fn send(self, object: Object, upload: String, number: usize, proof: Arc<Proof>) -> io::Result<Part> {
        let Sealed { payload, size, digest, md5 } = self;
        let mut tries = 1;
        loop {
            let sent = object.store.put_part(&object.path, &upload, number, payload.clone()).await;
            let PartId { content_id } = sent.map_err(|e| object.failed(e))?;
            let proved = Answer::of(&content_id).proves(&digest, &md5);
            if proof.is_enough(proved, tries) {
                return Ok(Part { number, size, digest, md5, content_id, proved });
            }
            tracing::warn!(
                "the store does not give part {} of {} the checksum that it has: sending it again",
                number + 1,
                object.url
            );
            tries += 1;
        }
    }
}

/// What is known of a store by its answers: whether they prove anything.
#[derive(Debug, Default)]
pub struct Proof {
    gives: AtomicBool,
    lacks: AtomicBool,
}

impl Proof {
    /// Takes the answer of such a try into account. Whether it is the last one.
    fn is_enough(&self, proved: bool, tries: u32) -> bool {
        if proved {
            self.gives.store(true, Relaxed);
        } else if tries == TRIES {
            self.lacks.store(true, Relaxed);
        }
        proved || tries == TRIES || self.lacks.load(Relaxed) && !self.gives.load(Relaxed)
    }
}

/// What a store says of a part.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    etag: &'a str,
    sha256: Option<&'a str>,
}

impl<'a> Answer<'a> {
    /// Reads what the client keeps of an answer: the ETag, or small XML with that and the checksum.
    fn of(content_id: &'a str) -> Self {
        let within = |tag: &str| {
            let from = content_id.find(&format!("<{tag}>"))? + tag.len() + 2;
            let to = content_id[from..].find(&format!("</{tag}>"))? + from;
            Some(&content_id[from..to])
        };
        let etag = within("e_tag").unwrap_or(content_id);
        let etag = etag.trim_matches('"');
        let etag = etag.strip_prefix("&quot;").unwrap_or(etag);
        let etag = etag.strip_suffix("&quot;").unwrap_or(etag);
        Answer { etag, sha256: within("checksum_sha256") }
    }

    /// Whether it has the MD5 of what was sent for its ETag. A SHA-256 that is another disproves it; one that is the
    /// same proves nothing, as some stores only repeat what they were told.
    fn proves(&self, digest: &Digest, md5: &[u8; 16]) -> bool {
        let sha256 = || hex::decode(digest.hex()).map(|bytes| STANDARD.encode(bytes)).unwrap_or_default();
        self.etag.eq_ignore_ascii_case(&hex::encode(md5)) && self.sha256.is_none_or(|told| told == sha256())
    }
}

/// What a store whose ETags are MD5 sums calls an object of these parts.
pub fn composite(parts: &[Part]) -> String {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part.md5));
    format!("{}-{}", hex::encode(md5.finalize()), parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_proves_nothing_is_sent_the_rest_once() {
        let proof = Proof::default();
        assert_eq!([1, 2, 3].map(|tries| proof.is_enough(false, tries)), [false, false, true]);
        assert!(proof.is_enough(false, 1));
        // It did prove something: what it does not prove was altered.
        assert!(proof.is_enough(true, 1) && !proof.is_enough(false, 1));
    }

    #[test]
    fn only_the_right_md5_proves() {
        let (digest, md5) = (Digest::sha256(b"x"), <[u8; 16]>::from(Md5::digest(b"x")));
        let etag = hex::encode(md5);
        let sha256 = STANDARD.encode(hex::decode(digest.hex()).unwrap());
        let xml = |etag: &str, sha256: &str| {
            format!(
                "<PartMetadata><e_tag>&quot;{etag}&quot;</e_tag><checksum_sha256>{sha256}</checksum_sha256></PartMetadata>"
            )
        };
        let proves = |answer: &str| Answer::of(answer).proves(&digest, &md5);
        assert!(proves(&format!("\"{etag}\"")));
        assert!(proves(&format!("<PartMetadata><e_tag>&quot;{etag}&quot;</e_tag></PartMetadata>")));
        assert!(proves(&xml(&etag, &sha256)));
        assert!(!proves(&xml(&etag, "AAAA")));
        assert!(!proves(&xml("9dd4e461268c8034f5c8564e155c67a7", &sha256)));
        assert!(!proves(""));
    }
}
