//! The small tables of a batch: rows of fields with commas between, as spreadsheets and ace-dt write them.
//!
//! Invariant: a table is replaced as a whole, so that no reader and no crash sees half a row.

use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;

use crate::medium::file::NewFile;
use crate::pipeline::{Error, Result};
use crate::source::list::split;

/// Bytes of a table. One of a million rows has less.
const MAX_TABLE: u64 = 256 << 20;

/// Rows of at least `columns` fields, each with its line. Every bad row is reported, each with its number.
pub fn parse<T>(
    text: &str,
    name: &str,
    columns: usize,
    mut row: impl FnMut(usize, &[String]) -> std::result::Result<Option<T>, String>,
) -> Result<Vec<T>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.split('\n')) {
        let parsed = split(line).and_then(|fields| {
            let fields: Vec<String> = fields.into_iter().map(|f| f.text).collect();
            match fields.len() {
                0 => Ok(None),
                n if n < columns => Err(format!("a row has {columns} columns, this one has {n}")),
                _ => row(number, &fields),
            }
        });
        match parsed {
            Ok(parsed) => rows.extend(parsed),
            Err(reason) => bad.push(format!("{name}:{number}: {reason}")),
        }
    }
    if bad.is_empty() { Ok(rows) } else { Err(Error::Refused(bad.join("\n"))) }
}

/// The text of the table, `None` where there is none yet.
pub fn read(path: &Path) -> Result<Option<String>> {
    let failed = |source| Error::Io { path: path.display().to_string(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = String::new();
    file.take(MAX_TABLE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_TABLE {
        return Err(failed(io::Error::other("more than 256 MiB is no table of a batch")));
    }
    Ok(Some(text))
}

/// Adds a row to the table, which begins with `header`. What others wrote stays as it is.
pub fn add(path: &Path, header: &str, fields: &[&str]) -> Result<()> {
    let mut text = read(path)?.unwrap_or_default();
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        text = format!("{header}\n");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
    text.push_str(&fields.join(","));
    text.push('\n');
    let write = || -> io::Result<()> {
        let file = NewFile::create(path, true)?;
        (&**file.file()).write_all(text.as_bytes())?;
        file.finish()
    };
    write().map_err(|source| Error::Io { path: path.display().to_string(), source })
}

/// A field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    let plain = !field.contains([',', '"', '#', '\r', '\n']) && field.trim() == field && !field.is_empty();
    if plain { field.into() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<(usize, Vec<String>)>> {
        parse(text, "t.csv", 2, |line, fields| Ok(Some((line, fields.to_vec()))))
    }

    #[test]
    fn rows_come_back_as_they_went() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        let added = [["a", "b"], ["with,comma", "with \"quotes\""], ["with # hash", " blanks "]];
        for fields in &added {
            add(&path, "one,two", fields).unwrap();
        }
        let text = read(&path).unwrap().unwrap();
        assert!(text.starts_with("one,two\na,b\n"), "{text}");
        let read = rows(&text).unwrap();
        assert_eq!(read[1..].iter().map(|(_, fields)| fields.clone()).collect::<Vec<_>>(), added);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn what_others_wrote_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        std::fs::write(&path, "one,two\r\n# by hand\r\nx,y").unwrap();
        add(&path, "one,two", &["a", "b"]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "one,two\r\n# by hand\r\nx,y\na,b\n");
    }

    #[test]
    fn every_bad_row_is_reported() {
        let error = rows("a,b\nonly\n\n# x\n\"open\n").unwrap_err().to_string();
        let starts: Vec<&str> = error.lines().map(|l| &l[..8]).collect();
        assert_eq!(starts, ["t.csv:2:", "t.csv:5:"], "{error}");
        assert!(read(Path::new("/nonexistent/t.csv")).unwrap().is_none());
    }
}
