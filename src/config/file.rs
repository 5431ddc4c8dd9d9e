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
use super::{EndpointSettings, Error, Origin, Result, Setting};

/// What a file says, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// By host, in lower case: the endpoints in their order.
    pub registries: BTreeMap<String, Vec<url::Url>>,
    /// By endpoint URL.
    pub endpoints: BTreeMap<url::Url, EndpointSettings>,
    pub auth_file: Option<PathBuf>,
    /// Objects in flight at once.
    pub jobs: Option<usize>,
    /// What the file says, key by key.
    pub shown: Vec<Setting>,
    /// What the file asks for and the program does not do, as `FILE:LINE: …`.
    pub warnings: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    api_version: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    registry_config: Option<RegistryConfig>,
    registry_auth_file: Option<Spanned<PathBuf>>,
    #[serde(rename = "concurrentHTTP")]
    concurrent_http: Option<Spanned<usize>>,
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

/// As many as `--jobs` may be.
const MAX_JOBS: usize = 1024;
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
/// `~/` in them is `home`.
pub(super) fn parse(text: &str, path: &Path, home: Option<&Path>) -> Result<Settings> {
    let document: Option<Document> = serde_saphyr::from_str(text).map_err(|e| describe(&e, path))?;
    let document = document.unwrap_or_default();
    Reading { path, home, settings: Settings::default() }.read(document)
}

