//! Mistakes in lists, selectors and rules, through the program: all of them at once, each with its line,
//! before anything is read or written.

use assert_cmd::Command;
use tempfile::TempDir;

/// Runs `mirror` in `dir`; returns its exit code and what it said.
fn mirror(dir: &TempDir, arguments: &[&str]) -> (i32, String) {
    let output = Command::cargo_bin("mirror").unwrap().current_dir(dir).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_bad_list_is_reported_whole() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("sources.list"), "oci:low:v1\nbusybox\n\n# fine\noci:low:v2, no label\n").unwrap();
    let (code, said) = mirror(&dir, &["gather", "sources.list", "oci:high:sync"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("sources.list:2: ") && said.contains("sources.list:5: "), "{said}");
    assert!(!dir.path().join("high").exists());
}

#[test]
fn bad_rules_are_reported_before_the_image_is_read() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("dest.csv"), "a,b\nonly\na,b,c\n").unwrap();
    std::fs::write(dir.path().join("t.hbs"), "{{source}}\n{{env \"HOME\"}}\n").unwrap();
    for (mapper, expected) in [
        ("all-prefix=dest.csv", "dest.csv:3: "),
        ("template=t.hbs", "t.hbs:2: there is no helper \"env\""),
        ("go-template=none.tmpl", "none.tmpl: "),
        ("prefix=dest.csv", "write TYPE=ARG"),
    ] {
        let (code, said) = mirror(&dir, &["scatter", "oci:none:sync", mapper]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(expected), "{mapper}: {said}");
    }
    let (code, said) = mirror(&dir, &["scatter", "oci:none:sync", "nest=oci:high", "-l", "a in (b"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("a parenthesis is not closed"), "{said}");
}
