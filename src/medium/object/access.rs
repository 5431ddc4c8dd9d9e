//! Where a store of objects is, and how its buckets are named.
//!
//! Invariant: nothing goes over plain HTTP unless the endpoint says so itself.

use std::io;
use std::path::PathBuf;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};

use super::connection::{Connector, retries};
use super::profile::Profile;
use super::{credentials, variable};
use crate::store::error::printable;

/// What to do about a store that does not answer.
pub const NEXT: &str = "see whether the store can be reached (--s3-endpoint), then run the same command again";

/// What the user said of the store. The rest is in the environment and in the files of the AWS tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `http://` or `https://` and a host.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket is in the name of the host, not in the path.
    pub virtual_host: bool,
    /// Without credentials.
    pub anonymous: bool,
}

impl Access {
    /// A client for one bucket, and the name of the store. Nothing is contacted yet.
    pub fn connect(&self, bucket: &str) -> io::Result<(AmazonS3, String)> {
        let profile = profile()?;
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let region = self.region.clone().or_else(|| variable("AWS_REGION"));
        let region =
            region.or_else(|| variable("AWS_DEFAULT_REGION")).or_else(|| profile.get("region").map(str::to_owned));
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let endpoint = self.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.or_else(|| profile.get("endpoint_url").map(str::to_owned));
        let style = profile.get("s3.addressing_style");
        let mut virtual_host = self.virtual_host || style == Some("virtual");
        let mut is_plain = false;
        let site = match endpoint {
            Some(endpoint) => {
                let url = check(&endpoint)?;
                is_plain = url.scheme() == "http";
                let site = url.as_str().trim_end_matches('/').to_owned();
                let at = if virtual_host { below(&url, bucket)? } else { site.clone() };
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, at);
                site
            }
            None => {
                // The certificate of the store has no name with a dot below it.
                virtual_host = virtual_host || !bucket.contains('.') && style != Some("path");
                "aws".into()
            }
        };
        builder = builder
            .with_virtual_hosted_style_request(virtual_host)
            .with_http_connector(Connector::new(is_plain, authorities(&profile)?.as_deref())?)
            .with_retry(retries())
            .with_checksum_algorithm(Checksum::SHA256)
            .with_unsigned_payload(false)
            // Not all stores remove several objects at once.
            .with_disable_bulk_delete(true)
            .with_skip_signature(self.anonymous);
        if !self.anonymous {
            builder = credentials::settle(builder, &profile)?;
        }
        let store = builder.build().map_err(|e| io::Error::other(printable(&e.to_string())))?;
        Ok((store, site))
    }
}

/// An endpoint that can be meant.
fn check(endpoint: &str) -> io::Result<url::Url> {
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
    if url.scheme() == "http" && !crate::config::endpoint::is_loopback(url.host_str().unwrap_or_default()) {
        tracing::warn!("{url} is plain HTTP: anybody on the way can read what is sent");
    }
    Ok(url)
}

/// The endpoint with the bucket before its host.
fn below(endpoint: &url::Url, bucket: &str) -> io::Result<String> {
    let wrong = || {
        let what = "the bucket cannot be a part of that host's name: leave out --s3-virtual-host";
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let Some(url::Host::Domain(host)) = endpoint.host() else { return Err(wrong()) };
    let mut url = endpoint.clone();
    url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|_| wrong())?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Certificates to trust besides those of the system.
fn authorities(profile: &Profile) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = variable("AWS_CA_BUNDLE").or_else(|| profile.get("ca_bundle").map(str::to_owned)) else {
        return Ok(None);
    };
    let pem = std::fs::read(&file);
    pem.map(Some).map_err(|e| io::Error::new(e.kind(), format!("{} of AWS_CA_BUNDLE: {e}", printable(&file))))
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
    let profile = Profile::read(named.as_deref().unwrap_or("default"), &config, &credentials);
    if named.is_some() && !profile.is_there() {
        return Err(io::Error::other(format!(
            "there is no profile {} in ~/.aws/config or ~/.aws/credentials: look at $AWS_PROFILE",
            profile.name()
        )));
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_nothing_secret() {
        assert_eq!(check("http://127.0.0.1:9000/").unwrap().as_str(), "http://127.0.0.1:9000/");
        for bad in ["s3.low.example", "ftp://s3", "https://key:secret@s3.low", "https://s3.low/?token=secret"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("--s3-endpoint") && !error.contains("secret"), "{error}");
        }
        let endpoint = check("https://s3.low.example:9000").unwrap();
        assert_eq!(below(&endpoint, "b").unwrap(), "https://b.s3.low.example:9000");
        assert!(below(&check("http://127.0.0.1:9000/").unwrap(), "b").is_err());
    }
}
