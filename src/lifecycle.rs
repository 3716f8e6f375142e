//! [`LifecycleFile`]: the lifecycle file, and the rules in use.

use std::path::PathBuf;
use std::sync::Arc;

use jreg_lifecycle::{CurrentRules, LIFECYCLE_BYTES_MAX, LifecycleRules};
use jreg_reload::{FileError, FileReload, ReloadedFiles};
use jreg_telemetry::metrics::Metrics;

/// The lifecycle file, reloaded when it changes. An invalid file never replaces a valid one.
#[derive(Debug)]
pub struct LifecycleFile {
    files: ReloadedFiles<LifecycleRules>,
    rules: CurrentRules,
    metrics: Arc<Metrics>,
}

impl LifecycleFile {
    /// Loads the file. Blocks on disk I/O.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn open(path: impl Into<PathBuf>, metrics: Arc<Metrics>) -> Result<Self, FileError> {
        let parse = |text: &str| LifecycleRules::parse(text).map_err(|error| error.to_string());
        let files = ReloadedFiles::open(path, LIFECYCLE_BYTES_MAX, parse)?;
        let file = Self { files, rules: CurrentRules::default(), metrics };
        file.take();
        Ok(file)
    }

    /// The rules in use, which follow the file.
    pub fn rules(&self) -> &CurrentRules {
        &self.rules
    }

    /// Reloads the file if it has changed. Blocks on disk I/O.
    pub fn reload(&self) -> Option<FileReload> {
        let reload = FileReload::new("lifecycle", self.files.reload());
        if let Some(FileReload { is_done, .. }) = reload {
            if is_done {
                self.take();
            }
            self.metrics.count_lifecycle_reload(if is_done { "ok" } else { "failed" });
        }
        reload
    }

    fn take(&self) {
        let rules = self.files.get();
        for remark in rules.remarks() {
            tracing::warn!(remark, "a lifecycle rule has no effect");
        }
        tracing::info!(hash = %rules.hash(), "lifecycle rules in use");
        self.metrics.set_lifecycle_rules(rules.hash_number());
        self.rules.replace(rules);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RULES: &str = "[[immutable]]\nrepositories = ['**']\ntags = ['v*']\n";
    const END: &str = "[end]\n";

    /// A change is loaded when it is found twice.
    fn reload(file: &LifecycleFile) {
        assert!(file.reload().is_none());
        file.reload();
    }

    #[test]
    fn a_valid_file_replaces_the_rules_and_an_invalid_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifecycle.toml");
        std::fs::write(&path, format!("{RULES}{END}")).unwrap();
        let file = LifecycleFile::open(&path, Arc::new(Metrics::new())).unwrap();
        let rules = file.rules().clone();
        let hash = || rules.get().hash_number();
        let first = hash();
        assert_eq!(rules.get().immutable().all().len(), 1);
        std::fs::write(&path, format!("{RULES}expire = true\n{END}")).unwrap();
        reload(&file);
        assert_eq!(hash(), first);
        std::fs::write(&path, format!("{RULES}expires = true\n# longer\n{END}")).unwrap();
        reload(&file);
        assert_ne!(hash(), first);
        assert!(rules.get().immutable().all().iter().all(|rule| rule.expires));
        std::fs::remove_file(&path).unwrap();
        let second = hash();
        reload(&file);
        assert_eq!(hash(), second);
    }

    #[test]
    fn a_file_that_is_wrong_at_the_start_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifecycle.toml");
        std::fs::write(&path, "[[retention]]\nrepositories = ['**']\n[end]").unwrap();
        let error = LifecycleFile::open(&path, Arc::new(Metrics::new())).unwrap_err().to_string();
        assert!(error.contains("lifecycle.toml: retention entry 1: it has no"), "{error}");
    }
}
