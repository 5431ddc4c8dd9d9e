//! Credentials: what they are, in which files they are looked for, and in which order.
//!
//! Invariant: a secret is a [`SecretString`] from the moment it is parsed, so that `Debug` never shows it;
//! the first file that has a credential for the most specific scope wins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::Mutex;

use super::auth_file::{AuthFile, Lookup};
use super::{Environment, Origin, Result, Setting, helper, read_bounded};

/// What proves to a registry, or to its token server, who asks.
#[derive(Clone, Debug)]
pub enum Credential {
    Basic {
        user: String,
        password: SecretString,
    },
    /// An OAuth2 refresh token: to be traded for access tokens at the token server.
    Identity(SecretString),
    /// A token to be sent as it is.
    Bearer(SecretString),
}

type Answers = HashMap<(String, String), Option<Credential>>;

/// The credential files, in the order in which they are searched. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    files: Vec<PathBuf>,
    /// What helpers said, by helper and server: one may ask the user each time.
    answers: Arc<Mutex<Answers>>,
    fixed: Option<Credential>,
}

impl Chain {
    /// `$REGISTRY_AUTH_FILE`, `configured` (`registryAuthFile` of the configuration),
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`,
    /// `$DOCKER_CONFIG/config.json`, `~/.docker/config.json`.
    pub fn new(environment: &Environment, configured: Option<&Path>) -> Chain {
        let under = |directory: Option<PathBuf>, name: &str| Some(directory?.join(name));
        let files = [
            environment.path("REGISTRY_AUTH_FILE"),
            configured.map(Path::to_owned),
            under(environment.path("XDG_RUNTIME_DIR"), "containers/auth.json"),
            under(environment.config_home(), "containers/auth.json"),
            under(environment.path("DOCKER_CONFIG"), "config.json"),
            under(environment.path("HOME"), ".docker/config.json"),
        ];
        Chain::of(files.into_iter().flatten().collect())
    }

    /// Those files and no others.
    pub fn of(files: Vec<PathBuf>) -> Chain {
        Chain { files, ..Chain::default() }
    }

    /// That credential for whatever is asked for: to try one that is kept nowhere yet.
    pub fn fixed(credential: Credential) -> Chain {
        Chain { fixed: Some(credential), ..Chain::default() }
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Searches the files in order. One that does not exist is passed over; one that cannot be read or
    /// is not valid is an error, since the credential might be in it.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        if self.fixed.is_some() {
            return Ok(self.fixed.clone());
        }
        Ok(self.find_with_file(registry, repository).await?.map(|(_, credential)| credential))
    }

    /// [`Chain::find`], and the file that has it or names its helper.
    pub async fn find_with_file(&self, registry: &str, repository: &str) -> Result<Option<(&Path, Credential)>> {
        for path in &self.files {
            let Some(text) = read_bounded(path)? else { continue };
            for lookup in AuthFile::parse(&text, path)?.lookups(registry, repository, path)? {
                let found = match lookup {
                    Lookup::Found(credential) => Some(credential),
                    Lookup::Helper { name, server } => self.ask(name, server).await?,
                };
                if let Some(credential) = found {
                    return Ok(Some((path, credential)));
                }
            }
        }
        Ok(None)
    }

    /// The files in their order, and what each one keeps, with its secrets masked.
    pub(super) fn settings(&self) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        for path in &self.files {
            let Some(text) = read_bounded(path)? else { continue };
            let origin = Origin::File { file: path.display().to_string(), line: None };
            for (key, value) in AuthFile::parse(&text, path)?.masked(path)? {
                settings.push(Setting::new(format!("credentials.{key}"), value, origin.clone()));
            }
        }
        Ok(settings)
    }

    async fn ask(&self, name: String, server: String) -> Result<Option<Credential>> {
        // Held while the helper runs: two questions at once would be two prompts.
        let mut answers = self.answers.lock().await;
        let key = (name, server);
        if let Some(answer) = answers.get(&key) {
            return Ok(answer.clone());
        }
        let answer = helper::get(&key.0, &key.1).await?;
        answers.insert(key, answer.clone());
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_and_their_order() {
        let p = Path::new;
        let all = Environment::of(&[
            ("REGISTRY_AUTH_FILE", p("/r/a.json")),
            ("XDG_RUNTIME_DIR", p("/run/u")),
            ("XDG_CONFIG_HOME", p("/x")),
            ("DOCKER_CONFIG", p("/d")),
            ("HOME", p("/h")),
        ]);
        let files = [
            "/r/a.json",
            "/c.json",
            "/run/u/containers/auth.json",
            "/x/containers/auth.json",
            "/d/config.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(Chain::new(&all, Some(p("/c.json"))).files(), files.map(PathBuf::from));
        let home = Environment::of(&[("HOME", p("/h"))]);
        let files = ["/h/.config/containers/auth.json", "/h/.docker/config.json"];
        assert_eq!(Chain::new(&home, None).files(), files.map(PathBuf::from));
    }

    #[tokio::test]
    async fn the_first_file_with_a_match_wins_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let missing = dir.path().join("none.json");
        let one = write("1.json", r#"{"auths": {"other": {"auth": "dTpv"}}}"#);
        let two = write("2.json", r#"{"auths": {"reg.low": {"auth": "dTp0d28="}}}"#);
        let three = write("3.json", r#"{"auths": {"reg.low/a": {"auth": "dTp0aHJlZQ=="}}}"#);
        let chain = Chain::of(vec![missing, one.clone(), two.clone(), three]);
        let (path, credential) = chain.find_with_file("reg.low", "a").await.unwrap().unwrap();
        assert_eq!(path, two);
        assert!(!format!("{credential:?} {chain:?}").contains("two"), "{credential:?}");
        assert!(chain.find("reg.high", "a").await.unwrap().is_none());
        std::fs::write(&one, "{\n \"auths\": {,}\n}").unwrap();
        let said = chain.find("reg.low", "a").await.unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}:2:", one.display())) && said.ends_with("not valid JSON"), "{said}");
    }
}
