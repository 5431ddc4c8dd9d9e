//! Rulesets by the start of the source: `nest`, which puts all of it below one name, and the tables
//! `all-prefix`, `first-prefix` and `longest-prefix`. A prefix is compared byte for byte with the source
//! as the list has it; it need not end at a `/`.

use super::destination::Candidate;
use super::table::{self, Row};
use super::{Error, source_path};

/// Which of the rows that fit a source are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Every one, in file order.
    All,
    First,
    /// The one with the longest prefix, of equals the last; an empty prefix is the default.
    Longest,
}

/// A table of prefixes.
pub struct Prefixes {
    path: String,
    choice: Choice,
    rows: Vec<Row>,
}

impl Prefixes {
    /// Reads the table.
    pub fn load(path: &str, choice: Choice) -> Result<Self, Error> {
        let rows = table::load(path, |row| match row.what.is_empty() && choice == Choice::First {
            true => Err(
                "the prefix before the comma is empty, it would hide all rows after it: longest-prefix has a default"
                    .into(),
            ),
            false => Ok(()),
        })?;
        Ok(Prefixes { path: path.into(), choice, rows })
    }

    /// What the rows make of the source: a row's destination and the source's rest after the prefix.
    pub fn apply(&self, source: &str) -> Vec<Candidate> {
        let fits = self.rows.iter().filter(|row| source.starts_with(&row.what));
        let rows: Vec<&Row> = match self.choice {
            Choice::All => fits.collect(),
            Choice::First => fits.take(1).collect(),
            Choice::Longest => fits.max_by_key(|row| row.what.len()).into_iter().collect(),
        };
        rows.into_iter().map(|row| self.candidate(row, source)).collect()
    }

    fn candidate(&self, row: &Row, source: &str) -> Candidate {
        // A whole `oci:DIR:NAME` can stand nowhere inside a name: below the default it is nested.
        let rest = match source.get(row.what.len()..).unwrap_or_default() {
            rest if row.what.is_empty() && rest.starts_with("oci:") => source_path::nested(rest),
            rest => rest.to_string(),
        };
        Candidate {
            rule: format!("{}:{}", self.path, row.line),
            text: format!("{}{rest}", row.destination),
            own: row.destination.len(),
        }
    }
}

/// Checks the argument of `nest`: what comes before the sources' paths, without its last slashes.
pub fn check_nest(root: &str) -> Result<String, Error> {
    let trimmed = root.trim_end_matches('/');
    match trimmed.is_empty() || trimmed.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err(Error::Usage(format!("nest={root}"))),
        false => Ok(trimmed.into()),
    }
}

/// The source, registry and all, below `root`.
pub fn nest(root: &str, source: &str) -> Candidate {
    Candidate { rule: format!("nest={root}"), text: format!("{root}/{}", source_path::nested(source)), own: root.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(choice: Choice, rows: &[(&str, &str)]) -> Prefixes {
        let rows = (1..).zip(rows);
        let row =
            |(line, (what, to)): (usize, &(&str, &str))| Row { line, what: (*what).into(), destination: (*to).into() };
        Prefixes { path: "d.csv".into(), choice, rows: rows.map(row).collect() }
    }

    fn texts(prefixes: &Prefixes, source: &str) -> Vec<String> {
        prefixes.apply(source).into_iter().map(|c| format!("{} {}", c.rule, c.text)).collect()
    }

    #[test]
    fn chooses_rows() {
        let rows = [("r/a", "x/1"), ("r/", "x/2/"), ("r/a", "x/3")];
        assert_eq!(
            texts(&table(Choice::All, &rows), "r/ab:t"),
            ["d.csv:1 x/1b:t", "d.csv:2 x/2/ab:t", "d.csv:3 x/3b:t"]
        );
        assert_eq!(texts(&table(Choice::First, &rows), "r/ab:t"), ["d.csv:1 x/1b:t"]);
        assert_eq!(texts(&table(Choice::Longest, &rows), "r/ab:t"), ["d.csv:3 x/3b:t"]);
        assert_eq!(texts(&table(Choice::Longest, &rows), "r/b:t"), ["d.csv:2 x/2/b:t"]);
        for choice in [Choice::All, Choice::First, Choice::Longest] {
            assert!(texts(&table(choice, &rows), "q/a").is_empty());
        }
        assert_eq!(texts(&table(Choice::Longest, &[("", "x/")]), "oci:/srv/low:app:v1"), ["d.csv:1 x/srv/low/app:v1"]);
        assert_eq!(
            texts(&table(Choice::First, &[("oci:/srv/low:", "x/")]), "oci:/srv/low:app:v1"),
            ["d.csv:1 x/app:v1"]
        );
    }

    #[test]
    fn an_empty_prefix_fits_everything() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\n, x/\n").unwrap();
        let load = |choice| Prefixes::load(file.path().to_str().unwrap(), choice);
        for choice in [Choice::All, Choice::Longest] {
            let texts: Vec<String> = load(choice).unwrap().apply("r/a").into_iter().map(|c| c.text).collect();
            assert_eq!(texts, ["x/r/a"]);
        }
        assert!(load(Choice::First).map(|_| ()).unwrap_err().to_string().contains(":2: the prefix"));
    }

    #[test]
    fn nests() {
        assert_eq!(nest("h.example/n", "127.0.0.1:5000/a:v1").text, "h.example/n/127.0.0.1-5000/a:v1");
        assert_eq!(nest("oci:out", "r.example/a:v1").text, "oci:out/r.example/a:v1");
        assert_eq!(check_nest("h.example/n//").unwrap(), "h.example/n");
        assert!(check_nest("/").is_err());
        assert!(check_nest("a b").is_err());
    }
}
