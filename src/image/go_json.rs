//! JSON in the form that Go's `encoding/json` writes, which is the wire form of gather indexes:
//! `<`, `>`, `&`, U+2028 and U+2029 escaped inside strings, compact or indented by two spaces.

use serde::Serialize;

/// Compact JSON, as `json.Marshal` writes it.
pub fn compact(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    Ok(escape(&serde_json::to_string(value)?))
}

/// JSON indented by two spaces, as `json.MarshalIndent(v, "", "  ")` writes it.
pub fn indented(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    Ok(escape(&serde_json::to_string_pretty(value)?))
}

/// These characters only ever occur inside strings of valid JSON, so replacing them is safe.
fn escape(json: &str) -> Vec<u8> {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_as_go_does() {
        assert_eq!(super::compact(&"a<b>&\u{2028}é").unwrap(), "\"a\\u003cb\\u003e\\u0026\\u2028é\"".as_bytes());
    }
}
