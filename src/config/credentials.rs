//! Credentials: what they are, in which files they are looked for, and in which order.
//!
//! Invariant: a secret is a [`SecretString`] from the moment it is parsed, so that `Debug` never shows it;
//! the first file that has a credential for the most specific scope wins.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::auth_file::{AuthFile, Lookup};
use super::{Environment, Result, helper, read_bounded};

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

/// The credential files, in the order in which they are searched. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    files: Vec<PathBuf>,
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
        Chain { files: files.into_iter().flatten().collect() }
    }

    /// Those files and no others.
    pub fn of(files: Vec<PathBuf>) -> Chain {
        Chain { files }
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Searches the files in order. One that does not exist is passed over; one that cannot be read or
    /// is not valid is an error, since the credential might be in it.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>> {
        for path in &self.files {
            let Some(text) = read_bounded(path)? else { continue };
            for lookup in AuthFile::parse(&text, path)?.lookups(registry, repository, path)? {
                let found = match lookup {
                    Lookup::Found(credential) => Some(credential),
                    Lookup::Helper { name, server } => helper::get(&name, &server).await?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}
