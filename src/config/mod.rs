//! The configuration file, credentials, and what they say of a host.
//!
//! Invariant: a file that exists is obeyed or it is an error; nothing of it is ignored silently.

mod auth_file;
mod certs_d;
pub mod credentials;
pub mod endpoint;
pub mod environment;
pub mod error;
mod file;
mod helper;
pub mod login;
mod origin;
mod own_file;
mod policy;
mod registries_conf;
mod schema;
pub mod trust;

use std::path::{Path, PathBuf};

pub use credentials::Credential;
pub use endpoint::{Access, Endpoint, Limits, Referrers, RegistryPolicy, Tls};
pub use environment::Environment;
pub use error::{Error, Result};
pub use origin::{Origin, Setting};
pub use own_file::OwnFile;

use crate::image::reference::is_docker_hub;

/// A configuration file in which every setting is explained and commented out.
pub const SAMPLE: &str = include_str!("sample.yaml");

/// A configuration file larger than this is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The effective configuration. [`Config::default`] knows no file and no credentials: programs use
/// [`Config::load`].
#[derive(Clone, Debug, Default)]
pub struct Config {
    path: Option<PathBuf>,
    /// What named the file.
    named_by: Option<Origin>,
    settings: file::Settings,
    credentials: credentials::Chain,
    /// What containers-registries.conf(5) says: for registries of which the file does not.
    registries: registries_conf::RegistriesConf,
    /// Directories with a directory of certificates for each host.
    certificates: Vec<PathBuf>,
    /// Directory for what one run leaves to the next.
    state: Option<PathBuf>,
}

/// What `endpointConfig` says of one URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct EndpointSettings {
    tls: Option<Tls>,
    supports_referrers: Referrers,
}

impl Config {
    /// Reads the first that exists of: `explicit`, `$MIRROR_CONFIG`, `./mirror.yaml`,
    /// `~/.config/mirror/config.yaml`, `/etc/mirror/config.yaml`. Fails for a file of the first two that
    /// is missing, and for any that is not valid.
    pub fn load(explicit: Option<&Path>) -> Result<Config> {
        Self::load_in(explicit, &Environment::of_process())
    }

    /// [`Config::load`] in that environment.
    pub fn load_in(explicit: Option<&Path>, environment: &Environment) -> Result<Config> {
        let home = environment.path("HOME");
        let home = home.as_deref();
        let named = match (explicit, environment.path("MIRROR_CONFIG")) {
            (Some(path), _) => Some((path.to_owned(), Origin::Flag { name: "--config" })),
            (None, Some(path)) => Some((path, Origin::Environment { name: "MIRROR_CONFIG" })),
            (None, None) => None,
        };
        let mut config = match named {
            Some((path, named_by)) => match Self::read(&path, home)? {
                Some(config) => Config { named_by: Some(named_by), ..config },
                None => return Err(Error::no_such_file(&path, &named_by)),
            },
            None => {
                let mut found = None;
                for path in default_files(environment) {
                    found = Self::read(&path, home)?;
                    if found.is_some() {
                        break;
                    }
                }
                found.unwrap_or_default()
            }
        };
        config.credentials = credentials::Chain::new(environment, config.settings.auth_file.as_deref());
        config.registries = registries_conf::RegistriesConf::load(environment)?;
        config.certificates = certs_d::directories(environment);
        config.state = environment.state_home().map(|home| home.join("mirror"));
        Ok(config)
    }

    /// Reads a configuration from its text. `path` is for messages and for relative paths in it.
    pub fn parse(text: &str, path: &Path) -> Result<Config> {
        Self::parse_at_home(text, path, None)
    }

    fn parse_at_home(text: &str, path: &Path, home: Option<&Path>) -> Result<Config> {
        Ok(Config { path: Some(path.to_owned()), settings: file::parse(text, path, home)?, ..Config::default() })
    }

    /// The file that login and logout change when none is named, see [`login::default_file`].
    pub fn login_file(&self) -> Option<PathBuf> {
        login::default_file(&Environment::of_process(), self.settings.auth_file.as_deref())
    }

    /// The same configuration with those credential files.
    pub fn with_credentials(self, credentials: credentials::Chain) -> Config {
        Config { credentials, ..self }
    }

    /// The same configuration with that directory for what one run leaves to the next.
    pub fn with_state(self, directory: PathBuf) -> Config {
        Config { state: Some(directory), ..self }
    }

    fn read(path: &Path, home: Option<&Path>) -> Result<Option<Config>> {
        match read_bounded(path)? {
            Some(text) => Self::parse_at_home(&text, path, home).map(Some),
            None => Ok(None),
        }
    }

    /// The file that was read, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Directory for what one run leaves to the next; it need not exist.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Objects in flight at once, if the file fixes it (`concurrentHTTP`).
    pub fn jobs(&self) -> Option<usize> {
        self.settings.jobs
    }

    /// The credential files, in the order in which they are searched.
    pub fn credentials(&self) -> &credentials::Chain {
        &self.credentials
    }

    /// What the file asks for and the program does not do, each as `FILE:LINE: …`, to be printed once.
    pub fn warnings(&self) -> &[String] {
        &self.settings.warnings
    }

    /// What the configuration file, the credential files and the environment say, with their places. Secrets are masked.
    pub fn settings(&self) -> Result<Vec<Setting>> {
        let file = self.path.as_ref().map(|path| path.display().to_string());
        let mut settings = vec![Setting::new("config", file, self.named_by.clone().unwrap_or(Origin::Default))];
        settings.extend(self.settings.shown.iter().cloned());
        settings.extend(self.registries.settings());
        settings.extend(certs_d::settings(&self.certificates)?);
        settings.extend(self.credentials.settings()?);
        for (name, value) in Environment::others() {
            settings.push(Setting::new(name, masked_url(&value), Origin::Environment { name }));
        }
        Ok(settings)
    }

    /// The credential for a repository of a registry, both as a reference has them. `None`: go without.
    pub async fn credential(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        self.credentials.find(registry, repository).await
    }
}

/// A URL without its password; anything else as it is.
fn masked_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        // A proxy may be written without a scheme.
        return rest_masked(text);
    };
    format!("{scheme}://{}", rest_masked(rest))
}

fn rest_masked(rest: &str) -> String {
    match rest.rsplit_once('@') {
        Some((user, place)) if user.contains(':') => {
            format!("{}:{}@{place}", user.split(':').next().unwrap_or_default(), origin::MASK)
        }
        _ => rest.to_owned(),
    }
}

/// Where a configuration file is looked for when none is named.
fn default_files(environment: &Environment) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("mirror.yaml")];
    files.extend(environment.config_home().map(|home| home.join("mirror/config.yaml")));
    files.push("/etc/mirror/config.yaml".into());
    files
}

/// Text of a file; `None` if it does not exist.
fn read_bounded(path: &Path) -> Result<Option<String>> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::io(path, e))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Invalid {
            path: path.display().to_string(),
            line: None,
            column: None,
            reason: format!("larger than {MAX_FILE_BYTES} bytes"),
        });
    }
    Ok(Some(text))
}

/// A host as a key: lower case, one name for Docker Hub.
fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if is_docker_hub(&host) { "docker.io".into() } else { host }
}
