//! The commands in `mirror --help`: by what they are for, in the order of the work.
//!
//! Invariant: every command that is not hidden is in one group; a test sees to it.

use std::fmt::Write as _;

use clap::Command;

/// Titles and names, in their order.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Across the gap, by way of a repository on each side", &["gather", "serialize", "deserialize", "scatter"]),
    ("Straight, with no repository in between", &["archive", "unarchive", "clone"]),
    ("Look and prove", &["inspect", "diff", "verify"]),
    ("Many archives, and media", &["batch-serialize", "batch-deserialize", "tape"]),
    ("Registries", &["serve", "login", "logout"]),
    ("The program itself", &["config", "completions", "man", "help"]),
];

/// The definition with its commands in groups, for its own help: completions, manual pages and docs/cli.md are made from
/// the plain one.
pub fn grouped(mut definition: Command) -> Command {
    definition.build();
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, "{title}:");
        for command in names.iter().filter_map(|name| definition.find_subcommand(name)) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:<18} {about}", command.get_name());
        }
        text.push('\n');
    }
    definition
        .override_usage("mirror [OPTIONS] <COMMAND>")
        .help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}{{all-args}}{{after-help}}"
        ))
        .mut_subcommands(|command| command.hide(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let named: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for command in crate::cli::definition().get_subcommands().filter(|command| !command.is_hide_set()) {
            let times = named.iter().filter(|name| **name == command.get_name()).count();
            assert_eq!(times, 1, "{} is in {times} groups", command.get_name());
        }
    }
}
