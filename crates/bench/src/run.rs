//! The command: measures or compares, and says what came of it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::args::{BenchAction, BenchArgs, FILES_MAX, ReportArgs, RunArgs, SinkArgs};
use crate::drive;
use crate::error::BenchError;
use crate::measured::{BenchRun, FORMAT};
use crate::plan::RunPlan;
use crate::sink::serve_sink;
use crate::warm::{warm_file, warm_memory};
use crate::{markdown, report, svg, text};

/// The longest file of results that is read.
const RESULTS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How it went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BenchOutcome {
    /// All that was asked.
    Done,
    /// Some operations failed.
    Failed,
}

/// Does what the command line says: `out` is for what was asked, `aside` for what happens
/// meanwhile.
///
/// # Errors
///
/// [`BenchError`] if nothing can be measured or written at all. Operations that fail are counted
/// and make the verdict [`BenchOutcome::Failed`].
pub fn run(
    args: BenchArgs,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<BenchOutcome, BenchError> {
    match args {
        BenchArgs { action: Some(BenchAction::Report(args)), .. } => compare(&args, out),
        BenchArgs { action: Some(BenchAction::Sink(args)), .. } => sink(&args),
        BenchArgs { action: Some(BenchAction::Warm(args)), .. } => {
            warm_memory(args.memory_bytes());
            let failed = |source| BenchError::Write { path: args.folder.clone(), source };
            warm_file(&args.folder, args.file_bytes()).map_err(failed)?;
            Ok(BenchOutcome::Done)
        }
        BenchArgs { action: None, run } => run_workloads(run, out, aside),
    }
}

fn sink(args: &SinkArgs) -> Result<BenchOutcome, BenchError> {
    runtime()?.block_on(async {
        let failed = |source| BenchError::Listen { address: args.listen, source };
        let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
        serve_sink(listener).await.map_err(failed)
    })?;
    Ok(BenchOutcome::Done)
}

fn runtime() -> Result<Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BenchError::Start)
}

fn run_workloads(
    mut args: RunArgs,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<BenchOutcome, BenchError> {
    let url = match args.url.take() {
        Some(url) if !args.list => url,
        _ => return print(out, &text::workloads()).map(|()| BenchOutcome::Done),
    };
    if let Some(workload) = args.lacks_gc_command() {
        return Err(BenchError::NoCollector(workload.name));
    }
    let (json, chart) = (args.json.take(), args.svg.take());
    let measured = runtime()?.block_on(measure(args.plan(url), &mut |line| {
        // It is measured also if the progress output cannot be written.
        let _ = writeln!(aside, "{line}");
    }))?;
    match json.as_deref() {
        Some(path) if path == Path::new("-") => print(out, &as_json(&measured))?,
        Some(path) => {
            // First what cannot fail for want of space: a run may have taken hours.
            print(out, &text::table(&measured))?;
            write(path, &as_json(&measured))?;
        }
        None => print(out, &text::table(&measured))?,
    }
    let failed = measured.results.iter().any(|measured| measured.failed() > 0);
    if let Some(path) = chart {
        write(
            &path,
            &svg::chart(&report::BenchComparison::of(
                &[measured],
                &report::ReportLabels::default(),
            )),
        )?;
    }
    Ok(if failed { BenchOutcome::Failed } else { BenchOutcome::Done })
}

fn as_json(run: &BenchRun) -> String {
    // Nothing in it has a key that is no string, so it can be written.
    serde_json::to_string(run).unwrap_or_default() + "\n"
}

/// Measures a registry. `tell` is told what is being done.
///
/// # Errors
///
/// [`BenchError`] if nothing can be measured at all.
pub async fn measure(plan: RunPlan, tell: &mut dyn FnMut(&str)) -> Result<BenchRun, BenchError> {
    Box::pin(drive::run(plan.set_up()?, tell)).await
}

fn compare(args: &ReportArgs, out: &mut dyn Write) -> Result<BenchOutcome, BenchError> {
    let files = args.files.iter().take(FILES_MAX);
    let runs = files.map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let labels = report::ReportLabels {
        subject: args.subject.clone(),
        syncing: args.syncing.clone(),
        sink: args.sink.clone(),
    };
    let comparison = report::BenchComparison::of(&runs, &labels);
    print(out, &markdown::markdown(&comparison))?;
    if let Some(path) = &args.svg {
        write(path, &svg::chart(&comparison))?;
    }
    Ok(BenchOutcome::Done)
}

fn read(path: &Path) -> Result<BenchRun, BenchError> {
    let failed = |source| BenchError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    let length = file.take(RESULTS_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > RESULTS_BYTES_MAX {
        return Err(BenchError::TooLarge { path: path.to_owned(), max: RESULTS_BYTES_MAX });
    }
    let nothing = |source| BenchError::NoResults { path: path.to_owned(), source };
    let version: ResultVersion = serde_json::from_str(&text).map_err(nothing)?;
    if version.format != FORMAT {
        return Err(BenchError::Format { path: path.to_owned(), format: version.format });
    }
    serde_json::from_str(&text).map_err(nothing)
}

/// What every version of the format has.
#[derive(serde::Deserialize)]
struct ResultVersion {
    format: u32,
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|source| BenchError::Write { path: path.to_owned(), source })
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), BenchError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(BenchError::Print)
}
