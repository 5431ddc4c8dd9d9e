//! The parts of a reference, under the capitalised names of the field's Go templates and the lower-case
//! ones of their guide. Of an image in a layout the parts are those of its path; its registry is "".

use serde_json::Value;

use super::{Function, Outcome, function, text};
use crate::image::Reference;
use crate::mapping::source_path;

pub static TABLE: &[Function] = &[
    function("Registry", 1, 1, |a| part(a, |p| p.registry)),
    function("registry", 1, 1, |a| part(a, |p| p.registry)),
    function("Repository", 1, 1, |a| part(a, |p| p.repository)),
    function("repository", 1, 1, |a| part(a, |p| p.repository)),
    function("Tag", 1, 1, |a| part(a, |p| p.tag)),
    function("tag", 1, 1, |a| part(a, |p| p.tag)),
    function("Package", 1, 1, |a| part(a, |p| p.package)),
    function("package", 1, 1, |a| part(a, |p| p.package)),
];

/// A reference taken apart.
pub struct Parts {
    pub registry: String,
    /// The path in the registry, without tag and digest.
    pub repository: String,
    /// The digest if there is one, else the tag, else "".
    pub tag: String,
    /// Everything after the registry and its slash.
    pub package: String,
}

/// The parts of a reference, or why it is none.
pub fn parts(whole: &str) -> Result<Parts, String> {
    let (registry, package) = match whole.starts_with("oci:") {
        true => (String::new(), source_path::without_registry(whole)),
        false => {
            whole.parse::<Reference>().map_err(|e| e.to_string())?;
            let (registry, package) = whole.split_once('/').unwrap_or_default();
            (registry.into(), package.to_string())
        }
    };
    let (rest, digest) = package.split_once('@').unwrap_or((&package, ""));
    let (repository, tag) = rest.split_once(':').unwrap_or((rest, ""));
    let tag = if digest.is_empty() { tag } else { digest };
    Ok(Parts { registry, repository: repository.into(), tag: tag.into(), package: package.clone() })
}

fn part(a: &[Value], choose: fn(Parts) -> String) -> Outcome {
    Ok(choose(parts(&text(&a[0]))?).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn parts_of_references() {
        let digest = crate::image::Digest::sha256(b"").to_string();
        check(&[
            ("Tag", json!(["quay.example/ceph/ceph:v16.2.7"]), json!("v16.2.7")),
            ("Repository", json!(["quay.example/ceph/ceph:v16.2.7"]), json!("ceph/ceph")),
            ("Registry", json!(["quay.example:5000/ceph/ceph:v16.2.7"]), json!("quay.example:5000")),
            ("Package", json!(["quay.example/ceph/ceph:v16.2.7"]), json!("ceph/ceph:v16.2.7")),
            ("tag", json!(["quay.example/ceph"]), json!("")),
            ("tag", json!([format!("quay.example/ceph:v1@{digest}")]), json!(digest)),
            ("repository", json!(["oci:low:team/app:v1"]), json!("team/app")),
            ("registry", json!(["oci:low:team/app:v1"]), json!("")),
            ("package", json!(["oci:dir/low:v1"]), json!("low:v1")),
        ]);
        assert!(call("Tag", json!(["busybox"])).unwrap_err().starts_with("Tag: "));
    }
}
