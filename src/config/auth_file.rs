//! One credential file: containers-auth.json(5) and Docker's config.json have the same form. Parsing and
//! the search within one file; no I/O.
//!
//! Invariant: an entry is only ever given out for the host it is written for, and for repositories at or
//! under its path; no error message holds what the file holds.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Credential;
use super::origin::MASK;
use super::{Error, Result, canonical_host};

/// Standard alphabet, with or without padding.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What docker-credential helpers and Docker's file call Docker Hub.
pub(super) const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: Option<SecretString>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<SecretString>,
    #[serde(default)]
    identitytoken: Option<SecretString>,
    #[serde(default)]
    registrytoken: Option<SecretString>,
}

/// One place to look for a credential, in the order in which they are to be tried.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Credential),
    /// Ask `docker-credential-NAME` for `server`.
    Helper {
        name: String,
        server: String,
    },
}

impl AuthFile {
    pub fn parse(text: &str, path: &Path) -> Result<AuthFile> {
        if text.trim().is_empty() {
            return Ok(AuthFile::default());
        }
        serde_json::from_str(text).map_err(|e| Error::Invalid {
            path: path.display().to_string(),
            line: Some(e.line() as u64),
            column: Some(e.column() as u64),
            // The parser's own words may quote the value.
            reason: match e.classify() {
                serde_json::error::Category::Data => {
                    "a value is not of the kind that a credential file has here".into()
                }
                _ => "not valid JSON".into(),
            },
        })
    }

    /// What each key of this file has, without the secrets.
    pub fn masked(&self, path: &Path) -> Result<Vec<(String, Value)>> {
        let helper = |name: &str| Value::from(format!("docker-credential-{name}"));
        let mut entries: Vec<_> = self.cred_helpers.iter().map(|(key, name)| (key.clone(), helper(name))).collect();
        for (key, entry) in &self.auths {
            let credential = entry.as_ref().map(|entry| self.credential(key, entry, path)).transpose()?.flatten();
            // An entry without a credential says that a helper has it.
            entries.extend(credential.map(|credential| (key.clone(), credential.masked())));
        }
        entries.extend(self.creds_store.iter().filter(|name| !name.is_empty()).map(|name| ("*".into(), helper(name))));
        Ok(entries)
    }

    fn credential(&self, key: &str, entry: &Entry, path: &Path) -> Result<Option<Credential>> {
        entry.credential().map_err(|reason| Error::Invalid {
            path: path.display().to_string(),
            line: None,
            column: None,
            reason: format!("auths, key {key:?}: {reason}"),
        })
    }

    /// Where this file says that the credential is, most specific first.
    pub fn lookups(&self, registry: &str, repository: &str, path: &Path) -> Result<Vec<Lookup>> {
        let mut found = Vec::new();
        for scope in scopes(registry, repository) {
            for (key, name) in self.cred_helpers.iter().filter(|(key, _)| canonical_key(key) == scope) {
                found.push(Lookup::Helper { name: name.clone(), server: server(key) });
            }
            for (key, entry) in self.auths.iter().filter(|(key, _)| canonical_key(key) == scope) {
                let credential = entry.as_ref().map(|entry| self.credential(key, entry, path)).transpose()?;
                found.extend(credential.flatten().map(Lookup::Found));
            }
        }
        found.extend(self.store_of(registry).map(|(name, server)| Lookup::Helper { name, server }));
        Ok(found)
    }

    fn store_of(&self, registry: &str) -> Option<(String, String)> {
        let name = self.creds_store.clone().filter(|name| !name.is_empty())?;
        Some((name, server(&canonical_host(registry))))
    }

    /// The helper that keeps what belongs to a whole registry: its name, and what it knows the registry as.
    pub fn helper_of(&self, registry: &str) -> Option<(String, String)> {
        let host = canonical_host(registry);
        let own = self.cred_helpers.iter().find(|(key, _)| canonical_key(key) == host);
        own.map(|(key, name)| (name.clone(), server(key))).or_else(|| self.store_of(registry))
    }
}

impl Credential {
    fn masked(&self) -> Value {
        match self {
            Credential::Basic { user, .. } => json!({ "user": user, "password": MASK }),
            Credential::Identity(_) => json!({ "identityToken": MASK }),
            Credential::Bearer(_) => json!({ "registryToken": MASK }),
        }
    }
}