struct Reading<'a> {
    path: &'a Path,
    home: Option<&'a Path>,
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
        if let Some(Spanned { value, referenced, .. }) = document.registry_auth_file {
            let file = self.absolute(value);
            self.show("registryAuthFile".into(), file.display().to_string(), referenced);
            self.settings.auth_file = Some(file);
        }
        if let Some(jobs) = document.concurrent_http {
            if !(1..=MAX_JOBS).contains(&jobs.value) {
                return Err(self.at(&jobs, format!("concurrentHTTP must be between 1 and {MAX_JOBS}")));
            }
            self.show("concurrentHTTP".into(), jobs.value, jobs.referenced);
            self.settings.jobs = Some(jobs.value);
        }
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
        let shown: Vec<String> = urls.iter().map(ToString::to_string).collect();
        self.show(format!("registryConfig.registries.{}.endpoints", name.value), shown, name.referenced);
        match self.settings.registries.insert(name.value.to_ascii_lowercase(), urls) {
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
        let under = |key: &str| format!("registryConfig.endpointConfig.{url}.{key}");
        let files = |files: &[PathBuf]| files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
        if settings.supports_referrers != Referrers::Auto {
            self.show(under("supportsReferrers"), settings.supports_referrers.name(), text.referenced);
        }
        if !settings.tls.ca.is_empty() {
            self.show(under("tls.ca"), files(&settings.tls.ca), text.referenced);
        }
        if let Some((cert, key)) = &settings.tls.client_certificate {
            self.show(under("tls.cert"), cert.display().to_string(), text.referenced);
            self.show(under("tls.key"), key.display().to_string(), text.referenced);
        }
        if settings.tls.insecure_skip_verify {
            self.show(under("tls.insecureSkipVerify"), true, text.referenced);
        }
        match self.settings.endpoints.insert(url, settings) {
            None => Ok(()),
            Some(_) => Err(self.at(text, format!("endpointConfig: {:?} is there twice", text.value))),
        }
    }

    fn absolute(&self, file: PathBuf) -> PathBuf {
        match (self.home, file.strip_prefix("~"), self.path.parent()) {
            (Some(home), Ok(rest), _) => home.join(rest),
            (_, _, Some(directory)) => directory.join(file),
            (_, _, None) => file,
        }
    }

    fn show(&mut self, key: String, value: impl Into<serde_json::Value>, place: serde_saphyr::Location) {
        let origin = Origin::File { file: self.path.display().to_string(), line: Some(place.line()) };
        self.settings.shown.push(Setting::new(key, value, origin));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        parse(text, Path::new("/etc/m/c.yaml"), Some(Path::new("/home/u"))).unwrap()
    }

    fn refusal(text: &str) -> String {
        parse(text, Path::new("c.yaml"), None).unwrap_err().to_string()
    }

    #[test]
    fn hosts_with_and_without_the_registries_level_mean_the_same() {
        let with =
            settings("registryConfig:\n  registries:\n    Reg.low:5000:\n      endpoints: [\"http://a:1/\", b.c]\n");
        let without = settings("registryConfig:\n  Reg.low:5000:\n    endpoints: [\"http://a:1/\", b.c]\n");
        let urls: Vec<_> = with.registries["reg.low:5000"].iter().map(url::Url::as_str).collect();
        assert_eq!(urls, ["http://a:1/", "https://b.c/"]);
        assert_eq!(with.registries, without.registries);
    }

    #[test]
    fn empty_files_and_empty_sections_are_fine() {
        for text in
            ["", "# nothing\n", "---\n", "registryConfig:\n", "registryConfig:\n  registries:\n  endpointConfig:\n"]
        {
            assert!(settings(text).registries.is_empty(), "{text:?}");
        }
        assert!(settings("registryConfig:\n  registries:\n    reg.low:\n").registries.is_empty());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let text = "registryConfig:\n  registries:\n    reg.low:\n      endpoint: [https://a]\n";
        assert_eq!(refusal(text), "c.yaml:4:7: unknown key \"endpoint\"; did you mean \"endpoints\"?");
        assert_eq!(
            refusal("\nregistryconfig: {}\n"),
            "c.yaml:2:1: unknown key \"registryconfig\"; did you mean \"registryConfig\"?"
        );
        let text = "registryConfig:\n  registrys:\n    reg.low:\n";
        assert_eq!(refusal(text), "c.yaml:2:3: unknown key \"registrys\"; did you mean \"registries\"?");
        let text = "registryConfig:\n  endpointConfig:\n    https://a:\n      tls:\n        insecureSkipVerfy: true\n";
        assert_eq!(
            refusal(text),
            "c.yaml:5:9: unknown key \"insecureSkipVerfy\"; did you mean \"insecureSkipVerify\"?"
        );
        assert!(
            refusal("colour: red\n").starts_with("c.yaml:1:1: unknown key \"colour\"; known here: apiVersion, kind")
        );
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_their_line() {
        for (text, expected) in [
            ("registryConfig:\n  reg.low:\n    endpoints: [\"ftp://a\"]\n", "c.yaml:3:17: endpoints: scheme \"ftp\""),
            (
                "registryConfig:\n  reg.low:\n    endpoints: [\"https://u:geheim@a\"]\n",
                "c.yaml:3:17: endpoints: a URL must not hold",
            ),
            (
                "registryConfig:\n  reg.low:\n    endpoints: [\"https://a?x=1\"]\n",
                "c.yaml:3:17: endpoints: a registry's URL",
            ),
            ("registryConfig:\n  reg.low:\n    endpoints: https://a\n", "c.yaml:3:"),
            (
                "registryConfig:\n  https://reg.low:\n    endpoints: [a]\n",
                "c.yaml:2:3: registries: \"https://reg.low\" is not a host",
            ),
            ("registryConfig:\n  endpointConfig:\n    https://a:\n      supportsReferrers: yes please\n", "c.yaml:4:"),
            (
                "registryConfig:\n  endpointConfig:\n    https://a:\n      tls: {cert: a.pem}\n",
                "c.yaml:4:12: tls: cert needs key",
            ),
            (
                "registryConfig:\n  endpointConfig:\n    https://a: {}\n    https://a/: {}\n",
                "c.yaml:4:5: endpointConfig: \"https://a/\" is there twice",
            ),
            (
                "registryConfig:\n  reg.low: {endpoints: [a]}\n  registries:\n    reg.low: {endpoints: [b]}\n",
                "c.yaml:4:5: registries: \"reg.low\" is there twice",
            ),
            ("concurrentHTTP: 0\n", "c.yaml:1:17: concurrentHTTP must be"),
            ("apiVersion: v9\n", "c.yaml:1:13: apiVersion \"v9\" is not known"),
            ("kind: Pod\n", "c.yaml:1:7: kind \"Pod\""),
            ("kind: Configuration\nkind: Configuration\n", "c.yaml:2:"),
            ("registryConfig: [\n", "c.yaml:"),
            ("just words\n", "c.yaml:1:"),
        ] {
            let said = refusal(text);
            assert!(said.starts_with(expected), "{text:?}: {said}");
            assert!(!said.contains("geheim"), "{said}");
        }
    }

    #[test]
    fn paths_start_from_the_file_and_from_home() {
        let text = "registryAuthFile: ~/.docker/config.json\nregistryConfig:\n  endpointConfig:\n    https://a:\n      tls: {ca: ca.pem, cert: /c.pem, key: k.pem}\n    https://b:\n      tls: {caFile: [x.pem, y.pem], insecureSkipVerify: true}\n      supportsReferrers: tag\n";
        let s = settings(text);
        assert_eq!(s.auth_file.unwrap(), Path::new("/home/u/.docker/config.json"));
        let a = &s.endpoints[&"https://a/".parse().unwrap()];
        assert_eq!(a.tls.ca, [Path::new("/etc/m/ca.pem")]);
        assert_eq!(a.tls.client_certificate, Some(("/c.pem".into(), "/etc/m/k.pem".into())));
        let b = &s.endpoints[&"https://b/".parse().unwrap()];
        assert_eq!(b.tls.ca, [Path::new("/etc/m/x.pem"), Path::new("/etc/m/y.pem")]);
        assert!(b.tls.insecure_skip_verify && b.supports_referrers == Referrers::Tag);
    }

    #[test]
    fn an_ace_dt_file_is_taken_as_it_stands_and_what_is_not_done_is_said() {
        let text = include_str!("../../testdata/config/ace-dt.yaml");
        let s = parse(text, Path::new("ace-dt.yaml"), None).unwrap();
        assert_eq!(s.registries.len(), 3);
        assert_eq!(s.jobs, Some(25));
        let line = text.lines().position(|l| l.contains("^rancher/")).unwrap() + 1;
        assert_eq!(s.warnings.len(), 1, "{:?}", s.warnings);
        assert!(
            s.warnings[0].starts_with(&format!("ace-dt.yaml:{line}: rewritePull of index.docker.io is not supported")),
            "{:?}",
            s.warnings
        );
    }

    #[test]
    fn the_sample_changes_nothing_and_is_valid_with_every_setting_taken_in() {
        let sample = super::super::SAMPLE;
        let nothing = parse(sample, Path::new("sample.yaml"), None).unwrap();
        assert!(nothing.shown.is_empty() && nothing.warnings.is_empty());
        // Prose has a space after the #, and then a word.
        let is_prose = |rest: &str| rest.starts_with(' ') && !rest.starts_with("  ") || rest.is_empty();
        let take_in = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !is_prose(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let all: String = sample.lines().map(take_in).collect();
        let settings = parse(&all, Path::new("sample.yaml"), None).unwrap_or_else(|e| panic!("{e}\n{all}"));
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
        let keys: Vec<&str> = settings.shown.iter().map(|s| s.key.rsplit('.').next().unwrap()).collect();
        for key in ["concurrentHTTP", "registryAuthFile", "endpoints", "supportsReferrers", "ca", "cert", "key"] {
            assert!(keys.contains(&key), "{key} is not in {keys:?}");
        }
    }

    #[test]
    fn the_example_of_the_documentation_is_valid() {
        let text = include_str!("../../testdata/config/mirror.yaml");
        assert!(include_str!("../../docs/configuration.md").contains(text));
        let s = parse(text, Path::new("mirror.yaml"), None).unwrap();
        assert!(!s.registries.is_empty() && !s.endpoints.is_empty() && s.warnings.is_empty());
    }
}
