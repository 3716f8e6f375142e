//! Immutable tags and quotas: verdicts and the sentences of errors.

use jreg_lifecycle::{CurrentRules, ImmutableRefusal, LifecycleRules, QuotaVerdict};

use crate::fixture::{digest, parse};

const RULES: &str = r#"
[[immutable]]
repositories = ["team/app"]
tags = ["v*"]
expires = true
[[immutable]]
repositories = ["team/**"]
tags = ["v?", "release-*"]
except = ["sha256-*", "release-next"]

[[quota]]
repositories = ["team/**", "shared"]
bytes = "1000"
warn = "80%"
[[quota]]
repositories = ["**"]
bytes = "2KiB"
"#;

fn rules() -> LifecycleRules {
    parse(RULES).unwrap()
}

#[test]
fn a_tag_is_immutable_by_the_first_rule_that_matches_it() {
    let rules = rules();
    let judge = |repository: &str, tag: &str| {
        let (repository, tag) = (repository.parse().unwrap(), tag.parse().unwrap());
        let rule = rules.immutable().judge(&repository, &tag).map(|rule| rule.number);
        let retention = rules.immutable().judge_retention(&repository, &tag);
        (rule, retention.map(|rule| rule.number))
    };
    for (repository, tag, wanted) in [
        ("team/app", "v1", (Some(1), Some(2))),
        ("team/app", "v1.2.3", (Some(1), None)),
        ("team/other", "v1", (Some(2), Some(2))),
        ("team/other", "v1.2.3", (None, None)),
        ("team/other", "V1", (None, None)),
        ("team/app", "release-1", (Some(2), Some(2))),
        ("team/app", "release-next", (None, None)),
        ("team/app", "latest", (None, None)),
        ("other/app", "v1", (None, None)),
    ] {
        assert_eq!(judge(repository, tag), wanted, "{repository}:{tag}");
    }
    let repository = |name: &str| rules.immutable().judge_repository(&name.parse().unwrap());
    assert_eq!(repository("team/x").map(|rule| rule.number), Some(2));
    assert_eq!(repository("x"), None);
    assert!(!rules.immutable().is_empty() && LifecycleRules::default().immutable().is_empty());
}

#[test]
fn a_refusal_names_the_rule_the_tag_and_the_present_digest() {
    let rules = rules();
    let (repository, tag) = ("team/x".parse().unwrap(), "v1".parse().unwrap());
    let rule = || rules.immutable().judge(&repository, &tag).unwrap();
    let (present, tag) = (digest("image"), tag.clone());
    let named = "immutable rule 2: v?, release-* in team/**";
    let moved =
        ImmutableRefusal::Move { rule: rule(), tag: tag.clone(), present: Some(present.clone()) };
    assert_eq!(
        moved.to_string(),
        format!("tag v1 is immutable ({named}) and points to {present}: push under another tag")
    );
    let deleted = ImmutableRefusal::DeleteTag {
        rule: rule(),
        tag: tag.clone(),
        present: Some(present.clone()),
    };
    assert_eq!(
        deleted.to_string(),
        format!("tag v1 is immutable ({named}) and points to {present}: it cannot be deleted")
    );
    let manifest = digest("child");
    let needed = ImmutableRefusal::DeleteManifest {
        rule: rule(),
        tag,
        present: present.clone(),
        manifest: manifest.clone(),
    };
    assert_eq!(
        needed.to_string(),
        format!(
            "manifest {manifest} cannot be deleted: tag v1 is immutable ({named}), points to \
             {present} and needs it"
        )
    );
    let blob = ImmutableRefusal::DeleteBlob { rule: rule(), repository: repository.clone() };
    assert!(blob.to_string().starts_with("blobs of team/x cannot be deleted"), "{blob}");
    for (refusal, text) in [
        (moved, format!("tag v1 is immutable ({named}): push under another tag")),
        (deleted, format!("tag v1 is immutable ({named}): it cannot be deleted")),
        (
            needed,
            format!("manifest {manifest} cannot be deleted: an immutable tag needs it ({named})"),
        ),
        (blob.clone(), blob.to_string()),
    ] {
        assert_eq!(refusal.without_targets().to_string(), text);
    }
}

#[test]
fn a_rule_of_many_patterns_has_a_short_name() {
    let patterns: Vec<_> = (0..100).map(|number| format!("'v{number}'")).collect();
    let patterns = patterns.join(",");
    let text = format!("[[immutable]]\nrepositories = ['**']\ntags = [{patterns}]");
    let rules = parse(&text).unwrap();
    let rule = rules.immutable().judge(&"a".parse().unwrap(), &"v7".parse().unwrap()).unwrap();
    assert_eq!(rule.to_string(), "immutable rule 1: v0, v1, v2, v3, ... in **");
}

#[test]
fn all_pools_of_a_repository_must_hold_and_the_limit_may_be_used() {
    let rules = rules();
    let judge = |repository: &str, used: [u64; 2], adding: u64| {
        rules.quotas().judge(&repository.parse().unwrap(), adding, |pool| used[pool - 1])
    };
    assert_eq!(judge("team/a", [0, 0], 799), QuotaVerdict::Within);
    assert!(matches!(judge("team/a", [0, 0], 800), QuotaVerdict::Warn(usage) if usage.number == 1));
    assert!(matches!(judge("team/a", [900, 0], 100), QuotaVerdict::Warn(_)));
    let QuotaVerdict::Exceeded(usage) = judge("shared", [900, 0], 101) else { panic!("exceeded") };
    assert_eq!(
        usage.to_string(),
        "quota 1 (team/**, shared): 900 bytes of 1000 are used, and 101 more are requested"
    );
    // The second pool is exceeded although the first only warns.
    let verdict = judge("team/a", [900, 2048], 1);
    assert!(matches!(verdict, QuotaVerdict::Exceeded(usage) if usage.number == 2));
    // A repository that only the second pool matches.
    assert_eq!(judge("other", [5000, 0], 1), QuotaVerdict::Within);
    assert!(matches!(judge("other", [0, u64::MAX], 1), QuotaVerdict::Exceeded(_)));
    let pools: Vec<_> = rules.quotas().pools(&"team/a".parse().unwrap()).map(|(n, _)| n).collect();
    assert_eq!(pools, [1, 2]);
    assert_eq!(rules.quotas().all()[1].warn_percent, 80);
}

#[test]
fn rules_in_use_are_replaced_as_a_whole() {
    let current = CurrentRules::default();
    let (reader, before) = (current.clone(), current.get());
    current.replace(rules().into());
    assert!(before.immutable().is_empty());
    assert_eq!(reader.get().hash(), rules().hash());
}
