//! The Kubernetes rules for label keys and values (concepts, "Labels and Selectors", syntax and
//! character set). Both the list and the selectors hold to them.

/// Why `key` is not a label key: an optional DNS prefix and `/`, then a name of at most 63 characters.
pub fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if !is_dns_subdomain(prefix) {
                return Err(format!("{prefix:?} before the / of a label key is not a DNS name in lower case"));
            }
            name
        }
        None => key,
    };
    match is_name(name) {
        true => Ok(()),
        false => Err(format!("{key:?} is not a label key: {NAME}")),
    }
}

/// Why `value` is not a label value: empty, or as a name.
pub fn check_value(value: &str) -> Result<(), String> {
    match value.is_empty() || is_name(value) {
        true => Ok(()),
        false => Err(format!("{value:?} is not a label value: {NAME}")),
    }
}

const NAME: &str = "at most 63 letters, digits, - _ . with a letter or digit at both ends";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_dns_subdomain(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= 253
        && text.split('.').all(|part| {
            edge(part.as_bytes().first())
                && edge(part.as_bytes().last())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_rules_of_kubernetes() {
        for good in ["a", "component", "A.b_c-d", "example.com/part-of", &"x".repeat(63)] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "/a", "Example.com/a", "a/b/c", "a/", &"x".repeat(64)] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert_eq!(check_value(""), Ok(()));
        assert_eq!(check_value("v1.2_x-y"), Ok(()));
        for bad in [".", "a/b", "a=b", "é", &"x".repeat(64)] {
            assert!(check_value(bad).is_err(), "{bad}");
        }
    }
}
