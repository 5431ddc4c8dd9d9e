//! Arguments of all commands that write an archive to a medium, or read one.

use std::path::PathBuf;

use super::size;
use crate::medium::object::Access;
use crate::medium::tape::{self, Operator};
use crate::medium::{Place, volumes, writing};
use crate::pipeline::Context;

/// How the medium is written.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tapes and volumes")]
pub struct Target {
    /// Size of blocks on a tape, as in 512KiB [default: 1MiB, or what the drive takes]
    #[arg(short, long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<usize>,

    /// Memory in front of a tape drive [default: 1GiB, or a quarter of the memory]
    #[arg(short = 'm', long, value_name = "SIZE", value_parser = size::parse)]
    buffer_size: Option<u64>,

    /// Percent of the buffer that are filled before the drive starts, and before it starts again [default: 90]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    hwm: Option<u8>,

    /// Write volumes DEST.001, DEST.002, … of at most this size, or dvd, bd25, bd50, fat32
    #[arg(long, value_name = "SIZE", value_parser = volumes::parse_size)]
    volume_size: Option<u64>,

    /// Command that puts the next tape in when one is full ($MIRROR_VOLUME is its number, $MIRROR_DEVICE the
    /// drive) [default: ask on the terminal]
    #[arg(long, value_name = "COMMAND")]
    next_volume: Option<String>,

    /// Read everything back when it is written
    #[arg(long)]
    verify: bool,

    /// Put the tape out when all is written
    #[arg(long)]
    eject: bool,

    /// Rewind the tape when all is written
    #[arg(long, conflicts_with = "eject")]
    rewind: bool,

    #[command(flatten)]
    objects: Objects,
}

fn block_size(text: &str) -> Result<usize, String> {
    match size::parse(text)? {
        size @ 512..=0x400_0000 => usize::try_from(size).map_err(|e| e.to_string()),
        _ => Err("a block has 512 bytes to 64MiB".into()),
    }
}

impl Target {
    pub fn is_volumes(&self) -> bool {
        self.volume_size.is_some()
    }

    /// Says why the place cannot be written like this.
    pub fn accept(&self, place: &Place) -> Result<(), &'static str> {
        match place {
            Place::File(_) => Ok(()),
            _ if self.is_volumes() => {
                Err("--volume-size makes files: name one; a tape that is full is followed by the next of itself")
            }
            Place::Ordered(_) | Place::Standard if self.verify => {
                Err("what went through a pipe cannot be read back: leave out --verify, and verify it where it arrives")
            }
            _ => Ok(()),
        }
    }

    /// The same context, in which objects are read from the store that they are written to.
    pub fn reading(&self, context: Context) -> Context {
        let reading = crate::medium::Reading { objects: self.objects.access(), ..Default::default() };
        Context { stores: context.stores.reading(reading), ..context }
    }

    /// `force`: what is on a next tape may be written over.
    pub fn options(&self, force: bool) -> writing::Writing {
        writing::Writing {
            block_size: self.block_size,
            buffer: self.buffer_size,
            high_water_mark: self.hwm,
            tape: tape::writer::Options { overwrite: force, eject: self.eject, rewind: self.rewind },
            operator: operator(&self.next_volume),
            volume_size: self.volume_size,
            objects: self.objects.access(),
            verify: self.verify,
        }
    }
}

/// How media are read.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Tapes and volumes")]
pub struct Origin {
    /// Command that puts the next tape in, or mounts the disk with the next volume ($MIRROR_VOLUME is its number,
    /// $MIRROR_DEVICE the drive, or the file of the volume) [default: ask on the terminal]
    #[arg(long, value_name = "COMMAND")]
    next_volume: Option<String>,

    /// Another directory with volumes of the archive; may be repeated
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    volumes_in: Vec<PathBuf>,

    #[command(flatten)]
    objects: Objects,
}

impl Origin {
    /// The same context, in which archives are read like this.
    pub fn apply(&self, context: Context) -> Context {
        let reading = crate::medium::Reading {
            operator: operator(&self.next_volume),
            directories: self.volumes_in.clone(),
            objects: self.objects.access(),
        };
        Context { stores: context.stores.reading(reading), ..context }
    }
}

/// Where objects of S3 are. Who asks for them is in the environment, or in the files of the AWS tools.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Objects of S3")]
struct Objects {
    /// Store of s3://… in place of AWS, as in https://minio.low:9000 [default: $AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,

    /// Region of the bucket [default: $AWS_REGION, or that of the profile]
    #[arg(long, value_name = "NAME")]
    s3_region: Option<String>,

    /// Put the bucket before the host of the endpoint, as in https://BUCKET.minio.low:9000, not into the path
    #[arg(long)]
    s3_virtual_host: bool,

    /// Use no credentials
    #[arg(long)]
    s3_anonymous: bool,
}

impl Objects {
    fn access(&self) -> Access {
        let (endpoint, region) = (self.s3_endpoint.clone(), self.s3_region.clone());
        Access { endpoint, region, virtual_host: self.s3_virtual_host, anonymous: self.s3_anonymous }
    }
}

fn operator(command: &Option<String>) -> Operator {
    command.clone().map_or(Operator::Person, Operator::Command)
}
