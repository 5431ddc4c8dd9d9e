//! Keeping and forgetting credentials: what `mirror login` and `mirror logout` do to a credential file, in
//! the form that podman, skopeo and Docker read too.
//!
//! Invariant: a file is replaced whole or left as it was, is readable by its owner only, and keeps
//! everything in it that is not the one entry.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::auth_file::{self, AuthFile, BASE64};
use super::{Environment, Error, Result, helper, read_bounded};

/// Where a credential is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the credential file itself, base64-coded, which hides nothing.
    File,
    /// With `docker-credential-NAME`; the file only names it.
    Helper(String),
}

/// The file that login and logout change when none is named: `$REGISTRY_AUTH_FILE`, else `configured`
/// (`registryAuthFile` of the configuration), else `$XDG_RUNTIME_DIR/containers/auth.json`, else
/// `~/.config/containers/auth.json`. `None`: nothing says where the home directory is.
pub fn default_file(environment: &Environment, configured: Option<&Path>) -> Option<PathBuf> {
    environment
        .path("REGISTRY_AUTH_FILE")
        .or_else(|| configured.map(Path::to_owned))
        .or_else(|| environment.path("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")))
        .or_else(|| environment.config_home().map(|d| d.join("containers/auth.json")))
}

/// Keeps a credential for `registry`, or for what is under `repository` of it if that is not empty.
pub async fn store(file: &Path, registry: &str, repository: &str, user: &str, password: &SecretString) -> Result<Kept> {
    if user.is_empty() || user.contains(':') {
        return Err(Error::Refused("a user name must not be empty or hold a colon".into()));
    }
    let scope = auth_file::scope(registry, repository);
    // A helper may take its time: the file is not held while it does.
    let helper = if repository.is_empty() { Edit::open(file)?.parsed.helper_of(registry) } else { None };
    let (entry, kept) = match helper {
        Some((name, server)) => {
            helper::store(&name, &server, user, password).await?;
            (Value::Object(Map::new()), Kept::Helper(name))
        }
        None => {
            let auth = BASE64.encode(format!("{user}:{}", password.expose_secret()));
            (serde_json::json!({ "auth": auth }), Kept::File)
        }
    };
    let _held = hold(file).await?;
    let mut edit = Edit::open(file)?;
    let auths = edit.section("auths")?;
    let keys = entry_keys(auths, &scope);
    let key = keys.first().cloned().unwrap_or_else(|| new_key(file, &scope));
    // Another spelling of the same key would say something else.
    for other in &keys {
        auths.remove(other);
    }
    auths.insert(key, entry);
    edit.replace()?;
    Ok(kept)
}

/// Forgets the credential for exactly `registry`, or `registry/repository`. `false`: there was none.
pub async fn remove(file: &Path, registry: &str, repository: &str) -> Result<bool> {
    if read_bounded(file)?.is_none() {
        return Ok(false);
    }
    let helper = if repository.is_empty() { Edit::open(file)?.parsed.helper_of(registry) } else { None };
    let erased = match helper {
        Some((name, server)) => helper::erase(&name, &server).await?,
        None => false,
    };
    let _held = hold(file).await?;
    let mut edit = Edit::open(file)?;
    let scope = auth_file::scope(registry, repository);
    let auths = edit.section("auths")?;
    let keys = entry_keys(auths, &scope);
    for key in &keys {
        auths.remove(key);
    }
    if !keys.is_empty() {
        edit.replace()?;
    }
    Ok(erased || !keys.is_empty())
}

/// The keys in the file that stand for `scope`.
fn entry_keys(auths: &Map<String, Value>, scope: &str) -> Vec<String> {
    auths.keys().filter(|key| auth_file::canonical_key(key) == scope).cloned().collect()
}

/// Docker finds Docker Hub under its old address only; podman finds both.
fn new_key(file: &Path, scope: &str) -> String {
    let dockers = file.file_name().is_some_and(|name| name == "config.json");
    if dockers && scope == "docker.io" { auth_file::DOCKER_HUB_SERVER.into() } else { scope.into() }
}

/// A credential file between reading and writing.
struct Edit {
    path: PathBuf,
    content: Map<String, Value>,
    parsed: AuthFile,
}

impl Edit {
    fn open(file: &Path) -> Result<Edit> {
        let path = real(file);
        let text = read_bounded(&path)?.unwrap_or_default();
        // Also says what is wrong with a file that cannot be used.
        let parsed = AuthFile::parse(&text, &path)?;
        let content = if text.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(&text).map_err(|_| wrong(&path, "not a JSON object"))?
        };
        Ok(Edit { path, content, parsed })
    }

    fn section(&mut self, name: &str) -> Result<&mut Map<String, Value>> {
        let section = self.content.entry(name).or_insert_with(|| Value::Object(Map::new()));
        section.as_object_mut().ok_or_else(|| wrong(&self.path, &format!("{name} is not an object")))
    }

    /// Writes the file anew: mode 0600, by a rename. Its directory must exist.
    fn replace(self) -> Result<()> {
        let directory = directory_of(&self.path);
        let io = |e| Error::io(&self.path, e);
        // Made with mode 0600.
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(io)?;
        serde_json::to_writer_pretty(&mut temporary, &self.content).map_err(|e| io(e.into()))?;
        temporary.write_all(b"\n").map_err(io)?;
        temporary.as_file().sync_all().map_err(io)?;
        temporary.persist(&self.path).map_err(|e| io(e.error))?;
        Ok(())
    }
}

