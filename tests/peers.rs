//! The road between two registries that others wrote, read back by a client that others wrote: Debian's docker-registry
//! and skopeo, with the corpus that python3 makes and loads. Invariant: where one of them is missing the tests say so and
//! pass, unless `MIRROR_REQUIRE_PEERS=1`, when they fail.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use airgap_mirror::image::Digest;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

/// Whether the peers are here. Writes past the test harness, so that a skip is seen.
fn peers_are_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing: Vec<_> = ["docker-registry", "skopeo", "python3"].into_iter().filter(|name| !found(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("MIRROR_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    assert!(!required, "required but not installed: {missing:?}; on Debian: apt-get install {}", missing.join(" "));
    let _ = writeln!(io::stderr(), "\n*** SKIPPED a test against other programs; not installed: {}", missing.join(" "));
    false
}

/// A docker-registry on a free port of 127.0.0.1, stopped when dropped.
struct DockerRegistry {
    address: String,
    child: Child,
}

impl DockerRegistry {
    fn start(work: &Path, name: &str) -> DockerRegistry {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it is bound").to_string();
        drop(free);
        let directory = work.join(name);
        fs::create_dir(&directory).expect("a directory for the registry");
        let config = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{address}\"}}\n\
             validation: {{manifests: {{urls: {{allow: ['^https?://']}}}}}}\n",
            directory
        );
        let file = work.join(format!("{name}.yml"));
        fs::write(&file, config).expect("the registry's configuration can be written");
        let log = File::create(work.join(format!("{name}.log"))).expect("a log");
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), file.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let registry = DockerRegistry { address, child };
        for _ in 0..200 {
            if TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen on {}", registry.address);
    }

    /// Status and body of a GET.
    fn get(&self, path: &str) -> (u16, Vec<u8>) {
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
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Two registries, the low one with the tiny corpus under `tiny/`.
struct Sides {
    work: TempDir,
    low: DockerRegistry,
    high: DockerRegistry,
    corpus: PathBuf,
    sources: PathBuf,
}

impl Sides {
    fn new() -> Sides {
        let work = TempDir::new().expect("a temporary directory");
        let (low, high) = (DockerRegistry::start(work.path(), "low"), DockerRegistry::start(work.path(), "high"));
        let (corpus, sources) = (work.path().join("corpus"), work.path().join("sources.list"));
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/corpus");
        run(Command::new("python3")
            .arg(scripts.join("make_corpus.py"))
            .args(["--profile", "tiny", "--out"])
            .arg(&corpus));
        run(Command::new("python3")
            .arg(scripts.join("load_corpus.py"))
            .arg(&corpus)
            .arg(format!("http://{}", low.address))
            .args(["--prefix", "tiny/", "--sources"])
            .arg(&sources));
        Sides { work, low, high, corpus, sources }
    }

    fn path(&self, name: &str) -> String {
        self.work.path().join(name).to_str().expect("temporary paths are UTF-8").into()
    }

    fn mirror(&self, arguments: &[&str]) {
        let home = self.work.path();
        run(Command::new(cargo_bin("mirror"))
            .args(arguments)
            .current_dir(home)
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home)
            .env_remove("MIRROR_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE"));
    }

    /// The four commands; what was `LOW/tiny/X` is `HIGH/moved/X` afterwards.
    fn road(&self, flags: &[&str]) {
        let (low, high) = (format!("{}/gather:sync", self.low.address), format!("{}/scatter:sync", self.high.address));
        let rules = self.path("dest.csv");
        fs::write(&rules, format!("{}/tiny/,{}/moved/\n", self.low.address, self.high.address)).expect("a ruleset");
        let (sources, archive) = (self.path("sources.list"), self.path("sync.tar"));
        let mapper = format!("all-prefix={rules}");
        let step = |arguments: &[&str]| {
            self.mirror(&[&arguments[..1], flags, &arguments[1..]].concat());
        };
        step(&["gather", &sources, &low]);
        step(&["serialize", &low, &archive]);
        self.mirror(&["deserialize", &archive, &high]);
        step(&["scatter", &high, &mapper]);
    }

    /// The listed sources, as `REPO:TAG` without the prefix.
    fn images(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.sources).expect("the loader wrote a list");
        let prefix = format!("{}/tiny/", self.low.address);
        text.lines().map(|line| line.strip_prefix(&prefix).expect("it is under the prefix").into()).collect()
    }
}

fn skopeo_copy(from: &str, to: &Path) -> Output {
    Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false", from])
        .arg(format!("dir:{}", to.display()))
        .stdin(Stdio::null())
        .output()
        .expect("skopeo starts")
}

fn skopeo_raw(reference: &str) -> Vec<u8> {
    run(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]))
        .stdout
}

