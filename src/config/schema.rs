//! The schema of the configuration file as the YAML parser sees it: which keys there are, and of what kind their values.
//!
//! Invariant: an unknown key is an error. Keys that only ace-dt uses are known, so that its file can be used as it
//! stands.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use super::endpoint::Referrers;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Document {
    pub api_version: Option<Spanned<String>>,
    pub kind: Option<Spanned<String>>,
    pub registry_config: Option<RegistryConfig>,
    pub registry_auth_file: Option<Spanned<PathBuf>>,
    #[serde(rename = "concurrentHTTP")]
    pub concurrent_http: Option<Spanned<usize>>,
    // What follows is ace-dt's own.
    #[serde(rename = "cachePath")]
    _cache_path: Option<IgnoredAny>,
    #[serde(rename = "cachePruneMax")]
    _cache_prune_max: Option<IgnoredAny>,
    #[serde(rename = "chunkSize")]
    _chunk_size: Option<IgnoredAny>,
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
pub(super) struct RegistryConfig {
    pub hosts: Vec<(Spanned<String>, Host)>,
    pub endpoints: Vec<(Spanned<String>, EndpointConfig)>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Host {
    pub endpoints: Vec<Spanned<String>>,
    /// In the order of the file: the first that fits counts.
    pub rewrite_pull: Option<Entries<String>>,
    pub noncompliant: Option<Spanned<bool>>,
    pub limits: Option<LimitsConfig>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LimitsConfig {
    pub requests_per_second: Option<Spanned<f64>>,
    pub bytes_per_second: Option<Spanned<Amount>>,
    pub connections: Option<Spanned<usize>>,
}

/// A number of bytes, or a size as people write it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Amount {
    Number(u64),
    Text(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct EndpointConfig {
    pub supports_referrers: Option<Referrers>,
    pub tls: Option<Spanned<TlsConfig>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct TlsConfig {
    pub insecure_skip_verify: bool,
    #[serde(alias = "caFile")]
    pub ca: Option<OneOrMany>,
    #[serde(alias = "certFile")]
    pub cert: Option<PathBuf>,
    #[serde(alias = "keyFile")]
    pub key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
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
pub(super) struct Entries<T>(pub Vec<(Spanned<String>, T)>);

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
pub(super) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase();
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&key, &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= (k.len() / 3).clamp(1, 3))
        .min()
        .map(|(_, k)| k)
}
