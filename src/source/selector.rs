//! Kubernetes label selectors: `component=core,tier in (1,2),!legacy`. Commas mean *and*; several
//! selectors mean *or*, which is the caller's ([`super::matches_any`]). Semantics as Kubernetes has them:
//! `!=` and `notin` also match where the label is absent, and an empty selector matches everything.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::{Error, label};
use crate::image::descriptor::Annotations;

/// Requirements that labels must all meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Greater(i64),
    Less(i64),
}

impl Selector {
    /// Parses `key`, `!key`, `key=v`, `key==v`, `key!=v`, `key in (v,…)`, `key notin (v,…)`, `key>n`, `key<n`,
    /// joined by commas.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |reason: String| Error::Selector { text: text.chars().take(200).collect(), reason };
        let mut requirements = Vec::new();
        if text.trim().is_empty() {
            return Ok(Selector { requirements });
        }
        for part in split(text).map_err(&bad)? {
            requirements.push(requirement(part.trim()).map_err(&bad)?);
        }
        Ok(Selector { requirements })
    }

    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &Annotations) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.get(&r.key);
            let number = || value.and_then(|v| v.parse::<i64>().ok());
            match &r.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|v| values.contains(v)),
                Test::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Test::Greater(n) => number().is_some_and(|v| v > *n),
                Test::Less(n) => number().is_some_and(|v| v < *n),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Selector::parse(text)
    }
}

/// The parts between commas that are not inside parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'(' if inside => return Err("a parenthesis inside another".into()),
            b')' if !inside => return Err("a closing parenthesis without an opening one".into()),
            b'(' => inside = true,
            b')' => inside = false,
            b',' if !inside => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a parenthesis is not closed".into());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let (key, test) = if let Some(key) = part.strip_prefix('!').filter(|k| !k.contains(['=', '<', '>', '('])) {
        (key, Test::Absent)
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(one(value)?))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Test::In(one(value)?))
    } else if let Some((key, value)) = part.split_once('>') {
        (key, Test::Greater(number(value)?))
    } else if let Some((key, value)) = part.split_once('<') {
        (key, Test::Less(number(value)?))
    } else if let Some((left, values)) = part.split_once('(') {
        let values = values.trim_end().strip_suffix(')').ok_or("after a closing parenthesis comes a comma")?;
        match left.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key, Test::In(several(values)?)),
            Some((key, "notin")) => (key, Test::NotIn(several(values)?)),
            _ => return Err(format!("\"{}\" is not KEY in (…) or KEY notin (…)", left.escape_debug())),
        }
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    label::check_key(key)?;
    Ok(Requirement { key: key.into(), test })
}

fn one(value: &str) -> Result<BTreeSet<String>, String> {
    let value = value.trim();
    label::check_value(value)?;
    Ok(BTreeSet::from([value.to_string()]))
}

fn several(values: &str) -> Result<BTreeSet<String>, String> {
    if values.trim().is_empty() {
        return Err("the parentheses are empty: name at least one value".into());
    }
    values
        .split(',')
        .map(|v| {
            label::check_value(v.trim())?;
            Ok(v.trim().to_string())
        })
        .collect()
}

fn number(value: &str) -> Result<i64, String> {
    value.trim().parse().map_err(|_| format!("{:?} is not a whole number", value.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn matches_as_kubernetes_does() {
        let core = [("component", "core"), ("tier", "2")];
        for yes in [
            "",
            "component=core",
            "component == core",
            "component=core,tier=2",
            "component",
            "!legacy",
            "component!=extra",
            "other != x",
            "component in (core, extra)",
            "component in (core,extra) , tier notin (1)",
            "other notin (x)",
            "tier>1",
            "tier<3",
            "legacy notin (x),component",
        ] {
            assert!(chosen(yes, &core), "{yes}");
        }
        for no in [
            "component=extra",
            "component=core,tier=1",
            "legacy",
            "!component",
            "component!=core",
            "other in (core)",
            "component notin (core)",
            "tier>2",
            "component>1",
            "component=",
        ] {
            assert!(!chosen(no, &core), "{no}");
        }
        assert!(chosen("e=", &[("e", "")]));
    }

    #[test]
    fn refuses_what_is_no_selector() {
        for bad in [
            "=a",
            "a=b c",
            "a in b",
            "a in ()",
            "a in (b",
            "a)",
            "a in ((b))",
            "a,",
            ",",
            "a like (b)",
            "a>b",
            "!",
            "a in (b) c",
            "!a=b",
        ] {
            let error = Selector::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("selector \""), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = Selector::parse(&text);
        }

        /// A value is in a set exactly when it is not outside it, whatever the labels.
        #[test]
        fn in_and_notin_are_opposites(key in "[a-c]", values in prop::collection::vec("[x-z]", 1..4), labels in prop::collection::btree_map("[a-c]", "[w-z]", 0..3)) {
            let set = values.join(",");
            let inside = Selector::parse(&format!("{key} in ({set})")).unwrap();
            let outside = Selector::parse(&format!("{key} notin ({set})")).unwrap();
            prop_assert_ne!(inside.matches(&labels), outside.matches(&labels));
        }
    }
}
