//! Where images are to be found, wherever a command reads some: in a registry, in a layout, or in an
//! archive. Opening gives a store and the roots in it; nothing is contacted before.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::archive::Archive;
use super::layout::Layout;
use super::{Error, Name, Result, Store, Stores};
use crate::archive::Compression;
use crate::image::{Descriptor, ImageName};
use crate::medium::object::{self, reader::ObjectReader};
use crate::medium::read_at::ReadAt;
use crate::medium::tape::reader::TapeReader;
use crate::medium::volumes::listing::archive_of;
use crate::medium::volumes::pattern::WILD;
use crate::medium::volumes::reader::{Found, InOrder, Parts};
use crate::medium::{Place, Reading};

/// Endings of names that are archives and no repositories.
const ARCHIVE_ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];

/// A registry's or layout's image, a whole layout, or an archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// One image; in a layout without a name, all that it lists.
    Image(ImageName),
    /// An archive file, a pipe, an object of S3, or `-` for standard input.
    Archive(String),
}

impl Location {
    /// `host/repo:tag`, `oci:DIR[:TAG]`, the path of an archive, `s3://bucket/name`, or `-`. What exists as a file is one.
    pub fn parse(text: &str) -> std::result::Result<Location, String> {
        if text == "-" || object::is_object(text) {
            return Ok(Location::Archive(text.into()));
        }
        if text.starts_with("oci:") {
            return text.parse().map(Location::Image).map_err(|e: crate::image::reference::ReferenceError| e.reason);
        }
        match std::fs::metadata(text) {
            Ok(m) if m.is_dir() && Path::new(text).join("oci-layout").exists() => {
                return Err(format!("it is a directory: for the OCI layout in it, write oci:{text}"));
            }
            Ok(m) if !m.is_dir() => return Ok(Location::Archive(text.into())),
            _ => {}
        }
        let volume_of =
            archive_of(Path::new(text)).map(|(archive, _)| archive.display().to_string()).unwrap_or_default();
        // What no reference has; volumes are named with it.
        let is_pattern = text.contains(WILD) && text.parse::<ImageName>().is_err();
        let is_path = is_pattern
            || ["/", "./", "../"].iter().any(|start| text.starts_with(start))
            || ARCHIVE_ENDINGS.iter().any(|ending| text.ends_with(ending) || volume_of.ends_with(ending));
        if is_path {
            return Ok(Location::Archive(text.into()));
        }
        match text.parse::<ImageName>() {
            Ok(image) => Ok(Location::Image(image)),
            Err(e) => Err(format!("{}; and there is no archive file of that name", e.reason)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Image(image) => image.fmt(f),
            Location::Archive(file) if file == "-" => f.write_str("standard input"),
            Location::Archive(file) => f.write_str(file),
        }
    }
}

/// Where to begin in an opened store.
#[derive(Clone, Debug)]
pub enum Roots {
    /// One image, which was not looked for yet.
    Named(Name),
    /// What the `index.json` of an archive or of a layout lists, in its order, the root of a gather first. Those
    /// that belong to others of them (children, referrers) are among them.
    Listed(Vec<Descriptor>),
}

/// A location that is open for reading.
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub roots: Roots,
    /// The same store, where it is an archive.
    pub archive: Option<Arc<Archive>>,
}

impl Stores {
    /// Opens what the location names. An archive that can be read anywhere is read by its headers; any other
    /// (compressed, a pipe) is read to its end, and then knows its manifests and which blobs it holds.
    pub async fn open_location(&self, location: &Location) -> Result<Opened> {
        let archive = match location {
            Location::Image(ImageName::Layout { directory, name: None }) => {
                let layout = Layout::new(directory);
                let roots = Roots::Listed(layout.listed()?);
                return Ok(Opened { store: Arc::new(layout), roots, archive: None });
            }
            Location::Image(image) => {
                let store = self.open_source(image)?;
                return Ok(Opened { store, roots: Roots::Named(image.name()), archive: None });
            }
            Location::Archive(file) => Arc::new(match self.open_input(file).await? {
                Input::Seekable(archive) => archive,
                Input::Stream { name, bytes } => Archive::read_through(&name, bytes).await?,
            }),
        };
        let roots = archive.contents.indexes.first().cloned().unwrap_or_default();
        Ok(Opened { store: archive.clone(), roots: Roots::Listed(roots), archive: Some(archive) })
    }
}

/// An archive to read, in the way that its place allows.
pub enum Input {
    /// A regular, uncompressed file: from many places at once.
    Seekable(Archive),
    /// Anything else: once, from the start. `name` is for messages.
    Stream { name: String, bytes: Box<dyn BufRead + Send> },
}

