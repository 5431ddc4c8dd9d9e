//! The path of a source: what of its reference can stand inside another reference. Nothing here leads
//! out of the place it is put in: there is no leading `/`, no `.` and no `..`.

/// The whole source as a path: the registry is its first component, with a port written `host-port`.
///
/// `127.0.0.1:5000/a/b:v1` gives `127.0.0.1-5000/a/b:v1`; `oci:../low/images:team/app:v1` gives
/// `low/images/team/app:v1`.
pub fn nested(source: &str) -> String {
    if source.starts_with("oci:") {
        return from_layout(source);
    }
    match source.split_once('/') {
        Some((registry, rest)) => {
            let registry = registry.replace(['[', ']'], "").replace(':', "-");
            clean(&format!("{registry}/{rest}"))
        }
        None => clean(source),
    }
}

/// The path without the registry: `reg.example/a/b:v1` gives `a/b:v1`.
///
/// For an image in a layout, its name there if that has a path of its own, else the last part of the directory:
/// `oci:images:team/app:v1` gives `team/app:v1`, `oci:low/app:v1` gives `app:v1`.
pub fn without_registry(source: &str) -> String {
    if let Some(rest) = source.strip_prefix("oci:") {
        return match rest.split_once(':') {
            Some((_, name)) if name.contains([':', '/']) => clean(name),
            _ => from_layout(source).rsplit('/').next().unwrap_or_default().into(),
        };
    }
    clean(source.split_once('/').map_or(source, |(_, rest)| rest))
}

/// `oci:DIR:NAME` as a path: a NAME with a path of its own stands below DIR.
fn from_layout(source: &str) -> String {
    let rest = source.strip_prefix("oci:").unwrap_or(source);
    match rest.split_once(':') {
        Some((directory, name)) if name.contains([':', '/']) && !directory.contains('@') => {
            clean(&format!("{directory}/{name}"))
        }
        _ => clean(rest),
    }
}

fn clean(path: &str) -> String {
    path.split('/').filter(|p| !matches!(*p, "" | "." | "..")).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_sources() {
        for (source, whole, path) in [
            ("reg.example/a/b:v1", "reg.example/a/b:v1", "a/b:v1"),
            ("127.0.0.1:5000/a:v1", "127.0.0.1-5000/a:v1", "a:v1"),
            ("[::1]:5000/a:v1", "--1-5000/a:v1", "a:v1"),
            ("oci:/srv/low:v1", "srv/low:v1", "low:v1"),
            ("oci:../low/images:team/app:v1", "low/images/team/app:v1", "team/app:v1"),
            ("oci:low:app:v1", "low/app:v1", "app:v1"),
            ("oci:low@sha256:00", "low@sha256:00", "low@sha256:00"),
            ("oci:../../..:v1", "..:v1", "..:v1"),
            ("reg.example/../../x", "reg.example/x", "x"),
        ] {
            assert_eq!(nested(source), whole, "{source}");
            assert_eq!(without_registry(source), path, "{source}");
        }
    }
}
