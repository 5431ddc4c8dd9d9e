//! docs/cli.md is what the program says of itself, and other pages say nothing else.

use assert_cmd::Command;

#[test]
fn the_command_reference_is_current() {
    let output = Command::cargo_bin("mirror").unwrap().arg("docs").output().unwrap();
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout).unwrap();
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    assert!(made == kept, "docs/cli.md is out of date; make it anew with: cargo run -- docs > docs/cli.md");
}

/// The options in backquotes.
fn options(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|word| word.split([' ', '=']).next()).filter(|word| word.starts_with("--")).collect()
}

#[test]
fn the_options_of_the_migration_page_exist() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/migration.md")).unwrap();
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    // The first column is the other tool's.
    let ours: Vec<&str> = page
        .lines()
        .filter_map(|row| row.strip_prefix("| ")?.split_once(" | "))
        .map(|row| row.1)
        .flat_map(options)
        .collect();
    assert!(ours.len() > 20, "{ours:?}");
    for option in ours {
        let known = [" ", ",", "`"].iter().any(|end| reference.contains(&format!("{option}{end}")));
        assert!(known, "docs/migration.md has {option}, which docs/cli.md does not know");
    }
}
