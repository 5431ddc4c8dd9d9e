//! Slash-separated paths, by their text alone (no file is looked at), and URLs.

use serde_json::{Value, json};

use super::{Function, Outcome, dict, function, text};

pub static TABLE: &[Function] = &[
    function("base", 1, 1, |a| Ok(base(&text(&a[0])).into())),
    function("osBase", 1, 1, |a| Ok(base(&text(&a[0])).into())),
    function("dir", 1, 1, |a| Ok(dir(&text(&a[0])).into())),
    function("osDir", 1, 1, |a| Ok(dir(&text(&a[0])).into())),
    function("clean", 1, 1, |a| Ok(clean(&text(&a[0])).into())),
    function("osClean", 1, 1, |a| Ok(clean(&text(&a[0])).into())),
    function("ext", 1, 1, |a| Ok(ext(&text(&a[0])).into())),
    function("osExt", 1, 1, |a| Ok(ext(&text(&a[0])).into())),
    function("isAbs", 1, 1, |a| Ok(text(&a[0]).starts_with('/').into())),
    function("osIsAbs", 1, 1, |a| Ok(text(&a[0]).starts_with('/').into())),
    function("urlParse", 1, 1, |a| Ok(url_parse(&text(&a[0])))),
    function("urlJoin", 1, 1, |a| url_join(&a[0])),
];

fn base(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".".into(),
        "" => "/".into(),
        rest => rest.rsplit('/').next().unwrap_or(rest).into(),
    }
}

fn dir(path: &str) -> String {
    clean(path.rfind('/').map_or("", |i| &path[..=i]))
}

/// The shortest path of the same meaning; `.` for nothing.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

fn ext(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rfind('.').map_or("", |i| &name[i..]).into()
}

/// The parts of a URL (RFC 3986, appendix B), verbatim.
fn url_parse(url: &str) -> Value {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    let (scheme, rest) = rest.split_once(':').filter(|(s, _)| is_scheme(s)).unwrap_or(("", rest));
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let (userinfo, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let hostname = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let opaque = if !scheme.is_empty() && authority.is_empty() && !path.starts_with('/') { path } else { "" };
    let path = if opaque.is_empty() { path } else { "" };
    json!({
        "scheme": scheme, "host": host, "hostname": hostname, "path": path, "query": query,
        "opaque": opaque, "fragment": fragment, "userinfo": userinfo,
    })
}

fn url_join(parts: &Value) -> Outcome {
    let parts = dict(parts)?;
    let part = |name: &str| parts.get(name).map(|v| text(v).into_owned()).unwrap_or_default();
    let after = |mark: &str, value: String| if value.is_empty() { value } else { format!("{mark}{value}") };
    let before = |value: String, mark: &str| if value.is_empty() { value } else { format!("{value}{mark}") };
    let (host, opaque, path) = (part("host"), part("opaque"), part("path"));
    let authority = if host.is_empty() { String::new() } else { format!("//{}{host}", before(part("userinfo"), "@")) };
    let slash = if authority.is_empty() || path.is_empty() || path.starts_with('/') { "" } else { "/" };
    let place = if opaque.is_empty() { format!("{authority}{slash}{path}") } else { opaque };
    let url =
        format!("{}{place}{}{}", before(part("scheme"), ":"), after("?", part("query")), after("#", part("fragment")));
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn paths_as_go_has_them() {
        check(&[
            ("base", json!(["foo/bar/baz"]), json!("baz")),
            ("base", json!([""]), json!(".")),
            ("base", json!(["///"]), json!("/")),
            ("dir", json!(["foo/bar/baz"]), json!("foo/bar")),
            ("dir", json!(["foo"]), json!(".")),
            ("dir", json!(["/foo"]), json!("/")),
            ("clean", json!(["foo/bar/../baz//./x"]), json!("foo/baz/x")),
            ("clean", json!(["../../a"]), json!("../../a")),
            ("clean", json!(["/../a"]), json!("/a")),
            ("ext", json!(["foo.d/bar.tar.gz"]), json!(".gz")),
            ("ext", json!(["foo.d/bar"]), json!("")),
            ("isAbs", json!(["/a"]), json!(true)),
        ]);
    }

    #[test]
    fn urls_go_apart_and_together() {
        let parts = json!({
            "scheme": "http", "host": "server.com:8080", "hostname": "server.com", "path": "/api", "query": "list=false",
            "opaque": "", "fragment": "anchor", "userinfo": "admin:secret",
        });
        let url = "http://admin:secret@server.com:8080/api?list=false#anchor";
        check(&[("urlParse", json!([url]), parts.clone()), ("urlJoin", json!([parts]), json!(url))]);
        for url in ["mailto:a@b.example", "/a/b?x", "https://[::1]:5000/", "//host/a"] {
            let parts = call("urlParse", json!([url])).unwrap();
            assert_eq!(call("urlJoin", json!([parts])), Ok(json!(url)));
        }
    }
}
