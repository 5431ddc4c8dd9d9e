//! The batch list: `name,artifact` rows that say which images to send, and what each is called on the other
//! side. A first row that names no image is a header.

use std::collections::HashMap;
use std::path::Path;

use super::{sync_name, table};
use crate::image::ImageName;
use crate::pipeline::{Error, Result};

/// One image to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line of the list it stands on, from 1.
    pub line: usize,
    /// Its name: part of the archive's name, and its tag on the other side.
    pub name: String,
    /// The reference as it was written, which goes into the tracker and the archive.
    pub text: String,
    pub image: ImageName,
}

/// Reads the list in `path`. Every bad row is reported, and nothing is taken from a list that has one.
pub fn read(path: &str) -> Result<Vec<Row>> {
    match table::read(Path::new(path))? {
        Some(text) => parse(&text, path),
        None => Err(Error::Refused(format!("{path}: there is no such file: name a list of name,artifact rows"))),
    }
}

/// Parses the text of a list called `list` in messages. A repeated row counts once.
pub fn parse(text: &str, list: &str) -> Result<Vec<Row>> {
    let mut first = true;
    let mut seen: HashMap<String, (usize, String)> = HashMap::new();
    table::parse(text, list, 2, |line, fields| {
        let (name, text) = (&fields[0], &fields[1]);
        let image = text.parse::<ImageName>();
        let is_header = std::mem::take(&mut first) && image.is_err();
        if is_header {
            return Ok(None);
        }
        let image = image.map_err(|e| e.to_string())?;
        sync_name::check(name)?;
        match seen.get(name) {
            Some((_, other)) if other == text => return Ok(None),
            Some((before, _)) => {
                return Err(format!("{name} is on line {before} already, with another image: give it another name"));
            }
            None => seen.insert(name.clone(), (line, text.clone())),
        };
        Ok(Some(Row { line, name: name.clone(), text: text.clone(), image }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(usize, String, String)> {
        parse(text, "batch.csv").unwrap().into_iter().map(|r| (r.line, r.name, r.text)).collect()
    }

    #[test]
    fn the_header_is_passed_over_where_there_is_one() {
        let row = |line| vec![(line, "tools".to_owned(), "reg.low/gather:1".to_owned())];
        assert_eq!(names("name,artifact\ntools,reg.low/gather:1\n"), row(2));
        assert_eq!(names("tools,reg.low/gather:1\n"), row(1));
        assert_eq!(names("\u{feff}# a batch\r\nname, artifact\r\n\r\n tools , reg.low/gather:1 # x\r\n"), row(4));
        assert!(names("name,artifact\n").is_empty());
    }

    #[test]
    fn every_bad_row_is_reported() {
        let list = "name,artifact\ntools\na/b,reg.low/x:1\nok,reg.low/x:1\nok,reg.low/x:2\nx,busybox\nok,reg.low/x:1\n";
        let error = parse(list, "b").unwrap_err().to_string();
        let numbers: Vec<&str> = error.lines().map(|l| l.split(':').nth(1).unwrap()).collect();
        assert_eq!(numbers, ["2", "3", "5", "6"], "{error}");
        assert!(error.contains("ok is on line 4 already"), "{error}");
    }
}
