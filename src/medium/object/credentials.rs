//! Who asks a store of objects: where credentials are looked for, and what to do when there are none.
//!
//! Invariants: a secret is held by the client alone, and never printed; looking for credentials ends in seconds.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};

use super::profile::Profile;
use super::variable;
use crate::store::error::printable;

/// The metadata of an instance answer at once, or are not there.
const FIRST: Duration = Duration::from_secs(2);
/// Services elsewhere, and those that have answered before, get so long.
const LATER: Duration = Duration::from_secs(30);
const SET: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to one with keys; \
                   --s3-anonymous uses none";

/// Where the credentials of a run come from.
enum Origin {
    /// Keys, which are not looked at before they are used.
    Keys,
    WebIdentity,
    Container,
    Instance,
}

/// Settles where credentials come from, in the order of the AWS tools.
pub fn settle(mut builder: AmazonS3Builder, profile: &Profile) -> io::Result<AmazonS3Builder> {
    let origin = if variable("AWS_ACCESS_KEY_ID").is_some() || variable("AWS_SECRET_ACCESS_KEY").is_some() {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            if variable(name).is_none() {
                return Err(io::Error::other(format!("half of the credentials is there: {name} is not set")));
            }
        }
        Origin::Keys
    } else if is_set(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]) {
        Origin::WebIdentity
    } else if profile.get("aws_access_key_id").is_some() {
        if profile.get("aws_secret_access_key").is_none() {
            let name = profile.name();
            return Err(io::Error::other(format!("the profile {name} has a key without its aws_secret_access_key")));
        }
        Origin::Keys
    } else if profile.get("web_identity_token_file").is_some() && profile.get("role_arn").is_some() {
        Origin::WebIdentity
    } else if let Some(how) = UNKNOWN.iter().find(|key| profile.get(key).is_some()) {
        let name = profile.name();
        return Err(io::Error::other(format!(
            "the profile {name} gets its credentials by {how}, which this program does not do: have the AWS tools do it, \
             with eval \"$(aws configure export-credentials --profile {name} --format env)\""
        )));
    } else if is_set(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])
        || is_set(&["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
    {
        Origin::Container
    } else {
        Origin::Instance
    };
    for (key, setting) in [
        ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
        ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
        ("aws_session_token", AmazonS3ConfigKey::Token),
        ("web_identity_token_file", AmazonS3ConfigKey::WebIdentityTokenFile),
        ("role_arn", AmazonS3ConfigKey::RoleArn),
        ("role_session_name", AmazonS3ConfigKey::RoleSessionName),
    ] {
        // The environment is taken as a whole, or not at all.
        if !is_set(&["AWS_ACCESS_KEY_ID"])
            && !is_set(&["AWS_WEB_IDENTITY_TOKEN_FILE"])
            && let Some(value) = profile.get(key)
        {
            builder = builder.with_config(setting, value);
        }
    }
    if let Some(endpoint) = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        builder = builder.with_metadata_endpoint(endpoint.trim_end_matches('/'));
    }
    let (patience, place) = match origin {
        Origin::Keys => return Ok(builder),
        Origin::WebIdentity => (LATER, "the web identity of AWS_WEB_IDENTITY_TOKEN_FILE gives none".to_owned()),
        Origin::Container => (LATER, "the role of this container gives none".to_owned()),
        Origin::Instance => (FIRST, nowhere(profile)),
    };
    if matches!(origin, Origin::Instance)
        && variable("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
    {
        return Err(io::Error::other(Missing { place, cause: "AWS_EC2_METADATA_DISABLED is set".into() }));
    }
    let service = builder.clone().build().map_err(|e| io::Error::other(printable(&e.to_string())))?;
    let inner = service.credentials().clone();
    Ok(builder.with_credentials(Arc::new(Service { inner, patience, place, answered: AtomicBool::new(false) })))
}

/// What profiles may say that only the AWS tools know how to do.
const UNKNOWN: [&str; 6] =
    ["sso_session", "sso_start_url", "credential_process", "source_profile", "credential_source", "login_session"];

fn is_set(names: &[&str]) -> bool {
    names.iter().all(|name| variable(name).is_some())
}

/// All places but the metadata of the instance, which is asked last.
fn nowhere(profile: &Profile) -> String {
    let files = "~/.aws/credentials and ~/.aws/config";
    let profile = match profile.is_there() {
        true => format!("in the profile {} of {files}", profile.name()),
        false => format!("in {files}, which have no profile {}", profile.name()),
    };
    let container = match variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        Some(_) => "AWS_CONTAINER_CREDENTIALS_FULL_URI is there without AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        None => "nor of a container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI)",
    };
    format!(
        "there are none in the environment (AWS_ACCESS_KEY_ID), none {profile}, no web identity \
         (AWS_WEB_IDENTITY_TOKEN_FILE), {container}, and the metadata of an instance gives none"
    )
}

/// A service that gives out credentials.
struct Service {
    inner: AwsCredentialProvider,
    /// For the first answer.
    patience: Duration,
    place: String,
    answered: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Service {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let patience = if self.answered.load(Relaxed) { LATER } else { self.patience };
        let cause = match tokio::time::timeout(patience, self.inner.get_credential()).await {
            Ok(Ok(credential)) => {
                self.answered.store(true, Relaxed);
                return Ok(credential);
            }
            Ok(Err(e)) => super::cause(&e),
            Err(_) => format!("nothing came for {} s", patience.as_secs()),
        };
        let missing = Missing { place: self.place.clone(), cause };
        Err(object_store::Error::Unauthenticated { path: String::new(), source: Box::new(missing) })
    }
}

/// There are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("no credentials for the store: {place} ({cause}): {SET}")]
pub struct Missing {
    place: String,
    cause: String,
}
