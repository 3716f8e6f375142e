//! The semantics of retention, one rule a test.

use std::time::Duration;

use jreg_lifecycle::{
    LifecycleRules, ProtectionReason, RetentionRun, ShareExceeded, TagDecision, TagRelation,
    TagStatus, UnevaluatedReason,
};

use crate::fixture::{DAY, HOUR, Repository, digest, now, of, parse, run};

const SECOND: Duration = Duration::from_secs(1);

fn keep(keep: &str) -> String {
    format!("[[retention]]\nrepositories = ['**']\n[[retention.keep]]\n{keep}\n")
}

#[test]
fn without_an_entry_every_tag_is_kept() {
    let repository = Repository::new("app").tag("old", "a", 3650 * DAY);
    for rules in ["", "[[retention]]\nrepositories = ['team/**']\n[[retention.keep]]\ntags = ['x']"]
    {
        let judgement = repository.judge(rules);
        assert_eq!(judgement.entry, None);
        assert_eq!(of(&judgement, "old").decision, TagDecision::NoEntry);
        assert_eq!(judgement.removals().count(), 0);
    }
}

#[test]
fn the_first_entry_that_matches_decides_alone() {
    let rules = "[[retention]]\nrepositories = ['team/**']\n[[retention.keep]]\ntags = ['v*']\n\
                 [[retention]]\nrepositories = ['**']\n[[retention.keep]]\ntags = ['latest']";
    let tags = |name: &str| Repository::new(name).tag("v1", "a", DAY).tag("latest", "a", DAY);
    assert_eq!(tags("team/app").split(rules).0, ["v1"]);
    assert_eq!(tags("app").split(rules).0, ["latest"]);
    assert_eq!(tags("app").judge(rules).entry, Some(2));
}

#[test]
fn one_keep_is_enough_and_its_conditions_hold_together() {
    let repository = Repository::new("app")
        .tag("v1", "a", 40 * DAY)
        .tag("pr-1", "b", 3 * DAY)
        .tag("pr-2", "c", 15 * DAY)
        .tag("x", "d", 3 * DAY);
    let rules = keep("tags = ['v*']\n[[retention.keep]]\ntags = ['pr-*']\npushed_within = '14d'");
    assert_eq!(
        repository.split(&rules),
        (vec!["v1".into(), "pr-1".into()], vec!["pr-2".into(), "x".into()])
    );
    let judgement = repository.judge(&rules);
    assert_eq!(of(&judgement, "v1").decision, TagDecision::Keep { keep: 1 });
    assert_eq!(of(&judgement, "pr-1").decision, TagDecision::Keep { keep: 2 });
    assert_eq!(of(&judgement, "x").decision.status(), TagStatus::Remove);
}

#[test]
fn the_boundary_keeps() {
    for (age, kept) in [(14 * DAY, true), (14 * DAY + SECOND, false)] {
        let pushed = Repository::new("app").tag("a", "a", age);
        assert_eq!(pushed.split(&keep("pushed_within = '14d'")).0.len(), usize::from(kept));
        let pulled = Repository::new("app").tag("a", "a", 90 * DAY).pulled(age);
        assert_eq!(pulled.split(&keep("pulled_within = '14d'")).0.len(), usize::from(kept));
    }
}

#[test]
fn a_time_after_t0_is_of_age_zero() {
    let mut repository = Repository::new("app").tag("a", "a", DAY);
    repository.0.tags[0].pushed = Some(now() + 10 * DAY);
    assert_eq!(repository.split(&keep("pushed_within = '1s'")).1.len(), 0);
    // It changed during the run, and stays whatever the rules and the delay.
    assert_eq!(repository.split(&keep("tags = ['none']")).1.len(), 0);
}

#[test]
fn a_tag_counts_as_pulled_when_it_is_pushed() {
    let rules = keep("pulled_within = '7d'");
    let repository = Repository::new("app")
        .tag("never", "a", 6 * DAY)
        .tag("moved-since", "b", 6 * DAY)
        .pulled(20 * DAY)
        .tag("old", "c", 8 * DAY)
        .tag("used", "d", 80 * DAY)
        .pulled(HOUR);
    assert_eq!(repository.split(&rules).1, ["old"]);
}

