//! The registries of these tests, on free ports of 127.0.0.1: Debian's docker-registry and `mirror serve`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::programs::{Running, mirror, output, project, run};

/// A corpus in a registry.
pub struct Loaded {
    pub corpus: PathBuf,
    /// The list of its tagged images.
    pub sources: PathBuf,
    /// What the loader said.
    pub said: String,
}

/// Stopped when dropped.
pub struct Registry {
    pub address: String,
    _running: Running,
}

impl Registry {
    pub fn docker(work: &Path, name: &str) -> Registry {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it is bound").to_string();
        drop(free);
        let directory = work.join(name);
        fs::create_dir(&directory).expect("a directory for the registry");
        let config = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {directory:?}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{address}\"}}\n\
             validation: {{manifests: {{urls: {{allow: ['^https?://']}}}}}}\n",
        );
        let file = work.join(format!("{name}.yml"));
        fs::write(&file, config).expect("the registry's configuration can be written");
        let log = File::create(work.join(format!("{name}.log"))).expect("a log");
        let mut command = Command::new("docker-registry");
        command.args(["serve".as_ref(), file.as_os_str()]).stdout(Stdio::null()).stderr(log);
        let registry = Registry { address, _running: Running::new(&mut command) };
        for _ in 0..200 {
            if TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen on {}", registry.address);
    }

    /// `mirror serve`, as users start it.
    pub fn ours(directory: &Path, flags: &[&str]) -> Registry {
        let mut command = mirror(directory.parent().expect("it is in the work directory"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(flags).arg(directory).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("mirror starts");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says where it listens");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        Registry { address, _running: Running::of(child) }
    }

    /// Status and body of a GET.
    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("the registry is there");
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
             application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", self.address).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an HTTP answer") + 4;
        let status = String::from_utf8_lossy(&answer[9..12]).parse().expect("a status");
        (status, answer.split_off(end))
    }

    /// Loads a profile of the corpus under `prefix`, which python3 does.
    pub fn load(&self, work: &Path, profile: &str, prefix: &str) -> Loaded {
        let (corpus, sources) = (work.join("corpus"), work.join("sources.list"));
        let script = |name: &str| {
            let mut command = Command::new("python3");
            command.arg(project("scripts/corpus").join(name));
            command
        };
        run(script("make_corpus.py").args(["--profile", profile, "--out"]).arg(&corpus));
        let mut load = script("load_corpus.py");
        load.arg(&corpus).arg(format!("http://{}", self.address)).args(["--verify", "--prefix", prefix, "--sources"]);
        let said = output(load.arg(&sources));
        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        Loaded { corpus, sources, said }
    }
}
