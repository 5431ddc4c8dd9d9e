//! The sample layout, and what verbs need to work on it.

#[path = "low.rs"]
mod low;

use std::path::Path;
use std::sync::Arc;

use airgap_mirror::config::Config;
use airgap_mirror::image::ImageName;
use airgap_mirror::pipeline::{Context, Progress};
use airgap_mirror::source::{Source, list};
use airgap_mirror::store::{Stores, registry};

pub use low::{FIXTURES, low_layout};

/// A context with no configuration.
pub fn context() -> Context {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = registry::Client::new(Arc::new(Config::default()));
    Context { stores: Stores::new(client), progress: Arc::new(Progress::default()), jobs: None, byte_budget: 1 << 20 }
}

/// A sample list whose images are taken from the layout in `DIR/low`; the texts stay as they are.
pub fn sources(dir: &Path, name: &str) -> Vec<Source> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/lists/{name}.list")).unwrap();
    let mut sources = list::parse(&text, name).unwrap();
    for source in &mut sources {
        let name = source.text.strip_prefix("reg.low.example/tiny/").unwrap();
        source.image = image(&format!("oci:{}:{name}", dir.join("low").display()));
    }
    sources
}

pub fn image(text: &str) -> ImageName {
    text.parse().unwrap()
}
