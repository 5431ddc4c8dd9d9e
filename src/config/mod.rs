//! The configuration file, credentials, and what they say of a host.

/// The effective configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {}
