//! containers-registries.conf(5), version 2, and what of version 1 says the same: which registries are blocked, which
//! may be insecure, and where images are read instead of where their names say.
//!
//! Invariants: later files replace what earlier ones say of a prefix; a setting that cannot be obeyed is an error with
//! file and line. Short names (unqualified-search-registries, aliases) mean nothing here: every reference has its
//! registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Environment, Error, Origin, Result, Setting, read_bounded};

const SYSTEM: &str = "/etc/containers/registries.conf";
/// Under the directory of the user's configuration.
const USERS: &str = "containers/registries.conf";

/// All files together.
#[derive(Clone, Debug, Default)]
pub(super) struct RegistriesConf {
    registries: Vec<Registry>,
}

/// One `[[registry]]` table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registry {
    /// `host[:port][/path]`, or `*.host` for all below a domain.
    prefix: String,
    /// What stands in for the prefix; `None` (below a domain only): nothing does.
    location: Option<String>,
    pub insecure: bool,
    pub blocked: bool,
    mirrors: Vec<Mirror>,
    pub file: String,
    /// From 1.
    pub line: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Mirror {
    location: String,
    insecure: bool,
    pulls: Pulls,
}

/// Which images a mirror stands in for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pulls {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

/// Where a repository may be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// `host[:port]/repository`.
    pub location: String,
    pub insecure: bool,
    pub is_mirror: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Document {
    registry: Vec<Spanned<RegistryTable>>,
    registries: VersionOne,
}

/// Other keys are those of short names and of later versions: as podman does, they are passed over.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RegistryTable {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Spanned<MirrorTable>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct MirrorTable {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<Pulls>,
}

/// Version 1: lists of registries.
#[derive(Deserialize, Default)]
#[serde(default)]
struct VersionOne {
    insecure: List,
    block: List,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct List {
    registries: Vec<Spanned<String>>,
}

impl RegistriesConf {
    /// Reads `$CONTAINERS_REGISTRIES_CONF`, else the user's registries.conf, else the system's; then the drop-in files
    /// of the system's registries.conf.d (unless the user's file was the one) and of the user's, by name.
    pub fn load(environment: &Environment) -> Result<RegistriesConf> {
        Self::load_in(environment, Path::new(SYSTEM))
    }

    fn load_in(environment: &Environment, system: &Path) -> Result<RegistriesConf> {
        let users = environment.config_home().map(|home| home.join(USERS));
        let mut conf = RegistriesConf::default();
        let mut directories: Vec<PathBuf> = Vec::new();
        if let Some(named) = environment.path("CONTAINERS_REGISTRIES_CONF") {
            if !conf.read(&named)? {
                let by = Origin::Environment { name: "CONTAINERS_REGISTRIES_CONF" };
                return Err(Error::no_such_file(&named, &by));
            }
            directories.push(drop_ins(system));
        } else if !users.as_deref().map(|file| conf.read(file)).transpose()?.unwrap_or(false) {
            conf.read(system)?;
            directories.push(drop_ins(system));
        }
        directories.extend(users.as_deref().map(drop_ins));
        for directory in directories {
            for file in listed(&directory)? {
                conf.read(&file)?;
            }
        }
        Ok(conf)
    }

    /// Takes a file in, over what was there; `false` if it does not exist.
    fn read(&mut self, path: &Path) -> Result<bool> {
        let Some(text) = read_bounded(path)? else { return Ok(false) };
        for registry in parse(&text, path)? {
            self.registries.retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        Ok(true)
    }

    /// The table for `name` (`host[:port][/repository]`): that with the longest prefix.
    pub fn find(&self, name: &str) -> Option<&Registry> {
        let fits = self.registries.iter().filter_map(|registry| Some((registry.fits(name)?, registry)));
        fits.max_by_key(|(length, _)| *length).map(|(_, registry)| registry)
    }

    /// What the files say, for `config show`.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for registry in &self.registries {
            let origin = Origin::File { file: registry.file.clone(), line: Some(registry.line) };
            let mut show = |key: &str, value: serde_json::Value| {
                settings.push(Setting::new(
                    format!("registries.conf.{}.{key}", registry.prefix),
                    value,
                    origin.clone(),
                ));
            };
            if registry.blocked {
                show("blocked", true.into());
            }
            if registry.insecure {
                show("insecure", true.into());
            }
            if let Some(location) = registry.location.as_ref().filter(|location| **location != registry.prefix) {
                show("location", location.clone().into());
            }
            if !registry.mirrors.is_empty() {
                show(
                    "mirrors",
                    registry.mirrors.iter().map(|mirror| mirror.location.clone()).collect::<Vec<_>>().into(),
                );
            }
        }
        settings
    }
}

impl Registry {
    /// Length of what the prefix fits in `name`; `None` if it does not fit.
    fn fits(&self, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            return (host.len() > domain.len() && host.ends_with(domain)).then_some(host.len());
        }
        let rest = name.strip_prefix(&self.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.prefix.len())
    }

    /// Where `name`, which fits, may be read: mirrors first.
    pub fn places(&self, name: &str, by_digest: bool) -> Vec<Place> {
        let instead = |location: &str| match self.fits(name) {
            Some(length) => format!("{location}{}", name.get(length..).unwrap_or_default()),
            None => name.to_owned(),
        };
        let serves = |mirror: &&Mirror| match mirror.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => by_digest,
            Pulls::TagOnly => !by_digest,
        };
        let place = |location: String, insecure: bool, is_mirror: bool| Place { location, insecure, is_mirror };
        let mirrors = self.mirrors.iter().filter(serves);
        let mut places: Vec<Place> = mirrors.map(|m| place(instead(&m.location), m.insecure, true)).collect();
        let home = self.location.as_deref().map_or_else(|| name.to_owned(), instead);
        places.push(place(home, self.insecure, false));
        places
    }
}

