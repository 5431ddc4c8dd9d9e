//! Texts: trimming, searching, cutting, padding, joining. Positions count characters.

use serde_json::{Map, Value, json};

use super::{ANY, Function, MAX_TEXT, Outcome, count, function, integer, list, text};

pub static TABLE: &[Function] = &[
    function("trim", 1, 1, |a| Ok(text(&a[0]).trim().into())),
    function("trimAll", 2, 2, |a| Ok(trim_all(&a[1], &a[0], true, true))),
    function("trimLeft", 2, 2, |a| Ok(trim_all(&a[1], &a[0], true, false))),
    function("trimRight", 2, 2, |a| Ok(trim_all(&a[1], &a[0], false, true))),
    function("trimPrefix", 2, 2, |a| {
        let whole = text(&a[1]);
        Ok(whole.strip_prefix(&*text(&a[0])).unwrap_or(&whole).into())
    }),
    function("trimSuffix", 2, 2, |a| {
        let whole = text(&a[1]);
        Ok(whole.strip_suffix(&*text(&a[0])).unwrap_or(&whole).into())
    }),
    function("hasPrefix", 2, 2, |a| Ok(text(&a[1]).starts_with(&*text(&a[0])).into())),
    function("hasSuffix", 2, 2, |a| Ok(text(&a[1]).ends_with(&*text(&a[0])).into())),
    function("contains", 2, 2, |a| Ok(text(&a[1]).contains(&*text(&a[0])).into())),
    function("replace", 3, 3, |a| replace(&text(&a[0]), &text(&a[1]), &text(&a[2]))),
    function("repeat", 2, 2, |a| {
        let piece = text(&a[1]);
        let times = count(&a[0], MAX_TEXT / piece.len().max(1))?;
        Ok(piece.repeat(times).into())
    }),
    function("nospace", 1, 1, |a| Ok(text(&a[0]).split_whitespace().collect::<String>().into())),
    function("substr", 3, 3, |a| substr(integer(&a[0])?, integer(&a[1])?, &text(&a[2]))),
    function("trunc", 2, 2, |a| Ok(trunc(integer(&a[0])?, &text(&a[1])))),
    function("abbrev", 2, 2, |a| Ok(abbrev(integer(&a[0])?, &text(&a[1])))),
    function("wrap", 2, 2, |a| Ok(wrap(count(&a[0], MAX_TEXT)?, &text(&a[1]), "\n"))),
    function("wrapWith", 3, 3, |a| Ok(wrap(count(&a[0], MAX_TEXT)?, &text(&a[2]), &text(&a[1])))),
    function("quote", 0, ANY, |a| Ok(joined(a, |v| format!("{:?}", text(v))))),
    function("squote", 0, ANY, |a| Ok(joined(a, |v| format!("'{}'", text(v))))),
    function("cat", 0, ANY, |a| Ok(joined(a, |v| text(v).into_owned()))),
    function("indent", 2, 2, |a| indent(&a[0], &a[1])),
    function("nindent", 2, 2, |a| Ok(format!("\n{}", text(&indent(&a[0], &a[1])?)).into())),
    function("plural", 3, 3, |a| Ok(if integer(&a[2])? == 1 { a[0].clone() } else { a[1].clone() })),
    function("splitList", 2, 2, |a| Ok(split(&text(&a[0]), &text(&a[1]), None).into())),
    function("split", 2, 2, |a| Ok(numbered(split(&text(&a[0]), &text(&a[1]), None)))),
    function("splitn", 3, 3, |a| {
        let parts = usize::try_from(integer(&a[1])?).ok();
        Ok(numbered(split(&text(&a[0]), &text(&a[2]), parts)))
    }),
    function("join", 2, 2, |a| join(&text(&a[0]), &a[1])),
    function("sortAlpha", 1, 1, |a| {
        let mut texts = texts(&a[0]);
        texts.sort();
        Ok(texts.into())
    }),
    function("toString", 1, 1, |a| Ok(text(&a[0]).into())),
    function("toStrings", 1, 1, |a| Ok(texts(&a[0]).into())),
];

fn trim_all(whole: &Value, set: &Value, left: bool, right: bool) -> Value {
    let (whole, set) = (text(whole), text(set));
    let mut rest: &str = &whole;
    if left {
        rest = rest.trim_start_matches(|c| set.contains(c));
    }
    if right {
        rest = rest.trim_end_matches(|c| set.contains(c));
    }
    rest.into()
}

fn replace(old: &str, new: &str, whole: &str) -> Outcome {
    let grown = whole.matches(old).count().saturating_mul(new.len()).saturating_add(whole.len());
    if grown > MAX_TEXT {
        return Err("the result is too large".into());
    }
    Ok(whole.replace(old, new).into())
}

fn substr(start: i64, end: i64, whole: &str) -> Outcome {
    let length = whole.chars().count() as i64;
    let start = start.max(0);
    let end = if end < 0 || end > length { length } else { end };
    if start > end {
        return Err(format!("from {start} to {end} is nothing"));
    }
    Ok(whole.chars().skip(start as usize).take((end - start) as usize).collect::<String>().into())
}

fn trunc(length: i64, whole: &str) -> Value {
    let total = whole.chars().count() as i64;
    match length {
        n if n >= 0 => whole.chars().take(n as usize).collect::<String>().into(),
        n if total.saturating_add(n) > 0 => whole.chars().skip((total + n) as usize).collect::<String>().into(),
        _ => whole.into(),
    }
}

fn abbrev(width: i64, whole: &str) -> Value {
    if width < 4 || whole.chars().count() as i64 <= width {
        return whole.into();
    }
    let kept: String = whole.chars().take(width as usize - 3).collect();
    format!("{kept}...").into()
}

