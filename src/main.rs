//! The `jreg` command.

use std::process::ExitCode;

use jreg::cli::{self, Action};
use jreg::commands::{self, explain, fail, fsck, gc, policy, serve, token, user, version};

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
        Action::Bench(bench) => measure(*bench),
    }
}

/// Measures a registry, or compares what was measured.
fn measure(bench: jreg_bench::BenchArgs) -> ExitCode {
    match jreg_bench::run(bench, &mut std::io::stdout(), &mut std::io::stderr()) {
        Ok(jreg_bench::Verdict::Done) => ExitCode::SUCCESS,
        Ok(jreg_bench::Verdict::Failed) => ExitCode::from(1),
        Err(error) => fail(1, &error),
    }
}
