//! The configuration file, docs/configuration.md: its text in, checked settings out.
//!
//! Invariant: what is wrong is an error that names its line and key, and for an unknown key the nearest known one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_saphyr::Spanned;

use super::endpoint::{self, Limits, Referrers, Tls};
use super::schema::{Amount, Document, EndpointConfig, Host, LimitsConfig, OneOrMany, nearest};
use super::{EndpointSettings, Error, Origin, Result, Setting};
use crate::image::size;

/// What a file says of one registry.
#[derive(Clone, Debug, Default)]
pub(super) struct HostSettings {
    /// In their order; empty where the file names none.
    pub endpoints: Vec<url::Url>,
    /// What repositories are called when they are read, in the order of the file.
    pub rewrites: Vec<(Regex, String)>,
    pub limits: Limits,
}

/// What a file says, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// By host, in lower case.
    pub registries: BTreeMap<String, HostSettings>,
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

/// As many as `--jobs` may be.
const MAX_JOBS: usize = 1024;

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
        let key = |key: &str| format!("registryConfig.registries.{}.{key}", name.value);
        let mut settings = HostSettings::default();
        for text in &host.endpoints {
            let url = endpoint::parse_url(&text.value).map_err(|e| self.at(text, format!("endpoints: {e}")))?;
            settings.endpoints.push(url);
        }
        if let Some(first) = host.endpoints.first() {
            let shown: Vec<String> = settings.endpoints.iter().map(ToString::to_string).collect();
            self.show(key("endpoints"), shown, first.referenced);
        }
        for (pattern, replacement) in host.rewrite_pull.unwrap_or_default().0 {
            let regex = Regex::new(&pattern.value).map_err(|e| {
                let reason = e.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.at(&pattern, format!("rewritePull: {:?} is not a regular expression: {reason}", pattern.value))
            })?;
            self.show(key("rewritePull"), format!("{} → {replacement}", pattern.value), pattern.referenced);
            settings.rewrites.push((regex, replacement));
        }
        if let Some(flag) = host.noncompliant.filter(|f| f.value) {
            self.warn(&flag, format!("noncompliant of {} is not needed: tokens are always per repository", name.value));
        }
        settings.limits = self.limits(host.limits.unwrap_or_default(), &key("limits"))?;
        match self.settings.registries.insert(name.value.to_ascii_lowercase(), settings) {
            None => Ok(()),
            Some(_) => Err(self.at(name, format!("registries: {:?} is there twice", name.value))),
        }
    }

    fn limits(&mut self, config: LimitsConfig, key: &str) -> Result<Limits> {
        let mut limits = Limits::default();
        if let Some(rate) = config.requests_per_second {
            if !(rate.value > 0.0 && rate.value <= 1e6) {
                return Err(self.at(&rate, "limits: requestsPerSecond must be above 0, and 1000000 at most".into()));
            }
            self.show(format!("{key}.requestsPerSecond"), rate.value, rate.referenced);
            limits.requests_per_second = Some(rate.value);
        }
        if let Some(amount) = config.bytes_per_second {
            let bytes = match &amount.value {
                Amount::Number(bytes) => Ok(*bytes),
                Amount::Text(text) => size::parse(text),
            };
            let bytes = bytes.map_err(|e| self.at(&amount, format!("limits: bytesPerSecond: {e}")))?;
            if bytes == 0 {
                return Err(self.at(&amount, "limits: bytesPerSecond must be above 0".into()));
            }
            self.show(format!("{key}.bytesPerSecond"), bytes, amount.referenced);
            limits.bytes_per_second = Some(bytes);
        }
        if let Some(connections) = config.connections {
            if !(1..=MAX_JOBS).contains(&connections.value) {
                return Err(self.at(&connections, format!("limits: connections must be between 1 and {MAX_JOBS}")));
            }
            self.show(format!("{key}.connections"), connections.value, connections.referenced);
            limits.connections = Some(connections.value);
        }
        Ok(limits)
    }

    fn endpoint(&mut self, text: &Spanned<String>, config: EndpointConfig) -> Result<()> {
        let url = endpoint::parse_url(&text.value).map_err(|e| self.at(text, format!("endpointConfig: {e}")))?;
        let mut settings =
            EndpointSettings { supports_referrers: config.supports_referrers.unwrap_or_default(), tls: None };
        if let Some(tls) = config.tls {
            let (referenced, tls) = (tls.referenced, tls.value);
            let mut checked = Tls { insecure_skip_verify: tls.insecure_skip_verify, ..Tls::default() };
            checked.ca = match tls.ca {
                Some(OneOrMany::One(file)) => vec![self.absolute(file)],
                Some(OneOrMany::Many(files)) => files.into_iter().map(|f| self.absolute(f)).collect(),
                None => Vec::new(),
            };
            checked.client_certificate = match (tls.cert, tls.key) {
                (Some(cert), Some(key)) => Some((self.absolute(cert), self.absolute(key))),
                (None, None) => None,
                (Some(_), None) => {
                    return Err(self.at_line(referenced, "tls: cert needs key, the private key's file".into()));
                }
                (None, Some(_)) => {
                    return Err(self.at_line(referenced, "tls: key needs cert, the certificate's file".into()));
                }
            };
            self.show_tls(&url, &checked, referenced);
            settings.tls = Some(checked);
        }
        if settings.supports_referrers != Referrers::Auto {
            let key = format!("registryConfig.endpointConfig.{url}.supportsReferrers");
            self.show(key, settings.supports_referrers.name(), text.referenced);
        }
        match self.settings.endpoints.insert(url, settings) {
            None => Ok(()),
            Some(_) => Err(self.at(text, format!("endpointConfig: {:?} is there twice", text.value))),
        }
    }

    fn show_tls(&mut self, url: &url::Url, tls: &Tls, place: serde_saphyr::Location) {
        let under = |key: &str| format!("registryConfig.endpointConfig.{url}.tls.{key}");
        if !tls.ca.is_empty() {
            let files: Vec<String> = tls.ca.iter().map(|f| f.display().to_string()).collect();
            self.show(under("ca"), files, place);
        }
        if let Some((cert, key)) = &tls.client_certificate {
            self.show(under("cert"), cert.display().to_string(), place);
            self.show(under("key"), key.display().to_string(), place);
        }
        if tls.insecure_skip_verify {
            self.show(under("insecureSkipVerify"), true, place);
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
        let urls =
            |s: &Settings| s.registries["reg.low:5000"].endpoints.iter().map(url::Url::to_string).collect::<Vec<_>>();
        assert_eq!(urls(&with), ["http://a:1/", "https://b.c/"]);
        assert_eq!(urls(&with), urls(&without));
    }

    #[test]
    fn empty_files_and_empty_sections_are_fine() {
        for text in
            ["", "# nothing\n", "---\n", "registryConfig:\n", "registryConfig:\n  registries:\n  endpointConfig:\n"]
        {
            assert!(settings(text).registries.is_empty(), "{text:?}");
        }
        let host = &settings("registryConfig:\n  registries:\n    reg.low:\n").registries["reg.low"];
        assert!(host.endpoints.is_empty() && host.rewrites.is_empty() && host.limits == Limits::default());
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
        let (a, b) = (a.tls.as_ref().unwrap(), &s.endpoints[&"https://b/".parse().unwrap()]);
        assert_eq!(a.ca, [Path::new("/etc/m/ca.pem")]);
        assert_eq!(a.client_certificate, Some(("/c.pem".into(), "/etc/m/k.pem".into())));
        let tls = b.tls.as_ref().unwrap();
        assert_eq!(tls.ca, [Path::new("/etc/m/x.pem"), Path::new("/etc/m/y.pem")]);
        assert!(tls.insecure_skip_verify && b.supports_referrers == Referrers::Tag);
    }

    #[test]
    fn an_ace_dt_file_is_taken_as_it_stands_and_what_is_not_done_is_said() {
        let text = include_str!("../../testdata/config/ace-dt.yaml");
        let s = parse(text, Path::new("ace-dt.yaml"), None).unwrap();
        assert_eq!(s.registries.len(), 3);
        assert_eq!(s.jobs, Some(25));
        assert!(s.warnings.is_empty(), "{:?}", s.warnings);
        assert_eq!(s.registries["index.docker.io"].rewrites[0].1, "mirrors/rancher/$1");
    }

    #[test]
    fn rewrites_keep_the_order_of_the_file_and_limits_are_numbers_and_sizes() {
        let text = "registryConfig:\n  reg.low:\n    rewritePull:\n      z: \"1\"\n      a: \"2\"\n      m: \"3\"\n    limits: {requestsPerSecond: 2.5, bytesPerSecond: 10MiB, connections: 4}\n";
        let host = &settings(text).registries["reg.low"];
        let patterns: Vec<_> = host.rewrites.iter().map(|(regex, to)| format!("{regex}{to}")).collect();
        assert_eq!(patterns, ["z1", "a2", "m3"]);
        let limits = Limits { requests_per_second: Some(2.5), bytes_per_second: Some(10 << 20), connections: Some(4) };
        assert_eq!(host.limits, limits);
        assert_eq!(
            settings("registryConfig: {r.low: {limits: {bytesPerSecond: 7}}}\n").registries["r.low"]
                .limits
                .bytes_per_second,
            Some(7)
        );
        for (value, expected) in [
            ("rewritePull: {\"(\": x}", "c.yaml:3:19: rewritePull: \"(\" is not a regular expression: unclosed group"),
            ("limits: {requestsPerSecond: 0}", "c.yaml:3:33: limits: requestsPerSecond must be above 0"),
            ("limits: {bytesPerSecond: fast}", "c.yaml:3:30: limits: bytesPerSecond: \"fast\" is not a size"),
            ("limits: {connections: 0}", "c.yaml:3:27: limits: connections must be between"),
            ("limits: {conections: 1}", "c.yaml:3:14: unknown key \"conections\"; did you mean \"connections\"?"),
        ] {
            let said = refusal(&format!("registryConfig:\n  reg.low:\n    {value}\n"));
            assert!(said.starts_with(expected), "{said}");
        }
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
        for key in [
            "concurrentHTTP",
            "registryAuthFile",
            "endpoints",
            "supportsReferrers",
            "ca",
            "cert",
            "key",
            "rewritePull",
            "requestsPerSecond",
            "bytesPerSecond",
            "connections",
        ] {
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
