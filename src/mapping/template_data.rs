//! What a template sees of an image, and how its output is read. A Go template sees the descriptor under
//! Go's names; a Handlebars template also in camel case, with the parts of its source beside it.

use serde_json::{Map, Value, json};

use super::Error;
use super::destination::{Candidate, described};
use super::function::references;
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Platform, annotation};

/// The descriptor under the names of Go's struct. What it does not have is empty; no platform is null.
pub fn go_names(image: &Descriptor) -> Map<String, Value> {
    let platform = |p: &Platform| {
        json!({
            "Architecture": p.architecture, "OS": p.os, "OSVersion": p.os_version,
            "OSFeatures": p.os_features, "Variant": p.variant,
        })
    };
    Map::from_iter([
        ("MediaType".into(), json!(image.media_type)),
        ("Digest".into(), json!(image.digest)),
        ("Size".into(), json!(image.size)),
        ("URLs".into(), json!(image.urls)),
        ("Annotations".into(), json!(image.annotations)),
        ("Data".into(), json!(image.data.as_deref().unwrap_or_default())),
        ("Platform".into(), image.platform.as_ref().map_or(Value::Null, platform)),
        ("ArtifactType".into(), json!(image.artifact_type.as_deref().unwrap_or_default())),
    ])
}

/// The same and more: camel case names, `labels`, `source`, and `registry`, `repository`, `tag`, `package` of it.
/// Labels that are not a JSON object of texts are an error: to ignore them could leave the image behind.
pub fn all_names(image: &Descriptor) -> Result<Map<String, Value>, String> {
    let mut names = go_names(image);
    for (own, go) in [
        ("mediaType", "MediaType"),
        ("digest", "Digest"),
        ("size", "Size"),
        ("urls", "URLs"),
        ("annotations", "Annotations"),
        ("data", "Data"),
        ("artifactType", "ArtifactType"),
    ] {
        let value = names.get(go).cloned().unwrap_or_default();
        names.insert(own.into(), value);
    }
    let platform = image.platform.as_ref().map(|p| {
        json!({
            "architecture": p.architecture, "os": p.os, "osVersion": p.os_version,
            "osFeatures": p.os_features, "variant": p.variant,
        })
    });
    names.insert("platform".into(), platform.unwrap_or_default());
    let labels: Annotations = match image.annotation(annotation::LABELS) {
        Some(text) => serde_json::from_str(text).map_err(|e| format!("its labels are not labels: {e}"))?,
        None => Annotations::new(),
    };
    names.insert("labels".into(), json!(labels));
    let source = image.annotation(annotation::SOURCE).unwrap_or_default();
    names.insert("source".into(), json!(source));
    let parts = references::parts(source).ok();
    let part = |choose: fn(&references::Parts) -> &str| json!(parts.as_ref().map(choose).unwrap_or_default());
    names.insert("registry".into(), part(|p| &p.registry));
    names.insert("repository".into(), part(|p| &p.repository));
    names.insert("tag".into(), part(|p| &p.tag));
    names.insert("package".into(), part(|p| &p.package));
    Ok(names)
}

/// The destinations in a template's output: one a line, blanks around them and blank lines ignored.
pub fn candidates(path: &str, output: &str) -> Vec<Candidate> {
    let lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| Candidate { rule: path.into(), text: line.into(), own: 0 }).collect()
}

/// The error of a template that failed for an image.
pub fn failed(path: &str, line: Option<usize>, image: &Descriptor, reason: impl Into<String>) -> Error {
    let rule = line.map_or_else(|| path.to_string(), |line| format!("{path}:{line}"));
    Error::Render { image: described(image), rule, reason: reason.into() }
}

/// Parentheses within one another that a template may have: the parsers of both languages recurse.
const MAX_NESTING: usize = 64;

/// Refuses a template that is nested so deeply that a parser would run out of stack.
pub fn check_nesting(text: &str) -> Result<(), (usize, String)> {
    let (mut line, mut depth) = (1, 0usize);
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'}' => depth = 0,
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err((line, format!("more than {MAX_NESTING} parentheses within one another")));
        }
    }
    Ok(())
}