#[test]
fn the_most_recent_are_counted_by_push_then_name_among_what_the_patterns_match() {
    let repository = Repository::new("app")
        .tag("v2", "a", 2 * DAY)
        .tag("v3", "b", 2 * DAY)
        .tag("v1", "c", 2 * DAY)
        .tag("v9", "d", 3 * DAY)
        .tag("pr-1", "e", DAY)
        .tag("v0-rc", "f", DAY);
    let rules = keep("tags = ['v*']\nexcept = ['*-rc']\nmost_recent = 2");
    assert_eq!(repository.split(&rules).0, ["v2", "v1"]);
    let judgement = repository.judge(&rules);
    let rank = |tag: &str| of(&judgement, tag).values.rank;
    assert_eq!(["v1", "v2", "v3", "v9"].map(rank), [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(["pr-1", "v0-rc"].map(rank), [None, None]);
}

#[test]
fn the_most_recent_are_counted_before_the_other_conditions() {
    // The two most recent are not pulled; the third is, but is not among them.
    let repository = Repository::new("app")
        .tag("a", "a", 20 * DAY)
        .tag("b", "b", 21 * DAY)
        .tag("c", "c", 22 * DAY)
        .pulled(HOUR);
    assert_eq!(repository.split(&keep("most_recent = 2\npulled_within = '1d'")).0, [""; 0]);
    assert_eq!(repository.split(&keep("most_recent = 3\npulled_within = '1d'")).0, ["c"]);
}

#[test]
fn immutable_tags_stay_unless_they_expire() {
    let repository = Repository::new("app").tag("v1", "a", 90 * DAY).tag("x", "b", 90 * DAY);
    let immutable = |rest: &str| {
        keep("tags = ['none']") + "[[immutable]]\nrepositories = ['**']\ntags = ['v*']\n" + rest
    };
    assert_eq!(repository.split(&immutable("")).1, ["x"]);
    assert_eq!(repository.split(&immutable("except = ['v1']")).1, ["v1", "x"]);
    assert_eq!(repository.split(&immutable("expires = true")).1, ["v1", "x"]);
    // A rule without `expires` is enough.
    let both = immutable("expires = true\n[[immutable]]\nrepositories = ['**']\ntags = ['*1']");
    let judgement = repository.judge(&both);
    let TagDecision::Protected(ProtectionReason::Immutable(rule)) = &of(&judgement, "v1").decision
    else {
        panic!("immutable");
    };
    assert_eq!(rule.number, 2);
}

#[test]
fn tags_younger_than_the_delay_stay() {
    let delayed = RetentionRun { delay: DAY, ..run() };
    let repository = Repository::new("app")
        .tag("young", "a", DAY - SECOND)
        .tag("due", "b", DAY)
        .tag("repushed", "c", HOUR);
    let judgement = repository.judge_at(&keep("tags = ['none']"), &delayed);
    let until = Some(now() + SECOND);
    let young = TagDecision::Protected(ProtectionReason::Young { until });
    assert_eq!(of(&judgement, "young").decision, young);
    assert_eq!(of(&judgement, "young").decision.status(), TagStatus::Protected);
    let gone: Vec<_> = judgement.removals().map(|verdict| verdict.tag.as_str()).collect();
    assert_eq!(gone, ["due"]);
}

#[test]
fn children_and_referrers_of_what_is_kept_stay_with_it() {
    let repository = Repository::new("app")
        .tag("v1", "index", 90 * DAY)
        .tag("v1-amd64", "amd64", 90 * DAY)
        .tag("sbom", "sbom", 90 * DAY)
        .tag("sbom-signature", "signature", 90 * DAY)
        .tag("alias", "index", 90 * DAY)
        .tag("v0-amd64", "other", 90 * DAY)
        .manifest("index", &["amd64", "arm64"], None)
        .manifest("sbom", &[], Some("arm64"))
        .manifest("signature", &[], Some("sbom"))
        .manifest("gone", &["other"], None);
    let rules = keep("tags = ['v1']");
    assert_eq!(repository.split(&rules).1, ["alias", "v0-amd64"]);
    let judgement = repository.judge(&rules);
    let related = |relation, of: &str| {
        let (of, tag) = (digest(of), "v1".parse().unwrap());
        TagDecision::Protected(ProtectionReason::Related { relation, of, tag })
    };
    assert_eq!(of(&judgement, "v1-amd64").decision, related(TagRelation::Child, "index"));
    assert_eq!(of(&judgement, "sbom").decision, related(TagRelation::Referrer, "arm64"));
    assert_eq!(of(&judgement, "sbom-signature").decision, related(TagRelation::Referrer, "sbom"));
}

#[test]
fn signatures_by_name_stay_and_go_with_their_subject() {
    let signature = |image: &str, suffix: &str| format!("sha256-{}{suffix}", digest(image).hex());
    let (kept, gone) = (signature("image", ".sig"), signature("old", ".sig"));
    // The signature of the attestation of a child.
    let attestation = signature("child", ".att");
    let countersigned = signature("attestation", ".sig");
    let repository = Repository::new("app")
        .tag("v1", "image", 90 * DAY)
        .tag(&kept, "s1", 90 * DAY)
        .tag(&gone, "s2", 90 * DAY)
        .tag(&attestation, "attestation", 90 * DAY)
        .tag(&countersigned, "s3", 90 * DAY)
        .tag("v0", "old", 90 * DAY)
        .manifest("image", &["child"], None);
    let rules = keep("tags = ['v1']");
    assert_eq!(repository.split(&rules).1, [gone.as_str(), "v0"]);
    let judgement = repository.judge(&rules);
    for tag in [&kept, &attestation, &countersigned] {
        let TagDecision::Protected(ProtectionReason::Related { relation, tag: root, .. }) =
            &of(&judgement, tag).decision
        else {
            panic!("{tag} is not related");
        };
        assert_eq!((*relation, root.as_str()), (TagRelation::Signature, "v1"));
    }
}

#[test]
fn what_protected_tags_need_stays_as_well() {
    let delayed = RetentionRun { delay: DAY, ..run() };
    let repository = Repository::new("app")
        .tag("young", "index", HOUR)
        .tag("young-amd64", "amd64", 90 * DAY)
        .manifest("index", &["amd64"], None);
    let judgement = repository.judge_at(&keep("tags = ['none']"), &delayed);
    assert_eq!(judgement.removals().count(), 0);
}

/// A pull takes a while until every run knows it.
#[test]
fn pulled_within_holds_for_the_slack_longer() {
    let rules = keep("pulled_within = '30d'");
    let minute = Duration::from_secs(60);
    let judge = |age, tracked| {
        let repository = Repository::new("app").tag("a", "a", 90 * DAY).pulled(age);
        let run =
            RetentionRun { pulls_since: Some(now() - tracked), pulls_slack: 15 * minute, ..run() };
        repository.judge_at(&rules, &run).verdicts.remove(0)
    };
    let slack = 30 * DAY + 15 * minute;
    assert_eq!(judge(slack, slack).decision, TagDecision::Keep { keep: 1 });
    assert_eq!(judge(slack + minute, slack).decision, TagDecision::Remove);
    let unevaluated = judge(slack + minute, slack - minute).decision;
    assert!(matches!(unevaluated, TagDecision::Unevaluated { .. }), "{unevaluated:?}");
    let expires = judge(slack - minute, 60 * DAY).expires.unwrap();
    assert_eq!(expires.at, now() + minute);
    assert!(expires.unless_pulled);
}

#[test]
fn pulled_within_is_evaluated_only_when_pulls_were_tracked_for_so_long() {
    let rules = keep("tags = ['base-*']\npulled_within = '30d'");
    let repository = Repository::new("app")
        .tag("base-old", "a", 90 * DAY)
        .tag("base-new", "b", DAY)
        .tag("other", "c", 90 * DAY);
    let judge = |pulls_since| repository.judge_at(&rules, &RetentionRun { pulls_since, ..run() });
    let unevaluated = |from| TagDecision::Unevaluated {
        keep: Some(1),
        reason: UnevaluatedReason::PullTimes { from },
    };
    for (tracked, from) in
        [(None, None), (Some(10 * DAY), Some(20 * DAY)), (Some(30 * DAY - SECOND), Some(SECOND))]
    {
        let judgement = judge(tracked.map(|tracked| now() - tracked));
        let from = from.map(|from| now() + from);
        assert_eq!(of(&judgement, "base-old").decision, unevaluated(from), "{tracked:?}");
        // What is known is enough, whatever is unknown.
        assert_eq!(of(&judgement, "base-new").decision, TagDecision::Keep { keep: 1 });
        assert_eq!(of(&judgement, "other").decision, TagDecision::Remove);
        assert_eq!(judgement.unevaluated(), 1);
    }
    let judgement = judge(Some(now() - 30 * DAY));
    assert_eq!(of(&judgement, "base-old").decision, TagDecision::Remove);
    assert_eq!(judgement.unevaluated(), 0);
}

#[test]
fn a_tag_whose_push_is_unknown_stays_and_is_counted_but_takes_no_place() {
    let repository = Repository::new("app")
        .tag("a", "a", DAY)
        .tag("b", "b", 2 * DAY)
        .damaged()
        .tag("c", "c", 3 * DAY);
    let unevaluated = |keep| TagDecision::Unevaluated { keep, reason: UnevaluatedReason::PushTime };
    for (rules, wanted) in [
        (keep("most_recent = 2"), unevaluated(Some(1))),
        (keep("pushed_within = '7d'"), unevaluated(Some(1))),
        (keep("pulled_within = '7d'"), unevaluated(Some(1))),
        (keep("tags = ['a', 'c']"), unevaluated(None)),
        (keep("tags = ['*']"), TagDecision::Keep { keep: 1 }),
    ] {
        let judgement = repository.judge(&rules);
        assert_eq!(of(&judgement, "b").decision, wanted, "{rules}");
        assert_eq!(judgement.removals().count(), 0, "{rules}");
        assert_eq!(
            judgement.unevaluated(),
            usize::from(wanted.clone() == unevaluated(Some(1)) || wanted == unevaluated(None))
        );
    }
}

#[test]
fn more_than_a_fifth_and_more_than_ten_are_not_removed_unless_forced() {
    let repository = |removed: usize, kept: usize| {
        let mut repository = Repository::new("app");
        for number in 0..removed {
            repository = repository.tag(&format!("x{number}"), "x", 9 * DAY);
        }
        for number in 0..kept {
            repository = repository.tag(&format!("v{number}"), "v", 9 * DAY);
        }
        repository
    };
    let rules = keep("tags = ['v*']");
    for (removed, kept, max, goes) in [
        (10, 0, 10, true),
        (11, 0, 10, false),
        (11, 43, 10, false),
        (11, 44, 11, true),
        (20, 80, 20, true),
        (21, 79, 20, false),
    ] {
        let repository = repository(removed, kept);
        let judgement = repository.judge(&rules);
        let exceeded = ShareExceeded { removals: removed, tags: removed + kept, max };
        assert_eq!(judgement.withheld, (!goes).then_some(exceeded), "{removed} of {kept}");
        assert_eq!(judgement.removals().count(), if goes { removed } else { 0 });
        let forced = repository.judge_at(&rules, &RetentionRun { force: true, ..run() });
        assert_eq!(forced.removals().count(), removed);
    }
    let exceeded = repository(21, 79).judge(&rules).withheld.unwrap().to_string();
    assert_eq!(exceeded, "21 of 100 tags would be removed, more than 20: none is, unless forced");
}

#[test]
fn a_kept_tag_knows_when_it_expires() {
    let rules = "[[retention]]\nrepositories = ['none']\n[[retention.keep]]\ntags = ['*']\n\
                 [[retention]]\nrepositories = ['**']\n\
                 [[retention.keep]]\ntags = ['v*']\n\
                 [[retention.keep]]\ntags = ['pr-*']\npushed_within = '14d'\n\
                 [[retention.keep]]\ntags = ['pr-*', 'base']\npulled_within = '20d'\n\
                 [[retention.keep]]\ntags = ['top']\nmost_recent = 1\npushed_within = '14d'\n\
                 [[retention.keep]]\ntags = ['day']\npushed_within = '1h'";
    let delayed = RetentionRun { delay: DAY, ..run() };
    let repository = Repository::new("app")
        .tag("v1", "a", 3 * DAY)
        .tag("pr-1", "b", 3 * DAY)
        .tag("pr-2", "c", 10 * DAY)
        .pulled(DAY)
        .tag("top", "d", 3 * DAY)
        .tag("day", "e", HOUR / 2)
        .tag("other", "f", HOUR)
        .tag("gone", "g", 3 * DAY);
    let judgement = repository.judge_at(rules, &delayed);
    let expires = |tag: &str| of(&judgement, tag).expires.map(|expiry| expiry.to_string());
    assert_eq!(expires("v1"), None);
    // T0 is 2027-01-10; pushed 3 days before it, and 20 days from then.
    let pulled = "expires 2027-01-27 by retention entry 2 unless pulled";
    assert_eq!(expires("pr-1").as_deref(), Some(pulled));
    let pulled = "expires 2027-01-29 by retention entry 2 unless pulled";
    assert_eq!(expires("pr-2").as_deref(), Some(pulled));
    assert_eq!(expires("top").as_deref(), Some("expires 2027-01-21 by retention entry 2"));
    // The delay outlasts the keep.
    let day = of(&judgement, "day").expires.unwrap();
    assert_eq!(day.at, now() - HOUR / 2 + DAY);
    assert_eq!(of(&judgement, "other").expires.unwrap().at, now() - HOUR + DAY);
    assert_eq!(expires("gone"), None);
}

#[test]
fn a_tag_that_belongs_to_another_does_not_expire_by_a_rule() {
    let repository = Repository::new("app")
        .tag("v1", "index", 3 * DAY)
        .tag("v1-amd64", "amd64", 3 * DAY)
        .manifest("index", &["amd64"], None);
    let rules = keep("tags = ['v1']\n[[retention.keep]]\npushed_within = '14d'");
    let judgement = repository.judge(&rules);
    assert_eq!(of(&judgement, "v1-amd64").decision, TagDecision::Keep { keep: 2 });
    assert_eq!(of(&judgement, "v1-amd64").expires, None);
}

#[test]
fn a_verdict_is_explained_with_rule_and_values() {
    let delayed = RetentionRun { delay: DAY, ..run() };
    let rules = "[[retention]]\nrepositories = ['**']\n\
                 [[retention.keep]]\ntags = ['v*']\nmost_recent = 1\n\
                 [[retention.keep]]\ntags = ['pr-*']\npulled_within = '30d'\n\
                 [[immutable]]\nrepositories = ['**']\ntags = ['stable']";
    let repository = Repository::new("app")
        .tag("v2", "a", 3 * DAY)
        .tag("v1", "b", 9 * DAY)
        .tag("pr-1", "c", 50 * DAY)
        .pulled(5 * HOUR)
        .tag("stable", "d", 50 * DAY)
        .tag("new", "e", HOUR)
        .tag("lost", "f", HOUR)
        .damaged()
        .tag("child", "g", 9 * DAY)
        .manifest("a", &["g"], None);
    let judgement = repository.judge_at(rules, &delayed);
    let parsed = parse(rules).unwrap();
    let explained = |tag: &str| parsed.explain(judgement.entry, of(&judgement, tag));
    for (tag, wanted) in [
        (
            "v2",
            "retention entry 1, keep 1: it is the most recently pushed that matches v* (pushed 3 \
             days ago, number 1 by push)"
                .to_owned(),
        ),
        (
            "v1",
            "nothing of retention entry 1 keeps it (pushed 9 days ago, number 2 by push)".into(),
        ),
        (
            "pr-1",
            "retention entry 1, keep 2: it matches pr-* and was pulled within 30 days (pushed 50 \
             days ago, pulled 5 hours ago); expires 2027-02-08 by retention entry 1 unless pulled"
                .into(),
        ),
        ("stable", "immutable (immutable rule 1: stable in **) (pushed 50 days ago)".into()),
        (
            "new",
            "pushed too recently, until 2027-01-10 (pushed 60 minutes ago); expires 2027-01-10 by \
             retention entry 1"
                .into(),
        ),
        ("lost", "when the tag was pushed is not known (push time unknown)".into()),
        (
            "child",
            format!(
                "a manifest of the index {}, which tag v2 keeps (pushed 9 days ago)",
                digest("a")
            ),
        ),
    ] {
        assert_eq!(explained(tag), wanted, "{tag}");
    }
    let none = Repository::new("app").tag("a", "a", DAY).judge("");
    let explained = LifecycleRules::default().explain(none.entry, of(&none, "a"));
    assert_eq!(explained, "no retention entry matches the repository (pushed 24 hours ago)");
    let untracked = RetentionRun { pulls_since: Some(now() - DAY), ..delayed };
    let judgement = Repository::new("app").tag("pr-9", "z", 90 * DAY).judge_at(rules, &untracked);
    assert_eq!(
        parsed.explain(judgement.entry, of(&judgement, "pr-9")),
        "retention entry 1, keep 2 cannot be evaluated: pulls are tracked long enough only from \
         2027-02-08 on (pushed 90 days ago)"
    );
}
