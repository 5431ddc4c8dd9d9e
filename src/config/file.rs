//! The schema of the configuration file, docs/configuration.md. YAML in, checked settings out.
//!
//! Invariant: a key is known or it is an error that names it, its line and the nearest known one. Keys
//! that only ace-dt uses are known, so that its file can be used as it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use super::endpoint::{self, Referrers, Tls};
use super::{EndpointSettings, Error, Result, canonical_host};

/// What a file says, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// By canonical host: the endpoints in their order.
    pub registries: BTreeMap<String, Vec<url::Url>>,
    /// By endpoint URL.
    pub endpoints: BTreeMap<url::Url, EndpointSettings>,
    pub auth_file: Option<PathBuf>,
    /// What the file asks for and the program does not do, as `FILE:LINE: …`.
    pub warnings: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    api_version: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    registry_config: Option<RegistryConfig>,
    registry_auth_file: Option<PathBuf>,
    // What follows is ace-dt's own.
    #[serde(rename = "cachePath")]
    _cache_path: Option<IgnoredAny>,
    #[serde(rename = "cachePruneMax")]
    _cache_prune_max: Option<IgnoredAny>,
    #[serde(rename = "chunkSize")]
    _chunk_size: Option<IgnoredAny>,
    #[serde(rename = "concurrentHTTP")]
    _concurrent_http: Option<IgnoredAny>,
    #[serde(rename = "compressionLevel")]
    _compression_level: Option<IgnoredAny>,
    #[serde(rename = "hideProgress")]
    _hide_progress: Option<IgnoredAny>,
    #[serde(rename = "editor")]
    _editor: Option<IgnoredAny>,
    #[serde(rename = "telemetry")]
    _telemetry: Option<IgnoredAny>,
    #[serde(rename = "telemetryUserName")]
    _telemetry_user_name: Option<IgnoredAny>,
    #[serde(rename = "keys")]
    _keys: Option<IgnoredAny>,
}

/// `registryConfig`: hosts may stand under `registries` or directly in it.
#[derive(Default)]
struct RegistryConfig {
    hosts: Vec<(Spanned<String>, Host)>,
    endpoints: Vec<(Spanned<String>, EndpointConfig)>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Host {
    endpoints: Vec<Spanned<String>>,
    rewrite_pull: Option<Spanned<BTreeMap<String, String>>>,
    noncompliant: Option<Spanned<bool>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct EndpointConfig {
    supports_referrers: Option<Referrers>,
    tls: Option<Spanned<TlsConfig>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TlsConfig {
    insecure_skip_verify: bool,
    #[serde(alias = "caFile")]
    ca: Option<OneOrMany>,
    #[serde(alias = "certFile")]
    cert: Option<PathBuf>,
    #[serde(alias = "keyFile")]
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

const REGISTRIES: &str = "registries";
const ENDPOINT_CONFIG: &str = "endpointConfig";

impl<'de> Deserialize<'de> for RegistryConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Sections;
        impl<'de> Visitor<'de> for Sections {
            type Value = RegistryConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping with registries and endpointConfig")
            }

            fn visit_unit<E>(self) -> std::result::Result<RegistryConfig, E> {
                Ok(RegistryConfig::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RegistryConfig, A::Error> {
                let mut config = RegistryConfig::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.value.as_str() {
                        REGISTRIES => {
                            config.hosts.extend(map.next_value::<Option<Entries<Host>>>()?.unwrap_or_default().0)
                        }
                        ENDPOINT_CONFIG => {
                            config
                                .endpoints
                                .extend(map.next_value::<Option<Entries<EndpointConfig>>>()?.unwrap_or_default().0);
                        }
                        near if nearest(near, &[REGISTRIES, ENDPOINT_CONFIG]).is_some() => {
                            return Err(serde::de::Error::unknown_field(near, &[REGISTRIES, ENDPOINT_CONFIG]));
                        }
                        _ => config.hosts.push((key, map.next_value::<Option<Host>>()?.unwrap_or_default())),
                    }
                }
                Ok(config)
            }
        }
        deserializer.deserialize_any(Sections)
    }
}

/// A mapping with its keys in the order of the file and the lines they are on.
struct Entries<T>(Vec<(Spanned<String>, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Entries<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Each<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key()? {
                    entries.push((key, map.next_value::<Option<T>>()?.unwrap_or_default()));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Each(std::marker::PhantomData))
    }
}

/// The known key that `key` was probably meant to be.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase();
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&key, &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= (k.len() / 3).clamp(1, 3))
        .min()
        .map(|(_, k)| k)
}

/// Reads the text of the file at `path`; relative paths in it start from its directory.
pub(super) fn parse(text: &str, path: &Path) -> Result<Settings> {
    let document: Option<Document> = serde_saphyr::from_str(text).map_err(|e| describe(&e, path))?;
    let document = document.unwrap_or_default();
    Reading { path, settings: Settings::default() }.read(document)
}

