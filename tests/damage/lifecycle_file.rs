//! The lifecycle file is damaged: it is cut off at each of its bytes, overwritten or removed. The rules in use stay, a
//! preview of retention removes no other tag than before, and no process starts with such a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jreg::lifecycle::LifecycleFile;
use jreg_registry::{ManifestPush, NoObserver, Registry, RetentionOptions};
use jreg_telemetry::metrics::Metrics;
use tempfile::TempDir;

use crate::damage::block_on;
use crate::damage::object::Damage;
use crate::damage::scenario::{Backend, DamageScenario, HOUR};

const RULES: &str = r#"
[[retention]]
repositories = ["rules/**"]
[[retention.keep]]
most_recent = 20
tags = ["v*"]
[[retention.keep]]
tags = ["pr-*"]
pushed_within = "14d"
[[retention.keep]]
tags = ["stable"]

[[immutable]]
repositories = ["rules/**"]
tags = ["stable"]

[[quota]]
repositories = ["rules/**"]
bytes = 1000000

[end]
"#;

/// A file that is in use.
struct RulesInUse {
    folder: TempDir,
    file: LifecycleFile,
    writes: u32,
}

impl RulesInUse {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("lifecycle.toml");
        std::fs::write(&path, RULES).unwrap();
        let file = LifecycleFile::open(path, Arc::new(Metrics::new())).unwrap();
        Self { folder, file, writes: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lifecycle.toml")
    }

    /// Replaces the file, and reloads it. Whether it is in use now.
    fn write(&mut self, bytes: Option<&[u8]>) -> bool {
        let path = self.path();
        match bytes {
            Some(bytes) => {
                // A file of its own each time, so that each is seen as changed.
                self.writes += 1;
                let other = self.folder.path().join(self.writes.to_string());
                std::fs::write(&other, bytes).unwrap();
                std::fs::rename(&other, &path).unwrap();
            }
            None => std::fs::remove_file(&path).unwrap(),
        }
        // A change is loaded when it is found twice.
        assert!(self.file.reload().is_none());
        self.file.reload().unwrap().is_done
    }

    fn hash(&self) -> u64 {
        self.file.rules().get().hash_number()
    }
}

fn starts(path: &Path) -> bool {
    LifecycleFile::open(path, Arc::new(Metrics::new())).is_ok()
}

/// The tags of a repository, all of them older than the delay of retention.
async fn fill(scenario: &DamageScenario) {
    let repository = scenario.registry.repository("rules/app".parse().unwrap());
    let kind = "application/vnd.oci.image.index.v1+json";
    for (n, tag) in ["v1", "v2", "v3", "pr-1", "stable", "other"].into_iter().enumerate() {
        let bytes = format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[],"annotations":{{"n":"{n}"}}}}"#
        );
        let push = ManifestPush {
            reference: tag.parse().unwrap(),
            tags: Vec::new(),
            media_type: Some(kind.parse().unwrap()),
            bytes: bytes.into(),
            condition: None,
        };
        repository.manifest_put(push).await.unwrap();
    }
    scenario.advance(48 * HOUR);
}

/// How many tags retention would remove.
async fn removals(registry: &Registry, file: &LifecycleFile) -> u64 {
    let registry = registry.with_rules(file.rules().clone());
    let options = RetentionOptions { delay: Duration::ZERO, ..RetentionOptions::default() };
    registry.preview_retention(&options, false, &NoObserver).await.unwrap().removed
}

#[test]
fn a_file_that_is_cut_off_anywhere_changes_no_rule() {
    block_on(async {
        let scenario = DamageScenario::new(Backend::Folder).await;
        fill(&scenario).await;
        let mut rules = RulesInUse::new();
        let hash = rules.hash();
        assert_eq!(removals(&scenario.registry, &rules.file).await, 1, "other");
        // Without the last line break it is whole.
        for end in 0..RULES.len() - 1 {
            let cut = &RULES.as_bytes()[..end];
            assert!(!rules.write(Some(cut)), "cut at {end}");
            assert_eq!(rules.hash(), hash, "cut at {end}");
            assert!(!starts(&rules.path()), "cut at {end}");
        }
        assert_eq!(removals(&scenario.registry, &rules.file).await, 1);
        assert!(rules.write(Some(RULES.trim_end().as_bytes())));
        assert_eq!(removals(&scenario.registry, &rules.file).await, 1);
        // What an operator removes is removed.
        let fewer =
            RULES.replace("[[retention.keep]]\ntags = [\"pr-*\"]\npushed_within = \"14d\"\n", "");
        assert!(rules.write(Some(fewer.as_bytes())));
        assert_eq!(removals(&scenario.registry, &rules.file).await, 2);
    });
}

#[test]
fn a_damaged_file_changes_no_rule() {
    let mut rules = RulesInUse::new();
    let hash = rules.hash();
    let mut damaged: Vec<_> =
        Damage::ALL.iter().map(|damage| damage.of(RULES.as_bytes())).collect();
    // A page that was not written, another program's file, a byte that is no text.
    let mut hole = RULES.as_bytes().to_vec();
    hole[100..200].fill(0);
    damaged.extend([
        Some(hole),
        Some(br#"{"unexpected":[1,{"of":"another program"}]}"#.to_vec()),
        Some(RULES.replace("stable", "st\u{e4}ble").into_bytes()),
        Some([RULES.as_bytes(), &[0xff]].concat()),
        Some([RULES, RULES].concat().into_bytes()),
    ]);
    for damaged in damaged {
        let context = damaged.as_deref().map(String::from_utf8_lossy).map(String::from);
        assert!(!rules.write(damaged.as_deref()), "{context:?}");
        assert_eq!(rules.hash(), hash, "{context:?}");
        assert!(!starts(&rules.path()), "{context:?}");
        assert!(rules.write(Some(RULES.as_bytes())), "after {context:?}");
    }
}
