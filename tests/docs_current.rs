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

/// Commands of ace-dt's mirror with all of their options, those that its guide alone has included.
const THEIRS: [(&str, &str); 11] = [
    ("", "--recursive --config --verbosity --quiet --no-term --debug"),
    ("gather", "--index-fallback --annotations --platforms"),
    (
        "serialize",
        "--checkpoint --existing-from-checkpoint --resume-from-checkpoint --resume-from-offset --manifest-json \
         --compression --buffer-size --block-size --hwm",
    ),
    ("deserialize", "--strict --dry-run --block-size"),
    ("scatter", "--check --subset --selector"),
    ("clone", "--selector --check --platforms --continue"),
    (
        "archive",
        "--index-fallback --annotations --platforms --checkpoint --existing-from-checkpoint --manifest-json --compression \
         --buffer-size --block-size --hwm --reference",
    ),
    ("unarchive", "--subset --check --selector --block-size --strict --reference"),
    ("batch-serialize", "--tracker-filename --compression --manifest-json"),
    ("batch-deserialize", "--sync-filename"),
    ("diff", "--output --expand"),
];
/// What has another name here, or none.
const NOT_OURS: [&str; 7] = [
    "--verbosity",
    "--no-term",
    "--debug",
    "--strict",
    "deserialize --block-size",
    "unarchive --block-size",
    "--recursive",
];

#[test]
fn every_option_of_ace_dt_is_on_the_migration_page_and_here() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/migration.md")).unwrap();
    let theirs: String = page.lines().filter_map(|row| Some(row.strip_prefix("| ")?.split_once(" | ")?.0)).collect();
    let named = options(&theirs);
    for (command, all) in THEIRS {
        let help =
            Command::cargo_bin("mirror").unwrap().args(command.split_whitespace()).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for option in all.split_whitespace() {
            assert!(named.contains(&option), "docs/migration.md lacks {option} of ace-dt mirror {command}");
            let known = [" ", "]", "\n", "[", "="].iter().any(|end| help.contains(&format!("{option}{end}")));
            let other = NOT_OURS.contains(&option) || NOT_OURS.contains(&format!("{command} {option}").as_str());
            assert!(known || other, "mirror {command} lacks {option}");
        }
    }
}
