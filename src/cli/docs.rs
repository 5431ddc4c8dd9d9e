//! `mirror docs` (hidden): the command reference as Markdown, from the same definition as the help.
//! docs/cli.md is its output, and a test keeps it so.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use super::{Exit, Failure, Session, exit};

/// Print the command reference as Markdown (docs/cli.md)
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(session: &Session) -> Result<Exit, Failure> {
    session.raw(markdown().as_bytes())?;
    Ok(Exit::Verified)
}

fn markdown() -> String {
    let mut root = super::definition();
    root.build();
    let mut text = String::from(
        "# Command reference\n\n\
         This page is made from the program: `cargo run -- docs > docs/cli.md`.\n\
         `mirror COMMAND --help` shows the same.\n\n",
    );
    text.push_str(&paragraphs(&root));
    examples(&mut text, &root);
    text.push_str("\n## Global options\n\nEvery command takes them, before or after its name.\n\n");
    for argument in root.get_arguments().filter(|a| shown(a)) {
        option(&mut text, argument);
    }
    let _ = write!(text, "\n## Exit codes\n\n```text\n{}\n```\n", exit::HELP.trim_start_matches("Exit codes:\n"));
    for command in root.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        section(&mut text, command, "mirror");
    }
    text
}

fn section(text: &mut String, command: &Command, parent: &str) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = format!("{parent} {}", command.get_name());
    let level = "#".repeat(name.split(' ').count());
    let _ = write!(text, "\n{level} {name}\n\n```text\n{usage}\n```\n\n");
    text.push_str(&paragraphs(command));
    let arguments: Vec<&Arg> = command.get_positionals().filter(|a| shown(a)).collect();
    if !arguments.is_empty() {
        text.push_str("\nArguments:\n\n");
        arguments.iter().for_each(|a| option(text, a));
    }
    let options: Vec<&Arg> =
        command.get_arguments().filter(|a| !a.is_positional() && !a.is_global_set() && shown(a)).collect();
    if !options.is_empty() {
        text.push_str("\nOptions:\n\n");
        options.iter().for_each(|a| option(text, a));
    }
    examples(text, command);
    for command in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        section(text, command, &name);
    }
}

fn shown(argument: &Arg) -> bool {
    !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
}

fn paragraphs(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let (title, rest) = about.split_once("\n\n").unwrap_or((&about, ""));
    let mut text = format!("{}.\n", title.trim_end_matches('.'));
    if !rest.is_empty() {
        let _ = write!(text, "\n{}\n", escaped(rest));
    }
    text
}

fn examples(text: &mut String, command: &Command) {
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let examples = help.split("\n\n").find_map(|part| part.strip_prefix("Examples:\n"));
    if let Some(examples) = examples {
        let lines: Vec<&str> = examples.lines().map(str::trim_start).collect();
        let _ = write!(text, "\nExamples:\n\n```sh\n{}\n```\n", lines.join("\n"));
    }
}

fn option(text: &mut String, argument: &Arg) {
    let values = match argument.get_value_names() {
        Some(names) if takes_value(argument) => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    };
    let mut names = Vec::new();
    if let Some(short) = argument.get_short() {
        names.push(format!("-{short}"));
    }
    if let Some(long) = argument.get_long() {
        names.push(format!("--{long}"));
    }
    let name = if names.is_empty() { values } else { format!("{} {values}", names.join(", ")).trim_end().to_owned() };
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "- `{name}`: {}", escaped(&help.replace("\n\n", "\n").replace('\n', " ")));
    if takes_value(argument) {
        let possible: Vec<String> =
            argument.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        if !possible.is_empty() {
            let _ = write!(text, " (one of {})", possible.join(", "));
        }
        if let [default] = argument.get_default_values() {
            let _ = write!(text, " (default `{}`)", default.to_string_lossy());
        }
    }
    text.push('\n');
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

/// Angle brackets would be read as HTML.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<")
}