struct Reading<'a> {
    path: &'a Path,
    settings: Settings,
}

impl Reading<'_> {
    fn read(mut self, document: Document) -> Result<Settings> {
        if let Some(version) = &document.api_version
            && !version.value.starts_with("config.dt.act3-ace.io/")
        {
            return Err(self.at(version, format!("apiVersion {:?} is not known: leave the key out", version.value)));
        }
        if let Some(kind) = document.kind.as_ref().filter(|k| k.value != "Configuration") {
            return Err(self.at(kind, format!("kind {:?} is not Configuration", kind.value)));
        }
        self.settings.auth_file = document.registry_auth_file.map(|file| self.absolute(file));
        let config = document.registry_config.unwrap_or_default();
        for (name, host) in config.hosts {
            self.host(&name, host)?;
        }
        for (url, settings) in config.endpoints {
            self.endpoint(&url, settings)?;
        }
        Ok(self.settings)
    }

    fn host(&mut self, name: &Spanned<String>, host: Host) -> Result<()> {
        if endpoint::default_url(&name.value).is_none_or(|u| u.path() != "/") || name.value.contains("://") {
            return Err(self.at(name, format!("registries: {:?} is not a host with an optional port", name.value)));
        }
        let mut urls = Vec::new();
        for text in &host.endpoints {
            urls.push(endpoint::parse_url(&text.value).map_err(|e| self.at(text, format!("endpoints: {e}")))?);
        }
        if let Some(rewrite) = host.rewrite_pull.filter(|r| !r.value.is_empty()) {
            self.warn(&rewrite, format!("rewritePull of {} is not supported: names are used as written", name.value));
        }
        if let Some(flag) = host.noncompliant.filter(|f| f.value) {
            self.warn(&flag, format!("noncompliant of {} is not needed: tokens are always per repository", name.value));
        }
        if urls.is_empty() {
            return Ok(());
        }
        match self.settings.registries.insert(canonical_host(&name.value), urls) {
            None => Ok(()),
            Some(_) => Err(self.at(name, format!("registries: {:?} is there twice", name.value))),
        }
    }

    fn endpoint(&mut self, text: &Spanned<String>, config: EndpointConfig) -> Result<()> {
        let url = endpoint::parse_url(&text.value).map_err(|e| self.at(text, format!("endpointConfig: {e}")))?;
        let mut settings =
            EndpointSettings { supports_referrers: config.supports_referrers.unwrap_or_default(), tls: Tls::default() };
        if let Some(tls) = config.tls {
            let (referenced, tls) = (tls.referenced, tls.value);
            settings.tls.insecure_skip_verify = tls.insecure_skip_verify;
            settings.tls.ca = match tls.ca {
                Some(OneOrMany::One(file)) => vec![self.absolute(file)],
                Some(OneOrMany::Many(files)) => files.into_iter().map(|f| self.absolute(f)).collect(),
                None => Vec::new(),
            };
            settings.tls.client_certificate = match (tls.cert, tls.key) {
                (Some(cert), Some(key)) => Some((self.absolute(cert), self.absolute(key))),
                (None, None) => None,
                (Some(_), None) => {
                    return Err(self.at_line(referenced, "tls: cert needs key, the private key's file".into()));
                }
                (None, Some(_)) => {
                    return Err(self.at_line(referenced, "tls: key needs cert, the certificate's file".into()));
                }
            };
        }
        match self.settings.endpoints.insert(url, settings) {
            None => Ok(()),
            Some(_) => Err(self.at(text, format!("endpointConfig: {:?} is there twice", text.value))),
        }
    }

    fn absolute(&self, file: PathBuf) -> PathBuf {
        self.path.parent().map_or(file.clone(), |directory| directory.join(file))
    }

    fn warn<T>(&mut self, place: &Spanned<T>, text: String) {
        self.settings.warnings.push(format!("{}:{}: {text}", self.path.display(), place.referenced.line()));
    }

    fn at<T>(&self, place: &Spanned<T>, reason: String) -> Error {
        self.at_line(place.referenced, reason)
    }

    fn at_line(&self, place: serde_saphyr::Location, reason: String) -> Error {
        Error::Invalid {
            path: self.path.display().to_string(),
            line: Some(place.line()),
            column: Some(place.column()),
            reason,
        }
    }
}

/// The parser's error in our words.
fn describe(error: &serde_saphyr::Error, path: &Path) -> Error {
    let error = error.without_snippet();
    let reason = match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            let hint = match nearest(field, expected) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", expected.join(", ")),
            };
            format!("unknown key {field:?}; {hint}")
        }
        other => other.to_string().lines().next().unwrap_or("not valid").to_owned(),
    };
    let place = error.location();
    Error::Invalid {
        path: path.display().to_string(),
        line: place.map(|l| l.line()),
        column: place.map(|l| l.column()),
        reason,
    }
}