#[test]
fn skopeo_reads_back_every_image() {
    if !peers_are_here() {
        return;
    }
    let sides = Sides::new();
    sides.road(&[]);
    let images = sides.images();
    assert!(images.len() > 20, "the loader listed only {}", images.len());
    for (number, image) in images.iter().enumerate() {
        let (from, to) =
            (format!("{}/tiny/{image}", sides.low.address), format!("{}/moved/{image}", sides.high.address));
        assert_eq!(Digest::sha256(&skopeo_raw(&from)), Digest::sha256(&skopeo_raw(&to)), "{image}");
        // Some of the edge cases skopeo cannot copy from anywhere.
        let copied = |reference: &str, name: &str| {
            skopeo_copy(&format!("docker://{reference}"), &sides.work.path().join(format!("{name}-{number}")))
        };
        if copied(&from, "from").status.success() {
            let output = copied(&to, "to");
            assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn every_root_arrives_byte_identical() {
    if !peers_are_here() {
        return;
    }
    let sides = Sides::new();
    sides.road(&["--recursive"]);
    let corpus: Value = serde_json::from_slice(&fs::read(sides.corpus.join("corpus.json")).expect("the inventory"))
        .expect("the inventory is JSON");
    let roots = corpus["roots"].as_array().expect("it lists the roots");
    let listed: BTreeSet<_> = sides.images().into_iter().collect();
    let mut arrived = 0;
    for root in roots {
        let (repo, digest) = (root["repo"].as_str().expect("a repository"), root["digest"].as_str().expect("a digest"));
        let name = root["tag"].as_str().unwrap_or(digest);
        if root["tag"].is_string() && !listed.contains(&format!("{repo}:{name}")) {
            continue;
        }
        let (before, expected) = sides.low.get(&format!("/v2/tiny/{repo}/manifests/{name}"));
        let (after, bytes) = sides.high.get(&format!("/v2/moved/{repo}/manifests/{name}"));
        assert_eq!((before, after), (200, 200), "{repo} {name}");
        assert_eq!(expected, bytes, "{repo} {name}");
        assert_eq!(Digest::sha256(&bytes).to_string(), digest, "{repo} {name}");
        arrived += 1;
        blobs_arrived(&sides, repo, &bytes);
    }
    assert_eq!((arrived, roots.len()), (44, 44));
}

/// Everything that a manifest needs is in the repository, and is what its digest says.
fn blobs_arrived(sides: &Sides, repo: &str, manifest: &[u8]) {
    let json: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
    for child in json["manifests"].as_array().into_iter().flatten() {
        let digest = child["digest"].as_str().expect("a digest");
        let (status, bytes) = sides.high.get(&format!("/v2/moved/{repo}/manifests/{digest}"));
        assert_eq!((status, Digest::sha256(&bytes).to_string().as_str()), (200, digest), "{repo}");
        blobs_arrived(sides, repo, &bytes);
    }
    for blob in json["layers"].as_array().into_iter().flatten().chain(json.get("config")) {
        let media_type = blob["mediaType"].as_str().unwrap_or_default();
        if media_type.contains("foreign") || media_type.contains("nondistributable") {
            continue;
        }
        let digest: Digest = blob["digest"].as_str().expect("a digest").parse().expect("a digest");
        let (status, bytes) = sides.high.get(&format!("/v2/moved/{repo}/blobs/{digest}"));
        assert_eq!((status, Digest::of(digest.algorithm(), &bytes)), (200, digest), "{repo}");
    }
}

#[test]
fn skopeo_reads_our_archive() {
    if !peers_are_here() {
        return;
    }
    let sides = Sides::new();
    let images = ["team-1/app-003:v1.3", "team-0/app-002:v1.2", "edge/plain:v1"];
    let list: String = images.iter().map(|image| format!("{}/tiny/{image}\n", sides.low.address)).collect();
    fs::write(&sides.sources, list).expect("a list");
    let (sources, layout, archive) = (sides.path("sources.list"), sides.path("layout"), sides.path("sync.tar"));
    let gather = format!("oci:{layout}:sync");
    sides.mirror(&["gather", &sources, &gather]);
    sides.mirror(&["serialize", &gather, &archive]);
    let out = sides.work.path().join("out");
    let output = skopeo_copy(&format!("oci-archive:{archive}:sync"), &out);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for image in images {
        let (_, manifest) = sides.low.get(&format!("/v2/tiny/{}", image.replace(':', "/manifests/")));
        let file = out.join(format!("{}.manifest.json", Digest::sha256(&manifest).hex()));
        assert_eq!(fs::read(&file).expect("skopeo wrote each manifest"), manifest, "{image}");
    }
}
