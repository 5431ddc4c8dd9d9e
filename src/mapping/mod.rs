//! Where images land. A [`Mapper`] turns an image of a gather index, that is its descriptor with the
//! annotations gather gave it, into the names it gets on the other side. No rule that fits means no
//! destination, which is not an error; a rule that makes something which is not a name is one.
//!
//! What every ruleset does is in docs/mapping.md.

mod destination;
mod digests;
mod function;
mod go_blocks;
mod go_template;
mod prefix;
mod source_path;
mod table;
mod template;
mod template_data;

use std::fmt;

use crate::image::{Descriptor, ImageName, annotation};
use crate::store::error::printable;

use destination::Candidate;
use digests::Digests;
use go_template::GoTemplate;
use prefix::{Choice, Prefixes};
use template::Template;

/// The rulesets, as `TYPE` in `TYPE=ARG`.
pub const RULESETS: [&str; 7] =
    ["nest", "all-prefix", "first-prefix", "longest-prefix", "digests", "template", "go-template"];

/// A ruleset that is loaded and checked.
pub struct Mapper {
    /// `TYPE=ARG`, as it was given.
    text: String,
    rules: Rules,
}

enum Rules {
    Nest(String),
    Prefixes(Prefixes),
    Digests(Digests),
    Template(Box<Template>),
    GoTemplate(Box<GoTemplate>),
}

/// Why a ruleset cannot be used, or made something that is not a name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{:?} is not a mapper: write TYPE=ARG, where TYPE is one of {}", printable(.0), RULESETS.join(", "))]
    Usage(String),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// Everything that is wrong with a file of rules, one a line as `FILE:LINE: REASON`.
    #[error("{}", Bad(path, problems))]
    File { path: String, problems: Vec<Problem> },
    /// A rule made something for this image that is not a name.
    #[error("{rule}: {image} would go to {result:?}: {reason}")]
    Destination { image: String, rule: String, result: String, reason: String },
    /// A template failed for this image.
    #[error("{rule}: for {image}: {reason}")]
    Render { image: String, rule: String, reason: String },
}

/// Something wrong in a file of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; none where it concerns the whole file.
    pub line: Option<usize>,
    pub reason: String,
}

struct Bad<'a>(&'a str, &'a [Problem]);

impl fmt::Display for Bad<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.1.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            match problem.line {
                Some(line) => write!(f, "{newline}{}:{line}: {}", self.0, problem.reason)?,
                None => write!(f, "{newline}{}: {}", self.0, problem.reason)?,
            }
        }
        Ok(())
    }
}

impl Mapper {
    /// Parses `TYPE=ARG` and loads the file that ARG names, if it names one. Blocks while it reads.
    pub fn parse(text: &str) -> Result<Mapper, Error> {
        let usage = || Error::Usage(text.into());
        let (kind, argument) = text.split_once('=').ok_or_else(usage)?;
        if argument.is_empty() {
            return Err(usage());
        }
        let rules = match kind {
            "nest" => Rules::Nest(prefix::check_nest(argument)?),
            "all-prefix" => Rules::Prefixes(Prefixes::load(argument, Choice::All)?),
            "first-prefix" => Rules::Prefixes(Prefixes::load(argument, Choice::First)?),
            "longest-prefix" => Rules::Prefixes(Prefixes::load(argument, Choice::Longest)?),
            "digests" => Rules::Digests(Digests::load(argument)?),
            "template" => Rules::Template(Box::new(Template::load(argument)?)),
            "go-template" => Rules::GoTemplate(Box::new(GoTemplate::load(argument)?)),
            _ => return Err(usage()),
        };
        Ok(Mapper { text: text.into(), rules })
    }

