//! docs/tutorial.md does what it says: its commands run one after the other, and print what is shown below them.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use super::program::process;

/// A block of the page between its fences.
#[derive(Debug, PartialEq)]
enum Block {
    Commands(String),
    /// Lines that the commands before it print.
    Printed(String),
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let body: String = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        match language {
            "sh" => blocks.push(Block::Commands(body)),
            "text" => blocks.push(Block::Printed(body)),
            // Not for a test: the program is built already.
            "console" => {}
            other => panic!("a block of {other:?} is neither run nor shown"),
        }
    }
    blocks
}

/// A port that nobody uses.
fn port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn the_tutorial_does_what_it_says() {
    let clone = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(clone.join("docs/tutorial.md")).unwrap();
    let blocks = blocks(&page);
    // What ends early ends the registries as well.
    let mut script = String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n");
    for (number, block) in blocks.iter().enumerate() {
        if let Block::Commands(commands) = block {
            write!(script, "echo '=== {number}'\n{commands}").unwrap();
        }
    }
    let script = script.replace("127.0.0.1:5000", &format!("127.0.0.1:{}", port()));
    let script = script.replace("127.0.0.1:5001", &format!("127.0.0.1:{}", port()));
    let home = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_mirror")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // The environment is that of the program in the other tests; job control is for `kill %1`.
    let mut bash = std::process::Command::new("bash");
    for (name, value) in process(home.path()).get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    let output = bash
        .args(["-m", "-c", &script])
        .current_dir(home.path())
        .envs([("PATH", path.as_str()), ("CLONE", &clone.display().to_string())])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{printed}");
    let after =
        |number: usize| printed.split(&format!("=== {number}\n")).nth(1).unwrap().split("\n=== ").next().unwrap();
    let mut commands = 0;
    for (number, block) in blocks.iter().enumerate() {
        match block {
            Block::Commands(_) => commands = number,
            Block::Printed(lines) => {
                for line in lines.lines() {
                    assert!(
                        after(commands).contains(line),
                        "{line:?} is not in what was printed:\n{}",
                        after(commands)
                    );
                }
            }
        }
    }
    assert!(blocks.len() > 20, "the tutorial was not found");
}
