//! How a repository is reached: mirror's own configuration, registries.conf and certs.d, put together.
//!
//! Invariants: what mirror's own file says of a registry or an endpoint goes before what the others say; only reads
//! ever go to a mirror or to another name; a blocked registry is never contacted.

use url::Url;

use super::endpoint::{self, Access, Endpoint, Limits, RegistryPolicy, Tls};
use super::file::HostSettings;
use super::registries_conf::{Place, Registry};
use super::{Config, Error, Result, canonical_host, certs_d};
use crate::image::reference::{is_docker_hub, is_repository};

/// Docker Hub as a key of the file, the usual name first.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

impl Config {
    /// How to reach the repository `written` (as the network knows it, may be empty: the registry as a whole) of `registry` (with
    /// its port, as a reference has it). Fails where registries.conf blocks it, and where a file of certs.d or a
    /// name that the configuration leads to cannot be used.
    pub fn policy(&self, registry: &str, written: &str, access: Access) -> Result<RegistryPolicy> {
        let own = self.own(registry);
        let repository = match (own, access) {
            (Some(own), Access::Pull { .. }) => &rewritten(own, registry, written)?,
            _ => written,
        };
        let is_away = repository != written;
        let limits = own.map(|own| own.limits).unwrap_or_default();
        let urls = match own {
            Some(own) if !own.endpoints.is_empty() => own.endpoints.clone(),
            _ => match self.registries.find(&name(registry, repository)) {
                Some(found) => {
                    let policy = self.by_registries_conf(found, registry, repository, access)?;
                    return Ok(RegistryPolicy { is_away: is_away || policy.is_away, limits, ..policy });
                }
                None => endpoint::default_url(&registry.to_ascii_lowercase()).into_iter().collect(),
            },
        };
        let endpoints = urls.into_iter().map(|url| self.endpoint(url, repository, false, false));
        Ok(RegistryPolicy { endpoints: endpoints.collect::<Result<_>>()?, is_away, limits })
    }

    fn own(&self, registry: &str) -> Option<&HostSettings> {
        let exact = registry.to_ascii_lowercase();
        let of = |host: &str| self.settings.registries.get(host);
        of(&exact).or_else(|| HUB_NAMES.iter().find_map(|name| of(name)).filter(|_| is_docker_hub(&exact)))
    }

    fn by_registries_conf(
        &self,
        found: &Registry,
        registry: &str,
        repository: &str,
        access: Access,
    ) -> Result<RegistryPolicy> {
        if found.blocked {
            return Err(Error::Blocked {
                name: name(registry, repository),
                file: found.file.clone(),
                line: found.line,
            });
        }
        let home = Place { location: name(registry, repository), insecure: found.insecure, is_mirror: false };
        let places = match access {
            Access::Push => vec![home.clone()],
            Access::Pull { by_digest } => found.places(&home.location, by_digest),
        };
        let is_away = places != [home];
        let mut endpoints = Vec::new();
        for place in places {
            let (host, repository) = place.location.split_once('/').unwrap_or((&place.location, ""));
            if !repository.is_empty() && !is_repository(repository) {
                let reason = format!("leads to {:?}, which is not a repository", place.location);
                return Err(Error::invalid(found.file.as_ref(), Some(found.line), reason));
            }
            let Some(url) = endpoint::default_url(host) else { continue };
            for url in if place.insecure { both_schemes(url) } else { vec![url] } {
                endpoints.push(self.endpoint(url, repository, place.is_mirror, place.insecure)?);
            }
        }
        Ok(RegistryPolicy { endpoints, is_away, limits: Limits::default() })
    }

    fn endpoint(&self, url: Url, repository: &str, is_mirror: bool, insecure: bool) -> Result<Endpoint> {
        let settings = self.settings.endpoints.get(&url).cloned().unwrap_or_default();
        let tls = match settings.tls {
            Some(tls) => tls,
            None if url.scheme() == "http" => Tls::default(),
            None => {
                let found = certs_d::find(&self.certificates, &endpoint::authority(&url))?.unwrap_or_default();
                Tls { insecure_skip_verify: insecure, ..found }
            }
        };
        let supports_referrers = settings.supports_referrers;
        Ok(Endpoint { url, repository: repository.to_owned(), is_mirror, tls, supports_referrers })
    }
}

/// A registry that may be insecure is tried in the usual way for its host first.
fn both_schemes(url: Url) -> Vec<Url> {
    let mut other = url.clone();
    match other.set_scheme(if url.scheme() == "http" { "https" } else { "http" }) {
        Ok(()) => vec![url, other],
        Err(()) => vec![url],
    }
}

/// What rewritePull makes of a repository's name: by the first pattern that fits, in the order of the file.
fn rewritten(own: &HostSettings, registry: &str, repository: &str) -> Result<String> {
    let Some((regex, replacement)) = own.rewrites.iter().find(|(regex, _)| regex.is_match(repository)) else {
        return Ok(repository.to_owned());
    };
    let name = regex.replace_all(repository, replacement.as_str()).into_owned();
    match repository.is_empty() || is_repository(&name) {
        true => Ok(name),
        false => Err(Error::Refused(format!(
            "rewritePull of {registry} makes {name:?} of {repository}, which is not a repository's name"
        ))),
    }
}

/// What registries.conf knows a repository as.
fn name(registry: &str, repository: &str) -> String {
    match repository {
        "" => canonical_host(registry),
        _ => format!("{}/{repository}", canonical_host(registry)),
    }
}
