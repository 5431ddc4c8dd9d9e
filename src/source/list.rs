//! `sources.list`: a reference a line, labels after it. Comments where a person would put them, blank
//! lines, CRLF, a byte-order mark and quoted fields are all fine. Nothing is taken from a list with a bad
//! line: all of them are reported, each with its number.
//!
//! ```text
//! # a comment
//! reg.example/team/app:v1                        # and another
//! reg.example/team/db:v2, component=core, tier=1
//! oci:images:team/tool:v3  component=extra
//! ```

use std::collections::HashMap;
use std::io::Read;

use super::{BadLine, Error, Source, label};
use crate::image::descriptor::Annotations;
use crate::store::error::printable;

/// Bytes of a list. A list of a million images has less.
const MAX_LIST: u64 = 256 << 20;
/// Bytes of one line.
const MAX_LINE: usize = 64 << 10;

/// Reads and parses the list in `path`; `-` is standard input. Blocks while it reads.
pub fn read(path: &str) -> Result<Vec<Source>, Error> {
    let name = if path == "-" { "stdin" } else { path };
    let io = |source| Error::Io { name: name.into(), source };
    let mut bytes = Vec::new();
    let limit = MAX_LIST + 1;
    match path {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(io)?,
        _ => std::fs::File::open(path).map_err(io)?.take(limit).read_to_end(&mut bytes).map_err(io)?,
    };
    let refuse = |reason: &str| Err(Error::List { name: name.into(), reason: reason.into() });
    if bytes.len() as u64 > MAX_LIST {
        return refuse("more than 256 MiB is not a list of sources");
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse("it is UTF-16 text: save it as UTF-8");
    }
    // A byte that is not UTF-8 does no harm in a comment; elsewhere its line is reported.
    parse(&String::from_utf8_lossy(&bytes), name)
}

/// Parses the text of a list called `name` in messages. Sources come in file order, a repeated line once.
pub fn parse(text: &str, name: &str) -> Result<Vec<Source>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sources: Vec<Source> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        match parse_line(line, number) {
            Ok(None) => {}
            Err(reason) => lines.push(BadLine { line: number, reason }),
            Ok(Some(source)) => match seen.get(&source.text) {
                None => {
                    seen.insert(source.text.clone(), sources.len());
                    sources.push(source);
                }
                Some(&first) if sources[first].labels == source.labels => {}
                Some(&first) => lines.push(BadLine {
                    line: number,
                    reason: format!(
                        "{} is on line {} already, with other labels: write it once",
                        source.text, sources[first].line
                    ),
                }),
            },
        }
    }
    if lines.is_empty() { Ok(sources) } else { Err(Error::Lines { name: name.into(), lines }) }
}

/// The line of a list that parses to that source, without an end of line.
pub fn line(source: &Source) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, ',' | '"' | '#');
    let mut line = match source.text.chars().all(plain) {
        true => source.text.clone(),
        false => format!("\"{}\"", source.text.replace('"', "\"\"")),
    };
    for (key, value) in &source.labels {
        line.push_str(&format!(", {key}={value}"));
    }
    line
}

fn parse_line(line: &str, number: usize) -> Result<Option<Source>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("a line of {} bytes is not a source", line.len()));
    }
    let mut fields = split(line)?.into_iter();
    let Some(first) = fields.next() else { return Ok(None) };
    // An unquoted first field may have labels after blanks; a quoted one is the reference as it stands.
    let (text, rest) = match first.text.split_once(char::is_whitespace) {
        Some((text, rest)) if !first.quoted => (text.to_string(), rest.to_string()),
        _ => (first.text, String::new()),
    };
    let rest = Field { text: rest, quoted: false };
    if text.is_empty() {
        return Err("there is no reference before the first comma".into());
    }
    if text.contains('\u{fffd}') {
        return Err("it holds a character that is not UTF-8".into());
    }
    let image = text.parse().map_err(|e: crate::image::reference::ReferenceError| e.to_string())?;
    let mut labels = Annotations::new();
    for field in std::iter::once(rest).chain(fields) {
        for (key, value) in pairs(&field)? {
            label::check_key(&key)?;
            label::check_value(&value)?;
            if let Some(other) = labels.get(&key).filter(|v| **v != value) {
                return Err(format!("label {key} is given twice, as {other:?} and {value:?}"));
            }
            labels.insert(key, value);
        }
    }
    Ok(Some(Source { line: number, text, image, labels }))
}

