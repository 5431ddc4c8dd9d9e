//! docs/cli.md is what the program says of itself.

use assert_cmd::Command;

#[test]
fn the_command_reference_is_current() {
    let output = Command::cargo_bin("mirror").unwrap().arg("docs").output().unwrap();
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout).unwrap();
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    assert!(made == kept, "docs/cli.md is out of date; make it anew with: cargo run -- docs > docs/cli.md");
}
