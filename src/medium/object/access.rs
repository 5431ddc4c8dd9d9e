//! How a store of objects is reached: where it is, and who asks.
//!
//! Invariants: a secret is held by the client alone, and never printed; nothing goes over plain HTTP unless the
//! endpoint says so itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::profile::Profile;
use crate::store::error::printable;

/// What to do about a store that does not answer.
pub const NEXT: &str = "see whether the store can be reached (--s3-endpoint), then run the same command again";
/// A request is made so many times more, and for so long.
const RETRIES: usize = 6;
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT: Duration = Duration::from_secs(10);
/// A store that says nothing for so long has failed.
pub const SILENCE: Duration = Duration::from_secs(60);

/// What the user said of the store. The rest is in the environment and in the files of the AWS tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `http://` or `https://` and a host.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Without credentials.
    pub anonymous: bool,
}

impl Access {
    /// A client for one bucket, and the name of the store. A request fails that gets no byte within `silence`.
    pub fn connect(&self, bucket: &str, silence: Duration) -> io::Result<(AmazonS3, String)> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let profile = profile()?;
        if variable("AWS_ACCESS_KEY_ID").is_none() && variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_none() {
            for (key, setting) in [
                ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
                ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
                ("aws_session_token", AmazonS3ConfigKey::Token),
                ("web_identity_token_file", AmazonS3ConfigKey::WebIdentityTokenFile),
                ("role_arn", AmazonS3ConfigKey::RoleArn),
            ] {
                if let Some(value) = profile.get(key) {
                    builder = builder.with_config(setting, value);
                }
            }
        }
        let region = self.region.clone().or_else(|| variable("AWS_REGION"));
        let region =
            region.or_else(|| variable("AWS_DEFAULT_REGION")).or_else(|| profile.get("region").map(str::to_owned));
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let endpoint = self.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.or_else(|| profile.get("endpoint_url").map(str::to_owned));
        let mut client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT)
            .with_read_timeout(silence)
            .with_allow_http(false);
        let site = match endpoint {
            Some(endpoint) => {
                let endpoint = check(&endpoint)?;
                client = client.with_allow_http(endpoint.starts_with("http:"));
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, &endpoint);
                endpoint
            }
            None => {
                // The certificate of the store has no name with a dot below it.
                builder = builder.with_virtual_hosted_style_request(!bucket.contains('.'));
                "aws".into()
            }
        };
        let retry =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT };
        let builder = builder
            .with_client_options(client)
            .with_retry(retry)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_unsigned_payload(false)
            .with_skip_signature(self.anonymous);
        let store = builder.build().map_err(|e| io::Error::other(printable(&e.to_string())))?;
        Ok((store, site))
    }
}

/// An endpoint that can be meant, without a slash at its end.
fn check(endpoint: &str) -> io::Result<String> {
    let wrong = |why: &str| {
        let what = format!("the endpoint of the store {why}: write --s3-endpoint https://HOST[:PORT]");
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let url = url::Url::parse(endpoint).map_err(|e| wrong(&format!("is no URL ({e})")))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(wrong("is neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has more than a host in it; credentials belong into the environment or a profile"));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        tracing::warn!("{url} is plain HTTP: anybody on the way can read what is sent");
    }
    Ok(endpoint.trim_end_matches('/').to_owned())
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The profile that `$AWS_PROFILE` names, else the one that is called `default`. One that was named must be there.
fn profile() -> io::Result<Profile> {
    let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let read = |name: &str, file: &str| {
        let home = || Some(PathBuf::from(variable("HOME")?).join(".aws").join(file));
        match variable(name).map(PathBuf::from).or_else(home) {
            Some(path) => match std::fs::read_to_string(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
                }
                read => Ok(read.unwrap_or_default()),
            },
            None => Ok(String::new()),
        }
    };
    let (config, credentials) =
        (read("AWS_CONFIG_FILE", "config")?, read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?);
    match (Profile::read(named.as_deref().unwrap_or("default"), &config, &credentials), named) {
        (Some(profile), _) => Ok(profile),
        (None, None) => Ok(Profile::default()),
        (None, Some(name)) => Err(io::Error::other(format!(
            "there is no profile {} in ~/.aws/config or ~/.aws/credentials: look at $AWS_PROFILE",
            printable(&name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_nothing_secret() {
        assert_eq!(check("http://127.0.0.1:9000/").unwrap(), "http://127.0.0.1:9000");
        assert_eq!(check("https://s3.low.example").unwrap(), "https://s3.low.example");
        for bad in ["s3.low.example", "ftp://s3", "https://key:secret@s3.low", "https://s3.low/?token=secret"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("--s3-endpoint") && !error.contains("secret"), "{error}");
        }
    }
}
