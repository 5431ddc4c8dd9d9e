//! Compressed archives, in one file or in volumes, that are cut anywhere, or damaged, go on where they are right, and end as if nothing had
//! happened.

use std::path::Path;

use airgap_mirror::image::{Digest, ImageName};
use airgap_mirror::medium::writing::Writing;
use airgap_mirror::pipeline::serialize::{Compression, Options, Report, serialize};

use super::archives::context;
use super::resume::image;

const BLOCK: u64 = 2 << 20;

async fn try_to_write(home: &Path, options: Options) -> Result<Report, String> {
    let name: ImageName = format!("oci:{}:slow:1", home.join("low").display()).parse().unwrap();
    let written = serialize(&context(), &name, home.join("out.tar").to_str().unwrap(), &options).await;
    written.map_err(|e| e.to_string())
}

async fn write(home: &Path, options: Options) -> Report {
    try_to_write(home, options).await.unwrap()
}

/// Lengths of the file behind each of its frames.
fn ends(archive: &[u8], compression: Compression) -> Vec<usize> {
    let mut rest = archive;
    let mut ends = Vec::new();
    while !rest.is_empty() {
        std::io::copy(&mut compression.unpack(&mut rest).unwrap(), &mut std::io::sink()).unwrap();
        ends.push(archive.len() - rest.len());
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_kept_wherever_it_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    image(home, 5 << 20).await;
    let (out, partial, ledger) = (home.join("out.tar"), home.join("out.tar.partial"), home.join("out.jsonl"));
    for compression in [Compression::Zstd, Compression::Gzip] {
        let options = || Options {
            compression: Some(compression),
            level: Some(1),
            resume: true,
            checkpoint: Some(ledger.clone()),
            ..Options::default()
        };
        let plain = write(home, Options { dry_run: true, ..options() }).await.bytes;
        write(home, options()).await;
        let whole = std::fs::read(&out).unwrap();
        let lines = std::fs::read_to_string(&ledger).unwrap().lines().count();
        let ends = ends(&whole, compression);
        assert_eq!(ends.len() as u64, plain.div_ceil(BLOCK));
        let right = |cut: usize| ends.iter().filter(|end| **end <= cut).count() as u64 * BLOCK;
        let mut trials = Vec::new();
        for cut in [1, 100, ends[0] - 1, ends[0], ends[0] + 1, ends[1] + 700, whole.len() - 1, whole.len()] {
            trials.push((whole[..cut].to_vec(), right(cut).min(plain)));
        }
        // Damage, and what somebody else has left.
        let mut damaged = whole.clone();
        damaged[ends[1] + 1000] ^= 4;
        trials.push((damaged, 2 * BLOCK));
        trials.push((b"precious".to_vec(), 0));
        trials.push((vec![0; 5000], 0));
        for (there, resumed) in trials {
            std::fs::remove_file(&out).unwrap();
            std::fs::write(&partial, &there).unwrap();
            let report = write(home, options()).await;
            assert!(std::fs::read(&out).unwrap() == whole, "{compression} after {} bytes", there.len());
            assert_eq!(report.bytes, whole.len() as u64);
            assert_eq!(report.bytes_resumed, resumed, "{compression} after {} bytes", there.len());
            assert_eq!(std::fs::read_to_string(&ledger).unwrap().lines().count(), lines);
            assert!(!partial.exists());
        }
        // Of another level nothing can be used: the bytes would be others.
        std::fs::remove_file(&out).unwrap();
        std::fs::write(&partial, &whole[..ends[1]]).unwrap();
        let other = write(home, Options { level: Some(9), ..options() }).await;
        assert_eq!(other.bytes_resumed, 0);
        // A large blob whose start is wrong, in frames that are right: the archive goes on before it.
        std::fs::remove_file(&out).unwrap();
        let mut wrong = Vec::new();
        std::io::Read::read_to_end(&mut compression.unpack(&whole[..ends[0]]).unwrap(), &mut wrong).unwrap();
        std::io::Read::read_to_end(&mut compression.unpack(&whole[ends[0]..ends[1]]).unwrap(), &mut wrong).unwrap();
        let at = wrong.len() - 10;
        wrong[at] ^= 1;
        let packed: Vec<u8> =
            wrong.chunks(BLOCK as usize).flat_map(|b| compression.pack(Some(1), b).unwrap()).collect();
        std::fs::write(&partial, packed).unwrap();
        let report = write(home, options()).await;
        assert!(std::fs::read(&out).unwrap() == whole);
        assert_eq!(report.bytes_resumed, 0);
        std::fs::remove_file(&out).unwrap();
    }
}

/// The volumes of `out.tar` and their listing.
struct Volumes<'h>(&'h Path);

