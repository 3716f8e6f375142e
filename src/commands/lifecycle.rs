//! `jreg lifecycle`: verifies a lifecycle file, and says what it means.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use jreg_lifecycle::LifecycleRules;

use super::user::{UserFileError, read, wrong};
use super::{fail, print};
use crate::cli::LifecycleAction;

pub fn run(action: &LifecycleAction) -> ExitCode {
    let LifecycleAction::Check { file } = action;
    match check(file) {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => fail(3, &error),
    }
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
        write("[[quota]]\nrepositories = ['team/**']\nbytes = '1TiB'");
        let text = check(&path).unwrap();
        assert!(
            text.starts_with("quota 1: Repositories that match team/** may hold 1TiB"),
            "{text}"
        );
        assert!(text.contains("\nno retention entry: every tag is kept\nhash: sha256:"), "{text}");
        let entry = "[[retention]]\nrepositories = ['**']\n[[retention.keep]]\ntags = ['*']\n";
        write(&entry.repeat(2));
        let text = check(&path).unwrap();
        assert!(text.contains("\nwarning: retention entry 2 is never used"), "{text}");
        write("[[quotas]]");
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("lifecycle.toml: ") && error.contains("`quota`"), "{error}");
        let absent = check(Path::new("/nonexistent/file")).unwrap_err().to_string();
        assert_eq!(absent, "cannot read /nonexistent/file");
    }
}
