//! One row tried through the binary: a registry that misbehaves, the commands that meet the fault, and what has to be true
//! afterwards. Invariant: exit code 0 with anything missing, a hang, a leaked credential, an unescaped control character
//! and a panic fail every row, whatever else it expects.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::content::{self, Content, IMAGES};
use super::registry::{Auth, Fault, Instead, Options, PASSWORD, Registry, Seen, Sound, USER};
use super::wire::{Answer, Head};

/// Longer than this is a hang.
const LIMIT: Duration = Duration::from_secs(60);
/// Seconds of silence that the program puts up with.
const SILENCE: &str = "2";
/// Most resident memory of a run: the byte budget of 64 MiB, 32 MiB besides, and what a debug build costs.
pub const MEMORY_KIB: u64 = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    /// Faulty registry to a layout.
    Gather,
    /// Faulty registry to an archive.
    Serialize,
    /// Layout to the faulty registry.
    GatherInto,
    /// Archive to the faulty registry.
    Deserialize,
    /// From one repository of the faulty registry to another.
    Within,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect<'a> {
    Finish,
    /// Exit code 1, and a message that holds each of these.
    Error(&'a [&'a str]),
    Either,
}

/// A row, being put together.
pub struct Trial {
    verbs: &'static [Verb],
    options: Options,
    silence: &'static str,
    fault: Box<dyn Fn() -> Arc<dyn Fault> + Sync>,
}

/// What one command did.
pub struct Run {
    pub what: String,
    pub seen: Vec<Seen>,
    pub content: Content,
}

/// Pulling: `gather` and `serialize` from the faulty registry.
pub fn pull() -> Trial {
    Trial::of(&[Verb::Gather, Verb::Serialize])
}

/// Pulling by name: `gather` only.
pub fn pull_images() -> Trial {
    Trial::of(&[Verb::Gather])
}

/// Pushing: `gather` and `deserialize` into the faulty registry.
pub fn push() -> Trial {
    Trial::of(&[Verb::GatherInto, Verb::Deserialize])
}

/// Copying inside the faulty registry, where blobs can be mounted.
pub fn within() -> Trial {
    Trial::of(&[Verb::Within])
}

/// All of it.
pub fn both_ways() -> Trial {
    Trial::of(&[Verb::Gather, Verb::Serialize, Verb::GatherInto, Verb::Deserialize])
}

struct Before<F>(F);
impl<F: Fn(&Head, usize) -> Option<Instead> + Send + Sync> Fault for Before<F> {
    fn before(&self, head: &Head, nth: usize) -> Option<Instead> {
        (self.0)(head, nth)
    }
}

struct After<F>(F);
impl<F: Fn(&Head, usize, &mut Answer) + Send + Sync> Fault for After<F> {
    fn after(&self, head: &Head, nth: usize, answer: &mut Answer) {
        (self.0)(head, nth, answer)
    }
}

impl Trial {
    fn of(verbs: &'static [Verb]) -> Trial {
        Trial { verbs, options: Options::default(), silence: SILENCE, fault: Box::new(|| Arc::new(Sound)) }
    }

    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// The program puts up with so many seconds of silence.
    pub fn silence(self, seconds: &'static str) -> Self {
        Trial { silence: seconds, ..self }
    }

    /// Acts on requests before the registry sees them.
    pub fn before<F>(self, fault: F) -> Self
    where
        F: Fn(&Head, usize) -> Option<Instead> + Send + Sync + Clone + 'static,
    {
        self.fault(move || Arc::new(Before(fault.clone())))
    }

    /// Acts on answers before they are sent.
    pub fn after<F>(self, fault: F) -> Self
    where
        F: Fn(&Head, usize, &mut Answer) + Send + Sync + Clone + 'static,
    {
        self.fault(move || Arc::new(After(fault.clone())))
    }

    /// A fault with a state of its own, made anew for each command.
    pub fn fault(mut self, make: impl Fn() -> Arc<dyn Fault> + Sync + 'static) -> Self {
        self.fault = Box::new(make);
        self
    }

    pub fn finishes(self) -> Vec<Run> {
        self.run(Expect::Finish)
    }

    pub fn fails(self, needles: &[&str]) -> Vec<Run> {
        self.run(Expect::Error(needles))
    }

    pub fn either(self) -> Vec<Run> {
        self.run(Expect::Either)
    }

