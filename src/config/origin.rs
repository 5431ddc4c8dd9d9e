//! What the configuration says, key by key, and where each value came from: what `mirror config show` prints.
//!
//! Invariant: a value here holds no secret; it is masked before it gets in.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// A line (from 1) of a file.
    File {
        file: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u64>,
    },
    /// An environment variable.
    Environment { name: &'static str },
    /// An option on the command line, as in `--jobs`.
    Flag { name: &'static str },
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line: Some(line) } => write!(f, "{file}:{line}"),
            Origin::File { file, line: None } => f.write_str(file),
            Origin::Environment { name } => write!(f, "${name}"),
            Origin::Flag { name } => f.write_str(name),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One value of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its parts joined by dots, as in `registryConfig.registries.reg.low.endpoints`.
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

impl Setting {
    pub fn new(key: impl Into<String>, value: impl Into<Value>, origin: Origin) -> Setting {
        Setting { key: key.into(), value: value.into(), origin }
    }
}

/// What stands in for a secret.
pub(super) const MASK: &str = "***";
