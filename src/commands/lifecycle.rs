//! `jreg lifecycle`: verifies a lifecycle file, says what it means, and applies its retention rules.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use jreg_lifecycle::LifecycleRules;
use jreg_registry::RetentionReport;
use serde_json::json;

use super::user::{UserFileError, read, wrong};
use super::{fail, maintain, maintain_and, print};
use crate::cli::LifecycleAction;
use crate::maintenance::MaintenanceReport;

pub fn run(action: LifecycleAction) -> ExitCode {
    match action {
        LifecycleAction::Check { file, json } => match check_as(&file, json) {
            Ok(text) => print(&text, ExitCode::SUCCESS),
            Err(error) => fail(3, &error),
        },
        LifecycleAction::Preview(preview) => {
            let (plan, resolved) = preview.resolve(std::env::vars_os());
            maintain_and(resolved, 3, |report| write_plan(plan.as_deref(), report))
        }
        LifecycleAction::Run(args) => maintain(args.resolve(std::env::vars_os()), 3),
    }
}

/// Writes the plan of a preview to its file.
fn write_plan(path: Option<&Path>, report: &MaintenanceReport) -> io::Result<()> {
    let (Some(path), MaintenanceReport::Retention(RetentionReport { plan: Some(plan), .. })) =
        (path, report)
    else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(plan).map_err(io::Error::other)?;
    std::fs::write(path, text)
        .map_err(|error| io::Error::other(format!("cannot write {}: {error}", path.display())))
}

fn check_as(path: &Path, is_json: bool) -> Result<String, UserFileError> {
    if !is_json {
        return check(path);
    }
    let rules = LifecycleRules::parse(&read(path)?);
    let rules = rules.map_err(|error| wrong(path, error.to_string()))?;
    let entries = rules.sentences().into_iter();
    let entries = entries.map(|(name, sentence)| json!({ "name": name, "sentence": sentence }));
    let entries: Vec<_> = entries.collect();
    let warnings: Vec<_> = rules.remarks().into_iter().map(|remark| remark.to_string()).collect();
    let hash = rules.hash().to_string();
    Ok(format!("{}\n", json!({ "rules": entries, "warnings": warnings, "hash": hash })))
}

/// The rules of a file in sentences.
///
/// # Errors
///
/// [`UserFileError`].
pub fn check(path: &Path) -> Result<String, UserFileError> {
    let rules = LifecycleRules::parse(&read(path)?);
    let rules = rules.map_err(|error| wrong(path, error.to_string()))?;
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, sentence) in rules.sentences() {
        let _ = writeln!(text, "{name}: {sentence}");
    }
    if rules.retention().is_empty() {
        text.push_str("no retention entry: every tag is kept\n");
    }
    for remark in rules.remarks() {
        let _ = writeln!(text, "warning: {remark}");
    }
    let _ = writeln!(text, "hash: {}", rules.hash());
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_sentences_and_errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifecycle.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("[[quota]]\nrepositories = ['team/**']\nbytes = '1TiB'\n[end]");
        let text = check(&path).unwrap();
        assert!(
            text.starts_with("quota 1: Repositories that match team/** may hold 1TiB"),
            "{text}"
        );
        assert!(text.contains("\nno retention entry: every tag is kept\nhash: sha256:"), "{text}");
        let entry = "[[retention]]\nrepositories = ['**']\n[[retention.keep]]\ntags = ['*']\n";
        write(&(entry.repeat(2) + "[end]\n"));
        let text = check(&path).unwrap();
        assert!(text.contains("\nwarning: retention entry 2 is never used"), "{text}");
        write("[[quotas]]");
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("lifecycle.toml: ") && error.contains("`quota`"), "{error}");
        let absent = check(Path::new("/nonexistent/file")).unwrap_err().to_string();
        assert_eq!(absent, "cannot read /nonexistent/file");
    }
}
