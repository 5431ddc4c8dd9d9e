//! What is refused before anything is written: what cannot be meant, and what may not be replaced.

use std::path::Path;

use super::failed::refused;
use super::{Error, Options, Result};
use crate::archive::checkpoint;
use crate::medium::Place;
use crate::medium::file::{free_space, refuse_existing};
use crate::medium::object;
use crate::medium::volumes::writer::refuse_volumes;

/// Whether a regular file is to be written, and one only.
pub(super) fn is_one_file(options: &Options) -> bool {
    !options.dry_run && options.medium.volume_size.is_none()
}

/// Refuses what cannot be meant, and a destination that may not be replaced. For those who have much to do before
/// they write; whoever writes looks again.
pub async fn check(destination: &str, options: &Options) -> Result<()> {
    match Place::of(destination) {
        Place::File(path) if is_one_file(options) => {
            refuse_existing(&path, options.force).map_err(|e| refused(&path, e))?;
        }
        Place::File(path) if !options.dry_run && !options.resume => {
            refuse_volumes(&path, options.force).map_err(|e| refused(&path, e))?;
        }
        Place::Object(url) if !options.dry_run => refuse_object(&url, options).await?,
        Place::Ordered(_) | Place::Standard if options.resume => {
            return Err(Error::Refused(format!(
                "{destination} is no regular file: what it took cannot be read again, so nothing can be resumed; \
                 --checkpoint and --existing-from-checkpoint go on in a second part"
            )));
        }
        _ => {}
    }
    check_level(options)?;
    let same = |part: &&checkpoint::Part| Some(&part.file) == options.checkpoint.as_ref();
    if let Some(part) = options.earlier.iter().find(same) {
        return Err(Error::Refused(format!(
            "{} tells of the earlier part and would be replaced: name another file for --checkpoint",
            part.file.display()
        )));
    }
    Ok(())
}

/// Refuses a level that the method does not have.
pub fn check_level(options: &Options) -> Result<()> {
    if let (Some(compression), Some(level)) = (options.compression, options.level)
        && !compression.levels().contains(&level)
    {
        let (first, last) = (compression.levels().start().to_owned(), compression.levels().end().to_owned());
        return Err(Error::Refused(format!("{compression} has no level {level}: it has {first} to {last}")));
    }
    Ok(())
}

/// Refuses early what would be refused when all is planned.
async fn refuse_object(url: &str, options: &Options) -> Result<()> {
    if options.medium.volume_size.is_some() {
        return Err(Error::Refused(format!("{url} is one object: leave out --volume-size")));
    }
    let looked = async {
        let object = object::Object::new(url, &options.medium.objects)?;
        if options.force || options.resume { Ok(()) } else { object.refuse_existing().await }
    };
    looked.await.map_err(|e| refused(Path::new(url), e))
}

/// Fails where less than `needed` bytes are free.
pub(super) fn check_space(path: &Path, needed: u64) -> std::io::Result<()> {
    match free_space(path) {
        Some(free) if free < needed => {
            let what =
                format!("the archive needs {needed} bytes and {free} are free there: make space or name another place");
            Err(std::io::Error::new(std::io::ErrorKind::StorageFull, what))
        }
        _ => Ok(()),
    }
}
