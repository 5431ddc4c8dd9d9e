//! Whether the blocks of a Go template are closed. The engine takes the end of the file for the missing
//! `{{end}}`, and forgets what follows one too many; Go refuses both, and so is it done here.

use super::Problem;

/// What is wrong with the blocks of the template, with its lines.
pub fn check(text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut at = 0;
    let mut problem = |line: usize, reason: String| problems.push(Problem { line: Some(line), reason });
    while let Some(start) = text[at..].find("{{").map(|i| at + i) {
        let line = 1 + text[..start].matches('\n').count();
        let inside = &text[start + 2..];
        let length = action(inside);
        let word = inside[..length].trim_start_matches('-').trim_start();
        let word = &word[..word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len())];
        match word {
            "if" | "range" | "with" | "define" | "block" => open.push((word, line)),
            "end" if open.pop().is_none() => problem(line, "unexpected {{end}}".into()),
            "else" if open.is_empty() => problem(line, "unexpected {{else}}".into()),
            _ => {}
        }
        at = start + 2 + length;
    }
    for (word, line) in open {
        problem(line, format!("{{{{{word}}}}} has no {{{{end}}}}"));
    }
    problems
}

/// Bytes of an action up to its `}}`, which may stand in its strings and comments too.
fn action(inside: &str) -> usize {
    let comment = inside.strip_prefix("- ").unwrap_or(inside).starts_with("/*");
    if comment {
        return inside.find("*/").unwrap_or(inside.len());
    }
    let bytes = inside.as_bytes();
    let mut quote = None;
    let mut i = 0;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (None, b'}') if inside[i..].starts_with("}}") => return i,
            (None, q @ (b'"' | b'`' | b'\'')) => quote = Some(q),
            (Some(b'"' | b'\''), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            _ => {}
        }
        i += 1;
    }
    inside.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(text).into_iter().filter_map(|p| p.line).collect()
    }

    #[test]
    fn blocks_are_counted() {
        for fine in [
            "",
            "{{- if .A -}}{{ else if .B }}{{else}}{{- end -}}",
            "{{/* {{ if }} */}}{{- /* {{end}} */ -}}",
            "{{ \"}} {{end}}\" }}{{ `{{end}}` }}{{ '\"' }}{{ \"\\\"{{end}}\" }}",
            "{{define \"a\"}}{{range .A}}{{with .B}}{{end}}{{end}}{{end}}{{endless}}",
            "}} {",
        ] {
            assert!(check(fine).is_empty(), "{fine}");
        }
        assert_eq!(lines("\n{{if .A}}\n{{range .B}}{{end}}"), [2]);
        assert_eq!(lines("a\n{{end}}\n{{if .A}}{{end}}{{else}}"), [2, 3]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\{\\{|\\}\\}|-| |/\\*|\\*/|\"|`|'|\\\\|é|end|if|\n){0,40}") {
            check(&text);
        }
    }
}
