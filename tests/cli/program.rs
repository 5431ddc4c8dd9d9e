//! What the tests through the binary share: the program in a home of its own, and registries that it serves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The program, in an empty environment as far as its configuration and its credentials go.
pub fn mirror(home: &Path) -> Command {
    Command::from_std(process(home))
}

/// The same, to be started and watched.
pub fn process(home: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mirror"));
    command.current_dir(home).env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
    for variable in
        ["MIRROR_CONFIG", "MIRROR_LOG", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"]
    {
        command.env_remove(variable);
    }
    command
}

/// A home with the sample images in that layout directory, each named REPOSITORY:TAG.
pub fn unpack_samples(directory: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let layout = home.path().join(directory);
    std::fs::create_dir(&layout).unwrap();
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/low-layout.tar");
    let status = std::process::Command::new("tar").args(["-xf", samples, "-C"]).arg(&layout).status().unwrap();
    assert!(status.success());
    home
}

/// `mirror serve` of a directory, on any free port; ends with the value.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    /// What it printed when it was ready.
    pub ready: Value,
}

impl Registry {
    pub fn start(home: &Path, directory: &str) -> Registry {
        let mut child = process(home)
            .args(["serve", directory, "--listen", "127.0.0.1:0", "--output", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Registry { child, address: ready["address"].as_str().unwrap().to_owned(), ready }
    }

    /// Asks it to end, and waits: its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        signal(&self.child, "TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, as in `INT`.
pub fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