impl Stores {
    /// Opens an archive: a path, a volume or the listing of several, a tape drive, an object, or
    /// `-` for standard input.
    /// Volumes are read and compared with their listing first.
    pub async fn open_input(&self, name: &str) -> Result<Input> {
        Ok(match self.open_damaged(name).await? {
            Input::Seekable(archive) => Input::Seekable(archive.sound()?),
            stream => stream,
        })
    }

    /// The same, for what may be damaged: the archive tells.
    pub async fn open_damaged(&self, name: &str) -> Result<Input> {
        let (at, reading) = (name.to_owned(), self.reading.clone());
        let opened = tokio::task::spawn_blocking(move || open_place(&at, &reading)).await;
        let io = |e| Error::io(name, e);
        Ok(match opened.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(io)? {
            Raw::Anywhere(bytes) => Input::Seekable(Archive::open_damaged(name, bytes).await?),
            Raw::Once(bytes) => {
                let name = if name == "-" { "standard input" } else { name };
                Input::Stream { name: name.into(), bytes: Box::new(BufReader::with_capacity(1 << 20, bytes)) }
            }
        })
    }
}

/// The bytes of a place.
enum Raw {
    Anywhere(Arc<dyn ReadAt>),
    Once(Box<dyn Read + Send>),
}

fn open_place(name: &str, reading: &Reading) -> std::io::Result<Raw> {
    let path = match Place::of(name) {
        Place::Standard => return Ok(Raw::Once(Box::new(std::io::stdin()))),
        Place::Tape(path) => return Ok(Raw::Once(Box::new(TapeReader::start(&path, reading.operator.ask())?))),
        Place::Ordered(path) => return Ok(Raw::Once(Box::new(File::open(path)?))),
        Place::Object(url) => {
            let access = reading.objects.clone();
            let object = object::wait(&Handle::current(), async move { ObjectReader::open(&url, &access).await })?;
            let compressed = is_compressed(&object)?;
            return Ok(if compressed {
                Raw::Once(Box::new(object.in_order()))
            } else {
                Raw::Anywhere(Arc::new(object))
            });
        }
        Place::File(path) => path,
    };
    if let Some(found) = Found::of(&path, &reading.directories)? {
        let paths = match found {
            Found::Listed(volumes) if volumes.lacks_some() && reading.operator.is_there() => {
                return Ok(Raw::Once(Box::new(volumes.one_by_one(reading.operator.ask())?)));
            }
            Found::Listed(volumes) => volumes.check().map_err(|e| {
                let next = "bring the right ones here, or name where they are with --volumes-in";
                std::io::Error::new(e.kind(), format!("{e}: {next}"))
            })?,
            Found::Unlisted(paths) => paths,
        };
        let parts = Parts::open(&paths)?;
        let compressed = is_compressed(&parts)?;
        return Ok(if compressed { Raw::Once(Box::new(InOrder::new(parts))) } else { Raw::Anywhere(Arc::new(parts)) });
    }
    let file = File::open(path)?;
    Ok(if is_compressed(&file)? { Raw::Once(Box::new(file)) } else { Raw::Anywhere(Arc::new(file)) })
}

/// Whether it begins as a compressed stream does.
fn is_compressed(bytes: &dyn ReadAt) -> std::io::Result<bool> {
    let mut start = [0; 4];
    let n = bytes.read_at(&mut start, 0)?;
    Ok(Compression::sniff(&start[..n]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_archives_from_references() {
        let archive = |text: &str| matches!(Location::parse(text), Ok(Location::Archive(_)));
        for text in [
            "-",
            "/mnt/a",
            "./a",
            "../a/b",
            "s3://b/a",
            "sync-45.tar",
            "usb/sync-45.tar.zst",
            "a.tar.003",
            "a.tzst.volumes.json",
        ] {
            assert!(archive(text), "{text}");
        }
        for text in ["reg.low/a:1", "oci:dir", "oci:./dir:tag", "localhost:5000/a/b", "reg/tar"] {
            assert!(matches!(Location::parse(text), Ok(Location::Image(_))), "{text}");
        }
        assert!(Location::parse("sync-45").unwrap_err().contains("no archive file"));
        assert!(Location::parse("").is_err());
    }

    #[test]
    fn a_layout_directory_is_pointed_to() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("oci-layout"), "{}").unwrap();
        let path = directory.path().display().to_string();
        assert!(Location::parse(&path).unwrap_err().contains(&format!("oci:{path}")));
    }
}
