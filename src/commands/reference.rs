//! The page docs/cli.md, made of the command line as clap knows it.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

const INTRODUCTION: &str = "\
# Commands

`jreg man --markdown` writes this page. `jreg COMMAND --help` prints the same in a terminal, and the Debian package has
man pages.

`jreg serve` takes every setting of [configuration.md](configuration.md) as a flag. Commands that work on a storage take it from
`--storage`, `JREG_STORAGE` or the configuration file, as `serve` does; beside a `jreg serve` on a folder they ask that process.
";

/// The page.
pub(super) fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = INTRODUCTION.to_owned();
    for subcommand in visible(&command) {
        append(&mut page, subcommand, "jreg");
    }
    page
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// A section of a command, and one of each of its subcommands.
fn append(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {name}\n\n");
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<_> = about.split("\n\n").map(|part| text(part) + ".").collect();
    let _ = writeln!(page, "{}", paragraphs.join("\n\n"));
    if visible(command).next().is_some() {
        for subcommand in visible(command) {
            append(page, subcommand, &name);
        }
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let _ = write!(page, "\n```text\n{usage}\n```\n");
    let is_shown = |arg: &&Arg| !arg.is_hide_set() && !is_common(arg) && !is_setting(command, arg);
    let shown: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    if !shown.is_empty() {
        page.push_str("\n| argument | meaning |\n| --- | --- |\n");
    }
    for arg in shown {
        let help = arg.get_long_help().or_else(|| arg.get_help());
        let help = help.map(|help| text(&help.to_string()).replace('\n', " ")).unwrap_or_default();
        let _ =
            writeln!(page, "| `{}` | {}{} |", spelling(arg), help.replace('|', "\\|"), values(arg));
    }
}

/// Arguments that every command has.
fn is_common(arg: &Arg) -> bool {
    ["help", "version"].contains(&arg.get_id().as_str())
}

/// Flags of `serve` that are settings, which have a page of their own.
fn is_setting(command: &Command, arg: &Arg) -> bool {
    command.get_name() == "serve" && arg.get_id() != "config"
}

/// `--flag, -f <VALUE>` or `<VALUE>`.
fn spelling(arg: &Arg) -> String {
    if arg.is_positional() {
        return arg.to_string();
    }
    let takes_value = arg.get_action().takes_values();
    let value = arg.get_value_names().filter(|_| takes_value).and_then(<[_]>::first);
    let long = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    let short = arg.get_short().map(|short| format!(", -{short}")).unwrap_or_default();
    let value = value.map(|value| format!(" <{value}>")).unwrap_or_default();
    format!("{long}{short}{value}")
}

/// The values that are allowed, if they are a few words.
fn values(arg: &Arg) -> String {
    let values = arg.get_possible_values();
    let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
    match arg.get_action().takes_values() && !names.is_empty() {
        true => format!(": {}", names.join(", ")),
        false => String::new(),
    }
}

/// A text whose characters mean nothing in Markdown.
fn text(text: &str) -> String {
    let lines: Vec<&str> = text.trim().trim_end_matches('.').lines().map(str::trim).collect();
    lines.join("\n").replace('<', "&lt;").replace('*', "\\*").replace('_', "\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let found = include_str!("../../docs/cli.md");
        let run = "run: cargo run -- man --markdown >docs/cli.md";
        assert!(found == page(), "docs/cli.md differs from the command line; {run}");
    }
}
