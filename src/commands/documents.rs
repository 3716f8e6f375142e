//! `jreg completions` and `jreg man`: what the command line is, for shells and for man.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Generator;
use clap_complete::shells::{Bash, Elvish, Fish, Zsh};
use clap_mangen::Man;

use super::{fail, print, reference};
use crate::cli::{Cli, ManArgs, Shell};

/// Prints the completions of a shell.
pub fn completions(shell: Shell) -> ExitCode {
    let mut command = Cli::command();
    command.set_bin_name("jreg");
    command.build();
    let mut text = Vec::new();
    let written = match shell {
        Shell::Bash => Bash.try_generate(&command, &mut text),
        Shell::Elvish => Elvish.try_generate(&command, &mut text),
        Shell::Fish => Fish.try_generate(&command, &mut text),
        Shell::Zsh => Zsh.try_generate(&command, &mut text),
    };
    match written {
        Ok(()) => print(&String::from_utf8_lossy(&text), ExitCode::SUCCESS),
        Err(error) => fail(1, &error),
    }
}

/// Writes a man page of each command, or prints one page of all.
pub fn man(args: &ManArgs) -> ExitCode {
    match &args.folder {
        Some(folder) if !args.markdown => write_man_pages(folder),
        _ => print(&reference::page(), ExitCode::SUCCESS),
    }
}

fn write_man_pages(folder: &Path) -> ExitCode {
    let mut command = Cli::command();
    command.build();
    match fs::create_dir_all(folder).and_then(|()| write_pages(&command, "jreg", folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn write_pages(command: &Command, name: &str, folder: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    let page = command.clone().name(name.to_owned()).bin_name(name.replace('-', " "));
    Man::new(page).date("").render(&mut text)?;
    fs::write(folder.join(format!("{name}.1")), text)?;
    let visible = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for subcommand in command.get_subcommands().filter(visible) {
        write_pages(subcommand, &format!("{name}-{}", subcommand.get_name()), folder)?;
    }
    Ok(())
}