/// A field of a line.
pub(crate) struct Field {
    pub text: String,
    quoted: bool,
}

/// The fields of a line without its comment: separated by commas, trimmed, quoted ones unquoted.
/// No fields for a line that is blank or only a comment.
pub(crate) fn split(line: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut rest = line.trim();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(fields);
    }
    loop {
        rest = rest.trim_start();
        let (field, after) = if let Some(inner) = rest.strip_prefix('"') {
            quoted(inner)?
        } else {
            let end = plain_end(rest);
            (Field { text: rest[..end].trim_end().into(), quoted: false }, &rest[end..])
        };
        fields.push(field);
        match after.trim_start() {
            "" => return Ok(fields),
            a if a.starts_with('#') => return Ok(fields),
            a => match a.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Err("after a closing quote comes a comma or the end of the line".into()),
            },
        }
    }
}

/// Where an unquoted field ends: at a comma, at a `#` that starts a word, or at the end of the line.
fn plain_end(text: &str) -> usize {
    let mut blank = true;
    for (i, c) in text.char_indices() {
        if c == ',' || (c == '#' && blank) {
            return i;
        }
        blank = c.is_whitespace();
    }
    text.len()
}

/// The quoted field that starts after an opening quote, and the text after its closing one.
fn quoted(text: &str) -> Result<(Field, &str), String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((part, after)) = rest.split_once('"') {
        out.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => return Ok((Field { text: out, quoted: true }, after)),
        }
    }
    Err("a quote is not closed".into())
}