impl Volumes<'_> {
    fn path(&self, suffix: &str) -> std::path::PathBuf {
        self.0.join(format!("out.tar.{suffix}"))
    }

    fn read(&self) -> Vec<Vec<u8>> {
        (1..).map_while(|n| std::fs::read(self.path(&format!("{n:03}"))).ok()).collect()
    }

    /// Leaves what a run that was killed leaves: these volumes, and a part of the next.
    fn leave(&self, volumes: &[Vec<u8>], listing: &serde_json::Value) {
        let mut listing = listing.clone();
        listing["complete"] = false.into();
        let listed = listing["volumes"].as_array_mut().unwrap();
        listed.truncate(volumes.len());
        for (n, volume) in volumes.iter().enumerate() {
            std::fs::write(self.path(&format!("{:03}", n + 1)), volume).unwrap();
            listed[n]["digest"] = Digest::sha256(volume).to_string().into();
        }
        std::fs::write(self.path("volumes.json"), listing.to_string()).unwrap();
        std::fs::write(self.path(&format!("{:03}.partial", volumes.len() + 1)), "half").unwrap();
        for n in volumes.len() + 1.. {
            if std::fs::remove_file(self.path(&format!("{n:03}"))).is_err() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_go_on_within_the_frame_that_they_cut() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    image(home, 3 << 20).await;
    let volumes = Volumes(home);
    for (compression, size) in [(Compression::Zstd, 700_000), (Compression::Gzip, 1_500_000)] {
        let options = |resume| Options {
            compression: Some(compression),
            level: Some(1),
            resume,
            force: !resume,
            medium: Writing { volume_size: Some(size), ..Writing::default() },
            ..Options::default()
        };
        let report = write(home, options(false)).await;
        let (bytes, whole) = (report.bytes, volumes.read());
        assert_eq!(whole.concat().len() as u64, bytes);
        let listing: serde_json::Value =
            serde_json::from_slice(&std::fs::read(volumes.path("volumes.json")).unwrap()).unwrap();
        let ends = ends(&whole.concat(), compression);
        let right = |there: usize| ends.iter().filter(|end| **end <= there).count() as u64 * BLOCK;
        for there in 0..whole.len() {
            volumes.leave(&whole[..there], &listing);
            let report = write(home, options(true)).await;
            assert!(volumes.read() == whole, "{compression} after {there} volumes");
            assert_eq!((report.bytes, report.bytes_resumed), (bytes, right(whole[..there].concat().len())));
        }
        // All of it is there.
        let report = write(home, options(true)).await;
        assert_eq!((report.bytes, report.volumes), (bytes, None));
        // A volume that is listed is wrong: it is written again, and all that follow.
        std::fs::write(volumes.path("002"), &whole[1][..whole[1].len() - 1]).unwrap();
        write(home, options(true)).await;
        assert!(volumes.read() == whole);
        // A part of a frame that no version of ours would write now.
        let mut other = whole[0].clone();
        let at = other.len() - 1;
        other[at] ^= 1;
        volumes.leave(&[other], &listing);
        let refused = try_to_write(home, options(true)).await.unwrap_err();
        assert!(refused.contains("without --resume"), "{refused}");
        write(home, options(false)).await;
        assert!(volumes.read() == whole);
    }
}
