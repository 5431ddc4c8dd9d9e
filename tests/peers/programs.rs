//! Other programs: whether they are here, and running them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

/// What `.ci/run` installs; the others need privileges that not every machine gives.
const REQUIRED: [&str; 4] = ["docker-registry", "skopeo", "podman", "python3"];

/// Whether all of these are here.
pub fn are_here(names: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing: Vec<_> = names.iter().copied().filter(|name| !found(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("MIRROR_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    let owed: Vec<_> = missing.iter().filter(|name| required && REQUIRED.contains(name)).collect();
    assert!(owed.is_empty(), "required but not installed: {owed:?}; on Debian: apt-get install {}", REQUIRED.join(" "));
    skipped(&format!("not installed: {}", missing.join(" ")));
    false
}

/// Says past the test harness, which swallows what a passing test prints, that a test was skipped.
pub fn skipped(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "\n*** SKIPPED {test} (a test against other programs): {reason}");
}

/// A temporary directory, in memory where there is room for a corpus and its copies.
pub fn work_directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(memory).map_or(0, |s| s.blocks_available() * s.fragment_size());
    match (room > 3 << 30).then(|| TempDir::new_in(memory)) {
        Some(Ok(directory)) => directory,
        _ => TempDir::new().expect("a temporary directory"),
    }
}

pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs it to a good end; gives what it said on standard output.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// The program under test, away from the configuration of whoever runs the tests.
pub fn mirror(work: &Path) -> Command {
    let mut command = Command::new(cargo_bin("mirror"));
    command.current_dir(work).env("HOME", work).env("XDG_CONFIG_HOME", work);
    for name in ["MIRROR_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}

pub fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A file of this project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that goes on until it is dropped.
pub struct Running(Child);

impl Running {
    pub fn of(child: Child) -> Running {
        Running(child)
    }

    pub fn new(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }
}

impl Drop for Running {
    /// Asks first: a daemon has children of its own to end.
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..100 {
            if asked.is_err() || !matches!(self.0.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