impl Entry {
    fn credential(&self) -> std::result::Result<Option<Credential>, String> {
        let filled = |secret: &&SecretString| !secret.expose_secret().is_empty();
        if let Some(token) = self.registrytoken.as_ref().filter(filled) {
            return Ok(Some(Credential::Bearer(token.clone())));
        }
        if let Some(token) = self.identitytoken.as_ref().filter(filled) {
            return Ok(Some(Credential::Identity(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(filled) {
            return decode(auth).map(Some);
        }
        match (&self.username, self.password.as_ref().filter(filled)) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Ok(Some(Credential::Basic { user: user.clone(), password: password.clone() }))
            }
            _ => Ok(None),
        }
    }
}

/// `auth`: base64 of `user:password`.
fn decode(auth: &SecretString) -> std::result::Result<Credential, String> {
    let bytes = BASE64.decode(auth.expose_secret().trim()).map_err(|_| "auth is not base64")?;
    let text = SecretString::from(String::from_utf8(bytes).map_err(|_| "auth is not base64 of a text")?);
    let (user, password) = text.expose_secret().split_once(':').ok_or("auth is not base64 of user:password")?;
    Ok(Credential::Basic { user: user.into(), password: password.trim_end_matches('\0').into() })
}

/// A key of the file as `host` or `host/path`: without scheme and without the `/v1/` or `/v2/` of an API.
pub(super) fn canonical_key(key: &str) -> String {
    let key = key.trim();
    let bare =
        key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = match path {
        "v1" | "v2" => "",
        path => path,
    };
    join(&canonical_host(host), path)
}

fn join(host: &str, path: &str) -> String {
    if path.is_empty() { host.into() } else { format!("{host}/{path}") }
}

/// `host/a/b`, `host/a`, `host`.
fn scopes(registry: &str, repository: &str) -> Vec<String> {
    let host = canonical_host(registry);
    let library = host == "docker.io" && !repository.contains('/') && !repository.is_empty();
    let mut path = if library { format!("library/{repository}") } else { repository.to_owned() };
    let mut scopes = Vec::new();
    while !path.is_empty() {
        scopes.push(join(&host, &path));
        path.truncate(path.rfind('/').unwrap_or(0));
    }
    scopes.push(host);
    scopes
}

/// A registry, or what is at and under a path of it, as [`canonical_key`] has it.
pub(super) fn scope(registry: &str, repository: &str) -> String {
    join(&canonical_host(registry), repository)
}

/// What a helper knows this key as.
fn server(key: &str) -> String {
    if canonical_key(key) == "docker.io" { DOCKER_HUB_SERVER.into() } else { key.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookups(text: &str, registry: &str, repository: &str) -> Vec<String> {
        let path = Path::new("auth.json");
        let found = AuthFile::parse(text, path).unwrap().lookups(registry, repository, path).unwrap();
        let show = |lookup| match lookup {
            Lookup::Found(Credential::Basic { user, password }) => format!("{user}:{}", password.expose_secret()),
            Lookup::Found(Credential::Identity(token)) => format!("identity {}", token.expose_secret()),
            Lookup::Found(Credential::Bearer(token)) => format!("bearer {}", token.expose_secret()),
            Lookup::Helper { name, server } => format!("{name} {server}"),
        };
        found.into_iter().map(show).collect()
    }

    fn basic(text: &str) -> String {
        format!(r#"{{"auth": "{}"}}"#, BASE64.encode(text))
    }

    #[test]
    fn the_longest_path_at_a_component_boundary_comes_first() {
        let file = format!(
            r#"{{"auths": {{"reg.low": {}, "reg.low/org": {}, "reg.low/org/app": {}, "reg.low/or": {}, "reg.low:5000": {}}}}}"#,
            basic("h:1"),
            basic("o:2"),
            basic("a:3"),
            basic("x:4"),
            basic("p:5")
        );
        assert_eq!(lookups(&file, "reg.low", "org/app/sub"), ["a:3", "o:2", "h:1"]);
        assert_eq!(lookups(&file, "REG.low", "org/application"), ["o:2", "h:1"]);
        assert_eq!(lookups(&file, "reg.low", ""), ["h:1"]);
        assert_eq!(lookups(&file, "reg.low:5000", "org/app"), ["p:5"]);
        assert!(lookups(&file, "reg.low.evil.org", "org/app").is_empty());
        assert!(lookups(&file, "low", "org").is_empty());
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
            "registry-1.docker.io",
            "https://registry-1.docker.io/v2/",
        ] {
            let file = format!(r#"{{"auths": {{"{key}": {}}}}}"#, basic("u:p"));
            for registry in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
                assert_eq!(lookups(&file, registry, "library/busybox"), ["u:p"], "{key} {registry}");
            }
            assert!(lookups(&file, "quay.io", "library/busybox").is_empty());
        }
        let file = format!(r#"{{"auths": {{"docker.io/library": {}}}}}"#, basic("l:p"));
        assert_eq!(lookups(&file, "docker.io", "busybox"), ["l:p"]);
        assert!(lookups(&file, "docker.io", "org/busybox").is_empty());
    }

    #[test]
    fn keys_with_scheme_and_api_path_are_hosts() {
        for key in ["https://reg.low", "http://reg.low/", "https://reg.low/v1/", "reg.low/v2/", "https://REG.low/v2"] {
            let file = format!(r#"{{"auths": {{"{key}": {}}}}}"#, basic("u:p"));
            assert_eq!(lookups(&file, "reg.low", "a"), ["u:p"], "{key}");
        }
    }

    #[test]
    fn the_forms_of_an_entry() {
        for (entry, expected) in [
            (r#"{"auth": "dTpwOnE="}"#, vec!["u:p:q"]),
            (r#"{"auth": "dTpwOnE"}"#, vec!["u:p:q"]),
            (r#"{"username": "u", "password": "p"}"#, vec!["u:p"]),
            (r#"{"auth": "dTpw", "identitytoken": "t"}"#, vec!["identity t"]),
            (r#"{"registrytoken": "r", "identitytoken": "t"}"#, vec!["bearer r"]),
            (r#"{"auth": "", "identitytoken": ""}"#, vec![]),
            (r#"{"email": "a@b"}"#, vec![]),
            ("{}", vec![]),
            ("null", vec![]),
        ] {
            assert_eq!(lookups(&format!(r#"{{"auths": {{"r": {entry}}}}}"#), "r", "a"), expected, "{entry}");
        }
    }

    #[test]
    fn helpers_are_asked_for_their_host_and_the_store_comes_last() {
        let file = format!(
            r#"{{"auths": {{"reg.low": {}, "gcr.io": {{}}}}, "credHelpers": {{"gcr.io": "gcloud"}}, "credsStore": "pass", "HttpHeaders": {{}}}}"#,
            basic("u:p")
        );
        assert_eq!(lookups(&file, "gcr.io", "a/b"), ["gcloud gcr.io", "pass gcr.io"]);
        assert_eq!(lookups(&file, "reg.low", "a/b"), ["u:p", "pass reg.low"]);
        assert_eq!(lookups(&file, "docker.io", "a/b"), ["pass https://index.docker.io/v1/"]);
    }

    #[test]
    fn faults_name_file_and_place_and_no_secret() {
        let path = Path::new("auth.json");
        for (text, expected) in [
            ("{\n\"auths\": {\"r\": \"geheim\"}}", "auth.json:2:"),
            ("{\"auths\": [\"geheim\"]}", "auth.json:1:"),
            ("{\"auths\": geheim}", "auth.json:1:"),
            (r#"{"auths": {"r": {"auth": "geheim!"}}}"#, "auth.json: auths, key \"r\": auth is not base64"),
            (
                r#"{"auths": {"r": {"auth": "Z2VoZWlt"}}}"#,
                "auth.json: auths, key \"r\": auth is not base64 of user:password",
            ),
        ] {
            let error = AuthFile::parse(text, path).and_then(|f| f.lookups("r", "a", path)).unwrap_err();
            let said = format!("{error}");
            assert!(said.starts_with(expected) && !format!("{error:?}{said}").contains("geheim"), "{said}");
        }
        assert!(lookups("", "r", "a").is_empty() && lookups("{}", "r", "a").is_empty());
    }
}