/// The labels of a field: one `key = value`, or several `key=value` with blanks between.
fn pairs(field: &Field) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &str| match text.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.trim().to_string(), value.trim().to_string())),
        _ => Err(format!("\"{}\" is not a label: write key=value", printable(text))),
    };
    let text = field.text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match pair(text) {
        Ok((key, value)) if !key.contains(char::is_whitespace) && !value.contains(char::is_whitespace) => {
            Ok(vec![(key, value)])
        }
        _ => text.split_whitespace().map(pair).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(list: &str) -> Vec<String> {
        parse(list, "t").unwrap().into_iter().map(|s| s.text).collect()
    }

    fn labels(line: &str) -> Vec<String> {
        parse(line, "t").unwrap()[0].labels.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    #[test]
    fn comments_blanks_and_line_ends() {
        let list = "\u{feff}# first\r\n\r\n  # indented\r\n r.example/a:1 \t\r\n\tr.example/b:1\t# after a tab\r\n\
                    r.example/c:1   #x\nr.example/d , # after a comma\n";
        assert_eq!(texts(list), ["r.example/a:1", "r.example/b:1", "r.example/c:1", "r.example/d"]);
        assert!(texts("").is_empty());
        let d = crate::image::Digest::sha256(b"");
        assert_eq!(texts(&format!("r.example/a:t@{d} # x")), [format!("r.example/a:t@{d}")]);
    }

    #[test]
    fn a_hash_inside_a_word_is_no_comment() {
        assert!(parse("r.example/a:1#2", "t").is_err());
        assert_eq!(texts("oci:dir#2:v1"), ["oci:dir#2:v1"]);
        assert_eq!(texts("\"oci:my images # 2:v1\" # x"), ["oci:my images # 2:v1"]);
    }

    #[test]
    fn labels_in_every_spelling() {
        for line in [
            "r.example/a:1,component=core,module=test",
            "r.example/a:1, component = core , module= test # x",
            "r.example/a:1 component=core module=test",
            "r.example/a:1 component=core, module=test,",
            "\"r.example/a:1\",\"component=core\", \"module=test\"",
            "r.example/a:1, component=core, component=core, module=test",
        ] {
            assert_eq!(labels(line), ["component=core", "module=test"], "{line}");
        }
        assert_eq!(labels("r.example/a:1, empty="), ["empty="]);
    }

    #[test]
    fn a_source_is_written_as_it_is_read() {
        for text in ["r.example/a:1", "r.example/a:1, component=core, empty=", "\"oci:my, \"\"images\"\" # 2:v1\", k=v"]
        {
            let source = parse(text, "t").unwrap().remove(0);
            assert_eq!(line(&source), text);
        }
    }

    #[test]
    fn every_bad_line_is_reported() {
        let list = "r.example/good:1\nbusybox\n# fine\nr.example/a:1, nolabel\nr.example/b:1, k=v, k=w\n\
                    r.example/c:1, -k=v\n\"open\nr.example/d:1,k=a=b\n,k=v\nr.example/good:1,k=v\nr.example/\u{fffd}";
        let text = parse(list, "sources.list").unwrap_err().to_string();
        let numbers: Vec<&str> = text.lines().map(|l| l.split(':').nth(1).unwrap()).collect();
        assert_eq!(numbers, ["2", "4", "5", "6", "7", "8", "9", "10", "11"], "{text}");
        assert!(text.starts_with("sources.list:2: "), "{text}");
        assert!(text.contains("r.example/good:1 is on line 1 already, with other labels"), "{text}");
    }

    #[test]
    fn repeated_lines_collapse() {
        let sources = parse("r.example/b:1,k=v\nr.example/a:1\nr.example/b:1 k=v\n", "t").unwrap();
        assert_eq!(
            sources.iter().map(|s| (s.line, s.text.as_str())).collect::<Vec<_>>(),
            [(1, "r.example/b:1"), (2, "r.example/a:1")]
        );
    }

    #[test]
    fn reads_a_file_that_is_not_all_utf8() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"# caf\xe9\nr.example/a:1\n").unwrap();
        assert_eq!(read(file.path().to_str().unwrap()).unwrap().len(), 1);
        std::fs::write(file.path(), b"\xff\xfer\0").unwrap();
        assert!(read(file.path().to_str().unwrap()).unwrap_err().to_string().contains("UTF-16"));
        assert!(matches!(read("/nonexistent/list"), Err(Error::Io { .. })));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text, "t");
        }

        #[test]
        fn never_panics_on_its_own_characters(text in "[a-z./:,=\"# \t\r\n]{0,80}") {
            let _ = parse(&text, "t");
        }

        /// Bad lines among good and blank ones are reported with just their numbers.
        #[test]
        fn numbers_are_right(kinds in prop::collection::vec(0..4u8, 0..40), crlf: bool) {
            let end = if crlf { "\r\n" } else { "\n" };
            let mut list = String::new();
            let mut bad = Vec::new();
            for (i, kind) in kinds.iter().enumerate() {
                match kind {
                    0 => list.push_str(&format!("r.example/a{i}:1, k=v # ok")),
                    1 => list.push_str("   "),
                    2 => list.push_str("  # r.example/a"),
                    _ => {
                        bad.push(i + 1);
                        list.push_str("no reference");
                    }
                }
                list.push_str(end);
            }
            match parse(&list, "t") {
                Ok(sources) => {
                    prop_assert!(bad.is_empty());
                    for s in sources {
                        prop_assert_eq!(s.text, format!("r.example/a{}:1", s.line - 1));
                    }
                }
                Err(Error::Lines { lines, .. }) => {
                    prop_assert_eq!(lines.iter().map(|l| l.line).collect::<Vec<_>>(), bad);
                }
                Err(e) => prop_assert!(false, "{}", e),
            }
        }
    }
}
