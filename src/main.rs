//! The `jreg` command.

use std::process::ExitCode;

use jreg::cli::{self, CliCommand};
use jreg::commands::{
    self, config, documents, events, explain, fsck, gc, health, lifecycle, ls, manifest, mirror,
    policy, purge, serve, session, support, tag, token, upload, usage, user, version,
};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return commands::print_usage(&error),
    };
    match cli.command {
        CliCommand::Version { json } => version::run(json),
        CliCommand::Config(action) => config::run(action),
        CliCommand::Health(args) => health::run(args),
        CliCommand::Ls(args) => ls::run(args),
        CliCommand::Support(args) => support::run(args),
        CliCommand::Completions { shell } => documents::completions(shell),
        CliCommand::Man(args) => documents::man(&args),
        CliCommand::Serve(args) => serve::run(args),
        CliCommand::Gc(args) => gc::run(args),
        CliCommand::Fsck(args) => fsck::run(args),
        CliCommand::Explain(args) => explain::run(args),
        CliCommand::Tag(action) => tag::run(action),
        CliCommand::Manifest(action) => manifest::run(action),
        CliCommand::Purge(args) => purge::run(args),
        CliCommand::Token(action) => token::run(action),
        CliCommand::Session(action) => session::run(action),
        CliCommand::Usage(args) => usage::run(args),
        CliCommand::Upload(action) => upload::run(action),
        CliCommand::Mirror(command) => mirror::run(command),
        CliCommand::Events(action) => events::run(action),
        CliCommand::User(action) => user::run(action),
        CliCommand::Policy(action) => policy::run(action),
        CliCommand::Lifecycle(action) => lifecycle::run(action),
    }
}
