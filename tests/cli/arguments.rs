//! The command line itself: help, usage errors, completions, manual pages, output formats.

use std::path::Path;

use super::program::{Registry, mirror, unpack_samples};
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

/// Names of the commands, from the program's own help.
fn commands(home: &Path) -> Vec<String> {
    let output = mirror(home).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let names: Vec<String> = help
        .lines()
        .skip_while(|line| !line.starts_with("Usage:"))
        .take_while(|line| *line != "Options:")
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect();
    assert!(names.len() >= 15 && names.iter().any(|name| name == "config"), "{help}");
    names
}

#[test]
fn each_command_explains_itself() {
    let home = tempfile::tempdir().unwrap();
    for name in commands(home.path()) {
        mirror(home.path())
            .args([&name, "--help"])
            .assert()
            .success()
            .stdout(contains("Examples:\n  ").and(contains(format!("mirror {name}"))))
            .stdout(contains("Exit codes:").and(contains("130")));
    }
}

#[test]
fn the_version_is_the_package_version() {
    let home = tempfile::tempdir().unwrap();
    let version = format!("mirror {}\n", env!("CARGO_PKG_VERSION"));
    mirror(home.path()).arg("--version").assert().success().stdout(version);
}

#[test]
fn usage_errors_exit_with_2_and_say_why() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("good.list"), "reg.low/a:1\n").unwrap();
    std::fs::write(home.path().join("bad.list"), "reg.low/a:1\nbusybox\n\nreg.low/a:1:2\n").unwrap();
    std::fs::write(home.path().join("bad.yaml"), "nonsense: 1\n").unwrap();
    for (arguments, reason) in [
        (&["nonsense"][..], "unrecognized subcommand"),
        (&["man", "--output", "xml"], "possible values: text, json"),
        (&["man", "--byte-budget", "64Mib!"], "is not a size"),
        (&["man", "--byte-budget", "1k"], "at least 1MiB"),
        (&["man", "--jobs", "0"], "is not in 1..=1024"),
        (&["man", "-q", "-v"], "cannot be used with"),
        (&["completions", "tcsh"], "possible values"),
        (&["man", "a", "b"], "unexpected argument"),
        (&["serve", "images", "--listen", "5000"], "write an IP address and a port"),
        (&["gather", "list", "busybox"], "for Docker Hub docker.io/NAME"),
        (&["gather", "list", "reg.low/a@sha256:12"], "'reg.low/a@sha256:12'"),
        (&["gather", "list", "reg.low/UPPER:1"], "is not a repository"),
        (&["gather", "list", "oci:"], "needs a directory"),
        (&["gather", "list", "reg.low/a:1", "-p", "linux"], "is not a platform"),
        (&["gather", "list", "reg.low/a:1", "-a", "novalue"], "is not key=value"),
        (&["gather", "list", "reg.low/a:1", "-l", "==="], "selector"),
        (&["gather", "no-such.list", "reg.low/a:1"], "no-such.list: No such file"),
        (&["gather", "bad.list", "reg.low/a:1"], "bad.list:2: "),
        (&["gather", "bad.list", "reg.low/a:1"], "bad.list:4: "),
        (&["serialize", "reg.low/a:1", "a.tar", "--compression", "xz"], "possible values: zstd, gzip"),
        (&["scatter", "reg.low/a:1", "nest"], "write TYPE=ARG"),
        (&["scatter", "reg.low/a:1", "all-prefix=no-such.csv"], "no-such.csv: No such file"),
        (&["scatter", "reg.low/a:1", "nest=reg.high", "--subset", "bad.list"], "bad.list:2: "),
        (&["gather", "good.list", "reg.low/a:1", "--config", "bad.yaml"], "bad.yaml:1"),
    ] {
        mirror(home.path()).args(arguments).assert().code(2).stdout("").stderr(contains(reason));
    }
    mirror(home.path()).arg("man").env("MIRROR_LOG", "a=b=c").assert().code(2).stderr(contains("MIRROR_LOG"));
}

#[test]
fn usage_errors_are_json_for_programs() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["man", "--jobs", "0", "--output", "json"][..], &["--output=json", "nonsense"]] {
        let output = mirror(home.path()).args(arguments).assert().code(2).get_output().clone();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["schema"], "mirror/error/v1");
        assert_eq!(json["exitCode"], 2);
        assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{json}");
    }
}

#[test]
fn completions_know_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = mirror(home.path()).args(["completions", shell]).assert().success().get_output().clone();
        let script = String::from_utf8(output.stdout).unwrap();
        for word in commands(home.path()).iter().map(String::as_str).chain(["byte-budget"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_manual_page_for_each_command() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("share/man1");
    mirror(home.path()).arg("man").arg(&pages).assert().success().stdout("").stderr(contains("manual pages"));
    for name in commands(home.path()) {
        let page = std::fs::read_to_string(pages.join(format!("mirror-{name}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS") && page.contains("Examples:"), "{name}");
    }
    mirror(home.path()).arg("man").assert().success().stdout(contains(".TH mirror 1"));
}

#[test]
fn quiet_prints_nothing() {
    let home = tempfile::tempdir().unwrap();
    mirror(home.path()).args(["man", "pages", "-q"]).assert().success().stdout("").stderr("");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let script = format!("{} completions bash | true; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_mirror"));
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env("HOME", home.path()).assert().success().stdout("0\n").stderr("");
}

#[test]
fn serve_says_where_and_ends_with_0() {
    let home = tempfile::tempdir().unwrap();
    let mut registry = Registry::start(home.path(), "images");
    std::net::TcpStream::connect(&registry.address).unwrap();
    // The directory is taken, and so is the port.
    mirror(home.path())
        .args(["serve", "images", "--listen", "127.0.0.1:0"])
        .assert()
        .code(1)
        .stderr(contains("images is served by another process"));
    mirror(home.path())
        .args(["serve", "others", "--listen", &registry.address])
        .assert()
        .code(1)
        .stderr(contains("cannot listen on").and(contains("--listen")));
    assert_eq!(registry.stop(), Some(0));
    assert!(home.path().join("images/oci-layout").is_file());
}

#[test]
fn the_next_step_of_a_recursive_gather_is_recursive() {
    let home = unpack_samples("images");
    std::fs::write(home.path().join("sources.list"), "oci:images:edge/signed:v1\n").unwrap();
    let gather = ["gather", "sources.list", "oci:low:sync"];
    let next = |more: &[&str], next: &'static str| {
        mirror(home.path()).args(gather).args(more).assert().success().stdout(contains(next));
    };
    next(&[], "next: mirror serialize oci:low:sync ");
    next(&["-r"], "next: mirror serialize --recursive oci:low:sync ");
}
