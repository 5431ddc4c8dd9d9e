//! Profiles of `~/.aws/config` and `~/.aws/credentials`: sections with names, of lines `key = value`. A setting may have
//! settings of its own, on indented lines: `addressing_style` below `s3` is read as `s3.addressing_style`.

use std::collections::HashMap;

/// The settings of one profile. Holds secrets: not to be printed.
pub struct Profile {
    name: String,
    /// Neither file has it, where there are none.
    settings: Option<HashMap<String, String>>,
}

impl Profile {
    /// Reads that profile. What the text of the credentials says goes before what that of the configuration says.
    pub fn read(name: &str, config: &str, credentials: &str) -> Self {
        let prefixed = format!("profile {name}");
        let of_config = section(config, |title| title == prefixed || title == "default" && name == "default");
        let of_credentials = section(credentials, |title| title == name);
        let mut settings: Option<HashMap<_, _>> = None;
        for found in [of_config, of_credentials].into_iter().flatten() {
            settings.get_or_insert_default().extend(found);
        }
        let services = settings.as_ref().and_then(|settings| settings.get("services"));
        let services = services.and_then(|name| section(config, |title| title == format!("services {name}")));
        // The endpoint of S3 alone goes before that of all services.
        if let (Some(settings), Some(endpoint)) =
            (&mut settings, services.and_then(|s| s.get("s3.endpoint_url").cloned()))
        {
            settings.insert("endpoint_url".into(), endpoint);
        }
        Profile { name: name.into(), settings }
    }

    /// Its name, as it may be printed.
    pub fn name(&self) -> String {
        crate::store::error::printable(&self.name)
    }

    pub fn is_there(&self) -> bool {
        self.settings.is_some()
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The settings of the sections with such a title; `None` where there is none.
fn section(text: &str, wanted: impl Fn(&str) -> bool) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut within = false;
    let mut above = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(title, _)| title) {
            let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
            within = wanted(&title);
            if within {
                found.get_or_insert_default();
            }
        } else if within
            && let Some((key, value)) = trimmed.split_once('=')
            && let Some(settings) = &mut found
        {
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_owned());
            if line.starts_with([' ', '\t']) {
                settings.insert(format!("{above}.{key}"), value);
            } else {
                above.clone_from(&key);
                settings.insert(key, value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-central-1
[profile  low]
region=us-gov-west-1
endpoint_url = https://aws.low.example
services = ours
s3 =
  addressing_style = path
aws_access_key_id = FROM_CONFIG
; aws_secret_access_key = no
[services ours]
dynamodb =
  endpoint_url = https://dynamo.low.example
s3 =
  endpoint_url = https://s3.low.example
";
    const CREDENTIALS: &str = "# ours\n[low]\naws_access_key_id = FROM_CREDENTIALS\naws_secret_access_key = a=b/c\n";

    #[test]
    fn credentials_go_before_the_configuration() {
        let low = Profile::read("low", CONFIG, CREDENTIALS);
        assert_eq!(low.get("aws_access_key_id"), Some("FROM_CREDENTIALS"));
        assert_eq!(low.get("aws_secret_access_key"), Some("a=b/c"));
        assert_eq!(low.get("region"), Some("us-gov-west-1"));
        assert_eq!((low.get("s3"), low.get("addressing_style")), (None, None));
        assert_eq!(low.get("s3.addressing_style"), Some("path"));
        assert_eq!(low.get("endpoint_url"), Some("https://s3.low.example"));
        let default = Profile::read("default", CONFIG, CREDENTIALS);
        assert_eq!((default.get("region"), default.get("aws_access_key_id")), (Some("eu-central-1"), None));
        assert!(!Profile::read("high", CONFIG, CREDENTIALS).is_there());
        assert!(!Profile::read("low", "", "").is_there());
        assert!(Profile::read("low", "", "[low]").is_there());
    }
}
