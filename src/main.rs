//! The `jreg` command.

use std::process::ExitCode;

use jreg::cli::{self, Action};
use jreg::logging::{self, chain};
use jreg::server::Ending;
use jreg::{app, config};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            let failed = !cli::is_answer(&answer);
            // There is nobody left to tell if the terminal is gone.
            let _ = answer.print();
            return if failed { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Action::Version => println!("{}", cli::version()),
        Action::Serve(serve) => match serve.resolve(std::env::vars_os()) {
            Ok(resolved) => return start(resolved),
            Err(error) => return fail(2, &error),
        },
    }
    ExitCode::SUCCESS
}

fn start(cli::Resolved { settings, remarks }: cli::Resolved) -> ExitCode {
    if let Err(error) = logging::start(&settings) {
        return fail(1, &error);
    }
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    let announce =
        |settings: &config::Settings, address| println!("{}", app::greeting(settings, address));
    match app::run(settings, announce) {
        Ok(Ending::Whole) => ExitCode::SUCCESS,
        Ok(Ending::CutOff) => ExitCode::from(1),
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("jreg: {}", chain(error));
    ExitCode::from(code)
}
