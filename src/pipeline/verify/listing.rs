//! `index.json` and `oci-layout`: no digest protects them, so that what they say is compared with what does: the
//! manifests that they list, and each other.

use std::collections::HashMap;

use serde_json::Value;

use super::{Finding, Kind};
use crate::archive::contents::Text;
use crate::archive::reader::Name;
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Digest, annotation};
use crate::pipeline::survey::Survey;
use crate::store::archive::Archive;

/// Notes what contradicts itself.
pub fn check(archive: &Archive, survey: &Survey, findings: &mut Vec<Finding>) {
    let mut find = |offset: u64, digest: Option<Digest>, what: String| {
        findings.push(Finding { kind: Kind::Damaged, digest, offset: Some(offset), images: Vec::new(), what });
    };
    let texts = &archive.contents.texts;
    let parents = named_by_parents(survey);
    for text in texts {
        let json: Value = serde_json::from_slice(&text.bytes).unwrap_or_default();
        let says = match text.name {
            Name::Layout => json["imageLayoutVersion"] == "1.0.0",
            _ => json["schemaVersion"] == 2,
        };
        if !says {
            find(text.offset, None, format!("{} does not say its version", name(text)));
        }
    }
    let indexes: Vec<&Text> = texts.iter().filter(|text| text.name == Name::Index).collect();
    // A damaged one may no longer say so.
    let strict = indexes.iter().any(|text| of_this_format(text));
    for (index, text) in archive.contents.indexes.iter().zip(&indexes) {
        for listed in index {
            if let Some(what) = contradiction(listed, &parents, survey, strict) {
                find(text.offset, Some(listed.digest), format!("{}: {what}", name(text)));
            }
        }
    }
    if let Some(text) = texts.iter().find(|text| text.name == Name::Layout) {
        for left_out in &archive.contents.expected {
            let named = parents.get(&left_out.digest).map(Vec::as_slice).unwrap_or_default();
            if !named.iter().any(|d| d.size == left_out.size && d.media_type == left_out.media_type) {
                find(
                    text.offset,
                    None,
                    format!("oci-layout leaves {} out, which no manifest names so", left_out.digest),
                );
            }
        }
    }
    // Both indexes of an archive begin with its root and say the same of it.
    if let ([first, second], [a, b]) = (indexes.as_slice(), archive.contents.indexes.as_slice())
        && strict
    {
        if heading(first) != heading(second) {
            find(second.offset, None, "the first and the second index.json contradict each other".into());
        } else if a.first() != b.first() {
            let what = "the first and the second index.json name different roots".to_owned();
            find(second.offset, a.first().map(|d| d.digest), what);
        }
    }
}

fn name(text: &Text) -> &'static str {
    if text.name == Name::Layout { "oci-layout" } else { "index.json" }
}

/// Written by ace-dt or by this program.
fn of_this_format(text: &Text) -> bool {
    let json: Value = serde_json::from_slice(&text.bytes).unwrap_or_default();
    json["annotations"].get(annotation::VERSION).is_some()
}

/// Everything but the manifests.
fn heading(text: &Text) -> Value {
    let mut json: Value = serde_json::from_slice(&text.bytes).unwrap_or_default();
    json["manifests"] = Value::Null;
    json
}

/// What the parents of each manifest say of it.
fn named_by_parents(survey: &Survey) -> HashMap<Digest, Vec<&Descriptor>> {
    let mut parents: HashMap<Digest, Vec<&Descriptor>> = HashMap::new();
    for children in survey.children.values() {
        for child in children.config.iter().chain(&children.layers).chain(&children.manifests) {
            parents.entry(child.digest).or_default().push(child);
        }
    }
    parents
}

/// What is wrong with a descriptor that an index lists; `None` where nothing is.
fn contradiction(
    listed: &Descriptor,
    parents: &HashMap<Digest, Vec<&Descriptor>>,
    survey: &Survey,
    strict: bool,
) -> Option<String> {
    // What could not be read is found elsewhere.
    let manifest = survey.manifests.get(&listed.digest)?;
    let size = manifest.bytes.len() as u64;
    if listed.size != size {
        return Some(format!("{} is listed with {} bytes, and has {size}", listed.digest, listed.size));
    }
    let view = manifest.view().ok()?;
    if let Some(media_type) = view.media_type.filter(|m| !m.is_empty() && *m != listed.media_type) {
        let (digest, wrong) = (listed.digest, &listed.media_type);
        return Some(format!("{digest} is listed as {wrong:?}, and says that it is {media_type:?}"));
    }
    if !strict {
        return None;
    }
    let named = parents.get(&listed.digest).map(Vec::as_slice).unwrap_or_default();
    let same = |parent: &&Descriptor| parent.annotations == listed.annotations && parent.platform == listed.platform;
    // A root is named by its archive; a referrer by itself; everything else by a parent.
    let own = |annotations: &Annotations| {
        let mut of_listed = listed.annotations.clone();
        of_listed.remove(annotation::REF_NAME);
        of_listed.is_empty() || of_listed == *annotations
    };
    // Where manifests are missing, the parent may be among them.
    let unknown = named.is_empty() && !survey.problems.is_empty();
    let right = unknown || named.iter().any(same) || (named.is_empty() && own(&view.annotations));
    (!right).then(|| format!("what is listed of {} is not what its parent says", listed.digest))
}
