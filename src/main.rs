//! The `jreg` command.

use std::process::ExitCode;

use jreg::cli::{self, Action};
use jreg::commands::{self, explain, fsck, gc, policy, serve, token, user, version};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => return commands::answer(&answer),
    };
    match cli.command {
        Action::Version => version::run(),
        Action::Serve(args) => serve::run(args),
        Action::Gc(args) => gc::run(args),
        Action::Fsck(args) => fsck::run(args),
        Action::Explain(args) => explain::run(args),
        Action::Token(action) => token::run(action),
        Action::User(action) => user::run(action),
        Action::Policy(action) => policy::run(action),
    }
}
