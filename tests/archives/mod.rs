//! A layout with the fixtures' content and gathers, for the tests of archives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use airgap_mirror::config::Config;
use airgap_mirror::image::{ImageName, Manifest, media_type};
use airgap_mirror::pipeline::Context;
use airgap_mirror::store::registry::Client;
use airgap_mirror::store::{Store, Stores, layout::Layout};

pub fn context() -> Context {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(Arc::new(Config::default()));
    Context { stores: Stores::new(client), progress: Arc::default(), jobs: None, byte_budget: 64 << 20 }
}

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fixtures").join(name)
}

pub fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// The corpus and every gather index in one layout.
pub struct Gathers(tempfile::TempDir);

impl Gathers {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tar = Command::new("tar").arg("-xf").arg(path("low-layout.tar")).arg("-C").arg(directory.path()).status();
        assert!(tar.unwrap().success());
        assert!(Command::new("chmod").args(["-R", "u+w"]).arg(directory.path()).status().unwrap().success());
        let layout = Layout::new(directory.path());
        for name in
            ["kinds", "kinds-fallback", "labels", "part1", "part2", "platforms", "platforms-two", "referrers", "sha512"]
        {
            let index = Manifest::new(media_type::OCI_INDEX, fixture(&format!("gather/{name}.index.json")));
            layout.push_manifest(&index, Some(name)).await.unwrap();
        }
        Gathers(directory)
    }

    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    pub fn image(&self, name: &str) -> ImageName {
        format!("oci:{}:{name}", self.0.path().display()).parse().unwrap()
    }
}
