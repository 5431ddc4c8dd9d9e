//! Container engines that hold images: podman, docker's daemon and containerd, each with its storage in the work
//! directory. docker and containerd need root and more than some machines give; where they do not start, the tests say so.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::programs::{Running, are_here, output, run, skipped, text};

/// A daemon that does not answer in that time does not start here.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Podman(PathBuf);

impl Podman {
    /// `None`: it is not installed, or may not do here what it does first.
    pub fn new(work: &Path) -> Option<Podman> {
        if !are_here(&["podman"]) {
            return None;
        }
        let home = work.join("podman");
        let configuration = home.join(".config/containers");
        fs::create_dir_all(&configuration).expect("a home for podman");
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(configuration.join("policy.json"), policy).expect("a policy");
        let podman = Podman(home);
        let asked = output(&mut podman.command(&["images"]));
        if !asked.status.success() {
            skipped(&format!("podman does not run here: {}", String::from_utf8_lossy(&asked.stderr).trim()));
            return None;
        }
        Some(podman)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        let at = |name: &str| self.0.join(name);
        command.arg("--root").arg(at("graph")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.args(["--storage-driver", "vfs", "--events-backend", "none"]);
        command.args(arguments).current_dir(&self.0).env("HOME", &self.0);
        command.env_remove("CONTAINERS_STORAGE_CONF").env_remove("XDG_CONFIG_HOME");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    /// Digest of the configuration of an image that it has.
    pub fn id(&self, image: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Id}}", image]).trim().to_owned()
    }
}

pub struct Docker {
    socket: String,
    _running: Running,
}

impl Docker {
    pub fn new(work: &Path) -> Option<Docker> {
        if !are_here(&["dockerd", "docker"]) || !is_root("docker") {
            return None;
        }
        let at = |name: &str| work.join("docker").join(name);
        fs::create_dir_all(at("")).expect("a directory for docker");
        let socket = format!("unix://{}", text(&at("sock")));
        let log = File::create(at("log")).expect("a log");
        let mut daemon = Command::new("dockerd");
        daemon.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        daemon.args(["--host", &socket, "--storage-driver", "vfs", "--bridge", "none"]);
        daemon.args(["--iptables=false", "--ip6tables=false"]);
        daemon.stdout(log.try_clone().expect("a log")).stderr(log);
        let docker = Docker { socket, _running: Running::new(&mut daemon) };
        answers("docker", || docker.command(&["version"])).then_some(docker)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket]).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    pub fn id(&self, image: &str) -> String {
        let id = self.run(&["image", "inspect", "--format", "{{.Id}}", image]);
        id.trim().trim_start_matches("sha256:").to_owned()
    }
}

pub struct Containerd {
    socket: PathBuf,
    _running: Running,
}

impl Containerd {
    pub fn new(work: &Path) -> Option<Containerd> {
        if !are_here(&["containerd", "ctr"]) || !is_root("containerd") {
            return None;
        }
        let at = |name: &str| work.join("containerd").join(name);
        fs::create_dir_all(at("")).expect("a directory for containerd");
        fs::write(at("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n").expect("one");
        let log = File::create(at("log")).expect("a log");
        let mut daemon = Command::new("containerd");
        daemon.arg("--config").arg(at("config.toml")).arg("--root").arg(at("root")).arg("--state").arg(at("state"));
        daemon.arg("--address").arg(at("sock")).stdout(log.try_clone().expect("a log")).stderr(log);
        let containerd = Containerd { socket: at("sock"), _running: Running::new(&mut daemon) };
        answers("containerd", || containerd.command(&["version"])).then_some(containerd)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", "test"]).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    /// `NAME DIGEST` of each image that it has.
    pub fn images(&self) -> Vec<String> {
        let table = self.run(&["images", "ls"]);
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", words[0], words[2])
        };
        table.lines().skip(1).filter(|l| !l.trim().is_empty()).map(line).collect()
    }
}

fn is_root(program: &str) -> bool {
    let root = run(Command::new("id").arg("-u")).trim() == "0";
    if !root {
        skipped(&format!("{program} runs for root only"));
    }
    root
}

/// Whether a daemon that was started answers; says so if not.
fn answers(program: &str, ask: impl Fn() -> Command) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if output(&mut ask()).status.success() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    skipped(&format!("{program} does not start on this machine"));
    false
}