/// `registries.conf.d` beside a `registries.conf`.
fn drop_ins(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".d");
    path.into()
}

/// The `*.conf` files of a directory, by name; none if it does not exist.
fn listed(directory: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(directory, e);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The registries of one file, checked.
fn parse(text: &str, path: &Path) -> Result<Vec<Registry>> {
    let line = |offset: usize| text.get(..offset).map(|before| before.matches('\n').count() as u64 + 1);
    let document: Document = toml::from_str(text).map_err(|e| {
        let reason = e.message().lines().next().unwrap_or("not valid").to_owned();
        Error::invalid(path, e.span().and_then(|span| line(span.start)), reason)
    })?;
    let mut registries: Vec<Registry> = Vec::new();
    for table in document.registry {
        let at = line(table.span().start);
        let registry = checked(table.into_inner(), path, at, &line)?;
        if registries.iter().any(|known| known.prefix == registry.prefix) {
            return Err(Error::invalid(path, at, format!("registry: prefix {:?} is there twice", registry.prefix)));
        }
        registries.push(registry);
    }
    let VersionOne { insecure, block } = document.registries;
    let lists = [(insecure.registries, false), (block.registries, true)];
    let mut old: BTreeMap<String, Registry> = BTreeMap::new();
    for (entry, blocked) in lists.into_iter().flat_map(|(list, blocked)| list.into_iter().map(move |e| (e, blocked))) {
        let at = line(entry.span().start);
        let prefix = location(entry.get_ref(), "registries").map_err(|reason| Error::invalid(path, at, reason))?;
        let registry = old.entry(prefix.clone()).or_insert_with(|| Registry {
            location: Some(prefix.clone()),
            prefix,
            insecure: false,
            blocked: false,
            mirrors: Vec::new(),
            file: path.display().to_string(),
            line: at.unwrap_or(1),
        });
        registry.insecure |= !blocked;
        registry.blocked |= blocked;
    }
    if !old.is_empty() && !registries.is_empty() {
        return Err(Error::invalid(
            path,
            None,
            "[registries] of version 1 and [[registry]] of version 2 cannot be mixed",
        ));
    }
    registries.extend(old.into_values());
    Ok(registries)
}

fn checked(
    table: RegistryTable,
    path: &Path,
    at: Option<u64>,
    line: &dyn Fn(usize) -> Option<u64>,
) -> Result<Registry> {
    let wrong = |reason: String| Error::invalid(path, at, reason);
    let prefix = if table.prefix.is_empty() { &table.location } else { &table.prefix };
    if prefix.is_empty() {
        return Err(wrong("registry: it has neither prefix nor location".into()));
    }
    let is_domain = prefix.starts_with("*.");
    let prefix = match prefix.strip_prefix("*.") {
        Some(domain) if !domain.is_empty() && !domain.contains(['/', ':', '*']) => format!("*.{domain}"),
        Some(_) => return Err(wrong(format!("prefix: {prefix:?}: after *. comes a domain, and nothing else"))),
        None => location(prefix, "prefix").map_err(wrong)?,
    };
    let new = match table.location.as_str() {
        "" if is_domain => None,
        "" => {
            return Err(wrong(format!(
                "registry: prefix {prefix:?} needs a location (or a prefix like *.example.org)"
            )));
        }
        text => Some(location(text, "location").map_err(wrong)?),
    };
    let mut mirrors = Vec::new();
    for mirror in table.mirror {
        let at = line(mirror.span().start);
        let mirror = mirror.into_inner();
        let wrong = |reason: String| Error::invalid(path, at, reason);
        if table.mirror_by_digest_only && mirror.pull_from_mirror.is_some_and(|pulls| pulls != Pulls::All) {
            return Err(wrong("mirror: pull-from-mirror and mirror-by-digest-only exclude each other".into()));
        }
        mirrors.push(Mirror {
            location: location(&mirror.location, "mirror: location").map_err(wrong)?,
            insecure: mirror.insecure,
            pulls: if table.mirror_by_digest_only {
                Pulls::DigestOnly
            } else {
                mirror.pull_from_mirror.unwrap_or_default()
            },
        });
    }
    Ok(Registry {
        prefix,
        location: new,
        insecure: table.insecure,
        blocked: table.blocked,
        mirrors,
        file: path.display().to_string(),
        line: at.unwrap_or(1),
    })
}

/// `host[:port][/path]`, without the slash at its end.
fn location(text: &str, key: &str) -> std::result::Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    let (host, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    if trimmed.contains("://") {
        return Err(format!("{key}: {text:?}: write a host without http:// or https://"));
    }
    if path.contains([':', '@']) {
        return Err(format!("{key}: {text:?}: a tag or digest is not supported: end at the repository"));
    }
    if super::endpoint::default_url(host).is_none() || host.contains(['@', '?', '#']) {
        return Err(format!("{key}: {text:?} is not a host with an optional port and path"));
    }
    Ok(format!("{}{}", host.to_ascii_lowercase(), trimmed.get(host.len()..).unwrap_or_default()))
}
