//! Case and words. A word ends where a lower-case letter or digit meets an upper-case letter, before the
//! last of several upper-case letters that a lower-case one follows, and at `-`, `_` and blanks.

use super::{Function, function, text};

pub static TABLE: &[Function] = &[
    function("upper", 1, 1, |a| Ok(text(&a[0]).to_uppercase().into())),
    function("lower", 1, 1, |a| Ok(text(&a[0]).to_lowercase().into())),
    function("title", 1, 1, |a| Ok(each_first(&text(&a[0]), |c| c.to_uppercase().collect()).into())),
    function("untitle", 1, 1, |a| Ok(each_first(&text(&a[0]), |c| c.to_lowercase().collect()).into())),
    function("swapcase", 1, 1, |a| Ok(swapped(&text(&a[0])).into())),
    function("initials", 1, 1, |a| {
        Ok(text(&a[0]).split_whitespace().filter_map(|w| w.chars().next()).collect::<String>().into())
    }),
    function("snakecase", 1, 1, |a| Ok(words(&text(&a[0])).join("_").into())),
    function("kebabcase", 1, 1, |a| Ok(words(&text(&a[0])).join("-").into())),
    function("camelcase", 1, 1, |a| {
        let words = words(&text(&a[0])).into_iter().map(|w| each_first(&w, |c| c.to_uppercase().collect()));
        Ok(words.collect::<String>().into())
    }),
];

/// The text with the first character of each word, as blanks divide them, changed.
fn each_first(whole: &str, change: impl Fn(char) -> String) -> String {
    let mut first = true;
    whole
        .chars()
        .map(|c| {
            let changed = if first { change(c) } else { c.to_string() };
            first = c.is_whitespace();
            changed
        })
        .collect()
}

fn swapped(whole: &str) -> String {
    whole
        .chars()
        .flat_map(|c| match c.is_uppercase() {
            true => c.to_lowercase().collect::<Vec<_>>(),
            false => c.to_uppercase().collect(),
        })
        .collect()
}

fn words(whole: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = whole.chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| chars[i]);
        let after = chars.get(i + 1);
        let separator = matches!(c, '-' | '_') || c.is_whitespace();
        let begins = c.is_uppercase()
            && before.is_some_and(|b| {
                b.is_lowercase() || b.is_numeric() || (b.is_uppercase() && after.is_some_and(|a| a.is_lowercase()))
            });
        if separator || begins {
            words.push(String::new());
        }
        if !separator && let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn changes_case() {
        check(&[
            ("upper", json!(["aB"]), json!("AB")),
            ("lower", json!(["aB"]), json!("ab")),
            ("title", json!(["hello big world"]), json!("Hello Big World")),
            ("untitle", json!(["Hello World"]), json!("hello world")),
            ("swapcase", json!(["This Is"]), json!("tHIS iS")),
            ("initials", json!(["First Try"]), json!("FT")),
            ("snakecase", json!(["FirstName"]), json!("first_name")),
            ("snakecase", json!(["HTTPServer"]), json!("http_server")),
            ("kebabcase", json!(["First_Name x"]), json!("first-name-x")),
            ("camelcase", json!(["http_server"]), json!("HttpServer")),
        ]);
    }
}
