//! The `jreg-bench` command.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use jreg_bench::{BenchArgs, BenchOutcome};

fn main() -> ExitCode {
    let args = match BenchArgs::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A closed terminal is no reason to fail.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match jreg_bench::run(args, &mut std::io::stdout(), &mut std::io::stderr()) {
        Ok(BenchOutcome::Done) => ExitCode::SUCCESS,
        Ok(BenchOutcome::Failed) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "jreg-bench: {}", with_sources(&error));
            ExitCode::from(1)
        }
    }
}

/// An error and its sources, separated by colons.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
