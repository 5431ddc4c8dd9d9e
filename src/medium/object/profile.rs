//! Profiles of `~/.aws/config` and `~/.aws/credentials`: sections with names, of lines `key = value`.

use std::collections::HashMap;

/// The settings of one profile. Holds secrets: not to be printed.
#[derive(Default)]
pub struct Profile(HashMap<String, String>);

impl Profile {
    /// Reads that profile. What the text of the credentials says goes before what that of the configuration says.
    /// `None`: neither has it.
    pub fn read(name: &str, config: &str, credentials: &str) -> Option<Self> {
        let mut settings = HashMap::new();
        let prefixed = format!("profile {name}");
        let of_config = section(config, |title| title == prefixed || title == "default" && name == "default");
        let of_credentials = section(credentials, |title| title == name);
        let found = of_config.is_some() || of_credentials.is_some();
        settings.extend(of_config.unwrap_or_default());
        settings.extend(of_credentials.unwrap_or_default());
        found.then_some(Profile(settings))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The settings of the sections with such a title; `None` where there is none.
fn section(text: &str, wanted: impl Fn(&str) -> bool) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut within = false;
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
            // Indented lines are settings within a setting.
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = trimmed.split_once('=')
            && let Some(settings) = &mut found
        {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
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
endpoint_url = https://s3.low.example
s3 =
  addressing_style = path
aws_access_key_id = FROM_CONFIG
; aws_secret_access_key = no
";
    const CREDENTIALS: &str = "# ours\n[low]\naws_access_key_id = FROM_CREDENTIALS\naws_secret_access_key = a=b/c\n";

    #[test]
    fn credentials_go_before_the_configuration() {
        let low = Profile::read("low", CONFIG, CREDENTIALS).unwrap();
        assert_eq!(low.get("aws_access_key_id"), Some("FROM_CREDENTIALS"));
        assert_eq!(low.get("aws_secret_access_key"), Some("a=b/c"));
        assert_eq!(low.get("region"), Some("us-gov-west-1"));
        assert_eq!((low.get("s3"), low.get("addressing_style")), (None, None));
        let default = Profile::read("default", CONFIG, CREDENTIALS).unwrap();
        assert_eq!((default.get("region"), default.get("aws_access_key_id")), (Some("eu-central-1"), None));
        assert!(Profile::read("high", CONFIG, CREDENTIALS).is_none());
        assert!(Profile::read("low", "", "").is_none());
    }
}