/// Lines of at most `width` characters, broken at spaces; a longer word stays whole.
fn wrap(width: usize, whole: &str, newline: &str) -> Value {
    let mut out = String::new();
    let mut used = 0;
    for word in whole.split(' ').filter(|w| !w.is_empty()) {
        let length = word.chars().count();
        if !out.is_empty() && used + 1 + length > width {
            out.push_str(newline);
            used = 0;
        } else if !out.is_empty() {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.into()
}

fn joined(arguments: &[Value], form: impl Fn(&Value) -> String) -> Value {
    arguments.iter().filter(|v| !v.is_null()).map(form).collect::<Vec<_>>().join(" ").into()
}

fn indent(spaces: &Value, value: &Value) -> Outcome {
    let value = text(value);
    let lines = value.matches('\n').count() + 1;
    let pad = " ".repeat(count(spaces, MAX_TEXT / lines)?);
    Ok(format!("{pad}{}", value.replace('\n', &format!("\n{pad}"))).into())
}

/// The parts between separators; an empty separator gives the characters.
fn split(separator: &str, whole: &str, parts: Option<usize>) -> Vec<String> {
    if separator.is_empty() {
        return whole.chars().map(String::from).collect();
    }
    match parts {
        Some(parts) => whole.splitn(parts, separator).map(Into::into).collect(),
        None => whole.split(separator).map(Into::into).collect(),
    }
}

/// Parts as the dict `{_0: …, _1: …}`.
fn numbered(parts: Vec<String>) -> Value {
    let parts = parts.into_iter().enumerate().map(|(i, part)| (format!("_{i}"), json!(part)));
    Value::Object(parts.collect::<Map<_, _>>())
}

fn join(separator: &str, value: &Value) -> Outcome {
    let texts = texts(value);
    let length: usize = texts.iter().map(|t| t.len() + separator.len()).sum();
    if length > MAX_TEXT + separator.len() {
        return Err("the result is too large".into());
    }
    Ok(texts.join(separator).into())
}

/// The items of a list as texts, nulls left out; of anything else, itself.
fn texts(value: &Value) -> Vec<String> {
    match list(value) {
        Ok(items) => items.iter().filter(|v| !v.is_null()).map(|v| text(v).into_owned()).collect(),
        Err(_) => vec![text(value).into_owned()],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn trims_and_searches() {
        check(&[
            ("trim", json!(["  a b "]), json!("a b")),
            ("trimAll", json!(["$", "$5.00$"]), json!("5.00")),
            ("trimPrefix", json!(["reg/", "reg/a"]), json!("a")),
            ("trimPrefix", json!(["x", "reg/a"]), json!("reg/a")),
            ("trimSuffix", json!([":v1", "a:v1"]), json!("a")),
            ("trimLeft", json!(["ab", "abba"]), json!("")),
            ("trimRight", json!(["a", "abba"]), json!("abb")),
            ("hasPrefix", json!(["cat", "catch"]), json!(true)),
            ("hasSuffix", json!(["cat", "catch"]), json!(false)),
            ("contains", json!(["at", "catch"]), json!(true)),
            ("hasPrefix", json!(["a", null]), json!(false)),
            ("replace", json!(["/", "-", "a/b/c"]), json!("a-b-c")),
        ]);
    }

    #[test]
    fn cuts_and_pads() {
        check(&[
            ("substr", json!([0, 3, "hello"]), json!("hel")),
            ("substr", json!([2, -1, "hello"]), json!("llo")),
            ("substr", json!([-1, 2, "hello"]), json!("he")),
            ("trunc", json!([5, "hello world"]), json!("hello")),
            ("trunc", json!([-5, "hello world"]), json!("world")),
            ("trunc", json!([-50, "hello"]), json!("hello")),
            ("abbrev", json!([5, "hello world"]), json!("he...")),
            ("abbrev", json!([3, "hello"]), json!("hello")),
            ("nospace", json!([" a b\tc"]), json!("abc")),
            ("repeat", json!([3, "ab"]), json!("ababab")),
            ("indent", json!([2, "a\nb"]), json!("  a\n  b")),
            ("nindent", json!([2, "a"]), json!("\n  a")),
            ("wrap", json!([7, "one two three abcdefghij k"]), json!("one two\nthree\nabcdefghij\nk")),
            ("wrapWith", json!([3, "|", "a b c"]), json!("a b|c")),
        ]);
    }

    #[test]
    fn joins_and_splits() {
        check(&[
            ("quote", json!(["a", null, 1]), json!("\"a\" \"1\"")),
            ("squote", json!(["a"]), json!("'a'")),
            ("cat", json!(["a", null, 2]), json!("a 2")),
            ("plural", json!(["one", "many", 1]), json!("one")),
            ("plural", json!(["one", "many", 0]), json!("many")),
            ("splitList", json!(["/", "a/b/c"]), json!(["a", "b", "c"])),
            ("split", json!(["$", "a$b"]), json!({"_0": "a", "_1": "b"})),
            ("splitn", json!(["$", 2, "a$b$c"]), json!({"_0": "a", "_1": "b$c"})),
            ("join", json!(["-", ["a", 1, true]]), json!("a-1-true")),
            ("join", json!(["-", "a"]), json!("a")),
            ("sortAlpha", json!([["b", "a"]]), json!(["a", "b"])),
            ("toString", json!([3.0]), json!("3")),
            ("toStrings", json!([[1, "a"]]), json!(["1", "a"])),
        ]);
    }
}