/// How long to wait for others that change the same file.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps others from changing the file, until it is dropped: of two that read it and then replace it, one would lose
/// what the other wrote. Makes the file's directory, which is what is locked, since the file itself is replaced.
async fn hold(file: &Path) -> Result<File> {
    let path = real(file);
    let directory = directory_of(&path);
    let io = |e| Error::io(directory, e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let held = File::open(directory).map_err(io)?;
    let begun = Instant::now();
    loop {
        match held.try_lock() {
            Ok(()) => return Ok(held),
            Err(TryLockError::Error(e)) => return Err(io(e)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let reason = format!("{}: another program has been changing it for {PATIENCE:?}", path.display());
                return Err(Error::Refused(reason));
            }
        }
    }
}

/// The file behind a link is the one that is replaced, not the link.
fn real(file: &Path) -> PathBuf {
    std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::Invalid { path: path.display().to_string(), line: None, column: None, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Credential;
    use crate::config::credentials::Chain;

    async fn found(file: &Path, registry: &str, repository: &str) -> Option<String> {
        match Chain::of(vec![file.to_owned()]).find(registry, repository).await.unwrap()? {
            Credential::Basic { user, password } => Some(format!("{user}:{}", password.expose_secret())),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_found_and_what_is_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/auth.json");
        let secret = SecretString::from("p:w");
        assert_eq!(store(&file, "reg.low", "", "u", &secret).await.unwrap(), Kept::File);
        store(&file, "reg.low", "org/app", "a", &secret).await.unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(found(&file, "reg.low", "x").await.unwrap(), "u:p:w");
        assert_eq!(found(&file, "reg.low", "org/app").await.unwrap(), "a:p:w");
        assert!(remove(&file, "reg.low", "").await.unwrap());
        assert!(!remove(&file, "reg.low", "").await.unwrap());
        assert_eq!(found(&file, "reg.low", "x").await, None);
        assert_eq!(found(&file, "reg.low", "org/app").await.unwrap(), "a:p:w");
        assert!(!remove(&dir.path().join("none.json"), "reg.low", "").await.unwrap());
        assert!(store(&file, "reg.low", "", "a:b", &secret).await.is_err());
    }

    #[tokio::test]
    async fn everything_else_in_the_file_stays_and_so_does_a_link_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("config.json"), dir.path().join("link.json"));
        let before = r#"{"HttpHeaders": {"A": "b"}, "auths": {"https://reg.low/v1/": {"auth": "eDp5"}, "other": {"auth": "eDp5"}}, "detachKeys": "ctrl-e"}"#;
        std::fs::write(&real, before).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        store(&link, "reg.low", "", "u", &"p".into()).await.unwrap();
        store(&real, "docker.io", "", "h", &"p".into()).await.unwrap();
        assert!(link.is_symlink());
        let after: Value = serde_json::from_str(&std::fs::read_to_string(&real).unwrap()).unwrap();
        let expected = serde_json::json!({
            "HttpHeaders": {"A": "b"},
            "auths": {
                "https://reg.low/v1/": {"auth": "dTpw"},
                "other": {"auth": "eDp5"},
                "https://index.docker.io/v1/": {"auth": "aDpw"},
            },
            "detachKeys": "ctrl-e",
        });
        assert_eq!(after, expected);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn logins_at_the_same_time_lose_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/auth.json");
        let logins = (0..24).map(|n| {
            let file = file.clone();
            tokio::spawn(async move { store(&file, &format!("reg{n}.low"), "", "u", &"p".into()).await })
        });
        for login in logins.collect::<Vec<_>>() {
            login.await.unwrap().unwrap();
        }
        let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(kept["auths"].as_object().unwrap().len(), 24);
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        for text in ["{\"auths\": [", "[]", "{\"auths\": 5}"] {
            std::fs::write(&file, text).unwrap();
            assert!(store(&file, "reg.low", "", "u", &"p".into()).await.is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn the_file_that_is_written() {
        let p = Path::new;
        let home = ("HOME", p("/h"));
        let run = ("XDG_RUNTIME_DIR", p("/run/u"));
        let named = ("REGISTRY_AUTH_FILE", p("/r.json"));
        let file = |values: &[_], configured| default_file(&Environment::of(values), configured).unwrap();
        assert_eq!(file(&[home], None), p("/h/.config/containers/auth.json"));
        assert_eq!(file(&[home, run], None), p("/run/u/containers/auth.json"));
        assert_eq!(file(&[home, run], Some(p("/c.json"))), p("/c.json"));
        assert_eq!(file(&[home, run, named], Some(p("/c.json"))), p("/r.json"));
        assert_eq!(default_file(&Environment::of(&[]), None), None);
    }
}
