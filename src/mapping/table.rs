//! Files of rules in two columns: `WHAT, DESTINATION`. Comments, blank lines, CRLF, a byte-order mark,
//! blanks around fields and quoted fields are all fine; every bad row is reported, not only the first.

use std::io::Read;

use super::{Error, Problem};
use crate::store::error::printable;

/// Bytes of a file of rules.
const MAX_FILE: u64 = 64 << 20;

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub line: usize,
    pub what: String,
    pub destination: String,
}

/// The rows of the file in file order. Beyond being rows, each must pass `check`, which says what is
/// wrong with it.
pub fn load(path: &str, check: impl Fn(&Row) -> Result<(), String>) -> Result<Vec<Row>, Error> {
    parse(&read(path)?, path, check)
}

/// The text of a file of rules, without a byte-order mark.
pub fn read(path: &str) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    let refuse =
        |line, reason: &str| Error::File { path: path.into(), problems: vec![Problem { line, reason: reason.into() }] };
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(None, "more than 64 MiB is not a file of rules"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        refuse(Some(1 + before.iter().filter(|b| **b == b'\n').count()), "it holds a character that is not UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(Into::into).unwrap_or(text))
}

fn parse(text: &str, path: &str, check: impl Fn(&Row) -> Result<(), String>) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for (line, content) in (1..).zip(text.split('\n')) {
        let result = row(content, line).and_then(|row| match row {
            Some(row) => check(&row).map(|()| Some(row)),
            None => Ok(None),
        });
        match result {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => {}
            Err(reason) => problems.push(Problem { line: Some(line), reason }),
        }
    }
    if problems.is_empty() { Ok(rows) } else { Err(Error::File { path: path.into(), problems }) }
}

/// One row. Rows do not span lines: a quote that stays open is a mistake, and must not swallow the rest.
fn row(content: &str, line: usize) -> Result<Option<Row>, String> {
    let content = without_comment(content).trim();
    if content.is_empty() {
        return Ok(None);
    }
    let fields: Vec<&str> = content.split(',').map(str::trim).collect();
    let [what, destination] = fields[..] else {
        return Err(format!(
            "a rule has two columns with one comma between them, this line has {}: \"{}\"",
            fields.len(),
            printable(content)
        ));
    };
    let (what, destination) = (unquote(what)?, unquote(destination)?);
    if destination.is_empty() {
        return Err("there is no destination after the comma".into());
    }
    if destination.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("the destination \"{}\" holds a blank", printable(&destination)));
    }
    Ok(Some(Row { line, what, destination }))
}

fn unquote(field: &str) -> Result<String, String> {
    match field.strip_prefix('"') {
        None => Ok(field.into()),
        Some(rest) => match rest.strip_suffix('"') {
            Some(inside) => Ok(inside.replace("\"\"", "\"").trim().into()),
            None => Err("a quote is not closed".into()),
        },
    }
}

/// The line before a `#` that starts a word.
fn without_comment(line: &str) -> &str {
    let mut blank = true;
    for (i, c) in line.char_indices() {
        if c == '#' && blank {
            return &line[..i];
        }
        blank = c.is_whitespace();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(usize, String, String)> {
        parse(text, "d.csv", |_| Ok(())).unwrap().into_iter().map(|r| (r.line, r.what, r.destination)).collect()
    }

    #[test]
    fn reads_rows_as_people_write_them() {
        let text = "# rules\r\n\r\n  a/ ,  b/  # why\r\n\"c\",\"d\"\n,e/\n  # f,g\n";
        assert_eq!(
            rows(text),
            [(3, "a/".into(), "b/".into()), (4, "c".into(), "d".into()), (5, "".into(), "e/".into())]
        );
    }

    #[test]
    fn reports_every_bad_row() {
        let text = "a,b\nonly\na,b,c\n\"a,b\na,\na,b c\n";
        let error = parse(text, "d.csv", |_| Ok(())).unwrap_err().to_string();
        let starts: Vec<&str> = error.lines().map(|l| &l[..8]).collect();
        assert_eq!(starts, ["d.csv:2:", "d.csv:3:", "d.csv:4:", "d.csv:5:", "d.csv:6:"], "{error}");
    }

    #[test]
    fn names_the_line_that_is_not_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xef\xbb\xbfa,b\nc\xff,d\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert!(read(path).unwrap_err().to_string().starts_with(&format!("{path}:2: ")));
    }
}
