//! The environment variables that say where files are. Captured once, so that what depends on them can
//! be tested without touching the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Names that are looked at; nothing else of the environment is kept.
const NAMES: [&str; 8] = [
    "MIRROR_CONFIG",
    "REGISTRY_AUTH_FILE",
    "CONTAINERS_REGISTRIES_CONF",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "DOCKER_CONFIG",
    "HOME",
];

/// Names that other rooms look at themselves, the first of each group that is set; only to be shown.
const SHOWN: [&[&str]; 6] = [
    &["MIRROR_SILENCE_TIMEOUT"],
    &["MIRROR_LOG"],
    &["HTTP_PROXY", "http_proxy"],
    &["HTTPS_PROXY", "https_proxy"],
    &["ALL_PROXY", "all_proxy"],
    &["NO_PROXY", "no_proxy"],
];

/// Variables with a value that is not empty.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<&'static str, OsString>);

impl Environment {
    pub fn of_process() -> Self {
        Environment(NAMES.iter().filter_map(|&n| Some((n, std::env::var_os(n)?))).filter(|v| !v.1.is_empty()).collect())
    }

    /// Variables of the process that change how registries are reached and are read elsewhere, with their values.
    pub fn others() -> Vec<(&'static str, String)> {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        SHOWN.iter().filter_map(|names| names.iter().find_map(|&name| Some((name, value(name)?)))).collect()
    }

    /// A path that a variable holds.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub fn config_home(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME").or_else(|| Some(self.path("HOME")?.join(".config")))
    }

    /// `$XDG_STATE_HOME`, or `~/.local/state`.
    pub fn state_home(&self) -> Option<PathBuf> {
        self.path("XDG_STATE_HOME").or_else(|| Some(self.path("HOME")?.join(".local/state")))
    }
}

#[cfg(test)]
impl Environment {
    pub fn of(values: &[(&'static str, &std::path::Path)]) -> Self {
        Environment(values.iter().map(|&(n, v)| (n, v.as_os_str().to_owned())).collect())
    }
}
