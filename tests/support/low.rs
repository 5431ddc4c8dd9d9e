//! The sample layout in a directory of the test's own.

use tempfile::TempDir;

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures");

/// The sample layout (its names are `REPO:TAG`) in `DIR/low`.
pub fn low_layout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let low = dir.path().join("low");
    std::fs::create_dir(&low).unwrap();
    let status = std::process::Command::new("tar")
        .args(["xf", &format!("{FIXTURES}/low-layout.tar"), "-C"])
        .arg(&low)
        .status()
        .unwrap();
    assert!(status.success());
    dir
}
