//! Arguments that several commands share, checked where they come in: a bad one is a usage error that
//! says why.

use std::path::PathBuf;
use std::str::FromStr;

use crate::image::descriptor::Annotations;
use crate::image::reference::Name;
use crate::image::{ImageName, Platform};
use crate::source::Selector;
use crate::store::Location;

/// An IMAGE: `host/repo:tag`, `host/repo@digest`, `oci:DIR[:TAG]`.
pub fn image(text: &str) -> Result<ImageName, String> {
    ImageName::from_str(text).map_err(|error| error.reason)
}

/// Where something is read from: `host/repo:tag`, `host/repo@digest`, `oci:DIR[:TAG]`, an archive file, `-`.
pub fn location(text: &str) -> Result<Location, String> {
    Location::parse(text)
}

/// An IMAGE that is about to be made: its digest is not known before.
pub fn new_image(text: &str) -> Result<ImageName, String> {
    let image = image(text)?;
    match image.name() {
        Name::Digest(_) => Err("the digest of what is about to be written is not known: give it a tag".into()),
        Name::Tag(_) => Ok(image),
    }
}

/// A repository or a layout, to which tags are added.
pub fn repository(text: &str) -> Result<ImageName, String> {
    match image(text)? {
        ImageName::Registry(reference) if reference.tag.is_some() || reference.digest.is_some() => {
            Err("the names of the archives become tags: give the repository without one".into())
        }
        ImageName::Layout { name: Some(_), .. } => {
            Err("the names of the archives become tags: give the directory without one".into())
        }
        image => Ok(image),
    }
}

/// A directory of this machine.
pub fn directory(text: &str) -> Result<PathBuf, String> {
    if crate::medium::object::is_object(text) {
        return Err(
            "a directory on a disk is needed: single archives can be written to s3://BUCKET/NAME by serialize".into()
        );
    }
    Ok(text.into())
}

/// The name of a file in a directory that is given apart.
pub fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text == "." || text == ".." {
        return Err("a name without a directory is needed".into());
    }
    Ok(text.into())
}

/// `--platforms`: which children of a multi-platform image to take.
#[derive(Debug, clap::Args)]
pub struct Platforms {
    /// Platforms to take, as in linux/amd64,linux/arm64; all takes everything [default: all]
    #[arg(short, long = "platforms", value_name = "PLATFORM", value_delimiter = ',', value_parser = platform)]
    platforms: Vec<Wanted>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    One(Platform),
}

fn platform(text: &str) -> Result<Wanted, String> {
    match text.trim() {
        "all" => Ok(Wanted::All),
        text => Platform::from_str(text).map(Wanted::One).map_err(|error| error.to_string()),
    }
}

impl Platforms {
    /// The platforms to take; none means all of them.
    pub fn list(&self) -> Vec<Platform> {
        let mut platforms = Vec::new();
        for wanted in &self.platforms {
            match wanted {
                Wanted::All => return Vec::new(),
                Wanted::One(platform) if platforms.contains(platform) => {}
                Wanted::One(platform) => platforms.push(platform.clone()),
            }
        }
        platforms
    }
}

/// What to take of a list of images.
#[derive(Debug, clap::Args)]
pub struct Choice {
    #[command(flatten)]
    pub platforms: Platforms,

    /// Only the lines whose labels match, as in team=red,tier!=test; given several times, any of them
    #[arg(id = "selector", short = 'l', long = "selector", value_name = "SELECTOR", value_parser = selector)]
    pub selectors: Vec<Selector>,
}

/// What the index of what was gathered is like.
#[derive(Debug, clap::Args)]
pub struct Index {
    /// Annotations for the index, as in key=value,key=value
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = annotations)]
    annotations: Vec<Annotations>,

    /// Keep indexes out of the index, for registries that refuse an index of indexes
    #[arg(long)]
    pub index_fallback: bool,
}

impl Index {
    /// All `--annotations` together; a later one wins.
    pub fn annotations(&self) -> Annotations {
        self.annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// One `--annotations` value: `k=v`, or several joined by commas. A comma belongs to the value when no
/// `key=` follows it.
fn annotations(text: &str) -> Result<Annotations, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in text.split(',') {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((key, _)), _) if key.trim().is_empty() => return Err(format!("{piece:?} has no key before its =")),
            (Some((key, value)), _) => pairs.push((key.trim().to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece);
            }
            (None, None) => return Err(format!("{piece:?} is not key=value")),
        }
    }
    Ok(pairs.into_iter().collect())
}

/// One `--selector`.
pub fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_platforms_means_no_filter() {
        let of = |texts: &[&str]| Platforms { platforms: texts.iter().map(|t| platform(t).unwrap()).collect() }.list();
        assert_eq!(of(&["linux/amd64", "all"]), []);
        assert_eq!(of(&["linux/amd64", "linux/arm64", "linux/amd64"]).len(), 2);
        assert!(platform("linux").is_err());
    }

    #[test]
    fn annotations_by_comma_and_by_repetition() {
        let given = [annotations("a=1,b=2,3=x,4").unwrap(), annotations("a=9").unwrap()].to_vec();
        let all = Index { annotations: given, index_fallback: false }.annotations();
        let pairs: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("3", "x,4"), ("a", "9"), ("b", "2")]);
        assert!(annotations("novalue").is_err());
        assert!(annotations("=x").is_err());
        assert_eq!(annotations("k=").unwrap()["k"], "");
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert!(repository("reg.high:5000/scatter").is_ok() && repository("oci:high").is_ok());
        assert!(repository("reg.high/scatter:sync").is_err() && repository("oci:high:sync").is_err());
        assert!(file_name("a.csv").is_ok() && file_name("../a.csv").is_err());
    }

    #[test]
    fn a_new_image_has_no_digest() {
        assert!(new_image("oci:dir:tag").is_ok());
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(new_image(&format!("reg.low/a@{digest}")).unwrap_err().contains("tag"));
    }
}
