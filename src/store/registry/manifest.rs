//! Manifests: asked for, looked at, stored. The bytes decide: a `Docker-Content-Digest` is believed in a HEAD
//! only once a GET of the same registry has shown that the header says what the bytes say, and a 404 to a HEAD only
//! once another HEAD has found something.

use std::io::Read;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

use super::Repository;
use super::answer::{Answer, BodyError};
use super::exchange::Ask;
use super::retry::Budget;
use crate::image::manifest::{MAX_MANIFEST_BYTES, sniff_media_type};
use crate::image::{Algorithm, Descriptor, Digest, Manifest, media_type};
use crate::store::error::printable;
use crate::store::{Error, Name, Result};

const DIGEST_HEADER: &str = "docker-content-digest";
/// Answers with bytes of no use before that is an error.
const BAD_BODIES: u32 = 4;
/// Times a manifest is sent that the registry accepts and does not keep.
const SENDINGS: u32 = 3;

impl Repository {
    fn manifest_ask<'a>(&self, method: Method, path: &'a str, name: &Name) -> Ask<'a> {
        let mut ask = self.asking(method, path, &format!("manifest {name}"));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(media_type::ACCEPT_MANIFESTS));
        ask
    }

    fn believes_digest_header(&self) -> bool {
        self.habits.digest_header_true.load(Relaxed) && !self.habits.digest_header_false.load(Relaxed)
    }

    /// Media type, digest and size of a manifest, by HEAD where that can be believed.
    pub(super) async fn resolve_manifest(&self, name: &Name) -> Result<Option<Descriptor>> {
        let habits = &self.habits;
        let is_digest = matches!(name, Name::Digest(_));
        if !habits.head_lies.load(Relaxed) && (is_digest || self.believes_digest_header()) {
            let path = format!("manifests/{name}");
            let answer = self.ask(&self.manifest_ask(Method::HEAD, &path, name)).await?;
            match answer.status() {
                200 => {
                    habits.head_works.store(true, Relaxed);
                    if let Some(descriptor) = described(&answer, name) {
                        return Ok(Some(descriptor));
                    }
                }
                404 if habits.head_works.load(Relaxed) => return Ok(None),
                404 | 405 | 400 | 501 => {}
                _ => return Err(answer.into_error(&format!("HEAD manifest {name}")).await),
            }
            let found_by_head = answer.status() == 200;
            // Its place in the lane is given back before the next question takes one.
            drop(answer);
            let found = self.fetch_manifest(name).await?;
            if !found_by_head && found.is_some() {
                habits.head_lies.store(true, Relaxed);
            }
            return Ok(found.map(|m| m.descriptor));
        }
        Ok(self.fetch_manifest(name).await?.map(|m| m.descriptor))
    }

    /// Whether a HEAD finds the manifest. What it finds is looked at more closely where its word is not to be
    /// believed; what it does not find is not.
    pub(super) async fn manifest_exists(&self, digest: Digest, tag: Option<&str>) -> Result<bool> {
        let name = tag.map_or(Name::Digest(digest), |tag| Name::Tag(tag.to_owned()));
        if !self.habits.head_lies.load(Relaxed) {
            let path = format!("manifests/{name}");
            let answer = self.ask(&self.manifest_ask(Method::HEAD, &path, &name)).await?;
            match answer.status() {
                200 => {
                    self.habits.head_works.store(true, Relaxed);
                    match described(&answer, &name) {
                        Some(there) if there.digest != digest => return Ok(false),
                        Some(_) if tag.is_none() || self.believes_digest_header() => return Ok(true),
                        _ => {}
                    }
                }
                400 | 404 | 405 | 501 => return Ok(false),
                _ => return Err(answer.into_error(&format!("HEAD manifest {name}")).await),
            }
        }
        Ok(self.resolve_manifest(&name).await?.is_some_and(|there| there.digest == digest))
    }

    /// A manifest, verified.
    pub(super) async fn fetch_manifest(&self, name: &Name) -> Result<Option<Manifest>> {
        let path = format!("manifests/{name}");
        let ask = self.manifest_ask(Method::GET, &path, name);
        let mut budget = Budget::new(BAD_BODIES);
        loop {
            let mut answer = self.ask(&ask).await?;
            match answer.status() {
                200 => {}
                404 => return Ok(None),
                _ => return Err(answer.into_error(&ask.what).await),
            }
            let error = match self.read_manifest(&mut answer, name, &ask.what).await {
                Ok(manifest) => {
                    self.learn(&answer, &manifest, name);
                    return Ok(Some(manifest));
                }
                Err(error @ Error::Unusable { .. }) => return Err(error),
                Err(error) => error,
            };
            drop(answer);
            match budget.fail() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    /// Whether the header of a manifest by tag says what the bytes say.
    fn learn(&self, answer: &Answer, manifest: &Manifest, name: &Name) {
        if let Name::Tag(_) = name {
            let said = answer.header(DIGEST_HEADER).and_then(|h| h.trim().parse().ok());
            let flag = match said == Some(manifest.digest()) {
                true => &self.habits.digest_header_true,
                false => &self.habits.digest_header_false,
            };
            flag.store(true, Relaxed);
        }
    }

    async fn read_manifest(&self, answer: &mut Answer, name: &Name, what: &str) -> Result<Manifest> {
        let (place, what) = (self.place(), what.to_owned());
        let body = match answer.body(MAX_MANIFEST_BYTES).await {
            Ok(body) => body,
            Err(BodyError::Broken(trouble)) => return Err(Error::Transport { place, what, trouble }),
            Err(BodyError::TooLarge(size)) => return Err(too_large(place, name, size)),
        };
        let body = match answer.header(CONTENT_ENCODING).map(str::trim) {
            Some("gzip" | "x-gzip") => {
                let mut out = Vec::new();
                let mut decoder = flate2::read::MultiGzDecoder::new(&body[..]).take(MAX_MANIFEST_BYTES + 1);
                match decoder.read_to_end(&mut out) {
                    Ok(size) if size as u64 > MAX_MANIFEST_BYTES => return Err(too_large(place, name, size as u64)),
                    Ok(_) => out,
                    Err(e) => {
                        let reason = format!("its gzip encoding is broken: {e}");
                        return Err(Error::Protocol { place, what, reason });
                    }
                }
            }
            _ => body,
        };
        let looks_like_json = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
        let page = |place, what| {
            let start = String::from_utf8_lossy(&body[..body.len().min(4096)]);
            let reason = format!("HTTP 200, but the answer is not a manifest: {}", printable(&start));
            Error::Protocol { place, what, reason }
        };
        let digest = match name {
            Name::Digest(expected) => {
                let actual = Digest::of(expected.algorithm(), &body);
                if actual != *expected {
                    if !looks_like_json {
                        return Err(page(place, what));
                    }
                    let (expected, actual) = (Box::new(*expected), Box::new(actual));
                    return Err(Error::Digest { what: format!("manifest {name}"), place, expected, actual });
                }
                actual
            }
            Name::Tag(_) => {
                if !looks_like_json || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
                    return Err(page(place, what));
                }
                // A tag of a manifest that was stored by its sha512 keeps that name, where the bytes agree.
                let said = answer.header(DIGEST_HEADER).and_then(|h| h.trim().parse::<Digest>().ok());
                let long = said.filter(|d| d.algorithm() == Algorithm::Sha512);
                long.filter(|d| Digest::of(Algorithm::Sha512, &body) == *d).unwrap_or_else(|| Digest::sha256(&body))
            }
        };
        let media_type = media_type_of(answer.header(CONTENT_TYPE), &body);
        Ok(Manifest { descriptor: Descriptor::new(media_type, digest, body.len() as u64), bytes: Bytes::from(body) })
    }

    /// Stores a manifest, and looks whether it is there.
    pub(super) async fn put_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        let digest = manifest.digest();
        if tag.is_none() || digest.algorithm() != Algorithm::Sha256 {
            // By a tag, a registry would name it by its sha256.
            self.put_under(manifest, &Name::Digest(digest), format!("manifests/{digest}")).await?;
        }
        if let Some(tag) = tag {
            let path = match digest.algorithm() {
                Algorithm::Sha256 => format!("manifests/{tag}"),
                Algorithm::Sha512 => format!("manifests/{tag}?digest={digest}"),
            };
            self.put_under(manifest, &Name::Tag(tag.into()), path).await?;
        }
        Ok(())
    }

    async fn put_under(&self, manifest: &Manifest, name: &Name, path: String) -> Result<()> {
        let mut ask = self.asking(Method::PUT, &path, &format!("manifest {name}"));
        if let Ok(media_type) = HeaderValue::from_str(manifest.media_type()) {
            ask.headers.insert(CONTENT_TYPE, media_type);
        }
        ask.body = Some(manifest.bytes.clone());
        let mut budget = Budget::new(SENDINGS);
        loop {
            let answer = self.ask(&ask).await?;
            match answer.status() {
                200..=204 if answer.is_page() => return Err(answer.into_page_error(&ask.what).await),
                200..=204 => {}
                _ => return Err(answer.into_error(&ask.what).await),
            }
            let handles_subject = answer.header("oci-subject").is_some();
            let referrers = answer.route.referrers();
            drop(answer);
            if self.holds(manifest, name).await? {
                return self.note_referrer(manifest, handles_subject, referrers).await;
            }
            match budget.fail() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    let reason = "it was accepted, but it is not there afterwards".into();
                    return Err(Error::Protocol { place: self.place(), what: ask.what, reason });
                }
            }
        }
    }

    /// Whether `name` stands for that manifest now.
    async fn holds(&self, manifest: &Manifest, name: &Name) -> Result<bool> {
        if !self.habits.head_lies.load(Relaxed) {
            let path = format!("manifests/{name}");
            let answer = self.ask(&self.manifest_ask(Method::HEAD, &path, name)).await?;
            if answer.status() == 200 {
                let said = answer.header(DIGEST_HEADER).and_then(|h| h.trim().parse::<Digest>().ok());
                if matches!(name, Name::Digest(_)) || said == Some(manifest.digest()) {
                    self.habits.head_works.store(true, Relaxed);
                    return Ok(true);
                }
            }
        }
        // By its bytes: what a tag stands for may be named by another algorithm.
        match self.fetch_manifest(name).await {
            Ok(found) => Ok(found.is_some_and(|m| m.bytes == manifest.bytes)),
            Err(e) if e.is_corruption() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn too_large(place: String, name: &Name, size: u64) -> Error {
    let limit = MAX_MANIFEST_BYTES >> 20;
    Error::Unusable { place, reason: format!("manifest {name} has {size} bytes or more: at most {limit} MiB are read") }
}

/// What a HEAD says, if it says all of it.
fn described(answer: &Answer, name: &Name) -> Option<Descriptor> {
    let digest = match name {
        Name::Digest(digest) => *digest,
        Name::Tag(_) => answer.header(DIGEST_HEADER)?.trim().parse().ok()?,
    };
    let media_type = bare_type(answer.header(CONTENT_TYPE)?);
    // A length of encoded bytes is not the manifest's.
    if answer.header(CONTENT_ENCODING).is_some() || !media_type::is_manifest(media_type) {
        return None;
    }
    Some(Descriptor::new(media_type, digest, answer.length()?))
}

fn bare_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// The type that the server says if it is one of a manifest, else what the bytes look like.
fn media_type_of(header: Option<&str>, body: &[u8]) -> String {
    let said = header.map(bare_type).unwrap_or_default();
    if media_type::is_manifest(said) {
        return said.into();
    }
    sniff_media_type(body).unwrap_or_else(|| if said.is_empty() { "application/octet-stream" } else { said }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_comes_from_the_server_or_from_the_bytes() {
        let body = format!(r#"{{"mediaType":"{}"}}"#, media_type::DOCKER_LIST);
        let of = |header| media_type_of(header, body.as_bytes());
        assert_eq!(of(Some("application/vnd.oci.image.index.v1+json; charset=utf-8")), media_type::OCI_INDEX);
        assert_eq!(of(Some("application/json")), media_type::DOCKER_LIST);
        assert_eq!(of(None), media_type::DOCKER_LIST);
        assert_eq!(media_type_of(Some("application/vnd.x"), b"{}"), "application/vnd.x");
        assert_eq!(media_type_of(None, b"{}"), "application/octet-stream");
    }
}
