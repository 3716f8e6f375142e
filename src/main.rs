//! The `jreg` command.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use jreg::audit::command::{CommandEntry, Journal, Operator, Outcome};
use jreg::auth::command as access;
use jreg::cli::{self, Action, Maintenance, PolicyAction, UserAction};
use jreg::logging::{self, chain};
use jreg::maintenance::command::{self, Verdict};
use jreg::server::Ending;
use jreg::{app, config};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            let failed = !cli::is_help(&answer);
            // There is nobody left to tell if the terminal is gone.
            let _ = answer.print();
            return if failed { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Action::Version => match writeln!(std::io::stdout(), "{}", cli::version()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
        Action::Serve(serve) => match serve.resolve(std::env::vars_os()) {
            Ok(resolved) => start(resolved),
            Err(error) => fail(2, &error),
        },
        Action::Gc(gc) => maintain(gc.resolve(std::env::vars_os()), 1),
        Action::Fsck(fsck) => maintain(fsck.resolve(std::env::vars_os()), 3),
        Action::Explain(explain) => maintain(explain.resolve(std::env::vars_os()), 3),
        Action::Token(token) => maintain(token.resolve(std::env::vars_os()), 1),
        Action::User(action) => user(action),
        Action::Policy(action) => ask(action),
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

/// Runs a command that works on a store; `failed` is the exit code if it cannot be done.
fn maintain(resolved: Result<Maintenance, config::ConfigError>, failed: u8) -> ExitCode {
    let Maintenance { command, shown, resolved } = match resolved {
        Ok(maintenance) => maintenance,
        Err(error) => return fail(2, &error),
    };
    let _log = match logging::start(&resolved.settings) {
        Ok(log) => log,
        Err(error) => return fail(failed, &error),
    };
    for remark in resolved.remarks {
        tracing::warn!("{remark}");
    }
    match command::run(resolved.settings, command, shown) {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::from(1),
        Ok(Verdict::Stopped) => ExitCode::from(130),
        Err(error) => fail(failed, &error),
    }
}

/// Changes or prints a file of users.
fn user(action: UserAction) -> ExitCode {
    let (file, command) = match action {
        UserAction::Add { name, password_stdin, file } => {
            let password = password_stdin.then(|| access::password_from(std::io::stdin()));
            match password.transpose() {
                Ok(password) => (file, access::UserCommand::Add { name, password }),
                Err(error) => return fail(1, &error),
            }
        }
        UserAction::Remove { name, file } => (file, access::UserCommand::Remove { name }),
        UserAction::List { file } => (file, access::UserCommand::List),
    };
    let (path, settings) = match file.resolve(std::env::vars_os()) {
        Ok((Some(path), settings)) => (path, settings),
        Ok((None, _)) => return fail(2, &access::CommandError::NoFile),
        Err(error) => return fail(2, &error),
    };
    let done = match command.audited() {
        None => access::user(&path, command),
        Some(operation) => match Journal::open(&settings) {
            Ok(journal) => audited(journal, operation, &path, command),
            Err(error) => return fail(1, &error),
        },
    };
    match done {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => fail(1, &error),
    }
}

/// Changes a file of users, and writes that down.
fn audited(
    journal: Option<Journal>,
    operation: &'static str,
    path: &Path,
    command: access::UserCommand,
) -> Result<String, access::CommandError> {
    let asked = command.asked(path);
    let done = access::user(path, command);
    if let Some(mut journal) = journal {
        let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
        let entry = CommandEntry::new(Operator::here(), operation, asked, None, outcome);
        if let Err(error) = journal.write(&entry) {
            // It is done, or not; that nobody wrote it down changes nothing of that.
            let _ = writeln!(std::io::stderr(), "jreg: the audit log cannot be written: {error}");
        }
    }
    done
}

/// Asks the rules.
fn ask(action: PolicyAction) -> ExitCode {
    let tests = matches!(action, PolicyAction::Test { .. });
    let question = match action.resolve(std::env::vars_os()) {
        Ok(question) => question,
        Err(error) => return fail(2, &error),
    };
    match access::policy(&question) {
        Ok((allowed, text)) if allowed || !tests => print(&text, ExitCode::SUCCESS),
        Ok((_, text)) => print(&text, ExitCode::from(1)),
        Err(error) => fail(3, &error),
    }
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(error) => fail(1, &error),
    }
}

fn start(cli::Resolved { settings, remarks }: cli::Resolved) -> ExitCode {
    let _log = match logging::start(&settings) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    let announce = |settings: &config::Settings, address| {
        app::log_start(settings, address);
        if settings.log_format != config::LogFormat::Json {
            // A registry serves whether or not somebody reads this.
            let _ = writeln!(std::io::stdout(), "{}", app::greeting(settings, address));
        }
    };
    match app::run(settings, announce) {
        Ok(Ending::Whole) => ExitCode::SUCCESS,
        Ok(Ending::CutOff) => ExitCode::from(1),
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    // There is nobody left to tell if standard error is gone.
    let _ = writeln!(std::io::stderr(), "jreg: {}", chain(error));
    ExitCode::from(code)
}
