//! Semantic versions as images carry them, with `v` before and parts left out: `semver` takes one apart,
//! `semverCompare` tests it: `>=1.2, <2`, `^1.2 || ~3.1`, `1.2.x`, `1.2 - 1.4`. A pre-release fits only
//! a constraint that names a pre-release itself.

use semver::{BuildMetadata, Prerelease, Version};
use serde_json::{Value, json};

use super::{Function, Outcome, function, text};

pub static TABLE: &[Function] =
    &[function("semver", 1, 1, |a| taken_apart(&text(&a[0]))), function("semverCompare", 2, 2, compare)];

fn taken_apart(whole: &str) -> Outcome {
    let v = version(whole)?.0;
    Ok(json!({
        "Major": v.major, "Minor": v.minor, "Patch": v.patch,
        "Prerelease": v.pre.as_str(), "Metadata": v.build.as_str(), "Original": whole,
    }))
}

/// `semverCompare CONSTRAINT VERSION`.
fn compare(a: &[Value]) -> Outcome {
    let v = version(&text(&a[1]))?.0;
    for alternative in text(&a[0]).split("||") {
        if fits_all(alternative, &v)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn fits_all(constraint: &str, v: &Version) -> Result<bool, String> {
    if let Some((low, high)) = constraint.split_once(" - ") {
        return Ok(fits(">=", low.trim(), v)? && fits("<=", high.trim(), v)?);
    }
    // An operator may stand apart from its version.
    let mut operator = String::new();
    let mut all = true;
    for word in constraint.split([',', ' ']).filter(|w| !w.is_empty()) {
        let end = word.find(|c| !matches!(c, '=' | '!' | '<' | '>' | '~' | '^')).unwrap_or(word.len());
        operator.push_str(&word[..end]);
        if end < word.len() {
            all &= fits(&operator, &word[end..], v)?;
            operator.clear();
        }
    }
    if operator.is_empty() { Ok(all) } else { Err(format!("no version after {operator:?}")) }
}

fn fits(operator: &str, bound: &str, v: &Version) -> Result<bool, String> {
    let (low, parts) = version(bound)?;
    if !v.pre.is_empty() && low.pre.is_empty() {
        return Ok(false);
    }
    // The first version after all that the written parts stand for.
    let next = |parts: usize| match parts {
        0 => Version::new(u64::MAX, 0, 0),
        1 => Version::new(low.major.saturating_add(1), 0, 0),
        2 => Version::new(low.major, low.minor.saturating_add(1), 0),
        _ => Version::new(low.major, low.minor, low.patch.saturating_add(1)),
    };
    let within = |parts: usize| *v >= low && *v < next(parts);
    let equal = if parts == 3 { v.cmp_precedence(&low).is_eq() } else { within(parts) };
    Ok(match operator {
        "" | "=" | "==" => equal,
        "!=" => !equal,
        ">" => *v > low && !(parts < 3 && within(parts)),
        ">=" | "=>" => *v >= low,
        "<" => *v < low,
        "<=" | "=<" => *v <= low || equal,
        "~" | "~>" => within(parts.min(2)),
        "^" if low.major > 0 || parts < 2 => within(parts.min(1)),
        "^" if low.minor > 0 || parts < 3 => within(2),
        "^" => within(3),
        _ => return Err(format!("{operator:?} is not an operator")),
    })
}

/// The version, and how many of its three parts were written.
fn version(whole: &str) -> Result<(Version, usize), String> {
    let bad = || format!("{:?} is not a version", crate::store::error::printable(whole));
    let text = whole.trim().trim_start_matches('v');
    let (rest, build) = text.split_once('+').unwrap_or((text, ""));
    let (core, pre) = rest.split_once('-').unwrap_or((rest, ""));
    let mut numbers = [0u64; 3];
    let mut parts = 0;
    for (i, part) in core.split('.').enumerate() {
        let slot = numbers.get_mut(i).ok_or_else(bad)?;
        if matches!(part, "x" | "X" | "*") {
            break;
        }
        *slot = part.parse().map_err(|_| bad())?;
        parts = i + 1;
    }
    let mut version = Version::new(numbers[0], numbers[1], numbers[2]);
    version.pre = Prerelease::new(pre).map_err(|_| bad())?;
    version.build = BuildMetadata::new(build).map_err(|_| bad())?;
    Ok((version, parts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn compares() {
        for (constraint, version, fits) in [
            ("1.2.3", "v1.2.3", true),
            ("1.2.3", "1.2.4", false),
            ("=1.2", "1.2.9", true),
            ("!=1.2.3", "1.2.4", true),
            (">=1.2, <2", "1.9.0", true),
            (">= 1.2 <2.0.0", "2.0.0", false),
            (">1.2", "1.2.5", false),
            (">1.2", "1.3.0", true),
            ("<=1.2", "1.2.7", true),
            ("^1.2", "1.9.0", true),
            ("^1.2", "2.0.0", false),
            ("^0.2.3", "0.2.9", true),
            ("^0.2.3", "0.3.0", false),
            ("^0.0.3", "0.0.4", false),
            ("~1.2.3", "1.2.9", true),
            ("~1.2.3", "1.3.0", false),
            ("~1", "1.9.0", true),
            ("1.2.x", "1.2.5", true),
            ("*", "9.9.9", true),
            ("^1 || ~3.1", "3.1.4", true),
            ("1.2 - 1.4", "1.4.9", true),
            (">=1.0.0", "1.1.0-rc.1", false),
            (">=1.0.0-0", "1.1.0-rc.1", true),
        ] {
            assert_eq!(call("semverCompare", json!([constraint, version])), Ok(json!(fits)), "{constraint} {version}");
        }
        assert!(call("semverCompare", json!(["%1", "1.0.0"])).is_err());
        assert!(call("semverCompare", json!([">=", "1.0.0"])).is_err());
        assert!(call("semver", json!(["latest"])).is_err());
        check(&[(
            "semver",
            json!(["v1.2.3-rc.1+b7"]),
            json!({"Major": 1, "Minor": 2, "Patch": 3, "Prerelease": "rc.1", "Metadata": "b7", "Original": "v1.2.3-rc.1+b7"}),
        )]);
    }
}
