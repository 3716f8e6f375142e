//! A lifecycle file is read or refused, and what was read always describes itself, judges and explains.
#![no_main]

use std::time::{Duration, SystemTime};

use jreg_lifecycle::{LifecycleRules, ManifestState, RepositoryState, RetentionRun, TagState, TagStatus};
use jreg_oci::{Algorithm, Digest};
use libfuzzer_sys::fuzz_target;

const DAY: u64 = 24 * 3600;

fuzz_target!(|text: &str| {
    let rules = match LifecycleRules::parse(text) {
        Ok(rules) => rules,
        Err(error) => return drop(error.to_string()),
    };
    for (name, sentence) in rules.sentences() {
        assert!(!name.is_empty() && sentence.ends_with('.'), "{sentence}");
    }
    rules.remarks();
    let image = |number: u8| Digest::of(Algorithm::Sha256, &[number]);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
    let signature = format!("sha256-{}.sig", image(0).hex());
    let tags = ["latest", "v1", "v1.2.3", "pr-1", &signature];
    let tags = (0_u8..).zip(tags).map(|(number, tag)| {
        let pushed = at - Duration::from_secs(u64::from(number) * 10 * DAY);
        let pulled = (number % 2 == 0).then_some(at);
        let digest = image(number);
        TagState { tag: tag.parse().unwrap(), digest, created: pushed, pushed: Some(pushed), pulled }
    });
    let manifests = vec![ManifestState {
        digest: image(0),
        children: vec![image(2)],
        subject: Some(image(1)),
    }];
    let name = "team/app".parse().unwrap();
    let state = RepositoryState { name, tags: tags.collect(), manifests };
    for pulls_since in [None, Some(at), Some(SystemTime::UNIX_EPOCH)] {
        let delay = Duration::from_secs(DAY);
        let run = RetentionRun { at, delay, pulls_since, pulls_slack: delay, force: false };
        let judgement = rules.judge(&state, &run);
        for verdict in &judgement.verdicts {
            let is_removed = verdict.decision.status() == TagStatus::Remove;
            assert!(!is_removed || rules.immutable().judge_retention(&state.name, &verdict.tag).is_none());
            rules.explain(judgement.entry, verdict);
        }
    }
    for pool in rules.quotas().all() {
        pool.judge(1, pool.bytes, 1);
    }
});