    /// The names that the image gets, in the order of the rules, each once. Empty if no rule fits.
    ///
    /// A destination that carries the digest of another manifest, as that of an index whose image for
    /// one platform is mapped, gets its tag without the digest, or the image's own digest.
    pub fn destinations(&self, image: &Descriptor) -> Result<Vec<ImageName>, Error> {
        let source = image.annotation(annotation::SOURCE);
        let candidates: Vec<Candidate> = match &self.rules {
            Rules::Nest(root) => source.map(|s| prefix::nest(root, s)).into_iter().collect(),
            Rules::Prefixes(prefixes) => source.map(|s| prefixes.apply(s)).unwrap_or_default(),
            Rules::Digests(digests) => digests.apply(image, source),
            Rules::Template(template) => template.apply(image)?,
            Rules::GoTemplate(template) => template.apply(image)?,
        };
        let mut names = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let name = candidate.name(image)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl fmt::Display for Mapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapper({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::image::Digest;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures");

    fn gathered() -> Vec<Descriptor> {
        #[derive(serde::Deserialize)]
        struct Index {
            manifests: Vec<Descriptor>,
        }
        let bytes = std::fs::read(format!("{FIXTURES}/gather/kinds.index.json")).unwrap();
        serde_json::from_slice::<Index>(&bytes).unwrap().manifests
    }

    /// What a registry held after the field's other tool had scattered the same gather with the same rules.
    fn same_as_fixture(mapper: &str, name: &str) {
        let mapper = Mapper::parse(mapper).unwrap();
        let mut lines = BTreeSet::new();
        for image in gathered() {
            for to in mapper.destinations(&image).unwrap() {
                lines.insert(format!("{to} {}", image.digest));
            }
        }
        let expected = std::fs::read_to_string(format!("{FIXTURES}/scatter/{name}.expected")).unwrap();
        let expected: BTreeSet<String> = expected.lines().map(Into::into).collect();
        assert_eq!(lines, expected, "{name}");
    }

    #[test]
    fn scatters_as_the_fixtures_say() {
        same_as_fixture("nest=reg.high.example/nested", "nest");
        for kind in ["all-prefix", "first-prefix", "longest-prefix", "digests"] {
            same_as_fixture(&format!("{kind}={FIXTURES}/scatter/{kind}.csv"), kind);
        }
        same_as_fixture(&format!("go-template={FIXTURES}/scatter/template.tmpl"), "template");
    }

    fn image(source: &str) -> Descriptor {
        let mut image = Descriptor::new("x", Digest::sha256(b"image"), 5);
        image.annotations.insert(annotation::SOURCE.into(), source.into());
        image
    }

    fn mapper(kind: &str, rules: &str) -> Result<Mapper, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        Mapper::parse(&format!("{kind}={}", file.path().display()))
    }

    fn names(mapper: &Mapper, image: &Descriptor) -> Vec<String> {
        mapper.destinations(image).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn digests_append_the_path_after_a_slash() {
        let digest = Digest::sha256(b"image");
        let rules = format!("{digest}, high.example/mirror/\n{digest}, oci:out:fixed\n");
        let mapper = mapper("digests", &rules).unwrap();
        assert_eq!(names(&mapper, &image("low.example/a/b:v1")), ["high.example/mirror/a/b:v1", "oci:out:fixed"]);
        assert!(names(&mapper, &Descriptor::new("x", Digest::sha256(b"other"), 5)).is_empty());
        let nameless = Descriptor::new("x", digest, 5);
        assert!(matches!(mapper.destinations(&nameless), Err(Error::Destination { .. })));
    }

    #[test]
    fn digests_are_checked_when_they_are_loaded() {
        let [a, b] = [Digest::sha256(b"a"), Digest::sha256(b"b")];
        let rules = format!("sha256:12,r.example/a\n{a},r.example/a@{b}\n{a},r.example/a@{a}\n{a},UPPER\n");
        let error = mapper("digests", &rules).unwrap_err().to_string();
        let lines: Vec<&str> =
            error.lines().map(|l| l.rsplit(".tmp").next().unwrap().split(':').nth(1).unwrap()).collect();
        assert_eq!(lines, ["1", "2", "4"], "{error}");
    }

    #[test]
    fn a_source_with_another_digest_maps_to_what_can_be_pushed() {
        let index = Digest::sha256(b"index");
        let mapper = Mapper::parse("nest=high.example").unwrap();
        assert_eq!(names(&mapper, &image(&format!("low.example/a:v1@{index}"))), ["high.example/low.example/a:v1"]);
        let own = Digest::sha256(b"image");
        assert_eq!(
            names(&mapper, &image(&format!("low.example/a@{index}"))),
            [format!("high.example/low.example/a@{own}")]
        );
    }

    #[test]
    fn one_name_is_given_once_and_none_without_a_source() {
        let mapper = mapper("all-prefix", "low.example/,high.example/\nlow.example/a,high.example/a\n").unwrap();
        assert_eq!(names(&mapper, &image("low.example/a:v1")), ["high.example/a:v1"]);
        assert!(names(&mapper, &Descriptor::new("x", Digest::sha256(b""), 0)).is_empty());
    }

    #[test]
    fn says_what_is_wrong() {
        for bad in ["", "nest", "nest=", "prefix=x", "=x"] {
            let error = Mapper::parse(bad).unwrap_err().to_string();
            assert!(error.contains("write TYPE=ARG"), "{error}");
        }
        let error = Mapper::parse("digests=/nonexistent.csv").unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent.csv: "), "{error}");
        let mapper = mapper("first-prefix", "\nlow.example/,h.example/UP/\n").unwrap();
        let error = mapper.destinations(&image("low.example/a:v1")).unwrap_err().to_string();
        assert!(error.contains(":2: low.example/a:v1 would go to \"h.example/UP/a:v1\": "), "{error}");
    }
}
