//! Regular expressions (the syntax of the regex crate, which is RE2's): matching, finding, replacing,
//! splitting. A pattern that does not compile is an error, in the plain and in the `must` spelling.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::{NoExpand, Regex};
use serde_json::Value;

use super::{Function, MAX_TEXT, Outcome, function, integer, text};

pub static TABLE: &[Function] = &[
    function("regexMatch", 2, 2, is_match),
    function("mustRegexMatch", 2, 2, is_match),
    function("regexFind", 2, 2, find),
    function("mustRegexFind", 2, 2, find),
    function("regexFindAll", 3, 3, find_all),
    function("mustRegexFindAll", 3, 3, find_all),
    function("regexReplaceAll", 3, 3, |a| replace(a, false)),
    function("mustRegexReplaceAll", 3, 3, |a| replace(a, false)),
    function("regexReplaceAllLiteral", 3, 3, |a| replace(a, true)),
    function("mustRegexReplaceAllLiteral", 3, 3, |a| replace(a, true)),
    function("regexSplit", 3, 3, split),
    function("mustRegexSplit", 3, 3, split),
    function("regexQuoteMeta", 1, 1, |a| Ok(regex::escape(&text(&a[0])).into())),
];

fn is_match(a: &[Value]) -> Outcome {
    Ok(compiled(&a[0])?.is_match(&text(&a[1])).into())
}

fn find(a: &[Value]) -> Outcome {
    Ok(compiled(&a[0])?.find(&text(&a[1])).map_or("", |m| m.as_str()).into())
}

fn find_all(a: &[Value]) -> Outcome {
    let most = usize::try_from(integer(&a[2])?).unwrap_or(usize::MAX);
    let whole = text(&a[1]);
    Ok(compiled(&a[0])?.find_iter(&whole).take(most).map(|m| m.as_str()).collect::<Vec<_>>().into())
}

/// `regexReplaceAll PATTERN TEXT NEW`.
fn replace(a: &[Value], literal: bool) -> Outcome {
    let regex = compiled(&a[0])?;
    let (whole, new) = (text(&a[1]), text(&a[2]));
    let grown = regex.find_iter(&whole).count().saturating_mul(new.len()).saturating_add(whole.len());
    if grown > MAX_TEXT {
        return Err("the result is too large".into());
    }
    Ok(match literal {
        true => regex.replace_all(&whole, NoExpand(&new)),
        false => regex.replace_all(&whole, &*new),
    }
    .into())
}

/// `regexSplit PATTERN TEXT N`: at most N parts, all for a negative N.
fn split(a: &[Value]) -> Outcome {
    let regex = compiled(&a[0])?;
    let whole = text(&a[1]);
    let parts: Vec<&str> = match usize::try_from(integer(&a[2])?) {
        Ok(most) => regex.splitn(&whole, most).collect(),
        Err(_) => regex.split(&whole).collect(),
    };
    Ok(parts.into())
}

/// Patterns kept for the next image; templates have a few, so that a full cache means made-up ones.
const CACHED: usize = 64;

fn compiled(pattern: &Value) -> Result<Regex, String> {
    thread_local! {
        static CACHE: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    let pattern = text(pattern);
    CACHE.with_borrow_mut(|cache| {
        if let Some(regex) = cache.get(&*pattern) {
            return Ok(regex.clone());
        }
        let regex = Regex::new(&pattern).map_err(|e| e.to_string())?;
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(pattern.into_owned(), regex.clone());
        Ok(regex)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn regular_expressions() {
        check(&[
            ("regexMatch", json!(["^v[0-9]+$", "v12"]), json!(true)),
            ("regexFind", json!(["[a-z][1-9]", "a1b2"]), json!("a1")),
            ("regexFind", json!(["x", "a1"]), json!("")),
            ("regexFindAll", json!(["[2,4,6,8]", "123456789", -1]), json!(["2", "4", "6", "8"])),
            ("regexFindAll", json!(["[0-9]", "123", 2]), json!(["1", "2"])),
            ("regexReplaceAll", json!(["a(x*)b", "-ab-axxb-", "${1}W"]), json!("-W-xxW-")),
            ("regexReplaceAllLiteral", json!(["a(x*)b", "-ab-axxb-", "${1}"]), json!("-${1}-${1}-")),
            ("regexSplit", json!(["z+", "pizza", -1]), json!(["pi", "a"])),
            ("regexSplit", json!(["/", "a/b/c", 2]), json!(["a", "b/c"])),
            ("regexQuoteMeta", json!(["1.2"]), json!("1\\.2")),
            ("mustRegexMatch", json!(["a", "b"]), json!(false)),
        ]);
        assert!(call("regexMatch", json!(["(", "a"])).unwrap_err().starts_with("regexMatch: "));
    }
}