    fn run(self, expect: Expect) -> Vec<Run> {
        thread::scope(|scope| {
            let runs: Vec<_> = self.verbs.iter().map(|verb| scope.spawn(|| self.one(*verb, expect))).collect();
            runs.into_iter().map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn one(&self, verb: Verb, expect: Expect) -> Run {
        let seeds = Seeds::get();
        let work = TempDir::new().expect("a temporary directory");
        let content = match verb {
            Verb::Gather | Verb::Within => Content::images().clone(),
            Verb::Serialize => seeds.gathered.clone(),
            Verb::GatherInto | Verb::Deserialize => Content::default(),
        };
        let registry = Registry::start(content, self.options);
        registry.inject((self.fault)());
        let auth = work.path().join("auth.json");
        if self.options.auth != Auth::None {
            write_auth(&auth, &[registry.address()]);
        }
        let to = format!("{}/gather:x", registry.address());
        let output = work.path().join("out");
        let list = work.path().join("sources.list");
        let from = |prefix: &str| {
            let lines: String = IMAGES.iter().map(|image| format!("{prefix}{image}\n")).collect();
            fs::write(&list, lines).expect("the list can be written");
        };
        let layout = format!("oci:{}:x", output.display());
        let (list, out) = (text(&list), text(&output));
        let arguments: Vec<&str> = match verb {
            Verb::Gather => {
                from(&format!("{}/", registry.address()));
                vec!["gather", "-r", &list, &layout]
            }
            Verb::Serialize => vec!["serialize", "-r", &to, &out],
            Verb::GatherInto => {
                from(&format!("oci:{}:", seeds.layout.display()));
                vec!["gather", "-r", &list, &to]
            }
            Verb::Deserialize => vec!["deserialize", &seeds.archive_text, &to],
            Verb::Within => {
                from(&format!("{}/", registry.address()));
                vec!["gather", "-r", &list, &to]
            }
        };
        let ended = mirror_with(self.silence, &arguments, work.path(), &auth, Stdio::null());
        let what = format!("mirror {}\n{}", arguments.join(" "), ended.stderr);
        let code = ended.code.unwrap_or_else(|| panic!("hung for {LIMIT:?}: {what}"));
        assert!(ended.peak_kib < MEMORY_KIB, "{} KiB of memory: {what}", ended.peak_kib);
        assert!(code == 0 || code == 1, "exit code {code}: {what}");
        let seen = registry.seen();
        leaks(&seen, &ended, &what);

        let after = registry.content();
        let arrived = match verb {
            Verb::Gather => in_layout(&output),
            Verb::Serialize => in_archive(&output),
            Verb::GatherInto | Verb::Deserialize | Verb::Within => in_repository(&after),
        };
        match expect {
            Expect::Finish => assert_eq!(code, 0, "it should have finished: {what}"),
            Expect::Error(needles) => {
                assert_eq!(code, 1, "it should have failed: {what}");
                for needle in needles {
                    assert!(ended.stderr.contains(needle), "the message does not say {needle:?}: {what}");
                }
            }
            Expect::Either => assert!(code == 0 || !ended.stderr.trim().is_empty(), "silence: {what}"),
        }
        match (code, arrived) {
            (0, Some(digests)) => {
                let missing: Vec<_> = Content::images().digests().difference(&digests).cloned().collect();
                assert!(missing.is_empty(), "exit code 0, but these are missing: {missing:?}: {what}");
            }
            (0, None) => panic!("exit code 0, but nothing is there: {what}"),
            (_, Some(_)) => panic!("a failure that left its result in place: {what}"),
            (_, None) => {}
        }
        Run { what, seen, content: after }
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are UTF-8").into()
}

pub fn write_auth(path: &Path, registries: &[&str]) {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let auths: serde_json::Map<_, _> = registries.iter().map(|r| (r.to_string(), json!({"auth": auth}))).collect();
    let file = json!({"auths": auths});
    fs::write(path, file.to_string()).expect("the credentials can be written");
}

/// What must never be seen, whatever the row.
fn leaks(seen: &[Seen], ended: &Ended, what: &str) {
    for request in seen.iter().filter(|s| s.storage) {
        let carried =
            ["authorization", "cookie", "proxy-authorization"].iter().any(|h| request.head.header(h).is_some());
        assert!(!carried, "a credential went to another origin: {:?}: {what}", request.head);
    }
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for secret in [PASSWORD, &encoded, "token-"] {
        assert!(!said.contains(secret), "a secret was printed: {what}");
    }
    let control = said.chars().find(|c| c.is_control() && *c != '\n');
    assert!(control.is_none(), "{control:?} was printed: {what}");
}

/// How a command ended.
pub struct Ended {
    /// `None` when it had to be killed.
    pub code: Option<i32>,
    stdout: String,
    pub stderr: String,
    pub peak_kib: u64,
}

pub fn mirror(arguments: &[&str], work: &Path, auth: &Path, input: Stdio) -> Ended {
    mirror_with(SILENCE, arguments, work, auth, input)
}

fn mirror_with(silence: &str, arguments: &[&str], work: &Path, auth: &Path, input: Stdio) -> Ended {
    let (out, err) = (work.join("stdout"), work.join("stderr"));
    let mut command = Command::new(cargo_bin("mirror"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_RUNTIME_DIR"]
    {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .current_dir(work)
        .env("HOME", work)
        .env("XDG_CONFIG_HOME", work)
        .env("DOCKER_CONFIG", work)
        .env("MIRROR_SILENCE_TIMEOUT", silence)
        .env("NO_COLOR", "1")
        .stdin(input)
        .stdout(File::create(&out).expect("a file for stdout"))
        .stderr(File::create(&err).expect("a file for stderr"));
    if auth.exists() {
        command.env("REGISTRY_AUTH_FILE", auth);
    }
    let mut child = command.spawn().expect("the binary starts");
    let (begun, mut peak_kib) = (Instant::now(), 0);
    let code = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break Some(status.code().unwrap_or(-1));
        }
        peak_kib = peak_kib.max(peak(child.id()));
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    Ended { code, stdout: read(&out), stderr: read(&err), peak_kib }
}

/// Most resident memory so far of the program that runs as this process, where the system tells.
///
/// A child that is about to become the program still shares its parent's memory, for a moment after `spawn` has
/// returned too: its peak counts only once it is the program.
fn peak(pid: u32) -> u64 {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    if program.is_ok_and(|program| env::current_exe().is_ok_and(|this| this == program)) {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The verified digests in a layout, if it has the tag.
fn in_layout(layout: &Path) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).ok()?).ok()?;
    let tagged = |d: &Value| d["annotations"]["org.opencontainers.image.ref.name"] == "x";
    index["manifests"].as_array()?.iter().find(|d| tagged(d))?;
    let blobs = fs::read_dir(layout.join("blobs/sha256")).ok()?;
    let digests = blobs.flatten().map(|file| {
        let digest = format!("sha256:{}", file.file_name().to_string_lossy());
        let bytes = fs::read(file.path()).expect("a blob can be read");
        (content::is(&digest, &bytes)).then_some(digest)
    });
    Some(digests.flatten().collect())
}

/// The verified digests in an archive, if there is one.
fn in_archive(archive: &Path) -> Option<BTreeSet<String>> {
    let tar = fs::read(archive).ok()?;
    let digests = content::entries(&tar).into_iter().filter_map(|(name, bytes)| {
        let digest = name.strip_prefix("blobs/")?.replace('/', ":");
        content::is(&digest, &bytes).then_some(digest)
    });
    Some(digests.collect())
}

/// The verified digests in the repository that was gathered into, if it has the tag.
fn in_repository(content: &Content) -> Option<BTreeSet<String>> {
    let repository = content.repositories.get("gather")?;
    repository.tags.get("x")?;
    Some(repository.manifests.keys().chain(&repository.blobs).cloned().collect())
}

/// What the commands need to begin with, made once.
struct Seeds {
    _work: TempDir,
    layout: PathBuf,
    archive_text: String,
    /// A registry's content after a gather inside of it.
    gathered: Content,
}

impl Seeds {
    fn get() -> &'static Seeds {
        static SEEDS: OnceLock<Seeds> = OnceLock::new();
        SEEDS.get_or_init(|| {
            let work = TempDir::new().expect("a temporary directory");
            let layout = work.path().join("layout");
            write_layout(&layout);
            let list = work.path().join("sources.list");
            let registry = Registry::start(Content::images().clone(), Options::default());
            let lines: String = IMAGES.iter().map(|image| format!("{}/{image}\n", registry.address())).collect();
            fs::write(&list, lines).expect("the list can be written");
            let archive = work.path().join("seed.tar");
            let gather = format!("{}/gather:x", registry.address());
            let none = work.path().join("none");
            for arguments in [["gather", "-r", &text(&list), &gather], ["serialize", "-r", &gather, &text(&archive)]] {
                let ended = mirror(&arguments, work.path(), &none, Stdio::null());
                assert_eq!(ended.code, Some(0), "mirror {} without any fault: {}", arguments.join(" "), ended.stderr);
            }
            let archive_text = text(&archive);
            Seeds { layout, archive_text, gathered: registry.content(), _work: work }
        })
    }
}

/// The images as a layout, named `REPO:TAG`, referrers without a name.
fn write_layout(layout: &Path) {
    let content = Content::images();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory can be made");
    let write = |digest: &str, bytes: &[u8]| {
        fs::write(blobs.join(&digest[7..]), bytes).expect("a blob can be written");
    };
    for (digest, bytes) in &content.blobs {
        write(digest, bytes);
    }
    let mut roots = Vec::new();
    for (name, repository) in &content.repositories {
        for (digest, (media_type, bytes)) in &repository.manifests {
            write(digest, bytes);
            let mut root = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
            if let Some(tag) = repository.tags.iter().find_map(|(tag, d)| (d == digest).then_some(tag)) {
                root["annotations"] = json!({"org.opencontainers.image.ref.name": format!("{name}:{tag}")});
            } else if content::subject(bytes).is_none() {
                continue;
            }
            roots.push(root);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": roots});
    fs::write(layout.join("index.json"), index.to_string()).expect("the index can be written");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the marker can be written");
}
