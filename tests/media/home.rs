//! A directory with a layout of two images of the same shape, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use airgap_mirror::image::{Descriptor, Digest, Manifest, media_type};
use airgap_mirror::store::layout::Layout;
use airgap_mirror::store::{BytesBlob, Store};

/// Bytes of the largest layer of each image.
pub const LARGEST: usize = 100_000;

pub struct Home(tempfile::TempDir);

/// How the program ended, and what it said.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// It ended with `code`, and said all of this on standard error.
    pub fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
    }
}

impl Home {
    /// With no image.
    pub fn empty() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    /// With the images `oci:low:a` and `oci:low:b`.
    pub async fn new() -> Home {
        let home = Home::empty();
        for (name, seed) in [("a", 1), ("b", 2)] {
            home.add_image(name, seed, &[LARGEST, 700, 30_000, 1, 9_000]).await;
        }
        home
    }

    /// An image `oci:low:NAME` of layers of these sizes.
    pub async fn add_image(&self, name: &str, seed: u64, sizes: &[usize]) {
        let layout = Layout::new(&self.0.path().join("low"));
        let mut descriptors = Vec::new();
        let config = ("application/vnd.oci.image.config.v1+json", format!("{{\"os\": \"{name}\"}}").into_bytes());
        let layer = |n: usize| ("application/vnd.oci.image.layer.v1.tar", noise(seed << 32 | n as u64, n));
        for (kind, blob) in std::iter::once(config).chain(sizes.iter().map(|n| layer(*n))) {
            let descriptor = Descriptor::new(kind, Digest::sha256(&blob), blob.len() as u64);
            let source = BytesBlob { descriptor: descriptor.clone(), bytes: blob.into() };
            layout.push_blob(&descriptor, &source, None).await.unwrap();
            descriptors.push(descriptor);
        }
        let json = serde_json::json!({"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1..]});
        layout.push_manifest(&Manifest::new(media_type::OCI_MANIFEST, json.to_string()), Some(name)).await.unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Names in a directory, but for hidden ones.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program, with nothing on its standard input and no terminal.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.shell(&["exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mirror")], arguments)
    }

    /// A script; `$0` and `$@` follow it.
    pub fn shell(&self, script: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").args(script).args(arguments).current_dir(self.0.path());
        let home: &Path = self.0.path();
        command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_CACHE_HOME", home);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn mirror(&self, arguments: &[&str]) -> Ended {
        end(self.command(arguments))
    }
}

pub fn end(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Bytes that look random and are the same in every run.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state ^ state >> 29).to_le_bytes()
    });
    words.take(length).collect()
}
